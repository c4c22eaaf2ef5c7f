"""Kernels for coarser levels of a label image: the label that most voxels of each block have."""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part

HALF = np.uint64(32)
LOW = np.uint64(2**32 - 1)


@kernel
def mode_of_blocks(labels, rows, columns, offsets, out):
    """Write the most frequent label of each block.

    Parameters
    ----------
    labels : (n,) ndarray of int
        Labels; 0 is background.
    rows : (h,) ndarray of uint64
        First voxel of each row of blocks.
    columns : (w,) ndarray of uint64
        First voxel of each block, relative to that of its row.
    offsets : (b,) ndarray of uint64
        Voxels of a block, relative to the first; ``rows + columns + offsets`` must lie in `labels`,
        which is not checked.
    out : (h, w) ndarray of int
        Takes the labels. Labels win over background where the counts are equal, else the first
        wins.

    Notes
    -----
    About a nanosecond per voxel where most blocks have one label, and what the processor guesses
    wrong elsewhere.
    """
    n = len(offsets)
    for i in range(len(rows)):
        for j in range(len(columns)):
            start = rows[i] + columns[j]
            best = labels[start]
            most = 1
            for k in range(1, n):
                most += labels[start + offsets[k]] == best
            # Most blocks have one label.
            if 2 * most <= n:
                for k in range(1, n):
                    label = labels[start + offsets[k]]
                    count = 0
                    for m in range(n):
                        count += labels[start + offsets[m]] == label
                    if count > most or (count == most and best == 0):
                        best = label
                        most = count
            out[i, j] = best


@kernel
def mode_of_pairs(pairs, rows, offsets, out):
    """Write the most frequent label of each block of 4 or 8 voxels, which come in pairs side by
    side.

    Parameters
    ----------
    pairs : (n,) ndarray of uint64
        Two labels of 32 bits each, of which the first is in the lower half.
    rows : (h,) ndarray of uint64
        First pair of each row of blocks.
    offsets : (2,) or (4,) ndarray of uint64
        Pairs of a block, relative to the first; ``rows + offsets`` and the pairs after it, one for
        each block of a row, must lie in `pairs`, which is not checked.
    out : (h, w) ndarray of int32
        Takes the labels, chosen as `mode_of_blocks` does.

    Notes
    -----
    A third of a nanosecond per voxel of blocks of 4, two thirds of blocks of 8: there is nothing to
    guess, and compilers do several blocks at once.
    """
    n = out.shape[1]
    for i in range(len(rows)):
        p = pairs[rows[i] :]
        q = pairs[rows[i] + offsets[1] :]
        if len(offsets) == 2:
            for j in range(n):
                out[i, j] = _heaviest((p[j] & LOW, p[j] >> HALF, q[j] & LOW, q[j] >> HALF))
        else:
            r = pairs[rows[i] + offsets[2] :]
            s = pairs[rows[i] + offsets[3] :]
            for j in range(n):
                first = (p[j] & LOW, p[j] >> HALF, q[j] & LOW, q[j] >> HALF)
                out[i, j] = _heaviest((*first, r[j] & LOW, r[j] >> HALF, s[j] & LOW, s[j] >> HALF))


@kernel_part
def _heaviest(labels):
    """Return the first of the most frequent labels of a tuple; background weighs a little less."""
    best = labels[0]
    most = -1
    for i in range(len(labels)):
        weight = int(labels[i] != 0)
        for k in range(len(labels)):
            weight += 2 * (labels[k] == labels[i])
        best = labels[i] if weight > most else best
        most = max(most, weight)
    return best
