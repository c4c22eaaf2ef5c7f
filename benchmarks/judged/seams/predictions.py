"""What fn predicts for every tile, and what two tiles say of each other: all that a rule of merging may know."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from skimage.measure import label

from blockbuster.grid import Box, Index, TileGrid, common_box, relative_box

__all__ = ["Evidence", "Predictions", "Unseen"]


@dataclass(frozen=True)
class Evidence:
    """Pieces of labels that touch across a seam, as both tiles see them in the voxels that both have seen.

    Parameters
    ----------
    nodes : (n, 2) ndarray of int64
        Labels of the two tiles; a label may have several pieces.
    pieces : (n, 2) ndarray of int64
        Pieces of one seam, numbered for each of its tiles.
    shared : (n,) ndarray of int64
        Voxels that two pieces have in common; 0 for labels that touch, and have none.
    sizes : (n, 2) ndarray of int64
        Voxels of the pieces.
    whole : (n, 2) ndarray of int64
        Voxels of the labels there.
    label_shared : (n,) ndarray of int64
        Voxels that the labels have in common.
    touching : (n,) ndarray of bool
        Whether the labels touch across the seam.
    cut : (n, 2) ndarray of bool
        Whether the pieces reach the end of what their tile saw beyond the seam.
    """

    nodes: np.ndarray
    pieces: np.ndarray
    shared: np.ndarray
    sizes: np.ndarray
    whole: np.ndarray
    label_shared: np.ndarray
    touching: np.ndarray
    cut: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of the pieces."""
        return self.shared / np.maximum(1, self.sizes.sum(axis=1) - self.shared)

    @property
    def agreement(self) -> np.ndarray:
        """Share of a piece that lies in the other one: of the one that is cut, else of the smaller one."""
        of_each = self.shared[:, None] / np.maximum(1, self.sizes)
        first_is_cut, second_is_cut = self.cut.T
        of_cut = np.where(first_is_cut, of_each[:, 0], of_each[:, 1])
        return np.where(first_is_cut == second_is_cut, of_each.max(axis=1, initial=0), of_cut)

    @property
    def label_iou(self) -> np.ndarray:
        """Intersection over union of the labels."""
        return self.label_shared / np.maximum(1, self.whole.sum(axis=1) - self.label_shared)


@dataclass(frozen=True)
class Unseen:
    """The end of a label beyond a seam, where the other tile found background.

    Parameters
    ----------
    node : int
        The label.
    box : tuple of slice
        Where it lies, in voxels of the image.
    voxels : ndarray of bool
        Those of the box.
    """

    node: int
    box: Box
    voxels: np.ndarray


