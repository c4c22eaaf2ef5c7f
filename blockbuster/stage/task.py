"""The task: read a brick with its halo once, call fn per tile, check, number, write."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from blockbuster.compat import OWN_REFERENCES, Raised
from blockbuster.errors import TileError, ends_process, error_text
from blockbuster.execution import Attempt, RunStoppedError, StopCheck, take_turns
from blockbuster.grid import Box, BrickGrid, Index, TileGrid, relative_box
from blockbuster.kernels.positions import keep_positions_apart
from blockbuster.measure.names import Measures
from blockbuster.measure.sums import SumsCollector
from blockbuster.merge.rules import MergeRule
from blockbuster.rundir.staged import StagedLabels
from blockbuster.source import pixel_digest
from blockbuster.stage.brick_labels import BrickLabels, BrickResults
from blockbuster.stage.deaths import BRICK, OUTSIDE, check_deaths
from blockbuster.stage.empty_threshold import Background
from blockbuster.stage.inside import core_inside, fills_its_box
from blockbuster.stage.masks import MaskWatch
from blockbuster.stage.results import check_labels, list_names, name_results
from blockbuster.stage.saved import RegionReader, read_tile
from blockbuster.stage.values import BrickValues, Seen

logger = logging.getLogger("blockbuster")

DAEMONIC = (
    ". The workers of a dask cluster may not start processes: call "
    'dask.config.set({"distributed.worker.daemon": False}) before it is made, run on threads, or start none in fn'
)
NO_CHANNEL = (
    " fn leaves out an axis: where that is the one of channels, as in an RGB image, name it c in axes, "
    'e.g. axes="yxc", and pass channel=None.'
)
NOT_WHOLE = "reading a brick failed, its tiles are read one by one: %s"
CHANNEL_RULE = " With channel=None, labels have the channel axis for all tiles or for none."


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
    background : Background or None
        What the threshold was chosen by; ``None`` where the user gave it.
    channel_axis : int or None
        The axis that fn may drop from its labels.
    drops_channels : bool or None
        Whether it does; ``None``: either, as long as nobody knows.
    apart_axes : tuple of int
        Axes of the image that are not merged: fn may begin its ids anew at each position along
        them.
    retries : int
        How often a tile that failed is tried again.
    skip_errors : bool
        Take a tile that failed for background, instead of ending the run.
    inside : ndarray of bool or None
        In the shape of the tile grid, the tiles that fn is called for; ``None``: all. Of others
        nothing is read, and they are background.
    one_at_a_time : bool
        Call fn in one thread of a process at a time, for a device that cannot be shared; other
        tasks read and write meanwhile.
    names : tuple of str or None
        Names of the results that fn returns in a dict, which ascend; ``("",)``: one array;
        ``None``: either, as long as nobody knows.
    """

    grid: TileGrid
    fn: Callable[[np.ndarray], Any]
    empty_threshold: float | None = None
    background: Background | None = None
    channel_axis: int | None = None
    drops_channels: bool | None = None
    apart_axes: Index = ()
    retries: int = 0
    skip_errors: bool = False
    inside: np.ndarray | None = None
    one_at_a_time: bool = False
    names: tuple[str, ...] | None = None

    def maximum_if_empty(self, pixels: np.ndarray) -> float | None:
        """Return the maximum of an empty tile, else None; a tile with NaN is never empty."""
        if self.empty_threshold is None:
            return None
        # A number of Python is compared exactly, an integer of 64 bits with a float too.
        maximum = np.max(pixels).item()
        if not maximum <= self.empty_threshold:
            return None
        return maximum if isinstance(maximum, int) else float(maximum)

    def label(self, tile: Index, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Call fn on a copy of a tile's region, check its labels, keep apart what is not merged.

        What it returns has the names of its results, which ascend.

        Parameters
        ----------
        tile : tuple of int
            Index of the tile.
        pixels : ndarray
            Its region.
        """
        pixels = pixels.copy(order="C")
        shapes: tuple[Index, ...] = (pixels.shape,)
        if self.channel_axis is not None:
            whole = pixels.shape
            dropped = whole[: self.channel_axis] + whole[self.channel_axis + 1 :]
            shapes = {None: (dropped, whole), True: (dropped,), False: (whole,)}[self.drops_channels]
        try:
            result = self.fn(pixels)
        except BaseException as error:
            if ends_process(error):
                raise
            is_daemon = isinstance(error, AssertionError) and "daemonic processes" in error_text(error)
            advice = DAEMONIC if is_daemon else ""
            raise TileError.from_exception("fn", error, tile, self.grid.core(tile), advice=advice) from error
        # fn may keep what it returned, in an array that it uses again, and change it while we work.
        is_own = isinstance(result, np.ndarray) and result.flags.owndata
        is_shared = not is_own or sys.getrefcount(result) > OWN_REFERENCES
        found, name, one = {}, "", result
        try:
            for name, one in name_results(result, self.names).items():
                labels = check_labels(one, shapes, copy=is_shared)
                # All of them have the axis of channels, or none.
                shapes = (labels.shape,)
                dropped_axis = self.channel_axis if labels.ndim < self.grid.ndim else None
                found[name] = keep_positions_apart(labels, label_axes(self.apart_axes, dropped_axis))
        except ValueError as error:
            rule = CHANNEL_RULE
            if self.channel_axis is None:
                leaves_one_out = isinstance(one, np.ndarray) and one.ndim == pixels.ndim - 1
                rule = NO_CHANNEL if leaves_one_out and pixels.ndim > 1 else ""
            which = f"result {name!r}: " if name else ""
            raise TileError(f"{which}{error}{rule}", tile, self.grid.core(tile)) from None
        return found


def label_axes(axes: Index, dropped: int | None) -> Index:
    """Turn axes of the image into those of its labels, from which fn dropped one, or none."""
    if dropped is None:
        return axes
    return tuple([axis - (axis > dropped) for axis in axes if axis != dropped])


def refuse_other_names(names: tuple[str, ...], tile: Index, known: tuple[str, ...], grid: TileGrid) -> None:
    """Raise TileError if the results of a tile have other names than those of tiles before."""
    if names != known:
        raise TileError(
            f"fn returned {list_names(names)}, and for tiles before {list_names(known)}; it returns results of "
            "the same names for every tile.",
            tile,
            grid.core(tile),
        )


@dataclass
class TileOutcome:
    """What became of one tile.

    Parameters
    ----------
    labels : dict of str to ndarray, or None
        Labels of its region, by the names of the results; ``None`` for an empty tile and for one
        that failed.
    maximum : float or None
        Of an empty tile.
    seconds : float
        Time in fn, in the call that worked.
    n_retried : int
        How often it was tried again.
    error : TileError or None
        The last fault.
    """

    labels: dict[str, np.ndarray] | None = None
    maximum: float | None = None
    seconds: float = 0.0
    n_retried: int = 0
    error: TileError | None = None


def try_tile(call: TileCall, tile: Index, read: Callable[[Box], np.ndarray]) -> TileOutcome:
    """Read and label one tile unless it is empty, and again if that fails, as often as `call` says.

    Parameters
    ----------
    call : TileCall
        How fn is applied.
    tile : tuple of int
        Index of the tile.
    read : callable
        Gives the pixels of a region.
    """
    outcome = TileOutcome()
    for outcome.n_retried in range(call.retries + 1):
        try:
            pixels = read_tile(read, call.grid, tile)
            outcome.maximum = call.maximum_if_empty(pixels)
            if outcome.maximum is None:
                start = time.perf_counter()
                outcome.labels = call.label(tile, pixels)
                outcome.seconds = time.perf_counter() - start
            outcome.error = None
            break
        except TileError as error:
            outcome.error = error
    return outcome


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
    rule : MergeRule
        How labels will be joined. Other processes need not know a rule by its name.
    kept : dict
        Tile index to the outcome of a tile that is known already.
    sampled : bool
        Report a digest of the pixels that were read.
    marked : bool
        Mark on disk which tile is under way, for the case that the process dies.
    measures : Measures or None
        What is measured of objects.
    """

    call: TileCall
    source: RegionReader
    bricks: BrickGrid
    staged: StagedLabels
    rule: MergeRule
    kept: dict[Index, TileOutcome] = field(default_factory=dict)
    sampled: bool = False
    marked: bool = False
    measures: Measures | None = None

    @property
    def seen(self) -> Seen:
        """Where values are read from."""
        assert self.measures is not None
        call = self.call
        return Seen(self.measures, self.source, call.channel_axis, bool(call.drops_channels))

    @cached_property
    def stop_check(self) -> StopCheck:
        """Looks, for all tasks of the process, whether the run has ended."""
        return StopCheck(self.staged.path, self.staged.part)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

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
    counts : (n_results, n_tiles) ndarray of int64
        Labels per tile, tiles in C order.
    maxima : list of float
        Of the tiles that were empty.
    n_outside : int
        Tiles that are outside of the mask.
    n_retried : int
        How often a tile was tried again.
    fn_seconds : float
        Time spent in fn.
    checksum : str
        Of the staged files of the results, with commas between; empty where there are no labels.
    pixels : str
        Digest of what was read, where it is wanted.
    pixels_tile : int or None
        The one tile that it is of, in C order of the brick's, where the brick could not be read as
        a whole.
    pixels_box : tuple of slice or None
        The region that it is of, where that is not all of the brick's.
    in_pieces : list of bool or None
        For each result whether the one id of a tile falls into pieces; ``None``: a tile has two
        ids.
    failed : list of TileError
        Tiles that were taken for background because they failed.
    error : TileError or None
        The fault that stopped the brick.
    stopped : bool
        The run ended before the brick was finished.
    interrupted : bool
        fn raised KeyboardInterrupt in another process, whose worker would end if it left the task.
    unreadable : bool
        The graph of the brick's pixels raised, and nothing was done.
    names : tuple of str or None
        Names of the results; ``None`` where fn returned none.
    named_by : tuple of int or None
        The tile that is known by.
    """

    number: int
    counts: np.ndarray
    maxima: list[float] = field(default_factory=list)
    n_outside: int = 0
    n_retried: int = 0
    fn_seconds: float = 0.0
    checksum: str = ""
    pixels: str = ""
    pixels_tile: int | None = None
    pixels_box: Box | None = None
    in_pieces: list[bool | None] = field(default_factory=lambda: [False])
    failed: list[TileError] = field(default_factory=list)
    error: TileError | None = None
    stopped: bool = False
    interrupted: bool = False
    unreadable: bool = False
    names: tuple[str, ...] | None = None
    named_by: Index | None = None


def run_brick(job: StageJob, number: int, pixels: np.ndarray | Raised | None = None) -> BrickResult:
    """Process one brick.

    Parameters
    ----------
    job : StageJob
        What all tasks share.
    number : int
        The brick, in C order.
    pixels : ndarray or Raised, optional
        The brick's region, where it came with the task, or what its graph raised; else it is read.

    Returns
    -------
    BrickResult
        A fault of a tile is returned, not raised: an exception of the user's may not survive
        the way to another process, and one like KeyboardInterrupt may end a worker.
    """
    attempt = Attempt(job.staged.path if job.marked else None, f"{BRICK}-{number}")
    task = _BrickTask(job, job.bricks.index(number), attempt)
    result = BrickResult(number, np.zeros((1, job.bricks.n_tiles(task.index)), np.int64))
    if isinstance(pixels, Raised):
        logger.info(NOT_WHOLE, pixels.text)
        result.unreadable = True
        return result
    try:
        with attempt:
            check_deaths(attempt, OUTSIDE, job.bricks)
            task.pixels = task.read() if pixels is None else np.asarray(pixels)
            if task.pixels is not None and job.sampled:
                result.pixels = pixel_digest(task.pixels)
                result.pixels_box = None if job.call.inside is None else task.region
            task.label_tiles(result)
            attempt.at(OUTSIDE)
            # The next brick takes their memory, unless something that stays lies among it by then.
            pixels = None
            task.drop_pixels()
            task.write(result)
    except TileError as error:
        result.error = error
    except RunStoppedError:
        result.stopped = True
    except KeyboardInterrupt:
        if not job.marked:
            raise
        result.interrupted = True
    return result


@dataclass
class _BrickTask:
    """A brick on its way through the stage; its pixels are None where they cannot be read as a
    whole.
    """

    job: StageJob
    index: Index
    attempt: Attempt
    pixels: np.ndarray | None = None

    @cached_property
    def core(self) -> Box:
        """The box around the tiles that fn is called for."""
        core = core_inside(self.job.bricks, self.index, self.job.call.inside)
        return self.job.bricks.core(self.index) if core is None else core

    @cached_property
    def region(self) -> Box:
        return self.job.bricks.grid.grow(self.core)

    def read(self) -> np.ndarray | None:
        """Read the brick's region; None where it cannot be read whole, or is not all wanted."""
        if not fills_its_box(self.job.bricks, self.index, self.job.call.inside):
            return None
        try:
            return self.job.source.read(self.region)
        except Exception as error:
            logger.info(NOT_WHOLE, error_text(error))
            return None

    def label_tiles(self, result: BrickResult) -> None:
        """Label one tile after the other; those that fail are background where such are skipped."""
        job, call = self.job, self.job.call
        for i, tile in enumerate(job.bricks.tile_indices(self.index)):
            if call.inside is not None and not call.inside[tile]:
                result.n_outside += 1
                self.results.pass_over(job.label_index(tile))
                continue
            self.attempt.at(i)
            outcome = self._known(i, tile)
            if outcome is None:
                with take_turns(call.one_at_a_time):
                    # The run may have ended, also while this tile waited.
                    job.stop_check.pass_on()
                    outcome = try_tile(call, tile, self._reader(i, result))
            result.fn_seconds += outcome.seconds
            result.n_retried += outcome.n_retried
            if outcome.labels is not None:
                try:
                    if tuple(outcome.labels) != result.names:
                        self._meet(tile, tuple(outcome.labels), result)
                    if self.values is not None:
                        self.values.complete(tile)
                except TileError as error:
                    outcome = dataclasses.replace(outcome, labels=None, error=error)
            if outcome.error is not None:
                if not call.skip_errors:
                    raise outcome.error
                result.failed.append(outcome.error)
            elif outcome.maximum is not None:
                result.maxima.append(outcome.maximum)
            if outcome.labels is None:
                self.results.pass_over(job.label_index(tile))
            else:
                self.results.add(i, job.label_index(tile), outcome.labels)
        result.counts = self.results.counts(result.counts.shape[1])
        result.in_pieces = self.results.in_pieces or result.in_pieces

    def _meet(self, tile: Index, names: tuple[str, ...], result: BrickResult) -> None:
        """Take note of the names of the first results, and refuse others."""
        if result.names is None:
            result.names, result.named_by = names, tile
        refuse_other_names(names, tile, result.names, self.job.call.grid)

    def _known(self, i: int, tile: Index) -> TileOutcome | None:
        """Return what is known of a tile: a probe's labels, or that workers die of it."""
        try:
            check_deaths(self.attempt, i, self.job.bricks)
        except TileError as error:
            return TileOutcome(error=error)
        return self.job.kept.get(tile)

    def _reader(self, i: int, result: BrickResult) -> Callable[[Box], np.ndarray]:
        """How to get at the pixels of a tile: from the brick's, or from the source."""
        pixels = self.pixels
        if pixels is not None:
            return lambda region: pixels[relative_box(region, self.region)]

        def read(region: Box) -> np.ndarray:
            found = self.job.source.read(region)
            if self.job.sampled and not result.pixels:
                result.pixels, result.pixels_tile = pixel_digest(found), i
            return found

        return read

    @cached_property
    def values(self) -> BrickValues | None:
        """The values that are measured, if any are."""
        job = self.job
        if job.measures is None or not job.measures.channels:
            return None
        boxes, is_whole = (self.core, self.region), fills_its_box(job.bricks, self.index, job.call.inside)
        return BrickValues(job.seen, job.bricks.grid, *boxes, self.pixels, job.call.retries, is_whole)

    def drop_pixels(self) -> None:
        """Measure what is left, and give back the memory of the pixels."""
        self.results.close()
        self.pixels = None
        self.__dict__.pop("values", None)

    @cached_property
    def results(self) -> BrickResults:
        call = self.job.call
        dropped_axis = call.channel_axis if call.drops_channels else None
        return BrickResults(self._labels_of, lambda: MaskWatch(label_axes(call.apart_axes, dropped_axis)))

    def _labels_of(self, number: int) -> BrickLabels:
        job, sums = self.job, None
        if job.measures is not None:
            sums = SumsCollector(job.measures, lambda: self.values.channels if self.values else [])
        return BrickLabels(job.staged.of_result(number), job.label_index(self.index), job.rule, sums)

    def write(self, result: BrickResult) -> None:
        """Leave the labels in the stage, where there are any."""
        index = self.job.label_index(self.index)
        try:
            checksums = [
                self.job.staged.of_result(number).write(index, labels.sections()) if labels.n_labels else ""
                for number, labels in enumerate(self.results.labels)
            ]
        except FileNotFoundError:
            # A task that outlives its run has nowhere to write to, and this says so.
            self.job.stop_check.look()
            raise
        result.checksum = ",".join(checksums)
