"""How many tiles a task handles: planning in integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from blockbuster.grid import BrickGrid, TileGrid

BRICK_VOXELS = 2**24
# Rather fewer bricks for each worker than everything decoded several times.
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
        Bricks grown axis by axis where that saves most of what is read twice.
    """
    for bricks_per_worker in BRICKS_PER_WORKER:
        share = -(-math.prod(grid.shape) // (bricks_per_worker * max(1, n_workers)))
        voxels = min(BRICK_VOXELS, share)

        def fits(counts: Sequence[int], voxels: int = voxels) -> bool:
            extent = _extent(grid, counts)
            n_units = math.prod(-(-n // unit) for n, unit in zip(extent, read_unit, strict=True))
            return math.prod(extent) <= voxels and (most_units is None or n_units <= most_units)

        bricks = _grow_bricks(grid, read_unit, fits)
        if _read_cost(grid, read_unit, bricks.tiles_per_brick) <= MAX_READ_COST:
            break
    return bricks


def bricks_of(grid: TileGrid, read_unit: Sequence[int], tiles_per_task: int) -> BrickGrid:
    """Choose bricks of at most so many tiles.

    Examples
    --------
    >>> bricks_of(TileGrid.regular((80, 80), (10, 10), (1, 1)), (1, 1), 5).tiles_per_brick
    (2, 2)
    """
    return _grow_bricks(
        grid, read_unit, lambda counts: math.prod(map(min, counts, grid.grid_shape)) <= tiles_per_task
    )


def limit_bricks(bricks: BrickGrid, most_tiles: int) -> BrickGrid:
    """Halve bricks along their longest side until they hold at most so many tiles."""
    counts = list(bricks.tiles_per_brick)
    while math.prod(counts) > max(1, most_tiles):
        longest = counts.index(max(counts))
        counts[longest] = -(-counts[longest] // 2)
    return BrickGrid(bricks.grid, tuple(counts))


def _grow_bricks(grid: TileGrid, read_unit: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> BrickGrid:
    """Double the brick along one axis after the other as long as it stays within the limits."""
    counts = [1] * grid.ndim
    while True:
        short = [axis for axis in range(grid.ndim) if counts[axis] < grid.grid_shape[axis]]
        wider = [[*counts[:axis], 2 * counts[axis], *counts[axis + 1 :]] for axis in short]
        wider = list(filter(fits, wider))
        if not wider:
            return BrickGrid(grid, tuple(min(c, max(1, n)) for c, n in zip(counts, grid.grid_shape, strict=True)))
        counts = min(wider, key=lambda c: (_read_cost(grid, read_unit, c), max(_extent(grid, c))))


def _extent(grid: TileGrid, counts: Sequence[int]) -> list[int]:
    parts = zip(counts, grid.tile_shape, grid.shape, strict=True)
    return [max(1, min(n * tile, length)) for n, tile, length in parts]


def _read_cost(grid: TileGrid, read_unit: Sequence[int], counts: Sequence[int]) -> float:
    """Voxels decoded for each voxel of the core of a brick in the middle of the image."""
    cost = 1.0
    for extent, halo, unit, length in zip(_extent(grid, counts), grid.halo, read_unit, grid.shape, strict=True):
        if extent >= length:
            continue
        around = 2 * halo + unit - 1 if extent % unit else 2 * -(-halo // unit) * unit
        cost *= (extent + around) / extent
    return cost