class Predictions:
    """Labels of every tile with its halo.

    Parameters
    ----------
    image : ndarray
        The image.
    fn : callable
        Gives the labels of a tile.
    tile_shape : tuple of int
        Shape of a tile.
    halo : tuple of int
        Depth of the halo along each axis.
    grid : TileGrid, optional
        Other tiles than those of that shape, which begin at the origin.

    Attributes
    ----------
    core : ndarray of int64
        The image of *nodes*: labels of all tiles, numbered on, each in the core of its tile. 0 is background.
    n_nodes : int
        How many there are, 0 included.
    """

    def __init__(
        self,
        image: np.ndarray,
        fn: Callable[[np.ndarray], np.ndarray],
        tile_shape: Index,
        halo: Index,
        grid: TileGrid | None = None,
    ) -> None:
        self.grid = grid or TileGrid.regular(image.shape, tile_shape, halo)
        self.core = np.zeros(image.shape, np.int64)
        self.seen: dict[Index, np.ndarray] = {}
        self.n_nodes = 1
        for index in self.grid.indices():
            region, core = self.grid.region(index), self.grid.core(index)
            _, inverse = np.unique(np.append(0, fn(image[region]).ravel()), return_inverse=True)
            nodes = inverse[1:].reshape(tuple(part.stop - part.start for part in region)).astype(np.int64)
            nodes[nodes > 0] += self.n_nodes - 1
            self.seen[index] = nodes
            self.n_nodes = max(self.n_nodes, int(nodes.max(initial=0)) + 1)
            self.core[core] = nodes[relative_box(core, region)]

    def neighbours(self) -> Iterator[tuple[Index, Index]]:
        """Iterate over each two tiles that meet at a face, an edge or a corner."""
        steps = [
            step for step in itertools.product((-1, 0, 1), repeat=self.grid.ndim) if step > (0,) * self.grid.ndim
        ]
        for index in self.grid.indices():
            for step in steps:
                other = tuple(i + n for i, n in zip(index, step, strict=True))
                if all(0 <= i < n for i, n in zip(other, self.grid.grid_shape, strict=True)):
                    yield index, other

    @cached_property
    def contacts(self) -> set[tuple[int, int]]:
        """Nodes of two tiles that touch, across faces, edges and corners."""
        found: set[tuple[int, int]] = set()
        for one, two in self.neighbours():
            # Two voxels thick, across the seam.
            box = tuple(
                slice(max(a.start, b.start) - (a.start != b.start), min(a.stop, b.stop) + (a.stop != b.stop))
                for a, b in zip(self.grid.core(one), self.grid.core(two), strict=True)
            )
            found |= _touching(self.core, box, self.grid.core(one), self.grid.core(two))
        return found

    @cached_property
    def faces(self) -> set[tuple[int, int]]:
        """Nodes of two tiles that touch across faces."""
        return {pair for pair in _neighbours_in(self.core) if pair not in self.told_apart}

    @cached_property
    def told_apart(self) -> set[tuple[int, int]]:
        """Nodes of one tile that touch across faces."""
        return set().union(*(_neighbours_in(self.core[self.grid.core(index)]) for index in self.grid.indices()))

    @cached_property
    def unseen(self) -> list[Unseen]:
        """Ends of labels beyond the seams of their tile, that another tile did not see."""
        both_ways = ((a, b) for one, two in self.neighbours() for a, b in ((one, two), (two, one)))
        return [end for pair in both_ways for end in self._ends_unseen(*pair)]

    def _ends_unseen(self, tile: Index, other: Index) -> Iterator[Unseen]:
        """Iterate over what a tile saw whole in the core of another, which found background in most of it."""
        region = self.grid.region(tile)
        both = common_box(region, self.grid.region(other))
        box, own = common_box(region, self.grid.core(other)), common_box(self.grid.core(tile), both)
        if any(part.stop <= part.start for part in box):
            return
        within, background = self.seen[tile][relative_box(box, region)], self.core[box] == 0
        nodes = set(np.unique(within).tolist()) - {0}
        nodes -= set(self._at_the_end(self.seen[tile][relative_box(both, region)], tile, other).tolist())
        beyond: list[slice | int] = [slice(None)] * within.ndim
        for axis, (i, j) in enumerate(zip(tile, other, strict=True)):
            if i != j:
                nodes &= set(np.unique(self.core[own].take(-1 if j > i else 0, axis)).tolist())
                beyond[axis] = 0 if j > i else -1
        for node in nodes:
            end = within == node
            unseen = end & background
            # Half of what lies right beyond the seam, and nearly all of the end.
            first_seen, first_lost = np.sum(end[tuple(beyond)]), np.sum(unseen[tuple(beyond)])
            if 2 * first_lost >= max(2, first_seen) and 10 * np.sum(unseen) >= 9 * np.sum(end):
                yield Unseen(node, box, unseen)

    def _at_the_end(self, values: np.ndarray, tile: Index, other: Index) -> np.ndarray:
        """Return the values, of what both tiles saw, where one saw no further beyond the seam to the other."""
        found = [np.zeros(0, values.dtype)]
        for axis, (i, j) in enumerate(zip(tile, other, strict=True)):
            region, n, halo = self.grid.region(tile)[axis], self.grid.shape[axis], self.grid.halo[axis]
            if i != j and halo and (region.stop < n if j > i else region.start > 0):
                found.append(values.take(-1 if j > i else 0, axis).ravel())
        return np.unique(np.concatenate(found))

    @cached_property
    def evidence(self) -> list[Evidence]:
        """What each two tiles say of the labels that touch across their seam."""
        return [found for pair in self.neighbours() if (found := self._compare(*pair)) is not None]

    def _compare(self, one: Index, two: Index) -> Evidence | None:
        views = self._views(one, two)
        if views is None:
            return None
        pieces = [label(view, background=0, connectivity=view.ndim) for view in views]
        both = (views[0] > 0) & (views[1] > 0)
        rows, shared = np.unique(np.stack([p[both] for p in pieces], axis=1), axis=0, return_counts=True)
        owner = [np.zeros(p.max(initial=0) + 1, np.int64) for p in pieces]
        for node_of, view, piece in zip(owner, views, pieces, strict=True):
            node_of[piece.ravel()] = view.ravel()
        sizes = [np.bincount(p.ravel(), minlength=len(o)) for p, o in zip(pieces, owner, strict=True)]
        ends = [self._at_the_end(p, *to) for p, to in zip(pieces, ((one, two), (two, one)), strict=True)]
        counts = [dict(zip(*np.unique(view, return_counts=True), strict=True)) for view in views]
        nodes = np.stack([o[column] for o, column in zip(owner, rows.T, strict=True)], axis=1)
        together: dict[tuple[int, int], int] = {}
        for pair, n in zip(map(tuple, nodes.tolist()), shared.tolist(), strict=True):
            together[pair] = together.get(pair, 0) + n
        pairs = list(map(tuple, nodes.tolist()))
        return Evidence(
            nodes,
            rows,
            shared,
            np.stack([n[column] for n, column in zip(sizes, rows.T, strict=True)], axis=1),
            np.array([[counts[0][a], counts[1][b]] for a, b in pairs]).reshape(-1, 2),
            np.array([together[pair] for pair in pairs], np.int64),
            np.array([pair in self.contacts for pair in pairs], bool),
            np.stack([np.isin(column, end) for column, end in zip(rows.T, ends, strict=True)], axis=1),
        )

    def _views(self, one: Index, two: Index) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what both tiles predict where both have seen; without a halo the planes that touch."""
        regions = self.grid.region(one), self.grid.region(two)
        box = common_box(*regions)
        empty = [axis for axis, part in enumerate(box) if part.stop <= part.start]
        if len(empty) > 1:
            return None
        boxes: list[Box] = [box, box]
        for axis in empty:
            at = self.grid.core(two)[axis].start
            boxes = [(*box[:axis], slice(n, n + 1), *box[axis + 1 :]) for n in (at - 1, at)]
        a, b = (
            self.seen[tile][relative_box(part, region)]
            for tile, part, region in zip((one, two), boxes, regions, strict=True)
        )
        return a, b


def _neighbours_in(labels: np.ndarray) -> set[tuple[int, int]]:
    """Return which labels touch across faces, the smaller first."""
    found: set[tuple[int, int]] = set()
    for axis in range(labels.ndim):
        low, high = (labels[(slice(None),) * axis + (part,)] for part in (slice(None, -1), slice(1, None)))
        here = (low != high) & (low > 0) & (high > 0)
        pairs = np.unique(np.sort(np.stack([low[here], high[here]], axis=1), axis=1), axis=0)
        found.update((int(a), int(b)) for a, b in pairs)
    return found


def _touching(core: np.ndarray, box: Box, one: Box, two: Box) -> set[tuple[int, int]]:
    """Return which nodes of two tiles are neighbours in a box, corners included."""
    found: set[tuple[int, int]] = set()
    inside = [core[common_box(box, tile)] for tile in (one, two)]
    origins = [[part.start for part in common_box(box, tile)] for tile in (one, two)]
    for step in itertools.product((-1, 0, 1), repeat=core.ndim):
        # A voxel of the first tile, and the one beside it in the second.
        low = [max(a, b - n) for a, b, n in zip(*origins, step, strict=True)]
        ends = [
            [o + n for o, n in zip(origin, part.shape, strict=True)]
            for origin, part in zip(origins, inside, strict=True)
        ]
        high = [min(a, b - n) for a, b, n in zip(*ends, step, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            continue
        first = core[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        second = core[tuple(slice(a + n, b + n) for a, b, n in zip(low, high, step, strict=True))]
        here = (first > 0) & (second > 0)
        found |= set(zip(first[here].tolist(), second[here].tolist(), strict=True))
    return found
