"""Compile a kernel with numba, cached on disk where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

logger = logging.getLogger("blockbuster")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` without the GIL; without a cache where no folder is writable.

    Numba raises at decoration when neither the package's folder nor the user's cache folder
    can be written to; such a kernel is compiled again in every process.
    """
    # Nothing calls it from C.
    options: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:
        logger.info("numba cannot cache %s, it is compiled at each start: %s", function.__name__, error)
        return njit(**options)(function)


def kernel_part(function: Callable[..., Any]) -> Any:
    """Compile `function` for the kernels that call it, without the wrapper that a call from Python
    would take.

    From Python it is called as it is.
    """
    return register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def in_native_order(array: np.ndarray) -> np.ndarray:
    """Return an array in this machine's byte order, the only one that kernels know; a copy where it
    is another.

    Examples
    --------
    >>> in_native_order(np.array([1, 2], ">i4")).dtype.isnative
    True
    """
    return array.astype(array.dtype.newbyteorder("="), copy=False)
