"""The coarser levels of a label image, written brick by brick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from blockbuster.grid import TileGrid
from blockbuster.output.downsample import Coarsening
from blockbuster.output.layout import OutputLayout
from blockbuster.output.targets import ZarrTarget

__all__ = ["LevelJob", "PyramidTarget", "fill_level_box", "goes_along"]

Box = tuple[slice, ...]


@dataclass(frozen=True)
class PyramidTarget:
    """The finest level and the next one, which is made of labels that are in memory anyway.

    Parameters
    ----------
    finest, coarse : ZarrTarget
        The two levels.
    step : Coarsening
        From one to the other; the boxes that are written must be made of whole shards of both.
    """

    finest: ZarrTarget
    coarse: ZarrTarget
    step: Coarsening

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box of the finest level, to both."""
        self.finest.write(box, labels)
        coarse = self.step.coarse_box(box)
        if any(part.start >= part.stop for part in coarse):
            return
        start = [part.start for part in box]
        inner = tuple(
            slice(part.start - first, part.stop - first)
            for part, first in zip(self.step.fine_box(coarse), start, strict=True)
        )
        voted = self.step.coarsen(labels[inner], coarse)
        if voted.any():
            self.coarse.write(coarse, voted)

    def checksum(self, box: Box) -> str:
        """Checksums of what is stored of a box, at both levels."""
        finest = self.finest.checksum(box)
        return finest and f"{finest} {self.coarse.checksum(self.step.coarse_box(box))}"

    def clear(self, box: Box) -> None:
        """Remove what is stored of a box."""
        self.finest.clear(box)
        self.coarse.clear(self.step.coarse_box(box))


def goes_along(layout: OutputLayout) -> bool:
    """Say whether the second level can be written along with the first: its shards lie in those of the first."""
    if not layout.steps or not layout.steps[0].is_even:
        return False
    finest, coarse = layout.arrays[:2]
    lengths = zip(finest.shape, finest.shard, coarse.shard, layout.steps[0].blocks, strict=True)
    return all(n <= shard or (shard % block == 0 and shard // block == part) for n, shard, part, block in lengths)


@dataclass(frozen=True)
class LevelJob:
    """What the tasks share that write a level from the one before.

    Parameters
    ----------
    finer : str
        Folder of the level before, which is complete.
    target : ZarrTarget
        The level.
    boxes : TileGrid
        One box per task, made of whole shards of the level.
    step : Coarsening
        From the one to the other.
    """

    finer: str
    target: ZarrTarget
    boxes: TileGrid
    step: Coarsening

    @classmethod
    def of_level(cls, folder: str, layout: OutputLayout, number: int) -> LevelJob:
        """Describe how a level of the label image in `folder` is written."""
        array = layout.arrays[number]
        boxes = TileGrid.regular(array.shape, array.shard, (0,) * len(array.shape))
        target = ZarrTarget(str(Path(folder, str(number))))
        return cls(str(Path(folder, str(number - 1))), target, boxes, layout.steps[number - 1])

    @cached_property
    def labels(self) -> zarr.Array:
        """The level before."""
        return zarr.open_array(Path(self.finer), mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


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
    labels = np.asarray(job.labels[job.step.fine_box(box)])
    if not labels.any():
        return number, ""
    voted = job.step.coarsen(labels, box)
    if not voted.any():
        return number, ""
    job.target.write(box, voted)
    return number, job.target.checksum(box)
