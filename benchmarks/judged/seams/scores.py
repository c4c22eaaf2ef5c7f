"""Scores that need no right labels: what of the tiles can be seen in the objects."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

from blockbuster.advise.scoring import ObjectOverlaps
from blockbuster.grid import TileGrid

__all__ = ["same_objects", "shifted", "straight_cuts"]

MIN_SAME = 0.99


def straight_cuts(labels: np.ndarray, grid: TileGrid) -> float:
    """Return how much more of an object's outline lies at seams than inside of tiles, in percentage points.

    An outline is made of faces between a voxel of the object and one of another object or background. The share
    of its faces that lie exactly in a seam is averaged over the objects that have a voxel within one halo of a
    seam: they have a face there too. Taken away is what comes out when every seam is moved to a place in the
    middle half of the tile before it, mean over nine such places. Labels are 1..N. Not a number where no tile
    before a seam has four voxels.
    """
    tiles = [[pair for pair in itertools.pairwise(cuts[:-1]) if pair[1] - pair[0] > 3] for cuts in grid.cuts]
    if not any(tiles):
        return np.nan
    faces = _faces(labels)
    boxes = np.array([[(part.start, part.stop) for part in box] for box in ndimage.find_objects(labels)])
    n_faces = sum(one.sum(axis=1) for one in faces)[1:]

    def share(place: float) -> float:
        n_inside, near = np.zeros(len(boxes)), np.zeros(len(boxes), bool)
        for axis, depth in enumerate(grid.halo):
            for at in (start + round(place * (stop - start)) for start, stop in tiles[axis]):
                n_inside += faces[axis][1:, at]
                near |= (boxes[:, axis, 0] < at + depth) & (boxes[:, axis, 1] > at - depth)
        near &= n_faces > 0
        return float(np.mean(n_inside[near] / n_faces[near])) if near.any() else 0.0

    return 100 * (share(1) - float(np.mean([share(place) for place in np.linspace(0.25, 0.75, 9)])))


def _faces(labels: np.ndarray) -> list[np.ndarray]:
    """Return per axis how many faces each label has at each position, (n labels, n positions)."""
    found = []
    for axis, length in enumerate(labels.shape):
        low, high = (labels[(slice(None),) * axis + (part,)] for part in (slice(None, -1), slice(1, None)))
        at = np.nonzero(low != high)
        places = [side[at] * length + at[axis] + 1 for side in (low, high)]
        found.append(
            np.bincount(np.concatenate(places), minlength=(labels.max() + 1) * length).reshape(-1, length)
        )
    return found


def shifted(grid: TileGrid) -> TileGrid | None:
    """Return the grid whose first tile is half as long along each axis with seams; ``None`` without a half."""
    halves = [axis[0] // 2 if len(axis) > 1 else 0 for axis in grid.lengths]
    if not any(halves):
        return None
    rest = tuple(length - half for length, half in zip(grid.shape, halves, strict=True))
    regular = TileGrid.regular(rest, grid.tile_shape, grid.halo).lengths
    lengths = [(half, *axis) if half else axis for half, axis in zip(halves, regular, strict=True)]
    return TileGrid(tuple(lengths), grid.halo)


def same_objects(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of the objects of both label images that are the same.

    That is at an intersection over union of 0.99: a large object may differ in a voxel of its outline, which fn
    sees differently from each place; one below a hundred voxels may not.
    """
    pairs = ObjectOverlaps.of(one, other)
    total = np.count_nonzero(pairs.sizes) + np.count_nonzero(pairs.found_sizes)
    return 2 * np.count_nonzero(pairs.iou >= MIN_SAME) / total if total else 1.0
