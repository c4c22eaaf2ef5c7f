"""What was measured for each overlap, and how it shows itself."""

from __future__ import annotations

import html
from dataclasses import dataclass

from blockbuster.grid import Box, Index

__all__ = ["OverlapAdvice", "OverlapRow"]

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
    """What one overlap came to.

    Parameters
    ----------
    overlap : int
        Halo in voxels.
    f1, f1_strict : float
        F1 of the tiled objects against the untiled ones, that match above an intersection over union of 0.5
        and of 0.9.
    f1_seams : float
        As `f1_strict`, of those objects alone that have a voxel beside a seam.
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
        """What the target applies to: the lower one of `f1_strict` and `f1_seams`."""
        return min(self.f1_strict, self.f1_seams)

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows."""
        scores = (f"{value:.4f}" for value in (self.f1, self.f1_strict, self.f1_seams))
        counts = (self.n_objects, self.n_split, self.n_merged)
        return (str(self.overlap), *scores, *map(str, counts), f"{self.seconds:.2f}")


@dataclass(frozen=True)
class OverlapAdvice:
    """The smallest overlap with which tiles change nothing, and what was measured.

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
