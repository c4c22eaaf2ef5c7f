"""Kernels over stretches: pieces of one label along the last axis, row by row.

Stretches of a box are two arrays: ``rows``, where ``rows[r]`` to ``rows[r + 1]`` are the stretches
of row ``r``, rows counted in C order; and ``stretches``, with columns start, stop and id, in voxels
from the box's origin, sorted by start within a row. Two boxes are passed as two pairs ``(rows,
stretches)``.

All arrays are allocated by the caller, but for those of `compare_tiles`, which is one call for each
pair of tiles: the parts of it called one by one from Python would take longer than what they do.
Nothing here checks shapes. Where a number is compared by hand, it is that numba compiles `min` anew
wherever it is called.
"""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part

# What a row of a tile is to its neighbours.
OUTSIDE, INSIDE, FACE, MIDDLE = 0, 1, 2, 4


@kernel
def number_stretches(stretches, lookup):
    """Renumber ids by first appearance.

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
        OUTSIDE the core, INSIDE it, or at a FACE of it that neighbours see; plus MIDDLE where the
        middle of the row is seen by none.
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
        Takes the stretches, counted from the smaller box's origin; at most as many as the larger
        box has.

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
def stretches_within(whole, start, stop):
    """Return where the stretches of each row begin and end that reach into a window, as (n_rows, 2)
    int64.
    """
    rows, stretches = whole
    found = np.empty((len(rows) - 1, 2), np.int64)
    for row in range(len(found)):
        first = rows[row]
        last = first
        for i in range(first, rows[row + 1]):
            if stretches[i, 0] >= stop:
                break
            last = i + 1
            if stretches[i, 1] <= start:
                first = last
        found[row, 0] = first
        found[row, 1] = last
    return found


@kernel_part
def collect_contacts(a, b, row_pairs, windows, contacts):
    """Find stretches of two tiles that touch across their seam.

    Parameters
    ----------
    a, b : pairs of arrays
        The stretches of the two tiles, in boxes of one shape.
    row_pairs : (m, 3) int64 array
        Rows of `a` and `b` that lie beside each other, and by how many voxels a neighbour may be
        aside (0 or 1).
    windows : (2, 2) int64 array
        Start and stop along the last axis, in `a` and in `b`, of what faces the seam; equally long.
    contacts : (n, 4) int64 array
        Takes stretch of `a`, stretch of `b`, and a voxel of `a` where they touch as row and
        position, as far as there is room.

    Returns
    -------
    int
        How many contacts there are; more than ``len(contacts)`` when it must be called again with
        more room.
    """
    stretches_a = a[1]
    stretches_b = b[1]
    low = windows[0, 0]
    high = windows[0, 1]
    shift = windows[1, 0] - low
    # Across the last axis a row has one voxel at the seam, and there are nine pairs of rows for
    # each in 3-D.
    within_a = stretches_within(a, low, high)
    within_b = stretches_within(b, low + shift, high + shift)
    n = 0
    for k in range(len(row_pairs)):
        row = row_pairs[k, 0]
        other = row_pairs[k, 1]
        slack = row_pairs[k, 2]
        first = within_b[other, 0]
        last = within_b[other, 1]
        for i in range(within_a[row, 0], within_a[row, 1]):
            start = stretches_a[i, 0] if stretches_a[i, 0] > low else low
            stop = stretches_a[i, 1] if stretches_a[i, 1] < high else high
            while first < last and stretches_b[first, 1] - shift + slack <= start:
                first += 1
            for j in range(first, last):
                other_start = stretches_b[j, 0] - shift
                if other_start >= stop + slack:
                    break
                if other_start < start:
                    other_start = start
                if n < len(contacts):
                    contacts[n, 0] = i
                    contacts[n, 1] = j
                    contacts[n, 2] = row
                    contacts[n, 3] = other_start if other_start < stop else stop - 1
                n += 1
    return n


@kernel_part
def find_root(parents, i):
    """Return the root of an element of a disjoint set, and shorten the way to it."""
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@kernel_part
def join_row(whole, row, before, slack, ids, roots):
    """Join the stretches of a row with neighbours of the same id before them, as long as the id is
    in more than one piece.
    """
    rows, stretches = whole
    for m in range(before.shape[1]):
        if before[row, m] < 0:
            continue
        first = rows[before[row, m]]
        last = rows[before[row, m] + 1]
        for i in range(rows[row], rows[row + 1]):
            label = stretches[i, 2]
            if ids[label, 1] <= 1:
                continue
            start = stretches[i, 0] - slack[m]
            stop = stretches[i, 1] + slack[m]
            while first < last and stretches[first, 1] <= start:
                first += 1
            for j in range(first, last):
                if stretches[j, 0] >= stop:
                    break
                if stretches[j, 2] == label:
                    p = find_root(roots, i)
                    q = find_root(roots, j)
                    roots[p if p > q else q] = p if p < q else q
                    ids[label, 1] -= p != q


@kernel_part
def find_pieces(whole, before, slack, wanted, roots, sizes):
    """Join stretches of one id that are neighbours, and count the voxels of each piece.

    Parameters
    ----------
    whole : pair of arrays
        The stretches.
    before : (n_rows, m) int64 array
        The rows beside each row that come before it, the last of them the one right before; -1 for
        none.
    slack : (m,) int64 array
        By how many voxels (0 or 1) a neighbour in each of them may be aside.
    wanted : (k,) int64 array
        Stretches. Of ids that none of them has, pieces are not joined any further than is quick.
    roots : (n,) int64 array
        Takes the first stretch of the piece that each one is of.
    sizes : (n,) int64 array
        Takes the voxels of each piece, at its first stretch.
    """
    rows, stretches = whole
    n_ids = 1
    for i in range(len(roots)):
        label = stretches[i, 2]
        if label >= n_ids:
            n_ids = label + 1
    # Nearly all are in one piece, and nearly every stretch has one of its own right before it:
    # other rows are searched only while an id is in two pieces, of all that was met of it so far.
    ids = np.empty((n_ids, 2), np.int64)
    for label in range(n_ids):
        ids[label, 0] = -1
        ids[label, 1] = -len(roots)
    for k in range(len(wanted)):
        ids[stretches[wanted[k], 2], 1] = 0
    near = before.shape[1] - 1
    for row in range(len(rows) - 1):
        first = rows[row]
        above = rows[row - 1] if row > 0 and before[row, near] >= 0 else first
        is_apart = False
        for i in range(first, rows[row + 1]):
            label = stretches[i, 2]
            j = ids[label, 0]
            ids[label, 0] = i
            # Whether it lies in the row before, as neighbour.
            if (
                above <= j < first
                and stretches[j, 0] < stretches[i, 1] + slack[near]
                and stretches[j, 1] > stretches[i, 0] - slack[near]
            ):
                roots[i] = roots[j]
            else:
                roots[i] = i
                ids[label, 1] += 1
            is_apart |= ids[label, 1] > 1
        if is_apart:
            join_row(whole, row, before, slack, ids, roots)
    # A parent is never behind what it is the parent of.
    for i in range(len(roots)):
        root = roots[roots[i]]
        roots[i] = root
        if root == i:
            sizes[i] = 0
        sizes[root] += stretches[i, 1] - stretches[i, 0]


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
    pairs : (n, 6) int64 array
        Takes piece of `a`, piece of `b`, the pair before it of the same piece of `a` or -1, 0, and
        the contact.

    Returns
    -------
    int
        How many pairs there are.
    """
    roots_a, roots_b = roots
    heads[:] = -1
    n = 0
    for i in range(len(contacts)):
        p = roots_a[contacts[i, 0]]
        q = roots_b[contacts[i, 1]]
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
    pairs : (n, 6) int64 array
        As `note_pairs` left it; column 3 takes the voxels in common.
    """
    rows_a, stretches_a = a
    rows_b, stretches_b = b
    roots_a, roots_b = roots
    for row in range(len(rows_a) - 1):
        first = rows_b[row]
        last = rows_b[row + 1]
        for i in range(rows_a[row], rows_a[row + 1]):
            head = heads[roots_a[i]]
            if head < 0:
                continue
            start = stretches_a[i, 0]
            stop = stretches_a[i, 1]
            while first < last and stretches_b[first, 1] <= start:
                first += 1
            for j in range(first, last):
                other_start = stretches_b[j, 0]
                if other_start >= stop:
                    break
                k = head
                while k >= 0 and pairs[k, 1] != roots_b[j]:
                    k = pairs[k, 2]
                if k >= 0:
                    other_stop = stretches_b[j, 1]
                    if other_start < start:
                        other_start = start
                    if other_stop > stop:
                        other_stop = stop
                    pairs[k, 3] += other_stop - other_start


@kernel_part
def find_cut_off(whole, roots, ends, length):
    """Return which pieces reach the end of what their tile saw beyond the seam.

    Parameters
    ----------
    whole : pair of arrays
        The stretches.
    roots : (n,) int64 array
        The piece of each stretch, as `find_pieces` gives it.
    ends : (n_rows + 2,) bool array
        Whether each row lies at an end, and whether the first and the last voxel of every row do.
    length : int
        Voxels of a row.

    Returns
    -------
    (n,) bool array
        At the first stretch of each piece.
    """
    rows, stretches = whole
    n_rows = len(rows) - 1
    is_cut = np.zeros(len(roots), np.bool_)
    for row in range(n_rows):
        first = rows[row]
        last = rows[row + 1]
        if ends[row]:
            for i in range(first, last):
                is_cut[roots[i]] = True
        elif first < last:
            if ends[n_rows] and stretches[first, 0] == 0:
                is_cut[roots[first]] = True
            if ends[n_rows + 1] and stretches[last - 1, 1] == length:
                is_cut[roots[last - 1]] = True
    return is_cut


@kernel_part
def count_unseen(whole, other, beyond, counts):
    """Count voxels right beyond a seam that a tile has a label for, and that the other found to be
    background.

    Parameters
    ----------
    whole, other : pairs of arrays
        The stretches of the two tiles.
    beyond : (n + 2,) int64 array
        Rows with voxels of the other tile's face, and the start and stop of that face along the
        last axis.
    counts : (n_ids, 3) int64 array
        Takes of each label all such voxels, and those that are background; of as many as it has
        room for.

    Returns
    -------
    int
        How many are background, of all labels.
    """
    rows, stretches = whole
    other_rows, others = other
    n = len(beyond) - 2
    n_all = 0
    for k in range(n):
        row = beyond[k]
        first = other_rows[row]
        last = other_rows[row + 1]
        for i in range(rows[row], rows[row + 1]):
            start = stretches[i, 0] if stretches[i, 0] > beyond[n] else beyond[n]
            stop = stretches[i, 1] if stretches[i, 1] < beyond[n + 1] else beyond[n + 1]
            if start >= stop:
                continue
            while first < last and others[first, 1] <= start:
                first += 1
            n_unseen = stop - start
            for j in range(first, last):
                if others[j, 0] >= stop:
                    break
                other_start = others[j, 0] if others[j, 0] > start else start
                other_stop = others[j, 1] if others[j, 1] < stop else stop
                n_unseen -= other_stop - other_start
            n_all += n_unseen
            if stretches[i, 2] < len(counts):
                counts[stretches[i, 2], 0] += stop - start
                counts[stretches[i, 2], 1] += n_unseen
    return n_all


@kernel_part
def find_unseen(whole, other, beyond, ends, length):
    """Find labels of a tile that go on beyond its seam, where the other tile found background.

    Parameters
    ----------
    whole, other, beyond
        As `count_unseen` takes them.
    ends : (n_rows + 2,) bool array
        As `find_cut_off` takes them.
    length : int
        Voxels of a row.

    Returns
    -------
    (n,) int64 array
        Ids: right beyond the seam, at least half of the voxels are background to the other tile,
        and the label does not reach the end of what its tile saw there.
    """
    rows, stretches = whole
    counts = np.zeros((0, 3), np.int64)
    # Nearly always the other tile found something wherever this one did.
    if count_unseen(whole, other, beyond, counts) == 0:
        return np.empty(0, np.int64)
    n_ids = 1
    for i in range(len(stretches)):
        if stretches[i, 2] >= n_ids:
            n_ids = stretches[i, 2] + 1
    counts = np.zeros((n_ids, 3), np.int64)
    count_unseen(whole, other, beyond, counts)
    n_rows = len(rows) - 1
    for row in range(n_rows):
        for i in range(rows[row], rows[row + 1]):
            if (
                ends[row]
                or (ends[n_rows] and stretches[i, 0] == 0)
                or (ends[n_rows + 1] and stretches[i, 1] == length)
            ):
                counts[stretches[i, 2], 2] = 1
    found = np.empty(n_ids, np.int64)
    n = 0
    for number in range(n_ids):
        n_unseen = counts[number, 1]
        if n_unseen > 0 and 2 * n_unseen >= counts[number, 0] and counts[number, 2] == 0:
            found[n] = number
            n += 1
    return found[:n]


@kernel
def compare_tiles(a, b, facing, beside, ends, beyond, positions):
    """Compare the pieces of two tiles that touch across their seam.

    Parameters
    ----------
    a, b : tuples of arrays
        The tiles: rows and stretches of each, the rows that both see, and the window of
        `clip_stretches`.
    facing : pair of arrays
        Rows that face each other, and windows, as `collect_contacts` takes them.
    beside : pair of arrays
        Rows beside each row, and slack, as `find_pieces` takes them.
    ends : pair of bool arrays
        Of each tile, as `find_cut_off` takes them.
    beyond : pair of int64 arrays
        Of each tile, as `count_unseen` takes them.
    positions : (n_rows,) int64 array
        Position in the image, in C order, of the first voxel of each row that both see.

    Returns
    -------
    pairs : (n, 6) int64 array
        For each pair of pieces that touch: id in `a`, id in `b`, voxels in common, voxels of the
        piece that is cut off, or of the smaller one where both are or none is, voxels in either,
        and a voxel of `a` where they touch.
    unseen, other_unseen : int64 arrays
        Labels of `a` and of `b`, as `find_unseen` gives them.
    """
    rows_a, stretches_a, taken_a, window_a = a
    rows_b, stretches_b, taken_b, window_b = b
    mine = (np.empty(len(taken_a) + 1, np.int64), np.empty((len(stretches_a), 3), np.int32))
    theirs = (np.empty(len(taken_b) + 1, np.int64), np.empty((len(stretches_b), 3), np.int32))
    n_mine = clip_stretches((rows_a, stretches_a), taken_a, window_a, mine[0], mine[1])
    n_theirs = clip_stretches((rows_b, stretches_b), taken_b, window_b, theirs[0], theirs[1])
    mine = (mine[0], mine[1][:n_mine])
    theirs = (theirs[0], theirs[1][:n_theirs])
    length = window_a[1] - window_a[0]
    unseen = find_unseen(mine, theirs, beyond[0], ends[0], length)
    other_unseen = find_unseen(theirs, mine, beyond[1], ends[1], length)
    n = len(facing[0]) + 64
    while True:
        contacts = np.empty((n, 4), np.int64)
        n = collect_contacts(mine, theirs, facing[0], facing[1], contacts)
        if n <= len(contacts):
            break
    pairs = np.empty((n, 6), np.int64)
    if n == 0:
        return pairs, unseen, other_unseen
    roots = (np.empty(n_mine, np.int64), np.empty(n_theirs, np.int64))
    sizes = (np.empty(n_mine, np.int64), np.empty(n_theirs, np.int64))
    clipped = (mine, theirs)
    for side in range(2):
        find_pieces(clipped[side], beside[0], beside[1], contacts[:n, side], roots[side], sizes[side])
    heads = np.empty(n_mine, np.int64)
    n = note_pairs(contacts[:n], roots, heads, pairs)
    measure_overlaps(mine, theirs, roots, heads, pairs)
    is_cut = find_cut_off(mine, roots[0], ends[0], length)
    is_other_cut = find_cut_off(theirs, roots[1], ends[1], length)
    for k in range(n):
        p = pairs[k, 0]
        q = pairs[k, 1]
        contact = pairs[k, 4]
        size = sizes[0][p]
        other_size = sizes[1][q]
        is_first = is_cut[p] if is_cut[p] != is_other_cut[q] else size < other_size
        pairs[k, 0] = mine[1][p, 2]
        pairs[k, 1] = theirs[1][q, 2]
        pairs[k, 2] = pairs[k, 3]
        pairs[k, 4] = size + other_size - pairs[k, 3]
        pairs[k, 3] = size if is_first else other_size
        pairs[k, 5] = positions[contacts[contact, 2]] + contacts[contact, 3]
    return pairs[:n], unseen, other_unseen
