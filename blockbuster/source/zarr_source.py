"""Zarr arrays, by path, by URL, or given as `zarr.Array`."""

from __future__ import annotations

import copy
import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from fsspec.implementations.local import LocalFileSystem
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from blockbuster.errors import show_url
from blockbuster.grid import Box, BrickGrid
from blockbuster.source.base import Source
from blockbuster.source.checks import check_length
from blockbuster.source.chunk_files import (
    check_chunk_files,
    find_unreadable_chunk,
    read_chunk_files,
    undecodable,
)
from blockbuster.source.digest import (
    digest_chunk_files,
    digest_content,
    digest_metadata_files,
    digest_text,
    identify_file,
)
from blockbuster.source.kept_chunks import KeptChunks
from blockbuster.source.location import Location, open_node, store_faults_explained

if TYPE_CHECKING:
    import dask.array as da

# Along an axis, where the length of each is listed.
MAX_CHUNKS = 10**7


class ZarrSource(Source):
    """Regions of a zarr array, of format 2 or 3.

    Parameters
    ----------
    array : zarr.Array
        Of any number dtype.
    location : Location, optional
        Where `array` itself lies. A pickle of the source then holds this alone, and opens it again
        at the first read. None: `array` is held, and pickled with all that its store holds.
    path : str, optional
        Local path of the image's root, which is above the array in an OME-Zarr image.
    axes : str, optional
        One letter per axis of `array`; None: unknown.
    channel : tuple of (int, int), optional
        The axis of `array` that is dropped, and the index on it. None: every axis is kept.
    channel_names : tuple of str, optional
        Names of the channels, as far as they are given.

    Raises
    ------
    TypeError
        For a dtype that is not a number.
    ValueError
        If no axis is left.

    Notes
    -----
    Reading costs what ``array[region]`` costs, with zarr's own settings, or less: chunks on the
    local file system that are compressed with blosc, gzip or zstd, or not at all, are read and
    decoded in the calling thread. A big-endian array costs one more copy of the region.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.array(np.arange(24).reshape(2, 3, 4), chunks=(1, 2, 2))
    >>> source = ZarrSource(array, axes="cyx", channel=(0, 1))
    >>> source.axes, source.shape, source.chunks
    ('yx', (3, 4), ((2, 1), (2, 2)))
    >>> source.read((slice(0, 2), slice(0, 2)))
    array([[12, 13],
           [16, 17]])
    """

    kind = "zarr"

    def __init__(
        self,
        array: zarr.Array[Any],
        *,
        location: Location | None = None,
        path: str | None = None,
        axes: str | None = None,
        channel: tuple[int, int] | None = None,
        channel_names: tuple[str, ...] = (),
    ) -> None:
        check_form(array, str(location or show_url(str(array.store_path))))
        self._array: zarr.Array[Any] | None = array
        self._location = location
        self._channel = channel
        self._stored_axes = axes
        self.channel = None if channel is None else channel[1]
        self.channel_names = channel_names
        self._stored = (array.shape, array.dtype)
        self._kept: KeptChunks | None = None
        self.path = path
        where = show_url(str(location or array.store_path))
        shape = self._without_channel(array.shape)
        units = zip(shape, self._without_channel(array.chunks), strict=True)
        super().__init__(
            shape,
            array.dtype,
            axes=None if axes is None else "".join(self._without_channel(tuple(axes))),
            name=where if channel is None else f"{where}, channel {channel[1]}",
            chunks=tuple(regular_lengths(n, unit) for n, unit in units),
        )

    def read(self, box: Box) -> np.ndarray:
        """Return `box` (one slice per axis) as an array of the caller's own."""
        array, selection = self._opened(), self._with_channel(box)
        pixels: Any = (
            None if self._folder is None else read_chunk_files(array, self._folder, selection, self._kept)
        )
        if pixels is None:
            if self._folder is not None:
                check_chunk_files(array, self._folder, selection)
            url = self._location.url if self._location else str(array.store_path)
            try:
                with store_faults_explained(url, f"image {self.name}"):
                    pixels = array[selection]
            except Exception as error:
                file = find_unreadable_chunk(array, self._folder, selection) if self._folder is not None else ""
                if not file:
                    raise
                raise undecodable(file, error) from None
        return np.require(pixels, dtype=self.dtype, requirements=["C", "W"])

    def keeping_shared(self, bricks: BrickGrid) -> Source:
        """Return the image as one that keeps what several bricks read of a chunk, where it can."""
        if bricks.n_bricks < 2:
            return self
        found = copy.copy(self)
        spans: list[list[tuple[int, int]]] = bricks.spans()
        if self._channel is not None:
            axis, index = self._channel
            spans.insert(axis, [(index, index + 1)])
        found._kept = KeptChunks(spans, self._opened().chunks, self.dtype.itemsize)
        return found

    @property
    def in_memory(self) -> bool:
        """Whether the store is a dictionary of this process, which a pickle would take along."""
        if self._location is not None:
            return self._location.url.startswith("memory://")
        return self._array is not None and isinstance(self._array.store, MemoryStore)

    @property
    def sampled(self) -> bool:
        """Whether `identity` misses changed pixels: the store is neither local nor in memory."""
        return self._folder is None and not self.in_memory and not isinstance(self._opened().store, ZipStore)

    def identity(self) -> dict[str, Any]:
        """Return what tells this array and channel from others, and from themselves after a change.

        Returns
        -------
        dict of str to str, int or list of int
            What all kinds have, ``"channel"`` (axis and index; empty: none is selected), and

            - local: ``"path"`` of the array (symbolic links resolved), ``"metadata"`` and
              ``"content"``: digests of the array's metadata files, and of name, size and time of
              change of its chunk files. Other levels do not matter.
            - in this process's memory: ``"metadata"``, ``"content"`` (the pixels).
            - in a zip archive: ``"url"``, ``"metadata"``, ``"size"`` in bytes and ``"mtime_ns"`` of
              the archive.
            - elsewhere: ``"url"``, ``"metadata"``; sampled.

        Notes
        -----
        Local: 5 microseconds per chunk file on a local disk, a round trip each on a network file
        system. In memory: every pixel is read, at about 1.8 GB/s in C order (see
        `blockbuster.source.pixel_digest`).
        """
        form = {**super().identity(), "channel": list(self._channel or ())}
        if self._folder is not None:
            return {**form, **_identify_folder(os.path.realpath(self._folder))}
        array = self._opened()
        metadata = digest_text(json.dumps(array.metadata.to_dict(), sort_keys=True, default=str))
        if self.in_memory:
            edges = [itertools.accumulate(lengths, initial=0) for lengths in self.chunks]
            chunks = itertools.product(*([slice(*pair) for pair in itertools.pairwise(axis)] for axis in edges))
            return {**form, "metadata": metadata, "content": digest_content(map(self.read, chunks))}
        url = show_url(str(self._location or array.store_path))
        return {**form, "metadata": metadata, "url": url, **_identify_zip(array)}

    def open_channels(self) -> list[Source]:
        """Open every channel by itself; none where it is not known which axis they lie along."""
        axes, array = self._stored_axes, self._opened()
        axis = (axes or "").find("c")
        return [
            ZarrSource(array, location=self._location, path=self.path, axes=axes, channel=(axis, index))
            for index in range(array.shape[axis] if axis >= 0 else 0)
        ]

    def to_dask(self, chunks: Any = None) -> da.Array:
        """Return the image as a lazy dask array.

        Parameters
        ----------
        chunks : int, tuple, dict or str, optional
            As in `dask.array.from_array`, for the axes of `shape`. None: one dask chunk per shard,
            or per chunk of an array without shards, so that each is fetched once.

        Returns
        -------
        dask.array.Array
            Of `shape` and `dtype`.
        """
        import dask.array as da
        from dask.base import tokenize

        array = self._opened()
        units = self._without_channel(array.shards or array.chunks)
        chunks = units if chunks is None else chunks
        chunks = da.core.normalize_chunks(chunks, self.shape, dtype=self.dtype, previous_chunks=units)
        if self._channel is not None:
            axis, _ = self._channel
            chunks = (*chunks[:axis], (1,) * array.shape[axis], *chunks[axis:])
        token = tokenize(str(array.store_path), json.dumps(array.metadata.to_dict(), default=str), chunks)
        stored = da.from_array(array, chunks=chunks, name=f"zarr-{token}")
        image: da.Array = stored[self._with_channel((slice(None),) * len(self.shape))].astype(self.dtype)
        return image

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | ({} if self._location is None else {"_array": None})

    def _opened(self) -> zarr.Array[Any]:
        # Not a pickled zarr.Array: where a worker cannot reach its folder, it reads fill values.
        if self._array is None:
            assert self._location is not None
            array = open_node(self._location)
            if not isinstance(array, zarr.Array) or (array.shape, array.dtype) != self._stored:
                raise ValueError(
                    f"image {self.name} was {self._stored[1]} of shape {self._stored[0]} when it was opened, "
                    "and is something else now; leave it alone while it is read."
                )
            self._array = array
        return self._array

    @property
    def _folder(self) -> str | None:
        return None if self._location is None else self._location.local_path

    def _without_channel(self, per_axis: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._channel is None:
            return per_axis
        axis, _ = self._channel
        return (*per_axis[:axis], *per_axis[axis + 1 :])

    def _with_channel(self, region: tuple[slice, ...]) -> tuple[slice | int, ...]:
        if self._channel is None:
            return region
        axis, index = self._channel
        return (*region[:axis], index, *region[axis:])


def locate_array(array: zarr.Array[Any]) -> Location | None:
    """Return where `array` lies if that is a local folder, else None."""
    store = array.store
    if type(store) is LocalStore:
        return Location(Path(store.root).absolute() / array.path)
    # What `dask.array.from_zarr` makes of a path.
    if type(store) is FsspecStore and type(getattr(store.fs, "sync_fs", store.fs)) is LocalFileSystem:
        return Location(Path(store.path) / array.path)
    return None


def check_form(array: zarr.Array[Any], name: str) -> None:
    """Refuse shapes and chunks that no array of voxels has; see `check_length`.

    Parameters
    ----------
    array : zarr.Array
        As its metadata describe it.
    name : str
        What the message calls the image.

    Raises
    ------
    ValueError
        If it has too many voxels in all or in a chunk, or chunks without voxels, or too many along
        an axis.
    """
    check_length(array.shape, "shape", name)
    check_length(array.shards or array.chunks, "chunks of shape", name)
    if 0 in array.chunks:
        raise ValueError(f"image ({name}) has chunks of shape {array.chunks}; they must hold voxels.")
    n_chunks = max((length // n for length, n in zip(array.shape, array.chunks, strict=True)), default=0)
    if n_chunks > MAX_CHUNKS:
        raise ValueError(
            f"image ({name}) has {n_chunks:,} chunks along an axis, shape {array.shape} in chunks of "
            f"{array.chunks}; at most {MAX_CHUNKS:,} can be listed. Store it in larger chunks."
        )


def regular_lengths(length: int, unit: int) -> tuple[int, ...]:
    """Return the lengths of the chunks of `unit` voxels that cover an axis of `length` voxels.

    >>> regular_lengths(10, 4), regular_lengths(3, 4), regular_lengths(0, 4)
    ((4, 4, 2), (3,), (0,))
    """
    full, rest = divmod(length, max(unit, 1))
    return (unit,) * full + ((rest,) if rest or not full else ())


def identify_files(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return what changes with the files of a local array; empty for one that lies elsewhere.

    Examples
    --------
    >>> identify_files(zarr.zeros((2, 3)))
    {}
    """
    location = locate_array(array)
    if location is None:
        return _identify_zip(array)
    return _identify_folder(os.path.realpath(str(location)))


def _identify_zip(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return size and time of change of the archive around an array; empty if there is none."""
    store = array.store
    return identify_file(str(store.path)) if isinstance(store, ZipStore) else {}


def _identify_folder(folder: str) -> dict[str, Any]:
    return {
        "path": folder,
        "metadata": digest_metadata_files(folder),
        "content": digest_chunk_files(folder),
    }
