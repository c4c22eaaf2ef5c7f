"""Summary of the seams: pairs that touch, are joined and are refused, and which seams to look
at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.grid import Index, TileGrid
from blockbuster.merge.completion import Ends
from blockbuster.merge.table import BrickIds
from blockbuster.report import MAX_DOUBTFUL, MIN_DOUBTFUL, N_BINS, AxisSeams, WorstSeam

MAX_WORST = 4
MAX_PAIRS = 100
CORNERS = "edges and corners"


@dataclass(frozen=True)
class TouchingPairs:
    """Pairs of provisional ids whose labels touch across a seam.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int64
        Every pair once.
    agreement : (n,) ndarray of float64 or None
        How far the two tiles agree, where that was measured.
    ranks : (n,) ndarray of float32 or None
        Which pairs are the better ones, likewise.
    voxels : (n,) ndarray of int64 or None
        Where they touch, as a position in the image in C order.
    ends : sequence of Ends
        Ends of labels beyond these seams that the other tile did not see.
    """

    pairs: np.ndarray
    agreement: np.ndarray | None = None
    ranks: np.ndarray | None = None
    voxels: np.ndarray | None = None
    ends: Sequence[Ends] = ()

    @classmethod
    def joined(cls, parts: Sequence[TouchingPairs]) -> TouchingPairs:
        """Put some after another, all with agreement or all without."""
        columns: dict[str, Any] = {}
        for name in ("pairs", "agreement", "ranks", "voxels"):
            column = [getattr(part, name) for part in parts]
            columns[name] = None if column[0] is None else np.concatenate(column)
        return cls(**columns, ends=[end for part in parts for end in part.ends])

    def agreeing(self, threshold: float | None) -> np.ndarray:
        """Return on which pairs the tiles agree so far; all of them without a threshold."""
        if threshold is None or self.agreement is None:
            return np.ones(len(self.pairs), bool)
        return self.agreement >= threshold


@dataclass
class SeamTally:
    """Counts per kind of seam: one for each axis, and one for tiles that meet at an edge or a
    corner only.

    Parameters
    ----------
    touching, joined : (ndim + 1,) ndarray of int64
        Pairs of labels.
    histogram : (ndim + 1, N_BINS) ndarray of int64
        Pairs per bin of agreement; all zero where it was not measured.
    worst : list of WorstSeam
        Seams to look at, the first ones first; ``name`` is the number of their kind.
    doubtful : list of (doubt, voxel, one, other, agreement)
        Pairs of provisional ids that are neither clearly one object nor clearly two, the most
        doubtful first: how far they are from the threshold, where, and how far tiles agree.
    contradictions : int
        Pairs that were refused although they agree.
    completed : int
        Ends of objects that were filled in.
    alike, unlike : int
        Pairs by the intersection over union of their pieces: those of which two tiles saw about the
        same, and those of which they saw something else.
    """

    touching: np.ndarray
    joined: np.ndarray
    histogram: np.ndarray
    worst: list[WorstSeam] = field(default_factory=list)
    doubtful: list[tuple[float, int, int, int, float]] = field(default_factory=list)
    contradictions: int = 0
    completed: int = 0
    alike: int = 0
    unlike: int = 0

    @classmethod
    def empty(cls, ndim: int) -> SeamTally:
        """Begin to count."""
        n = ndim + 1
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros((n, N_BINS), np.int64))

    @classmethod
    def of(
        cls, found: TouchingPairs, is_joined: np.ndarray, ids: BrickIds, threshold: float | None = None
    ) -> SeamTally:
        """Count what one task found; `threshold` is the agreement at which pairs are the most
        doubtful.
        """
        grid = ids.bricks.grid
        tally = cls.empty(grid.ndim)
        if not len(found.pairs):
            return tally
        tiles = ids.tile_numbers(found.pairs)
        kinds = _kinds_of_seams(tiles, grid)
        tally.touching += np.bincount(kinds, minlength=grid.ndim + 1)
        tally.joined += np.bincount(kinds[is_joined], minlength=grid.ndim + 1)
        if found.agreement is not None:
            bins = np.minimum((found.agreement * N_BINS).astype(np.int64), N_BINS - 1)
            np.add.at(tally.histogram, (kinds, bins), 1)
        if found.ranks is not None:
            tally.alike = int(np.count_nonzero(found.ranks >= MAX_DOUBTFUL))
            tally.unlike = int(np.count_nonzero(found.ranks >= MIN_DOUBTFUL)) - tally.alike
        tally.worst = _worst_seams(found, tiles, kinds, is_joined, grid, threshold or 0.0)
        tally.doubtful = _doubtful_pairs(found, threshold or 0.0)
        return tally

    def refuse(self, pairs: np.ndarray, ids: BrickIds) -> None:
        """Count pairs as refused that were counted as joined."""
        grid, tiles = ids.bricks.grid, ids.tile_numbers(pairs)
        self.joined -= np.bincount(_kinds_of_seams(tiles, grid), minlength=len(self.joined))
        self.contradictions += len(pairs)
        tiles = np.sort(tiles, axis=1)
        for seam in self.worst:
            own = [grid.number(tuple(tile)) for tile in seam.tiles]
            seam.joined -= int(np.count_nonzero(np.all(tiles == own, axis=1)))

    def add(self, other: SeamTally) -> None:
        """Count what another task found."""
        self.touching += other.touching
        self.joined += other.joined
        self.histogram += other.histogram
        self.alike += other.alike
        self.unlike += other.unlike
        # The most doubtful first, then those with the most pairs, then those in front.
        worst = sorted([*self.worst, *other.worst], key=lambda seam: (-seam.doubtful, -seam.joined, seam.tiles))
        self.worst = worst[:MAX_WORST]
        self.doubtful = sorted([*self.doubtful, *other.doubtful])[:MAX_PAIRS]

    def named(self, names: Sequence[str]) -> tuple[list[AxisSeams], list[WorstSeam]]:
        """Return the counts with the names of the axes; kinds of seams at which nothing touches are
        left out.
        """
        kinds = [*names, CORNERS]
        measured = bool(self.histogram.any())
        axes = [
            AxisSeams(kinds[k], int(n), int(self.joined[k]), self.histogram[k].tolist() if measured else [])
            for k, n in enumerate(self.touching)
            if n
        ]
        return axes, [dataclasses.replace(seam, name=kinds[int(seam.name)]) for seam in self.worst]


def _kinds_of_seams(tiles: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Return the axis across which each two tiles meet; the number of axes for edges and
    corners.
    """
    indices = np.stack(np.unravel_index(tiles, grid.grid_shape))
    apart = indices[:, :, 0] != indices[:, :, 1]
    return np.where(apart.sum(axis=0) == 1, np.argmax(apart, axis=0), grid.ndim)


