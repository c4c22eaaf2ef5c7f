"""Kernels that write outlines as the text of GeoJSON and as well-known binary.

What is written for a coordinate is looked up: ``(bytes, ends, first)``, of which the bytes up to
``ends[i - first + 1]``, from ``ends[i - first]`` on, are those of vertex coordinate i. Outlines are
``(polygons, rings, starts, vertices)`` as `blockbuster.objects.outlines.Outlines` has them.

All arrays are allocated by the caller. Nothing here checks shapes.
"""

from __future__ import annotations

from blockbuster.kernels.jit import kernel, kernel_part

Y = 2**32
OPEN, CLOSE, COMMA = 91, 93, 44
# Of well-known binary.
LITTLE_ENDIAN, POLYGON, MULTIPOLYGON = 1, 3, 6


@kernel_part
def copy_bytes(table, i, out, n):
    """Append what stands for a coordinate."""
    text, ends, first = table
    for k in range(ends[i - first], ends[i - first + 1]):
        out[n] = text[k]
        n += 1
    return n


@kernel_part
def write_position(vertex, xs, ys, out, n):
    """Append ``[x,y]``."""
    out[n] = OPEN
    n = copy_bytes(xs, vertex % Y // 2, out, n + 1)
    out[n] = COMMA
    n = copy_bytes(ys, vertex // Y, out, n + 1)
    out[n] = CLOSE
    return n + 1


@kernel
def write_coordinates(outlines, xs, ys, out, ends):
    """Write the coordinates of each object as GeoJSON has them, of several parts those of a
    MultiPolygon.

    Parameters
    ----------
    outlines, xs, ys : tuple
        As this module describes them.
    out : (n,) uint8 array
        Takes the text; 2 more bytes than a vertex and its comma for each, 4 for each ring, and 2
        for each object are enough.
    ends : (n_objects,) int64 array
        Takes where the text of each object ends.
    """
    polygons, rings, starts, vertices = outlines
    n = 0
    for k in range(len(ends)):
        is_multiple = polygons[k + 1] - polygons[k] > 1
        if is_multiple:
            out[n] = OPEN
            n += 1
        for p in range(polygons[k], polygons[k + 1]):
            out[n] = OPEN
            n += 1
            for r in range(rings[p], rings[p + 1]):
                out[n] = OPEN
                n += 1
                for i in range(starts[r], starts[r + 1]):
                    n = write_position(vertices[i], xs, ys, out, n)
                    out[n] = COMMA
                    n += 1
                n = write_position(vertices[starts[r]], xs, ys, out, n)
                out[n] = CLOSE
                out[n + 1] = COMMA
                n += 2
            # In the place of the last comma.
            out[n - 1] = CLOSE
            out[n] = COMMA
            n += 1
        n -= 1
        if is_multiple:
            out[n] = CLOSE
            n += 1
        ends[k] = n


@kernel_part
def write_number(number, out, n):
    """Append an unsigned number of 32 bits."""
    for k in range(4):
        out[n + k] = number >> (8 * k) & 255
    return n + 4


@kernel_part
def write_head(kind, count, out, n):
    """Append byte order, kind of geometry, and how many parts follow."""
    out[n] = LITTLE_ENDIAN
    return write_number(count, out, write_number(kind, out, n + 1))


@kernel
def write_binary(outlines, xs, ys, out, ends):
    """Write each object as well-known binary, a Polygon, or of several parts a MultiPolygon.

    Parameters
    ----------
    outlines, xs, ys : tuple
        As this module describes them; the bytes of a coordinate are those of a float64.
    out : (n,) uint8 array
        Takes the bytes: 16 for each vertex, 20 more for each ring, 9 for each polygon and object
        are enough.
    ends : (n_objects,) int64 array
        Takes where the bytes of each object end.
    """
    polygons, rings, starts, vertices = outlines
    n = 0
    for k in range(len(ends)):
        n_parts = polygons[k + 1] - polygons[k]
        if n_parts > 1:
            n = write_head(MULTIPOLYGON, n_parts, out, n)
        for p in range(polygons[k], polygons[k + 1]):
            n = write_head(POLYGON, rings[p + 1] - rings[p], out, n)
            for r in range(rings[p], rings[p + 1]):
                n = write_number(starts[r + 1] - starts[r] + 1, out, n)
                for i in range(starts[r], starts[r + 1] + 1):
                    vertex = vertices[i] if i < starts[r + 1] else vertices[starts[r]]
                    n = copy_bytes(xs, vertex % Y // 2, out, n)
                    n = copy_bytes(ys, vertex // Y, out, n)
        ends[k] = n
