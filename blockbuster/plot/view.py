"""The part of an image that is drawn; no more of it is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blockbuster.grid import Box
from blockbuster.source import Source, open_source
from blockbuster.source.geometry import read_geometry

# Pixels along a side of a picture; of a plane with more, a coarser level is taken, or every few
# pixels.
MAX_PIXELS = 2000
# Voxels that are read for a picture; of a plane with more, the middle is drawn.
MAX_VOXELS = 2**26
BAND_VOXELS = 2**23


@dataclass(frozen=True)
class Image:
    """An image with the coarser levels that it has, and where its channel axis is.

    Parameters
    ----------
    levels : tuple of Source
        The finest first; one for an array.
    channel_axis : int or None
        The axis of which one index is drawn.
    channel : int
        That index.
    """

    levels: tuple[Source, ...]
    channel_axis: int | None = None
    channel: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis at the finest level, without the channel axis."""
        return self.shape_of(0)

    def shape_of(self, number: int) -> tuple[int, ...]:
        """Voxels per axis at a level, without the channel axis."""
        return tuple(n for axis, n in enumerate(self.levels[number].shape) if axis != self.channel_axis)

    @property
    def letters(self) -> tuple[str, ...]:
        """A name per axis, without the channel axis."""
        names = self.levels[0].axes or [f"axis {axis}" for axis in range(len(self.levels[0].shape))]
        return tuple(name for axis, name in enumerate(names) if axis != self.channel_axis)

    def read(self, number: int, box: Box) -> np.ndarray:
        """Read a box of a level, given without the channel axis."""
        if self.channel_axis is not None:
            one = slice(self.channel, self.channel + 1)
            box = (*box[: self.channel_axis], one, *box[self.channel_axis :])
        return self.levels[number].read(box)


@dataclass(frozen=True)
class View:
    """A rectangle in a plane, in voxels of the finest level.

    Parameters
    ----------
    at : tuple of int
        Index along every axis before the last two, without the channel axis.
    rows, columns : slice
        Along the last two axes.
    is_middle : bool
        Whether it is only the middle of what was asked for.
    """

    at: tuple[int, ...]
    rows: slice
    columns: slice
    is_middle: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in voxels."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Picture:
    """Pixels that were read, and what each stands for.

    Parameters
    ----------
    pixels : (h, w) ndarray
        Every `step`-th one of a level.
    extent : tuple of float
        Left, right, bottom and top edge in voxels of the finest level.
    level, step : int
        How much coarser it is than the image: the level, counted from that of the run, and every
        how many pixels.
    beside_rows, beside_columns : dict of int to (ndarray, ndarray)
        The two lines of voxels on either side of each seam that was asked for, at the finest level.
    """

    pixels: np.ndarray
    extent: tuple[float, float, float, float]
    level: int
    step: int
    beside_rows: dict[int, tuple[np.ndarray, np.ndarray]]
    beside_columns: dict[int, tuple[np.ndarray, np.ndarray]]


def open_image(image: Any, *, channel: int | None = 0, level: int = 0, axes: str | None = None) -> Image:
    """Open an image with its coarser levels; arguments and errors as for `open_source`."""
    geometry = read_geometry(image)
    n_levels = max(level + 1, len(geometry.levels) if geometry else 1)
    levels = [open_source(image, channel=channel, level=k, axes=axes) for k in range(level, n_levels)]
    found = levels[0].axes or ""
    channel_axis = found.index("c") if "c" in found else None
    return Image(tuple(levels), channel_axis, channel or 0)


def open_labels(labels: Any, image: Image | None = None) -> Image:
    """Open labels, also the array ``labels`` in a path, and check that they fit an image."""
    import zarr

    from blockbuster.source.location import locate, open_node

    if isinstance(labels, str | os.PathLike):
        inside = os.path.join(os.path.expanduser(os.fspath(labels)), "labels")
        has_array = any(os.path.isfile(os.path.join(inside, name)) for name in (".zarray", "zarr.json"))
        # Not of an image, which is a group as well.
        if has_array and isinstance(open_node(locate(labels)), zarr.Group) and read_geometry(labels) is None:
            labels = inside
    found = open_image(labels)
    if found.levels[0].dtype.kind not in "iu":
        raise TypeError(f"labels have dtype {found.levels[0].dtype}; they must be integers, 0 for background.")
    if image is None:
        return found
    stored = found.levels[0].shape
    if len(stored) == len(image.shape):
        found = replace(found, channel_axis=None)
    elif len(stored) == len(image.levels[0].shape):
        found = replace(found, channel_axis=image.channel_axis, channel=image.channel)
    if found.shape != image.shape:
        raise ValueError(f"labels have shape {stored}, and the image has {image.shape}; they must be the same.")
    return found


