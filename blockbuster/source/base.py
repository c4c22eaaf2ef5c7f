"""What every kind of image answers for itself, and what it answers unless it knows better."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np

from blockbuster.grid import Box, BrickGrid, relative_box
from blockbuster.source.checks import check_axes, check_pixels, native_dtype

if TYPE_CHECKING:
    import dask.array as da
    from numpy.typing import DTypeLike

# Of what is pickled to see whether it can be: larger arrays can, and are not copied for nothing.
SMALL_BYTES = 2**20


class Source:
    """An image that can read a region of itself; a new kind is a class that has `read`.

    Parameters
    ----------
    shape : tuple of int
        Voxels per axis, after channel selection.
    dtype : numpy.dtype, or what NumPy makes one of
        As stored; any byte order.
    axes : str, optional
        One letter per axis of `shape`, e.g. ``"tzyx"``; None when unknown.
    name : str
        Short text for messages and logs.
    chunks : tuple of tuple of int, optional
        Per axis the lengths of the image's own chunks. None: one chunk, of which any part is read
        by itself.

    Attributes
    ----------
    shape, axes, name
        As given.
    dtype : numpy.dtype
        What `read` returns, in native byte order.
    chunks : tuple of tuple of int
        Per axis the lengths of the image's own chunks, in voxels; they sum to `shape`.
        Zarr: the inner chunks, not the shards.
    read_unit : tuple of int
        Per axis the length, in voxels, of what is decoded at once: the largest chunk, or 1.
    path : str or None
        Absolute path of the image's root: the folder of the OME-Zarr group, the folder of the
        array, the ``.npy`` file. None when the image is not on the local file system.
    kind : str
        One word for what it is, e.g. ``"zarr"``.
    held_bytes : int
        What it holds in this process's memory.
    in_memory : bool
        Whether the pixels lie in this process's memory, so that another process cannot read them,
        or only by taking them all along. Other processes then read a file.
    sampled : bool
        Whether `identity` does not notice changed pixels (dask, URLs), so that who relies on it has
        to keep a digest of some pixels besides, and compare. False for zarr on the local file
        system (an archive included) or in memory, NumPy arrays and ``.npy`` files.
    through_graph : bool
        Whether a box is computed by tasks of dask (`lazy`), before the task that wants its pixels.
        Otherwise that task reads it.
    max_chunks_per_task : int or None
        How many chunks a task may read.
    channel : int or None
        Which channel was selected of an image that has several.
    channel_names : tuple of str
        Names of the channels, as far as they are given.

    Raises
    ------
    TypeError
        For a dtype that is not a number.
    ValueError
        For a shape without axes, or `axes` that do not fit it.

    Examples
    --------
    >>> class Ramp(Source):
    ...     def read(self, box):
    ...         return np.add.outer(*(np.arange(part.start, part.stop) for part in box))
    >>> Ramp((10**6, 10**6), int, axes="yx").read((slice(5, 7), slice(0, 3)))
    array([[5, 6, 7],
           [6, 7, 8]])
    """

    path: str | None = None
    kind: str = "image"
    held_bytes: int = 0
    through_graph: bool = False
    max_chunks_per_task: int | None = None
    channel: int | None = None
    channel_names: tuple[str, ...] = ()

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        axes: str | None = None,
        name: str = "image",
        chunks: tuple[tuple[int, ...], ...] | None = None,
    ) -> None:
        stored = np.dtype(dtype)
        check_pixels(shape, stored, name)
        check_axes(axes, shape, name)
        self.shape = shape
        self.dtype: np.dtype[Any] = native_dtype(stored)
        self.axes = axes
        self.name = name
        self.chunks = chunks or tuple((length,) for length in shape)
        self.read_unit = tuple(max(1, max(lengths)) for lengths in chunks) if chunks else (1,) * len(shape)

    def __getstate__(self) -> dict[str, Any]:
        # Others compute the edges when they want them: there may be millions.
        return {name: value for name, value in self.__dict__.items() if name != "chunk_edges"}

    @property
    def in_memory(self) -> bool:
        """Whether the pixels lie in this process's memory."""
        return False

    @property
    def sampled(self) -> bool:
        """Whether `identity` does not notice changed pixels."""
        return True

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of `box` (one slice per axis, step 1) as an array of the caller's own.

        The array is C-contiguous, writable, in native byte order, and shares no memory with the
        image. What is not an ``Exception`` is raised only to end the process.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method read(box)")

    @cached_property
    def chunk_edges(self) -> list[np.ndarray]:
        """Per axis where chunks begin, and where the last one ends."""
        return [np.cumsum((0, *lengths)) for lengths in self.chunks]

    def chunk_around(self, axis: int, at: int) -> slice:
        """Return the chunk around a voxel; the voxel alone where nothing is decoded."""
        if self.read_unit[axis] == 1:
            return slice(at, at + 1)
        edges = self.chunk_edges[axis]
        number = int(np.searchsorted(edges, at, side="right"))
        return slice(int(edges[number - 1]), int(edges[number]))

    def block_shape(self, n_voxels: int) -> tuple[int, ...]:
        """Return the shape of boxes of whole chunks, of at most so many voxels unless a chunk has
        more; they are long along the last axes.

        Examples
        --------
        >>> Source((100, 900), "uint8", chunks=((50, 50), (300, 300, 300))).block_shape(100_000)
        (100, 900)
        >>> Source((100, 900), "uint8", chunks=((50, 50), (300, 300, 300))).block_shape(50_000)
        (50, 900)
        """
        block = [min(n, max(1, length)) for n, length in zip(self.read_unit, self.shape, strict=True)]
        for axis in reversed(range(len(block))):
            room = max(1, n_voxels // math.prod(block))
            block[axis] = max(1, min(self.shape[axis], block[axis] * room))
        return tuple(block)

    def keeping_shared(self, bricks: BrickGrid) -> Source:
        """Return the image as one that keeps in memory what several bricks read of a chunk.

        Every brick will be read once, by threads of this process. A kind that does not do so is
        returned as it is.
        """
        return self

    def read_together(self, boxes: Sequence[Box]) -> list[np.ndarray]:
        """Read boxes, so that a chunk in which several of them lie is decoded once.

        Parameters
        ----------
        boxes : sequence of tuple of slice
            In any order; they may overlap.

        Returns
        -------
        list of ndarray
            The pixels of each box, in the same order.

        Notes
        -----
        Boxes that lie in one chunk are read in one go: the least box that holds them all is in
        memory as well as the chunk, which is decoded as a whole anyway.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, box in enumerate(boxes):
            around = [self.chunk_around(axis, part.start) for axis, part in enumerate(box)]
            is_inside = all(part.stop <= chunk.stop for part, chunk in zip(box, around, strict=True))
            key = tuple(chunk.start for chunk in around) if is_inside else (-1, number)
            groups.setdefault(key, []).append(number)
        found: dict[int, np.ndarray] = {}
        for numbers in groups.values():
            ends = zip(*(boxes[number] for number in numbers), strict=True)
            whole = tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in ends)
            pixels = self.read(whole)
            for number in numbers:
                found[number] = pixels[relative_box(boxes[number], whole)].copy() if len(numbers) > 1 else pixels
        return [found[number] for number in range(len(boxes))]

    def identity(self) -> dict[str, Any]:
        """Return what tells this image from another, and from itself after a change.

        Returns
        -------
        dict of str to str, int or list of int
            Ready for JSON, and equal in another process. Always ``"kind"``, ``"shape"`` (voxels,
            after channel selection) and ``"dtype"``. Digests are 32 hexadecimal digits.

        Raises
        ------
        OSError
            If files of a local image are gone or cannot be looked at.

        Notes
        -----
        Computed again at every call, so that it costs what it costs to look: nothing, unless the
        kind says so.
        """
        return {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype.name}

    def lazy(self, box: Box) -> da.Array:
        """Return a box as a dask array of one chunk, where `through_graph` says so."""
        raise NotImplementedError(f"{type(self).__name__} has no graph")

    def n_keys(self, box: Box) -> int:
        """Count the keys that a box has in the graph of the task that wants it."""
        return 0

    def chunk_reads(self, boxes: Iterable[Box]) -> float:
        """Return how often a chunk is computed, on average, when every box is read once."""
        return 1.0

    def open_channels(self) -> list[Source]:
        """Open every channel by itself, also those that were not selected; none where channels
        cannot be told apart.
        """
        return []

    def sent(self, box: Box) -> Any:
        """Return what another process is sent that wants a box."""
        return self


def open_as_others(sent: Any) -> None:
    """Pickle something as a task is pickled, and open it as a worker does.

    Parameters
    ----------
    sent : object
        A source, or the graph that gives the pixels of a region.

    Raises
    ------
    Exception
        Whatever pickling or opening raises.

    Notes
    -----
    Large arrays are left out, so that a graph which holds the image takes no more memory. Only if
    what holds them cannot be opened without their values, as a fitted model may not, is all of it
    copied.

    Examples
    --------
    >>> open_as_others({"a": np.zeros(3)})
    """
    file = io.BytesIO()
    _Pickler(file).dump(sent)
    file.seek(0)
    try:
        _Unpickler(file).load()
    except Exception:
        cloudpickle.loads(cloudpickle.dumps(sent))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def persistent_id(self, value: Any) -> Any:
        if type(value) is not np.ndarray or value.nbytes <= SMALL_BYTES or value.dtype.hasobject:
            return None
        return value.shape, value.dtype.str


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, form: tuple[tuple[int, ...], str]) -> np.ndarray:
        shape, dtype = form
        return np.broadcast_to(np.zeros((), dtype), shape)
