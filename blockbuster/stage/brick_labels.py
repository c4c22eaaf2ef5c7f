"""A brick on its way to the stage: stretches of its tiles, what touches inside, and what its neighbours need."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from blockbuster.grid import Index, relative_box
from blockbuster.kernels.agreement import Agreements, TilePairs, compare_pieces
from blockbuster.kernels.pairs import NO_PAIRS, collect_touching_pairs, unique_pairs
from blockbuster.kernels.sections import write_group
from blockbuster.kernels.stretches import StretchFinder, StretchGroup, TileStretches, border_stretches
from blockbuster.kernels.strips import cut_strip, strip_boxes
from blockbuster.rundir.sections import SectionWriter
from blockbuster.rundir.staged import StagedLabels

__all__ = ["BrickLabels"]

# So many voxels are written together, and read together: in noise, a stretch of 12 bytes for each. So many tiles
# at most: each costs a kilobyte until then.
GROUP_VOXELS, GROUP_TILES = 2**21, 2**12
Side = tuple[int, int]


class BrickLabels:
    """Takes what fn returned for the tiles of a brick, in C order.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    brick : tuple of int
        Index of the brick in the label image.
    """

    def __init__(self, staged: StagedLabels, brick: Index) -> None:
        self.n_labels = 0
        self._grid = staged.bricks.grid
        self._sections = SectionWriter()
        self._finder = StretchFinder()
        self._seams: BrickSeams = (_Touching if staged.min_agreement is None else _Agreeing)(staged, brick)
        self._held: list[tuple[TileStretches, Index, int]] = []
        self._n_groups = self._n_voxels = 0

    def add(self, tile: Index, labels: np.ndarray) -> int:
        """Take what fn returned for a tile with its halo, and say how many labels its core has."""
        own, count = self._seams.take(tile, labels, self.n_labels, self._finder)
        if count:
            self._held.append((own, tile, self.n_labels))
            self.n_labels += count
            self._n_voxels += math.prod(own.shape)
            if self._n_voxels >= GROUP_VOXELS or len(self._held) >= GROUP_TILES:
                self._close_group()
        return count

    def pass_over(self, tile: Index) -> None:
        """Take note of a tile without labels."""
        self._seams.pass_over(tile)

    def sections(self) -> SectionWriter:
        """Return all that is to be kept of the brick, once its last tile was taken."""
        if self._held:
            self._close_group()
        self._sections.add("groups", np.array(self._n_groups))
        self._seams.write(self._sections)
        return self._sections

    def _close_group(self) -> None:
        tiles, indices, firsts = zip(*self._held, strict=True)
        numbers = np.ravel_multi_index(np.array(indices).T, self._grid.grid_shape)
        group = StretchGroup.of(tiles, self._grid.cores(numbers))
        write_group(self._sections, f"group-{self._n_groups}", numbers, group)
        self._seams.draw(numbers, group, np.array(firsts), self.n_labels)
        self._n_groups += 1
        self._n_voxels = 0
        self._held = []


class BrickSeams:
    """What a merge rule learns of the seams of a brick while its labels are in memory."""

    def __init__(self, staged: StagedLabels, brick: Index) -> None:
        self.staged, self.brick, self.grid = staged, brick, staged.bricks.grid

    def take(
        self, tile: Index, labels: np.ndarray, first: int, finder: StretchFinder
    ) -> tuple[TileStretches, int]:
        """Find the stretches of a tile's core, and how many labels it has; `first` is added to ids later."""
        raise NotImplementedError

    def pass_over(self, tile: Index) -> None:
        """Take note of a tile without labels."""

    def draw(self, numbers: np.ndarray, group: StretchGroup, firsts: np.ndarray, n_labels: int) -> None:
        """See tiles once more, some at a time."""

    def write(self, sections: SectionWriter) -> None:
        """Write pairs that touch inside the brick, and what its neighbours need."""
        raise NotImplementedError


class _Touching(BrickSeams):
    """For labels that are joined where they touch, the outermost planes of tiles are all there is to know."""

    @cached_property
    def planes(self) -> dict[int, np.ndarray]:
        """Across each axis, the low and the high plane of each layer of tiles, one after another."""
        planes, core = {}, self.staged.bricks.core(self.brick)
        for axis in self.staged.merge_axes:
            shape = [part.stop - part.start for part in core]
            tiles = self.staged.bricks.tiles(self.brick)[axis]
            shape[axis] = 2 * (tiles.stop - tiles.start)
            planes[axis] = np.zeros(shape, np.int32)
        return planes

    def take(
        self, tile: Index, labels: np.ndarray, first: int, finder: StretchFinder
    ) -> tuple[TileStretches, int]:
        core = self.grid.core(tile)
        if any(self.grid.halo):
            labels = labels[relative_box(core, self.grid.grow(core))]
        return finder.find(labels, core)

    def draw(self, numbers: np.ndarray, group: StretchGroup, firsts: np.ndarray, n_labels: int) -> None:
        bricks, table, n = self.staged.bricks, np.arange(n_labels + 1, dtype=np.int32), len(numbers)
        origin = [part.start for part in bricks.core(self.brick)]
        layers = np.unravel_index(numbers, self.grid.grid_shape)
        tiles = np.concatenate([np.arange(n), np.arange(n)])
        for axis, planes in self.planes.items():
            cut = group.boxes[tiles]
            cut[:n, axis, 1] = cut[:n, axis, 0] + 1
            cut[n:, axis, 0] = cut[n:, axis, 1] - 1
            places = cut[:, :, 0] - origin
            places[:n, axis] = 2 * (layers[axis] - bricks.tiles(self.brick)[axis].start)
            places[n:, axis] = places[:n, axis] + 1
            group.place(firsts, tiles, cut, places, table, planes)

    def write(self, sections: SectionWriter) -> None:
        found = [NO_PAIRS]
        for axis, planes in self.planes.items():
            others = [other for other in self.planes if other != axis]
            whole = (slice(None),) * axis
            before, behind = planes[(*whole, slice(1, -1, 2))], planes[(*whole, slice(2, None, 2))]
            found.append(collect_touching_pairs(before, behind, others, self.staged.connectivity - 1))
            for side in (0, 1):
                if self.staged.bricks.has_neighbour(self.brick, axis, side):
                    sections.add(f"border-{axis}-{side}", planes.take([-side], axis))
        # Tiles that meet at an edge meet across two axes, and are found in either order.
        sections.add("pairs", unique_pairs(np.sort(np.concatenate(found), axis=1)))


