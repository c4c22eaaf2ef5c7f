"""The stage: probe fn, choose bricks, run them, and add up what they report."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.cluster import Execution, run_tasks
from blockbuster.errors import TileError, format_slices
from blockbuster.grid import BrickGrid
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels
from blockbuster.source import DaskSource, NpyFileSource, Source
from blockbuster.stage.bricks import limit_bricks
from blockbuster.stage.saved import RegionReader, SavedRegions
from blockbuster.stage.task import BrickResult, StageJob, TileCall, run_brick

__all__ = ["StageOutcome", "stage_labels"]

logger = logging.getLogger("blockbuster")

MOST_FN_SECONDS_PER_TASK = 10.0
SLOW_FN_SECONDS = 0.2
MOST_TILES_LOOKED_AT = 64
Index = tuple[int, ...]


@dataclass(frozen=True)
class StageOutcome:
    """What the stage came to.

    Parameters
    ----------
    staged : StagedLabels
        The finished stage, its ``counts`` saved.
    bricks : BrickGrid
        The bricks that were used.
    n_run, n_skipped : int
        Tiles shown to fn, and empty ones.
    n_labels : int
        Labels of all tiles before the merge.
    fn_seconds : float
        Time in fn, summed over workers.
    """

    staged: StagedLabels
    bricks: BrickGrid
    n_run: int
    n_skipped: int
    n_labels: int
    fn_seconds: float


@dataclass(frozen=True)
class ProbeJob:
    """What probes share."""

    call: TileCall
    source: RegionReader


@dataclass
class ProbeResult:
    """One tile that was processed ahead of its brick."""

    tile: Index
    labels: np.ndarray | None
    drops_channels: bool = False
    seconds: float = 0.0
    error: TileError | None = None


def probe_tile(job: ProbeJob, number: int) -> ProbeResult:
    """Process one tile unless it is empty, and time fn."""
    grid = job.call.grid
    tile = grid.index(number)
    core, region = grid.core(tile), grid.region(tile)
    try:
        pixels = job.source.read(region)
    except Exception as error:
        wrapped = TileError.from_exception("reading the image", error, tile, core)
        return ProbeResult(tile, None, error=wrapped)
    if job.call.is_empty(pixels):
        return ProbeResult(tile, None)
    start = time.perf_counter()
    try:
        labels = job.call.label(tile, core, region, pixels)
    except TileError as error:
        return ProbeResult(tile, None, error=error)
    seconds = time.perf_counter() - start
    # A copy: fn may hand out the same array for every tile.
    return ProbeResult(tile, labels.copy(), labels.ndim < grid.ndim, seconds)


@dataclass
class _Stage:
    """Tasks of the stage on their way to the scheduler."""

    source: Source
    call: TileCall
    bricks: BrickGrid
    execution: Execution
    directory: str
    saved: SavedRegions = field(default_factory=SavedRegions)

    @property
    def reader(self) -> RegionReader:
        """What tasks read from: of a dask image only what was computed ahead."""
        return self.saved if isinstance(self.source, DaskSource) else self.source

    def run_bricks(self, job: StageJob, on_result: Callable[[BrickResult], None]) -> None:
        """Run all bricks; pixels of a dask image enter the tasks through the graph."""
        numbers = range(job.bricks.n_bricks)
        regions = None
        if isinstance(self.source, DaskSource):
            boxes = [job.bricks.region(job.bricks.index(number)) for number in numbers]
            regions = [None if self.saved.covers(box) else self.source.region(box) for box in boxes]
        self._run(run_brick, job, numbers, on_result, regions)

    def probes(self) -> Iterator[ProbeResult]:
        """Process non-empty tiles one by one, in C order."""
        grid, call = self.call.grid, self.call
        most = grid.n_tiles
        if call.channel_axis is None:
            most = min(most, MOST_TILES_LOOKED_AT)
        for number in range(most):
            self._save_region(grid.index(number))
            found: list[ProbeResult] = []
            self._run(probe_tile, ProbeJob(call, self.reader), [number], found.append)
            if found[0].error:
                raise found[0].error
            if found[0].labels is not None:
                if call.channel_axis is not None:
                    call = dataclasses.replace(call, drops_channels=found[0].drops_channels)
                yield found[0]

    def _save_region(self, tile: Index) -> None:
        """Compute the brick of a tile ahead, once for the probe and the brick's own tasks."""
        if isinstance(self.source, DaskSource) and not self.saved.covers(self.call.grid.region(tile)):
            steps = zip(tile, self.bricks.tiles_per_brick, strict=True)
            box = self.bricks.region(tuple(i // step for i, step in steps))
            self.saved = self.saved.added(box, self.source.read(box), self.directory)

    def _run(
        self,
        function: Callable[..., Any],
        job: Any,
        numbers: Sequence[int],
        on_result: Callable[[Any], None],
        regions: Sequence[Any] | None = None,
    ) -> None:
        directory = self.directory
        run_tasks(
            self.execution, function, job, numbers, directory=directory, on_result=on_result, regions=regions
        )


def stage_labels(
    source: Source,
    call: TileCall,
    bricks: BrickGrid,
    directory: str,
    execution: Execution,
    *,
    merge_axes: tuple[int, ...],
    connectivity: int,
    settings: dict[str, Any],
    fixed_bricks: bool = False,
    verbose: bool = False,
    on_tiles: Callable[[int], Any] = bool,
) -> StageOutcome:
    """Run fn on every tile and keep its labels in a stage directory.

    Parameters
    ----------
    source : Source
        The image.
    call : TileCall
        How fn is applied.
    bricks : BrickGrid
        Tiles of the image grouped into tasks.
    directory : str
        An existing, empty directory.
    execution : Execution
        Where to run.
    merge_axes : tuple of int
        Axes of the image along which labels will be joined.
    connectivity : int
        Which neighbours across a seam touch.
    settings : dict
        Kept in the manifest.
    fixed_bricks : bool
        Do not make bricks smaller for a slow fn.
    verbose : bool
        Log every tile.
    on_tiles : callable
        Called with a number of tiles as they are finished.

    Returns
    -------
    StageOutcome

    Raises
    ------
    TileError
        At the first tile that fails.
    """
    source = _shareable(source, execution, directory)
    stage = _Stage(source, call, bricks, execution, directory)
    kept, bricks, drops = _probe(stage, fixed_bricks)
    call = dataclasses.replace(call, drops_channels=drops)
    axis = call.channel_axis if drops else None
    staged = StagedLabels(directory, _label_bricks(bricks, axis), _label_axes(merge_axes, axis), connectivity)
    staged.create(settings)
    known = {probe.tile: probe.labels for probe in kept if probe.labels is not None}
    job = StageJob(call, stage.reader, bricks, staged, known)
    tally = _Tally(bricks, verbose, on_tiles)
    stage.run_bricks(job, tally.add)
    counts = tally.counts if axis is None else tally.counts.sum(axis)
    ArrayFolder(directory).save("counts", counts)
    return StageOutcome(
        staged,
        bricks,
        n_run=bricks.grid.n_tiles - tally.n_skipped,
        n_skipped=tally.n_skipped,
        n_labels=int(tally.counts.sum()),
        fn_seconds=tally.fn_seconds + sum(probe.seconds for probe in kept),
    )


def _shareable(source: Source, execution: Execution, directory: str) -> Source:
    """Put an image in memory into a file where other processes run, once, not into every task."""
    if execution.in_process or not source.in_memory:
        return source
    path = os.path.join(directory, "image.npy")
    np.save(path, source.read(tuple(slice(0, n) for n in source.shape)))
    return NpyFileSource(path, axes=source.axes)


def _probe(stage: _Stage, fixed_bricks: bool) -> tuple[list[ProbeResult], BrickGrid, bool]:
    """Learn how long fn takes, and whether it drops the channels, where that matters."""
    bricks = stage.bricks
    most_tiles = int(np.prod(bricks.tiles_per_brick, dtype=np.int64))
    timed = most_tiles > 1 and not fixed_bricks
    if not timed and stage.call.channel_axis is None:
        return [], bricks, False
    kept: list[ProbeResult] = []
    for probe in itertools.islice(stage.probes(), 2):
        kept.append(probe)
        # The first call may compile or load something; a slow one is measured again.
        if not timed or probe.seconds < SLOW_FN_SECONDS:
            break
    # Nothing to show to fn: its labels are taken to have no channels.
    drops = all(probe.drops_channels for probe in kept) and stage.call.channel_axis is not None
    if timed and kept:
        seconds = max(1e-9, min(probe.seconds for probe in kept))
        bricks = limit_bricks(bricks, int(min(MOST_FN_SECONDS_PER_TASK / seconds, most_tiles)))
    return kept, bricks, drops


def _label_bricks(bricks: BrickGrid, dropped: int | None) -> BrickGrid:
    if dropped is None:
        return bricks
    counts = bricks.tiles_per_brick
    return BrickGrid(bricks.grid.without_axis(dropped), counts[:dropped] + counts[dropped + 1 :])


def _label_axes(merge_axes: tuple[int, ...], dropped: int | None) -> tuple[int, ...]:
    if dropped is None:
        return merge_axes
    return tuple(axis - (axis > dropped) for axis in merge_axes)


class _Tally:
    """Add up the results of bricks as they arrive."""

    def __init__(self, bricks: BrickGrid, verbose: bool, on_tiles: Callable[[int], Any]) -> None:
        self.bricks = bricks
        self.verbose = verbose
        self.on_tiles = on_tiles
        self.counts = np.zeros(bricks.grid.grid_shape, np.int64)
        self.n_skipped = 0
        self.fn_seconds = 0.0

    def add(self, result: BrickResult) -> None:
        """Take the result of a brick; a failed one is raised."""
        if result.error is not None:
            raise result.error
        index = self.bricks.index(result.number)
        tiles = self.bricks.tiles(index)
        self.counts[tiles] = result.counts.reshape(self.counts[tiles].shape)
        self.n_skipped += result.n_skipped
        self.fn_seconds += result.fn_seconds
        if self.verbose:
            self._log(index)
        self.on_tiles(len(result.counts))

    def _log(self, index: Index) -> None:
        grid = self.bricks.grid
        for tile in self.bricks.tile_indices(index):
            region = grid.region(tile)
            logger.info(
                "tile %s %s, seen by fn as %s: %d labels",
                tile,
                format_slices(grid.core(tile)),
                tuple(part.stop - part.start for part in region),
                self.counts[tile],
            )
