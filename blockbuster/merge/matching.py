"""Touching pairs in provisional ids: those inside a brick, and those between bricks."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Index
from blockbuster.kernels.agreement import neighbour_steps
from blockbuster.merge.borders import Borders, OpenBrick
from blockbuster.merge.rules import MergeRule, rule_of
from blockbuster.merge.table import BrickIds
from blockbuster.merge.tally import SeamTally, TouchingPairs
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
    rule : MergeRule
        When a pair is joined.
    borders : type of Borders
        What the stage has kept.
    n_bricks : int
        How many bricks a task matches.
    """

    staged: StagedLabels
    ids: BrickIds
    rule: MergeRule
    borders: type[Borders]
    n_bricks: int

    @classmethod
    def for_workers(cls, staged: StagedLabels, ids: BrickIds, rule: MergeRule, n_workers: int) -> MatchJob:
        """Have a task match many bricks where there are many, since most have little to match."""
        n_bricks = 1 + staged.bricks.n_bricks // (TASKS_PER_WORKER * n_workers)
        return cls(staged, ids, rule, rule_of(staged).borders, min(MAX_BRICKS, n_bricks))

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
    ranks : (n,) ndarray of float32
        Which pairs are the better ones; empty where nothing counts against a join.
    tally : SeamTally
        Summary of the seams of its bricks.
    n_tiles : int
        How many tiles these have.
    """

    pairs: np.ndarray
    ranks: np.ndarray
    tally: SeamTally
    n_tiles: int


def match_bricks(job: MatchJob, number: int) -> MatchResult:
    """Find the labels to join inside some bricks, and between each of them and the bricks behind
    it.
    """
    ids, bricks = job.ids, job.staged.bricks
    first = number * job.n_bricks
    indices = [bricks.index(brick) for brick in range(first, min(first + job.n_bricks, bricks.n_bricks))]
    found = TouchingPairs.joined(_parts(job, [index for index in indices if ids.n_labels(index)]))
    is_joined = job.rule.joins(found)
    tally = SeamTally.of(found, is_joined, ids, job.rule.threshold)
    pairs = found.pairs[is_joined].astype(ids.dtype, copy=False)
    ranks = NO_RANKS
    if job.rule.heeds_contradictions and found.ranks is not None:
        ranks = found.ranks[is_joined]
    return MatchResult(pairs, ranks, tally, sum(map(bricks.n_tiles, indices)))


def _parts(job: MatchJob, indices: Sequence[Index]) -> Iterator[TouchingPairs]:
    """Iterate over the pairs inside each of some bricks, and those with each brick behind it."""
    staged, ids = job.staged, job.ids
    open_file = functools.lru_cache(FILES_KEPT)(staged.open_brick)
    borders = job.borders(staged)
    grid_shape = staged.bricks.grid_shape
    steps = neighbour_steps(len(grid_shape), staged.merge_axes, staged.connectivity)
    for index in indices:
        brick = OpenBrick(index, open_file(index), ids)
        yield borders.inside(brick)
        for step in steps:
            other = tuple([i + d for i, d in zip(index, step, strict=True)])
            is_there = all(0 <= i < n for i, n in zip(other, grid_shape, strict=True))
            if is_there and ids.n_labels(other):
                yield borders.between(brick, OpenBrick(other, open_file(other), ids), step)
