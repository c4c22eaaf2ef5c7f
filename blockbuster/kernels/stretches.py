"""Stretches: labels as pieces of one id along the last axis, row by row."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Box, Index, relative_box
from blockbuster.kernels.comparing import (
    FACE,
    INSIDE,
    MIDDLE,
    clip_stretches,
    keep_border,
    number_stretches,
)
from blockbuster.kernels.find_stretches import fill_boxes, find_stretches

FIRST_HASH_SIZE = 1024
HASH_GROWTH = 4
COLUMNS = ("counts", "gaps", "lengths", "ids")


@dataclass(frozen=True)
class TileStretches:
    """Labels of a box of voxels, row by row.

    Parameters
    ----------
    box : tuple of slice
        The box in voxels of the image.
    rows : (n_rows + 1,) ndarray of int64
        Where the stretches of each row begin; rows are counted in C order.
    stretches : (n, 3) ndarray of int32
        Start and stop along the last axis, from the box's origin, and id.

    Examples
    --------
    >>> stretches = np.array([[0, 2, 7], [3, 6, 9]], np.int32)
    >>> tile = TileStretches((slice(0, 6),), np.array([0, 2]), stretches)
    >>> tile.clipped((slice(1, 4),)).stretches.tolist()
    [[0, 1, 7], [2, 3, 9]]
    """

    box: Box
    rows: np.ndarray
    stretches: np.ndarray

    @classmethod
    def empty(cls, box: Box) -> TileStretches:
        """Return a box without labels."""
        n_rows = math.prod([part.stop - part.start for part in box[:-1]])
        return cls(box, np.zeros(n_rows + 1, np.int64), np.empty((0, 3), np.int32))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple([part.stop - part.start for part in self.box])

    def seen(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what kernels take of a box inside this one: rows and stretches, its own rows and
        window.
        """
        axes = zip(box, self.box, strict=True)
        parts = [(own.stop - own.start, cut.start - own.start, cut.stop - own.start) for cut, own in axes]
        return self.rows, self.stretches, *_rows_and_window(tuple(parts))

    def clipped(self, box: Box) -> TileStretches:
        """Cut the stretches down to a box inside this one."""
        whole_rows, whole, taken, window = self.seen(box)
        rows, stretches = np.empty(len(taken) + 1, np.int64), np.empty_like(whole)
        n = clip_stretches((whole_rows, whole), taken, window, rows, stretches)
        return TileStretches(box, rows, stretches[:n].copy())

    def filtered(self, is_kept: np.ndarray) -> TileStretches:
        """Keep the stretches for which ``is_kept[id]`` holds."""
        keep = is_kept[self.stretches[:, 2]]
        return TileStretches(self.box, np.concatenate([[0], np.cumsum(keep)])[self.rows], self.stretches[keep])

    def numbered(self, n_ids: int) -> tuple[np.ndarray, int]:
        """Number the ids, none above `n_ids`, 1, 2, ... by first appearance, in place.

        Returns
        -------
        lookup : (n_ids + 1,) ndarray of int32
            New id of each one, 0 for those that do not occur.
        count : int
            How many do.
        """
        lookup = np.zeros(n_ids + 1, np.int32)
        return lookup, number_stretches(self.stretches, lookup)


