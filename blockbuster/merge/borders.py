"""What a stage keeps of the borders of its tiles, and how bricks are matched by that."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from blockbuster.grid import Box, Index, TileGrid, relative_box
from blockbuster.kernels.agreement import Agreements, TilePairs, compare_pieces
from blockbuster.kernels.pairs import NO_PAIRS, collect_touching_pairs, unique_pairs
from blockbuster.kernels.stretches import StretchFinder, StretchGroup, TileStretches, border_stretches
from blockbuster.merge.completion import Ends, add_ends, cut_ends, read_ends
from blockbuster.merge.table import BrickIds
from blockbuster.merge.tally import TouchingPairs
from blockbuster.rundir.sections import SectionWriter
from blockbuster.rundir.staged import BrickFile, StagedLabels


class BorderCollector:
    """Collects the borders of a brick while its labels are in memory; this one keeps nothing.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    brick : tuple of int
        Index of the brick in the label image.
    """

    def __init__(self, staged: StagedLabels, brick: Index) -> None:
        self.staged, self.brick, self.grid = staged, brick, staged.bricks.grid

    def take(
        self, tile: Index, labels: np.ndarray, first: int, finder: StretchFinder
    ) -> tuple[TileStretches, int]:
        """Find the stretches of a tile's core, and how many labels it has; `first` is added to ids
        later.
        """
        core = self.grid.core(tile)
        if any(self.grid.halo):
            labels = labels[relative_box(core, self.grid.grow(core))]
        return finder.find(labels, core)

    def pass_over(self, tile: Index) -> None:
        """Take note of a tile without labels."""

    def draw(self, numbers: np.ndarray, group: StretchGroup, firsts: np.ndarray, n_labels: int) -> None:
        """See tiles once more, some at a time."""

    def write(self, sections: SectionWriter) -> None:
        """Write pairs that touch inside the brick, and what its neighbours need."""


@dataclass(frozen=True)
class OpenBrick:
    """A brick whose seams are matched.

    Parameters
    ----------
    index : tuple of int
        Its place in the label image.
    open_file : callable
        Opens what its task left, by the index.
    ids : BrickIds
        From ids within a brick to provisional ids.
    """

    index: Index
    open_file: Callable[[Index], BrickFile]
    ids: BrickIds

    @cached_property
    def file(self) -> BrickFile:
        """What its task left."""
        return self.open_file(self.index)

    @cached_property
    def provisional(self) -> np.ndarray:
        """Provisional ids of the brick's ids 1..n."""
        return self.ids.all_of(self.index)


class Borders:
    """Borders of a stage for a rule that joins nothing: nothing is kept, and nothing is matched.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    """

    kept: ClassVar[str] = "nothing of the seams"
    # Whether bricks without labels are matched too, with those that have some.
    heeds_background: ClassVar[bool] = False
    collector: ClassVar[type[BorderCollector]] = BorderCollector

    def __init__(self, staged: StagedLabels) -> None:
        self.staged = staged

    @staticmethod
    def n_waiting(tiles_per_brick: Index, axes: Index) -> int:
        """Count the tiles of a brick that are in memory until their last neighbour is there."""
        return 0

    def inside(self, brick: OpenBrick) -> TouchingPairs:
        """Return the pairs inside a brick."""
        raise NotImplementedError

    def between(self, brick: OpenBrick, other: OpenBrick, step: Index) -> TouchingPairs:
        """Return the pairs of a brick and of the one at `step` from it."""
        raise NotImplementedError


class PlaneCollector(BorderCollector):
    """Draws the planes on both sides of all seams, and finds what touches inside the brick."""

    @cached_property
    def planes(self) -> dict[int, np.ndarray]:
        """Across each axis, the low and the high plane of each layer of tiles, one after
        another.
        """
        planes, core = {}, self.staged.bricks.core(self.brick)
        for axis in self.staged.merge_axes:
            shape = [part.stop - part.start for part in core]
            tiles = self.staged.bricks.tiles(self.brick)[axis]
            shape[axis] = 2 * (tiles.stop - tiles.start)
            planes[axis] = np.zeros(shape, np.int32)
        return planes

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


class Planes(Borders):
    """The outermost planes of bricks, and the pairs that touch inside them."""

    kept = "which labels touch, not how far two tiles agree"
    collector = PlaneCollector

    def inside(self, brick: OpenBrick) -> TouchingPairs:
        return TouchingPairs(brick.provisional[brick.file.read("pairs") - 1])

    def between(self, brick: OpenBrick, other: OpenBrick, step: Index) -> TouchingPairs:
        """Match the face, edge or corner where two bricks meet."""
        across, back = _axis_across(step), tuple([-d for d in step])
        mine = _corner(brick.file.read(f"border-{across}-1"), step, across)
        theirs = _corner(other.file.read(f"border-{across}-0"), back, across)
        free = [axis for axis in self.staged.merge_axes if not step[axis]]
        n_aside = self.staged.connectivity - int(np.count_nonzero(step))
        pairs = collect_touching_pairs(mine, theirs, free, n_aside) - 1
        return TouchingPairs(np.column_stack([brick.provisional[pairs[:, 0]], other.provisional[pairs[:, 1]]]))


