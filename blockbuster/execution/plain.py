"""Results of tasks as plain data: text, numbers, arrays and our own dataclasses, and nothing that
can run.

::

    [17,{"tuple":["a",true]},{"array":["<i8",[2,3]]}]      one line of JSON
    ................................................      the bytes of the arrays, one after another

A pickle can call anything as it is read; of this nothing is looked up but dataclasses of ours that
are loaded already, and their fields are set without a call.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from blockbuster.errors import TileError

PACKAGE = __name__.partition(".")[0]
KINDS = "biuf"
DTYPE = re.compile(f"[<>|][{KINDS}]\\d{{1,2}}")


def encode(value: Any) -> bytes:
    """Write a result as plain data.

    Parameters
    ----------
    value : object
        ``None``, a bool, number, text, slice, `TileError` or array of numbers, or a list, tuple,
        dict or dataclass of ours that holds such. NumPy's numbers become Python's.

    Raises
    ------
    TypeError
        For anything else.

    Notes
    -----
    30 microseconds for the result of a brick; the bytes of an array are copied once each way.

    Examples
    --------
    >>> decode(encode((3, {"counts": np.arange(2)}, slice(1, 4))))
    (3, {'counts': array([0, 1])}, slice(1, 4, None))
    """
    arrays: list[memoryview] = []
    head = json.dumps(_to_plain(value, arrays), separators=(",", ":"))
    return b"".join([head.encode(), b"\n", *arrays])


def decode(data: bytes) -> Any:
    """Read a result back.

    Raises
    ------
    ValueError
        If `encode` did not write this.
    """
    end = data.find(b"\n")
    try:
        return _Reader(memoryview(data)[end + 1 :]).read(json.loads(data[:end]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _to_plain(value: Any, arrays: list[memoryview]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in KINDS:
            raise TypeError(f"the result of a task holds {value.dtype}, which is no number.")
        if isinstance(value, np.generic):
            return value.item()
        arrays.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return {"array": [value.dtype.str, list(value.shape)]}
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


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__name__}"


MAKERS: dict[str, Callable[..., Any]] = {
    "tuple": lambda *parts: parts,
    "slice": slice,
    "tile error": TileError,
}


class _Reader:
    """Values as they come, with the arrays in the order in which they were written."""

    def __init__(self, arrays: memoryview) -> None:
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
        if not DTYPE.fullmatch(dtype) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"an array of {dtype!r} and shape {shape}")
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        found = self.arrays[self.position : self.position + n_bytes]
        self.position += n_bytes
        # A copy, since nothing can be written to what is read from bytes.
        return np.ndarray(shape, dtype, found).copy()


def _make_dataclass(name: str, values: list[tuple[str, Any]]) -> Any:
    """Make an object of a class of ours without calling it; a worker of another version has other
    fields.
    """
    module, _, kind = name.partition(":")
    # Modules of others may make what they are asked for.
    found = getattr(sys.modules.get(module), kind) if module.startswith(f"{PACKAGE}.") else None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{name} is no dataclass of {PACKAGE}")
    names = [field for field, _ in values]
    if names != [field.name for field in dataclasses.fields(found)]:
        raise ValueError(f"{name} has other fields than {', '.join(map(str, names))}")
    made = object.__new__(found)
    for field, value in values:
        object.__setattr__(made, field, value)
    return made
