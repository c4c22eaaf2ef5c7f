"""The stage: probe fn, choose bricks, run the unfinished ones, and add up what they report."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.compat import write_npy
from blockbuster.errors import TileError
from blockbuster.execution import Execution, clear_attempts, run_tasks
from blockbuster.grid import BrickGrid, Index
from blockbuster.identity.growth import Growth
from blockbuster.measure.names import Channel, Measures
from blockbuster.merge.rules import MergeRule
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.durable import replaced_file
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.journal import Journal
from blockbuster.rundir.staged import StagedLabels, read_layout
from blockbuster.source import NpyFileSource, Source
from blockbuster.stage.bricks import limit_bricks
from blockbuster.stage.deaths import StageWatch
from blockbuster.stage.empty_threshold import Background
from blockbuster.stage.finished import failed_tiles, find_finished_tasks
from blockbuster.stage.inside import core_inside
from blockbuster.stage.probes import Probe, ProbeJob, keep_probe, kept_probes, probe_tile
from blockbuster.stage.saved import RegionReader, SavedRegions, read_tile
from blockbuster.stage.tally import Tally
from blockbuster.stage.task import BrickResult, StageJob, run_brick
from blockbuster.stage.tile_call import TileCall, TileOutcome, label_axes

MAX_FN_SECONDS_PER_TASK = 10.0
SLOW_FN_SECONDS = 0.2
MAX_TILES_LOOKED_AT = 64


def stage_labels(
    source: Source,
    call: TileCall,
    bricks: BrickGrid,
    directory: str,
    execution: Execution,
    *,
    merge_axes: tuple[int, ...],
    connectivity: int,
    rule: MergeRule,
    fixed_bricks: bool = False,
    verbose: bool = False,
    on_tiles: Callable[[int], Any] = bool,
    growth: Growth | None = None,
    measures: Measures | None = None,
    on_names: Callable[[tuple[str, ...]], Any] = bool,
) -> tuple[StageJob, Tally]:
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
        An existing directory: an empty one, or one in which the same call was interrupted. Then its
        bricks and its threshold hold, and the tasks that it finished are not run again.
    execution : Execution
        Where to run.
    merge_axes : tuple of int
        Axes of the image along which labels will be joined.
    connectivity : int
        Which neighbours across a seam touch.
    rule : MergeRule
        How labels will be joined.
    fixed_bricks : bool
        Do not make bricks smaller for a slow fn.
    verbose : bool
        Log every tile.
    on_tiles : callable
        Called with a number of tiles as they are finished.
    growth : Growth, optional
        What fn may append to: what has grown is journalled with the task after which it was seen.
    measures : Measures, optional
        What is measured of objects; axes are those of the image.
    on_names : callable
        Called with the names of the results of fn once they are known, where `call` did not say.

    Returns
    -------
    job : StageJob
        What the tasks shared: the finished stage, its ``counts`` saved, for each result of fn; the
        bricks that were used; and, in the call, the threshold.
    tally : Tally
        What they reported, and the tasks of the runs that this one continues.

    Raises
    ------
    TileError
        At the first tile that fails, unless such tiles are skipped.
    """
    source = share_source(source, execution, directory)
    if measures is not None:
        channels = enumerate(measures.channels)
        shared = [_share_channel(channel, execution, directory, f"channel-{n}") for n, channel in channels]
        measures = dataclasses.replace(measures, channels=tuple(shared))
    clear_attempts(directory)
    with Journal(directory) as journal:
        stage = _Stage(source, call, bricks, execution, directory, journal, rule, measures=measures)
        probes = stage.resume()
        if probes is None:
            reach("stage begun")
            timed = math.prod(bricks.tiles_per_brick) > 1 and not fixed_bricks
            probes = list(stage.probes(timed))
            stage.lay_out(probes, timed, merge_axes, connectivity)
        job = stage.job(probes)
        tally = Tally(stage.bricks, journal, verbose, on_tiles, growth or Growth(), call.names, on_names)
        for probe in probes:
            if probe.outcome.labels is not None:
                tally.meet(tuple(probe.outcome.labels), stage.bricks.grid.index(probe.number))
            tally.n_retried += probe.outcome.n_retried
            tally.fn_seconds += probe.outcome.seconds
        finished = find_finished_tasks(job, execution, on_tiles)
        for record in finished.values():
            tally.meet(record["names"])
            tally.add_record(record)
            tally.n_resumed += record["counts"].shape[1]
        stage.run_bricks(job, [n for n in range(stage.bricks.n_bricks) if n not in finished], tally.add)
        if tally.n_finished < stage.bricks.n_bricks:
            raise RuntimeError(f"The run was stopped from outside: its stage {directory} was removed.")
        stage.save_counts(tally.counts, tally.failed)
    return job, tally