class StripCollector(BorderCollector):
    """Compares tiles as soon as both are there; a tile is kept no longer than that."""

    def __init__(self, staged: StagedLabels, brick: Index) -> None:
        super().__init__(staged, brick)
        self.waiting: dict[Index, tuple[TileStretches, int]] = {}
        self.leaving: dict[Index, list[Index]] = {}
        self.found: list[np.ndarray] = []
        self.ends: list[Ends] = []
        self.strips: dict[tuple[int, int], dict[int, TileStretches]] = {}

    @cached_property
    def tile_pairs(self) -> TilePairs:
        return TilePairs(self.grid, self.staged.merge_axes, self.staged.connectivity)

    def take(
        self, tile: Index, labels: np.ndarray, first: int, finder: StretchFinder
    ) -> tuple[TileStretches, int]:
        core = self.grid.core(tile)
        whole, n_whole = finder.find(labels, self.grid.grow(core))
        own = whole.clipped(core)
        lookup, count = own.numbered(n_whole)
        if count:
            self._add(tile, border_stretches(whole, lookup, core, self._depths(tile)), first)
        else:
            self.pass_over(tile)
        return own, count

    def pass_over(self, tile: Index) -> None:
        if self.waiting:
            self._add(tile, TileStretches.empty(self.grid.region(tile)), 0)

    def _add(self, tile: Index, border: TileStretches, first: int) -> None:
        tiles, is_empty = self.staged.bricks.tiles(self.brick), not len(border.stretches)
        for step in self.tile_pairs.steps:
            before = tuple([i - d for i, d in zip(tile, step, strict=True)])
            if before in self.waiting:
                self._compare((before, tile), step, (*self.waiting[before], border, first))
            elif not is_empty and _is_within(before, tiles):
                nothing = TileStretches.empty(self.grid.region(before))
                self._compare((before, tile), step, (nothing, 0, border, first))
        for axis, side in itertools.product(self.staged.merge_axes, (0, 1)):
            is_outer = tile[axis] == (tiles[axis].stop - 1 if side else tiles[axis].start)
            if not is_empty and is_outer and self.grid.has_neighbour(tile, axis, side):
                strip = cut_strip(border, self.grid, tile, axis, side)
                if len(strip.stretches):
                    self.strips.setdefault((axis, side), {})[self.grid.number(tile)] = strip
        # Of those whose last neighbour in the brick this one is, nothing more is asked.
        for before in self.leaving.pop(tile, ()):
            del self.waiting[before]
        last = self._last_neighbour(tile)
        if last > tile and not is_empty:
            self.waiting[tile] = border, first
            self.leaving.setdefault(last, []).append(tile)

    def _compare(
        self, pair: tuple[Index, Index], step: Index, labels: tuple[TileStretches, int, TileStretches, int]
    ) -> None:
        """Compare two tiles, the second at `step` from the first: the labels of both, and what is
        added to their ids.
        """
        one, first, other, other_first = labels
        found, unseen = compare_pieces(self.tile_pairs.of(pair[0], step), one, other, self.tile_pairs.strides)
        if len(found):
            found[:, 0] += first
            found[:, 1] += other_first
            self.found.append(found)
        self.ends += cut_ends(self.grid, pair, one, unseen[0], first)
        self.ends += cut_ends(self.grid, pair[::-1], other, unseen[1], other_first)

    def write(self, sections: SectionWriter) -> None:
        found = Agreements.of_pieces(self.found)
        sections.add("pairs", found.pairs)
        sections.add("agreement", found.values)
        sections.add("ranks", found.ranks)
        sections.add("voxels", found.voxels)
        add_ends(sections, self.ends)
        for (axis, side), strips in self.strips.items():
            numbers = np.array(list(strips))
            group = StretchGroup.of(list(strips.values()), strip_boxes(self.grid, numbers, axis, side))
            sections.add_group(f"border-{axis}-{side}", numbers, group)

    def _depths(self, tile: Index) -> list[tuple[int, int]]:
        """Per axis how far the neighbours see into the tile."""
        depths = []
        for axis, halo in enumerate(self.grid.halo):
            sides = [
                axis in self.staged.merge_axes and self.grid.has_neighbour(tile, axis, side) for side in (0, 1)
            ]
            depths.append((sides[0] * max(1, halo), sides[1] * max(1, halo)))
        return depths

    def _last_neighbour(self, tile: Index) -> Index:
        """The tile of the brick after which this one is not needed any more."""
        tiles = self.staged.bricks.tiles(self.brick)
        for step in reversed(self.tile_pairs.steps):
            other = tuple([i + d for i, d in zip(tile, step, strict=True)])
            if _is_within(other, tiles):
                return other
        return tile


