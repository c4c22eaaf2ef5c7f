"""Pictures of a run: the labels around its seams, in colours."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from blockbuster.grid import TileGrid
from blockbuster.report.colours import JOINED, SEAM_COLOURS, draw_seams, paint_labels
from blockbuster.report.seams import SeamReport, WorstSeam

GridOf = Callable[[tuple[int, ...]], TileGrid | None]

MAX_PICTURES = 4
# Voxels along the longer side of a crop, and how many times the shorter side it is at most: a stack
# of few planes is shown larger, not as a thread.
MAX_SIDE, MAX_ELONGATION = 160, 4
# Pixels per voxel.
MIN_ZOOM, MAX_ZOOM = 2, 8
# In pixels, but for the radius of a ring, which is in voxels.
SEAM_WIDTH, RING, MARGIN, FONT_SIZE, LINE_HEIGHT = 2, 8, 12, 13, 17
# Voxels of a thumbnail at most, and pixels across its seams.
MAX_ROWS, MAX_COLUMNS, THUMBNAIL_SEAM_WIDTH = 180, 270, 3
LETTERS_PER_LINE = 46
PAPER, INK = (255, 255, 255), (20, 20, 20)
# What comes of labels that are gone, damaged, or none.
UNDRAWABLE = (OSError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class LabelCrop:
    """Labels in a part of a plane, around a seam.

    Parameters
    ----------
    labels : (h, w) ndarray of int
        Labels; 0 is background.
    at : tuple of slice or int
        Where they are from.
    rows, columns : list of int
        First rows and columns of `labels` behind a seam.
    caption : str
        What the picture shows.
    ring : (row, column) or None
        The voxel of `labels` that a ring goes around.
    """

    longest: ClassVar[int] = MAX_SIDE
    seam_width: ClassVar[int] = SEAM_WIDTH
    dashed: ClassVar[bool] = True

    labels: np.ndarray
    at: tuple[slice | int, ...]
    rows: list[int]
    columns: list[int]
    caption: str
    ring: tuple[int, int] | None = None

    @property
    def zoom(self) -> int:
        """Pixels per voxel in a picture."""
        side: int = max(self.labels.shape)
        return max(MIN_ZOOM, min(MAX_ZOOM, MIN_ZOOM * self.longest // side))

    def draw(self) -> np.ndarray:
        """Draw labels in colours, thin outlines where they touch, and seams by what happened there.

        Returns
        -------
        (zoom * h, zoom * w, 3) ndarray of uint8
            Around a seam, it is a dashed line on the pixels on either side of it: white where an
            object was joined, red where two were kept apart. A ring goes around the pair whose
            agreement the caption gives.

        Examples
        --------
        >>> crop = LabelCrop(np.array([[7, 7, 0, 0]]), np.s_[0:1, 0:4], [], [2], "x")
        >>> crop.draw().shape
        (8, 32, 3)
        """
        from PIL import Image, ImageDraw

        zoom, width = self.zoom, self.seam_width
        pixels = paint_labels(self.labels, zoom=zoom)
        pixels = draw_seams(
            pixels, self.labels, self.rows, self.columns, zoom=zoom, width=width, dashed=self.dashed
        )
        if self.ring is None:
            return pixels
        picture = Image.fromarray(pixels)
        row, column = (zoom * i + zoom // 2 for i in self.ring)
        radius = zoom * RING
        box = (column - radius, row - radius, column + radius, row + radius)
        ImageDraw.Draw(picture).ellipse(box, outline=tuple(SEAM_COLOURS[JOINED].tolist()))
        return np.array(picture)


class Thumbnail(LabelCrop):
    """Labels in a larger part of a plane, with all seams in it."""

    longest = MAX_COLUMNS
    seam_width = THUMBNAIL_SEAM_WIDTH
    dashed = False


def read_crops(seams: SeamReport, labels_path: str) -> list[LabelCrop]:
    """Read the surroundings of the worst seams; none where the labels are gone or cannot be read.

    Parameters
    ----------
    seams : SeamReport
        Names the seams.
    labels_path : str
        Folder of the label array; empty where there is none.

    Returns
    -------
    list of LabelCrop
        At most `MAX_PICTURES`, the worst first.

    Notes
    -----
    Reads only the chunks that the crops touch.
    """
    if not os.path.isdir(labels_path):
        return []
    try:
        found = [read_crop(labels_path, seam) for seam in seams.worst[:MAX_PICTURES]]
    except UNDRAWABLE:
        # A report is shown even if its labels are gone.
        return []
    return [crop for crop in found if crop is not None]


def read_crop(labels_path: str, seam: WorstSeam) -> LabelCrop | None:
    """Read the labels around a seam; None where they have no such voxel, or one axis only."""
    from blockbuster.compat import open_labels

    labels = open_labels(labels_path)
    if labels.ndim != len(seam.at) or labels.ndim < 2 or np.any(np.array(seam.at) >= labels.shape):
        return None
    # The last two axes where the seam cuts one of them, else its own and the last.
    first, second = labels.ndim - 2, labels.ndim - 1
    cut = [axis for axis in range(labels.ndim) if _cuts(seam, axis)]
    if cut and cut[-1] < first:
        first, second = (cut[-2], cut[-1]) if len(cut) > 1 else (cut[0], second)
    lengths = (int(labels.shape[first]), int(labels.shape[second]))
    most = min(MAX_SIDE, MAX_ELONGATION * min(lengths))
    rows, columns = _place_window((seam.at[first], seam.at[second]), lengths, (most, most))
    box: list[int | slice] = list(seam.at)
    box[first], box[second] = rows, columns
    names = getattr(labels.metadata, "dimension_names", None) or [f"axis {axis}" for axis in range(labels.ndim)]
    plane = "" if labels.ndim == 2 else f"; {names[first]} down, {names[second]} to the right"
    return LabelCrop(
        np.asarray(labels[tuple(box)]),
        tuple(box),
        _cuts(seam, first, rows.start),
        _cuts(seam, second, columns.start),
        f"{seam}{plane}",
        None if seam.agreement is None else (seam.at[first] - rows.start, seam.at[second] - columns.start),
    )


def _cuts(seam: WorstSeam, axis: int, start: int = 0) -> list[int]:
    """Return the first voxel behind the seam along an axis, if the tiles are not level there."""
    one, other = (tile[axis] for tile in seam.tiles)
    return [] if one == other else [seam.at[axis] + (one < other) - start]


def _place_window(at: Sequence[int], lengths: Sequence[int], most: Sequence[int]) -> list[slice]:
    """Choose a window around a voxel, inside the image and at most `most` long per axis."""
    sides = list(map(min, lengths, most))
    starts = [max(0, min(i - side // 2, n - side)) for i, side, n in zip(at, sides, lengths, strict=True)]
    return [slice(start, start + side) for start, side in zip(starts, sides, strict=True)]


def draw_sheet(crops: Sequence[LabelCrop]) -> np.ndarray:
    """Draw crops side by side on white, each above its caption.

    Parameters
    ----------
    crops : sequence of LabelCrop
        At least one.

    Returns
    -------
    (H, W, 3) ndarray of uint8
    """
    from PIL import Image, ImageDraw, ImageFont

    panels = [Image.fromarray(crop.draw()) for crop in crops]
    captions = [textwrap.wrap(crop.caption, LETTERS_PER_LINE) for crop in crops]
    column = MIN_ZOOM * MAX_SIDE + MARGIN
    top = 2 * MARGIN + max(panel.height for panel in panels)
    height = top + LINE_HEIGHT * max(map(len, captions)) + MARGIN
    sheet = Image.new("RGB", (MARGIN + column * len(panels), height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        left = MARGIN + column * number
        sheet.paste(panel, (left, MARGIN))
        for line, text in enumerate(lines):
            draw.text((left, top + LINE_HEIGHT * line), text, fill=INK, font=font)
    return np.array(sheet)


def read_thumbnail(labels_path: str, seams: SeamReport, grid_of: GridOf) -> Thumbnail | None:
    """Read the labels around the first of the worst seams, or in the middle where there is none.

    Parameters
    ----------
    labels_path : str
        Folder of the label array; empty where there is none.
    seams : SeamReport
        Names the seam.
    grid_of : callable
        Takes the shape of the labels, returns their tiles; None where they are not known.

    Returns
    -------
    Thumbnail or None
        None where the labels are gone or cannot be read, or have one axis only.

    Notes
    -----
    Reads only the chunks that 180 x 270 voxels touch.
    """
    from blockbuster.compat import open_labels

    if not os.path.isdir(labels_path):
        return None
    try:
        array = open_labels(labels_path)
        if array.ndim < 2 or 0 in array.shape:
            return None
        voxel = seams.worst[0].at if seams.worst else []
        if len(voxel) != array.ndim or np.any(np.array(voxel) >= array.shape):
            voxel = [n // 2 for n in array.shape]
        window = _place_window(voxel[-2:], array.shape[-2:], (MAX_ROWS, MAX_COLUMNS))
        at: tuple[slice | int, ...] = (*voxel[:-2], *window)
        labels = np.asarray(array[at])
    except UNDRAWABLE:
        # A report is shown even if its labels are gone.
        return None
    grid = grid_of(array.shape)
    edges = ([], []) if grid is None else grid.cuts[-2:]
    rows, columns = (
        [cut - part.start for cut in cuts if part.start < cut < part.stop]
        for cuts, part in zip(edges, window, strict=True)
    )
    place = ", ".join(f"{part.start}:{part.stop}" if isinstance(part, slice) else str(part) for part in at)
    legend = "; at the seams white: joined, red: kept apart, grey: nothing there" if rows or columns else ""
    return Thumbnail(labels, at, rows, columns, f"labels[{place}]{legend}")


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode an RGB picture as PNG, with a palette where it has few colours."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if picture.getcolors(256) is not None:
        # No more colours than a palette holds all stay as they are.
        picture = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
