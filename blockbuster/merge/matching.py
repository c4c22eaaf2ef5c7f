"""Touching pairs in provisional ids: those inside a brick, and those between bricks."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Index
from blockbuster.kernels.agreement import neighbour_steps
from blockbuster.kernels.pairs import NO_PAIRS
from blockbuster.merge.borders import Borders, OpenBrick
from blockbuster.merge.completion import write_ends
from blockbuster.merge.rules import MergeRule, rule_of
from blockbuster.merge.table import BrickIds
from blockbuster.merge.tally import SeamTally, TouchingPairs
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels

# For each worker, so that all end at about the same time; and bricks at most, so that it is seen
# how far it is.
TASKS_PER_WORKER = 16
MAX_BRICKS = 64
# Files whose beginnings a task keeps, since a brick is the neighbour of several.
FILES_KEPT = 64
NO_RANKS = np.empty(0, np.float32)


@dataclass(frozen=True)
class MatchJob:
    """What the matching tasks share.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    ids : BrickIds
        From ids within a brick to provisional ids.
    arrays : ArrayFolder
        Takes the ends that complete objects.
    rule : MergeRule
        When a pair is joined.
    borders : type of Borders
        What the stage has kept.
    n_bricks : int
        How many bricks a task matches.
    """

    staged: StagedLabels
    ids: BrickIds
    arrays: ArrayFolder
    rule: MergeRule
    borders: type[Borders]
    n_bricks: int

    @classmethod
    def for_workers(
        cls, staged: StagedLabels, ids: BrickIds, arrays: ArrayFolder, rule: MergeRule, n_workers: int
    ) -> MatchJob:
        """Have a task match many bricks where there are many, since most have little to match."""
        n_bricks = 1 + staged.bricks.n_bricks // (TASKS_PER_WORKER * n_workers)
        return cls(staged, ids, arrays, rule, rule_of(staged).borders, min(MAX_BRICKS, n_bricks))

    @property
    def n_tasks(self) -> int:
        """How many tasks there are."""
        return -(-self.staged.bricks.n_bricks // self.n_bricks)


@dataclass(frozen=True)
class MatchResult:
    """What a matching task found.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int32 or int64
        Pairs of provisional ids to join.
    ranks, agreement : (n,) ndarray of float32
        Which pairs are the better ones, and how far tiles agree on them; empty where nothing counts
        against a join.
    tally : SeamTally
        Summary of the seams of its bricks.
    n_tiles : int
        How many tiles these have.
    number : int
        Of the task.
    reached : list of int
        Bricks in which ends lie that it has kept.
    """

    pairs: np.ndarray
    ranks: np.ndarray
    agreement: np.ndarray
    tally: SeamTally
    n_tiles: int
    number: int
    reached: list[int]


def match_bricks(job: MatchJob, number: int) -> MatchResult:
    """Find the labels to join inside some bricks, and between each of them and the bricks behind
    it.
    """
    ids, bricks = job.ids, job.staged.bricks
    first = number * job.n_bricks
    indices = [bricks.index(brick) for brick in range(first, min(first + job.n_bricks, bricks.n_bricks))]
    n_tiles = sum(map(bricks.n_tiles, indices))
    parts = list(_parts(job, indices))
    if not parts:
        nothing = NO_PAIRS.astype(ids.dtype), NO_RANKS, NO_RANKS
        return MatchResult(*nothing, SeamTally.empty(bricks.grid.ndim), n_tiles, number, [])
    found = TouchingPairs.joined(parts)
    is_joined = job.rule.joins(found)
    tally = SeamTally.of(found, is_joined, ids, job.rule.threshold)
    pairs, ranks, agreement = found.pairs[is_joined].astype(ids.dtype, copy=False), NO_RANKS, NO_RANKS
    reached: list[int] = []
    if job.rule.looks_beyond_pairs and found.ranks is not None and found.agreement is not None:
        ranks, agreement = found.ranks[is_joined], found.agreement[is_joined].astype(np.float32)
        reached = write_ends(job.arrays, number, found.ends, bricks)
    return MatchResult(pairs, ranks, agreement, tally, n_tiles, number, reached)


def _parts(job: MatchJob, indices: Sequence[Index]) -> Iterator[TouchingPairs]:
    """Iterate over the pairs inside each of some bricks, and those with each brick behind it."""
    staged, ids = job.staged, job.ids
    open_file = functools.lru_cache(FILES_KEPT)(staged.open_brick)
    borders = job.borders(staged)
    grid_shape = staged.bricks.grid_shape
    steps = neighbour_steps(len(grid_shape), staged.merge_axes, staged.connectivity)
    for index in indices:
        brick = OpenBrick(index, open_file, ids)
        if ids.n_labels(index):
            yield borders.inside(brick)
        for step in steps:
            other = tuple([i + d for i, d in zip(index, step, strict=True)])
            if all(0 <= i < n for i, n in zip(other, grid_shape, strict=True)):
                with_labels = [bool(ids.n_labels(one)) for one in (index, other)]
                if all(with_labels) or (any(with_labels) and borders.heeds_background):
                    yield borders.between(brick, OpenBrick(other, open_file, ids), step)
