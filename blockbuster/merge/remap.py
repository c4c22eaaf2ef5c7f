"""Write the final labels: fill boxes with stretches through a table, write each shard once."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from blockbuster.grid import Box, BrickGrid, Index, TileGrid
from blockbuster.merge.completion import completed_bricks, open_completed
from blockbuster.merge.table import BrickIds, RemapTable
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import BrickFile, StagedLabels

STRIP_VOXELS = 2**23


class LabelTarget(Protocol):
    """Where final labels go, box by box; picklable when other processes write to it."""

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box of voxels."""

    def checksum(self, box: Box) -> str:
        """Checksum of what is stored of a box; empty where nothing is."""

    def clear(self, box: Box) -> None:
        """Remove what is stored of a box."""


@dataclass(frozen=True)
class FinalLabels:
    """The labels of a stage with their final ids, box by box.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    arrays : ArrayFolder
        Counts, offsets and the remap table.
    dtype : dtype
        Of the final labels.
    """

    staged: StagedLabels
    arrays: ArrayFolder
    dtype: np.dtype

    @cached_property
    def ids(self) -> BrickIds:
        """From ids within a brick to provisional ids."""
        counts, offsets = self.arrays.load("counts"), self.arrays.load("offsets")
        return BrickIds(self.staged.bricks, counts, offsets)

    @cached_property
    def table(self) -> RemapTable:
        """The remap table, mapped into memory."""
        return RemapTable.load(self.arrays)

    @cached_property
    def completed(self) -> frozenset[int]:
        """Numbers of the bricks in which something completes an object."""
        return completed_bricks(self.arrays)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def read(self, box: Box, shard: Index) -> Iterator[tuple[Box, np.ndarray]]:
        """Iterate over the strips of whole shards of a box, with their labels; none where it has
        none.
        """
        bricks = self.staged.bricks
        layers = {index: _layers(self, index) for index in _bricks_within(bricks, box)}
        if not any(layers.values()):
            return
        for strip in cut_box(box, shard):
            labels = np.zeros([part.stop - part.start for part in strip], self.dtype)
            for index in _bricks_within(bricks, strip):
                for layer in layers[index]:
                    layer.fill(bricks.grid, strip, labels)
            yield strip, labels


@dataclass(frozen=True)
class RemapJob:
    """What the remap tasks share.

    Parameters
    ----------
    labels : FinalLabels
        What is written.
    boxes : TileGrid
        One box per task, made of whole shards of the target.
    shard : tuple of int
        What the target stores as one piece.
    target : LabelTarget
        Where final labels go.
    """

    labels: FinalLabels
    boxes: TileGrid
    shard: Index
    target: LabelTarget


def remap_boxes(bricks: BrickGrid, shard: Index) -> TileGrid:
    """Cut the label image into boxes of whole shards, near the size of a brick.

    Parameters
    ----------
    bricks : BrickGrid
        The bricks that are read.
    shard : tuple of int
        What is written at once, voxels per axis.

    Returns
    -------
    TileGrid
        One tile per task, without halo.

    Examples
    --------
    >>> bricks = BrickGrid(TileGrid.regular((1000,), (100,), (8,)), tiles_per_brick=(4,))
    >>> remap_boxes(bricks, shard=(200,)).lengths
    ((400, 400, 200),)
    """
    counts = [max(1, round(brick / unit)) for brick, unit in zip(bricks.brick_shape, shard, strict=True)]
    # Where shards are longer than bricks along one axis, boxes are shorter along another.
    while max(counts) > 1 and math.prod(counts) * math.prod(shard) > math.prod(bricks.brick_shape):
        longest = counts.index(max(counts))
        counts[longest] = -(-counts[longest] // 2)
    box = tuple(count * unit for count, unit in zip(counts, shard, strict=True))
    return TileGrid.regular(bricks.grid.shape, box, (0,) * len(box))


def remap_box(job: RemapJob, number: int) -> tuple[int, str]:
    """Write the final labels of one box.

    Returns
    -------
    number : int
        The box.
    checksum : str
        Of what was stored; empty where there was nothing to store.
    """
    box = job.boxes.core(job.boxes.index(number))
    is_empty = True
    for strip, labels in job.labels.read(box, job.shard):
        job.target.write(strip, labels)
        is_empty = False
    return number, "" if is_empty else job.target.checksum(box)


def cut_box(box: Box, shard: Index) -> Iterator[Box]:
    """Cut a box into strips of whole shards, so that its labels need not be in memory at once.

    Examples
    --------
    >>> [strip[0] for strip in cut_box((slice(4096, 8000), slice(0, 4096)), (2048, 2048))]
    [slice(4096, 6144, None), slice(6144, 8000, None)]
    """
    across = int(np.prod([part.stop - part.start for part in box[1:]], dtype=np.int64))
    length = shard[0] * max(1, STRIP_VOXELS // (shard[0] * across))
    for start in range(box[0].start, box[0].stop, length):
        yield slice(start, min(start + length, box[0].stop)), *box[1:]


def verify_box(job: tuple[TileGrid, LabelTarget, dict[int, str]], number: int) -> tuple[int, bool]:
    """Return whether what is stored of a box has the checksum that it should have."""
    boxes, target, expected = job
    crc = expected[number]
    return number, not crc or target.checksum(boxes.core(boxes.index(number))) == crc


@dataclass(frozen=True)
class _Layer:
    """Labels of a brick, and what becomes of them."""

    file: BrickFile
    firsts: Callable[[np.ndarray], np.ndarray]
    table: np.ndarray

    def fill(self, grid: TileGrid, box: Box, labels: np.ndarray) -> None:
        """Fill the part of a box that the brick covers."""
        for numbers, group in self.file.read_groups(grid.cores, box):
            group.fill(self.firsts(numbers), box, self.table, labels)


def _layers(final: FinalLabels, index: Index) -> list[_Layer]:
    """Return the labels that tiles of a brick have, and those that complete objects."""
    layers, number = [], final.staged.bricks.number(index)
    if final.ids.n_labels(index):
        firsts = functools.partial(final.ids.firsts, index)
        layers.append(_Layer(final.staged.open_brick(index), firsts, _table(final, final.ids.all_of(index))))
    if number in final.completed:
        file = open_completed(final.arrays, number)
        # All tiles that were completed are in one group.
        layers.append(_Layer(file, lambda _: file.read("firsts"), _table(final, file.read("ids"))))
    return layers


def _table(final: FinalLabels, provisional: np.ndarray) -> np.ndarray:
    """Return the final ids of labels 1..n, by their provisional ids."""
    return np.append(0, final.table.final_ids(provisional)).astype(final.dtype)


def _bricks_within(bricks: BrickGrid, box: Box) -> Iterator[Index]:
    """Iterate over the bricks that overlap a box."""
    ranges = []
    for part, edges, step in zip(box, bricks.grid.edges, bricks.tiles_per_brick, strict=True):
        starts = edges[:-1:step]
        first = int(np.searchsorted(starts, part.start, side="right")) - 1
        ranges.append(range(first, int(np.searchsorted(starts, part.stop, side="left"))))
    return itertools.product(*ranges)
