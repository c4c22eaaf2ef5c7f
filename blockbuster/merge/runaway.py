"""Runaway merging: one object that takes in label after label across the seams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockbuster.merge.table import BrickIds

# Fewer labels than this are looked through by eye.
MIN_LABELS = 50
# A long object is one label, or a few branches, in each of the tiles that it crosses.
MIN_LABELS_PER_TILE = 3.0
MIN_TIMES_MEDIAN = 10.0
# Intersection over union from which on two tiles saw the same.
MIN_SAME = 0.95
# Border labels are counted in so many parts: counting takes a few times the memory of a part.
N_PARTS = 64


@dataclass(frozen=True)
class ObjectSizes:
    """What the objects that cross a seam are made of.

    Parameters
    ----------
    n_labels, n_tiles : (n,) ndarray of int32 or int64
        Per object the labels that were joined to it, and the tiles that they are from.
    ids : (n,) ndarray of the same dtype
        Smallest provisional id of each object.
    """

    n_labels: np.ndarray
    n_tiles: np.ndarray
    ids: np.ndarray


def object_sizes(border: np.ndarray, roots: np.ndarray, ids: BrickIds) -> ObjectSizes:
    """Count labels and tiles of every object that crosses a seam.

    Parameters
    ----------
    border, roots : (m,) ndarray of int32 or int64
        As `join_pairs` or `cut_contradictions` give them.
    ids : BrickIds
        Knows which tile a provisional id is from.
    """
    objects, n_all = border[border == roots], ids.bricks.grid.n_tiles
    n_labels, n_tiles = np.zeros((2, len(objects)), border.dtype)
    # Cut where tiles begin, so that a tile of an object is counted once.
    begins = ids.offsets.ravel()[:: 1 + n_all // N_PARTS]
    cuts = np.append(np.searchsorted(border, begins, side="right"), len(border))
    for part in map(slice, cuts[:-1], cuts[1:]):
        members = np.searchsorted(objects, roots[part])
        in_tiles = np.unique(members * n_all + ids.tile_numbers(border[part])) // n_all
        np.add.at(n_labels, members, 1)
        np.add.at(n_tiles, in_tiles, 1)
    if len(objects) and n_labels.min() == 1:
        # A label that lost all its joins to contradictions crosses no seam.
        crosses = n_labels > 1
        n_labels, n_tiles, objects = n_labels[crosses], n_tiles[crosses], objects[crosses]
    return ObjectSizes(n_labels, n_tiles, objects)


def may_run_away(sizes: ObjectSizes) -> bool:
    """Return whether there is an object of so many labels that merging may have run away."""
    return len(sizes.ids) > 0 and int(sizes.n_labels.max()) >= MIN_LABELS


def describe_runaway(sizes: ObjectSizes, n_objects: int, cure: str, weakest: float = 0.0) -> str:
    """Describe an object that looks like many that were fused, and what to do; empty where none
    does.

    Parameters
    ----------
    sizes : ObjectSizes
        The objects that cross a seam.
    n_objects : int
        All objects.
    cure : str
        What the merge rule advises.
    weakest : float
        How good the weakest join of the object of most labels is; 0 where that is not known. Near 1
        two tiles saw the same wherever it crosses a seam: it is one connected thing.
    """
    if not may_run_away(sizes) or weakest >= MIN_SAME:
        return ""
    largest = int(np.argmax(sizes.n_labels))
    n_labels, n_tiles = int(sizes.n_labels[largest]), int(sizes.n_tiles[largest])
    # The lower median; an object that crosses no seam has one label.
    others = np.delete(sizes.n_labels, largest)
    others.sort()
    n_single = n_objects - len(sizes.n_labels)
    place = max(0, len(others) + n_single - 1) // 2
    median = 1 if place < n_single or not len(others) else int(others[place - n_single])
    if n_labels < max(MIN_LABELS, MIN_LABELS_PER_TILE * n_tiles, MIN_TIMES_MEDIAN * median):
        return ""
    return (
        f"runaway merging: one object was joined from {n_labels} labels of {n_tiles} tiles, the median of the "
        f"others is {median}; neighbours were probably fused at the seams: {cure}."
    )
