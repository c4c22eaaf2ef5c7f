"""Kernels over stretches: pieces of one label along the last axis, row by row.

Stretches of a box are two arrays: ``rows``, where ``rows[r]`` to ``rows[r + 1]`` are the stretches of row ``r``,
rows counted in C order; and ``stretches``, with columns start, stop and id, in voxels from the box's origin,
sorted by start within a row. Two boxes are passed as two pairs ``(rows, stretches)``.

All arrays are allocated by the caller, but for the scratch of `compare_tiles`, which is one call for each pair
of tiles: the parts of it called one by one from Python would take longer than what they do. Nothing here
checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.jit import kernel, kernel_part

__all__ = [
    "FACE",
    "INSIDE",
    "MIDDLE",
    "clip_stretches",
    "collect_contacts",
    "compare_tiles",
    "join_stretches",
    "keep_border",
    "measure_overlaps",
    "note_pairs",
    "number_stretches",
    "sum_pieces",
]

# What a row of a tile is to its neighbours.
OUTSIDE, INSIDE, FACE, MIDDLE = 0, 1, 2, 4


@kernel
def number_stretches(stretches, lookup):
    """Number ids anew, by first appearance.

    Parameters
    ----------
    stretches : (n, 3) int32 array
        Stretches; their ids are changed in place.
    lookup : (m,) int32 array
        All zeros; takes the new id of each one that occurs.

    Returns
    -------
    int
        How many ids there are.
    """
    count = 0
    for i in range(len(stretches)):
        number = stretches[i, 2]
        if lookup[number] == 0:
            count += 1
            lookup[number] = count
        stretches[i, 2] = lookup[number]
    return count


@kernel
def keep_border(whole, lookup, places, window, sides, middle, is_kept, rows, stretches):
    """Keep what neighbours see of the labels that touch one of a tile's borders.

    Parameters
    ----------
    whole : pair of arrays
        The stretches of the tile with its halo.
    lookup : (m,) int32 array
        Id of each one in the core; 0 for those that are in the halo alone.
    places : (n_rows,) uint8 array
        OUTSIDE the core, INSIDE it, or at a FACE of it that neighbours see; plus MIDDLE where the middle of the
        row is seen by none.
    window : (2,) int64 array
        Start and stop of the core along the last axis.
    sides : (2,) bool array
        Whether neighbours see its ends.
    middle : (2,) int64 array
        Start and stop of the middle.
    is_kept : (m,) bool array
        All false; takes which of the core's ids touch a border.
    rows, stretches : arrays
        As large as those of `whole`; take what is kept, with the ids of the core.

    Returns
    -------
    int
        How many stretches are kept.
    """
    whole_rows, whole_stretches = whole
    for row in range(len(places)):
        place = places[row] & 3
        if place == OUTSIDE:
            continue
        for i in range(whole_rows[row], whole_rows[row + 1]):
            start = whole_stretches[i, 0]
            stop = whole_stretches[i, 1]
            if place == FACE:
                is_seen = stop > window[0] and start < window[1]
            else:
                is_seen = (sides[0] and start <= window[0] and stop > window[0]) or (
                    sides[1] and start < window[1] and stop >= window[1]
                )
            if is_seen:
                is_kept[lookup[whole_stretches[i, 2]]] = True
    is_kept[0] = False
    n = 0
    for row in range(len(places)):
        rows[row] = n
        has_middle = places[row] & MIDDLE
        for i in range(whole_rows[row], whole_rows[row + 1]):
            number = lookup[whole_stretches[i, 2]]
            start = whole_stretches[i, 0]
            stop = whole_stretches[i, 1]
            if is_kept[number] and not (has_middle and start >= middle[0] and stop <= middle[1]):
                stretches[n, 0] = start
                stretches[n, 1] = stop
                stretches[n, 2] = number
                n += 1
    rows[len(places)] = n
    return n


@kernel
def clip_stretches(whole, taken, window, rows, stretches):
    """Cut stretches down to a smaller box.

    Parameters
    ----------
    whole : pair of arrays
        The stretches of the larger box.
    taken : (n_rows,) int64 array
        The row of the larger box that each row of the smaller one is.
    window : (2,) int64 array
        Start and stop of the smaller box along the last axis.
    rows : (n_rows + 1,) int64 array
        Takes where the stretches of each row begin.
    stretches : (n, 3) int32 array
        Takes the stretches, counted from the smaller box's origin; at most as many as the larger box has.

    Returns
    -------
    int
        How many stretches there are.
    """
    whole_rows, whole_stretches = whole
    n = 0
    for row in range(len(taken)):
        rows[row] = n
        for i in range(whole_rows[taken[row]], whole_rows[taken[row] + 1]):
            start = max(whole_stretches[i, 0], window[0])
            stop = min(whole_stretches[i, 1], window[1])
            if start < stop:
                stretches[n, 0] = start - window[0]
                stretches[n, 1] = stop - window[0]
                stretches[n, 2] = whole_stretches[i, 2]
                n += 1
    rows[len(taken)] = n
    return n


@kernel_part
def stretches_at(whole, x):
    """Give the stretch of each row that covers a position, -1 for none, as (n_rows,) int64."""
    rows, stretches = whole
    found = np.empty(len(rows) - 1, np.int64)
    for row in range(len(found)):
        found[row] = -1
        for i in range(rows[row], rows[row + 1]):
            if stretches[i, 0] <= x < stretches[i, 1]:
                found[row] = i
    return found


@kernel_part
def collect_contacts(a, b, row_pairs, windows, contacts):
    """Find stretches of two tiles that touch across their seam.

    Parameters
    ----------
    a, b : pairs of arrays
        The stretches of the two tiles, in boxes of one shape.
    row_pairs : (m, 3) int64 array
        Rows of `a` and `b` that lie beside each other, and by how many voxels a neighbour may be aside (0 or 1).
    windows : (2, 2) int64 array
        Start and stop along the last axis, in `a` and in `b`, of what faces the seam; equally long.
    contacts : (n, 4) int64 array
        Takes stretch of `a`, stretch of `b`, and a voxel of `a` where they touch as row and position, as far as
        there is room.

    Returns
    -------
    int
        How many contacts there are; more than ``len(contacts)`` when it must be called again with more room.
    """
    rows_a, stretches_a = a
    rows_b, stretches_b = b
    shift = windows[1, 0] - windows[0, 0]
    n = 0
    # Across the last axis every row has one voxel at the seam, and there are nine pairs for each in 3-D.
    is_narrow = windows[0, 1] - windows[0, 0] == 1
    at_a = stretches_at(a, windows[0, 0] if is_narrow else -1)
    at_b = stretches_at(b, windows[1, 0] if is_narrow else -1)
    for k in range(len(row_pairs)):
        slack = row_pairs[k, 2]
        if is_narrow and slack == 0:
            i = at_a[row_pairs[k, 0]]
            j = at_b[row_pairs[k, 1]]
            if i >= 0 and j >= 0:
                if n < len(contacts):
                    contacts[n, 0] = i
                    contacts[n, 1] = j
                    contacts[n, 2] = row_pairs[k, 0]
                    contacts[n, 3] = windows[0, 0]
                n += 1
            continue
        first = rows_b[row_pairs[k, 1]]
        last = rows_b[row_pairs[k, 1] + 1]
        if first == last:
            continue
        for i in range(rows_a[row_pairs[k, 0]], rows_a[row_pairs[k, 0] + 1]):
            start = max(stretches_a[i, 0], windows[0, 0])
            stop = min(stretches_a[i, 1], windows[0, 1])
            if start >= stop:
                continue
            while first < last and min(stretches_b[first, 1], windows[1, 1]) - shift + slack <= start:
                first += 1
            for j in range(first, last):
                other_start = max(stretches_b[j, 0], windows[1, 0]) - shift
                other_stop = min(stretches_b[j, 1], windows[1, 1]) - shift
                if other_start >= stop + slack:
                    break
                if other_start < other_stop and other_stop + slack > start:
                    if n < len(contacts):
                        contacts[n, 0] = i
                        contacts[n, 1] = j
                        contacts[n, 2] = row_pairs[k, 0]
                        contacts[n, 3] = min(max(start, other_start), stop - 1)
                    n += 1
    return n


@kernel_part
def join_stretches(whole, before, slack, parents):
    """Join stretches of one id that are neighbours, in a disjoint set whose roots are their smallest elements.

    Parameters
    ----------
    whole : pair of arrays
        The stretches.
    before : (n_rows, m) int64 array
        The rows beside each row that come before it; -1 for none.
    slack : (m,) int64 array
        By how many voxels (0 or 1) a neighbour in each of them may be aside.
    parents : (n,) int64 array
        Takes the parent of each stretch, which is never behind it.
    """
    rows, stretches = whole
    for i in range(len(parents)):
        parents[i] = i
    for row in range(len(rows) - 1):
        for m in range(before.shape[1]):
            if rows[row] == rows[row + 1] or before[row, m] < 0:
                continue
            first = rows[before[row, m]]
            last = rows[before[row, m] + 1]
            for i in range(rows[row], rows[row + 1]):
                start = stretches[i, 0] - slack[m]
                stop = stretches[i, 1] + slack[m]
                while first < last and stretches[first, 1] <= start:
                    first += 1
                for j in range(first, last):
                    if stretches[j, 0] >= stop:
                        break
                    if stretches[j, 2] != stretches[i, 2]:
                        continue
                    p = i
                    q = j
                    while parents[p] != p:
                        parents[p] = parents[parents[p]]
                        p = parents[p]
                    while parents[q] != q:
                        parents[q] = parents[parents[q]]
                        q = parents[q]
                    if p < q:
                        parents[q] = p
                    elif q < p:
                        parents[p] = q


@kernel_part
def note_pairs(contacts, roots, heads, pairs):
    """List the pieces that touch, each pair once, in the order in which they are met.

    Parameters
    ----------
    contacts : (n, 4) int64 array
        As `collect_contacts` gives them.
    roots : pair of int64 arrays
        The piece of each stretch of `a` and of `b`.
    heads : (len(stretches of a),) int64 array
        Takes the last pair of each piece of `a`, or -1.
    pairs : (n, 5) int64 array
        Takes piece of `a`, piece of `b`, the pair before it of the same piece of `a` or -1, 0, and the contact.

    Returns
    -------
    int
        How many pairs there are.
    """
    roots_a, roots_b = roots
    heads[:] = -1
    n = 0
    last_p = -1
    last_q = -1
    for i in range(len(contacts)):
        p = roots_a[contacts[i, 0]]
        q = roots_b[contacts[i, 1]]
        if p == last_p and q == last_q:
            continue
        last_p = p
        last_q = q
        k = heads[p]
        while k >= 0 and pairs[k, 1] != q:
            k = pairs[k, 2]
        if k < 0:
            pairs[n, 0] = p
            pairs[n, 1] = q
            pairs[n, 2] = heads[p]
            pairs[n, 3] = 0
            pairs[n, 4] = i
            heads[p] = n
            n += 1
    return n


@kernel_part
def measure_overlaps(a, b, roots, heads, pairs):
    """Count the voxels that pieces of two tiles have in common.

    Parameters
    ----------
    a, b : pairs of arrays
        The stretches of the two tiles, in boxes of one shape.
    roots : pair of int64 arrays
        The piece of each stretch of `a` and of `b`.
    heads : (len(stretches of a),) int64 array
        As `note_pairs` left it.
    pairs : (n, 5) int64 array
        As `note_pairs` left it; column 3 takes the voxels in common.
    """
    rows_a, stretches_a = a
    rows_b, stretches_b = b
    roots_a, roots_b = roots
    for row in range(len(rows_a) - 1):
        first = rows_b[row]
        for i in range(rows_a[row], rows_a[row + 1]):
            while first < rows_b[row + 1] and stretches_b[first, 1] <= stretches_a[i, 0]:
                first += 1
            j = first
            while j < rows_b[row + 1] and stretches_b[j, 0] < stretches_a[i, 1]:
                k = heads[roots_a[i]]
                while k >= 0 and pairs[k, 1] != roots_b[j]:
                    k = pairs[k, 2]
                if k >= 0:
                    pairs[k, 3] += min(stretches_a[i, 1], stretches_b[j, 1]) - max(
                        stretches_a[i, 0], stretches_b[j, 0]
                    )
                j += 1


@kernel_part
def sum_pieces(stretches, roots, sizes):
    """Point every stretch at the root of its piece, and count the piece's voxels there.

    Parameters
    ----------
    stretches : (n, 3) int32 array
        The stretches.
    roots : (n,) int64 array
        As `join_stretches` left them. Changed in place.
    sizes : (n,) int64 array
        All zeros; takes the voxels of each piece at its root.
    """
    for i in range(len(roots)):
        roots[i] = roots[roots[i]]
        sizes[roots[i]] += stretches[i, 1] - stretches[i, 0]


@kernel
def compare_tiles(a, b, facing, beside, frame, found):
    """Compare the pieces of two tiles that touch across their seam.

    Parameters
    ----------
    a, b : tuples of arrays
        The tiles: rows and stretches of each, the rows that both see, and the window of `clip_stretches`.
    facing : pair of arrays
        Rows that face each other, and windows, as `collect_contacts` takes them.
    beside : pair of arrays
        Rows beside each row, and slack, as `join_stretches` takes them.
    frame : (3, ndim) int64 array
        Of what both see: its shape, its place in the image, and the image's strides in voxels.
    found : (n, 5) int64 array
        Takes id in `a`, id in `b`, voxels in common, voxels in either, and a voxel of `a` where they touch, for
        each pair of pieces that touch, as far as there is room.

    Returns
    -------
    int
        How many pairs of pieces there are; more than ``len(found)`` when it must be called again with more room.
    """
    rows_a, stretches_a, taken_a, window_a = a
    rows_b, stretches_b, taken_b, window_b = b
    n_rows = len(taken_a)
    mine = (np.empty(n_rows + 1, np.int64), np.empty((count_stretches(rows_a, taken_a), 3), np.int32))
    theirs = (np.empty(n_rows + 1, np.int64), np.empty((count_stretches(rows_b, taken_b), 3), np.int32))
    n_mine = clip_stretches((rows_a, stretches_a), taken_a, window_a, mine[0], mine[1])
    n_theirs = clip_stretches((rows_b, stretches_b), taken_b, window_b, theirs[0], theirs[1])
    contacts = np.empty((len(facing[0]) + 64, 4), np.int64)
    n = collect_contacts(mine, theirs, facing[0], facing[1], contacts)
    if n == 0:
        return 0
    if n > len(contacts):
        contacts = np.empty((n, 4), np.int64)
        collect_contacts(mine, theirs, facing[0], facing[1], contacts)
    roots = (np.empty(n_mine, np.int64), np.empty(n_theirs, np.int64))
    sizes = (np.zeros(n_mine, np.int64), np.zeros(n_theirs, np.int64))
    join_stretches(mine, beside[0], beside[1], roots[0])
    join_stretches(theirs, beside[0], beside[1], roots[1])
    sum_pieces(mine[1], roots[0], sizes[0])
    sum_pieces(theirs[1], roots[1], sizes[1])
    heads = np.empty(n_mine, np.int64)
    pairs = np.empty((n, 5), np.int64)
    n = note_pairs(contacts[:n], roots, heads, pairs)
    measure_overlaps(mine, theirs, roots, heads, pairs)
    for k in range(min(n, len(found))):
        p, q, _, common, contact = pairs[k]
        found[k, 0] = mine[1][p, 2]
        found[k, 1] = theirs[1][q, 2]
        found[k, 2] = common
        found[k, 3] = sizes[0][p] + sizes[1][q] - common
        found[k, 4] = locate(contacts[contact, 2], contacts[contact, 3], frame)
    return n


@kernel_part
def count_stretches(rows, taken):
    """Count the stretches of some rows.

    Parameters
    ----------
    rows : (n_rows + 1,) int64 array
        Where the stretches of each row begin.
    taken : (n,) int64 array
        Rows.

    Returns
    -------
    int
        How many stretches they have.
    """
    n = 0
    for row in taken:
        n += rows[row + 1] - rows[row]
    return n


@kernel_part
def locate(row, x, frame):
    """Give the position in the image, in C order, of a voxel of a box.

    Parameters
    ----------
    row, x : int
        Its row, counted in C order, and its place in it.
    frame : (3, ndim) int64 array
        Shape of the box, its place in the image, and the image's strides in voxels.

    Returns
    -------
    int
        The position.
    """
    last = frame.shape[1] - 1
    position = (frame[1, last] + x) * frame[2, last]
    for axis in range(last - 1, -1, -1):
        position += (frame[1, axis] + row % frame[0, axis]) * frame[2, axis]
        row //= frame[0, axis]
    return position