def _worst_seams(
    found: TouchingPairs,
    tiles: np.ndarray,
    kinds: np.ndarray,
    is_joined: np.ndarray,
    grid: TileGrid,
    threshold: float,
) -> list[WorstSeam]:
    """Choose the seams between two tiles that are most worth a look."""
    tiles = np.sort(tiles, axis=1)
    _, first, seams = np.unique(tiles[:, 0] * grid.n_tiles + tiles[:, 1], return_index=True, return_inverse=True)
    doubt = np.zeros(len(tiles), bool)
    if found.agreement is not None:
        doubt = (found.agreement >= MIN_DOUBTFUL) & (found.agreement < MAX_DOUBTFUL)
    n_touching = np.bincount(seams)
    n_doubtful, n_joined = (np.bincount(seams, weights=which).astype(int) for which in (doubt, is_joined))
    order = np.lexsort((tiles[first, 1], tiles[first, 0], -n_joined, -n_doubtful))
    worst = []
    for seam in order[:MAX_WORST].tolist():
        pair = [grid.index(int(number)) for number in tiles[first[seam]]]
        at, agreement = _seam_middle(pair, grid), None
        if found.agreement is not None and found.voxels is not None:
            doubtful = np.flatnonzero(doubt & (seams == seam))
            if not len(doubtful):
                break
            nearest = doubtful[np.argmin(np.abs(found.agreement[doubtful] - threshold))]
            at = [int(i) for i in np.unravel_index(found.voxels[nearest], grid.shape)]
            agreement = float(found.agreement[nearest])
        worst.append(
            WorstSeam(
                tiles=[list(tile) for tile in pair],
                name=str(kinds[first[seam]]),
                touching=int(n_touching[seam]),
                joined=int(n_joined[seam]),
                doubtful=int(n_doubtful[seam]),
                at=at,
                agreement=agreement,
            )
        )
    return worst


def _doubtful_pairs(found: TouchingPairs, threshold: float) -> list[tuple[float, int, int, int, float]]:
    """Choose the pairs that are most worth a look."""
    if found.agreement is None or found.voxels is None:
        return []
    chosen = np.flatnonzero((found.agreement >= MIN_DOUBTFUL) & (found.agreement < MAX_DOUBTFUL))
    doubt = np.abs(found.agreement[chosen] - threshold)
    chosen = chosen[np.lexsort((found.voxels[chosen], doubt))][:MAX_PAIRS]
    agreement = found.agreement[chosen]
    columns = (np.abs(agreement - threshold), found.voxels[chosen], *found.pairs[chosen].T, agreement)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _seam_middle(pair: list[Index], grid: TileGrid) -> list[int]:
    """Return a voxel of the first tile in the middle of the seam to the second."""
    middle = []
    for a, b in zip(*(grid.core(tile) for tile in pair), strict=True):
        if a.stop == b.start:
            middle.append(a.stop - 1)
        else:
            middle.append(a.start if a.start == b.stop else (a.start + a.stop) // 2)
    return middle
