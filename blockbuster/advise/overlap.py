"""How much overlap fn needs: tiled with several halos against untiled, on a part of the image."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.advise.answer import OverlapAdvice, OverlapRow
from blockbuster.advise.crop import Crop, choose_crop
from blockbuster.advise.scoring import labels_in, score_labels
from blockbuster.errors import unsaid
from blockbuster.process import tile_process
from blockbuster.run.finish import progress_bar
from blockbuster.run.options import resolve_count, resolve_flag, resolve_fraction
from blockbuster.run.plan import RunPlan, plan_run
from blockbuster.stage.sample import hold_small

__all__ = ["OverlapAdvice", "OverlapRow", "suggest_overlap"]


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
    min_agreement: float = 0.3,
    connectivity: int | None = None,
    progress: bool = False,
) -> OverlapAdvice:
    """Find the smallest halo with which the tiled result is that of fn without tiles, on a part of the image.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    fn : callable
        As in `tile_process`. Several tiles are segmented at once, as there; with a GPU, call this within
        ``dask.config.set(scheduler="synchronous")``.
    tile_shape : None, tuple of int, ``"auto"`` or callable
        As in `tile_process`; of irregular chunks the longest counts.
    candidates : sequence of int
        Halos to try, in voxels.
    merge : {"touch", "agree"}
        How labels are joined.
    target : float
        Least F1, 0 to 1, of the objects that match above an intersection over union of 0.9: of all objects, and
        of those that have a voxel beside a seam.
    channel, level, axes, min_agreement, connectivity
        As in `tile_process`.
    progress : bool
        Show a progress bar that counts candidates.

    Returns
    -------
    OverlapAdvice
        Print it, or let a notebook show it. ``overlap`` is None where no candidate reached the target, or the
        part has no object at a seam.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `tile_process` for the same arguments, and for candidates that are no numbers of voxels.
    TileError
        If fn fails.

    Notes
    -----
    Objects at seams are scored by themselves, since few objects lie there: with a watershed on a mosaic of real
    nuclei in tiles of 300 x 300 and no halo, one object in ten at the seams was wrong, and F1 of all was 0.989.

    The part has at least two tiles along every axis of space, and more, up to four or what the largest candidate
    asks for, as long as it stays under 8 million voxels. Where two tiles along each axis have more than 67
    million voxels, shorter ones are tried. Of up to 32 places the one with the most contrast is taken. A
    candidate with which every tile would see all of the part is left out, since it would always seem right.

    fn is run on the part once as a whole and once per candidate in tiles, from the smallest on, until one
    reaches the target. The part lies in memory with about 40 bytes per voxel, and so does what fn needs for all
    of it. Nothing is written but temporary files.

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
    if merge not in ("touch", "agree"):
        raise ValueError(f"merge is {merge!r}; an overlap can be suggested for 'touch' and 'agree'.")
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
    """A part of the image, to be segmented again and again."""

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
        # What a halo that is too small does is what is measured here.
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
