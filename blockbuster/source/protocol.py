"""What every source promises, and the checks that all kinds of image share."""

import math
import operator
from typing import Any, Protocol

import numpy as np

# boolean, signed, unsigned, floating point, complex
ACCEPTED_KINDS = "biufc"
# As many as NumPy has.
MAX_AXES = 64
# Eight bytes of each still have a number of 64 bits.
MAX_VOXELS = 2**60


class Source(Protocol):
    """An image of any kind that can read a region of itself.

    Attributes
    ----------
    shape : tuple of int
        Voxels per axis, after channel selection.
    dtype : numpy.dtype
        What `read` returns, in native byte order.
    axes : str or None
        One letter per axis of `shape`, e.g. ``"tzyx"``; None when unknown.
    chunks : tuple of tuple of int
        Per axis the lengths of the image's own chunks, in voxels; they sum to `shape`.
        Zarr: the inner chunks, not the shards. NumPy: one chunk.
    read_unit : tuple of int
        Per axis the length, in voxels, of what is decoded at once; never more than the image.
        Zarr: the inner chunk. Dask: the largest chunk. NumPy: 1.
    path : str or None
        Absolute path of the image's root: the folder of the OME-Zarr group, the folder of the array,
        the ``.npy`` file. None when the image is not on the local file system.
    name : str
        Short text for messages and logs.
    kind : str
        ``"zarr"``, ``"dask"`` or ``"numpy"``.
    in_memory : bool
        Whether the pixels lie in this process's memory, so that another process cannot read them, or only
        by taking them all along.
    sampled : bool
        Whether `identity` does not notice changed pixels (dask, URLs), so that who relies on it has to keep
        a digest of some pixels besides, and compare. False for zarr on the local file system (an archive
        included) or in memory, NumPy arrays and ``.npy`` files.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str | None
    chunks: tuple[tuple[int, ...], ...]
    read_unit: tuple[int, ...]
    path: str | None
    name: str
    kind: str

    @property
    def in_memory(self) -> bool:
        """Whether the pixels lie in this process's memory."""
        ...

    @property
    def sampled(self) -> bool:
        """Whether `identity` does not notice changed pixels."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what tells this image from another, and from itself after a change.

        Returns
        -------
        dict of str to str, int or list of int
            Ready for JSON, and equal in another process. Always ``"kind"``, ``"shape"`` (voxels, after
            channel selection) and ``"dtype"``. Digests are 32 hexadecimal digits.

            - zarr, local: ``"path"`` of the array (symbolic links resolved), ``"channel"`` (axis and index;
              empty: none is selected), ``"metadata"`` and ``"content"``: digests of the array's metadata
              files, and of name, size and time of change of its chunk files. Other levels do not matter.
            - zarr, in this process's memory: ``"channel"``, ``"metadata"``, ``"content"`` (the pixels).
            - zarr, in a zip archive: ``"url"``, ``"channel"``, ``"metadata"``, ``"size"`` in bytes and
              ``"mtime_ns"`` of the archive.
            - zarr, elsewhere: ``"url"``, ``"channel"``, ``"metadata"``; sampled.
            - NumPy: ``"content"``, the pixels. Memory order and byte order do not matter.
            - ``.npy`` file: ``"path"``, ``"size"`` in bytes, ``"mtime_ns"``.
            - dask: ``"graph"``, the array's name, ``"chunks"``; sampled. ``"content"``, where the graph reads
              zarr arrays on the local file system: a digest of what is said of their files above. The name of
              an array with random keys, e.g. from `dask.array.random`, is another one in every process.

        Raises
        ------
        OSError
            If files of a local image are gone or cannot be looked at.

        Notes
        -----
        Computed anew at every call. Local zarr: 5 microseconds per chunk file on a local disk, a round trip
        each on a network file system. NumPy and zarr in memory: every pixel is read, at about 1.8 GB/s in
        C order (see `blockbuster.source.pixel_digest`). The rest costs nothing to speak of.
        """
        ...

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        """Return the voxels of `region` (one slice per axis, step 1) as an array of the caller's own.

        The array is C-contiguous, writable, in native byte order, and shares no memory with the image. What is
        not an ``Exception`` is raised only to end the process.
        """
        ...


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
