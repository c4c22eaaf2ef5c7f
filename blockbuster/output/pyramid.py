"""The coarser levels of a label image, written brick by brick."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blockbuster.grid import Box, TileGrid, relative_box
from blockbuster.output.downsample import Coarsening
from blockbuster.output.layout import OutputLayout, group_shards
from blockbuster.output.targets import Target, ZarrTarget


@dataclass(frozen=True)
class PyramidTarget(Target):
    """The finest level, and those after it that are made of labels which are in memory anyway.

    Parameters
    ----------
    targets : tuple of ZarrTarget
        The levels, the finest first; boxes that are written are made of whole shards of all.
    steps : tuple of Coarsening
        How each level but the first is made of the one before.
    """

    targets: tuple[ZarrTarget, ...]
    steps: tuple[Coarsening, ...]

    @classmethod
    def of_levels(cls, folder: str, layout: OutputLayout, unfinished: str) -> PyramidTarget:
        """Describe the levels of the labels in `folder` that can be written together."""
        return cls(_level_targets(folder, layout, unfinished)[: 1 + _n_along(layout)], layout.steps)

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box of the finest level, to all."""
        (target, box), *coarser = self._parts(box)
        target.write(box, labels)
        for step, (target, coarse) in zip(self.steps, coarser, strict=False):
            labels = step.coarsen(labels[relative_box(step.fine_box(coarse), box)], coarse)
            if labels.any():
                target.write(coarse, labels)
            box = coarse

    def checksum(self, box: Box) -> str:
        """Checksums of what is stored of a box, at all levels."""
        return " ".join(target.checksum(part) for target, part in self._parts(box))

    def clear(self, box: Box) -> None:
        """Remove what is stored of a box."""
        for target, part in self._parts(box):
            target.clear(part)

    def _parts(self, box: Box) -> Iterator[tuple[ZarrTarget, Box]]:
        """Yield target and box of each level, up to the first one that has no voxel in it."""
        yield self.targets[0], box
        for step, target in zip(self.steps, self.targets[1:], strict=False):
            box = step.coarse_box(box)
            if any(part.start >= part.stop for part in box):
                return
            yield target, box


def _level_targets(folder: str, layout: OutputLayout, unfinished: str) -> tuple[ZarrTarget, ...]:
    return tuple(ZarrTarget(str(Path(folder, array.path)), unfinished) for array in layout.arrays)


def _n_along(layout: OutputLayout) -> int:
    """Count the levels to write with the finest: their shards lie in those of the one before."""
    n_along = 0
    for (fine, coarse), step in zip(itertools.pairwise(layout.arrays), layout.steps, strict=False):
        lengths = zip(fine.shape, fine.shard, coarse.shard, step.blocks, strict=True)
        if not step.is_even or not all(
            n <= shard or (shard % block == 0 and shard // block == part) for n, shard, part, block in lengths
        ):
            break
        n_along += 1
    return n_along


@dataclass(frozen=True)
class LevelJob:
    """What the tasks share that write a level from the one before.

    Parameters
    ----------
    finer, target : ZarrTarget
        The level before, which is complete, and the level.
    boxes : TileGrid
        One box per task, made of whole shards of the level.
    step : Coarsening
        From the one to the other.
    """

    finer: ZarrTarget
    target: ZarrTarget
    boxes: TileGrid
    step: Coarsening


def level_jobs(folder: str, layout: OutputLayout, unfinished: str) -> dict[int, LevelJob]:
    """Describe how those levels of labels in `folder` are written that come after the finest."""
    jobs, targets = {}, _level_targets(folder, layout, unfinished)
    for number in range(1 + _n_along(layout), len(targets)):
        shape, shard = layout.arrays[number].shape, layout.arrays[number].shard
        boxes = TileGrid.regular(shape, group_shards(shape, shard), (0,) * len(shape))
        jobs[number] = LevelJob(targets[number - 1], targets[number], boxes, layout.steps[number - 1])
    return jobs


def fill_level_box(job: LevelJob, number: int) -> tuple[int, str]:
    """Write a box of a level.

    Returns
    -------
    number : int
        The box.
    checksum : str
        Of what was stored; empty where there was nothing to store.
    """
    box = job.boxes.core(job.boxes.index(number))
    labels = job.finer.read(job.step.fine_box(box))
    if not labels.any():
        return number, ""
    voted = job.step.coarsen(labels, box)
    if not voted.any():
        return number, ""
    job.target.write(box, voted)
    return number, job.target.checksum(box)
