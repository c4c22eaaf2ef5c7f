"""Kernels that simplify outlines by Douglas-Peucker, between nodes, as long as they stay valid.

An arc from node to node is simplified from its end with the lesser number, so that both objects
along it keep the same vertices. All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

import numpy as np

from blockbuster.kernels.jit import kernel, kernel_part

Y = 2**32
# Below, in voxels, no vertex of an outline along voxels can go.
LEAST_TOLERANCE = 0.25
# Rings by segments of an object beyond which its parts are not compared; it stays as it is.
MAX_COMPARED = 2**26
INSIDE, OUTSIDE, ALONG = 1, 0, -1


@kernel_part
def offset(vertex, origin):
    """Return y and x of a vertex, from another."""
    return vertex // Y - origin // Y, vertex % Y // 2 - origin % Y // 2


@kernel_part
def square_distance(vertex, begin, end):
    """Return the squared distance of a vertex from a segment."""
    dy, dx = offset(end, begin)
    y, x = offset(vertex, begin)
    length = float(dy) * dy + float(dx) * dx
    along = float(dy) * y + float(dx) * x
    if along <= 0 or length == 0:
        return float(y) * y + float(x) * x
    if along >= length:
        return float(y - dy) * (y - dy) + float(x - dx) * (x - dx)
    across = float(dy) * x - float(dx) * y
    return across * across / length


@kernel_part
def simplify_arc(ring, begin, length, limit, kept, stack):
    """Mark the vertices of an arc that are kept between its ends, which are.

    Parameters
    ----------
    ring : (n,) int64 array
        The vertices of the ring.
    begin, length : int
        Where the arc begins, and how many vertices come after that; it may go on at the beginning
        of the ring.
    limit : float
        Squared tolerance.
    kept : (n,) bool array
        Takes the marks.
    stack : (n + 1, 2) int64 array
        Scratch.
    """
    n = len(ring)
    last = (begin + length) % n
    step = 1
    if ring[last] >> 1 < ring[begin] >> 1:
        begin, step = last, -1
    stack[0, 0], stack[0, 1] = 0, length
    depth = 1
    while depth:
        depth -= 1
        low, high = stack[depth, 0], stack[depth, 1]
        first, end = ring[(begin + step * low) % n], ring[(begin + step * high) % n]
        largest, at = limit, -1
        for i in range(low + 1, high):
            distance = square_distance(ring[(begin + step * i) % n], first, end)
            if distance > largest:
                largest, at = distance, i
        if at >= 0:
            kept[(begin + step * at) % n] = True
            stack[depth, 0], stack[depth, 1] = low, at
            stack[depth + 1, 0], stack[depth + 1, 1] = at, high
            depth += 2


@kernel_part
def farthest_from(ring, i):
    """Return which vertex of a ring is farthest from one; of several that with the least number."""
    best, at = -1.0, 0
    for k in range(len(ring)):
        y, x = offset(ring[k], ring[i])
        distance = float(y) * y + float(x) * x
        if distance > best or (distance == best and ring[k] >> 1 < ring[at] >> 1):
            best, at = distance, k
    return at


@kernel_part
def mark_kept(ring, tolerance, kept):
    """Mark the vertices of a ring that are kept."""
    n = len(ring)
    if tolerance < LEAST_TOLERANCE:
        kept[:] = True
        return
    n_nodes, node = 0, 0
    for i in range(n):
        kept[i] = ring[i] & 1
        if kept[i]:
            n_nodes += 1
            node = i
    if n_nodes < 2:
        kept[node] = True
        kept[farthest_from(ring, node)] = True
    stack = np.empty((n + 1, 2), np.int64)
    is_end = kept.copy()
    begin = node
    for i in range(node + 1, node + n + 1):
        if is_end[i % n]:
            simplify_arc(ring, begin % n, i - begin, tolerance * tolerance, kept, stack)
            begin = i


@kernel_part
def cross(origin, one, other):
    """Return the cross product of the ways to two vertices."""
    y1, x1 = offset(one, origin)
    y2, x2 = offset(other, origin)
    return x1 * y2 - x2 * y1


@kernel_part
def sector_of(origin, begin, end, vertex):
    """Return whether a vertex lies inside the angle from one way to another, outside, or along."""
    turn = cross(origin, begin, end)
    first, second = cross(origin, begin, vertex), cross(origin, vertex, end)
    if first == 0 or second == 0:
        y, x = offset(vertex, origin)
        for other, is_on in ((begin, first == 0), (end, second == 0)):
            dy, dx = offset(other, origin)
            if is_on and dy * y + dx * x > 0:
                return ALONG
    if turn > 0:
        return INSIDE if first > 0 and second > 0 else OUTSIDE
    if turn < 0:
        return OUTSIDE if first <= 0 and second <= 0 else INSIDE
    return INSIDE if first > 0 else OUTSIDE


@kernel_part
def do_meet(vertices, before, after, i, j):
    """Return whether two segments of an object, each from a vertex to the one after it, meet where
    they must not.
    """
    a, b, c, d = vertices[i], vertices[after[i]], vertices[j], vertices[after[j]]
    if after[i] == j or after[j] == i:
        middle, one, other = (b, a, d) if after[i] == j else (a, b, c)
        y1, x1 = offset(one, middle)
        y2, x2 = offset(other, middle)
        return x1 * y2 == x2 * y1 and x1 * x2 + y1 * y2 > 0
    for p in (i, after[i]):
        for q in (j, after[j]):
            if vertices[p] >> 1 == vertices[q] >> 1:
                at = vertices[p]
                begin, end = vertices[before[p]], vertices[after[p]]
                one = sector_of(at, begin, end, vertices[before[q]])
                other = sector_of(at, begin, end, vertices[after[q]])
                return one == ALONG or one != other
    first, second = cross(a, b, c), cross(a, b, d)
    third, fourth = cross(c, d, a), cross(c, d, b)
    if first == 0 and second == 0:
        # Along one line, where their bounds overlap as well.
        return True
    apart = (first > 0 and second > 0) or (first < 0 and second < 0)
    return not (apart or (third > 0 and fourth > 0) or (third < 0 and fourth < 0))


@kernel_part
def do_any_meet(vertices, before, after):
    """Return whether any segments of an object meet where they must not."""
    n = len(vertices)
    bounds = np.empty((n, 4), np.int64)
    for i in range(n):
        y0, x0 = offset(vertices[i], 0)
        y1, x1 = offset(vertices[after[i]], 0)
        bounds[i, 0], bounds[i, 1] = min(y0, y1), max(y0, y1)
        bounds[i, 2], bounds[i, 3] = min(x0, x1), max(x0, x1)
    order = np.argsort(bounds[:, 0])
    for k in range(n):
        i = order[k]
        for m in range(k + 1, n):
            j = order[m]
            if bounds[j, 0] > bounds[i, 1]:
                break
            if bounds[j, 2] > bounds[i, 3] or bounds[j, 3] < bounds[i, 2]:
                continue
            if do_meet(vertices, before, after, i, j):
                return True
    return False


@kernel_part
def turns_around(vertices, begin, end, y, x):
    """Return how often a ring goes around a point, which is given in halves of voxels."""
    turns = 0
    for i in range(begin, end):
        y0, x0 = offset(vertices[i], 0)
        y1, x1 = offset(vertices[i + 1] if i + 1 < end else vertices[begin], 0)
        y0, x0, y1, x1 = 2 * y0, 2 * x0, 2 * y1, 2 * x1
        if (y0 <= y) == (y1 <= y):
            continue
        side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
        if y1 > y0 and side > 0:
            turns += 1
        elif y1 < y0 and side < 0:
            turns -= 1
    return turns


@kernel_part
def are_nested(vertices, starts, shells):
    """Return whether outer rings lie outside of all others of an object, and holes in their own."""
    n_rings = len(starts) - 1
    if n_rings == 1:
        return True
    if n_rings * len(vertices) > MAX_COMPARED:
        return False
    for r in range(n_rings):
        # The middle of its first segment, which lies on no other ring.
        y0, x0 = offset(vertices[starts[r]], 0)
        y1, x1 = offset(vertices[starts[r] + 1], 0)
        turns = 0
        for s in range(n_rings):
            if s != r:
                found = turns_around(vertices, starts[s], starts[s + 1], y0 + y1, x0 + x1)
                turns += found
                if s == shells[r] and found != 1:
                    return False
        if turns != (0 if shells[r] == r else 1):
            return False
    return True


@kernel_part
def is_valid(vertices, starts, shells):
    """Return whether the rings of an object are valid together.

    Parameters
    ----------
    vertices : (n,) int64 array
        Of all rings.
    starts : (n_rings + 1,) int64 array
        Where each begins.
    shells : (n_rings,) int64 array
        The outer ring of each.
    """
    n = len(vertices)
    before, after = np.empty(n, np.int64), np.empty(n, np.int64)
    for r in range(len(shells)):
        for i in range(starts[r], starts[r + 1]):
            after[i] = i + 1 if i + 1 < starts[r + 1] else starts[r]
            before[after[i]] = i
    return not do_any_meet(vertices, before, after) and are_nested(vertices, starts, shells)


@kernel_part
def simplify_ring(ring, tolerance, is_shell, out, n):
    """Append the vertices of a ring that are kept, with half of the tolerance, if need be again,
    where the ring would have no area; return how many vertices there are.
    """
    kept = np.zeros(len(ring), np.bool_)
    while True:
        kept[:] = False
        mark_kept(ring, tolerance, kept)
        end = n
        area = 0
        for i in range(len(ring)):
            if kept[i]:
                out[end] = ring[i]
                end += 1
                area += cross(out[n], out[max(n, end - 2)], out[end - 1])
        if tolerance < LEAST_TOLERANCE or (area > 0 if is_shell else area < 0):
            return end
        tolerance /= 2


@kernel
def simplify_objects(outlines, tolerance, out, new_starts):
    """Simplify the rings of objects.

    Parameters
    ----------
    outlines : tuple
        ``(polygons, rings, starts, vertices)``, as `blockbuster.objects.outlines.Outlines` has
        them, with nodes.
    tolerance : float
        How far what is left out may be from what is kept, in voxels.
    out : (n,) int64 array
        Takes the vertices that are kept.
    new_starts : (n_rings + 1,) int64 array
        Takes where each ring begins in `out`, and the end of the last one.
    """
    polygons, rings, starts, vertices = outlines
    new_starts[0] = 0
    for k in range(len(polygons) - 1):
        begin, end = rings[polygons[k]], rings[polygons[k + 1]]
        shells = np.empty(end - begin, np.int64)
        for p in range(polygons[k], polygons[k + 1]):
            shells[rings[p] - begin : rings[p + 1] - begin] = rings[p] - begin
        allowed = tolerance
        while True:
            n = new_starts[begin]
            for r in range(begin, end):
                ring = vertices[starts[r] : starts[r + 1]]
                n = simplify_ring(ring, allowed, shells[r - begin] == r - begin, out, n)
                new_starts[r + 1] = n
            first = new_starts[begin]
            found, places = out[first:n], new_starts[begin : end + 1] - first
            if allowed < LEAST_TOLERANCE or is_valid(found, places, shells):
                break
            allowed /= 2
