"""Outlines of the objects in a label image: traced in bricks, joined for some labels at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from blockbuster.kernels.outlines import (
    CLOSED,
    assign_holes,
    gather_rings,
    join_chains,
    measure_rings,
    split_rings,
    trace_outlines,
)
from blockbuster.rundir.durable import replaced_file

# Room that is tried first, in parts of the voxels, and how much more after that.
FIRST_SHARE, MORE = 16, 4


@dataclass(frozen=True)
class Chains:
    """Parts of outlines, sorted by label.

    Parameters
    ----------
    labels : (m,) ndarray of int64
        The label of each chain.
    flags : (m,) ndarray of int64
        As `trace_outlines` gives them.
    starts : (m + 1,) ndarray of int64
        Where the vertices of each begin.
    vertices : (n,) ndarray of int64
        As the kernels have them.
    """

    labels: np.ndarray
    flags: np.ndarray
    starts: np.ndarray
    vertices: np.ndarray

    def save(self, path: str) -> None:
        """Write the chains to a file, which is complete or absent."""
        head = np.array([len(self.labels), len(self.vertices)])
        parts = [head, self.labels, self.flags, self.starts, self.vertices]
        with replaced_file(path, sum(part.nbytes for part in parts)) as file:
            for part in parts:
                file.write(np.ascontiguousarray(part, "<i8").data)

    @classmethod
    def load(cls, path: str, low: int, high: int) -> Chains:
        """Read the chains of the labels from `low` to `high`."""
        stored = np.memmap(path, "<i8", "r")
        m, n = map(int, stored[:2])
        ends = np.cumsum([2, m, m, m + 1, n])
        labels, flags, starts, vertices = (stored[a:b] for a, b in itertools.pairwise(ends))
        first, last = np.searchsorted(labels, low), np.searchsorted(labels, high, "right")
        begin, end = int(starts[first]), int(starts[last])
        found = labels[first:last], flags[first:last], starts[first : last + 1] - begin, vertices[begin:end]
        return cls(*map(np.array, found))

    @classmethod
    def concatenate(cls, parts: Iterable[Chains]) -> Chains:
        """Put the chains of several bricks together, sorted by label."""
        kept = [part for part in parts if len(part.labels)]
        labels = np.concatenate([np.empty(0, np.int64), *(part.labels for part in kept)])
        flags = np.concatenate([np.empty(0, np.int64), *(part.flags for part in kept)])
        lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(part.starts) for part in kept)])
        vertices = np.concatenate([np.empty(0, np.int64), *(part.vertices for part in kept)])
        return cls(labels, flags, np.append(0, np.cumsum(lengths)), vertices)


@dataclass(frozen=True)
class Outlines:
    """Outlines of whole objects, in the order of their labels.

    Parameters
    ----------
    labels : (n_objects,) ndarray of int64
        Their labels.
    polygons : (n_objects + 1,) ndarray of int64
        Where the polygons of each object begin: its parts, by their first vertex.
    rings : (n_polygons + 1,) ndarray of int64
        Where the rings of each polygon begin: the outer one, then the holes by their first vertex.
    starts : (n_rings + 1,) ndarray of int64
        Where the vertices of each ring begin, with the least y, and of those the least x.
    vertices : (n,) ndarray of int64
        As the kernels have them.
    areas : (n_objects,) ndarray of int64
        In voxels.
    boxes : (n_objects, 4) ndarray of int64
        The least x and y, the largest x and y.
    places : (n_objects,) ndarray of int64
        The corner with the least y, and of those the least x: ``y * 2**31 + x``.
    """

    labels: np.ndarray
    polygons: np.ndarray
    rings: np.ndarray
    starts: np.ndarray
    vertices: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    places: np.ndarray


def trace_chains(padded: np.ndarray, origin: tuple[int, int], *, with_nodes: bool = False) -> Chains:
    """Trace the outlines in a brick.

    Parameters
    ----------
    padded : (height + 2, width + 2) ndarray of int32 or int64
        Labels of the brick and one voxel around it. A brick has the lines at its low sides, not
        those at its high sides: at the end of the image it is a voxel longer.
    origin : (int, int)
        Row and column of the first voxel of the brick.
    with_nodes : bool
        Whether vertices are wanted where a border between two labels ends.

    Returns
    -------
    Chains

    Examples
    --------
    >>> chains = trace_chains(np.pad([[7]], 2), (0, 0))
    >>> chains.labels.tolist(), len(chains.vertices)
    ([7], 4)
    """
    size = padded.size // FIRST_SHARE + 1024
    while True:
        vertices = np.empty(size, np.int64)
        chains = np.empty((size // 2, 2), np.int64)
        labels = np.empty(size // 2, padded.dtype)
        visited = np.zeros(padded.shape, np.uint8)
        n_chains, n = trace_outlines(padded, visited, with_nodes, vertices, chains, labels)
        if n_chains >= 0:
            break
        size *= MORE
    order = np.argsort(labels[:n_chains], kind="stable")
    starts = np.append(chains[:n_chains, 0], n)
    sorted_starts = np.append(0, np.cumsum(np.diff(starts)[order]))
    out = np.empty(n, np.int64)
    gather_rings(vertices, starts, order, out)
    out += ((origin[0] - 1) << 32) + 2 * (origin[1] - 1)
    return Chains(labels[:n_chains][order].astype(np.int64), chains[:n_chains, 1][order], sorted_starts, out)


def join_outlines(chains: Chains) -> Outlines:
    """Join the chains of some labels, from all bricks, to outlines.

    Examples
    --------
    >>> ring = np.pad([[7, 7, 7], [7, 0, 7], [7, 7, 7]], (1, 2))
    >>> found = join_outlines(trace_chains(ring, (0, 0)))
    >>> found.labels.tolist(), found.areas.tolist(), found.starts.tolist()
    ([7], [8], [0, 4, 8])
    """
    n = len(chains.vertices)
    keys = chains.vertices[chains.starts[:-1]] >> 1
    order = np.lexsort((keys, chains.flags & CLOSED, chains.labels))
    firsts, labels = chains.starts[:-1][order], chains.labels[order]
    table = np.stack([np.diff(chains.starts)[order], chains.flags[order]], axis=1)
    is_first = np.append(True, labels[1:] != labels[:-1]) if len(labels) else np.empty(0, bool)
    groups = np.append(np.flatnonzero(is_first), len(labels))
    joined, rings = np.empty(n, np.int64), np.empty((len(labels), 3), np.int64)
    rings = rings[: join_chains(chains.vertices, firsts, table, groups, joined, rings)]
    out, ends, ring_groups = np.empty(n, np.int64), np.empty(n // 4 + 1, np.int64), np.empty(n // 4 + 1, np.int64)
    n_rings = split_rings(joined, rings, out, ends, ring_groups)
    starts = np.append(0, ends[:n_rings])
    return _arrange(labels[is_first], ring_groups[:n_rings], starts, out[: starts[-1]])


def _arrange(labels: np.ndarray, groups: np.ndarray, starts: np.ndarray, vertices: np.ndarray) -> Outlines:
    """Put the rings of each label, its number in `groups`, in order: parts, and their holes."""
    n_rings = len(groups)
    areas, boxes = _measure(vertices, starts)
    keys = vertices[starts[:-1]] >> 1
    bounds = np.searchsorted(groups, np.arange(len(labels) + 1))
    shells = np.empty(n_rings, np.int64)
    assign_holes(vertices, starts, areas, bounds, np.lexsort((keys, groups)), shells)
    order = np.lexsort((keys, keys[shells], groups))
    out = np.empty_like(vertices)
    gather_rings(vertices, starts, order, out)
    begins = np.flatnonzero(shells[order] == order)
    objects = np.add.reduceat(areas, bounds[:-1]) // 2 if n_rings else areas
    return Outlines(
        labels,
        np.searchsorted(begins, bounds),
        np.append(begins, n_rings),
        np.append(0, np.cumsum(np.diff(starts)[order])),
        out,
        objects,
        _around(boxes, bounds[:-1]),
        keys[order[bounds[:-1]]],
    )


def object_boxes(vertices: np.ndarray, starts: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the least x and y, the largest x and y of each object, whose rings begin at
    `bounds`.
    """
    return _around(_measure(vertices, starts)[1], bounds[:-1])


def _measure(vertices: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n_rings = len(starts) - 1
    areas, boxes = np.empty(n_rings, np.int64), np.empty((n_rings, 4), np.int64)
    measure_rings(vertices, starts, areas, boxes)
    return areas, boxes


def _around(boxes: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return the boxes around those of the rings of each object."""
    if not len(boxes):
        return boxes
    low, high = np.minimum.reduceat(boxes[:, :2], begins), np.maximum.reduceat(boxes[:, 2:], begins)
    return np.concatenate([low, high], axis=1)


def brick_file(folder: str, number: int) -> str:
    """Return the path of the chains of a brick."""
    return os.path.join(folder, f"{number}.outlines")
