"""Halo strips: what a brick keeps of its outer tiles, so that its neighbours can compare predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numcodecs import Blosc

from blockbuster.grid import Box, Index, TileGrid
from blockbuster.seams.runs import LabelRuns

__all__ = ["cut_strip", "pack_strips", "strip_box", "unpack_strips"]

CODEC = Blosc("zstd", clevel=1, shuffle=Blosc.SHUFFLE)


def strip_box(grid: TileGrid, tile: Index, axis: int, side: int) -> Box:
    """Give what a tile and any of its neighbours across a seam both see, in voxels of the image.

    Parameters
    ----------
    grid : TileGrid
        The tiles.
    tile : tuple of int
        Index of the tile.
    axis, side : int
        Where the seam is: the low (0) or high (1) end of the tile along `axis`.

    Returns
    -------
    tuple of slice
        As thick as the halo on both sides of the seam; without halo, the tile's own outermost plane.

    Examples
    --------
    >>> grid = TileGrid.regular((40, 40), (20, 20), (4, 2))
    >>> strip_box(grid, (0, 0), axis=0, side=1)
    (slice(16, 24, None), slice(0, 22, None))
    """
    core, box = grid.core(tile)[axis], list(grid.region(tile))
    seam, depth = (core.stop if side else core.start), grid.halo[axis]
    if depth:
        box[axis] = slice(max(0, seam - depth), min(grid.shape[axis], seam + depth))
    else:
        box[axis] = slice(seam - side, seam - side + 1)
    return tuple(box)


def cut_strip(runs: LabelRuns, grid: TileGrid, tile: Index, axis: int, side: int) -> LabelRuns:
    """Cut out of a tile's runs what `strip_box` gives, of labels that touch the seam."""
    face = list(grid.core(tile))
    face[axis] = (
        slice(face[axis].stop - 1, face[axis].stop) if side else slice(face[axis].start, face[axis].start + 1)
    )
    touching = runs.clipped(tuple(face)).runs[:, 2]
    is_kept = np.zeros(int(runs.runs[:, 2].max(initial=0)) + 1, bool)
    is_kept[touching] = True
    return runs.clipped(strip_box(grid, tile, axis, side)).filtered(is_kept)


def pack_strips(strips: Mapping[int, LabelRuns]) -> np.ndarray:
    """Compress the strips of a brick's tiles along one of its faces.

    Parameters
    ----------
    strips : mapping
        Number of a tile to its strip.

    Returns
    -------
    (n,) ndarray of uint8
        What `unpack_strips` takes.

    Notes
    -----
    Runs are kept as gap, length and id, which repeat from row to row.
    """
    runs = np.concatenate([np.empty((0, 3), np.int32), *(strip.runs for strip in strips.values())])
    per_row = [np.diff(strip.rows).astype(np.int32) for strip in strips.values()]
    head = [len(strips), *strips, *map(len, per_row)]
    columns = [np.array(head, np.int32), *per_row, runs[:, 0], runs[:, 1] - runs[:, 0], runs[:, 2]]
    return np.frombuffer(CODEC.encode(np.concatenate(columns)), np.uint8)


def unpack_strips(packed: np.ndarray, boxes: Callable[[int], Box]) -> dict[int, LabelRuns]:
    """Give the strips of a brick's tiles back.

    Parameters
    ----------
    packed : (n,) ndarray of uint8
        What `pack_strips` gave.
    boxes : callable
        Number of a tile to the box of its strip.
    """
    values = np.frombuffer(CODEC.decode(packed.tobytes()), np.int32)
    n = int(values[0])
    numbers, n_rows = values[1 : n + 1].tolist(), values[n + 1 : 2 * n + 1]
    ends = np.cumsum(n_rows) + 2 * n + 1
    runs = values[ends[-1] if n else 1 :].reshape(3, -1).T.copy()
    runs[:, 1] += runs[:, 0]
    strips, start = {}, 0
    for number, length, end in zip(numbers, n_rows, ends, strict=True):
        rows = np.concatenate([[0], np.cumsum(values[end - length : end], dtype=np.int64)])
        strips[number] = LabelRuns(boxes(number), rows, runs[start : start + rows[-1]])
        start += rows[-1]
    return strips
