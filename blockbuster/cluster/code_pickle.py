"""Pickle functions with the lines of their source, so that a traceback from another process shows them."""

from __future__ import annotations

import linecache
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

__all__ = ["dump"]


class Writable(Protocol):
    """A binary file, or anything that takes what is written to one."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


def dump(value: Any, file: Writable) -> None:
    """Write the pickle of a value, and with each function that cloudpickle takes apart the lines of its file.

    Parameters
    ----------
    value : object
        What to pickle.
    file : binary file
        Where to; `pickle.load` reads it in any process that can import blockbuster.

    Notes
    -----
    cloudpickle 3.1.3 drops the name of a function's file, and other processes do not know the cells of a
    notebook: a `TileError` from there would not show the line that failed. A file is written once.

    Examples
    --------
    >>> import io, pickle
    >>> file = io.BytesIO()
    >>> dump(lambda tile: tile + 1, file)
    >>> pickle.loads(file.getvalue())(1)
    2
    """
    from cloudpickle import CloudPickler

    take_apart = CloudPickler.dispatch_table[types.CodeType]

    def reduce_code(code: types.CodeType) -> tuple[Callable[..., types.CodeType], tuple[Any, ...]]:
        make, arguments = take_apart(code)
        return _restore_code, (make, arguments, code.co_filename, linecache.getlines(code.co_filename))

    class Pickler(CloudPickler):
        dispatch_table: ClassVar = ChainMap({types.CodeType: reduce_code}, CloudPickler.dispatch_table)

    Pickler(file).dump(value)


def _restore_code(
    make: Callable[..., types.CodeType], arguments: tuple[Any, ...], path: str, lines: list[str]
) -> types.CodeType:
    if lines:
        # Without a time of modification linecache does not look for the file.
        linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
    return make(*arguments).replace(co_filename=path)
