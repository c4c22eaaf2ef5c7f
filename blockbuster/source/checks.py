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
    """Refuse what has no axes, and dtypes that are not numbers.

    Parameters
    ----------
    shape : tuple of int
        As read, that is after channel selection.
    dtype : numpy.dtype
        As stored; any byte order.
    name : str
        What the message calls the image.

    Raises
    ------
    ValueError
        If `shape` is empty, or so large that no voxel of it can be addressed.
    TypeError
        If `dtype` is neither boolean nor a number.
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
    """Refuse a shape that nothing can have: damaged or hostile metadata state any number.

    Parameters
    ----------
    lengths : tuple of int
        In voxels.
    what : str
        What they are of: ``"shape"``, ``"chunks of shape"``.
    name : str
        What the message calls the image.

    Raises
    ------
    ValueError
        If there are more axes than NumPy has, or more voxels than 64 bits can count the bytes of.
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
    """Check that `axes` has one lower-case letter per axis of `shape`, each once.

    Parameters
    ----------
    axes : str or None
        As given by the user; None is accepted.
    shape : tuple of int
        As stored, that is before channel selection.
    name : str
        What the message calls the image.

    Raises
    ------
    TypeError
        If `axes` is neither a string nor None.
    ValueError
        If its letters or their number are wrong.
    """
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
    """Return `value` as an int if it is an index of 0 or more.

    Parameters
    ----------
    argument : str
        The name of the argument, for the message.
    value : object
        As given by the user.

    Raises
    ------
    TypeError
        If it is not an integer (a boolean is none).
    ValueError
        If it is negative.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} is {value!r}; it is an integer, 0 or more.")
    index = operator.index(value)
    if index < 0:
        raise ValueError(f"{argument} is {index}; it counts from 0.")
    return index


def native_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return `dtype` in this machine's byte order."""
    return dtype.newbyteorder("=")
