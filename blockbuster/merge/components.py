"""Which border labels are one object: a disjoint set over the labels that touch a seam."""

from __future__ import annotations

import numpy as np

from blockbuster.jit import kernel

__all__ = ["join_pairs"]


@kernel
def union_pairs(first, second, parents):
    """Join pairs in a disjoint set; the root of a set is its smallest element.

    Parameters
    ----------
    first, second : (n,) int64 arrays
        The pairs, as positions in `parents`.
    parents : (m,) int64 array
        Parent of each element, itself for a root. Changed in place.
    """
    for i in range(len(first)):
        a = first[i]
        b = second[i]
        while parents[a] != a:
            parents[a] = parents[parents[a]]
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a < b:
            parents[b] = a
        elif b < a:
            parents[a] = b


@kernel
def flatten_parents(parents):
    """Point every element of a disjoint set at its root.

    Parameters
    ----------
    parents : (m,) int64 array
        No parent lies behind its element. Changed in place.
    """
    for i in range(len(parents)):
        parents[i] = parents[parents[i]]


def join_pairs(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join labels that touch, directly or through others.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int64
        Labels that touch.

    Returns
    -------
    labels : (m,) ndarray of int64
        The labels that occur in a pair, sorted.
    roots : (m,) ndarray of int64
        The smallest label of each one's object.

    Notes
    -----
    Time ``O(n log n)`` for the sorting; the joining itself is nearly linear. Memory grows with the
    number of pairs, not with the largest label.

    References
    ----------
    R. E. Tarjan and J. van Leeuwen (1984), Worst-case analysis of set union algorithms.
    Journal of the ACM 31(2): path halving.

    Examples
    --------
    >>> labels, roots = join_pairs(np.array([[8, 5], [3, 8], [10, 11]]))
    >>> labels.tolist(), roots.tolist()
    ([3, 5, 8, 10, 11], [3, 3, 3, 10, 10])
    """
    labels, positions = np.unique(pairs, return_inverse=True)
    positions = positions.reshape(-1, 2)
    parents = np.arange(len(labels), dtype=np.int64)
    union_pairs(np.ascontiguousarray(positions[:, 0]), np.ascontiguousarray(positions[:, 1]), parents)
    flatten_parents(parents)
    return labels.astype(np.int64), labels[parents].astype(np.int64)
