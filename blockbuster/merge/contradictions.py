"""Contradictions: labels of one object, by the joins, that touch each other inside a tile."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blockbuster.execution import Execution, run_tasks
from blockbuster.kernels.components import join_pairs
from blockbuster.kernels.pairs import NO_PAIRS, collect_touching_pairs
from blockbuster.kernels.stretches import StretchGroup
from blockbuster.merge.table import BrickIds
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels

SUSPECTS = ("suspects", "suspect-objects")
# A tile is looked at in slabs of so many: looking takes several times the memory of labels.
SLAB_VOXELS = 2**18


@dataclass(frozen=True)
class ApartJob:
    """What the tasks share that look for labels of one object which touch inside a tile.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    ids : BrickIds
        From ids within a brick to provisional ids.
    arrays : ArrayFolder
        Holds the suspects: labels that are one object with another label of their tile, sorted, and
        the smallest label of each one's object.
    """

    staged: StagedLabels
    ids: BrickIds
    arrays: ArrayFolder

    @cached_property
    def suspects(self) -> tuple[np.ndarray, np.ndarray]:
        """The suspects and their objects, mapped into memory."""
        labels, objects = map(self.arrays.load, SUSPECTS)
        return labels, objects


def find_apart(
    staged: StagedLabels,
    ids: BrickIds,
    arrays: ArrayFolder,
    execution: Execution,
    border: np.ndarray,
    roots: np.ndarray,
) -> np.ndarray:
    """Find labels that are one object, and touch each other inside a tile.

    Parameters
    ----------
    staged : StagedLabels
        The stage; tiles of which two labels are one object are read.
    ids : BrickIds
        From ids within a brick to provisional ids.
    arrays : ArrayFolder
        Takes what tasks share.
    execution : Execution
        Where to run.
    border, roots : (m,) ndarray of int32 or int64
        Labels of objects of more labels than tiles, sorted, and the smallest label of each one's
        object.

    Returns
    -------
    (n, 2) ndarray of int64
        Pairs of provisional ids.
    """
    tiles = ids.tile_numbers(border)
    order = np.lexsort((roots, tiles))
    is_next = np.diff(tiles[order]) == 0
    is_next &= np.diff(roots[order]) == 0
    suspects = np.sort(order[np.append(is_next, False) | np.append(False, is_next)])
    if not len(suspects):
        return NO_PAIRS
    for name, array in zip(SUSPECTS, (border[suspects], roots[suspects]), strict=True):
        arrays.save(name, array)
    bricks = staged.bricks
    indices = np.stack(np.unravel_index(tiles[suspects], bricks.grid.grid_shape), axis=1)
    numbers = np.unique(np.ravel_multi_index((indices // bricks.tiles_per_brick).T, bricks.grid_shape))
    job, found = ApartJob(staged, ids, arrays), [NO_PAIRS]
    run_tasks(execution, apart_in_brick, job, numbers.tolist(), directory=arrays.path, on_result=found.append)
    return np.concatenate(found)


def apart_in_brick(job: ApartJob, number: int) -> np.ndarray:
    """Find the suspects of a brick that touch another one of their object, across a face."""
    bricks, (labels, objects) = job.staged.bricks, job.suspects
    index = bricks.index(number)
    provisional = job.ids.all_of(index)
    place = np.minimum(np.searchsorted(labels, provisional), len(labels) - 1)
    # From the brick's ids to places among the suspects, from 1.
    table = np.zeros(len(provisional) + 1, np.int32)
    table[1:] = np.where(labels[place] == provisional, place + 1, 0)
    found = [NO_PAIRS]
    for numbers, group in job.staged.open_brick(index).read_groups(bricks.grid.cores, bricks.core(index)):
        firsts = job.ids.firsts(index, numbers)
        lasts = firsts + job.ids.counts.ravel()[numbers]
        for k, (first, last) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True)):
            if np.count_nonzero(table[first + 1 : last + 1]) > 1:
                found.append(touching_in_tile(group, k, firsts, table))
    pairs = np.concatenate(found)
    pairs = pairs[objects[pairs[:, 0]] == objects[pairs[:, 1]]]
    return np.asarray(labels[pairs], np.int64)


def touching_in_tile(group: StretchGroup, k: int, firsts: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the pairs of suspects of a tile that touch, each pair once, by their places from 0."""
    labels, found = group.dense(k, firsts, table), []
    n_planes = 1 + SLAB_VOXELS // (1 + labels[:1].size)
    for start in range(0, len(labels), n_planes):
        slab = labels[start : start + n_planes]
        found.append(collect_touching_pairs(slab[: len(labels) - start - 1], labels[start + 1 :][: len(slab)]))
        for axis in range(1, labels.ndim):
            before, behind = (slab[(slice(None),) * axis + (part,)] for part in (slice(-1), slice(1, None)))
            found.append(collect_touching_pairs(before, behind))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0) - 1