def choose_view(image: Image, plane: Any = None, region: Any = None) -> View:
    """Choose what is drawn: the middle plane where none is named, and all of it where no region is.

    Raises
    ------
    ValueError
        If the image has fewer than two axes, or `plane` or `region` do not fit it.
    """
    shape = image.shape
    if len(shape) < 2:
        raise ValueError(f"image has shape {shape}; it must have at least two axes to be drawn.")
    *before, height, width = shape
    at = tuple(n // 2 for n in before)
    if plane is not None:
        indices = tuple(plane) if isinstance(plane, Sequence | np.ndarray) else (plane,)
        if len(indices) != len(before) or not all(
            isinstance(i, int | np.integer) and -n <= i < n for i, n in zip(indices, before, strict=False)
        ):
            raise ValueError(
                f"plane is {plane!r}; it is one index for each axis before the last two, "
                f"which have {shape[:-2]} voxels."
            )
        at = tuple(int(i) % n for i, n in zip(indices, before, strict=True))
    given = (slice(None), slice(None)) if region is None else region
    if (
        isinstance(given, Sequence)
        and len(given) == 2
        and all(isinstance(part, slice) and part.step in (None, 1) for part in given)
    ):
        rows, columns = (slice(*part.indices(n)[:2]) for part, n in zip(given, shape[-2:], strict=True))
        if rows.start < rows.stop and columns.start < columns.stop:
            return View(at, rows, columns)
    raise ValueError(
        f"region is {region!r}; it is a pair of slices without steps, of rows and of columns, that holds at "
        f"least one of the plane's {height} x {width} voxels."
    )


def limit_view(view: View, *images: Image) -> View:
    """Keep to the middle of a view of which too much would have to be read."""
    boxes = (_scaled(image, _choose_level(image, view), view)[-2:] for image in images)
    if all(math.prod(part.stop - part.start for part in box) <= MAX_VOXELS for box in boxes):
        return view
    height, width = view.sides
    shorter = min(height, width, math.isqrt(MAX_VOXELS))
    rows, columns = (
        _middle(part, shorter if n == min(view.sides) else MAX_VOXELS // shorter)
        for part, n in ((view.rows, height), (view.columns, width))
    )
    return replace(view, rows=rows, columns=columns, is_middle=True)


def _middle(part: slice, length: int) -> slice:
    length = min(length, part.stop - part.start)
    start = (part.start + part.stop - length) // 2
    return slice(start, start + length)


def _choose_level(image: Image, view: View) -> int:
    """Return the finest level in which the view fits a picture, else the coarsest."""
    for number in range(len(image.levels)):
        box = _scaled(image, number, view)
        if max(part.stop - part.start for part in box[-2:]) <= MAX_PIXELS:
            return number
    return len(image.levels) - 1


def _scaled(image: Image, number: int, view: View) -> Box:
    """Return a view as a box of a level."""
    whole = (*(slice(i, i + 1) for i in view.at), view.rows, view.columns)
    parts = []
    for part, fine, coarse in zip(whole, image.shape, image.shape_of(number), strict=True):
        start = min(part.start * coarse // fine, coarse - 1)
        stop = start + 1 if part.stop - part.start == 1 else min(coarse, -(-part.stop * coarse // fine))
        parts.append(slice(start, stop))
    return tuple(parts)


def read_picture(
    image: Image, view: View, *, rows: Sequence[int] = (), columns: Sequence[int] = (), exact: bool = False
) -> Picture:
    """Read a view in no more than about `MAX_PIXELS` pixels along a side.

    Parameters
    ----------
    image : Image
        What is read.
    view : View
        Which part.
    rows, columns : sequence of int
        First rows and columns behind seams whose two sides are wanted; only where the finest
        level is read.
    exact : bool
        Read the finest level where it is not too large, so that the sides of seams are known.
    """
    height, width = view.sides
    number = 0 if exact and height * width <= MAX_VOXELS else _choose_level(image, view)
    box = _scaled(image, number, view)
    step = max(1, *(-(-(part.stop - part.start) // MAX_PIXELS) for part in box[-2:]))
    cuts = [
        [cut for cut in given if number == 0 and part.start < cut < part.stop]
        for given, part in zip((rows, columns), box[-2:], strict=True)
    ]
    # The rows and columns of voxels on either side of seams, in pieces from band to band.
    lines: list[dict[int, list[np.ndarray]]] = [{i: [] for cut in each for i in (cut - 1, cut)} for each in cuts]
    sampled = []
    for start, band in _bands(image, number, box, step):
        sampled.append(band[::step, ::step])
        for row, pieces in lines[0].items():
            if start <= row < start + len(band):
                pieces.append(band[row - start].copy())
        for column, pieces in lines[1].items():
            pieces.append(band[:, column - box[-1].start].copy())
    beside = [
        {cut: (np.concatenate(found[cut - 1]), np.concatenate(found[cut])) for cut in each}
        for each, found in zip(cuts, lines, strict=True)
    ]
    pixels = np.concatenate(sampled)
    scales = [fine / coarse for fine, coarse in zip(image.shape[-2:], image.shape_of(number)[-2:], strict=True)]
    top, left = (part.start * scale for part, scale in zip(box[-2:], scales, strict=True))
    bottom, right = (
        (part.start + n * step) * scale for part, n, scale in zip(box[-2:], pixels.shape, scales, strict=True)
    )
    return Picture(pixels, (left, right, bottom, top), number, step, *beside)


def _bands(image: Image, number: int, box: Box, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Read a box in bands of whole chunks, of which each starts at a row that is drawn."""
    *before, rows, columns = box
    unit = image.levels[number].read_unit[-2]
    # Less than a chunk would decode it for every band.
    height = max(1, unit, BAND_VOXELS // (columns.stop - columns.start))
    start = rows.start
    while start < rows.stop:
        end = start + height
        # A band that ends with a chunk spares decoding the chunk twice.
        end = max(end - end % unit, start + 1)
        stop = min(end - (end - rows.start) % -step, rows.stop)
        pixels = image.read(number, (*before, slice(start, stop), columns))
        yield start, pixels.reshape(stop - start, -1)
        start = stop