class _Agreeing(BrickSeams):
    """Labels that must agree are compared as soon as both tiles are there; a tile is kept no longer than that."""

    def __init__(self, staged: StagedLabels, brick: Index) -> None:
        super().__init__(staged, brick)
        self.waiting: dict[Index, tuple[TileStretches, int]] = {}
        self.leaving: dict[Index, list[Index]] = {}
        self.found: list[np.ndarray] = []
        self.strips: dict[Side, dict[int, TileStretches]] = {}

    @cached_property
    def tile_pairs(self) -> TilePairs:
        return TilePairs(self.grid, self.staged.merge_axes, self.staged.connectivity)

    def take(
        self, tile: Index, labels: np.ndarray, first: int, finder: StretchFinder
    ) -> tuple[TileStretches, int]:
        grid = self.grid
        whole, n_whole = finder.find(labels, grid.region(tile))
        own = whole.clipped(grid.core(tile))
        lookup, count = own.numbered(n_whole)
        if count:
            border = border_stretches(whole, lookup, grid.core(tile), self._depths(tile))
            self._add(tile, border, first)
        else:
            self.pass_over(tile)
        return own, count

    def _add(self, tile: Index, border: TileStretches, first: int) -> None:
        for step in self.tile_pairs.steps:
            before = tuple([i - d for i, d in zip(tile, step, strict=True)])
            if before in self.waiting:
                self._compare(before, step, border, first)
        for side in self._outer_sides(tile):
            strip = cut_strip(border, self.grid, tile, *side)
            if len(strip.stretches):
                self.strips.setdefault(side, {})[self.grid.number(tile)] = strip
        self.pass_over(tile)
        last = self._last_neighbour(tile)
        if last > tile:
            self.waiting[tile] = border, first
            self.leaving.setdefault(last, []).append(tile)

    def pass_over(self, tile: Index) -> None:
        """Forget the tiles whose last neighbour in the brick this one is."""
        for before in self.leaving.pop(tile, ()):
            del self.waiting[before]

    def write(self, sections: SectionWriter) -> None:
        found = Agreements.of_pieces(self.found)
        sections.add("pairs", found.pairs)
        sections.add("agreement", found.values)
        sections.add("voxels", found.voxels)
        for (axis, side), strips in self.strips.items():
            numbers = np.array(list(strips))
            group = StretchGroup.of(list(strips.values()), strip_boxes(self.grid, numbers, axis, side))
            write_group(sections, f"border-{axis}-{side}", numbers, group)

    def _depths(self, tile: Index) -> list[tuple[int, int]]:
        """Per axis how far the neighbours see into the tile."""
        depths = []
        for axis, halo in enumerate(self.grid.halo):
            sides = [
                axis in self.staged.merge_axes and self.grid.has_neighbour(tile, axis, side) for side in (0, 1)
            ]
            depths.append((sides[0] * max(1, halo), sides[1] * max(1, halo)))
        return depths

    def _compare(self, tile: Index, step: Index, other: TileStretches, other_first: int) -> None:
        stretches, first = self.waiting[tile]
        found = compare_pieces(self.tile_pairs.of(tile, step), stretches, other, self.tile_pairs.strides)
        if len(found):
            found[:, :2] += [first, other_first]
            self.found.append(found)

    def _outer_sides(self, tile: Index) -> list[Side]:
        """Sides on which the tile has a neighbour in another brick."""
        tiles = self.staged.bricks.tiles(self.brick)
        return [
            (axis, side)
            for axis in self.staged.merge_axes
            for side in (0, 1)
            if tile[axis] == (tiles[axis].stop - 1 if side else tiles[axis].start)
            and self.grid.has_neighbour(tile, axis, side)
        ]

    def _last_neighbour(self, tile: Index) -> Index:
        """The tile of the brick after which this one is not needed any more."""
        tiles = self.staged.bricks.tiles(self.brick)
        for step in reversed(self.tile_pairs.steps):
            other = tuple([i + d for i, d in zip(tile, step, strict=True)])
            if all(part.start <= i < part.stop for i, part in zip(other, tiles, strict=True)):
                return other
        return tile
