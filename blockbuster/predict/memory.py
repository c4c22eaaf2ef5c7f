"""A device that runs out of memory: how that is known, and how its memory is given back."""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import Any

# PyTorch and CuPy; TensorFlow.
TYPES = frozenset({"OutOfMemoryError", "ResourceExhaustedError"})
# What PyTorch says on the processor and libraries of CUDA say through it, in errors of no type of
# their own.
TEXTS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
SMALLER = "choose smaller tiles, or end other programs on the device"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a model's device had too little memory.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    True
    """
    if any(kind.__name__ in TYPES for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def explained(error: BaseException) -> BaseException:
    """Return what to raise of a single tile: where the device ran out of memory, what to do."""
    if not is_out_of_memory(error):
        return error
    said = str(error).strip().partition("\n")[0]
    return MemoryError(f"the device ran out of memory ({said}); {SMALLER}.")


def give_back_device_memory() -> None:
    """Have PyTorch give back what it holds of a device, once no error holds arrays any more."""
    gc.collect()
    for name in ("cuda", "mps"):
        device: Any = getattr(sys.modules.get("torch"), name, None)
        # A missing device, or one that an error has left unusable, must not hide that error.
        with contextlib.suppress(Exception):
            device.empty_cache()
