"""Kernels over labels: stretches of what fn returned, and boxes filled with stretches.

All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part

# For the lower and the upper half of a label: their products fit 64 bits, also where numpy would
# warn of others.
LOW_FACTOR, HIGH_FACTOR = np.uint64(0x9E3779B9), np.uint64(0x85EBCA6B)
HALF = np.uint64(0xFFFFFFFF)


@kernel_part
def find_place(table, label):
    """Return the place of a label in a hash table, or the free place where it would be."""
    mask = np.uint64(len(table) - 1)
    mixed = (label & HALF) * LOW_FACTOR ^ (label >> np.uint64(32)) * HIGH_FACTOR
    place = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table[place, 0] != label and table[place, 0] != 0:
        place = (place + np.uint64(1)) & mask
    return place


@kernel
def find_stretches(labels, row, table, count, changes, rows, stretches):
    """Find the stretches of labels, numbered by first appearance in C order, as long as there is
    room.

    Parameters
    ----------
    labels : (nz, ny, nx) unsigned int array
        0 is background.
    row : int
        The row to begin with, counted through all planes.
    table : (2**k, 2) uint64 array
        Label and id, open addressing; label 0 is a free place. Carried from call to call.
    count : int
        The last id given so far: as many places are taken.
    changes : (nx,) int32 array
        Scratch.
    rows : (nz * ny + 1,) int64 array
        Where the stretches of each row begin, known up to `row`; takes the others.
    stretches : (n, 3) int32 array
        Takes start, stop and id of each stretch.

    Returns
    -------
    row : int
        The row in which it stopped: the number of rows; or an earlier one, which can be begun anew
        when there is room for more stretches. When the table is half full, all must be begun anew
        with a larger one.
    count : int
        The last id given.
    """
    nz, ny, nx = labels.shape
    limit = len(table) // 2
    for r in range(row, nz * ny):
        z = r // ny
        y = r - z * ny
        # Without a branch, on which the processor would guess wrong where labels are short.
        n_changes = 0
        for x in range(1, nx):
            changes[n_changes] = x
            n_changes += labels[z, y, x] != labels[z, y, x - 1]
        n = rows[r]
        if n + n_changes + 1 > len(stretches):
            return r, count
        changes[n_changes] = nx
        start = 0
        for i in range(n_changes + 1):
            stop = changes[i]
            label = np.uint64(labels[z, y, start])
            if label != 0:
                place = find_place(table, label)
                if table[place, 0] == 0:
                    if count >= limit:
                        return r, count
                    count += 1
                    table[place, 0] = label
                    table[place, 1] = count
                stretches[n, 0] = start
                stretches[n, 1] = stop
                stretches[n, 2] = table[place, 1]
                n += 1
            start = stop
        rows[r + 1] = n
    return nz * ny, count


@kernel
def fill_boxes(boxes, first_rows, firsts, rows, stretches, tiles, cut, places, table, out, strides):
    """Fill parts of some tiles from their stretches.

    Parameters
    ----------
    boxes : (n, ndim, 2) int64 array
        Start and stop of each tile.
    first_rows : (n + 1,) int64 array
        The first row of each tile.
    firsts : (n,) int64 array
        What is added to the ids of each tile.
    rows : (n_rows + 1,) int64 array
        Where the stretches of each row of all tiles begin.
    stretches : (n, 3) int32 array
        Start, stop and id, from the tile's origin.
    tiles : (m,) int64 array
        The tile that each part is of.
    cut : (m, ndim, 2) int64 array
        Start and stop of the part; where it is empty, nothing is filled.
    places : (m, ndim) int64 array
        Place of its first voxel in what is filled.
    table : (n_ids,) int array
        What is filled in for each id, once something was added.
    out : (n_voxels,) int array
        What is filled, flat; background is left as it is.
    strides : (ndim,) int64 array
        Its strides in voxels, 1 along the last axis.
    """
    last = boxes.shape[1] - 1
    for k in range(len(tiles)):
        tile = tiles[k]
        start = cut[k, last, 0] - boxes[tile, last, 0]
        stop = cut[k, last, 1] - boxes[tile, last, 0]
        n_rows = 1
        for axis in range(last):
            n_rows *= max(0, cut[k, axis, 1] - cut[k, axis, 0])
        for r in range(n_rows):
            row = first_rows[tile]
            position = places[k, last] - start
            rest = r
            factor = 1
            for axis in range(last - 1, -1, -1):
                length = cut[k, axis, 1] - cut[k, axis, 0]
                i = rest % length
                rest //= length
                row += (cut[k, axis, 0] - boxes[tile, axis, 0] + i) * factor
                factor *= boxes[tile, axis, 1] - boxes[tile, axis, 0]
                position += (places[k, axis] + i) * strides[axis]
            for j in range(rows[row], rows[row + 1]):
                begin = max(stretches[j, 0], start)
                end = min(stretches[j, 1], stop)
                if begin < end:
                    value = table[firsts[tile] + stretches[j, 2]]
                    for x in range(position + begin, position + end):
                        out[x] = value
