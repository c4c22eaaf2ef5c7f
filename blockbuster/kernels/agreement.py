"""Agreement: how far two tiles predict the same where both have looked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from blockbuster.grid import Box, Index, TileGrid
from blockbuster.kernels.comparing import compare_tiles
from blockbuster.kernels.pairs import neighbour_shifts
from blockbuster.kernels.stretches import TileStretches, row_numbers

Face = tuple[tuple[int, int], ...]
# Per axis, whether the low and the high end of a box are where a tile's sight ends beyond the seam.
Ends = tuple[tuple[bool, bool], ...]
# Pieces that touch, and labels of either tile whose ends the other one did not see.
Comparison = tuple[np.ndarray, Sequence[np.ndarray]]


@dataclass(frozen=True)
class Agreements:
    """Labels that touch across seams, and how far the two tiles agree on them.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int64
        Ids of the two labels.
    values : (n,) ndarray of float64
        Agreement, 0 to 1.
    ranks : (n,) ndarray of float32
        Intersection over union of the pieces, 0 to 1: which pairs are the better ones.
    voxels : (n,) ndarray of int64
        A voxel of the first label where they touch, as its position in the image in C order.
    """

    pairs: np.ndarray
    values: np.ndarray
    ranks: np.ndarray
    voxels: np.ndarray

    @classmethod
    def of_pieces(cls, found: Sequence[np.ndarray]) -> Agreements:
        """Assign to every pair of labels the agreement of its best pieces.

        Parameters
        ----------
        found : sequence of (n, 6) int64 arrays
            As `compare_pieces` gives them.
        """
        pieces = np.concatenate([NO_PIECES, *found])
        values = pieces[:, 2] / pieces[:, 3]
        ranks = (pieces[:, 2] / pieces[:, 4]).astype(np.float32)
        order = np.lexsort((-ranks, -values, pieces[:, 1], pieces[:, 0]))
        pairs = pieces[order, :2]
        is_first = np.ones(len(order), bool)
        is_first[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
        best = order[is_first]
        return cls(pieces[best, :2], values[best], ranks[best], pieces[best, 5])


NO_PIECES = np.empty((0, 6), np.int64)


def neighbour_steps(ndim: int, axes: Sequence[int], connectivity: int) -> list[Index]:
    """List the steps to neighbouring tiles, each pair of tiles once: to those behind.

    Examples
    --------
    >>> neighbour_steps(2, axes=(0, 1), connectivity=2)
    [(0, 1), (1, -1), (1, 0), (1, 1)]
    """
    return [step for step in neighbour_shifts(ndim, axes, connectivity) if step > (0,) * ndim]


class TilePair(NamedTuple):
    """Two neighbouring tiles from the origins of what they show to each other.

    Parameters
    ----------
    boxes : pair of tuple of slice
        What each tile shows to the other, in voxels of the image: for both the intersection of the
        regions that fn saw. Where the tiles have no halo across the seam, the outermost plane of
        each.
    faces : pair of tuple of (start, stop)
        The voxels of each tile's core that lie at the seam, from the origin of its box.
    ends : pair of tuple of (low, high)
        Where along each axis the box ends because the tile saw no further beyond the seam.
    free : tuple of int
        Axes along which a neighbour may be one voxel aside.
    n_aside : int
        Along how many of them at once.
    connectivity : int
        Which voxels of a piece are neighbours.
    n_bare : int
        Along how many axes the tiles are apart without a halo to see across: without any, both have
        predicted the box; along one, there are two faces to compare; else nothing.
    """

    boxes: tuple[Box, Box]
    faces: tuple[Face, Face]
    ends: tuple[Ends, Ends]
    free: Index
    n_aside: int
    connectivity: int
    n_bare: int

    @property
    def shape(self) -> Index:
        """Voxels per axis of both boxes."""
        return tuple([part.stop - part.start for part in self.boxes[0]])


class TilePairs:
    """The pairs of neighbouring tiles of a grid.

    Parameters
    ----------
    grid : TileGrid
        The tiles of the label image.
    axes : sequence of int
        The axes along which labels may be joined.
    connectivity : int
        Along how many axes two voxels may differ and still be neighbours.

    Examples
    --------
    >>> pairs = TilePairs(TileGrid.regular((40, 40), (20, 20), (4, 2)), axes=(0, 1), connectivity=2)
    >>> pairs.of((0, 0), (1, 0)).boxes[0]
    (slice(16, 24, None), slice(0, 22, None))
    """

    def __init__(self, grid: TileGrid, axes: Sequence[int], connectivity: int) -> None:
        self.grid = grid
        self.axes = tuple(axes)
        self.connectivity = connectivity
        self.steps = neighbour_steps(grid.ndim, axes, connectivity)
        self.strides = tuple([int(np.prod(grid.shape[axis + 1 :], dtype=np.int64)) for axis in range(grid.ndim)])
        # Both are asked for again and again.
        self._parts: dict[tuple[int, int, int], tuple[Any, ...]] = {}
        self._of_steps: dict[Index, tuple[Index, int, int, int]] = {}

    def of(self, tile: Index, step: Index) -> TilePair:
        """Describe what a tile and the neighbour at `step` from it see of each other."""
        keys = zip(range(len(step)), tile, step, strict=True)
        parts = [self._parts.get(key) or self._along(*key) for key in keys]
        mine, theirs, face, other_face, ends, other_ends = zip(*parts, strict=True)
        if step not in self._of_steps:
            n_bare = sum([d != 0 and not depth for d, depth in zip(step, self.grid.halo, strict=True)])
            free = tuple([axis for axis in self.axes if not step[axis]])
            self._of_steps[step] = free, self.connectivity - sum(map(abs, step)), self.connectivity, n_bare
        return TilePair((mine, theirs), (face, other_face), (ends, other_ends), *self._of_steps[step])

    def _along(self, axis: int, i: int, d: int) -> tuple[Any, ...]:
        """Along one axis, for both tiles: the box, the face, and where its sight ends."""
        halo, edges = self.grid.halo[axis], self.grid.edges[axis]
        cores = [slice(int(edges[k]), int(edges[k + 1])) for k in (i, i + d)]
        ends = [_end(core, toward) for core, toward in zip(cores, (d, -d), strict=True)]
        low, high = max(c.start for c in cores) - halo, min(c.stop for c in cores) + halo
        seen = slice(max(0, low), min(self.grid.shape[axis], high))
        boxes = ends if d and not halo else [seen, seen]
        faces = [(e.start - box.start, e.stop - box.start) for e, box in zip(ends, boxes, strict=True)]
        sees_beyond = d != 0 and halo > 0
        stops = (sees_beyond and low > 0, False), (False, sees_beyond and high < self.grid.shape[axis])
        self._parts[axis, i, d] = (*boxes, *faces, *(stops if d < 0 else stops[::-1]))
        return self._parts[axis, i, d]


def _end(core: slice, toward: int) -> slice:
    """Cut a core down to the plane that faces a neighbour; all of it where the neighbour is beside
    it.
    """
    if not toward:
        return core
    return slice(core.stop - 1, core.stop) if toward > 0 else slice(core.start, core.start + 1)


def compare_pieces(pair: TilePair, a: TileStretches, b: TileStretches, strides: Index) -> Comparison:
    """Find the labels of two tiles that touch across their seam, and measure how far they agree,
    piece by piece.

    Parameters
    ----------
    pair : TilePair
        The tiles.
    a, b : TileStretches
        Their labels, at least those that touch the seam between them, at least in the boxes of
        `pair`.
    strides : tuple of int
        Voxels from one place to the next along each axis of the label image.

    Returns
    -------
    pieces : (n, 6) ndarray of int64
        For each two pieces that touch: the ids in the stretches of `a` and `b`, voxels in common,
        voxels of the piece that agreement is a share of, voxels in either, and a voxel of `a` where
        they touch. A piece is a connected component of a label in what both tiles see. Agreement is
        a share of the piece that its tile saw cut off, since where an object ends is known best by
        a tile that saw it whole; of the smaller piece where both are cut off, or none is. Nothing
        is in common where nothing was seen by both.
    unseen : pair of ndarray of int64
        Labels of `a`, and of `b`, that go on beyond the seam, where the other tile found background
        in at least half of the voxels at its face, and end in what their own tile saw.

    Notes
    -----
    Time and memory grow with the number of stretches in what both tiles see.
    """
    boxes, *others = pair
    rows = _rows_of_pair(pair.shape, *others, strides)
    pieces, *unseen = compare_tiles(a.seen(boxes[0]), b.seen(boxes[1]), *rows)
    # A copy: a brick keeps those of all its tiles.
    found = pieces.copy()
    found[:, 5] += sum([part.start * stride for part, stride in zip(boxes[0], strides, strict=True)])
    if pair.n_bare > 1:
        found[:, 2] = 0
    return found, unseen


@functools.lru_cache(maxsize=64)
def _rows_of_pair(
    shape: Index,
    faces: tuple[Face, Face],
    ends: tuple[Ends, Ends],
    free: Index,
    n_aside: int,
    connectivity: int,
    n_bare: int,
    strides: Index,
) -> tuple[Any, ...]:
    """Return what `compare_tiles` takes of the rows that two tiles both see; most pairs of a grid
    have the same.
    """
    facing = _facing_rows(shape, faces, free, n_aside)
    ends_of_each = _end_rows(shape, ends[0]), _end_rows(shape, ends[1])
    # What lies right beyond the seam is the face of the other tile.
    beyond = _rows_beyond(shape, faces[1], not n_bare), _rows_beyond(shape, faces[0], not n_bare)
    before, positions = rows_before(shape, connectivity), row_positions(shape, strides)
    return facing, before, ends_of_each, beyond, positions


def _rows_beyond(shape: Index, face: Face, can_see: bool) -> np.ndarray:
    """Return the rows of a face, and behind them its start and stop along the last axis; no rows
    where neither tile sees beyond the seam.
    """
    rows = row_numbers(shape, [slice(*part) for part in face])
    return np.append(rows if can_see else rows[:0], face[-1])


def _end_rows(shape: Index, ends: Ends) -> np.ndarray:
    """Return which rows of a box lie at an end, and behind them whether the ends of all rows do."""
    is_end = np.zeros(shape[:-1], bool)
    for axis, sides in enumerate(ends[:-1]):
        for side, is_there in zip((0, -1), sides, strict=True):
            if is_there:
                is_end[(slice(None),) * axis + (side,)] = True
    return np.append(is_end, ends[-1])


def _facing_rows(
    shape: Index, faces: tuple[Face, Face], free: Index, n_aside: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that face each other across the seam, with the voxels a neighbour may be aside,
    and where.
    """
    last = len(shape) - 1
    pairs = [np.empty((0, 3), np.int64)]
    for shift in neighbour_shifts(last, [axis for axis in free if axis < last], n_aside):
        a = _shifted_rows(shape, faces[0], [-s for s in shift])
        b = _shifted_rows(shape, faces[1], shift)
        is_wide = last in free and np.count_nonzero(shift) < n_aside
        pairs.append(np.column_stack([a, b, np.full(len(a), is_wide)]))
    return np.concatenate(pairs), np.array([face[-1] for face in faces])


