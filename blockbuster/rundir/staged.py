"""Staged labels: a slot of one zarr array and one sidecar per brick, both with checksums."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from blockbuster.chunks import chunk_keys
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.npy import load_npz_array, npz_bytes
from blockbuster.rundir.chunk_writing import write_chunks
from blockbuster.rundir.durable import METADATA_BYTES, checksum_files, full_disk_explained, write_atomically
from blockbuster.rundir.folder import has_finished_work
from blockbuster.sealed import seal, unseal

__all__ = ["Sidecar", "StagedLabels", "label_dtype", "read_layout"]

LAYOUT = "layout.json"
CHUNK_VOXELS = 2**22
# On a network file system a file that another machine wrote can be invisible for a while.
PATIENCE_SECONDS = 60.0
REPAIR = "run again with resume=True, which repeats the task that wrote it."
ANEW = "damaged or missing, without which nothing of the stage can be read; pass overwrite=True to start anew."
SMALL, LARGE = np.dtype(np.uint16), np.dtype(np.uint32)
Index = tuple[int, ...]


@dataclass
class Sidecar:
    """What the merge must know of a brick besides its labels.

    Parameters
    ----------
    counts : (n_tiles,) ndarray of int64
        Labels per tile of the brick, tiles in C order.
    pairs : (n, 2) ndarray of int64
        Touching pairs across the seams inside the brick.
    borders : dict
        ``(axis, side)`` to what the neighbours on that side (0 low, 1 high) must know. For labels that are
        joined where they touch, the outermost plane, of the labels' dtype, with length 1 along the axis; for
        labels that must agree, packed halo strips.
    agreement : (n,) ndarray of float64, optional
        How far the two tiles agree on each pair, where that is asked for.
    voxels : (n,) ndarray of int64, optional
        Where each pair touches, as a position in the image in C order.
    """

    counts: np.ndarray
    pairs: np.ndarray
    borders: dict[tuple[int, int], np.ndarray]
    agreement: np.ndarray | None = None
    voxels: np.ndarray | None = None


@dataclass(frozen=True)
class StagedLabels:
    """Labels before the merge, brick by brick, in a directory of their own.

    Picklable: any process that sees the directory can write and read bricks.

    Parameters
    ----------
    path : str
        The stage directory.
    bricks : BrickGrid
        Tiles and bricks of the label image.
    merge_axes : tuple of int
        Axes along which labels are joined.
    connectivity : int
        Which neighbours across a seam touch.
    min_agreement : float or None
        How far two tiles must agree on labels that touch across their seam; ``None``: not at all, labels that
        touch are joined.
    part : str
        Folder inside the directory that holds the labels.
    """

    path: str
    bricks: BrickGrid
    merge_axes: tuple[int, ...]
    connectivity: int
    min_agreement: float | None = None
    part: str = field(default_factory=lambda: f"part-{uuid.uuid4().hex[:12]}")

    def create(self, image: dict[str, Any]) -> None:
        """Write the empty label arrays and the layout into an existing, empty directory.

        Parameters
        ----------
        image : dict
            What to keep besides of how the image was tiled; fit for JSON.
        """
        os.makedirs(os.path.join(self.path, self.part, "sidecars"))
        for dtype in (SMALL, LARGE):
            with full_disk_explained(self._array_path(dtype), METADATA_BYTES):
                zarr.create_array(
                    self._array_path(dtype),
                    shape=tuple(n * slot for n, slot in zip(self.bricks.grid_shape, self._slot, strict=True)),
                    chunks=self._chunk,
                    dtype=dtype,
                    compressors=ZstdCodec(level=1, checksum=True),
                )
        layout = {
            "tile_lengths": self.bricks.grid.lengths,
            "halo": self.bricks.grid.halo,
            "tiles_per_brick": self.bricks.tiles_per_brick,
            "merge_axes": self.merge_axes,
            "connectivity": self.connectivity,
            "min_agreement": self.min_agreement,
            "part": self.part,
            "image": image,
            "arrays": self._metadata_checksum(),
        }
        write_atomically(os.path.join(self.path, LAYOUT), json.dumps(seal(layout)).encode())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StagedLabels:
        """Open a stage by its layout.

        Raises
        ------
        OSError
            If the layout or the metadata of the arrays are damaged.
        """
        layout = read_layout(path)
        grid = TileGrid(tuple(tuple(axis) for axis in layout["tile_lengths"]), tuple(layout["halo"]))
        bricks = BrickGrid(grid, tuple(layout["tiles_per_brick"]))
        staged = cls(
            os.fspath(path),
            bricks,
            tuple(layout["merge_axes"]),
            layout["connectivity"],
            layout["min_agreement"],
            layout["part"],
        )
        if staged._metadata_checksum() != layout["arrays"]:
            raise OSError(f"{os.path.join(path, staged.part)}: the metadata of the arrays are {ANEW}")
        return staged

    def _metadata_checksum(self) -> str:
        return checksum_files(self._array_path(dtype) / "zarr.json" for dtype in (SMALL, LARGE))

    @cached_property
    def _chunk(self) -> Index:
        """A slab of the brick: contiguous in memory, and small enough for the allocator to reuse."""
        chunk = list(self.bricks.brick_shape)
        for axis, length in enumerate(chunk):
            excess = -(-int(np.prod(chunk, dtype=np.int64)) // CHUNK_VOXELS)
            chunk[axis] = -(-length // min(length, excess))
        return tuple(chunk)

    @cached_property
    def _slot(self) -> Index:
        """The place of a brick in the array: whole chunks, so that a brick has one writer."""
        pairs = zip(self.bricks.brick_shape, self._chunk, strict=True)
        return tuple(-(-length // chunk) * chunk for length, chunk in pairs)

    def _array_path(self, dtype: np.dtype) -> Path:
        # Not text, in which zarr would take # and ? for parts of a URL.
        return Path(self.path, self.part, "labels", dtype.name)

    @cached_property
    def _small(self) -> zarr.Array:
        return _open_unfiltered(self._array_path(SMALL))

    @cached_property
    def _large(self) -> zarr.Array:
        return _open_unfiltered(self._array_path(LARGE))

    def __getstate__(self) -> dict[str, Any]:
        fields = self.__dataclass_fields__
        return {name: value for name, value in self.__dict__.items() if name in fields}

    def _box(self, index: Index) -> tuple[slice, ...]:
        core = self.bricks.core(index)
        starts = [i * slot for i, slot in zip(index, self._slot, strict=True)]
        return tuple(
            slice(start, start + part.stop - part.start) for start, part in zip(starts, core, strict=True)
        )

    def _sidecar_path(self, index: Index) -> str:
        return os.path.join(self.path, self.part, "sidecars", f"{self.bricks.number(index)}.npz")

    def _chunk_paths(self, index: Index, n_labels: int) -> list[str]:
        """Files of the chunks that hold the labels of a brick."""
        folder = self._array_path(label_dtype(n_labels))
        return [os.path.join(folder, key) for key in chunk_keys(self._array(n_labels), self._box(index))]

    def _array(self, n_labels: int) -> zarr.Array:
        return self._small if label_dtype(n_labels) == SMALL else self._large

    def write(self, index: Index, labels: np.ndarray, sidecar: Sidecar) -> str:
        """Write the labels of a brick, ids 1..n of the dtype for n labels, and its sidecar.

        Returns
        -------
        str
            The checksum of what was written.
        """
        array = self._small if labels.dtype == SMALL else self._large
        box, whole = self._padded(index, labels)
        folder = os.fspath(self._array_path(labels.dtype))
        write_chunks(array, folder, box, whole, unfinished=self.path)
        arrays = {"counts": sidecar.counts, "pairs": sidecar.pairs}
        if sidecar.agreement is not None and sidecar.voxels is not None:
            arrays |= {"agreement": sidecar.agreement, "voxels": sidecar.voxels}
        arrays |= {f"border_{axis}_{side}": border for (axis, side), border in sidecar.borders.items()}
        write_atomically(self._sidecar_path(index), npz_bytes(arrays))
        return self.checksum(index, int(sidecar.counts.sum()))

    def _padded(self, index: Index, labels: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
        """Fill labels up to whole chunks: zarr would read, and stumble over, what lies there already."""
        box = self._box(index)
        shape = tuple(-(-n // chunk) * chunk for n, chunk in zip(labels.shape, self._chunk, strict=True))
        if shape == labels.shape:
            return box, labels
        whole = np.zeros(shape, labels.dtype)
        whole[tuple(slice(0, n) for n in labels.shape)] = labels
        return tuple(slice(part.start, part.start + n) for part, n in zip(box, shape, strict=True)), whole

    def checksum(self, index: Index, n_labels: int) -> str:
        """CRC-32 over the stored chunks and the sidecar of a brick; empty if a file is not there."""
        if not n_labels:
            return ""
        return checksum_files([*self._chunk_paths(index, n_labels), self._sidecar_path(index)])

    def read(self, index: Index, n_labels: int, part: Sequence[slice]) -> np.ndarray:
        """Read a part, in voxels from the brick's origin, of a brick with so many labels.

        Raises
        ------
        OSError
            If a chunk is missing or damaged; zarr would take a missing one for background.
        """
        pairs = zip(self._box(index), part, strict=True)
        box = tuple(slice(whole.start + cut.start, whole.start + cut.stop) for whole, cut in pairs)
        for path in self._chunk_paths(index, n_labels):
            _wait_for(path)
        with self._damage_explained(index):
            return np.asarray(self._array(n_labels)[box])

    def read_pairs(self, index: Index) -> np.ndarray:
        """Read the touching pairs inside a brick."""
        return self._read_sidecar(index, "pairs")

    def read_agreement(self, index: Index) -> tuple[np.ndarray, np.ndarray]:
        """Read how far tiles agree on these pairs, and where each of them touches."""
        return self._read_sidecar(index, "agreement"), self._read_sidecar(index, "voxels")

    def read_border(self, index: Index, axis: int, side: int) -> np.ndarray:
        """Read what the neighbours on the low (0) or high (1) side of a brick must know."""
        return self._read_sidecar(index, f"border_{axis}_{side}")

    def _read_sidecar(self, index: Index, name: str) -> np.ndarray:
        path = self._sidecar_path(index)
        _wait_for(path)
        with self._damage_explained(index):
            return load_npz_array(path, name)

    @contextlib.contextmanager
    def _damage_explained(self, index: Index) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise OSError(
                f"brick {index} of the stage {self.path} cannot be read "
                f"({type(error).__name__}: {error}); {REPAIR}"
            ) from error


def read_layout(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the layout of a stage; empty where the stage did not come that far.

    Raises
    ------
    OSError
        If it is damaged, or missing although tasks are finished.
    """
    file = Path(path) / LAYOUT
    if not file.exists() and not has_finished_work(path):
        return {}
    try:
        return unseal(file.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise OSError(f"{file} is {ANEW}") from error


def _wait_for(path: str) -> None:
    """Wait until a file is there and holds something."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (os.path.exists(path) and os.path.getsize(path)):
        if time.monotonic() > end:
            raise OSError(f"{path}, a part of the stage, is missing or empty; {REPAIR}")
        time.sleep(0.05)


def label_dtype(n_labels: int) -> np.dtype:
    """Give the dtype in which a brick with so many labels is staged."""
    return SMALL if n_labels <= np.iinfo(SMALL).max else LARGE


def _open_unfiltered(path: Path) -> zarr.Array:
    # Format 3 alone, as it was made: format 2 has codecs that read pickles.
    return zarr.open_array(path, mode="r", zarr_format=3)
