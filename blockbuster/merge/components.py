"""Which border labels are one object: connected components of the labels that touch across a
seam.
"""

from __future__ import annotations

import numpy as np


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
    Time ``O(n log n)`` for the sorting. Memory grows with the number of pairs, not with the largest
    label.

    Examples
    --------
    >>> labels, roots = join_pairs(np.array([[8, 5], [3, 8], [10, 11]]))
    >>> labels.tolist(), roots.tolist()
    ([3, 5, 8, 10, 11], [3, 3, 3, 10, 10])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    labels, places = np.unique(pairs, return_inverse=True)
    touching = np.ones(len(pairs), bool), tuple(places.reshape(-1, 2).T)
    _, objects = connected_components(coo_array(touching, shape=(len(labels), len(labels))), directed=False)
    # The labels are sorted, so that the first of an object is its smallest.
    _, firsts = np.unique(objects, return_index=True)
    return labels.astype(np.int64), labels[firsts[objects]].astype(np.int64)
