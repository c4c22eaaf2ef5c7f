"""Compile a kernel with numba, cached on disk where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

logger = logging.getLogger("blockbuster")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` without the GIL; without a cache where no folder is writable.

    Numba raises at decoration when neither the package's folder nor the user's cache folder
    can be written to; such a kernel is compiled anew in every process.
    """
    # Nothing calls it from C.
    options: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:
        logger.info("numba cannot cache %s, it is compiled at each start: %s", function.__name__, error)
        return njit(**options)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a part of each kernel that calls it."""
    return njit(inline="always")(function)


def in_native_order(array: np.ndarray) -> np.ndarray:
    """Give an array in this machine's byte order, the only one that kernels know; a copy where it is another.

    Examples
    --------
    >>> in_native_order(np.array([1, 2], ">i4")).dtype.isnative
    True
    """
    return array.astype(array.dtype.newbyteorder("="), copy=False)
