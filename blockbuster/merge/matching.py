"""Touching pairs in provisional ids: those inside a brick, and those between bricks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blockbuster.merge.table import BrickIds
from blockbuster.rundir.staged import StagedLabels
from blockbuster.seams.pairs import NO_PAIRS, collect_touching_pairs, unique_pairs

__all__ = ["MatchJob", "MatchResult", "match_brick"]

Index = tuple[int, ...]


@dataclass(frozen=True)
class MatchJob:
    """What the matching tasks share.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    ids : BrickIds
        From ids within a brick to provisional ids.
    """

    staged: StagedLabels
    ids: BrickIds


@dataclass(frozen=True)
class MatchResult:
    """What a matching task found.

    Parameters
    ----------
    number : int
        The brick.
    pairs : (n, 2) ndarray of int64
        Distinct pairs of provisional ids.
    """

    number: int
    pairs: np.ndarray


def match_brick(job: MatchJob, number: int) -> MatchResult:
    """Collect the touching pairs inside a brick and between it and the bricks behind it."""
    index = job.staged.bricks.index(number)
    return MatchResult(number, _match_brick(job, index) if job.ids.n_labels(index) else NO_PAIRS)


def _match_brick(job: MatchJob, index: Index) -> np.ndarray:
    staged, ids = job.staged, job.ids
    inner = staged.read_pairs(index)
    own = ids.all_of(index)
    found = [own[inner - 1]]
    for direction in _directions(staged):
        other = tuple(i + step for i, step in zip(index, direction, strict=True))
        if _inside(other, staged.bricks.grid_shape) and ids.n_labels(other):
            pairs = _match_border(staged, index, other, direction)
            found.append(np.column_stack([own[pairs[:, 0] - 1], ids.provisional(other, pairs[:, 1])]))
    return unique_pairs(np.concatenate(found))


def _directions(staged: StagedLabels) -> Iterator[Index]:
    """Iterate over the ways to a neighbouring brick behind: every pair of bricks is met once."""
    ndim = staged.bricks.grid.ndim
    choices = [(-1, 0, 1) if axis in staged.merge_axes else (0,) for axis in range(ndim)]
    for direction in itertools.product(*choices):
        if direction > (0,) * ndim and np.count_nonzero(direction) <= staged.connectivity:
            yield direction


def _inside(index: Index, shape: Index) -> bool:
    return all(0 <= i < n for i, n in zip(index, shape, strict=True))


def _match_border(staged: StagedLabels, index: Index, other: Index, direction: Index) -> np.ndarray:
    """Match the face, edge or corner where two bricks meet, in ids within each brick."""
    across = next(axis for axis, step in enumerate(direction) if step)
    # The first step is always forward, so this brick shows its high plane and the other its low one.
    mine = _corner(staged.read_plane(index, across, 1), direction, across)
    theirs = _corner(staged.read_plane(other, across, 0), tuple(-step for step in direction), across)
    free = [axis for axis in staged.merge_axes if direction[axis] == 0]
    return collect_touching_pairs(mine, theirs, free, staged.connectivity - int(np.count_nonzero(direction)))


def _corner(plane: np.ndarray, direction: Index, across: int) -> np.ndarray:
    """Cut a plane down to the edge or corner that faces `direction`."""
    parts = {0: slice(None), 1: slice(-1, None), -1: slice(0, 1)}
    whole = slice(None)
    return plane[tuple(whole if axis == across else parts[step] for axis, step in enumerate(direction))]
