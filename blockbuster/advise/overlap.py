"""How much overlap fn needs: several halos compared with no tiles, on a part of the image."""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.advise.crop import Crop, choose_crop
from blockbuster.advise.scoring import labels_in, score_labels
from blockbuster.errors import unsaid
from blockbuster.grid import Box, Index
from blockbuster.merge.rules import RULES
from blockbuster.process import tile_process
from blockbuster.run.finish import progress_bar
from blockbuster.run.options import resolve_count, resolve_flag, resolve_fraction
from blockbuster.run.plan import RunPlan, plan_run
from blockbuster.stage.sample import hold_small

TITLES = ("overlap", "F1@0.5", "F1@0.9", "at seams", "objects", "split", "merged", "seconds")
NO_SEAMS = "The image has no seams with this tile_shape at which a halo could help: overlap=0."
NOTHING_THERE = (
    "No object lies at a seam there, so that nothing could be measured. Give a part of the image that has "
    "objects, or smaller tiles."
)
REACHED = "overlap={overlap} is the smallest with F1@0.9 of {target:g} or more, at seams too."
NOT_REACHED = (
    "No overlap reached F1@0.9 of {target:g}, at seams too; the best is {best}. Larger candidates may; so may "
    "merge='agree', where cells touch each other. A function that normalises each tile by itself never agrees: "
    "give it the range of the whole image, see intensity_percentiles."
)
FEW_OBJECTS = 100
FEW = "Only {n_at_seams} objects lie at seams there, so that rarer faults than one in {n_at_seams} do not show."
LEFT_OUT = "Left out: {halos}, with which every tile would see all of the part. Larger tiles make it larger."


@dataclass(frozen=True)
class OverlapRow:
    """Result of one overlap.

    Parameters
    ----------
    overlap : int
        Halo in voxels.
    f1, f1_strict : float
        F1 of the tiled objects against the untiled ones, that match above an intersection over
        union of 0.5 and of 0.9.
    f1_seams : float
        As `f1_strict`, only of those objects that have a voxel beside a seam.
    n_objects, n_split, n_merged : int
        Tiled objects; untiled ones that were cut; and tiled ones that hold several.
    seconds : float
        Time of the tiled run.
    """

    overlap: int
    f1: float
    f1_strict: float
    f1_seams: float
    n_objects: int
    n_split: int
    n_merged: int
    seconds: float

    @property
    def score(self) -> float:
        """The lower one of `f1_strict` and `f1_seams`, to which the target applies."""
        return min(self.f1_strict, self.f1_seams)

    @property
    def cells(self) -> tuple[str, ...]:
        """Cells of a row in a table."""
        scores = (f"{value:.4f}" for value in (self.f1, self.f1_strict, self.f1_seams))
        counts = (self.n_objects, self.n_split, self.n_merged)
        return (str(self.overlap), *scores, *map(str, counts), f"{self.seconds:.2f}")


