"""Kernels over label runs: stretches of one label along the last axis, row by row.

Runs of a box are two arrays: ``rows``, where ``rows[r]`` to ``rows[r + 1]`` are the runs of row ``r``, rows
counted in C order; and ``runs``, with columns start, stop and id, in voxels from the box's origin, sorted by
start within a row. Both arrays are int32 or int64. Two boxes are passed as two pairs ``(rows, runs)``.

All arrays are allocated by the caller, but for the scratch of `compare_tiles`, which is one call for each pair
of tiles: the parts of it called one by one from Python would take longer than what they do. Nothing here
checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.jit import kernel

__all__ = [
    "clip_runs",
    "collect_contacts",
    "compare_tiles",
    "find_runs",
    "join_runs",
    "measure_overlaps",
    "note_ids",
    "note_pairs",
    "sum_pieces",
]


@kernel
def note_ids(labels, ids, lookup):
    """Note which id each label has.

    Parameters
    ----------
    labels : (n,) unsigned int array
        0 is background; every label is smaller than ``len(lookup)``.
    ids : (n,) unsigned int array
        The ids of the same voxels.
    lookup : (m,) int32 array
        Takes the id of each label that occurs.
    """
    for i in range(len(labels)):
        if labels[i] != 0:
            lookup[labels[i]] = ids[i]


@kernel
def find_runs(labels, lookup, is_inner, middle, rows, runs):
    """Find the runs of the labels that have an id.

    Parameters
    ----------
    labels : (n_rows, nx) unsigned int array
        Every label is smaller than ``len(lookup)``.
    lookup : (m,) int32 array
        Id of each label; 0 for those that are left out.
    is_inner : (n_rows,) bool array
        Rows of which the middle is left out.
    middle : (2,) int64 array
        Start and stop of the middle.
    rows : (n_rows + 1,) int64 array
        Takes where the runs of each row begin.
    runs : (n, 3) int32 array
        Takes the runs, as far as there is room.

    Returns
    -------
    int
        How many runs there are; more than ``len(runs)`` when it must be called again with more room.
    """
    n = 0
    n_rows, nx = labels.shape
    for row in range(n_rows):
        rows[row] = n
        for part in range(2):
            begin = 0
            end = nx
            if part == 0 and is_inner[row]:
                end = middle[0]
            if part == 1:
                begin = middle[1] if is_inner[row] else nx
            current = 0
            start = begin
            # The place behind the last voxel ends the last run.
            for x in range(begin, end + 1):
                found = 0
                if x < end:
                    if x > begin and labels[row, x] == labels[row, x - 1]:
                        continue
                    found = lookup[labels[row, x]]
                if found != current:
                    if current != 0:
                        if n < len(runs):
                            runs[n, 0] = start
                            runs[n, 1] = x
                            runs[n, 2] = current
                        n += 1
                    current = found
                    start = x
    rows[n_rows] = n
    return n


@kernel
def clip_runs(whole, taken, window, rows, runs):
    """Cut runs down to a smaller box.

    Parameters
    ----------
    whole : pair of arrays
        The runs of the larger box.
    taken : (n_rows,) int64 array
        The row of the larger box that each row of the smaller one is.
    window : (2,) int64 array
        Start and stop of the smaller box along the last axis.
    rows : (n_rows + 1,) int64 array
        Takes where the runs of each row begin.
    runs : (n, 3) int32 array
        Takes the runs, counted from the smaller box's origin; at most as many as the larger box has.

    Returns
    -------
    int
        How many runs there are.
    """
    whole_rows, whole_runs = whole
    n = 0
    for row in range(len(taken)):
        rows[row] = n
        for i in range(whole_rows[taken[row]], whole_rows[taken[row] + 1]):
            start = max(whole_runs[i, 0], window[0])
            stop = min(whole_runs[i, 1], window[1])
            if start < stop:
                runs[n, 0] = start - window[0]
                runs[n, 1] = stop - window[0]
                runs[n, 2] = whole_runs[i, 2]
                n += 1
    rows[len(taken)] = n
    return n


@kernel
def collect_contacts(a, b, row_pairs, windows, contacts):
    """Find runs of two tiles that touch across their seam.

    Parameters
    ----------
    a, b : pairs of arrays
        The runs of the two tiles, in boxes of one shape.
    row_pairs : (m, 3) int64 array
        Rows of `a` and `b` that lie beside each other, and by how many voxels a neighbour may be aside (0 or 1).
    windows : (2, 2) int64 array
        Start and stop along the last axis, in `a` and in `b`, of what faces the seam; equally long.
    contacts : (n, 4) int64 array
        Takes run of `a`, run of `b`, and a voxel of `a` where they touch as row and position, as far as there
        is room.

    Returns
    -------
    int
        How many contacts there are; more than ``len(contacts)`` when it must be called again with more room.
    """
    rows_a, runs_a = a
    rows_b, runs_b = b
    shift = windows[1, 0] - windows[0, 0]
    n = 0
    for k in range(len(row_pairs)):
        slack = row_pairs[k, 2]
        first = rows_b[row_pairs[k, 1]]
        last = rows_b[row_pairs[k, 1] + 1]
        if first == last:
            continue
        for i in range(rows_a[row_pairs[k, 0]], rows_a[row_pairs[k, 0] + 1]):
            start = max(runs_a[i, 0], windows[0, 0])
            stop = min(runs_a[i, 1], windows[0, 1])
            if start >= stop:
                continue
            while first < last and min(runs_b[first, 1], windows[1, 1]) - shift + slack <= start:
                first += 1
            for j in range(first, last):
                other_start = max(runs_b[j, 0], windows[1, 0]) - shift
                other_stop = min(runs_b[j, 1], windows[1, 1]) - shift
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


@kernel
def join_runs(whole, before, slack, parents):
    """Join runs of one id that are neighbours, in a disjoint set whose roots are their smallest elements.

    Parameters
    ----------
    whole : pair of arrays
        The runs.
    before : (n_rows, m) int64 array
        The rows beside each row that come before it; -1 for none.
    slack : (m,) int64 array
        By how many voxels (0 or 1) a neighbour in each of them may be aside.
    parents : (n,) int64 array
        Takes the parent of each run, which is never behind it.
    """
    rows, runs = whole
    for i in range(len(parents)):
        parents[i] = i
    for row in range(len(rows) - 1):
        for m in range(before.shape[1]):
            if rows[row] == rows[row + 1] or before[row, m] < 0:
                continue
            first = rows[before[row, m]]
            last = rows[before[row, m] + 1]
            for i in range(rows[row], rows[row + 1]):
                start = runs[i, 0] - slack[m]
                stop = runs[i, 1] + slack[m]
                while first < last and runs[first, 1] <= start:
                    first += 1
                for j in range(first, last):
                    if runs[j, 0] >= stop:
                        break
                    if runs[j, 2] != runs[i, 2]:
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


@kernel
def note_pairs(contacts, roots, heads, pairs):
    """List the pieces that touch, each pair once, in the order in which they are met.

    Parameters
    ----------
    contacts : (n, 4) int64 array
        As `collect_contacts` gives them.
    roots : pair of int64 arrays
        The piece of each run of `a` and of `b`.
    heads : (len(runs of a),) int64 array
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