def cut_contradictions(
    border: np.ndarray, roots: np.ndarray, pairs: np.ndarray, ranks: np.ndarray, apart: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Join the labels of objects with contradictions anew, without the joins that lose against
    them.

    Parameters
    ----------
    border, roots : (m,) ndarray of int32 or int64
        Labels that touch a seam, sorted, and the smallest label of each one's object.
    pairs : (n, 2) ndarray of the same dtype
        The joins.
    ranks : (n,) ndarray of float32
        How good they are.
    apart : (k, 2) ndarray of int64
        As `find_apart` gives them.

    Returns
    -------
    roots : (m,) ndarray of the same dtype
        The smallest label of each one's object.
    is_refused : (n,) ndarray of bool
        Which joins are not made.
    """
    objects = np.unique(roots[np.searchsorted(border, apart[:, 0])])
    is_affected = np.isin(roots, objects)
    chosen = np.flatnonzero(is_affected[np.searchsorted(border, pairs[:, 0])])
    is_made = settle(pairs[chosen], ranks[chosen], apart)
    anew = np.where(is_affected, border, roots)
    labels, own = join_pairs(pairs[chosen[is_made]])
    anew[np.searchsorted(border, labels)] = own
    is_refused = np.zeros(len(pairs), bool)
    is_refused[chosen[~is_made]] = True
    return anew, is_refused


def settle(pairs: np.ndarray, ranks: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return which joins are made, of objects that a contradiction is in.

    Joins are made one by one, the best first. One that would make an object of labels which touch
    each other inside tiles is made if at least as many joins speak for it as pairs of such labels
    against it: between the two objects as they are by then. Where there are as many, it is not made
    if one of its labels has a join that is as good.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int
        Labels to join, each pair once.
    ranks : (n,) ndarray of float
        How good each join is.
    apart : (m, 2) ndarray of int
        Labels of one tile that touch inside it.

    Returns
    -------
    (n,) ndarray of bool
        Which joins are made.

    Notes
    -----
    Time ``O(n log n)`` and about a kilobyte for each label, in Python: contradictions are few. Of
    joins that are equally good, that of the smaller ids is made first.

    Examples
    --------
    A tile has the labels 1 and 2, which touch; both would be joined with label 5 of the next one.

    >>> settle(np.array([[1, 5], [2, 5]]), np.array([0.5, 0.5]), np.array([[1, 2]])).tolist()
    [True, False]
    """
    is_made = np.zeros(len(pairs), bool)
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for links, vote in ((apart, -1), (pairs, 1)):
        for a, b in links.tolist():
            votes[a][b] += vote
            votes[b][a] += vote
    parents: dict[int, int] = {}
    last: dict[int, float] = {}
    for k in np.lexsort((pairs[:, 1], pairs[:, 0], -ranks)).tolist():
        a, b = pairs[k].tolist()
        rank = float(ranks[k])
        one, other = _root(parents, a), _root(parents, b)
        if one != other:
            vote = votes[one][other]
            if vote < 0 or (vote == 0 and rank in (last.get(a), last.get(b))):
                continue
            last[a] = last[b] = rank
            if len(votes[one]) < len(votes[other]):
                one, other = other, one
            parents[other] = one
            _take_over(votes, one, other)
        is_made[k] = True
    return is_made


def _root(parents: dict[int, int], label: int) -> int:
    while label in parents:
        parents[label] = label = parents.get(parents[label], parents[label])
    return label


def _take_over(votes: defaultdict[int, Counter[int]], one: int, other: int) -> None:
    """Give an object the votes of one that is joined to it."""
    for third, n in votes.pop(other).items():
        del votes[third][other]
        if third != one:
            votes[one][third] += n
            votes[third][one] += n
