"""Kernels over labels: numbering what fn returned, touching pairs, and remapping.

All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.jit import kernel

__all__ = ["collect_pairs", "number_dense", "number_sparse", "remap_volume"]

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
def number_sparse(labels, start, keys, values, count, out):
    """Number labels by first appearance, through a hash table, until it is half full.

    Parameters
    ----------
    labels : (n,) uint64 array
        0 is background; any other value is a label.
    start : int
        Where to begin.
    keys, values : (2**k,) uint64 and uint32 arrays
        Open addressing; key 0 is a free place. Carried from call to call.
    count : int
        The last id given so far, counted from 0: also how many places are taken.
    out : (n,) uint32 array
        Takes the new ids.

    Returns
    -------
    stop : int
        Where it stopped: ``len(labels)``, or earlier when the table must grow.
    count : int
        The last id given.
    """
    mask = np.uint64(len(keys) - 1)
    limit = len(keys) // 2
    previous = np.uint64(0)
    new = np.uint32(0)
    for i in range(start, len(labels)):
        label = labels[i]
        if label == 0:
            out[i] = 0
            continue
        if label != previous:
            mixed = label * HASH_FACTOR
            place = (mixed ^ (mixed >> np.uint64(32))) & mask
            while keys[place] != label and keys[place] != 0:
                place = (place + np.uint64(1)) & mask
            if keys[place] == 0:
                if count >= limit:
                    return i, count
                count += 1
                keys[place] = label
                values[place] = np.uint32(count)
            new = values[place]
            previous = label
        out[i] = new
    return len(labels), count


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
