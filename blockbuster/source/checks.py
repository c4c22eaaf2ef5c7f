"""Checks of arguments and metadata that all kinds of image share."""

import math
import operator
from typing import Any

import numpy as np

# boolean, signed, unsigned, floating point, complex
ACCEPTED_KINDS = "biufc"
# As many as NumPy has.
MAX_AXES = 64
# Eight bytes of each still have a number of 64 bits.
MAX_VOXELS = 2**60


def check_pixels(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuse shapes that no image has, and dtypes that are not numbers.

    Parameters
    ----------
    shape : tuple of int
        As read, that is after channel selection.
    dtype : numpy.dtype
        As stored; any byte order.
    name : str
        What the message calls the image.
    """
    if not shape:
        raise ValueError(f"image ({name}) has no axes (shape ()); it must have at least one.")
    check_length(shape, "shape", name)
    if dtype.kind not in ACCEPTED_KINDS:
        raise TypeError(
            f"image ({name}) has dtype {dtype}; accepted are boolean, integer, floating point and complex "
            'dtypes. Convert it first, e.g. image.astype("float32").'
        )


def check_length(lengths: tuple[int, ...], what: str, name: str) -> None:
    """Refuse more axes than NumPy has, or more voxels than 64 bits can count the bytes of.

    Damaged or hostile metadata state any number. `what` names the lengths, e.g. ``"shape"``.
    """
    if len(lengths) > MAX_AXES:
        raise ValueError(f"image ({name}) has {len(lengths)} axes; at most {MAX_AXES} can be read.")
    if math.prod(lengths) > MAX_VOXELS:
        # Python refuses to write numbers of more than 4300 digits.
        shown = ", ".join(str(n) if n < 10**30 else "over 10^30" for n in lengths)
        raise ValueError(
            f"image ({name}) has {what} ({shown}), more voxels than can be counted; its metadata are damaged."
        )


def check_axes(axes: str | None, shape: tuple[int, ...], name: str) -> None:
    """Check that `axes`, if given, have one lower-case letter per stored axis, each once."""
    if axes is None:
        return
    if not isinstance(axes, str):
        raise TypeError(f'axes is {axes!r}; it is a string with one letter per axis, e.g. "zyx".')
    if not all("a" <= letter <= "z" for letter in axes) or len(set(axes)) != len(axes):
        raise ValueError(f'axes is {axes!r}; it takes lower-case letters, each only once, e.g. "tzyx".')
    if len(axes) != len(shape):
        raise ValueError(
            f"axes is {axes!r}, {len(axes)} letters; image ({name}) is stored with {len(shape)} axes, shape "
            f"{shape}: give one letter for each (a channel axis included, even where a channel is selected)."
        )


def check_index(argument: str, value: Any) -> int:
    """Return `value` as an int if it is an index of 0 or more; a boolean is none."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} is {value!r}; it is an integer, 0 or more.")
    index = operator.index(value)
    if index < 0:
        raise ValueError(f"{argument} is {index}; it counts from 0.")
    return index


def native_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return `dtype` in this machine's byte order."""
    return dtype.newbyteorder("=")
