"""Kernels that trace the outlines of labels in a brick, and join those of several bricks to rings.

A vertex is a corner of voxels, as one number: ``y * 2**32 + 2 * x + node``. ``node`` is 1 where a
border between two labels ends, at a third one, which is known only when `with_nodes`. An outline
has its object on the right when y points down, so that its signed area is positive, and that of a
hole negative. Where two voxels of a label touch at a corner alone, an outline keeps to its own
voxel: `split_rings` mends what so became one ring that touches itself.

All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part

Y = 2**32
# Of a chain: it is a ring; it met a voxel of its own label at a corner.
CLOSED, TOUCHING = 1, 2
# Directions: 0 to larger x, 1 to larger y, 2 to smaller x, 3 to smaller y.


@kernel_part
def is_node(a, b, c, d):
    """Return 1 where more than two labels meet, or two at a corner alone; c and d are below a and
    b.
    """
    return 1 if int(a != b) + int(b != d) + int(d != c) + int(c != a) > 2 else 0


@kernel_part
def label_on_right(labels, y, x, direction):
    """Return the label on the right of the edge that goes from a vertex into a direction."""
    return labels[y - (direction == 2 or direction == 3), x - (direction == 1 or direction == 2)]


@kernel_part
def follow(labels, visited, start, with_nodes, vertices, n):
    """Follow an outline until it meets the border of the brick, or its beginning.

    Parameters
    ----------
    labels, visited, with_nodes, vertices
        As for `trace_outlines`.
    start : (int, int, int)
        Row and column of the vertex where it begins, and the direction.
    n : int
        How many vertices there are.

    Returns
    -------
    n : int
        How many vertices there are now; -1 if there is no room.
    flag : int
        `CLOSED`, `TOUCHING`.
    """
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    y, x, direction = start
    flag = 0
    label = label_on_right(labels, y, x, direction)
    if n + 2 > len(vertices):
        return -1, 0
    a, b, c, d = labels[y - 1, x - 1], labels[y - 1, x], labels[y, x - 1], labels[y, x]
    vertices[n] = y * Y + 2 * x + (is_node(a, b, c, d) if with_nodes else 0)
    n += 1
    while True:
        if direction == 0:
            visited[y, x] = 1
            x += 1
        elif direction == 1:
            y += 1
        elif direction == 2:
            x -= 1
        else:
            y -= 1
        a, b, c, d = labels[y - 1, x - 1], labels[y - 1, x], labels[y, x - 1], labels[y, x]
        node = is_node(a, b, c, d) if with_nodes else 0
        at_border = y == 1 or x == 1 or y == height + 1 or x == width + 1
        before = direction
        if not at_border:
            if direction == 0:
                right, left = d, b
            elif direction == 1:
                right, left = c, d
            elif direction == 2:
                right, left = a, c
            else:
                right, left = b, a
            if right != label:
                direction = (direction + 1) & 3
                if left == label:
                    flag |= TOUCHING
            elif left == label:
                direction = (direction + 3) & 3
            if y == start[0] and x == start[1] and direction == start[2]:
                return n, flag | CLOSED
        if at_border or node or direction != before:
            if n == len(vertices):
                return -1, 0
            vertices[n] = y * Y + 2 * x + node
            n += 1
        if at_border:
            return n, flag


@kernel_part
def begin_on_line(labels, i):
    """Return where the i-th chain begins that begins on a line between bricks, row, column and
    direction; the direction is -1 if there is none.

    There are four for each position along the lines at the low sides: two labels side by side have
    an edge there, and outlines come from there and from the opposite line.
    """
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    k, kind = i >> 2, i & 3
    if k < width:
        x = k + 1
        before, after = labels[0, x], labels[1, x]
        if kind == 0:
            return 1, x, 0 if before != after and after != 0 else -1
        if kind == 1:
            return 1, x + 1, 2 if before != after and before != 0 else -1
        if kind == 2:
            left = labels[1, x - 1]
            return 1, x, 1 if x > 1 and left != labels[1, x] and left != 0 else -1
        right = labels[height, x]
        return height + 1, x, 3 if x > 1 and right != labels[height, x - 1] and right != 0 else -1
    y = k - width + 1
    before, after = labels[y, 0], labels[y, 1]
    if kind == 0:
        return y + 1, 1, 3 if before != after and after != 0 else -1
    if kind == 1:
        return y, 1, 1 if before != after and before != 0 else -1
    if kind == 2:
        return y, 1, 0 if y > 1 and after != labels[y - 1, 1] and after != 0 else -1
    above = labels[y - 1, width]
    return y, width + 1, 2 if y > 1 and above != labels[y, width] and above != 0 else -1


@kernel_part
def add_chain(labels, visited, start, with_nodes, vertices, chains, chain_labels, count):
    """Trace one chain, and return how many chains and vertices there are now, as `trace_outlines`
    does.
    """
    n_chains, n = count
    if n_chains == len(chains):
        return -1, -1
    chains[n_chains, 0] = n
    chain_labels[n_chains] = label_on_right(labels, start[0], start[1], start[2])
    n, chains[n_chains, 1] = follow(labels, visited, start, with_nodes, vertices, n)
    return (n_chains + 1, n) if n >= 0 else (-1, -1)


@kernel
def trace_outlines(labels, visited, with_nodes, vertices, chains, chain_labels):
    """Trace the outlines of a brick: on the lines at its low sides, and between its voxels.

    Parameters
    ----------
    labels : (height + 2, width + 2) int array
        The brick with one voxel around it; 0 is background.
    visited : (height + 2, width + 2) uint8 array
        Zeros; scratch.
    with_nodes : bool
        Whether vertices are wanted where a border between two labels ends.
    vertices : (n,) int64 array
        Takes the vertices, counted from the voxel around the brick.
    chains : (m, 2) int64 array
        Takes for each chain the number of vertices before it, and its flags. A chain that is no
        ring begins and ends on a line between bricks.
    chain_labels : (m,) int array
        Takes the label of each chain.

    Returns
    -------
    n_chains, n_vertices : int
        Both -1 if there is no room.
    """
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    count = (0, 0)
    for i in range(4 * (height + width)):
        start = begin_on_line(labels, i)
        if start[2] >= 0:
            count = add_chain(labels, visited, start, with_nodes, vertices, chains, chain_labels, count)
            if count[0] < 0:
                return count
    for y in range(2, height + 1):
        for x in range(1, width + 1):
            label = labels[y, x]
            if label == labels[y - 1, x] or label == 0 or visited[y, x]:
                continue
            count = add_chain(labels, visited, (y, x, 0), with_nodes, vertices, chains, chain_labels, count)
            if count[0] < 0:
                return count
    return count


@kernel_part
def direction_of(first, second):
    """Return the direction from a vertex to the next."""
    dy, dx = second // Y - first // Y, second % Y // 2 - first % Y // 2
    if dy == 0:
        return 0 if dx > 0 else 2
    return 1 if dy > 0 else 3


@kernel_part
def find_next(vertices, firsts, end, first_chain, last_chain):
    """Return the chain, of some sorted by their first vertex, that goes on where another ends, and
    how many there are.

    Parameters
    ----------
    end : int
        The number of the last vertex of the chain that ends.
    """
    key = vertices[end] >> 1
    low, high = first_chain, last_chain
    while low < high:
        middle = (low + high) >> 1
        if vertices[firsts[middle]] >> 1 < key:
            low = middle + 1
        else:
            high = middle
    # Labels that somebody changes as they are read have outlines that do not meet.
    low = min(low, last_chain - 1)
    if low + 1 == last_chain or vertices[firsts[low + 1]] >> 1 != key:
        return low, 1
    # Keep to the own voxel: turn right.
    right = (direction_of(vertices[end - 1], vertices[end]) + 1) & 3
    first = firsts[low]
    return (low if direction_of(vertices[first], vertices[first + 1]) == right else low + 1), 2


@kernel_part
def drop_straight(ring, n):
    """Drop vertices of a ring at which it goes straight on, but nodes; return how many are left."""
    kept = 0
    for i in range(n):
        before = ring[kept - 1] if kept else ring[n - 1]
        after = ring[i + 1] if i + 1 < n else ring[0]
        if ring[i] & 1 or direction_of(before, ring[i]) != direction_of(ring[i], after):
            ring[kept] = ring[i]
            kept += 1
    return kept


@kernel
def join_chains(vertices, firsts, chains, groups, out, rings):
    """Join the chains of each label to rings.

    Parameters
    ----------
    vertices : (n,) int64 array
        Of all chains.
    firsts : (m,) int64 array
        The first vertex of each chain, sorted by label, then those that are no rings before others,
        those by their first vertex.
    chains : (m, 2) int64 array
        Number of vertices, and flags, of each.
    groups : (n_labels + 1,) int64 array
        Where the chains of each label begin.
    out : (n,) int64 array
        Takes the vertices of rings.
    rings : (m, 3) int64 array
        Takes for each ring the number of vertices up to its end, its label's number, and whether it
        may touch itself.

    Returns
    -------
    int
        Number of rings.
    """
    n = 0
    n_rings = 0
    used = np.zeros(len(firsts), np.uint8)
    for group in range(len(groups) - 1):
        n_open = groups[group]
        while n_open < groups[group + 1] and not chains[n_open, 1] & CLOSED:
            n_open += 1
        for chain in range(groups[group], groups[group + 1]):
            if used[chain]:
                continue
            begin = n
            flags = 0
            following = chain
            while not used[following]:
                used[following] = 1
                flags |= chains[following, 1]
                last = chains[following, 0] - (0 if flags & CLOSED else 1)
                for i in range(firsts[following], firsts[following] + last):
                    out[n] = vertices[i]
                    n += 1
                if not flags & CLOSED:
                    end = firsts[following] + last
                    following, found = find_next(vertices, firsts, end, groups[group], n_open)
                    flags |= TOUCHING if found == 2 else 0
            if not flags & CLOSED:
                n = begin + drop_straight(out[begin:n], n - begin)
            rings[n_rings, 0] = n
            rings[n_rings, 1] = group
            rings[n_rings, 2] = flags & TOUCHING
            n_rings += 1
    return n_rings


@kernel_part
def append_ring(ring, places, out, n):
    """Append some vertices of a ring to others, from the least on; return how many there are."""
    least = 0
    for i in range(len(places)):
        if ring[places[i]] < ring[places[least]]:
            least = i
    for i in range(len(places)):
        out[n + i] = ring[places[(least + i) % len(places)]]
    return n + len(places)


@kernel_part
def cut_ring(ring, out, n, ends, n_rings):
    """Cut a ring where it touches itself into rings that do not, and append them; return how many
    vertices and rings there are.
    """
    order = np.argsort(ring >> 1)
    same = np.empty(len(ring), np.int64)
    count = -1
    for i in range(len(ring)):
        if i == 0 or ring[order[i]] >> 1 != ring[order[i - 1]] >> 1:
            count += 1
        same[order[i]] = count
    stack = np.empty(len(ring), np.int64)
    where = np.full(count + 1, -1)
    depth = 0
    for i in range(len(ring)):
        begin = where[same[i]]
        if begin >= 0:
            n = append_ring(ring, stack[begin:depth], out, n)
            ends[n_rings] = n
            n_rings += 1
            for j in range(begin, depth):
                where[same[stack[j]]] = -1
            depth = begin
        where[same[i]] = depth
        stack[depth] = i
        depth += 1
    n = append_ring(ring, stack[:depth], out, n)
    ends[n_rings] = n
    return n, n_rings + 1


@kernel
def split_rings(vertices, rings, out, ends, groups):
    """Split rings that touch themselves, and let all begin with their least vertex.

    Parameters
    ----------
    vertices, rings
        As `join_chains` gives them.
    out : (n,) int64 array
        Takes the vertices.
    ends, groups : (n // 4,) int64 array
        Take the number of vertices up to the end of each ring, and the number of its label.

    Returns
    -------
    int
        Number of rings.
    """
    n = 0
    n_rings = 0
    begin = 0
    for i in range(len(rings)):
        ring = vertices[begin : rings[i, 0]]
        before = n_rings
        if rings[i, 2]:
            n, n_rings = cut_ring(ring, out, n, ends, n_rings)
        else:
            n = append_ring(ring, np.arange(len(ring)), out, n)
            ends[n_rings] = n
            n_rings += 1
        groups[before:n_rings] = rings[i, 1]
        begin = rings[i, 0]
    return n_rings


@kernel
def measure_rings(vertices, starts, areas, boxes):
    """Measure rings: their signed areas, and their bounds.

    Parameters
    ----------
    vertices : (n,) int64 array
        Of all rings.
    starts : (n_rings + 1,) int64 array
        Where each begins.
    areas : (n_rings,) int64 array
        Takes twice the area inside, negative for holes.
    boxes : (n_rings, 4) int64 array
        Takes the least x and y, the largest x and y.
    """
    for r in range(len(areas)):
        first = vertices[starts[r]]
        y0, x0 = first // Y, first % Y // 2
        y, x = vertices[starts[r + 1] - 1] // Y - y0, vertices[starts[r + 1] - 1] % Y // 2 - x0
        area = 0
        boxes[r, 0] = boxes[r, 2] = x0
        boxes[r, 1] = boxes[r, 3] = y0
        for i in range(starts[r], starts[r + 1]):
            y1, x1 = vertices[i] // Y - y0, vertices[i] % Y // 2 - x0
            area += x * y1 - x1 * y
            y, x = y1, x1
            boxes[r, 0] = min(boxes[r, 0], x + x0)
            boxes[r, 1] = min(boxes[r, 1], y + y0)
            boxes[r, 2] = max(boxes[r, 2], x + x0)
            boxes[r, 3] = max(boxes[r, 3], y + y0)
        areas[r] = area


@kernel_part
def left_sides(vertices, starts, begin, end):
    """Return row and column, as one number, of all left sides of voxels in the outlines of some
    rings, and their rings.
    """
    n = 0
    for step in range(2):
        if step == 1:
            keys, owners = np.empty(n, np.int64), np.empty(n, np.int64)
            n = 0
        for r in range(begin, end):
            for i in range(starts[r], starts[r + 1]):
                after = vertices[i + 1] if i + 1 < starts[r + 1] else vertices[starts[r]]
                if direction_of(vertices[i], after) == 3:
                    for y in range(after // Y, vertices[i] // Y):
                        if step == 1:
                            keys[n] = y * Y + vertices[i] % Y // 2
                            owners[n] = r
                        n += 1
    return keys, owners


@kernel
def assign_holes(vertices, starts, areas, groups, order, shells):
    """Find the outer ring around each hole.

    Parameters
    ----------
    vertices, starts, areas
        As for `measure_rings`.
    groups : (n_labels + 1,) int64 array
        Where the rings of each label begin.
    order : (n_rings,) int64 array
        The rings of each label by their first vertex.
    shells : (n_rings,) int64 array
        Takes the outer ring of each ring; of an outer one itself.
    """
    for group in range(len(groups) - 1):
        begin, end = groups[group], groups[group + 1]
        n_shells = 0
        for r in range(begin, end):
            if areas[r] > 0:
                n_shells += 1
                shells[begin:end] = r
        if n_shells == 1:
            continue
        if n_shells < end - begin:
            keys, owners = left_sides(vertices, starts, begin, end)
            by_key = np.argsort(keys)
            keys, owners = keys[by_key], owners[by_key]
        for k in range(begin, end):
            r = order[k]
            if areas[r] > 0:
                shells[r] = r
                continue
            # The voxel on the left of the first one in the hole belongs to the object, and so do
            # those before it up to a left side of one of its rings, which has been met before.
            first = vertices[starts[r]]
            owner = owners[np.searchsorted(keys, first // Y * Y + first % Y // 2) - 1]
            shells[r] = shells[owner]


@kernel
def gather_rings(vertices, starts, order, out):
    """Put rings into an order.

    Parameters
    ----------
    vertices, starts
        As for `measure_rings`.
    order : (n_rings,) int64 array
        The rings.
    out : (n,) int64 array
        Takes the vertices.
    """
    n = 0
    for r in order:
        for i in range(starts[r], starts[r + 1]):
            out[n] = vertices[i]
            n += 1