@kernel
def measure_overlaps(a, b, roots, heads, pairs):
    """Count the voxels that pieces of two tiles have in common.

    Parameters
    ----------
    a, b : pairs of arrays
        The runs of the two tiles, in boxes of one shape.
    roots : pair of int64 arrays
        The piece of each run of `a` and of `b`.
    heads : (len(runs of a),) int64 array
        As `note_pairs` left it.
    pairs : (n, 5) int64 array
        As `note_pairs` left it; column 3 takes the voxels in common.
    """
    rows_a, runs_a = a
    rows_b, runs_b = b
    roots_a, roots_b = roots
    for row in range(len(rows_a) - 1):
        first = rows_b[row]
        for i in range(rows_a[row], rows_a[row + 1]):
            while first < rows_b[row + 1] and runs_b[first, 1] <= runs_a[i, 0]:
                first += 1
            j = first
            while j < rows_b[row + 1] and runs_b[j, 0] < runs_a[i, 1]:
                k = heads[roots_a[i]]
                while k >= 0 and pairs[k, 1] != roots_b[j]:
                    k = pairs[k, 2]
                if k >= 0:
                    pairs[k, 3] += min(runs_a[i, 1], runs_b[j, 1]) - max(runs_a[i, 0], runs_b[j, 0])
                j += 1