@dataclass
class _Stage:
    """Tasks of the stage on their way to the scheduler."""

    source: Source
    call: TileCall
    bricks: BrickGrid
    execution: Execution
    directory: str
    journal: Journal
    rule: MergeRule
    saved: SavedRegions = field(default_factory=SavedRegions)
    measures: Measures | None = None

    @property
    def reader(self) -> RegionReader:
        """What tasks read from: of a dask image only what was computed ahead."""
        return self.saved if self.source.through_graph else self.source

    def lay_out(
        self,
        probes: list[Probe],
        timed: bool,
        merge_axes: tuple[int, ...],
        connectivity: int,
    ) -> None:
        """Choose the bricks by what the probes have found, and make room for their labels."""
        seconds = [probe.outcome.seconds for probe in probes if probe.outcome.error is None]
        if timed and seconds:
            n_tiles = int(MAX_FN_SECONDS_PER_TASK / max(1e-9, min(seconds)))
            self.bricks = limit_bricks(self.bricks, min(n_tiles, math.prod(self.bricks.tiles_per_brick)))
        # Nothing to show to fn: its labels are taken to have no channels.
        labels = [found for probe in probes for found in (probe.outcome.labels or {}).values()]
        drops = self.call.channel_axis is not None and all(found.ndim < self.bricks.grid.ndim for found in labels)
        self.call = dataclasses.replace(self.call, drops_channels=drops)
        axis = self._dropped_axis
        joined_axes, label_bricks = label_axes(merge_axes, axis), self.bricks
        if axis is not None:
            counts = self.bricks.tiles_per_brick
            label_bricks = BrickGrid(self.bricks.grid.without_axis(axis), counts[:axis] + counts[axis + 1 :])
        kept = (self.rule.name, self.rule.parameters)
        staged = StagedLabels(self.directory, label_bricks, joined_axes, connectivity, *kept)
        image = {
            "tile_lengths": self.bricks.grid.lengths,
            "tiles_per_brick": self.bricks.tiles_per_brick,
            "drops_channels": drops,
            "dropped_axis": axis,
            "empty_threshold": self.call.empty_threshold,
            "background": self.call.background,
        }
        staged.create(image)
        for probe in probes:
            keep_probe(probe, self.directory, self.journal)
        reach("stage laid out")

    @property
    def _dropped_axis(self) -> int | None:
        """The axis of the image that the labels do not have."""
        return self.call.channel_axis if self.call.drops_channels else None

    def resume(self) -> list[Probe] | None:
        """Take over how an earlier run laid the stage out; None where there was none."""
        layout = read_layout(self.directory)
        if not layout:
            return None
        image = layout["image"]
        os.makedirs(os.path.join(self.directory, layout["part"]), exist_ok=True)
        self.bricks = BrickGrid(self.bricks.grid, tuple(image["tiles_per_brick"]))
        self.call = dataclasses.replace(
            self.call,
            drops_channels=image["drops_channels"],
            empty_threshold=image["empty_threshold"],
            background=Background(*image["background"]) if image["background"] else None,
        )
        return kept_probes(self.directory)

    def job(self, probes: list[Probe]) -> StageJob:
        """Gather what all tasks share."""
        found = {self.bricks.grid.index(probe.number): probe.outcome for probe in probes}
        reader = self.reader
        if self.execution.in_process and not self.source.through_graph:
            reader = self.source.keeping_shared(self.bricks)
        return StageJob(
            self.call,
            reader,
            self.bricks,
            StagedLabels.open(self.directory),
            self.rule,
            # What they took is no part of their bricks.
            {tile: TileOutcome(outcome.labels, error=outcome.error) for tile, outcome in found.items()},
            self.source.sampled,
            marked=not self.execution.in_process,
            measures=self.measures and self.measures.without_axis(self._dropped_axis),
        )

    def save_counts(self, counts: np.ndarray, failed: list[list[Any]]) -> None:
        """Keep how many labels of each result tiles have, in the shape of the labels' grid, and
        which failed.
        """
        axis, grid = self._dropped_axis, self.bricks.grid
        label_grid = grid if axis is None else grid.without_axis(axis)
        for number, own in enumerate(counts):
            arrays = ArrayFolder.of_result(self.directory, number)
            arrays.save("counts", own if axis is None else own.sum(axis))
            arrays.save("failed", failed_tiles(failed, label_grid, axis))
        reach("stage finished")

    def run_bricks(self, job: StageJob, numbers: Sequence[int], on_result: Callable[[BrickResult], None]) -> None:
        """Run bricks; pixels of a dask image enter the tasks through the graph."""
        watch = StageWatch(self.directory, self.bricks)
        run = functools.partial(run_tasks, self.execution, run_brick, directory=self.directory, watch=watch)

        def take(result: BrickResult) -> None:
            if not result.unreadable:
                on_result(result)
                return
            tiles = self.bricks.tile_indices(self.bricks.index(result.number))
            inside = self.call.inside
            saved = self._tiles_saved([tile for tile in tiles if inside is None or inside[tile]])
            run(dataclasses.replace(job, source=saved), [result.number], on_result=on_result)

        run(job, numbers, on_result=take, region=self._region if self.source.through_graph else None)

    def _region(self, number: int) -> Any:
        core = core_inside(self.bricks, self.bricks.index(number), self.call.inside)
        box = None if core is None else self.bricks.grid.grow(core)
        return None if box is None or self.saved.covers(box) else self.source.lazy(box)

    def probes(self, timed: bool) -> Iterator[Probe]:
        """Try fn on non-empty tiles until its time is known, and whether it drops channels."""
        grid, call, n_good = self.call.grid, self.call, 0
        if not timed and call.channel_axis is None:
            return
        watch = StageWatch(self.directory, BrickGrid(grid, (1,) * grid.ndim))
        numbers: Sequence[int] = range(grid.n_tiles)
        if call.inside is not None:
            numbers = np.flatnonzero(call.inside).tolist()
        for number in numbers[:MAX_TILES_LOOKED_AT] if call.channel_axis is None else numbers:
            self._save_region(grid.index(number))
            found: list[Probe] = []
            directory = None if self.execution.in_process else self.directory
            job = ProbeJob(call, self.reader, directory, self.source.sampled)
            run_tasks(
                self.execution,
                probe_tile,
                job,
                [number],
                directory=self.directory,
                on_result=found.append,
                watch=watch,
            )
            outcome = found[0].outcome
            if found[0].interrupted:
                raise KeyboardInterrupt
            if outcome.error and not call.skip_errors:
                raise outcome.error
            if outcome.labels is None and not outcome.error:
                continue
            yield found[0]
            if outcome.labels is not None and call.channel_axis is not None:
                first = next(iter(outcome.labels.values()))
                call = dataclasses.replace(call, drops_channels=first.ndim < grid.ndim)
            n_good += outcome.error is None
            # The first call may compile or load something; a slow one is measured again.
            if n_good == 2 or (n_good and (not timed or outcome.seconds < SLOW_FN_SECONDS)):
                return

    def _save_region(self, tile: Index) -> None:
        """Compute the brick of a tile ahead, once for the probe and the brick's own tasks."""
        if not self.source.through_graph or self.saved.covers(self.call.grid.region(tile)):
            return
        steps = zip(tile, self.bricks.tiles_per_brick, strict=True)
        core = core_inside(self.bricks, tuple(i // step for i, step in steps), self.call.inside)
        assert core is not None
        box = self.bricks.grid.grow(core)
        try:
            pixels = self.source.read(box)
        except Exception:
            self.saved = self._tiles_saved([tile])
        else:
            self.saved = self.saved.added(box, pixels, self.directory)

    def _tiles_saved(self, tiles: Iterable[Index]) -> SavedRegions:
        """Compute tiles of a dask image one by one, and add the errors of those that cannot be."""
        grid, saved = self.call.grid, self.saved
        for tile in tiles:
            region = grid.region(tile)
            for attempt in range(self.call.retries + 1):
                try:
                    pixels = read_tile(self.source.read, grid, tile)
                except TileError as error:
                    if attempt == self.call.retries:
                        saved = saved.failed(region, error)
                else:
                    saved = saved.added(region, pixels, self.directory)
                    break
        return saved


def _share_channel(channel: Channel, execution: Execution, directory: str, name: str) -> Channel:
    if channel.source is None:
        return channel
    return dataclasses.replace(channel, source=share_source(channel.source, execution, directory, name))


def share_source(source: Source, execution: Execution, directory: str, name: str = "image") -> Source:
    """Put an image in memory into a file of a name, where other processes run, once, not into every
    task.
    """
    if execution.in_process or not source.in_memory:
        return source
    path = os.path.join(directory, f"{name}.npy")
    pixels = source.read(tuple(slice(0, n) for n in source.shape))
    with replaced_file(path, pixels.nbytes) as file:
        write_npy(file, pixels)
    shared = NpyFileSource(path, axes=source.axes)
    # A later run compares the image itself.
    shared.sampled = source.sampled
    return shared
