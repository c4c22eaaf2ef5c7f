"""Masks of integers: labels that tell foreground from background, and no object from another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Index

# Counting pieces adds about half to the work of a tile; a mask shows in the first ones.
MAX_WHOLE = 4


@dataclass
class MaskWatch:
    """Watch whether all tiles of a brick have one id only, and whether that falls into pieces.

    Parameters
    ----------
    apart_axes : tuple of int
        Axes of the labels along which an id counts for each position by itself.
    in_pieces : bool or None
        Whether the one id of a tile fell into pieces; ``None`` once a tile had two ids.
    n_whole : int
        Tiles whose only id is one piece; after four of them, pieces are no longer looked for.

    Notes
    -----
    A tile with two ids costs nothing, nor do those after it. A tile with one id costs half a
    nanosecond per voxel, and as long as pieces are looked for, five in 2-D and twelve in 3-D in the
    box around what is labelled.

    Examples
    --------
    >>> watch = MaskWatch(())
    >>> watch.look(np.array([[1, 1, 0, 0], [0, 0, 0, 1]]), n_labels=1)
    >>> watch.in_pieces
    True
    """

    apart_axes: Index
    in_pieces: bool | None = False
    n_whole: int = 0

    def look(self, labels: np.ndarray, n_labels: int) -> None:
        """Look at the labels of a tile with its halo, of which there are so many in its core."""
        if self.in_pieces is None:
            return
        if n_labels > math.prod(labels.shape[axis] for axis in self.apart_axes):
            self.in_pieces = None
            return
        merged = tuple([axis for axis in range(labels.ndim) if axis not in self.apart_axes])
        largest = labels.max(axis=merged, keepdims=True)
        if not ((labels == largest) | (labels == 0)).all():
            self.in_pieces = None
        elif not self.in_pieces and self.n_whole < MAX_WHOLE:
            self.in_pieces = _is_in_pieces(labels, merged)
            self.n_whole += not self.in_pieces


def describe_mask(n_tiles: int) -> str:
    """Say that so many tiles, all with labels, have no more than one id, and what to do."""
    tiles, becoming = f"each of the {n_tiles} tiles", "whole tiles become"
    if n_tiles == 1:
        tiles, becoming = "the only tile", "everything becomes"
    return (
        f"all objects have the same id in {tiles} with labels, though they do not touch each other: a mask, of "
        f"which {becoming} one object. Label it in fn, e.g. return skimage.measure.label(mask)."
    )


def _is_in_pieces(labels: np.ndarray, merged: Index) -> bool:
    """Return whether labels at a position fall into pieces that do not touch even at a corner."""
    from scipy import ndimage

    inside = labels > 0
    # The box around what is labelled.
    inside = inside[ndimage.find_objects(inside.view(np.uint8))[0]]
    if inside.all():
        return False
    structure = np.zeros((3,) * labels.ndim, bool)
    structure[tuple(slice(None) if axis in merged else 1 for axis in range(labels.ndim))] = True
    n_positions = np.count_nonzero(inside.any(axis=merged))
    return bool(ndimage.label(inside, structure)[1] > n_positions)
