"""Pickles for other processes: functions with the lines of their source, errors of tiles as mere
text.

A traceback from another process shows the lines. An exception that a `TileError` was made from
stays where it was raised: tblib, which comes with distributed, would pickle it too, and it may be
one that cannot be.
"""

from __future__ import annotations

import functools
import io
import linecache
import pickle
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar

from blockbuster.compat import code_reducer
from blockbuster.errors import TileError, error_text


def dump(value: Any, file: Any) -> None:
    """Write the pickle of a value, and with each function that cloudpickle takes apart the lines of
    its file.

    Parameters
    ----------
    value : object
        What to pickle.
    file : object
        Takes bytes by ``write``; `pickle.load` reads them in any process that can import
        blockbuster.

    Notes
    -----
    cloudpickle 3.1.3 drops the name of a function's file, and other processes do not know the cells
    of a notebook: a `TileError` from there would not show the line that failed. A file is written
    once.

    Examples
    --------
    >>> import io, pickle
    >>> file = io.BytesIO()
    >>> dump(lambda tile: tile + 1, file)
    >>> pickle.loads(file.getvalue())(1)
    2
    """
    take_apart = code_reducer()

    def reduce_code(code: types.CodeType) -> tuple[Callable[..., types.CodeType], tuple[Any, ...]]:
        make, arguments = take_apart(code)
        return _restore_code, (make, arguments, code.co_filename, linecache.getlines(code.co_filename))

    class Pickler(_pickler()):  # type: ignore[misc]
        dispatch_table: ClassVar = ChainMap({types.CodeType: reduce_code}, _pickler().dispatch_table)

    Pickler(file).dump(value)


def dumps(value: Any) -> bytes:
    """Pickle what dask sends from process to process.

    Parameters
    ----------
    value : object
        A task, its result, or an exception with its traceback. Of an exception that cannot be
        pickled the message is sent: dask would send the error of pickling, which fails again with
        tblib, and ends the worker.

    Examples
    --------
    >>> import threading
    >>> pickle.loads(dumps((ValueError("no model"), None)))[0]
    ValueError('no model')
    >>> error = ValueError("no model", threading.Lock())
    >>> pickle.loads(dumps((error, None)))[0]  # doctest: +ELLIPSIS
    RuntimeError("ValueError: ('no model', <unlocked _thread.lock object at ...>)")
    """
    file = io.BytesIO()
    try:
        _pickler()(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception:
        if not (isinstance(value, tuple) and isinstance(value[0], BaseException)):
            raise
        said = f"{type(value[0]).__name__}: {error_text(value[0])}"
        return pickle.dumps((RuntimeError(said), None))
    return file.getvalue()


@functools.cache
def _pickler() -> Any:
    """Make the class late: who runs on threads does not wait until cloudpickle is imported."""
    from cloudpickle import CloudPickler

    class Pickler(CloudPickler):
        dispatch_table: ClassVar = ChainMap(
            {TileError: lambda error: (TileError, error.args)}, CloudPickler.dispatch_table
        )

    return Pickler


def _restore_code(
    make: Callable[..., types.CodeType], arguments: tuple[Any, ...], path: str, lines: list[str]
) -> types.CodeType:
    if lines:
        # Without a time of modification linecache does not look for the file.
        linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
    return make(*arguments).replace(co_filename=path)
