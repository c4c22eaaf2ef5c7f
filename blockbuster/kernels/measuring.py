"""Kernels that measure objects: sums over the stretches of a tile, and sums of parts of an object.

All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part


@kernel_part
def find_row(box, place, origin, strides):
    """Return where a row of a tile begins in an array of values."""
    last = len(origin) - 1
    position = box[last, 0] - origin[last]
    for axis in range(last):
        position += (box[axis, 0] - origin[axis] + place[axis]) * strides[axis]
    return position


@kernel_part
def step_row(box, place):
    """Go on to the next row of a tile."""
    for axis in range(len(place) - 2, -1, -1):
        place[axis] += 1
        if place[axis] < box[axis, 1] - box[axis, 0]:
            break
        place[axis] = 0


@kernel
def sum_shapes(group, shifts, axes, sums):
    """Sum the positions of the voxels of each label, and find the box around them.

    Parameters
    ----------
    group : tuple of arrays
        ``boxes``, ``first_rows``, ``rows`` and ``stretches`` of tiles, as in `fill_boxes`.
    shifts : (n_tiles,) int64 array
        What is added to the ids of each tile to get labels.
    axes : (m, 2) int64 array
        Pairs of axes whose positions are multiplied.
    sums : (n_labels + 1, 1 + 3 * ndim + m) int64 array
        All zero; takes of each label, side by side: its voxels, the start of the box along each
        axis and its stop, from the tile's origin, and from the start of the box the sums of
        positions and of their products.
    """
    boxes, first_rows, rows, stretches = group
    ndim, m = boxes.shape[1], len(axes)
    last = ndim - 1
    place = np.zeros(ndim, np.int64)
    for tile in range(len(boxes)):
        place[:] = 0
        for r in range(first_rows[tile], first_rows[tile + 1]):
            for j in range(rows[r], rows[r + 1]):
                start, stop = np.int64(stretches[j, 0]), np.int64(stretches[j, 1])
                own = sums[np.uint64(shifts[tile] + stretches[j, 2])]
                n = stop - start
                # Twice the sum of positions along the last axis, and below six times that of their
                # squares: a division for each stretch takes as long as all the rest.
                total = n * (start + stop - 1)
                if own[0] == 0:
                    for axis in range(last):
                        own[1 + axis] = place[axis]
                    own[ndim] = start
                own[0] += n
                for axis in range(last):
                    at = place[axis]
                    own[1 + axis] = min(own[1 + axis], at)
                    own[1 + ndim + axis] = max(own[1 + ndim + axis], at + 1)
                    own[1 + 2 * ndim + axis] += n * at
                own[ndim] = min(own[ndim], start)
                own[2 * ndim] = max(own[2 * ndim], stop)
                own[3 * ndim] += total
                for k in range(m):
                    one, other = axes[k, 0], axes[k, 1]
                    if one == last:
                        squares = start * start + start * stop + stop * stop
                        product = n * (2 * squares - 3 * (start + stop) + 1)
                    elif other == last:
                        product = place[one] * total
                    else:
                        product = place[one] * place[other] * n
                    own[1 + 3 * ndim + k] += product
            step_row(boxes[tile], place)
    for label in range(1, len(sums)):
        own = sums[label]
        own[3 * ndim] //= 2
        for k in range(m):
            one, other = axes[k, 0], axes[k, 1]
            if other == last:
                own[1 + 3 * ndim + k] //= 6 if one == last else 2
            a, b = own[1 + one], own[1 + other]
            across = a * own[1 + 2 * ndim + other] + b * own[1 + 2 * ndim + one]
            own[1 + 3 * ndim + k] += own[0] * a * b - across
        for axis in range(ndim):
            own[1 + 2 * ndim + axis] -= own[0] * own[1 + axis]


@kernel_part
def sum_run(values, start, stop, pivot, zero):
    """Return the sum of values side by side, the least, the greatest, and the sum of squared
    distances to the pivot; NaN stays. `zero` is of the kind that squares are added up in.
    """
    total = pivot - pivot
    square = zero
    low = high = values[start]
    for x in range(start, stop):
        value = values[x]
        total += value
        apart = value - pivot + zero
        square += apart * apart
        low = min(low, value)
        high = max(high, value)
    if total != total:
        for x in range(start, stop):
            if values[x] != values[x]:
                low = high = values[x]
    return total, low, high, square


@kernel
def sum_values(
    group, shifts, values, offset, origin, strides, zero, counts, totals, lows, highs, pivots, squares
):
    """Sum the values of each label, and find the least and the greatest; NaN stays.

    Parameters
    ----------
    group : tuple of arrays
        ``boxes``, ``first_rows``, ``rows`` and ``stretches`` of tiles, as in `fill_boxes`.
    shifts : (n_tiles,) int64 array
        What is added to the ids of each tile to get labels.
    values : (n,) array
        Values of voxels.
    offset : int
        Where the first of them is.
    origin : (ndim,) int64 array
        The voxel that it is of.
    strides : (ndim,) int64 array
        How far values of neighbours along each axis are apart, 1 along the last one.
    zero : int64 or float64
        Of the dtype of `squares`.
    counts : (n_labels + 1,) int64 array
        All zero; takes the voxels of each label.
    totals, lows, highs : (n_labels + 1,) int64 or float64 array
        Take the sums, the least and the greatest.
    pivots : (n_labels + 1,) array of the same dtype
        Takes the first value of each label.
    squares : (n_labels + 1,) int64 or float64 array
        All zero; takes the sums of squared distances to that.
    """
    boxes, first_rows, rows, stretches = group
    place = np.zeros(boxes.shape[1], np.int64)
    for tile in range(len(boxes)):
        place[:] = 0
        for r in range(first_rows[tile], first_rows[tile + 1]):
            at = offset + find_row(boxes[tile], place, origin, strides)
            for j in range(rows[r], rows[r + 1]):
                label = shifts[tile] + stretches[j, 2]
                # Unsigned: no index counts from the end.
                start, stop = np.uint64(at + stretches[j, 0]), np.uint64(at + stretches[j, 1])
                if counts[label] == 0:
                    pivots[label] = lows[label] = highs[label] = values[start]
                pivot = pivots[label]
                total, low, high, square = sum_run(values, start, stop, pivot, zero)
                counts[label] += stretches[j, 1] - stretches[j, 0]
                totals[label] += total
                squares[label] += square
                if low < lows[label] or low != low:
                    lows[label] = low
                if high > highs[label] or high != high:
                    highs[label] = high
            step_row(boxes[tile], place)


@kernel
def add_parts(objects, tiles, axes, parts, last_tiles, n_tiles, wholes):
    """Add parts to the objects they belong to, one after another.

    Parameters
    ----------
    objects : (n,) int64 array
        The object that each part belongs to.
    tiles : (n,) int64 array
        The tile that it lies in; in order for each object.
    axes : (m, 2) int64 array
        Pairs of axes of the second moments.
    parts : tuple of arrays
        Of each part, side by side, voxels, start and stop of the box along each axis and sums of
        positions (n, 1 + 3 * ndim); central second moments (n, m); per channel the sum of values,
        the least and the greatest (n, 3, c), and the sum of squared deviations (n, c).
    last_tiles, n_tiles : (n_objects,) int64 array
        The tile of the last part of each object, -1 at first, and how many tiles it has.
    wholes : tuple of arrays
        As `parts`, for the objects; voxels are 0 at first.
    """
    shapes, seconds, values, deviations = parts
    all_shapes, all_seconds, all_values, all_deviations = wholes
    ndim = (shapes.shape[1] - 1) // 3
    for k in range(len(objects)):
        to = objects[k]
        part, whole = shapes[k], all_shapes[to]
        if tiles[k] != last_tiles[to]:
            last_tiles[to] = tiles[k]
            n_tiles[to] += 1
        if whole[0] == 0:
            whole[:] = part
            all_seconds[to] = seconds[k]
            all_values[to] = values[k]
            all_deviations[to] = deviations[k]
            continue
        n, m = np.float64(whole[0]), np.float64(part[0])
        # Of two parts with means a and b: the moments about the mean of both.
        weight = n * m / (n + m)
        for p in range(len(axes)):
            one, other = 1 + 2 * ndim + axes[p, 0], 1 + 2 * ndim + axes[p, 1]
            apart, across = whole[one] / n - part[one] / m, whole[other] / n - part[other] / m
            all_seconds[to, p] += seconds[k, p] + weight * apart * across
        for c in range(deviations.shape[1]):
            own, more = all_values[to, :, c], values[k, :, c]
            all_deviations[to, c] += deviations[k, c] + weight * (own[0] / n - more[0] / m) ** 2
            own[0] += more[0]
            if more[1] < own[1] or more[1] != more[1]:
                own[1] = more[1]
            if more[2] > own[2] or more[2] != more[2]:
                own[2] = more[2]
        for axis in range(1, 1 + ndim):
            whole[axis] = min(whole[axis], part[axis])
            whole[ndim + axis] = max(whole[ndim + axis], part[ndim + axis])
            whole[2 * ndim + axis] += part[2 * ndim + axis]
        whole[0] += part[0]