def _shifted_rows(shape: Index, face: Face, shift: Sequence[int]) -> np.ndarray:
    """Number the rows of a face that have a neighbour on the other side after a shift."""
    parts = [
        slice(start + max(0, s), stop - max(0, -s)) for (start, stop), s in zip(face[:-1], shift, strict=True)
    ]
    return row_numbers(shape, [*parts, slice(0, 0)])


@functools.lru_cache(maxsize=64)
def rows_before(shape: Index, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of each row that come before it, and by how many voxels a neighbour may
    be aside.
    """
    lengths = shape[:-1]
    shifts = [
        s for s in neighbour_shifts(len(lengths), range(len(lengths)), connectivity) if s < (0,) * len(lengths)
    ]
    numbers = np.arange(int(np.prod(lengths, dtype=np.int64))).reshape(lengths)
    before = np.full((*lengths, len(shifts)), -1, np.int64)
    for m, shift in enumerate(shifts):
        to = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, lengths, strict=True))
        origin = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, lengths, strict=True))
        before[..., m][to] = numbers[origin]
    slack = [int(np.count_nonzero(shift) < connectivity) for shift in shifts]
    return before.reshape(numbers.size, len(shifts)), np.array(slack, np.int64)


@functools.lru_cache(maxsize=64)
def row_positions(shape: Index, strides: tuple[int, ...]) -> np.ndarray:
    """Return the position of each row of a box in an image with such strides, from that of the
    first.

    Examples
    --------
    >>> row_positions((2, 3, 9), (10_000, 100, 1)).tolist()
    [0, 100, 200, 10000, 10100, 10200]
    """
    steps = [np.arange(n) * stride for n, stride in zip(shape[:-1], strides, strict=False)]
    return np.ravel(functools.reduce(np.add.outer, steps, np.zeros((), np.int64)))
