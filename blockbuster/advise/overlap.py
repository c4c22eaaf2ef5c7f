"""How much overlap fn needs: tiled with several halos against untiled, on a part of the image."""

from __future__ import annotations

import html
import itertools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.advise.scoring import score_labels
from blockbuster.finish import progress_bar
from blockbuster.grid import Box, TileGrid
from blockbuster.options import resolve_count, resolve_fraction
from blockbuster.plan import RunPlan, plan_run
from blockbuster.process import tile_process
from blockbuster.source import Source

__all__ = ["OverlapAdvice", "OverlapRow", "suggest_overlap"]

MOST_CROP_VOXELS = 2**23
MOST_TILES_PER_AXIS = 4
MOST_PLACES = 16
GLANCE_VOXELS = 2**16
TITLES = ("overlap", "F1@0.5", "F1@0.9", "objects", "split", "merged", "seconds")
WITHOUT = (
    "No overlap reached F1@0.9 of {target:g}; the best is {best}. Larger candidates may; so may merge='agree', "
    "where cells touch each other. A function that normalises each tile by itself never agrees: give it the "
    "range of the whole image, see intensity_percentiles."
)


@dataclass(frozen=True)
class OverlapRow:
    """What one overlap came to.

    Parameters
    ----------
    overlap : int
        Halo in voxels.
    f1, f1_strict : float
        F1 of the tiled objects against the untiled ones, that match above an intersection over union of 0.5
        and of 0.9.
    n_objects, n_split, n_merged : int
        Tiled objects; untiled ones that were cut; and tiled ones that hold several.
    seconds : float
        Time of the tiled run.
    """

    overlap: int
    f1: float
    f1_strict: float
    n_objects: int
    n_split: int
    n_merged: int
    seconds: float

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows."""
        scores = (f"{self.f1:.4f}", f"{self.f1_strict:.4f}")
        counts = (self.n_objects, self.n_split, self.n_merged)
        return (str(self.overlap), *scores, *map(str, counts), f"{self.seconds:.2f}")


@dataclass(frozen=True)
class OverlapAdvice:
    """The smallest overlap with which tiles change nothing, and what was measured.

    Parameters
    ----------
    overlap : int or None
        The answer; ``None`` where no candidate reached the target.
    rows : tuple of OverlapRow
        One for each overlap that was tried.
    crop : tuple of slice
        The part of the image that was segmented.
    n_expected : int
        Objects there without tiles.
    target : float
        Least F1 at an intersection over union of 0.9.
    """

    overlap: int | None
    rows: tuple[OverlapRow, ...]
    crop: Box
    n_expected: int
    target: float

    @property
    def _conclusion(self) -> str:
        if self.overlap is None:
            return WITHOUT.format(target=self.target, best=max(self.rows, key=lambda row: row.f1_strict).overlap)
        return f"overlap={self.overlap} is the smallest with F1@0.9 of {self.target:g} or more."

    @property
    def _title(self) -> str:
        place = ", ".join(f"{part.start}:{part.stop}" for part in self.crop)
        return f"{self.n_expected} objects without tiles in [{place}]"

    def __str__(self) -> str:
        table = [TITLES, *(row.cells for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in table]
        marked = [
            f"{line} <-" if i and self.rows[i - 1].overlap == self.overlap else line
            for i, line in enumerate(lines)
        ]
        return "\n".join([self._title, *marked, self._conclusion])

    def _repr_html_(self) -> str:
        rows = ["".join(f"<th>{title}</th>" for title in TITLES)]
        for row in self.rows:
            style = ' style="font-weight:bold"' if row.overlap == self.overlap else ""
            rows.append("".join(f"<td{style}>{cell}</td>" for cell in row.cells))
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<p>{html.escape(self._title)}</p><table>{table}</table><p>{html.escape(self._conclusion)}</p>"


def suggest_overlap(
    image: Any,
    fn: Callable[[np.ndarray], Any],
    tile_shape: Any,
    *,
    candidates: Sequence[int] = (0, 4, 8, 16, 32, 64),
    merge: str = "touch",
    target: float = 0.99,
    channel: int = 0,
    level: int = 0,
    axes: str | None = None,
    progress: bool = False,
) -> OverlapAdvice:
    """Find the smallest halo with which the tiled result is that of fn without tiles, on a part of the image.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    fn : callable
        As in `tile_process`. It must be able to segment several tiles at once.
    tile_shape : None, tuple of int, ``"auto"`` or callable
        As in `tile_process`.
    candidates : sequence of int
        Halos to try, in voxels.
    merge : {"touch", "agree"}
        How labels are joined.
    target : float
        Least F1, 0 to 1, of the objects that match above an intersection over union of 0.9.
    channel, level, axes
        As in `tile_process`.
    progress : bool
        Show a progress bar that counts candidates.

    Returns
    -------
    OverlapAdvice
        Print it, or let a notebook show it.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `tile_process` for the same arguments, and for candidates that are no numbers of voxels.
    TileError
        If fn fails.

    Notes
    -----
    The part is up to four tiles long along every axis of space and at most 8 million voxels, unless two tiles
    have more; of up to 16 places the one with the most contrast is taken, and seams lie in it where they do in
    the image. fn is run on the part once as a whole and once per candidate in tiles, from the smallest on, until
    one reaches the target. The part lies in memory, and so does what fn needs for all of it.

    Examples
    --------
    >>> from scipy import ndimage
    >>> image = np.zeros((64, 64))
    >>> image[8:56, 8:56] = 1
    >>> advice = suggest_overlap(image, lambda tile: ndimage.label(tile > 0)[0], (16, 16))
    >>> advice.overlap
    0
    """
    halos = _check_candidates(candidates)
    resolve_fraction(target, "target")
    if merge not in ("touch", "agree"):
        raise ValueError(f"merge is {merge!r}; an overlap can be suggested for 'touch' and 'agree'.")
    plan = plan_run(image, fn=fn, tile_shape=tile_shape, channel=channel, level=level, axes=axes, merge=merge)
    crop = _choose_crop(plan)
    pixels = plan.source.read(crop)
    expected = _segment(pixels, fn, pixels.shape, 0, "touch", plan)
    rows: list[OverlapRow] = []
    with progress_bar(progress, "overlaps", len(halos), unit="overlap") as advance:
        for halo in halos:
            start = time.perf_counter()
            found = _segment(pixels, fn, plan.grid.tile_shape, halo, merge, plan)
            seconds = time.perf_counter() - start
            score = score_labels(expected, found)
            scores = (score.f1(0.5), score.f1(0.9), score.n_found, score.n_split, score.n_merged)
            rows.append(OverlapRow(halo, *scores, seconds))
            advance(1)
            if rows[-1].f1_strict >= target:
                break
    reached = rows[-1].overlap if rows[-1].f1_strict >= target else None
    return OverlapAdvice(reached, tuple(rows), crop, score.n_expected, target)


def _check_candidates(candidates: Any) -> list[int]:
    if isinstance(candidates, str) or np.ndim(candidates) != 1 or not len(candidates):
        raise TypeError(f"candidates is {candidates!r}; it is a sequence of numbers of voxels, e.g. (0, 8, 16).")
    return sorted({resolve_count(halo, f"candidates[{i}]", 0) for i, halo in enumerate(candidates)})


def _segment(
    pixels: np.ndarray, fn: Callable[[np.ndarray], Any], tile: Sequence[int], halo: int, merge: str, plan: RunPlan
) -> np.ndarray:
    """Label the part in tiles, with ids from 1 on."""
    with warnings.catch_warnings():
        # What a halo that is too small does is what is measured here.
        warnings.filterwarnings("ignore", "runaway merging|merge=.agree. without a halo")
        labels: np.ndarray = tile_process(
            pixels,
            fn,
            tile_shape=tuple(min(n, length) for n, length in zip(tile, pixels.shape, strict=True)),
            overlap=halo,
            merge=merge,
            axes=plan.source.axes,
            sequential_labels=True,
        )
    return labels


def _choose_crop(plan: RunPlan) -> Box:
    """Choose a part of the image that starts where a tile does: the one with the most contrast."""
    grid = plan.grid
    counts = _crop_tiles(grid, plan.merge_axes)
    n_places = [n - count + 1 for n, count in zip(grid.grid_shape, counts, strict=True)]
    total = math.prod(n_places)
    places = sorted({int((k + 0.5) * 0.6180339887 % 1 * total) for k in range(min(total, MOST_PLACES))})
    boxes = []
    for place in places:
        first = np.unravel_index(place, n_places)
        ends = zip(grid.edges, first, counts, strict=True)
        boxes.append(tuple(slice(int(edges[i]), int(edges[i + n])) for edges, i, n in ends))
    return max(boxes, key=lambda box: _contrast(plan.source, box)) if len(boxes) > 1 else boxes[0]


def _crop_tiles(grid: TileGrid, axes: Sequence[int]) -> list[int]:
    """How many tiles the part has along each axis: two, and up to four as long as it stays small."""
    counts = [min(n, 2) if axis in axes else 1 for axis, n in enumerate(grid.grid_shape)]
    for _, axis in itertools.product(range(2, MOST_TILES_PER_AXIS), axes):
        wider = [count + (i == axis) for i, count in enumerate(counts)]
        lengths = (
            min(n * tile, length) for n, tile, length in zip(wider, grid.tile_shape, grid.shape, strict=True)
        )
        if wider[axis] <= grid.grid_shape[axis] and math.prod(lengths) <= MOST_CROP_VOXELS:
            counts = wider
    return counts


def _contrast(source: Source, box: Box) -> float:
    """Standard deviation of the middle of a box, as far as a glance goes."""
    room = GLANCE_VOXELS
    glance: list[slice] = []
    for part in reversed(box):
        side = max(1, min(part.stop - part.start, room, math.isqrt(GLANCE_VOXELS)))
        room //= side
        start = (part.start + part.stop - side) // 2
        glance.insert(0, slice(start, start + side))
    pixels = np.asarray(source.read(tuple(glance)), np.float64)
    return float(np.nan_to_num(pixels.std(), nan=-1.0))
