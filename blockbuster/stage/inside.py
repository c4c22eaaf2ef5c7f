"""Which tiles a mask meets: those that fn is called for."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.grid import Box, BrickGrid, Index, TileGrid
from blockbuster.source import Source, open_source
from blockbuster.source.geometry import MICROMETRES, geometry_of_level
from blockbuster.stage.sample import SAMPLE_PIECES, SAMPLE_VOXELS, choose_pieces, spread_evenly

BLOCK_VOXELS = 2**22
# Voxels that share less than this with a tile do not meet it: scales are rounded.
TOLERANCE = 1e-6
# Per axis step, shift, and how many micrometres its unit is, where that is known.
Placement = tuple[list[float], list[float], list[float | None]]
ACCEPTED = "an array or a path of booleans, or of labels of which 0 is outside"


@dataclass(frozen=True)
class Spans:
    """Along an axis, which voxels of a mask each tile meets.

    Parameters
    ----------
    first, stop : (n_tiles,) ndarray of int64
        The first voxel, and the one after the last; none where they are equal.
    """

    first: np.ndarray
    stop: np.ndarray


def find_tiles_inside(mask: Any, image: Any, level: int, source: Source, grid: TileGrid) -> np.ndarray:
    """Find the tiles whose core meets a mask.

    Parameters
    ----------
    mask : array or path
        Of booleans or labels, at any resolution.
    image : object
        The image as the user gave it, of which metadata say where it lies.
    level : int
        Its level.
    source : Source
        What fn sees of it.
    grid : TileGrid
        Its tiles.

    Returns
    -------
    ndarray of bool, shape of the tile grid

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If there is no such mask, or it does not fit the image.

    Notes
    -----
    Reads the mask once, some chunks at a time.
    """
    opened = _open(mask)
    mask_axes, image_axes = _matched_axes(opened, source)
    placements = _placements(mask, image, level, len(opened.shape), len(source.shape))
    if placements is None:
        _check_shapes(opened, source, mask_axes, image_axes)
    spans = []
    for axis, n in enumerate(opened.shape):
        if axis not in mask_axes:
            spans.append(Spans(np.zeros(1, np.int64), np.ones(1, np.int64)))
            continue
        own = image_axes[mask_axes.index(axis)]
        spans.append(_choose_spans(grid.edges[own], n, placements, axis, own))
    found = _any_in_spans(opened, spans)
    # Axes that the mask lacks have all of it at every position.
    order = sorted(range(len(mask_axes)), key=lambda i: image_axes[i])
    found = found.transpose(
        [*(mask_axes[i] for i in order), *(a for a in range(found.ndim) if a not in mask_axes)]
    )
    found = found.reshape([len(spans[mask_axes[i]].first) for i in order])
    shape = [n if axis in image_axes else 1 for axis, n in enumerate(grid.grid_shape)]
    return np.ascontiguousarray(np.broadcast_to(found.reshape(shape), grid.grid_shape))


def digest_of(inside: np.ndarray) -> str:
    """Return what tells a choice of tiles from another."""
    return hashlib.sha256(np.packbits(inside).tobytes()).hexdigest()[:32]


def choose_pieces_inside(source: Source, grid: TileGrid, inside: np.ndarray | None) -> list[Box]:
    """Choose a sample of an image, as `choose_pieces` does, of nothing but tiles that fn is called
    for.
    """
    boxes = choose_pieces(source)
    if inside is None:
        return boxes
    kept = [box for box in boxes if inside[_tiles_around(grid, box)].all()]
    if kept:
        return kept
    numbers = np.flatnonzero(inside)
    found: list[Box] = []
    room = SAMPLE_VOXELS
    for place in spread_evenly(len(numbers), SAMPLE_PIECES):
        core = grid.core(grid.index(int(numbers[place])))
        voxels = math.prod(part.stop - part.start for part in core)
        if not found or voxels <= room:
            found.append(core)
            room -= voxels
    return found


def _tiles_around(grid: TileGrid, box: Box) -> Box:
    """Return the tiles whose cores a box lies in, as slices into the tile grid."""
    return tuple(
        [
            slice(
                int(np.searchsorted(edges, part.start, side="right")) - 1, int(np.searchsorted(edges, part.stop))
            )
            for edges, part in zip(grid.edges, box, strict=True)
        ]
    )


def core_inside(bricks: BrickGrid, index: Index, inside: np.ndarray | None) -> Box | None:
    """Return the box around the cores of those tiles of a brick that fn is called for; None where
    there is none.
    """
    if inside is None:
        return bricks.core(index)
    tiles = bricks.tiles(index)
    places = np.nonzero(inside[tiles])
    if not len(places[0]):
        return None
    ends = [
        (part.start + int(at.min()), part.start + int(at.max()) + 1)
        for part, at in zip(tiles, places, strict=True)
    ]
    return tuple([slice(cuts[a], cuts[b]) for cuts, (a, b) in zip(bricks.grid.cuts, ends, strict=True)])


def fills_its_box(bricks: BrickGrid, index: Index, inside: np.ndarray | None) -> bool:
    """Return whether fn is called for every tile in the box that `core_inside` gives."""
    if inside is None:
        return True
    part = inside[bricks.tiles(index)]
    places = np.nonzero(part)
    if not len(places[0]):
        return False
    return math.prod(int(at.max() - at.min()) + 1 for at in places) == len(places[0])


def _open(mask: Any) -> Source:
    try:
        opened = open_source(mask)
    except (TypeError, ValueError, FileNotFoundError) as error:
        raise type(error)(f"mask: {error}") from error
    if opened.dtype.kind not in "biu":
        raise TypeError(f"mask ({opened.name}) holds {opened.dtype}; it is {ACCEPTED}.")
    return opened


def _matched_axes(mask: Source, source: Source) -> tuple[list[int], list[int]]:
    """Return which axes of a mask and of an image belong together: by their letters, else the last
    ones, but for channels.
    """
    if mask.axes and source.axes:
        own = [axis for axis, letter in enumerate(mask.axes) if letter in source.axes]
        others = [source.axes.index(mask.axes[axis]) for axis in own]
    else:
        candidates = [axis for axis in range(len(source.shape)) if not source.axes or source.axes[axis] != "c"]
        if len(mask.shape) > len(candidates):
            candidates = list(range(len(source.shape)))
        n = min(len(mask.shape), len(candidates))
        own, others = list(range(len(mask.shape) - n, len(mask.shape))), candidates[len(candidates) - n :]
    left = [axis for axis, length in enumerate(mask.shape) if axis not in own and length > 1]
    if left or not own:
        raise ValueError(
            f"mask ({mask.name}) has shape {mask.shape}, the image {source.shape}: axis {left[0] if left else 0} "
            "of the mask is none of the image. A mask has the image's axes, or some of them."
        )
    # One voxel stands for the whole axis.
    kept = [(a, b) for a, b in zip(own, others, strict=True) if mask.shape[a] > 1 or source.shape[b] == 1]
    return [a for a, _ in kept], [b for _, b in kept]


def _check_shapes(mask: Source, source: Source, mask_axes: Sequence[int], image_axes: Sequence[int]) -> None:
    """Refuse a mask that is no scaled image, in a plane."""
    low, high = 0.0, math.inf
    for a, b in list(zip(mask_axes, image_axes, strict=True))[-2:]:
        # Of a level that was rounded up or down.
        low = max(low, source.shape[b] / (mask.shape[a] + 1))
        high = min(high, source.shape[b] / (mask.shape[a] - 1) if mask.shape[a] > 1 else math.inf)
    if low > high:
        raise ValueError(
            f"mask ({mask.name}) has shape {mask.shape}, the image {source.shape}, which is not the same at "
            "another resolution. A mask covers the image, or the metadata of both say where they lie, as "
            "those of OME-Zarr images do."
        )


def _placements(
    mask: Any, image: Any, level: int, mask_ndim: int, image_ndim: int
) -> tuple[Placement, Placement] | None:
    """Return where a mask and an image lie; None where one of the two has no scale."""
    found: list[Placement] = []
    for geometry, ndim in (
        (geometry_of_level(mask, 0), mask_ndim),
        (geometry_of_level(image, level), image_ndim),
    ):
        placed = None if geometry is None else geometry.for_labels(ndim)
        if placed is None or len(placed.axes) != ndim or placed.levels[0].scale is None:
            return None
        found.append((*placed.placement(), [MICROMETRES.get(str(axis.get("unit"))) for axis in placed.axes]))
    return found[0], found[1]


def _choose_spans(
    edges: np.ndarray, n: int, placements: tuple[Placement, Placement] | None, axis: int, own: int
) -> Spans:
    """Return which of `n` voxels along an axis of a mask tiles meet, given their edges along the
    same axis of the image.
    """
    if placements is None or min(placements[0][0][axis], placements[1][0][own]) <= 0:
        return _spans_by_ratio(edges, int(edges[-1]), n)
    (steps, shifts, units), (own_steps, own_shifts, own_units) = placements
    ratio = _unit_ratio(units[axis], own_units[own])
    placed = (steps[axis] * ratio, shifts[axis] * ratio), (own_steps[own], own_shifts[own])
    return _spans_by_scale(edges, n, *placed)


def _unit_ratio(unit: float | None, other: float | None) -> float:
    """Return how many of another unit one is; where one of them is not known, it is the other."""
    return unit / other if unit and other else 1.0


def _spans_by_ratio(edges: np.ndarray, length: int, n: int) -> Spans:
    """Return which of `n` voxels, that lie side by side along the whole axis, tiles meet."""
    return Spans(edges[:-1] * n // max(1, length), -(-edges[1:] * n // max(1, length)))


def _spans_by_scale(edges: np.ndarray, n: int, mask: tuple[float, float], image: tuple[float, float]) -> Spans:
    """Return which of `n` voxels tiles meet, given the step and the first centre of both."""
    ends = []
    for positions, inward in ((edges[:-1], TOLERANCE), (edges[1:], -TOLERANCE)):
        # From the edges of voxels of the image to the world, and to the edges of those of the mask.
        world = (positions + inward - 0.5) * image[0] + image[1]
        ends.append((world - mask[1]) / mask[0] + 0.5)
    first = np.clip(np.floor(ends[0]), 0, n).astype(np.int64)
    stop = np.clip(np.ceil(ends[1]), 0, n).astype(np.int64)
    return Spans(first, np.maximum(first, stop))


def _any_in_spans(mask: Source, spans: Sequence[Spans]) -> np.ndarray:
    """Return for each combination of spans whether the mask has anything there."""
    found = np.zeros([len(span.first) for span in spans], bool)
    for box in _blocks(mask):
        pixels = mask.read(box) != 0
        if not pixels.any():
            continue
        tiles = []
        for axis, (span, part) in enumerate(zip(spans, box, strict=True)):
            first, stop = (np.clip(ends, part.start, part.stop) - part.start for ends in (span.first, span.stop))
            within = np.flatnonzero(stop > first)
            tiles.append(within)
            if not len(within):
                break
            # How many lie before each voxel: of a span that is empty as many as before its end.
            before = np.cumsum(pixels, axis, dtype=np.int64)
            zero = np.zeros([1 if a == axis else n for a, n in enumerate(before.shape)], np.int64)
            before = np.concatenate([zero, before], axis)
            pixels = before.take(stop[within], axis) > before.take(first[within], axis)
        else:
            found[np.ix_(*tiles)] |= pixels
    return found


def _blocks(source: Source) -> Iterator[Box]:
    """Cut an image into boxes of whole chunks, few enough voxels each."""
    lengths = list(source.block_shape(BLOCK_VOXELS))
    ranges = [range(0, n, step) for n, step in zip(source.shape, lengths, strict=True)]
    for starts in itertools.product(*ranges):
        ends = zip(starts, lengths, source.shape, strict=True)
        yield tuple([slice(start, min(start + step, n)) for start, step, n in ends])