def _is_within(tile: Index, tiles: Box) -> bool:
    return all(part.start <= i < part.stop for i, part in zip(tile, tiles, strict=True))


class Strips(Borders):
    """The halo strips of bricks, and how far tiles agree on the pairs that touch inside them."""

    kept = "which labels touch, and how far two tiles agree"
    heeds_background = True
    collector = StripCollector

    @staticmethod
    def n_waiting(tiles_per_brick: Index, axes: Index) -> int:
        return sum([math.prod(tiles_per_brick[axis + 1 :]) for axis in axes if tiles_per_brick[axis] > 1])

    @cached_property
    def tile_pairs(self) -> TilePairs:
        return TilePairs(self.staged.bricks.grid, self.staged.merge_axes, self.staged.connectivity)

    def inside(self, brick: OpenBrick) -> TouchingPairs:
        pairs = brick.provisional[brick.file.read("pairs") - 1]
        ends = [dataclasses.replace(end, ids=brick.provisional[end.ids - 1]) for end in read_ends(brick.file)]
        agreement, ranks, voxels = map(brick.file.read, ("agreement", "ranks", "voxels"))
        return TouchingPairs(pairs, agreement, ranks, voxels, ends)

    def between(self, brick: OpenBrick, other: OpenBrick, step: Index) -> TouchingPairs:
        """Compare the tiles that meet where two bricks do."""
        offsets, grid = brick.ids.offsets, self.staged.bricks.grid
        across = _axis_across(step)
        mine, theirs = self._strips(brick, across, 1), self._strips(other, across, 0)
        strips, found = mine | theirs, []
        ends: list[Ends] = []
        for tile, apart in {**self._pairs(mine, other), **self._pairs(theirs, brick)}:
            neighbour = tuple([i + d for i, d in zip(tile, apart, strict=True)])
            one, two = (strips.get(t) or TileStretches.empty(grid.region(t)) for t in (tile, neighbour))
            pieces, unseen = compare_pieces(self.tile_pairs.of(tile, apart), one, two, self.tile_pairs.strides)
            pieces[:, :2] += [offsets[tile], offsets[neighbour]]
            found.append(pieces)
            ends += cut_ends(grid, (tile, neighbour), one, unseen[0], int(offsets[tile]))
            ends += cut_ends(grid, (neighbour, tile), two, unseen[1], int(offsets[neighbour]))
        best = Agreements.of_pieces(found)
        return TouchingPairs(best.pairs, best.values, best.ranks, best.voxels, ends)

    def _pairs(self, strips: Mapping[Index, TileStretches], other: OpenBrick) -> dict[tuple[Index, Index], None]:
        """Return the pairs of tiles with strips and their neighbours in another brick: the first of
        each pair, and the step to the second.
        """
        tiles = self.staged.bricks.tiles(other.index)
        pairs: dict[tuple[Index, Index], None] = {}
        for tile, apart in itertools.product(strips, self.tile_pairs.steps):
            behind, before = (tuple([i + sign * d for i, d in zip(tile, apart, strict=True)]) for sign in (1, -1))
            if _is_within(behind, tiles):
                pairs[tile, apart] = None
            if _is_within(before, tiles):
                pairs[before, apart] = None
        return pairs

    def _strips(self, brick: OpenBrick, axis: int, side: int) -> dict[Index, TileStretches]:
        grid, name = self.staged.bricks.grid, f"border-{axis}-{side}"
        # A brick without labels has no file.
        if not brick.ids.n_labels(brick.index) or f"{name}-tiles" not in brick.file:
            return {}
        numbers, group = brick.file.read_group(name, lambda numbers: strip_boxes(grid, numbers, axis, side))
        return dict(zip(map(grid.index, numbers.tolist()), group.tiles(), strict=True))


BORDERS: dict[str, type[Borders]] = {"nothing": Borders, "planes": Planes, "strips": Strips}


def _axis_across(step: Index) -> int:
    """Return the axis whose borders show to each other: its step is forward, so the first shows its
    high one.
    """
    return next(axis for axis, d in enumerate(step) if d)


def _corner(plane: np.ndarray, step: Index, across: int) -> np.ndarray:
    """Cut a plane down to the edge or corner that faces the way of `step`."""
    parts = {0: slice(None), 1: slice(-1, None), -1: slice(0, 1)}
    return plane[tuple(slice(None) if axis == across else parts[d] for axis, d in enumerate(step))]


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
        As thick as the halo on both sides of the seam; without halo, the tile's own outermost
        plane.

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
