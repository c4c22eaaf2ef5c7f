"""Kernels over labels: numbering what fn returned, touching pairs, and remapping.

All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.jit import kernel

__all__ = ["collect_pairs", "copy_table", "number_dense", "number_sparse", "remap_volume"]

HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@kernel
def number_dense(labels, table, count, out):
    """Number labels by first appearance in C order, through a table addressed by label.

    Parameters
    ----------
    labels : (nz, ny, nx) unsigned int array
        0 is background; every label is smaller than ``len(table)``.
    table : (n,) uint32 array
        New id of each label, 0 where it has none yet; carried from call to call.
    count : int
        The last id given so far.
    out : (nz, ny, nx) uint16 or uint32 array
        Takes the new ids, cut down to its dtype.

    Returns
    -------
    int
        The last id given.
    """
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            previous = labels[z, y, 0]
            new = np.uint32(0)
            known = False
            for x in range(nx):
                label = labels[z, y, x]
                if label == 0:
                    out[z, y, x] = 0
                    continue
                if not known or label != previous:
                    new = table[label]
                    if new == 0:
                        count += 1
                        new = np.uint32(count)
                        table[label] = new
                    previous = label
                    known = True
                out[z, y, x] = new
    return count


@kernel
def number_sparse(labels, start, table, first, count, out):
    """Number labels by first appearance in C order, through a hash table, until it is half full.

    Parameters
    ----------
    labels : (nz, ny, nx) uint64 array
        0 is background; any other value is a label.
    start : int
        The row to begin with, counted through all planes.
    table : (2**k, 2) uint64 array
        Label and new id, open addressing; label 0 is a free place. Carried from call to call.
    first, count : int
        The ids given so far are ``first + 1`` to ``count``: as many places are taken.
    out : (nz, ny, nx) uint16 or uint32 array
        Takes the new ids, cut down to its dtype.

    Returns
    -------
    stop : int
        The row in which it stopped: the number of rows, or earlier when the table must grow. That
        row can be begun anew.
    count : int
        The last id given.
    """
    nz, ny, nx = labels.shape
    mask = np.uint64(len(table) - 1)
    limit = len(table) // 2
    for row in range(start, nz * ny):
        z = row // ny
        y = row - z * ny
        previous = np.uint64(0)
        new = np.uint32(0)
        for x in range(nx):
            label = labels[z, y, x]
            if label == 0:
                out[z, y, x] = 0
                continue
            if label != previous:
                previous = label
                # Most labels are met in the row before, and need not be looked up.
                if y > 0 and labels[z, y - 1, x] == label:
                    new = np.uint32(out[z, y - 1, x])
                else:
                    mixed = label * HASH_FACTOR
                    place = (mixed ^ (mixed >> np.uint64(32))) & mask
                    while table[place, 0] != label and table[place, 0] != 0:
                        place = (place + np.uint64(1)) & mask
                    if table[place, 0] == 0:
                        if count - first >= limit:
                            return row, count
                        count += 1
                        table[place, 0] = label
                        table[place, 1] = count
                    new = np.uint32(table[place, 1])
            out[z, y, x] = new
    return nz * ny, count


@kernel
def copy_table(table, wider):
    """Copy a hash table into a larger one.

    Parameters
    ----------
    table : (2**k, 2) uint64 array
        As `number_sparse` fills it.
    wider : (2**m, 2) uint64 array
        All zeros; takes the same labels and ids.
    """
    mask = np.uint64(len(wider) - 1)
    for i in range(len(table)):
        label = table[i, 0]
        if label != 0:
            mixed = label * HASH_FACTOR
            place = (mixed ^ (mixed >> np.uint64(32))) & mask
            while wider[place, 0] != 0:
                place = (place + np.uint64(1)) & mask
            wider[place, 0] = label
            wider[place, 1] = table[i, 1]


@kernel
def collect_pairs(a, b, pairs):
    """Collect labels that lie side by side, runs of the same pair once.

    Parameters
    ----------
    a, b : (n,) unsigned int arrays
        Labels on the two sides; 0 is background.
    pairs : (n, 2) int64 array
        Takes the pairs.

    Returns
    -------
    int
        How many pairs were written.
    """
    n = 0
    for i in range(len(a)):
        left = a[i]
        right = b[i]
        if left == 0 or right == 0:
            continue
        if n > 0 and pairs[n - 1, 0] == left and pairs[n - 1, 1] == right:
            continue
        pairs[n, 0] = left
        pairs[n, 1] = right
        n += 1
    return n


@kernel
def remap_volume(labels, table, out):
    """Look every label up in a table.

    Parameters
    ----------
    labels : (nz, ny, nx) unsigned int array
        Every value is smaller than ``len(table)``.
    table : (n,) int array
        New label of each label.
    out : (nz, ny, nx) int array
        Takes the new labels.
    """
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                out[z, y, x] = table[labels[z, y, x]]
