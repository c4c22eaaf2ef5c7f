"""Results of tasks as plain data: text, numbers, arrays and our own dataclasses, and nothing that can run.

::

    [17,{"tuple":["a",true]},{"array":["<i8",[2,3]]}]      one line of JSON
    ................................................      the bytes of the arrays, one after another

A pickle can call anything as it is read; of this nothing is looked up but dataclasses of ours that are loaded
already, and their fields are set without a call.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from blockbuster.errors import TileError

__all__ = ["decode", "encode"]

PACKAGE = __name__.partition(".")[0]
KINDS = "biuf"


def encode(value: Any) -> bytes:
    """Write a result as plain data.

    Parameters
    ----------
    value : object
        ``None``, a bool, number, text, slice, `TileError` or array of numbers, or a list, tuple, dict or
        dataclass of ours that holds such. NumPy's numbers become Python's.

    Raises
    ------
    TypeError
        For anything else.

    Notes
    -----
    30 microseconds for the result of a brick; of an array the bytes are copied once.

    Examples
    --------
    >>> decode(encode((3, {"counts": np.arange(2)}, slice(1, 4))))
    (3, {'counts': array([0, 1])}, slice(1, 4, None))
    """
    arrays: list[bytes] = []
    head = json.dumps(_to_plain(value, arrays), separators=(",", ":"))
    return b"".join([head.encode(), b"\n", *arrays])


def decode(data: bytes) -> Any:
    """Read a result back.

    Raises
    ------
    ValueError
        If `encode` did not write this.
    """
    head, _, arrays = data.partition(b"\n")
    try:
        return _Reader(arrays).read(json.loads(head))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _to_plain(value: Any, arrays: list[bytes]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _array_to_plain(value, arrays)
    if type(value) is list:
        return [_to_plain(part, arrays) for part in value]
    if type(value) is dict:
        return {"dict": [[_to_plain(part, arrays) for part in pair] for pair in value.items()]}
    if type(value) is tuple:
        return {"tuple": _to_plain(list(value), arrays)}
    if type(value) is slice:
        return {"slice": _to_plain([value.start, value.stop, value.step], arrays)}
    if isinstance(value, TileError):
        return {"tile error": _to_plain(list(value.args), arrays)}
    if dataclasses.is_dataclass(value) and _name(type(value)).startswith(f"{PACKAGE}."):
        fields = [[field.name, getattr(value, field.name)] for field in dataclasses.fields(value)]
        return {_name(type(value)): _to_plain(fields, arrays)}
    raise TypeError(f"the result of a task holds {type(value).__name__}, which is not plain data.")


def _array_to_plain(value: np.ndarray | np.generic, arrays: list[bytes]) -> Any:
    if value.dtype.kind not in KINDS:
        raise TypeError(f"the result of a task holds {value.dtype}, which is no number.")
    if isinstance(value, np.generic):
        return value.item()
    arrays.append(value.tobytes())
    return {"array": [value.dtype.str, list(value.shape)]}


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__name__}"


MAKERS: dict[str, Callable[..., Any]] = {
    "tuple": lambda *parts: parts,
    "slice": slice,
    "tile error": TileError,
}


class _Reader:
    """Values as they come, with the arrays in the order in which they were written."""

    def __init__(self, arrays: bytes) -> None:
        self.arrays = arrays
        self.position = 0

    def read(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self.read(part) for part in plain]
        if not isinstance(plain, dict):
            return plain
        ((kind, stated),) = plain.items()
        if kind == "array":
            return self._read_array(*stated)
        values = self.read(stated)
        if kind == "dict":
            return dict(values)
        return MAKERS[kind](*values) if kind in MAKERS else _make_dataclass(kind, values)

    def _read_array(self, dtype: str, shape: list[int]) -> np.ndarray:
        kind = np.dtype(dtype)
        if kind.kind not in KINDS:
            raise ValueError(f"an array of {kind}")
        array = np.frombuffer(self.arrays, kind, math.prod(shape), self.position)
        self.position += array.nbytes
        # A copy, since nothing can be written to what is read from bytes.
        return array.reshape(shape).copy()


def _make_dataclass(name: str, values: list[tuple[str, Any]]) -> Any:
    """Make an object of a class of ours without calling it; a worker of another version has other fields."""
    module, _, kind = name.partition(":")
    found = getattr(sys.modules.get(module), kind)
    if not (module.startswith(f"{PACKAGE}.") and isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{name} is no dataclass of {PACKAGE}")
    names = [field for field, _ in values]
    if names != [field.name for field in dataclasses.fields(found)]:
        raise ValueError(f"{name} has other fields than {', '.join(map(str, names))}")
    made = object.__new__(found)
    for field, value in values:
        object.__setattr__(made, field, value)
    return made
