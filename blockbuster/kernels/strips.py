"""Halo strips: what a brick keeps of its outer tiles, so that its neighbours can compare predictions."""

from __future__ import annotations

import numpy as np

from blockbuster.grid import Box, Index, TileGrid
from blockbuster.kernels.stretches import TileStretches

__all__ = ["cut_strip", "strip_box", "strip_boxes"]


def strip_box(grid: TileGrid, tile: Index, axis: int, side: int) -> Box:
    """Return what a tile and any of its neighbours across a seam both see, in voxels of the image.

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


def strip_boxes(grid: TileGrid, numbers: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Return `strip_box` of tiles by their numbers, as start and stop along each axis."""
    boxes = [strip_box(grid, grid.index(number), axis, side) for number in numbers.tolist()]
    return np.array([[(part.start, part.stop) for part in box] for box in boxes], np.int64)


def cut_strip(stretches: TileStretches, grid: TileGrid, tile: Index, axis: int, side: int) -> TileStretches:
    """Cut out of a tile's stretches what `strip_box` gives, of labels that touch the seam."""
    face = list(grid.core(tile))
    face[axis] = (
        slice(face[axis].stop - 1, face[axis].stop) if side else slice(face[axis].start, face[axis].start + 1)
    )
    touching = stretches.clipped(tuple(face)).stretches[:, 2]
    is_kept = np.zeros(int(stretches.stretches[:, 2].max(initial=0)) + 1, bool)
    is_kept[touching] = True
    return stretches.clipped(strip_box(grid, tile, axis, side)).filtered(is_kept)
