"""The part of an image on which overlaps are tried."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Box, Index, TileGrid
from blockbuster.run.plan import RunPlan
from blockbuster.source import Source
from blockbuster.stage.sample import spread_evenly

MAX_VOXELS = 2**26
MAX_VOXELS_TO_WIDEN = 2**23
MAX_TILES_TO_WIDEN = 4
MAX_PLACES = 32
GLANCE_VOXELS = 2**16


@dataclass(frozen=True)
class Crop:
    """A part of an image, and its tiles.

    Parameters
    ----------
    box : tuple of slice
        Where it lies.
    tile_shape : tuple of int
        Its tiles, in voxels.
    seam_axes : tuple of int
        Axes along which it has seams that a halo helps at.
    is_whole : bool
        Whether it is all of the image along those axes.
    """

    box: Box
    tile_shape: Index
    seam_axes: tuple[int, ...]
    is_whole: bool

    @property
    def shape(self) -> Index:
        """Voxels per axis."""
        return tuple(part.stop - part.start for part in self.box)

    @property
    def untiled(self) -> Index:
        """One tile for all of it, but for axes that fn is shown one plane at a time."""
        return tuple(n if tile > 1 else 1 for n, tile in zip(self.shape, self.tile_shape, strict=True))

    def tells_of(self, halo: int) -> bool:
        """Return whether tiles miss some voxels with a halo; else they agree whatever fn does."""
        seen = all(self.tile_shape[axis] + halo >= self.shape[axis] for axis in self.seam_axes)
        return self.is_whole or not seen

    def beside_seams(self) -> np.ndarray:
        """Mark the voxels on either side of a seam: a boolean array of `shape`."""
        marked = np.zeros(self.shape, bool)
        for axis in self.seam_axes:
            planes = np.moveaxis(marked, axis, 0)
            for seam in range(self.tile_shape[axis], self.shape[axis], self.tile_shape[axis]):
                planes[seam - 1 : seam + 1] = True
        return marked


def choose_crop(plan: RunPlan, largest_halo: int) -> Crop:
    """Choose a part of the image that starts where a tile does: the one with the most contrast.

    Parameters
    ----------
    plan : RunPlan
        Image and tiles.
    largest_halo : int
        What will be tried, in voxels; the part gets as many tiles as that asks for, where it stays
        small.

    Returns
    -------
    Crop
        The same at every call.
    """
    grid = plan.grid
    axes = tuple(i for i in plan.merge_axes if grid.grid_shape[i] > 1 and grid.tile_shape[i] > 1)
    if not axes or not grid.n_tiles:
        return Crop(tuple(slice(0, n) for n in grid.shape), grid.tile_shape, (), is_whole=True)
    # Tiles are halved if even two along each axis are too much to segment at once.
    tile = list(grid.tile_shape)
    while math.prod(tile) * 2 ** len(axes) > MAX_VOXELS:
        longest = max(axes, key=lambda axis: tile[axis])
        if tile[longest] < 4:
            break
        tile[longest] = -(-tile[longest] // 2)
    if tuple(tile) != grid.tile_shape:
        grid = TileGrid.regular(grid.shape, tuple(tile), grid.halo)
    counts = _count_tiles(grid, axes, largest_halo)
    boxes = _boxes(grid, counts)
    if len(boxes) > 1:
        glances = plan.source.read_together([_glance(plan.source, box) for box in boxes])
        boxes = [boxes[int(np.argmax([_contrast(pixels) for pixels in glances]))]]
    return Crop(boxes[0], grid.tile_shape, axes, all(counts[i] == grid.grid_shape[i] for i in axes))


def _count_tiles(grid: TileGrid, axes: tuple[int, ...], largest_halo: int) -> list[int]:
    """Return how many tiles the part has per axis: two, and more as long as it stays small."""
    counts = [2 if axis in axes else 1 for axis in range(grid.ndim)]
    wanted = {
        axis: min(
            grid.grid_shape[axis],
            max(MAX_TILES_TO_WIDEN, 2 + math.ceil(2 * largest_halo / grid.tile_shape[axis])),
        )
        for axis in axes
    }
    for _, axis in itertools.product(range(2, max(wanted.values())), axes):
        wider = [count + (i == axis) for i, count in enumerate(counts)]
        n_voxels = math.prod(n * tile for n, tile in zip(wider, grid.tile_shape, strict=True))
        if wider[axis] <= wanted[axis] and n_voxels <= MAX_VOXELS_TO_WIDEN:
            counts = wider
    return counts


def _boxes(grid: TileGrid, counts: list[int]) -> list[Box]:
    """Spread boxes of so many tiles evenly over the image."""
    n_places = [n - count + 1 for n, count in zip(grid.grid_shape, counts, strict=True)]
    boxes = []
    for place in sorted(set(spread_evenly(math.prod(n_places), MAX_PLACES))):
        ends = zip(grid.edges, np.unravel_index(place, n_places), counts, strict=True)
        boxes.append(tuple(slice(int(edges[i]), int(edges[i + n])) for edges, i, n in ends))
    return boxes


def _glance(source: Source, box: Box) -> Box:
    """Choose the middle of a box, within one chunk unless chunks are much smaller."""
    room = GLANCE_VOXELS
    glance: list[slice] = []
    for axis, part in reversed(list(enumerate(box))):
        side = max(1, min(part.stop - part.start, room, math.isqrt(GLANCE_VOXELS)))
        room //= side
        start = (part.start + part.stop - side) // 2
        chunk = source.chunk_around(axis, start + side // 2)
        inside = slice(max(start, chunk.start), min(start + side, chunk.stop))
        glance.insert(0, inside if 2 * (inside.stop - inside.start) >= side else slice(start, start + side))
    return tuple(glance)


def _contrast(pixels: np.ndarray) -> float:
    """Return the standard deviation of the finite ones."""
    finite = pixels[np.isfinite(pixels)]
    if finite.dtype.kind != "c":
        finite = finite.astype(np.float64)
    # Numbers near the largest have no variance that a float could hold.
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.nan_to_num(finite.std())) if finite.size else -1.0
