"""The task: read a brick with its halo once, call fn per tile, check, number, write."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from blockbuster.compat import Raised
from blockbuster.errors import TileError, error_text
from blockbuster.execution import Attempt, RunStoppedError, StopCheck, take_turns
from blockbuster.grid import Box, BrickGrid, Index, TileGrid, relative_box
from blockbuster.measure.names import Measures
from blockbuster.measure.sums import SumsCollector
from blockbuster.merge.rules import MergeRule
from blockbuster.predict import DEVICE, Predictor
from blockbuster.rundir.staged import StagedLabels
from blockbuster.source import pixel_digest
from blockbuster.stage.brick_labels import BrickLabels, BrickResults
from blockbuster.stage.deaths import BRICK, OUTSIDE, check_deaths
from blockbuster.stage.inside import core_inside, fills_its_box
from blockbuster.stage.masks import MaskWatch
from blockbuster.stage.predicting import PendingTile, TilePipeline
from blockbuster.stage.results import list_names
from blockbuster.stage.saved import RegionReader
from blockbuster.stage.tile_call import TileCall, TileOutcome, label_axes, try_tile
from blockbuster.stage.values import BrickValues, Seen

logger = logging.getLogger("blockbuster")

NOT_WHOLE = "reading a brick failed, its tiles are read one by one: %s"


def refuse_other_names(names: tuple[str, ...], tile: Index, known: tuple[str, ...], grid: TileGrid) -> None:
    """Raise TileError if the results of a tile have other names than those of tiles before."""
    if names != known:
        raise TileError(
            f"fn returned {list_names(names)}, and for tiles before {list_names(known)}; it returns results of "
            "the same names for every tile.",
            tile,
            grid.core(tile),
        )


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
    device : tuple of float
        Seconds that the device of a predictor was busy, waited for tiles and for threads that
        decoded; empty without one.
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
    device: tuple[float, ...] = ()


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
            with DEVICE.noted("read"):
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
        if isinstance(call.fn, Predictor):
            # Else it would end with the traceback of an error.
            with contextlib.closing(self._predicted(result, call.fn)) as outcomes:
                for i, tile, outcome in outcomes:
                    self._take(i, tile, outcome, result)
        else:
            for i, tile in enumerate(job.bricks.tile_indices(self.index)):
                outcome = None
                if call.inside is None or call.inside[tile]:
                    self.attempt.at(i)
                    outcome = self._known(i, tile)
                    if outcome is None:
                        with take_turns(call.one_at_a_time):
                            # The run may have ended, also while this tile waited.
                            job.stop_check.pass_on()
                            outcome = try_tile(call, tile, self._reader(i, result))
                self._take(i, tile, outcome, result)
        result.counts = self.results.counts(result.counts.shape[1])
        result.in_pieces = self.results.in_pieces or result.in_pieces

    def _take(self, i: int, tile: Index, outcome: TileOutcome | None, result: BrickResult) -> None:
        """Take what became of a tile; of one outside of the mask there is nothing."""
        call, index = self.job.call, self.job.label_index(tile)
        if outcome is None:
            result.n_outside += 1
            self.results.pass_over(index)
            return
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
            self.results.pass_over(index)
        else:
            self.results.add(i, index, outcome.labels)

    def _predicted(
        self, result: BrickResult, predictor: Predictor
    ) -> Generator[tuple[int, Index, TileOutcome | None]]:
        """Have tiles predicted while those before are decoded; they come in order."""
        job, call = self.job, self.job.call
        pipeline = TilePipeline(call, predictor, job.stop_check.pass_on)
        # After a death it must be known which tile a process was at.
        most = 1 if self.attempt.is_repeated else pipeline.most_ahead
        ahead: deque[tuple[int, Index, PendingTile | TileOutcome | None]] = deque()

        def next_one() -> tuple[int, Index, TileOutcome | None]:
            i, tile, pending = ahead.popleft()
            return i, tile, pipeline.finish(pending) if isinstance(pending, PendingTile) else pending

        with DEVICE.used(), contextlib.closing(pipeline):
            for i, tile in enumerate(job.bricks.tile_indices(self.index)):
                while len(ahead) >= most or (ahead and not pipeline.has_room()):
                    yield next_one()
                if call.inside is not None and not call.inside[tile]:
                    ahead.append((i, tile, None))
                    continue
                self.attempt.at(i)
                job.stop_check.pass_on()
                known = self._known(i, tile)
                ahead.append((i, tile, known or pipeline.begin(tile, self._reader(i, result))))
            while ahead:
                yield next_one()
            result.device = dataclasses.astuple(DEVICE.take_spent())

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
