"""Number and remap label arrays of any number of axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from blockbuster.jit import in_native_order
from blockbuster.seams.kernels import copy_table, number_dense, number_sparse, remap_volume

__all__ = ["as_dense", "compact_labels", "keep_positions_apart", "remap_labels"]

FIRST_HASH_SIZE = 1024
HASH_GROWTH = 4


def compact_labels(labels: np.ndarray, out: np.ndarray, first: int = 0) -> int:
    """Number the distinct labels of a tile ``first + 1, first + 2, ...`` by first appearance.

    Parameters
    ----------
    labels : ndarray of integers
        Labels of any size and sparsity, none negative; 0 is background.
    out : ndarray of uint16 or uint32, same shape
        Takes the new ids. Where they do not fit, their number is right and `out` is not.
    first : int
        The last id already taken.

    Returns
    -------
    int
        How many distinct labels there were.

    Notes
    -----
    One pass over the voxels. Extra memory grows with the number of voxels for dense ids and
    with the number of distinct ids for sparse ones, never with the largest id.

    Examples
    --------
    >>> out = np.zeros(4, np.uint32)
    >>> compact_labels(np.array([2**40, 0, 7, 2**40]), out, first=10)
    2
    >>> out.tolist()
    [11, 0, 12, 11]
    """
    if labels.size == 0:
        return 0
    labels = _as_unsigned(labels)
    largest = int(labels.max())
    if largest == 0:
        out[...] = 0
        return 0
    if _is_dense(labels, largest):
        return _compact_dense(labels, out, first, largest)
    return _compact_sparse(labels, out, first)


def as_dense(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Give labels as contiguous unsigned integers that a table can be addressed by, and the largest.

    Parameters
    ----------
    labels : ndarray of integers
        Of any size and sparsity, none negative; 0 is background.

    Returns
    -------
    ndarray of uint32 or uint64
        The labels themselves, or where their ids are sparse, others that tell them apart as well.
    int
        The largest of them.

    Examples
    --------
    >>> as_dense(np.array([2**40, 0, 7, 2**40]))
    (array([1, 0, 2, 1], dtype=uint32), 2)
    """
    labels = _as_unsigned(np.ascontiguousarray(labels))
    largest = int(labels.max(initial=0))
    if _is_dense(labels, largest):
        return labels, largest
    numbered = np.empty(labels.shape, np.uint32)
    return numbered, compact_labels(labels, numbered)


def keep_positions_apart(labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Give labels ids that differ from position to position along some axes.

    Parameters
    ----------
    labels : ndarray of integers
        Of any size and sparsity, none negative; 0 is background. One id may stand for objects of several planes.
    axes : sequence of int
        The axes along which an id counts for each position by itself.

    Returns
    -------
    ndarray of integers
        The labels themselves where no such axis is longer than 1; else uint32 or uint64.

    Notes
    -----
    About two nanoseconds and five bytes per voxel where there is something to do. Ids that were dense stay so,
    unless most of them occur at one of many positions only.

    Examples
    --------
    >>> keep_positions_apart(np.array([[1, 0, 2], [2, 0, 0]]), axes=(0,))
    array([[1, 0, 2],
           [4, 0, 0]], dtype=uint32)
    """
    lengths = [n if axis in axes else 1 for axis, n in enumerate(labels.shape)]
    n_positions = math.prod(lengths)
    if n_positions <= 1:
        return labels
    # Dense, so that no product of id and position can exceed 64 bits.
    labels, largest = as_dense(labels)
    dtype = np.dtype(np.uint32 if n_positions * largest < 2**32 else np.uint64)
    shifts = np.arange(n_positions, dtype=dtype).reshape(lengths) * dtype.type(largest)
    apart = np.add(labels, shifts, dtype=dtype, casting="same_kind")
    apart *= labels > 0
    return apart


def _is_dense(labels: np.ndarray, largest: int) -> bool:
    return largest <= 2 * labels.size + FIRST_HASH_SIZE


def remap_labels(labels: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Look every label up in a table: ``out[...] = table[labels]``, without a temporary copy.

    Parameters
    ----------
    labels : ndarray of unsigned int
        Every value is smaller than ``len(table)``; this is not checked.
    table : (n,) ndarray of int
        New label of each label.
    out : ndarray of int, same shape as `labels`
        Takes the new labels; of this machine's byte order.

    Examples
    --------
    >>> out = np.zeros(3, np.int32)
    >>> remap_labels(np.array([2, 0, 1], np.uint32), np.array([0, 7, 9], np.int32), out)
    >>> out.tolist()
    [9, 0, 7]
    """
    table = in_native_order(table)
    for part, new in zip(_volumes(in_native_order(labels)), _volumes(out), strict=True):
        remap_volume(part, table, new)


def _as_unsigned(labels: np.ndarray) -> np.ndarray:
    """View or convert to native uint32 or uint64, so that few kernels are compiled."""
    size = 4 if labels.dtype.itemsize <= 4 else 8
    if labels.dtype.itemsize == size and labels.dtype.isnative:
        return labels.view(f"u{size}")
    return labels.astype(f"u{size}")


def _volumes(array: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate in C order over views with three axes."""
    if array.ndim < 3:
        yield array[(None,) * (3 - array.ndim)]
        return
    for index in itertools.product(*(range(n) for n in array.shape[:-3])):
        yield array[index]


def _compact_dense(labels: np.ndarray, out: np.ndarray, first: int, largest: int) -> int:
    """Compact through a table with one entry for every possible label."""
    table = np.zeros(largest + 1, np.uint32)
    count = first
    for part, new in zip(_volumes(labels), _volumes(out), strict=True):
        count = number_dense(part, table, count, new)
    return count - first


def _compact_sparse(labels: np.ndarray, out: np.ndarray, first: int) -> int:
    """Compact through a hash table that grows when it is half full."""
    labels = labels.astype(np.uint64, copy=False)
    table = np.zeros((FIRST_HASH_SIZE, 2), np.uint64)
    count = first
    for part, new in zip(_volumes(labels), _volumes(out), strict=True):
        row, n_rows = 0, part.shape[0] * part.shape[1]
        while row < n_rows:
            row, count = number_sparse(part, row, table, first, count, new)
            if row < n_rows:
                narrow, table = table, np.zeros((HASH_GROWTH * len(table), 2), np.uint64)
                copy_table(narrow, table)
    return count - first
