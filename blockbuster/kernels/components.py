"""Which border labels are one object: connected components of the labels that touch across a
seam.
"""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part


@kernel_part
def find_first(firsts, place):
    """Return the first place of an object, and shorten the way to it."""
    while firsts[place] != place:
        firsts[place] = firsts[firsts[place]]
        place = firsts[place]
    return place


@kernel
def join_places(labels, pairs, firsts):
    """Join the objects of the two labels of each pair.

    Parameters
    ----------
    labels : (m,) ndarray of integers
        Sorted; every label of a pair is among them, which is not checked.
    pairs : (n, 2) ndarray of the same dtype
        Labels that touch.
    firsts : (m,) ndarray of the same dtype
        The places 0..m-1; becomes the place of the smallest label of each one's object.
    """
    for i in range(len(pairs)):
        one = find_first(firsts, np.searchsorted(labels, pairs[i, 0]))
        other = find_first(firsts, np.searchsorted(labels, pairs[i, 1]))
        firsts[max(one, other)] = min(one, other)
    # The first of an object is before all others.
    for i in range(len(firsts)):
        firsts[i] = firsts[firsts[i]]


def join_pairs(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join labels that touch, directly or through others.

    Parameters
    ----------
    pairs : (n, 2) ndarray of int32 or int64
        Labels that touch.

    Returns
    -------
    labels : (m,) ndarray of the same dtype
        The labels that occur in a pair, sorted.
    roots : (m,) ndarray of the same dtype
        The smallest label of each one's object.

    Notes
    -----
    Time ``O(n log n)`` for the sorting. Memory grows with the number of pairs, not with the largest
    label: besides the pairs, as much again, and then up to 1.5 times as much.

    Examples
    --------
    >>> labels, roots = join_pairs(np.array([[8, 5], [3, 8], [10, 11]]))
    >>> labels.tolist(), roots.tolist()
    ([3, 5, 8, 10, 11], [3, 3, 3, 10, 10])
    """
    labels = np.sort(pairs, axis=None)
    is_new = np.ones(len(labels), bool)
    is_new[1:] = labels[1:] != labels[:-1]
    labels = labels[is_new]
    firsts = np.arange(len(labels), dtype=labels.dtype)
    join_places(labels, pairs, firsts)
    return labels, labels[firsts]