@kernel
def sum_pieces(runs, roots, sizes):
    """Point every run at the root of its piece, and count the piece's voxels there.

    Parameters
    ----------
    runs : (n, 3) int32 array
        The runs.
    roots : (n,) int64 array
        As `join_runs` left them. Changed in place.
    sizes : (n,) int64 array
        All zeros; takes the voxels of each piece at its root.
    """
    for i in range(len(roots)):
        roots[i] = roots[roots[i]]
        sizes[roots[i]] += runs[i, 1] - runs[i, 0]


@kernel
def compare_tiles(a, b, facing, beside, frame, found):
    """Compare the pieces of two tiles that touch across their seam.

    Parameters
    ----------
    a, b : tuples of arrays
        The tiles: rows and runs of each, the rows that both see, and the window of `clip_runs`.
    facing : pair of arrays
        Rows that face each other, and windows, as `collect_contacts` takes them.
    beside : pair of arrays
        Rows beside each row, and slack, as `join_runs` takes them.
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
    rows_a, runs_a, taken_a, window_a = a
    rows_b, runs_b, taken_b, window_b = b
    if not find_contact(a, b, facing[0], facing[1]):
        return 0
    n_rows = len(taken_a)
    mine = (np.empty(n_rows + 1, np.int64), np.empty((count_runs(rows_a, taken_a), 3), np.int32))
    theirs = (np.empty(n_rows + 1, np.int64), np.empty((count_runs(rows_b, taken_b), 3), np.int32))
    n_mine = clip_runs((rows_a, runs_a), taken_a, window_a, mine[0], mine[1])
    n_theirs = clip_runs((rows_b, runs_b), taken_b, window_b, theirs[0], theirs[1])
    contacts = np.empty((64, 4), np.int64)
    n = collect_contacts(mine, theirs, facing[0], facing[1], contacts)
    if n > len(contacts):
        contacts = np.empty((n, 4), np.int64)
        collect_contacts(mine, theirs, facing[0], facing[1], contacts)
    roots = (np.empty(n_mine, np.int64), np.empty(n_theirs, np.int64))
    sizes = (np.zeros(n_mine, np.int64), np.zeros(n_theirs, np.int64))
    join_runs(mine, beside[0], beside[1], roots[0])
    join_runs(theirs, beside[0], beside[1], roots[1])
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


@kernel
def find_contact(a, b, row_pairs, windows):
    """Say whether any labels of two tiles touch: for most tiles that meet at an edge or a corner, none do.

    Parameters
    ----------
    a, b : tuples of arrays
        As `compare_tiles` takes them.
    row_pairs, windows : arrays
        As `collect_contacts` takes them.

    Returns
    -------
    bool
        Whether `collect_contacts` would find a contact.
    """
    rows_a, runs_a, taken_a, window_a = a
    rows_b, runs_b, taken_b, window_b = b
    begin = windows[0, 0] + window_a[0]
    end = windows[0, 1] + window_a[0]
    shift = windows[1, 0] + window_b[0] - begin
    for k in range(len(row_pairs)):
        row = taken_a[row_pairs[k, 0]]
        other = taken_b[row_pairs[k, 1]]
        slack = row_pairs[k, 2]
        j = rows_b[other]
        for i in range(rows_a[row], rows_a[row + 1]):
            start = max(runs_a[i, 0], begin)
            stop = min(runs_a[i, 1], end)
            if start >= stop:
                continue
            while j < rows_b[other + 1] and min(runs_b[j, 1] - shift, end) + slack <= start:
                j += 1
            while j < rows_b[other + 1] and runs_b[j, 1] - shift <= begin:
                j += 1
            if j == rows_b[other + 1]:
                break
            if max(runs_b[j, 0] - shift, begin) < min(stop + slack, end):
                return True
    return False


@kernel
def count_runs(rows, taken):
    """Count the runs of some rows.

    Parameters
    ----------
    rows : (n_rows + 1,) int64 array
        Where the runs of each row begin.
    taken : (n,) int64 array
        Rows.

    Returns
    -------
    int
        How many runs they have.
    """
    n = 0
    for row in taken:
        n += rows[row + 1] - rows[row]
    return n


@kernel
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
