"""Touching pairs: labels that are neighbours across a seam."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

NO_PAIRS = np.empty((0, 2), np.int64)


def collect_touching_pairs(
    a: np.ndarray, b: np.ndarray, axes: Sequence[int] = (), max_steps: int = 0
) -> np.ndarray:
    """Find which labels of two border planes touch.

    Parameters
    ----------
    a, b : ndarray of int, same shape
        The planes on the two sides of a seam, one voxel thick; 0 is background.
    axes : sequence of int
        Axes in the plane along which a neighbour may be one voxel aside.
    max_steps : int
        Along how many of `axes` at once; ``connectivity - 1`` for a plane.

    Returns
    -------
    (n, 2) ndarray of int64
        Distinct pairs of a label of `a` and a label of `b`, sorted.

    Notes
    -----
    Some passes over the planes for each of the allowed shifts, of which there are
    ``3 ** len(axes)`` at most.

    Examples
    --------
    >>> a, b = np.array([[1, 1, 0]], np.uint32), np.array([[0, 0, 2]], np.uint32)
    >>> collect_touching_pairs(a, b).tolist()
    []
    >>> collect_touching_pairs(a, b, axes=[1], max_steps=1).tolist()
    [[1, 2]]
    """
    found = [NO_PAIRS]
    for shift in neighbour_shifts(a.ndim, axes, max_steps if a.size else -1):
        left = a[tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, a.shape, strict=True))]
        right = b[tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, b.shape, strict=True))]
        left, right = np.ravel(left), np.ravel(right)
        first = (left != 0) & (right != 0)
        # Of a run of the same two labels one pair is enough.
        first[1:] &= (left[1:] != left[:-1]) | (right[1:] != right[:-1])
        found.append(np.stack([left[first], right[first]], axis=1).astype(np.int64))
    return unique_pairs(np.concatenate(found))


def unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """Drop repeated pairs and sort the rest.

    Examples
    --------
    >>> unique_pairs(np.array([[3, 4], [1, 2], [3, 4]])).tolist()
    [[1, 2], [3, 4]]
    """
    left, right = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
    first = np.ones(len(pairs), bool)
    first[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return np.stack([left[first], right[first]], axis=1)


def neighbour_shifts(ndim: int, axes: Sequence[int], max_steps: int) -> Iterator[tuple[int, ...]]:
    """Iterate over the steps to a neighbour: -1, 0 or 1 along `axes`, 0 along the others.

    Examples
    --------
    >>> list(neighbour_shifts(2, axes=[1], max_steps=1))
    [(0, -1), (0, 0), (0, 1)]
    """
    choices = [(-1, 0, 1) if axis in axes else (0,) for axis in range(ndim)]
    return (shift for shift in itertools.product(*choices) if np.count_nonzero(shift) <= max_steps)