@functools.lru_cache(maxsize=256)
def _rows_and_window(parts: tuple[tuple[int, int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and window of a part of a box, by the box's length, the part's start and its stop
    along each axis; most tiles of a grid show the same to each other.
    """
    lengths, starts, stops = zip(*parts, strict=True)
    return row_numbers(lengths, list(map(slice, starts, stops))), np.array(parts[-1][1:])


def row_numbers(shape: Sequence[int], part: Sequence[slice]) -> np.ndarray:
    """Number the rows of a part of a box, in C order, as rows of the box.

    Examples
    --------
    >>> row_numbers((3, 4, 9), (slice(1, 3), slice(2, 4), slice(0, 9))).tolist()
    [6, 7, 10, 11]
    """
    numbers = np.zeros(1, np.int64)
    for length, cut in zip(shape[:-1], part[:-1], strict=True):
        numbers = (numbers[:, None] * length + np.arange(cut.start, cut.stop)).ravel()
    return numbers


class StretchFinder:
    """Finds the stretches of one array of labels after another, in one thread.

    Examples
    --------
    >>> labels = np.array([[2**40, 2**40, 0, 7], [7, 7, 7, 2**40]])
    >>> tile, count = StretchFinder().find(labels, (slice(0, 2), slice(0, 4)))
    >>> tile.stretches.tolist(), tile.rows.tolist(), count
    ([[0, 2, 1], [3, 4, 2], [0, 3, 2], [3, 4, 1]], [0, 2, 4], 2)
    """

    def __init__(self) -> None:
        self._room = np.empty((FIRST_HASH_SIZE, 3), np.int32)
        self._table = np.empty((FIRST_HASH_SIZE, 2), np.uint64)

    def find(self, labels: np.ndarray, box: Box) -> tuple[TileStretches, int]:
        """Find the stretches of labels, with ids 1, 2, ... by first appearance in C order.

        Parameters
        ----------
        labels : ndarray of integers
            Of any size and sparsity, none negative; 0 is background.
        box : tuple of slice
            Where they lie.

        Returns
        -------
        TileStretches
        int
            How many distinct labels there are.

        Notes
        -----
        One pass over the voxels, and at most a third more where there are many ids; a label is
        looked up once for each stretch. Memory grows with the number of stretches and of distinct
        ids, never with the largest id.
        """
        labels = as_unsigned(labels)
        rows = np.zeros(math.prod(labels.shape[:-1]) + 1, np.int64)
        table = self._table
        table.fill(0)
        while (count := self._search(labels, table, rows)) is None:
            table = np.zeros((HASH_GROWTH * len(table), 2), np.uint64)
        return TileStretches(box, rows, self._room[: rows[-1]].copy()), count

    def _search(self, labels: np.ndarray, table: np.ndarray, rows: np.ndarray) -> int | None:
        """Fill in rows and stretches, and count the ids; None if there are too many for the
        table.
        """
        length = labels.shape[-1]
        changes = np.empty(max(1, length), np.int32)
        begin, count = 0, 0
        volumes = labels[(None,) * (3 - labels.ndim)]
        for index in itertools.product(*map(range, volumes.shape[:-3])) if labels.size else ():
            part = volumes[index]
            row, n_rows = 0, part.shape[0] * part.shape[1]
            own = rows[begin : begin + n_rows + 1]
            while row < n_rows:
                row, count = find_stretches(part, row, table, count, changes, own, self._room)
                if row < n_rows:
                    if 2 * count >= len(table):
                        return None
                    narrow, self._room = self._room, np.empty((2 * len(self._room) + length, 3), np.int32)
                    self._room[: own[row]] = narrow[: own[row]]
            begin += n_rows
        return count


def border_stretches(
    whole: TileStretches, lookup: np.ndarray, core: Box, depths: Sequence[tuple[int, int]]
) -> TileStretches:
    """Keep, near a tile's borders, the stretches of the labels that touch one of them.

    Parameters
    ----------
    whole : TileStretches
        The tile with its halo.
    lookup : (n + 1,) ndarray of int32
        The id in the core of each of its ids, 0 for those that are in the halo alone.
    core : tuple of slice
        The tile without its halo, in voxels of the image.
    depths : sequence of (low, high)
        Per axis how far from the border the neighbour on either side sees into the core; 0 where
        there is no neighbour.

    Returns
    -------
    TileStretches
        With the ids of the core. Without labels that touch no border, and without stretches that
        are farther from all borders than the depths.
    """
    inner = relative_box(core, whole.box)
    ends = tuple([(part.start, part.stop) for part in inner])
    places, window, sides, middle = _border_places(whole.shape, ends, tuple(map(tuple, depths)))
    rows, stretches = np.empty_like(whole.rows), np.empty_like(whole.stretches)
    is_kept = np.zeros(len(lookup), bool)
    n = keep_border(
        (whole.rows, whole.stretches), lookup, places, window, sides, middle, is_kept, rows, stretches
    )
    # A copy, so that what was too much is given back.
    return TileStretches(whole.box, rows, stretches[:n].copy())


@functools.lru_cache(maxsize=64)
def _border_places(
    shape: Index, ends: tuple[tuple[int, int], ...], depths: tuple[tuple[int, int], ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what each row is to the neighbours, and what they see of it."""
    inner = [slice(*pair) for pair in ends]
    places = np.zeros(shape[:-1], np.uint8)
    places[tuple(inner[:-1])] = INSIDE
    for axis, (low, high) in enumerate(depths[:-1]):
        for depth, at in ((low, inner[axis].start), (high, inner[axis].stop - 1)):
            if depth:
                face = list(inner[:-1])
                face[axis] = slice(at, at + 1)
                places[tuple(face)] = FACE
    # What no neighbour sees, from the region's origin.
    middle = tuple(
        slice(part.start + low if low else 0, part.stop - high if high else length)
        for length, part, (low, high) in zip(shape, inner, depths, strict=True)
    )
    unseen = [0, 0]
    if all(part.start < part.stop for part in middle):
        places[middle[:-1]] |= MIDDLE
        unseen = [middle[-1].start, middle[-1].stop]
    return np.ravel(places), np.array(ends[-1]), np.array(depths[-1]) > 0, np.array(unseen)


@dataclass(frozen=True)
class StretchGroup:
    """Stretches of several tiles, one after another.

    Parameters
    ----------
    boxes : (n, ndim, 2) ndarray of int64
        Start and stop of each tile's box along each axis, in voxels of the image.
    rows : (n_rows + 1,) ndarray of int64
        Where the stretches of each row of all tiles begin.
    stretches : (n, 3) ndarray of int32
        As those of a tile.
    """

    boxes: np.ndarray
    rows: np.ndarray
    stretches: np.ndarray

    @classmethod
    def of(cls, tiles: Sequence[TileStretches], boxes: np.ndarray) -> StretchGroup:
        """Put tiles, of which there is one at least, one after another; `boxes` is where they
        lie.
        """
        counts = np.diff(np.concatenate([tile.rows for tile in tiles]))
        ends = np.cumsum([len(tile.rows) for tile in tiles])[:-1]
        counts = np.delete(counts, ends - 1)
        stretches = np.concatenate([tile.stretches for tile in tiles])
        return cls(boxes, np.concatenate([[0], np.cumsum(counts)]), stretches)

    @functools.cached_property
    def first_rows(self) -> np.ndarray:
        """The first row of each tile, and how many there are."""
        lengths = self.boxes[:, :-1, 1] - self.boxes[:, :-1, 0]
        return np.concatenate([[0], np.cumsum(np.prod(lengths, axis=1, dtype=np.int64))])

    def tiles(self) -> Iterator[TileStretches]:
        """Take the tiles apart again."""
        for box, (first, stop) in zip(self.boxes.tolist(), itertools.pairwise(self.first_rows), strict=True):
            rows = self.rows[first : stop + 1]
            stretches = self.stretches[rows[0] : rows[-1]]
            yield TileStretches(tuple([slice(*ends) for ends in box]), rows - rows[0], stretches)

    def columns(self) -> dict[str, np.ndarray]:
        """Return numbers that repeat from row to row and compress well: stretches per row, gap,
        length, id.
        """
        start, stop, ids = self.stretches.T
        gaps = start.copy()
        gaps[1:] -= stop[:-1]
        first = self.rows[:-1][np.diff(self.rows) > 0]
        gaps[first] = start[first]
        return dict(zip(COLUMNS, (np.diff(self.rows), gaps, stop - start, ids), strict=True))

    @classmethod
    def from_columns(cls, boxes: np.ndarray, columns: Mapping[str, np.ndarray]) -> StretchGroup:
        """Make a group again of its `columns`."""
        counts, gaps, lengths, ids = (columns[name] for name in COLUMNS)
        rows = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        ends = np.concatenate([[0], np.cumsum(gaps.astype(np.int64) + lengths)])
        stretches = np.empty((len(ids), 3), np.int32)
        stretches[:, 1] = ends[1:] - np.repeat(ends[rows[:-1]], counts)
        stretches[:, 0] = stretches[:, 1] - lengths
        stretches[:, 2] = ids
        return cls(boxes, rows, stretches)

    def fill(self, firsts: np.ndarray, box: Box, table: np.ndarray, out: np.ndarray) -> None:
        """Fill in the voxels of a box that the tiles cover.

        Parameters
        ----------
        firsts : (n,) ndarray of int64
            What is added to the ids of each tile.
        box : tuple of slice
            The box, in voxels of the image.
        table : (m,) ndarray of int
            What is filled in for each id.
        out : ndarray of the same dtype
            The box, contiguous; background is left as it is.
        """
        starts, stops = np.array([(part.start, part.stop) for part in box]).T
        cut = np.empty_like(self.boxes)
        np.maximum(self.boxes[:, :, 0], starts, out=cut[:, :, 0])
        np.minimum(self.boxes[:, :, 1], stops, out=cut[:, :, 1])
        self.place(firsts, np.arange(len(cut)), cut, cut[:, :, 0] - starts, table, out)

    def dense(self, k: int, firsts: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Return what the table has for the labels of one of the tiles, voxel by voxel."""
        box = self.boxes[k]
        out = np.zeros(box[:, 1] - box[:, 0], table.dtype)
        self.place(firsts, np.array([k]), box[None], np.zeros_like(box[None, :, 0]), table, out)
        return out

    def place(
        self,
        firsts: np.ndarray,
        tiles: np.ndarray,
        cut: np.ndarray,
        places: np.ndarray,
        table: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Fill in parts ``cut`` (m, ndim, 2), some of them empty, of ``tiles`` (m,) at ``places``
        (m, ndim).
        """
        whole = self.boxes, self.first_rows, firsts, self.rows, self.stretches
        fill_boxes(*whole, tiles, cut, places, table, out.reshape(-1), np.array(out.strides) // out.itemsize)


def as_unsigned(labels: np.ndarray) -> np.ndarray:
    """View or convert to native uint32 or uint64, so that few kernels are compiled."""
    size = 4 if labels.dtype.itemsize <= 4 else 8
    if labels.dtype.itemsize == size and labels.dtype.isnative:
        return labels.view(f"u{size}")
    return labels.astype(f"u{size}")
