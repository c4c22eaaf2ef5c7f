"""Which object of one label image covers most of each object of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockbuster.execution import Execution, run_tasks
from blockbuster.merge.remap import FinalLabels

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class OverlapJob:
    """What the tasks share that look where two label images overlap.

    Parameters
    ----------
    children, parents : FinalLabels
        Labels of one shape, of the same bricks.
    """

    children: FinalLabels
    parents: FinalLabels


def find_parents(
    children: FinalLabels, parents: FinalLabels, execution: Execution
) -> tuple[np.ndarray, np.ndarray]:
    """Find the object that covers most voxels of each object of another label image.

    Parameters
    ----------
    children, parents : FinalLabels
        Labels of one shape, of the same bricks.
    execution : Execution
        Where to run.

    Returns
    -------
    children : (n,) ndarray
        Objects that another one overlaps, ascending.
    parents : (n,) ndarray
        The one that overlaps most voxels of each; of several the smallest.

    Notes
    -----
    Reads both stages once. Memory grows with the number of pairs that overlap, 16 bytes for each in
    each brick.
    """
    found: list[Pairs] = [(np.zeros(0, children.dtype), np.zeros(0, parents.dtype), np.zeros(0, np.int64))]
    run_tasks(
        execution,
        count_overlaps,
        OverlapJob(children, parents),
        range(children.staged.bricks.n_bricks),
        directory=children.arrays.path,
        on_result=found.append,
    )
    own, others, counts = _summed(*map(np.concatenate, zip(*found, strict=True)))
    order = np.lexsort((others, -counts, own))
    chosen, firsts = np.unique(own[order], return_index=True)
    return chosen, others[order][firsts]


def count_overlaps(job: OverlapJob, number: int) -> Pairs:
    """Count the voxels of a brick that each pair of objects has in common."""
    bricks = job.children.staged.bricks
    box = bricks.core(bricks.index(number))
    ones = (1,) * len(box)
    found: list[Pairs] = [
        (np.zeros(0, job.children.dtype), np.zeros(0, job.parents.dtype), np.zeros(0, np.int64))
    ]
    # Where one has no labels there is nothing to count, and strips are the same.
    for (_, own), (_, others) in zip(job.children.read(box, ones), job.parents.read(box, ones), strict=False):
        found.append(_overlaps(own.ravel(), others.ravel()))
    return _summed(*map(np.concatenate, zip(*found, strict=True)))


def _overlaps(own: np.ndarray, others: np.ndarray) -> Pairs:
    """Find runs of equal neighbours first, of which objects have many, and count these."""
    is_first = np.ones(len(own), bool)
    is_first[1:] = (own[1:] != own[:-1]) | (others[1:] != others[:-1])
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=len(own))
    own, others = own[starts], others[starts]
    both = (own != 0) & (others != 0)
    return _summed(own[both], others[both], lengths[both])


def _summed(own: np.ndarray, others: np.ndarray, counts: np.ndarray) -> Pairs:
    """Add up the counts of equal pairs, which are sorted after that."""
    order = np.lexsort((others, own))
    own, others, counts = own[order], others[order], counts[order]
    is_first = np.ones(len(own), bool)
    is_first[1:] = (own[1:] != own[:-1]) | (others[1:] != others[:-1])
    starts = np.flatnonzero(is_first)
    return own[starts], others[starts], np.add.reduceat(counts, starts) if len(starts) else counts
