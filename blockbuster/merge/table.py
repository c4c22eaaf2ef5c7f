"""The remap table: the final id of every provisional id, without a place for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blockbuster.grid import BrickGrid
from blockbuster.rundir.arrays import ArrayFolder

INT32_MAX = 2**31 - 1


def find_among(known: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up ids among known ones, which are sorted.

    Returns
    -------
    places : (m,) ndarray of int
        Where those lie that are known.
    hit : (n,) ndarray of bool
        Which of the ids these are.

    Examples
    --------
    >>> places, hit = find_among(np.array([2, 5, 9]), np.array([5, 6, 10, 2]))
    >>> places.tolist(), hit.tolist()
    ([1, 0], [True, False, False, True])
    """
    if not len(known):
        return np.zeros(0, np.intp), np.zeros(len(ids), bool)
    # Ids of another dtype would have all known ones copied.
    places = np.searchsorted(known, ids.astype(known.dtype, copy=False))
    places[places == len(known)] = 0
    hit = known[places] == ids
    return places[hit], hit


def id_dtype(largest: int) -> np.dtype:
    """Return int32, or int64 where the largest id needs it."""
    return np.dtype(np.int32 if largest <= INT32_MAX else np.int64)


@dataclass(frozen=True)
class RemapTable:
    """Final ids of provisional ids.

    A provisional id that touches no seam keeps its place among the others, as does the smallest of
    an object, so only the other border labels are held.

    Parameters
    ----------
    border : (m,) ndarray of int32 or int64
        Provisional ids that touch another across a seam, sorted; the smallest of an object may be
        left out.
    roots : (m,) ndarray of the same dtype
        The smallest provisional id of each one's object.
    n_provisional : int
        The largest provisional id.
    sequential : bool
        Number the objects 1..N by rank instead of by their smallest provisional id.

    Examples
    --------
    >>> table = RemapTable(np.array([2, 5]), np.array([2, 2]), n_provisional=6, sequential=True)
    >>> table.n_objects
    5
    >>> table.final_ids(np.arange(1, 7)).tolist()
    [1, 2, 3, 4, 2, 5]
    """

    border: np.ndarray
    roots: np.ndarray
    n_provisional: int
    sequential: bool

    @cached_property
    def absorbed(self) -> np.ndarray:
        """Provisional ids that are not the smallest of their object, sorted."""
        is_absorbed = self.border != self.roots
        return self.border if is_absorbed.all() else self.border[is_absorbed]

    @cached_property
    def n_objects(self) -> int:
        """Number of objects."""
        return self.n_provisional - int(np.count_nonzero(self.border != self.roots))

    @property
    def dtype(self) -> np.dtype:
        """int32, or int64 where the final ids need it."""
        return id_dtype(self.n_objects if self._by_rank else self.n_provisional)

    @property
    def _by_rank(self) -> bool:
        """Ranks are also what keeps ids in int32 when only the provisional ones exceed it."""
        return self.sequential or (self.n_provisional > INT32_MAX and self.n_objects <= INT32_MAX)

    def roots_of(self, provisional: np.ndarray) -> np.ndarray:
        """Return the smallest provisional id of the object of each of some, int64."""
        found = np.array(provisional, np.int64)
        places, hit = find_among(self.border, found)
        found[hit] = self.roots[places]
        return found

    def final_ids(self, provisional: np.ndarray) -> np.ndarray:
        """Look up the final ids of sorted or unsorted provisional ids, int64."""
        final = self.roots_of(provisional)
        if self._by_rank:
            final -= np.searchsorted(self.absorbed, final.astype(self.border.dtype, copy=False))
        return final

    def save(self, arrays: ArrayFolder) -> None:
        """Keep the table where every worker can map it."""
        arrays.save("border", self.border)
        arrays.save("roots", self.roots)
        arrays.save("numbers", np.array([self.n_provisional, self.sequential]))

    @classmethod
    def load(cls, arrays: ArrayFolder) -> RemapTable:
        """Read a kept table."""
        n_provisional, sequential = arrays.load("numbers").tolist()
        border, roots = arrays.load("border"), arrays.load("roots")
        return cls(border, roots, n_provisional, bool(sequential))


@dataclass(frozen=True)
class BrickIds:
    """From ids within a brick to provisional ids.

    Parameters
    ----------
    bricks : BrickGrid
        Tiles and bricks.
    counts : ndarray of int64, shape of the tile grid
        Labels per tile.
    offsets : ndarray of int32 or int64, shape of the tile grid
        What is added to a tile's local ids: the labels of all tiles before it in C order. Of the
        dtype that holds every provisional id.
    """

    bricks: BrickGrid
    counts: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_counts(cls, bricks: BrickGrid, counts: np.ndarray) -> BrickIds:
        """Add up the counts."""
        offsets = np.cumsum(counts, dtype=id_dtype(int(counts.sum()))).reshape(counts.shape)
        np.subtract(offsets, counts, out=offsets, casting="same_kind")
        return cls(bricks, counts, offsets)

    @property
    def dtype(self) -> np.dtype:
        """Of provisional ids where many are held: int32, or int64 where that is needed."""
        return self.offsets.dtype

    def tile_numbers(self, provisional: np.ndarray) -> np.ndarray:
        """Return the number, in C order, of the tile that each provisional id is from."""
        # Of tiles without labels, which have the offset of the next one, the last is found.
        before = (provisional - 1).astype(self.dtype, copy=False)
        return np.searchsorted(self.offsets.ravel(), before, side="right") - 1

    def n_labels(self, index: tuple[int, ...]) -> int:
        """Count the labels of a brick."""
        return int(self.counts[self.bricks.tiles(index)].sum())

    def firsts(self, index: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
        """Count the labels of a brick before each of some of its tiles, given by their numbers in
        the grid.
        """
        tiles = self.bricks.tiles(index)
        counts = self.counts[tiles]
        firsts: np.ndarray = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape)
        places = np.unravel_index(numbers, self.bricks.grid.grid_shape)
        inside = tuple(i - part.start for i, part in zip(places, tiles, strict=True))
        return np.asarray(firsts[inside])

    def all_of(self, index: tuple[int, ...]) -> np.ndarray:
        """Return the provisional ids of a brick's ids 1..n, int64."""
        tiles = self.bricks.tiles(index)
        counts = self.counts[tiles].ravel()
        starts = np.cumsum(counts) - counts
        shift = np.repeat(self.offsets[tiles].ravel() - starts, counts)
        return shift + np.arange(1, len(shift) + 1)
