"""Labels of axes that are not merged: ids that differ from position to position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from blockbuster.kernels.stretches import StretchFinder, StretchGroup, as_unsigned

MAX_SPARSE = 1024


def keep_positions_apart(labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Make ids of labels differ from position to position along some axes.

    Parameters
    ----------
    labels : ndarray of integers
        Of any size and sparsity, none negative; 0 is background. One id may stand for objects of
        several planes.
    axes : sequence of int
        The axes along which an id counts for each position by itself.

    Returns
    -------
    ndarray of integers
        The labels themselves where no such axis is longer than 1; else uint32 or uint64.

    Notes
    -----
    About two nanoseconds and five bytes per voxel where there is something to do. Ids that were
    dense stay so, unless most of them occur at one of many positions only.

    Examples
    --------
    >>> keep_positions_apart(np.array([[1, 0, 2], [2, 0, 0]]), axes=(0,))
    array([[1, 0, 2],
           [4, 0, 0]], dtype=uint32)
    """
    n_positions = math.prod([labels.shape[axis] for axis in axes])
    if n_positions <= 1:
        return labels
    lengths = [n if axis in axes else 1 for axis, n in enumerate(labels.shape)]
    labels = as_unsigned(np.ascontiguousarray(labels))
    largest = int(labels.max(initial=0))
    if largest > 2 * labels.size + MAX_SPARSE:
        # Made dense, so that no product of id and position can exceed 64 bits.
        box = tuple(slice(0, n) for n in labels.shape)
        tile, largest = StretchFinder().find(labels, box)
        dense, table = np.zeros(labels.shape, np.int32), np.arange(largest + 1, dtype=np.int32)
        whole = np.array([[(0, n) for n in labels.shape]])
        StretchGroup.of([tile], whole).fill(np.zeros(1, np.int64), box, table, dense)
        labels = dense.view(np.uint32)
    dtype = np.dtype(np.uint32 if n_positions * largest < 2**32 else np.uint64)
    shifts = np.arange(n_positions, dtype=dtype).reshape(lengths) * dtype.type(largest)
    apart: np.ndarray = np.add(labels, shifts, dtype=dtype, casting="same_kind")
    apart *= labels > 0
    return apart
