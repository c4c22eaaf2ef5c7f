"""From sums per label of a tile to objects: the parts of each are added up, in the order of their
ids.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blockbuster.grid import Index
from blockbuster.kernels.measuring import add_parts
from blockbuster.measure.names import Measures
from blockbuster.measure.sums import Parts, read_sums
from blockbuster.merge.table import BrickIds, RemapTable
from blockbuster.rundir.staged import StagedLabels

# So many labels are looked at at once, unless a single tile has more.
MAX_LABELS = 2**17
# Of so many ranges of tiles all is kept that was read of them.
MAX_BANDS_KEPT = 8
Band = tuple[int, int]


@dataclass(frozen=True)
class LabelledParts:
    """Parts of objects, with the label and the tile of each.

    Parameters
    ----------
    ids : (n,) ndarray of int64
        Provisional ids.
    tiles : (n,) ndarray of int64
        Numbers of tiles.
    parts : Parts
        Their sums, placed in the image.
    """

    ids: np.ndarray
    tiles: np.ndarray
    parts: Parts

    def take(self, chosen: np.ndarray) -> LabelledParts:
        """Choose some, by their places or a mask."""
        return LabelledParts(self.ids[chosen], self.tiles[chosen], self.parts.take(chosen))

    @classmethod
    def concatenated(cls, found: list[LabelledParts]) -> LabelledParts:
        """Put some after others."""
        ids, tiles = (np.concatenate([getattr(one, name) for one in found]) for name in ("ids", "tiles"))
        return cls(ids, tiles, Parts.concatenated([one.parts for one in found]))

    def in_order(self) -> LabelledParts:
        """Sort them by tiles; those of one tile stay as they are."""
        return self.take(np.argsort(self.tiles, kind="stable"))


@dataclass(frozen=True)
class Folding:
    """Adds up the parts of objects.

    Parameters
    ----------
    staged : StagedLabels
        The stage, whose tasks kept sums.
    ids : BrickIds
        From ids within a brick to provisional ids.
    table : RemapTable
        Which labels are one object.
    measures : Measures
        What is measured.
    completed : LabelledParts
        What completes objects.
    """

    staged: StagedLabels
    ids: BrickIds
    table: RemapTable
    measures: Measures
    completed: LabelledParts

    def objects(self) -> Iterator[tuple[np.ndarray, np.ndarray, Parts]]:
        """Add up all parts.

        Yields
        ------
        ids : (n,) ndarray of int64
            The smallest provisional id of each of some objects; they ascend, also from one batch to
            the next.
        n_tiles : (n,) ndarray of int64
            How many tiles each has voxels in.
        objects : Parts
            Their sums.

        Notes
        -----
        Reads the sums of each brick once, or twice where objects have several parts. Memory grows
        with the number of those objects.
        """
        bands = list(self._bands())
        read = functools.lru_cache(MAX_BANDS_KEPT)(self._read)
        joined = self._joined
        wholes = Parts.zeros(len(joined), self.staged.bricks.grid.ndim, self.measures)
        last_tiles, n_tiles = np.full(len(joined), -1), np.zeros(len(joined), np.int64)
        for band in bands if len(joined) else ():
            found = self._parts_of_joined(band, read(band))
            places = np.searchsorted(joined, self.table.roots_of(found.ids))
            arrays = found.parts.arrays, last_tiles, n_tiles, wholes.arrays
            add_parts(places, found.tiles, self.measures.pairs, *arrays)
        for band in bands:
            first, parts = read(band)
            within = self._within(joined, first, len(parts))
            tiles_of_each = np.ones(len(parts), np.int64)
            own = joined[within] - first
            parts.put(own, wholes.take(within))
            tiles_of_each[own] = n_tiles[within]
            is_first = np.ones(len(parts), bool)
            is_first[self.table.absorbed[self._within(self.table.absorbed, first, len(parts))] - first] = False
            yield first + np.flatnonzero(is_first), tiles_of_each[is_first], parts.take(is_first)

    @cached_property
    def _joined(self) -> np.ndarray:
        """The smallest provisional ids of objects of several parts, sorted."""
        roots = self.table.roots[self.table.border != self.table.roots]
        return np.union1d(roots.astype(np.int64), self.table.roots_of(self.completed.ids))

    def _within(self, ids: np.ndarray, first: int, n: int) -> slice:
        """Return where sorted ids are those of `n` labels from the first one on."""
        # One of another dtype would have all of them copied.
        ends = np.array([first, first + n - 1]).astype(ids.dtype)
        return slice(
            int(np.searchsorted(ids, ends[0])), int(np.searchsorted(ids, ends[1], side="right")) if n else 0
        )

    def _parts_of_joined(self, band: Band, labels: tuple[int, Parts]) -> LabelledParts:
        """Return the parts in some tiles of objects of several parts, in order of tiles."""
        first, parts = labels
        chosen = np.zeros(len(parts), bool)
        for ids in (self.table.absorbed, self._joined):
            chosen[ids[self._within(ids, first, len(parts))] - first] = True
        ids = first + np.flatnonzero(chosen)
        found = LabelledParts(ids, self.ids.tile_numbers(ids), parts.take(chosen))
        inside = (self.completed.tiles >= band[0]) & (self.completed.tiles < band[1])
        return LabelledParts.concatenated([found, self.completed.take(inside)]).in_order()

    def _bands(self) -> Iterator[Band]:
        """Cut the tiles into ranges of numbers, each with few labels, and of whole bricks where
        that is possible.
        """
        start = stop = n_labels = 0
        for band in self._cut(0, 0):
            n = self._n_labels(*band)
            if stop > start and n_labels + n > MAX_LABELS:
                yield start, stop
                start, n_labels = band[0], 0
            stop, n_labels = band[1], n_labels + n
        if stop > start:
            yield start, stop

    def _cut(self, start: int, axis: int) -> Iterator[Band]:
        """Cut the tiles behind each other along an axis and all that follow it."""
        bricks = self.staged.bricks
        shape, step = bricks.grid.grid_shape, bricks.tiles_per_brick[axis]
        unit = math.prod(shape[axis + 1 :])
        for i in range(0, shape[axis], step):
            first, stop = start + i * unit, start + min(i + step, shape[axis]) * unit
            if self._n_labels(first, stop) <= MAX_LABELS:
                yield first, stop
            elif axis + 1 < len(shape):
                for tile in range(first, stop, unit):
                    yield from self._cut(tile, axis + 1)
            else:
                yield from zip(range(first, stop), range(first + 1, stop + 1), strict=True)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Labels before each tile, and how many there are."""
        return np.append(0, np.cumsum(self.ids.counts))

    def _n_labels(self, first: int, stop: int) -> int:
        return int(self._ends[stop] - self._ends[first])

    def _read(self, band: Band) -> tuple[int, Parts]:
        """Read the sums of the labels of some tiles; return the first provisional id, and them."""
        first, n = int(self._ends[band[0]]) + 1, self._n_labels(*band)
        grid = self.staged.bricks.grid
        found = Parts.zeros(n, grid.ndim, self.measures)
        for index in self._bricks_of(band):
            sums = read_sums(self.staged.open_brick(index), self.ids.n_labels(index), grid.ndim, self.measures)
            provisional = self.ids.all_of(index)
            inside = (provisional >= first) & (provisional < first + n)
            if not inside.all():
                sums, provisional = sums.take(inside), provisional[inside]
            origins = grid.cores(self.ids.tile_numbers(provisional))[:, :, 0]
            found.put(provisional - first, sums.placed(origins, self.measures.pairs))
        return first, found

    def _bricks_of(self, band: Band) -> Iterator[Index]:
        """Iterate over the bricks with labels in some tiles."""
        bricks = self.staged.bricks
        # Along axes after the first one on which the ends differ, a band has all tiles.
        low, high = bricks.grid.index(band[0]), bricks.grid.index(band[1] - 1)
        ranges, differ = [], False
        for a, b, n, step in zip(low, high, bricks.grid.grid_shape, bricks.tiles_per_brick, strict=True):
            ends = (0, n - 1) if differ else (a, b)
            differ = differ or a != b
            ranges.append(range(ends[0] // step, ends[1] // step + 1))
        return filter(self.ids.n_labels, itertools.product(*ranges))
