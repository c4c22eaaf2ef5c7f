"""A small picture of a run: its labels around a seam, or in the middle."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import TileGrid
from blockbuster.report.colours import draw_seams, paint_labels
from blockbuster.report.picture import place_window
from blockbuster.report.seams import SeamReport

__all__ = ["GridOf", "Thumbnail", "read_thumbnail"]

GridOf = Callable[[tuple[int, ...]], TileGrid | None]

# Voxels at most, pixels per voxel, and pixels across a seam.
MAX_ROWS, MAX_COLUMNS = 180, 270
MIN_ZOOM, MAX_ZOOM, SEAM_WIDTH = 2, 8, 3


@dataclass(frozen=True)
class Thumbnail:
    """Labels in a part of a plane, and the seams in it.

    Parameters
    ----------
    labels : (h, w) ndarray of int
        Labels; 0 is background.
    at : tuple of slice or int
        Where they are from.
    rows, columns : list of int
        First rows and columns of `labels` behind a seam.
    """

    labels: np.ndarray
    at: tuple[slice | int, ...]
    rows: list[int]
    columns: list[int]

    @property
    def caption(self) -> str:
        """What the picture shows."""
        place = ", ".join(
            f"{part.start}:{part.stop}" if isinstance(part, slice) else str(part) for part in self.at
        )
        seams = "; at the seams white: joined, red: kept apart, grey: nothing there"
        return f"labels[{place}]{seams if self.rows or self.columns else ''}"

    def draw(self) -> np.ndarray:
        """Paint the labels and the seams: an array of RGB, uint8."""
        zoom = max(MIN_ZOOM, min(MAX_ZOOM, MIN_ZOOM * MAX_COLUMNS // max(self.labels.shape)))
        pixels = paint_labels(self.labels, zoom=zoom)
        return draw_seams(pixels, self.labels, self.rows, self.columns, zoom=zoom, width=SEAM_WIDTH)


def read_thumbnail(labels_path: str, seams: SeamReport, grid_of: GridOf) -> Thumbnail | None:
    """Read the labels around the first of the seams to look at, or in the middle where there is none.

    Parameters
    ----------
    labels_path : str
        Folder of the label array; empty where there is none.
    seams : SeamReport
        Names the seam.
    grid_of : callable
        Takes the shape of the labels, gives their tiles; None where they are not known.

    Returns
    -------
    Thumbnail or None
        None where the labels are gone or cannot be read, or have one axis only.

    Notes
    -----
    Reads the chunks that 180 x 270 voxels touch, nothing else.
    """
    from blockbuster.compat import open_labels

    if not os.path.isdir(labels_path):
        return None
    try:
        array = open_labels(labels_path)
        if array.ndim < 2 or 0 in array.shape:
            return None
        at = _window(array.shape, seams)
        labels = np.asarray(array[at])
    except (OSError, TypeError, ValueError, RuntimeError):
        # A report shows itself whatever has become of the labels.
        return None
    grid = grid_of(array.shape)
    edges = (np.empty(0, int), np.empty(0, int)) if grid is None else grid.edges[-2:]
    starts = [part.start for part in at if isinstance(part, slice)]
    rows, columns = (
        [int(cut - start) for cut in cuts if start < cut < start + n]
        for cuts, start, n in zip(edges, starts, labels.shape, strict=True)
    )
    return Thumbnail(labels, at, rows, columns)


def _window(shape: tuple[int, ...], seams: SeamReport) -> tuple[slice | int, ...]:
    """Choose a part of the plane in which the seam lies, inside the image."""
    middle = [n // 2 for n in shape]
    found = [seam.at for seam in seams.worst[:1] if len(seam.at) == len(shape)]
    at = found[0] if found and np.all(np.array(found[0]) < shape) else middle
    return (*at[:-2], *place_window(at[-2:], shape[-2:], (MAX_ROWS, MAX_COLUMNS)))
