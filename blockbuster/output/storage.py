"""Chunks and shards of a label array: planning in integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blockbuster.grid import TileGrid

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
