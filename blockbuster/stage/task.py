"""The task: read a brick with its halo once, call fn per tile, check, number, write."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from blockbuster.errors import TileError
from blockbuster.grid import BrickGrid, TileGrid, relative_box
from blockbuster.rundir.staged import Sidecar, StagedLabels, label_dtype
from blockbuster.seams.labels import compact_labels
from blockbuster.seams.pairs import collect_inner_pairs
from blockbuster.stage.results import check_labels
from blockbuster.stage.saved import RegionReader

__all__ = ["BrickResult", "StageJob", "TileCall", "run_brick"]

CHANNEL_RULE = " With channel=None, labels have the channel axis for all tiles or for none."
Index = tuple[int, ...]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class TileCall:
    """How fn is applied to one tile.

    Parameters
    ----------
    grid : TileGrid
        The tiles of the image as fn sees it.
    fn : callable
        ``(ndarray) -> ndarray``.
    empty_threshold : float or None
        A tile whose maximum is not above it is not shown to fn; ``None``: every tile is.
    channel_axis : int or None
        The axis that fn may drop from its labels.
    drops_channels : bool or None
        Whether it does; ``None``: either, as long as nobody knows.
    """

    grid: TileGrid
    fn: Callable[[np.ndarray], Any]
    empty_threshold: float | None = None
    channel_axis: int | None = None
    drops_channels: bool | None = None

    def is_empty(self, pixels: np.ndarray) -> bool:
        """Say whether a tile is background alone; NaN never makes it so."""
        return self.empty_threshold is not None and bool(np.max(pixels) <= self.empty_threshold)

    def label(self, tile: Index, core: Box, region: Box, pixels: np.ndarray) -> np.ndarray:
        """Call fn on a copy of a tile's region, check what it returns, and cut the halo off.

        Parameters
        ----------
        tile : tuple of int
            Index of the tile.
        core, region : tuple of slice
            The tile without and with its halo, in voxels of the image.
        pixels : ndarray
            The region.
        """
        pixels = pixels.copy(order="C")
        shapes = self._label_shapes(pixels.shape)
        try:
            result = self.fn(pixels)
        except Exception as error:
            raise TileError.from_exception("fn", error, tile, core) from error
        try:
            labels = check_labels(result, shapes)
        except ValueError as error:
            rule = "" if self.channel_axis is None else CHANNEL_RULE
            raise TileError(f"{error}{rule}", tile, core) from None
        inner = relative_box(core, region)
        if labels.ndim < len(inner) and self.channel_axis is not None:
            inner = inner[: self.channel_axis] + inner[self.channel_axis + 1 :]
        return labels[inner]

    def _label_shapes(self, shape: Index) -> tuple[Index, ...]:
        if self.channel_axis is None:
            return (shape,)
        dropped = shape[: self.channel_axis] + shape[self.channel_axis + 1 :]
        if self.drops_channels is None:
            return (dropped, shape)
        return (dropped,) if self.drops_channels else (shape,)


@dataclass(frozen=True)
class StageJob:
    """What all tasks of the stage share.

    Parameters
    ----------
    call : TileCall
        How fn is applied.
    source : RegionReader
        Where pixels are read from that do not come with the task.
    bricks : BrickGrid
        Bricks of the image grid, channels included.
    staged : StagedLabels
        Where labels go; its grid lacks the channel axis when fn drops it.
    kept : dict
        Tile index to labels of its core that are known already.
    """

    call: TileCall
    source: RegionReader
    bricks: BrickGrid
    staged: StagedLabels
    kept: dict[Index, np.ndarray] = field(default_factory=dict)

    def label_index(self, index: Index) -> Index:
        """Turn a tile's or brick's index in the image into its index in the label image."""
        if self.call.drops_channels and self.call.channel_axis is not None:
            axis = self.call.channel_axis
            return index[:axis] + index[axis + 1 :]
        return index


@dataclass
class BrickResult:
    """What a task reports: numbers, never labels.

    Parameters
    ----------
    number : int
        The brick.
    counts : (n_tiles,) ndarray of int64
        Labels per tile, tiles in C order.
    n_skipped : int
        Tiles that were empty.
    read_seconds, fn_seconds, write_seconds : float
        Time spent reading, in fn, and writing.
    error : TileError or None
        The fault that stopped the brick.
    """

    number: int
    counts: np.ndarray
    n_skipped: int = 0
    read_seconds: float = 0.0
    fn_seconds: float = 0.0
    write_seconds: float = 0.0
    error: TileError | None = None


def run_brick(job: StageJob, number: int, pixels: np.ndarray | None = None) -> BrickResult:
    """Process one brick.

    Parameters
    ----------
    job : StageJob
        What all tasks share.
    number : int
        The brick, in C order.
    pixels : ndarray, optional
        The brick's region, where it came with the task; else it is read.

    Returns
    -------
    BrickResult
        A fault of a tile is returned, not raised: an exception of the user's may not survive
        the way to another process.
    """
    task = _BrickTask(job, job.bricks.index(number))
    result = BrickResult(number, np.zeros(job.bricks.n_tiles(task.index), np.int64))
    try:
        task.run(result, pixels)
    except TileError as error:
        result.error = error
    return result


@dataclass(frozen=True)
class _BrickTask:
    """A brick on its way through the stage."""

    job: StageJob
    index: Index

    @cached_property
    def region(self) -> Box:
        return self.job.bricks.region(self.index)

    def run(self, result: BrickResult, pixels: np.ndarray | None) -> None:
        start = time.perf_counter()
        if pixels is None:
            pixels = self._read()
        result.read_seconds = time.perf_counter() - start
        labels = self._label_tiles(np.asarray(pixels), result)
        start = time.perf_counter()
        if labels is not None:
            self._write(labels, result.counts)
        result.write_seconds = time.perf_counter() - start

    def _read(self) -> np.ndarray:
        try:
            return self.job.source.read(self.region)
        except Exception:
            self._raise_for_unreadable_tile()
            raise

    def _raise_for_unreadable_tile(self) -> None:
        """Find the tile whose region cannot be read."""
        grid = self.job.call.grid
        for tile in self.job.bricks.tile_indices(self.index):
            try:
                self.job.source.read(grid.region(tile))
            except Exception as error:
                raise TileError.from_exception("reading the image", error, tile, grid.core(tile)) from error

    def _label_tiles(self, pixels: np.ndarray, result: BrickResult) -> np.ndarray | None:
        """Number the labels of all tiles 1..n; None where there are none."""
        labels = None
        n_labels = 0
        for i, tile in enumerate(self.job.bricks.tile_indices(self.index)):
            core = self._label_tile(tile, pixels, result)
            if core is None:
                continue
            if labels is None:
                labels = self._background()
            place = self._place(tile)
            result.counts[i] = compact_labels(core, labels[place], n_labels)
            if labels.dtype != label_dtype(n_labels + int(result.counts[i])):
                labels = labels.astype(label_dtype(n_labels + int(result.counts[i])))
                compact_labels(core, labels[place], n_labels)
            n_labels += int(result.counts[i])
        return labels if n_labels else None

    def _label_tile(self, tile: Index, pixels: np.ndarray, result: BrickResult) -> np.ndarray | None:
        """Labels of a tile's core; None for an empty tile."""
        if tile in self.job.kept:
            return self.job.kept[tile]
        call = self.job.call
        core = call.grid.core(tile)
        region = call.grid.grow(core)
        tile_pixels = pixels[relative_box(region, self.region)]
        if call.is_empty(tile_pixels):
            result.n_skipped += 1
            return None
        start = time.perf_counter()
        labels = call.label(tile, core, region, tile_pixels)
        result.fn_seconds += time.perf_counter() - start
        return labels

    @cached_property
    def _label_core(self) -> Box:
        return self.job.staged.bricks.core(self.job.label_index(self.index))

    def _background(self) -> np.ndarray:
        return np.zeros([part.stop - part.start for part in self._label_core], label_dtype(0))

    def _place(self, tile: Index) -> Box:
        """Where a tile lies in the brick's labels."""
        return relative_box(self.job.staged.bricks.grid.core(self.job.label_index(tile)), self._label_core)

    def _write(self, labels: np.ndarray, counts: np.ndarray) -> None:
        staged = self.job.staged
        index = self.job.label_index(self.index)
        seams = [staged.bricks.inner_seams(index, axis) for axis in range(labels.ndim)]
        pairs = collect_inner_pairs(labels, seams, staged.merge_axes, staged.connectivity)
        planes = {}
        for axis in staged.merge_axes:
            if index[axis] > 0:
                planes[axis, 0] = labels.take([0], axis)
            if index[axis] < staged.bricks.grid_shape[axis] - 1:
                planes[axis, 1] = labels.take([-1], axis)
        staged.write(index, labels, Sidecar(counts, pairs, planes))
