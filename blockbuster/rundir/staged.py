"""The stage directory: staged labels, one sidecar per brick, and the manifest.

::

    <target>.<component>.blockbuster-stage/
        manifest.json     what the stage is and which grid it has
        labels/           zarr arrays, a slot of whole chunks per brick; ids 1..n within the brick,
                          in ``uint16`` where they fit and else in ``uint32``
        sidecars/N.npz    counts per tile, touching pairs inside the brick, outer border planes
        counts.npy        labels per tile, once every brick is finished
        offsets.npy, border.npy, roots.npy, numbers.npy
                          the remap table, once the seams are matched
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.npy import load_npz_array

__all__ = ["Sidecar", "StagedLabels", "is_stage", "label_dtype", "remove_stage", "write_atomically"]

MANIFEST = "manifest.json"
MARK = "blockbuster-stage"
CHUNK_VOXELS = 2**22
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
    planes : dict
        ``(axis, side)`` to the outermost plane on that side (0 low, 1 high), of the labels' dtype,
        with length 1 along the axis.
    """

    counts: np.ndarray
    pairs: np.ndarray
    planes: dict[tuple[int, int], np.ndarray]


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
    """

    path: str
    bricks: BrickGrid
    merge_axes: tuple[int, ...]
    connectivity: int

    def create(self, settings: dict[str, Any]) -> None:
        """Write the manifest and the empty label array into an existing, empty directory."""
        os.makedirs(os.path.join(self.path, "sidecars"))
        for dtype in (SMALL, LARGE):
            zarr.create_array(
                self._array_path(dtype),
                shape=tuple(n * slot for n, slot in zip(self.bricks.grid_shape, self._slot, strict=True)),
                chunks=self._chunk,
                dtype=dtype,
                compressors=ZstdCodec(level=1, checksum=True),
            )
        manifest = {
            "kind": MARK,
            "tile_lengths": self.bricks.grid.lengths,
            "halo": self.bricks.grid.halo,
            "tiles_per_brick": self.bricks.tiles_per_brick,
            "merge_axes": self.merge_axes,
            "connectivity": self.connectivity,
            "settings": settings,
        }
        write_atomically(os.path.join(self.path, MANIFEST), json.dumps(manifest).encode())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StagedLabels:
        """Open a stage by its manifest."""
        manifest = json.loads((Path(path) / MANIFEST).read_text())
        grid = TileGrid(tuple(tuple(axis) for axis in manifest["tile_lengths"]), tuple(manifest["halo"]))
        bricks = BrickGrid(grid, tuple(manifest["tiles_per_brick"]))
        return cls(os.fspath(path), bricks, tuple(manifest["merge_axes"]), manifest["connectivity"])

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
        return Path(self.path, "labels", dtype.name)

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
        return os.path.join(self.path, "sidecars", f"{self.bricks.number(index)}.npz")

    def write(self, index: Index, labels: np.ndarray, sidecar: Sidecar) -> None:
        """Write the labels of a brick, ids 1..n of the dtype for n labels, and its sidecar."""
        array = self._small if labels.dtype == SMALL else self._large
        array[self._box(index)] = labels
        arrays: dict[str, Any] = {"counts": sidecar.counts, "pairs": sidecar.pairs}
        arrays |= {f"plane_{axis}_{side}": plane for (axis, side), plane in sidecar.planes.items()}
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(self._sidecar_path(index)), delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, self._sidecar_path(index))

    def read(self, index: Index, n_labels: int, part: Sequence[slice]) -> np.ndarray:
        """Read a part, in voxels from the brick's origin, of a brick with so many labels."""
        pairs = zip(self._box(index), part, strict=True)
        box = tuple(slice(whole.start + cut.start, whole.start + cut.stop) for whole, cut in pairs)
        array = self._small if label_dtype(n_labels) == SMALL else self._large
        return np.asarray(array[box])

    def read_pairs(self, index: Index) -> np.ndarray:
        """Read the touching pairs inside a brick."""
        return load_npz_array(self._sidecar_path(index), "pairs")

    def read_plane(self, index: Index, axis: int, side: int) -> np.ndarray:
        """Read the outermost plane of a brick, low (0) or high (1) along `axis`."""
        return load_npz_array(self._sidecar_path(index), f"plane_{axis}_{side}")


def label_dtype(n_labels: int) -> np.dtype:
    """Give the dtype in which a brick with so many labels is staged."""
    return SMALL if n_labels <= np.iinfo(SMALL).max else LARGE


def _open_unfiltered(path: Path) -> zarr.Array:
    # A brick without labels is never written, so zarr's slow search for zeros would find nothing.
    return zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def is_stage(path: str | os.PathLike[str]) -> bool:
    """Say whether a directory is a stage that blockbuster made."""
    manifest = Path(path) / MANIFEST
    if Path(path).is_symlink() or not manifest.is_file():
        return False
    try:
        return json.loads(manifest.read_text()).get("kind") == MARK
    except (ValueError, AttributeError):
        return False


def remove_stage(path: str | os.PathLike[str]) -> None:
    """Delete a stage directory; anything else is refused.

    Raises
    ------
    ValueError
        If the path is not a stage that blockbuster made, or a symbolic link.
    """
    if not is_stage(path):
        raise ValueError(f"{os.fspath(path)} is not a stage of blockbuster and is left alone.")
    shutil.rmtree(path)
