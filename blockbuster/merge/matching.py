"""Touching pairs in provisional ids: those inside a brick, and those between bricks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Index
from blockbuster.kernels.agreement import Agreements, TilePairs, compare_pieces
from blockbuster.kernels.pairs import collect_touching_pairs
from blockbuster.kernels.sections import read_group
from blockbuster.kernels.stretches import TileStretches
from blockbuster.kernels.strips import strip_boxes
from blockbuster.merge.table import BrickIds
from blockbuster.merge.tally import SeamTally, TouchingPairs
from blockbuster.rundir.staged import BrickFile, StagedLabels

__all__ = ["MatchJob", "MatchResult", "match_bricks"]

# For each worker, so that all end at about the same time; and bricks at most, so that it is seen how far it is.
TASKS_PER_WORKER = 16
MAX_BRICKS = 64
# Files whose beginnings a task keeps, since a brick is the neighbour of several.
FILES_KEPT = 64


@dataclass(frozen=True)
class MatchJob:
    """What the matching tasks share.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    ids : BrickIds
        From ids within a brick to provisional ids.
    n_bricks : int
        How many bricks a task matches.
    """

    staged: StagedLabels
    ids: BrickIds
    n_bricks: int

    @classmethod
    def for_workers(cls, staged: StagedLabels, ids: BrickIds, n_workers: int) -> MatchJob:
        """Have a task match many bricks where there are many, since most have little to match."""
        return cls(staged, ids, min(MAX_BRICKS, 1 + staged.bricks.n_bricks // (TASKS_PER_WORKER * n_workers)))

    @property
    def n_tasks(self) -> int:
        """How many tasks there are."""
        return -(-self.staged.bricks.n_bricks // self.n_bricks)


@dataclass(frozen=True)
class MatchResult:
    """What a matching task found.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int64
        Pairs of provisional ids to join.
    tally : SeamTally
        What the seams of its bricks came to.
    n_tiles : int
        How many tiles these have.
    """

    pairs: np.ndarray
    tally: SeamTally
    n_tiles: int


def match_bricks(job: MatchJob, number: int) -> MatchResult:
    """Find the labels to join inside some bricks, and between each of them and the bricks behind it."""
    bricks, min_agreement = job.staged.bricks, job.staged.min_agreement
    open_brick = functools.lru_cache(FILES_KEPT)(job.staged.open_brick)
    tile_pairs = TilePairs(bricks.grid, job.staged.merge_axes, job.staged.connectivity)
    first = number * job.n_bricks
    indices = [bricks.index(brick) for brick in range(first, min(first + job.n_bricks, bricks.n_bricks))]
    labelled = [_Match(job, index, open_brick, tile_pairs) for index in indices if job.ids.n_labels(index)]
    found = TouchingPairs.joined(itertools.chain.from_iterable(match.parts() for match in labelled))
    joined = found.pairs[found.is_joined(min_agreement)]
    return MatchResult(joined, SeamTally.of(found, job.ids, min_agreement), sum(map(bricks.n_tiles, indices)))


@dataclass(frozen=True)
class _Match:
    """A brick whose seams are matched."""

    job: MatchJob
    index: Index
    open_brick: Callable[[Index], BrickFile]
    tile_pairs: TilePairs

    def parts(self) -> Iterator[TouchingPairs]:
        """Iterate over the pairs inside the brick, and those with each brick behind."""
        staged, ids = self.job.staged, self.job.ids
        file, own = self.open_brick(self.index), ids.all_of(self.index)
        pairs = own[file.read("pairs") - 1]
        if staged.min_agreement is None:
            yield TouchingPairs(pairs)
        else:
            yield TouchingPairs(pairs, file.read("agreement"), file.read("voxels"))
        for step in self.tile_pairs.steps:
            other = tuple(i + d for i, d in zip(self.index, step, strict=True))
            is_inside = all(0 <= i < n for i, n in zip(other, staged.bricks.grid_shape, strict=True))
            if not is_inside or not ids.n_labels(other):
                continue
            if staged.min_agreement is None:
                pairs = self._touching(file, self.open_brick(other), step)
                yield TouchingPairs(np.column_stack([own[pairs[:, 0] - 1], ids.provisional(other, pairs[:, 1])]))
            else:
                yield self._agreeing(file, self.open_brick(other), step)

    def _touching(self, file: BrickFile, other: BrickFile, step: Index) -> np.ndarray:
        """Match the face, edge or corner where two bricks meet, in ids within each brick."""
        across = _axis_across(step)
        mine = _corner(file.read(f"border-{across}-1"), step, across)
        theirs = _corner(other.read(f"border-{across}-0"), tuple(-d for d in step), across)
        staged = self.job.staged
        free = [axis for axis in staged.merge_axes if step[axis] == 0]
        return collect_touching_pairs(mine, theirs, free, staged.connectivity - int(np.count_nonzero(step)))

    def _agreeing(self, file: BrickFile, other: BrickFile, step: Index) -> TouchingPairs:
        """Compare the tiles that meet where two bricks do, in provisional ids."""
        offsets = self.job.ids.offsets
        across = _axis_across(step)
        mine, theirs = self._strips(file, across, 1), self._strips(other, across, 0)
        strips, found = mine | theirs, []
        for tile, apart in itertools.product(strips, self.tile_pairs.steps):
            neighbour = tuple([i + d for i, d in zip(tile, apart, strict=True)])
            if neighbour in strips and (tile in mine) != (neighbour in mine):
                pair = self.tile_pairs.of(tile, apart)
                pieces = compare_pieces(pair, strips[tile], strips[neighbour], self.tile_pairs.strides)
                pieces[:, :2] += [offsets[tile], offsets[neighbour]]
                found.append(pieces)
        best = Agreements.of_pieces(found)
        return TouchingPairs(best.pairs, best.values, best.voxels)

    def _strips(self, file: BrickFile, axis: int, side: int) -> dict[Index, TileStretches]:
        grid, name = self.job.staged.bricks.grid, f"border-{axis}-{side}"
        if f"{name}-tiles" not in file:
            return {}
        numbers, group = read_group(file, name, lambda numbers: strip_boxes(grid, numbers, axis, side))
        return dict(zip(map(grid.index, numbers.tolist()), group.tiles(), strict=True))


def _axis_across(step: Index) -> int:
    """The axis whose borders show to each other: its step is forward, so this brick shows its high one."""
    return next(axis for axis, d in enumerate(step) if d)


def _corner(plane: np.ndarray, step: Index, across: int) -> np.ndarray:
    """Cut a plane down to the edge or corner that faces the way of `step`."""
    parts = {0: slice(None), 1: slice(-1, None), -1: slice(0, 1)}
    whole = slice(None)
    return plane[tuple(whole if axis == across else parts[d] for axis, d in enumerate(step))]