@dataclass(frozen=True)
class OverlapAdvice:
    """The smallest overlap with which tiles change nothing, and the measurements.

    Parameters
    ----------
    overlap : int or None
        The answer; ``None`` where no candidate reached the target, or nothing could be measured.
    rows : tuple of OverlapRow
        One for each overlap that was tried.
    crop : tuple of slice
        The part of the image that was segmented.
    tile_shape : tuple of int
        Its tiles, in voxels.
    n_expected, n_at_seams : int
        Objects there without tiles, and how many of them have a voxel beside a seam.
    target : float
        Least F1 at an intersection over union of 0.9.
    left_out : tuple of int
        Candidates that the part is too small for.
    """

    overlap: int | None
    rows: tuple[OverlapRow, ...]
    crop: Box
    tile_shape: Index
    n_expected: int
    n_at_seams: int
    target: float
    left_out: tuple[int, ...] = ()

    @property
    def _conclusion(self) -> str:
        if self.overlap is not None and not self.rows:
            return NO_SEAMS
        if self.overlap is not None:
            few = [FEW.format(n_at_seams=self.n_at_seams)] if self.n_at_seams < FEW_OBJECTS else []
            return " ".join([REACHED.format(overlap=self.overlap, target=self.target), *few])
        if not self.n_at_seams:
            return NOTHING_THERE
        lines = []
        if self.rows:
            best = max(self.rows, key=lambda row: row.score).overlap
            lines.append(NOT_REACHED.format(target=self.target, best=best))
        if self.left_out:
            lines.append(LEFT_OUT.format(halos=", ".join(map(str, self.left_out))))
        return " ".join(lines)

    @property
    def _title(self) -> str:
        place = ", ".join(f"{part.start}:{part.stop}" for part in self.crop)
        tile = " x ".join(map(str, self.tile_shape))
        return f"{self.n_expected} objects in [{place}], {self.n_at_seams} at the seams of tiles of {tile}"

    def __str__(self) -> str:
        if not self.rows:
            return f"{self._title}\n{self._conclusion}"
        table = [TITLES, *(row.cells for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in table]
        for i, row in enumerate(self.rows, 1):
            if row.overlap == self.overlap:
                lines[i] += " <-"
        return "\n".join([self._title, *lines, self._conclusion])

    def _repr_html_(self) -> str:
        rows = ["".join(f"<th>{title}</th>" for title in TITLES)] if self.rows else []
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
    channel: int | None = 0,
    level: int = 0,
    axes: str | None = None,
    min_agreement: float = 0.4,
    connectivity: int | None = None,
    progress: bool = False,
) -> OverlapAdvice:
    """Find the smallest halo with which tiles change nothing, on a part of the image.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    fn : callable
        As in `tile_process`. Several tiles are segmented at once, as there; with a GPU, call this
        within ``dask.config.set(scheduler="synchronous")``.
    tile_shape : None, tuple of int, ``"auto"`` or callable
        As in `tile_process`; of irregular chunks the longest counts.
    candidates : sequence of int
        Halos to try, in voxels.
    merge : {"touch", "agree"}
        How labels are joined.
    target : float
        Least F1, 0 to 1, of the objects that match above an intersection over union of 0.9: of all
        objects, and of those that have a voxel beside a seam.
    channel, level, axes, min_agreement, connectivity
        As in `tile_process`.
    progress : bool
        Show a progress bar that counts candidates.

    Returns
    -------
    OverlapAdvice
        Print it, or let a notebook show it. ``overlap`` is None where no candidate reached the
        target, or the part has no object at a seam.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `tile_process` for the same arguments, and for candidates that are no numbers of voxels.
    TileError
        If fn fails.

    Notes
    -----
    Objects at seams are scored by themselves, since few objects lie there: with a watershed on a
    mosaic of real nuclei in tiles of 300 x 300 and no halo, one object in ten at the seams was
    wrong, and F1 of all was 0.989.

    The part has at least two tiles along every axis of space, and more, up to four or what the
    largest candidate asks for, as long as it stays under 8 million voxels. Where two tiles along
    each axis have more than 67 million voxels, shorter ones are tried. Of up to 32 places the one
    with the most contrast is taken. A candidate with which every tile would see all of the part is
    left out, since it would always seem right.

    fn is run on the part once as a whole and once per candidate in tiles, from the smallest on,
    until one reaches the target. The part lies in memory with about 40 bytes per voxel, and so does
    what fn needs for all of it. Nothing is written but temporary files.

    Examples
    --------
    >>> from scipy import ndimage
    >>> image = np.zeros((64, 64))
    >>> image[8:56, 8:56] = 1
    >>> advice = suggest_overlap(image, lambda tile: ndimage.label(tile > 0)[0], (16, 16))
    >>> advice.overlap
    0
    """
    if isinstance(candidates, str) or np.ndim(candidates) != 1 or not len(candidates):
        raise TypeError(f"candidates is {candidates!r}; it is a sequence of numbers of voxels, e.g. (0, 8, 16).")
    halos = sorted({resolve_count(halo, f"candidates[{i}]", 0) for i, halo in enumerate(candidates)})
    least = resolve_fraction(target, "target")
    resolve_flag(progress, "progress")
    joining = [name for name, rule in RULES.items() if rule.joins_any]
    if merge not in joining:
        raise ValueError(
            f"merge is {merge!r}; an overlap can be suggested for {' and '.join(map(repr, joining))}."
        )
    plan = plan_run(
        image,
        fn=fn,
        tile_shape=tile_shape,
        channel=channel,
        level=level,
        axes=axes,
        merge=merge,
        min_agreement=min_agreement,
        connectivity=connectivity,
    )
    plan = dataclasses.replace(plan, source=hold_small(plan.source))
    crop = choose_crop(plan, halos[-1])
    if not crop.seam_axes:
        return OverlapAdvice(0, (), crop.box, crop.tile_shape, 0, 0, least)
    with progress_bar(progress, "overlaps", len(halos), unit="overlap") as advance:
        return _Trial(plan, fn, crop).advise(halos, least, advance)


@dataclass(frozen=True)
class _Trial:
    """A part of the image that is segmented with one overlap after another."""

    plan: RunPlan
    fn: Callable[[np.ndarray], Any]
    crop: Crop

    def advise(self, halos: Sequence[int], target: float, advance: Callable[[int], Any]) -> OverlapAdvice:
        """Try one overlap after another until one is good enough."""
        crop = self.crop
        pixels = self.plan.source.read(crop.box)
        expected = self._segment(pixels, crop.untiled, 0)
        near = crop.beside_seams()
        if near.ndim != expected.ndim:
            # fn has dropped the channels, along which there are no seams.
            near = near.take(0, self.plan.channel_axis)
        n_at_seams = len(labels_in(expected, near))
        rows: list[OverlapRow] = []
        for halo in filter(crop.tells_of, halos if n_at_seams else ()):
            start = time.perf_counter()
            found = self._segment(pixels, crop.tile_shape, halo)
            seconds = time.perf_counter() - start
            score = score_labels(expected, found, near)
            f1s = (score.f1(0.5), score.f1(0.9), score.near[0.9])
            rows.append(OverlapRow(halo, *f1s, score.n_found, score.n_split, score.n_merged, seconds))
            advance(1)
            if rows[-1].score >= target:
                break
        return OverlapAdvice(
            overlap=rows[-1].overlap if rows and rows[-1].score >= target else None,
            rows=tuple(rows),
            crop=crop.box,
            tile_shape=crop.tile_shape,
            n_expected=int(expected.max()),
            n_at_seams=n_at_seams,
            target=target,
            left_out=tuple(halo for halo in halos if not crop.tells_of(halo)),
        )

    def _segment(self, pixels: np.ndarray, tile: Sequence[int], halo: int) -> np.ndarray:
        """Label the part in tiles, with ids from 1 on."""
        options = self.plan.options
        # The effect of a halo that is too small is measured here.
        with unsaid("runaway merging|merge=.agree. without a halo"):
            labels: np.ndarray = tile_process(
                pixels,
                self.fn,
                tile_shape=tuple(min(n, length) for n, length in zip(tile, pixels.shape, strict=True)),
                overlap=halo,
                merge=options.merge,
                axes=self.plan.source.axes,
                channel=options.channel,
                min_agreement=options.min_agreement,
                connectivity=options.connectivity,
                sequential_labels=True,
            )
        return labels
