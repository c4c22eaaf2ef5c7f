"""Compare the interior objects of two label images."""

from __future__ import annotations

import numpy as np

from blockbuster.advise.scoring import ObjectOverlaps

__all__ = ["compare_interior"]

Box = tuple[slice, ...]


def compare_interior(expected: np.ndarray, found: np.ndarray, inner: Box) -> tuple[int, int]:
    """Match the objects that lie inside a box.

    Parameters
    ----------
    expected, found : ndarray of int, of one shape
        0 is background.
    inner : tuple of slice
        Objects of either image that have a voxel outside are matched with, and not counted.

    Returns
    -------
    n_matched, n_objects : int
        Objects of both images together; matched is an intersection over union of more than 0.5.
    """
    pairs = ObjectOverlaps.of(expected, found)
    good = pairs.iou > 0.5
    counts = [
        _count_interior(labels, sizes, matched[good], inner)
        for labels, sizes, matched in (
            (expected, pairs.sizes, pairs.expected),
            (found, pairs.found_sizes, pairs.found),
        )
    ]
    return sum(n for n, _ in counts), sum(n for _, n in counts)


def _count_interior(labels: np.ndarray, sizes: np.ndarray, matched: np.ndarray, inner: Box) -> tuple[int, int]:
    inside = np.bincount(labels[inner].ravel(), minlength=len(sizes))
    is_interior = (sizes > 0) & (inside == sizes)
    return int(np.count_nonzero(is_interior[matched])), int(np.count_nonzero(is_interior))
