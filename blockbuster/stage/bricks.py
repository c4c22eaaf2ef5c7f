"""How many tiles a task handles: bricks that are cheap to read."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from blockbuster.grid import BrickGrid, Index, TileGrid

BRICK_VOXELS = 2**24
# Rather fewer bricks for each worker than everything decoded twice.
BRICKS_PER_WORKER = (4, 2, 1)
MAX_READ_COST = 2.0


def choose_bricks(
    grid: TileGrid,
    read_unit: Sequence[int],
    n_workers: int,
    *,
    most_units: int | None = None,
) -> BrickGrid:
    """Choose bricks that are cheap to read and many enough to keep the workers busy.

    Parameters
    ----------
    grid : TileGrid
        The tiles.
    read_unit : sequence of int
        Per axis the length of what storage decodes at once.
    n_workers : int
        How many tasks run at once.
    most_units : int, optional
        A brick covers at most this many units of what is decoded at once.

    Returns
    -------
    BrickGrid
        Of all bricks within the limits those of which least is read twice.
    """
    shapes = _BrickShapes(grid, read_unit)
    for bricks_per_worker in BRICKS_PER_WORKER:
        share = -(-math.prod(grid.shape) // (bricks_per_worker * max(1, n_workers)))
        fits = shapes.voxels <= min(BRICK_VOXELS, share)
        best = shapes.cheapest(fits if most_units is None else fits & (shapes.units <= most_units))
        if shapes.cost[best] < MAX_READ_COST * max(1, shapes.cost.flat[-1]):
            break
    return shapes.bricks(best)


def bricks_of(grid: TileGrid, read_unit: Sequence[int], tiles_per_task: int) -> BrickGrid:
    """Choose bricks of so many tiles, or as near below as there are.

    Examples
    --------
    >>> bricks_of(TileGrid.regular((80, 80), (10, 10), (1, 1)), (1, 1), 5).tiles_per_brick
    (2, 2)
    """
    shapes = _BrickShapes(grid, read_unit)
    most = np.max(shapes.tiles, where=shapes.tiles <= tiles_per_task, initial=1)
    return shapes.bricks(shapes.cheapest(shapes.tiles == most))


def limit_bricks(bricks: BrickGrid, most_tiles: int) -> BrickGrid:
    """Halve bricks along their longest side until they hold at most so many tiles."""
    counts = list(bricks.tiles_per_brick)
    while math.prod(counts) > max(1, most_tiles):
        longest = counts.index(max(counts))
        counts[longest] = -(-counts[longest] // 2)
    return BrickGrid(bricks.grid, tuple(counts))


class _BrickShapes:
    """What bricks of 1, 2, 4, ... tiles along each axis, or of all, would cost: arrays with an axis
    for the counts along each axis of the image.

    Attributes
    ----------
    tiles, voxels, units : ndarray of float64
        What such a brick has at most, of tiles, voxels, and what is decoded at once.
    cost : ndarray of float64
        Units that all bricks together decode. Larger bricks never decode more.
    """

    def __init__(self, grid: TileGrid, read_unit: Sequence[int]) -> None:
        self._grid = grid
        self._counts = [_doublings(n) for n in grid.grid_shape]
        lengths = zip(self._counts, grid.tile_shape, grid.shape, strict=True)
        extents = [np.clip(counts * tile, 1, max(1, length)) for counts, tile, length in lengths]
        decoded = map(_times_decoded, grid.edges, grid.halo, read_unit, self._counts)
        self.tiles, self.voxels = _products(self._counts), _products(extents)
        self.units = _products([-(-extent // unit) for extent, unit in zip(extents, read_unit, strict=True)])
        self.cost = _products(list(decoded))
        self._longest = functools.reduce(np.maximum.outer, extents)

    def cheapest(self, fits: np.ndarray) -> Index:
        """Choose what is read most cheaply of what fits, then the largest, and of these the
        shortest; where nothing fits, one tile.
        """
        # From the end: of equal ones that comes first which is longer along the first axes.
        found = np.flatnonzero(fits)[::-1]
        keys = [values.ravel()[found] for values in (self._longest, -self.voxels, self.cost)]
        best = found[np.lexsort(keys)[0]] if len(found) else 0
        return tuple(map(int, np.unravel_index(best, fits.shape)))

    def bricks(self, place: Index) -> BrickGrid:
        """Return the bricks at a place of the arrays."""
        chosen = zip(self._counts, place, strict=True)
        return BrickGrid(self._grid, tuple(int(counts[i]) for counts, i in chosen))


def _doublings(n: int) -> np.ndarray:
    """Return 1, 2, 4, ... below `n`, and `n`."""
    return np.array([2**k for k in range(n.bit_length()) if 2**k < n] + [max(1, n)], np.int64)


def _products(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Multiply every number of each column by every one of all others."""
    return functools.reduce(np.multiply.outer, [column.astype(np.float64) for column in columns])


def _times_decoded(edges: np.ndarray, halo: int, unit: int, counts: np.ndarray) -> np.ndarray:
    """Return how many units all bricks decode along an axis, for each count of tiles in a brick."""
    # A halo may be longer than any integer of NumPy's.
    sums, depth = [], min(halo, int(edges[-1]))
    for count in counts.tolist():
        starts = np.maximum(edges[:-1:count] - depth, 0)
        stops = np.minimum(np.append(edges[count:-1:count], edges[-1]) + depth, edges[-1])
        sums.append(int(np.sum(-(-stops // unit) - starts // unit)) if len(starts) else 0)
    return np.array(sums)
