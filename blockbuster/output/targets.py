"""Where final labels go: an array in memory, a mapped file, or a zarr array."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd

from blockbuster.compat import chunk_keys, encode_chunks, load_npy
from blockbuster.grid import Box, relative_box
from blockbuster.rundir.durable import checksum_files, full_disk_explained, replaced_file

# Of the chunks in a shard, and the place of one that is not there.
CODEC = Zstd(level=1, checksum=True)
ABSENT = 2**64 - 1


class Target:
    """What writes final labels; one that ends with the run tells nothing of what is stored."""

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box."""
        raise NotImplementedError

    def checksum(self, box: Box) -> str:
        """Checksum of what is stored of a box; empty where nothing is, or none is kept."""
        return ""

    def clear(self, box: Box) -> None:
        """Remove what is stored of a box, so that it is background."""


@dataclass(frozen=True)
class ArrayTarget(Target):
    """An array in the memory of this process.

    Parameters
    ----------
    array : ndarray of int
        All zeros; takes the labels.
    """

    array: np.ndarray

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box."""
        self.array[box] = labels


@dataclass(frozen=True)
class NpyTarget(Target):
    """A ``.npy`` file that any process can map.

    Parameters
    ----------
    path : str
        An existing file.
    """

    path: str

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box."""
        mapped: Any = load_npy(self.path, "r+")
        mapped[box] = labels
        mapped.flush()


@dataclass(frozen=True)
class ZarrTarget(Target):
    """A zarr array on disk.

    Parameters
    ----------
    path : str
        Folder of the array, which has its metadata and is never made: a task that outlives its run
        fails, be the array removed or published by then, and leaves nothing.
    unfinished : str
        Folder on the same file system, where a chunk or shard lies until it is complete.
    """

    path: str
    unfinished: str

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        # In a path given as text zarr would take # and ? for parts of a URL.
        return zarr.open_array(Path(self.path), mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "unfinished": self.unfinished}

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write a box of whole chunks or shards, as files that are complete or absent."""
        with full_disk_explained(self.path, labels.nbytes):
            # One at a time, since all that is encoded at once is held.
            for part in self._shards(box):
                values = labels[relative_box(part, box)]
                # By hand: zarr itself would make again the folders above a chunk.
                if self._array.shards is None:
                    files = [(key, [data]) for key, data in encode_chunks(self._array, part, values).items()]
                else:
                    files = [self._encode_shard(part, values)]
                for key, data in files:
                    n_bytes = sum(map(len, data))
                    with replaced_file(os.path.join(self.path, key), n_bytes, folder=self.unfinished) as file:
                        file.writelines(data)
                        for parent in reversed(PurePosixPath(key).parents[:-1]):
                            with contextlib.suppress(FileExistsError):
                                os.mkdir(os.path.join(self.path, parent))

    def _encode_shard(self, box: Box, labels: np.ndarray) -> tuple[str, list[Any]]:
        """Return the key and bytes of a shard, in half the time of zarr's one event loop."""
        shape = self._array.chunks
        n_chunks = [shard // length for shard, length in zip(self._array.shards or (), shape, strict=True)]
        places, stored, end = np.full((*n_chunks, 2), ABSENT, "<u8"), [], 0
        for index in np.ndindex(*(-(-n // length) for n, length in zip(labels.shape, shape, strict=True))):
            part = labels[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, shape, strict=True))]
            rest = [(0, whole - n) for whole, n in zip(shape, part.shape, strict=True)]
            chunk = np.pad(part, rest) if part.shape != shape else part
            stored.append(CODEC.encode(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))))
            places[index] = end, len(stored[-1])
            end += len(stored[-1])
        table = places.tobytes()
        (key,) = chunk_keys(self._array, box)
        return key, [*stored, table, google_crc32c.value(table).to_bytes(4, "little")]

    def read(self, box: Box) -> np.ndarray:
        """Return what is stored of a box."""
        return np.asarray(self._array[box])

    def clear(self, box: Box) -> None:
        """Remove what is stored of a box."""
        for path in self._files(box):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def checksum(self, box: Box) -> str:
        """CRC-32 over the chunk or shard files of a box; empty if one is missing."""
        return checksum_files(self._files(box))

    def _shards(self, box: Box) -> Iterator[Box]:
        """Cut a box at the borders of shards, or, without shards, leave it whole."""
        if self._array.shards is None:
            return iter((box,))
        pieces = [
            [slice(start, min(start + unit, part.stop)) for start in range(part.start, part.stop, unit)]
            for part, unit in zip(box, self._array.shards, strict=True)
        ]
        return itertools.product(*pieces)

    def _files(self, box: Box) -> Iterator[str]:
        return (os.path.join(self.path, key) for key in chunk_keys(self._array, box))
