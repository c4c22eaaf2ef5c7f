"""A bounded sample of an image, the same at every call, that decodes no chunk twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from blockbuster.errors import TileError
from blockbuster.grid import Box, TileGrid, common_box, relative_box
from blockbuster.source import NumpySource, Source
from blockbuster.stage.saved import read_tile

SAMPLE_VOXELS = 2**24
SAMPLE_PIECES = 64


def hold_small(source: Source) -> Source:
    """Read an image that is no larger than a sample, so that later reads decode nothing again."""
    if source.held_bytes or math.prod(source.shape) > SAMPLE_VOXELS:
        return source
    try:
        return NumpySource(source.read(tuple(slice(0, n) for n in source.shape)), axes=source.axes)
    except Exception:
        # Reading it tile by tile will name the tile.
        return source


def sample_pixels(source: Source) -> np.ndarray:
    """Read pieces spread evenly over an image.

    Parameters
    ----------
    source : Source
        The image.

    Returns
    -------
    (n,) ndarray
        Finite pixels, about 16 million at most; the whole image where it is small. The same at
        every call.

    Notes
    -----
    A piece lies in one chunk where chunks are as large, and pieces in one chunk are read together:
    what is decoded is at most 64 chunks, each once. With smaller chunks it is what the pieces
    touch. Besides the sample, one chunk at a time is in memory: as it is stored, decoded, and the
    least box of its pieces.
    """
    return finite_pixels(source.read_together(choose_pieces(source)))


def choose_pieces(source: Source) -> list[Box]:
    """Choose boxes spread evenly over an image, or all of a small one; the same at every call."""
    if math.prod(source.shape) <= SAMPLE_VOXELS:
        return [tuple(slice(0, n) for n in source.shape)]
    room = SAMPLE_VOXELS // SAMPLE_PIECES
    side = math.isqrt(room)
    # The last axes are long.
    box = [1] * len(source.shape)
    for axis in reversed(range(len(box))):
        box[axis] = max(1, min(source.shape[axis], side, room))
        room //= box[axis]
    n_places = [-(-n // length) for n, length in zip(source.shape, box, strict=True)]
    pieces = []
    for place in spread_evenly(math.prod(n_places), SAMPLE_PIECES):
        piece = []
        for axis, i in enumerate(np.unravel_index(place, n_places)):
            start = int(i) * box[axis]
            chunk = source.chunk_around(axis, start)
            # It stays in the chunk that it starts in, if it fits.
            if chunk.stop - chunk.start >= box[axis]:
                start = min(start, chunk.stop - box[axis])
            piece.append(slice(start, min(start + box[axis], source.shape[axis])))
        pieces.append(tuple(piece))
    return pieces


def spread_evenly(n_places: int, most: int) -> list[int]:
    """Choose so many places at most, the same at every call.

    Examples
    --------
    >>> spread_evenly(100, 4)
    [30, 92, 54, 16]
    """
    # A step near the golden section does not fall into the grid's rhythm.
    return [int((k + 0.5) * 0.6180339887 % 1 * n_places) for k in range(min(n_places, most))]


def finite_pixels(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Put the pixels of all pieces in a row, without those that are not finite."""
    pixels = pieces[0].ravel() if len(pieces) == 1 else np.concatenate([piece.ravel() for piece in pieces])
    return pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels


def put_pieces(
    pieces: Sequence[np.ndarray], boxes: Sequence[Box], core: Box, parts: Sequence[np.ndarray]
) -> None:
    """Put what `cut_pieces` found in a brick into the pieces of an image that lie in some boxes."""
    for (number, common), pixels in zip(_shared(boxes, core), parts, strict=True):
        pieces[number][relative_box(common, boxes[number])] = pixels


def cut_pieces(boxes: Sequence[Box], core: Box, pixels: np.ndarray, whole: Box) -> list[np.ndarray]:
    """Copy what boxes share with the core of a brick, given its pixels with the halo."""
    return [pixels[relative_box(common, whole)].copy() for _, common in _shared(boxes, core)]


def _shared(boxes: Sequence[Box], core: Box) -> Iterator[tuple[int, Box]]:
    for number, box in enumerate(boxes):
        common = common_box(box, core)
        if all(part.start < part.stop for part in common):
            yield number, common


def read_boxes_by_tiles(
    source: Source, grid: TileGrid, boxes: Sequence[Box], *, skip_errors: bool = False
) -> list[np.ndarray]:
    """Read boxes tile by tile, to name the first tile that cannot be read or to leave it out.

    Parameters
    ----------
    source : Source
        The image, of which these boxes could not be read together.
    grid : TileGrid
        Its tiles.
    boxes : sequence of tuple of slice
        Which voxels.
    skip_errors : bool
        Leave out tiles that cannot be read.

    Raises
    ------
    TileError
        If a tile cannot be read, unless it is left out.
    """
    found = [np.empty(0, source.dtype)]
    for tile in grid.indices():
        if any(_shared(boxes, grid.core(tile))):
            try:
                pixels = read_tile(source.read, grid, tile)
            except TileError:
                if not skip_errors:
                    raise
            else:
                found += cut_pieces(boxes, grid.core(tile), pixels, grid.region(tile))
    return found
