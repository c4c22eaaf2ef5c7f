"""What an output consists of: the arrays of its levels, in chunks and shards that suit viewers and
tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from blockbuster.grid import TileGrid
from blockbuster.output.downsample import Coarsening
from blockbuster.source.geometry import Geometry, LevelGeometry

SHARD_VOXELS = 2**22
CHUNK_VOXELS = 2**18
# Most of what a task writes at once.
GROUP_VOXELS = 4 * CHUNK_VOXELS
SMALL_FACTORS = (2, 3, 5, 7)
Index = tuple[int, ...]


def label_chunks(grid: TileGrid) -> tuple[Index, Index]:
    """Choose chunks that a viewer likes, in shards that a task writes whole.

    Parameters
    ----------
    grid : TileGrid
        The tiles of the label image. Nothing else is looked at, so that the stored bytes do not
        depend on bricks or workers.

    Returns
    -------
    chunk, shard : tuple of int
        About 1 MB, and 16 to 64 MB, of int32; less in a small image. The chunk divides the shard;
        where they are equal, the array needs no shards.

    Examples
    --------
    >>> label_chunks(TileGrid.regular((16384, 16384), (256, 256), (0, 0)))
    ((512, 512), (2048, 2048))
    """
    # Planes stay planes, unless they are too small for a file.
    wide = [axis for axis, length in enumerate(grid.tile_shape) if length > 1]
    shard = _double(grid.tile_shape, grid.shape, wide, SHARD_VOXELS)
    if _voxels(shard) < CHUNK_VOXELS:
        shard = _double(shard, grid.shape, range(grid.ndim - 1, -1, -1), SHARD_VOXELS)
    shard = _shrink(shard, 4 * SHARD_VOXELS)
    return _shrink(shard, CHUNK_VOXELS), shard


def coarse_chunks(shape: Index, shard: Index, blocks: Index) -> tuple[Index, Index]:
    """Choose chunks and shards of a coarser level of a label image.

    Parameters
    ----------
    shape : tuple of int
        Of the level.
    shard : tuple of int
        Of the level before.
    blocks : tuple of int
        Per axis how many voxels of that level make one of this.

    Returns
    -------
    chunk, shard : tuple of int
        A shard is what a shard of the level before becomes, as long as it is worth a file: one task
        can then write both. Else it is as large as that. A level that fits one chunk has one.

    Examples
    --------
    >>> coarse_chunks((5000, 5000), shard=(2048, 2048), blocks=(2, 2))
    ((512, 512), (1024, 1024))
    >>> coarse_chunks((5000, 5000), shard=(512, 512), blocks=(2, 2))
    ((512, 512), (512, 512))
    >>> coarse_chunks((156, 156), shard=(2048, 2048), blocks=(2, 2))
    ((156, 156), (156, 156))
    """
    if _voxels(shape) <= CHUNK_VOXELS:
        return shape, shape
    most = tuple(max(1, length // block) for length, block in zip(shard, blocks, strict=True))
    if _voxels(most) < CHUNK_VOXELS:
        most = shard
    chunk = tuple(min(length, n) for length, n in zip(_shrink(most, CHUNK_VOXELS), shape, strict=True))
    whole = (-(-n // length) * length for n, length in zip(shape, chunk, strict=True))
    # Where the level is narrow, its chunks are cut to it, and the shard is made of those.
    pairs = zip(most, chunk, whole, strict=True)
    return chunk, tuple(min(length // unit * unit, n) for length, unit, n in pairs)


def group_shards(shape: Index, shard: Index) -> Index:
    """Choose how many shards a task writes at once.

    Examples
    --------
    >>> group_shards((2816, 2816), (512, 512))
    (1024, 1024)
    """
    return _double(shard, shape, range(len(shard)), GROUP_VOXELS // 2 + 1)


def _double(lengths: Index, shape: Index, axes: Sequence[int], least_voxels: int) -> Index:
    """Double a box along the shortest of some axes until it has so many voxels, or is whole."""
    box = list(lengths)
    while _voxels(box) < least_voxels:
        open_axes = [axis for axis in axes if box[axis] < shape[axis]]
        if not open_axes:
            break
        box[min(open_axes, key=lambda axis: box[axis])] *= 2
    return tuple(box)


def _shrink(lengths: Index, most_voxels: int) -> Index:
    """Divide the longest side that can be divided evenly until the box is small enough."""
    box = list(lengths)
    while _voxels(box) > most_voxels:
        for axis in sorted(range(len(box)), key=lambda axis: -box[axis]):
            factor = next((f for f in SMALL_FACTORS if box[axis] % f == 0), None)
            if factor:
                box[axis] //= factor
                break
        else:
            break
    return tuple(box)


def _voxels(box: Sequence[int]) -> int:
    return int(np.prod(box, dtype=np.int64))


@dataclass(frozen=True)
class ArrayLayout:
    """A zarr array.

    Parameters
    ----------
    shape : tuple of int
        In voxels.
    dtype : dtype
        Of the labels.
    chunk, shard : tuple of int
        In voxels; where they are equal, or the format knows no shards, there are none.
    names : tuple of str or None
        Of the axes.
    attributes : dict
        Ready for JSON.
    path : str
        Where it lies in the folder of the labels.
    """

    shape: Index
    dtype: np.dtype
    chunk: Index
    shard: Index
    names: tuple[str, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True)
class OutputLayout:
    """An output as it is stored.

    Parameters
    ----------
    arrays : tuple of ArrayLayout
        The label array, or each level of a label image, the finest first.
    attributes : dict
        Of the group of a label image.
    steps : tuple of Coarsening
        How each level but the first is made of the one before.
    """

    arrays: tuple[ArrayLayout, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Coarsening, ...] = ()

    def create(self, group: zarr.Group, component: str) -> None:
        """Create the labels, all background, inside a group."""
        if self.attributes:
            group.require_group(component).attrs.update(self.attributes)
        for array in self.arrays:
            options: dict[str, Any] = {"chunks": array.chunk, "attributes": array.attributes}
            if group.metadata.zarr_format == 3:
                options["compressors"] = ZstdCodec(level=1, checksum=True)
                options["shards"] = array.shard if array.shard != array.chunk else None
                options["dimension_names"] = array.names
            else:
                # As OME-NGFF has it; a folder of a million files is slow on many file systems.
                options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
                if array.names:
                    options["attributes"] = {**array.attributes, "_ARRAY_DIMENSIONS": list(array.names)}
            name = f"{component}/{array.path}".rstrip("/")
            group.create_array(name, shape=array.shape, dtype=array.dtype, **options)


def image_attributes(geometry: Geometry, name: str) -> dict[str, Any]:
    """Write the metadata of a label image, which lies two groups below its image."""
    multiscale: dict[str, Any] = {
        "name": name,
        "type": "mode",
        "metadata": {
            "description": "a voxel has the label of most voxels of the level before",
            "method": "blockbuster",
        },
        "axes": list(geometry.axes),
        "datasets": [
            {"path": str(number), "coordinateTransformations": _stated(level, geometry.levels[0])}
            for number, level in enumerate(geometry.levels)
        ],
    }
    if geometry.transformations:
        multiscale["coordinateTransformations"] = list(geometry.transformations)
    label = {"version": geometry.version, "source": {"image": "../../"}}
    if geometry.version == "0.4":
        return {"multiscales": [{"version": "0.4", **multiscale}], "image-label": label}
    return {"ome": {"version": geometry.version, "multiscales": [multiscale], "image-label": label}}


def _stated(level: LevelGeometry, finest: LevelGeometry) -> list[dict[str, Any]]:
    """Give a level its scale, which it must have; from the finest one where none is stated."""
    if level.scale is not None:
        return list(level.transformations)
    sizes = finest.scale or (1.0,) * len(level.shape)
    lengths = zip(sizes, finest.shape, level.shape, strict=True)
    scale = [size * n / m if m else size for size, n, m in lengths]
    return [{"type": "scale", "scale": scale}, *level.transformations]
