"""tile_process: plan, stage, merge."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blockbuster.compat import open_labels
from blockbuster.errors import escape_controls, warn_user
from blockbuster.execution import Execution
from blockbuster.output.label_image import warn_of_transformations_left_out
from blockbuster.output.publishing import OutputPlace
from blockbuster.report import RunReport, installed_versions
from blockbuster.run.claim import Claim, claimed
from blockbuster.run.finish import FinishedStage, MergeProgress, progress_bar
from blockbuster.run.plan import (
    RunPlan,
    make_plan,
    warn_of_missing_halo,
    warn_of_repeated_chunks,
    warn_of_small_workers,
)
from blockbuster.run.preflight import refuse_in_starting_worker, warn_of_little_room
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.journal import Journal
from blockbuster.stage.empty import choose_empty_threshold
from blockbuster.stage.masks import describe_mask
from blockbuster.stage.staging import StageOutcome, stage_labels
from blockbuster.stage.task import TileCall

__all__ = ["tile_process"]

logger = logging.getLogger("blockbuster")


def tile_process(
    image: Any,
    fn: Callable[[np.ndarray], Any],
    *,
    tile_shape: Any = None,
    overlap: Any = 0,
    channel: int | None = 0,
    level: int = 0,
    use_gpu: bool = False,
    compute: bool = False,
    progress: bool = False,
    write_to: str | os.PathLike[str] | None = None,
    output_component: str = "labels",
    sequential_labels: bool = False,
    skip_empty: bool = False,
    empty_threshold: float | None = None,
    stage_dir: str | os.PathLike[str] | None = None,
    keep_stage: bool = False,
    verbose: bool = False,
    axes: str | None = None,
    merge: str = "touch",
    min_agreement: float = 0.3,
    connectivity: int | None = None,
    merge_axes: str | None = None,
    resume: bool = False,
    fn_version: str | None = None,
    overwrite: bool = False,
    retries: int = 0,
    on_error: str = "raise",
    tiles_per_task: int | None = None,
    return_report: bool = False,
) -> Any:
    """Apply a segmentation function to every tile of an image and merge the labels.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        An OME-Zarr store, a plain zarr array (path or URL), or an array. It is never written to.
    fn : callable
        ``(ndarray) -> ndarray``: takes a tile with its halo, returns integer labels of the same
        shape, 0 = background. Pickled with cloudpickle where other processes run it.
    tile_shape : None, tuple of int, ``"auto"`` or callable
        Voxels per axis of a tile without halo. ``None``: the image's own chunks (NumPy: one tile).
        A tuple shorter than the axes applies to the last ones, the others get 1. ``"auto"``:
        `auto_tile_shape`. A callable gets ``(shape, dtype)`` and returns a tuple.
    overlap : int or tuple of int
        Halo in voxels, truncated at the image border. A number applies to every axis whose tiles
        are longer than 1; a tuple gives one depth per axis, a shorter one for the last axes.
    channel : int or None
        Channel when `image` is a path; ``None`` keeps the channel axis and never cuts it: fn sees
        all channels and returns labels with or without that axis.
    level : int
        Pyramid level when `image` is a path.
    use_gpu : bool
        Size ``"auto"`` tiles by free GPU memory, and call fn for one tile of a process at a time. Without a dask
        client two tasks of one tile take turns, so that one reads while the other evaluates.
    compute : bool
        Return a NumPy array now.
    progress : bool
        Show progress bars that count tiles.
    write_to : path, optional
        A zarr group on the file system that takes the labels; made where it does not exist.
    output_component : str
        Name of the label array inside `write_to`. In an OME-Zarr image ``"labels/NAME"``: an OME-NGFF label image
        with the levels, axes and scales of the image, listed among its labels.
    sequential_labels : bool
        Number the objects 1..N. Otherwise ids are unique, but there may be gaps.
    skip_empty : bool
        Do not call fn for tiles whose maximum, halo included, is not above `empty_threshold`.
    empty_threshold : float, optional
        ``None``: Otsu's threshold of a bounded sample, lowered where background does not reach it.
    stage_dir : path, optional
        Folder for the temporary stage. ``None``: beside `write_to`, else beside the input where that can be
        written to, else the system's temporary directory.
    keep_stage : bool
        Keep the stage after success. After a failure it is kept where `write_to` or `stage_dir`
        gives it a place, so that ``resume=True`` can continue.
    verbose : bool
        Log each tile's position and shape.
    axes : str, optional
        One letter per axis, e.g. ``"tzyx"``; read from the metadata of an OME-Zarr store. Axes
        ``t`` and ``c`` get no halo and labels are never joined across them: an id that fn gives again at
        another time, or in another channel, is another object, inside a tile too.
    merge : {"touch", "agree", "none"}
        Which labels are one object: ``"touch"``: those that touch across a seam, right for separated objects
        and for thresholds. ``"agree"``: those that touch and of which the two tiles predict the same in the
        halo that both have seen, right for dense tissue. ``"none"``: no two, every tile keeps its own.
    min_agreement : float
        For ``merge="agree"``: least intersection over union, 0 to 1, taken over the connected pieces, inside
        the region that both tiles predicted, that contain the touching voxels. 0 is the same as ``"touch"``.
        Without a halo across a seam, the two planes that touch are compared, laid on each other.
    connectivity : int, optional
        Which neighbours across a seam touch: 1 = faces ... ndim = corners too. ``None``: 1, and ndim with
        ``merge="agree"``.
    merge_axes : str, optional
        Axes along which labels are joined, e.g. ``"yx"``; ``None``: all but t and c. Along the others every
        position has objects of its own, whatever the length of tiles there.
    resume : bool
        Continue an interrupted run from its stage, with its tiles, threshold and tasks; a stage that another
        image, function or setting made is refused. Begins anew where there is none, and returns a finished
        output of the very same call at once. Needs `write_to` or `stage_dir`.
    fn_version : str, optional
        Stands for fn where its code cannot be read (compiled code, network weights): two functions of one
        name with the same string are taken to be the same. Given for the first time, it continues a run of a
        function whose code is the same, and whose files, lists and the like are not.
    overwrite : bool
        Replace an existing label array, once the new one is complete; start anew where an unfinished stage
        lies.
    retries : int
        How often a tile that failed, in fn or while it was read, is tried again.
    on_error : {"raise", "skip"}
        ``"raise"``: stop at the first failed tile, and keep what is finished. ``"skip"``: failed tiles become
        background, and are listed in the report and a warning.
    tiles_per_task : int, optional
        How many neighbouring tiles are read, scheduled and stored together; ``None``: chosen. It
        never changes the result.
    return_report : bool
        Return ``(labels, RunReport)``.

    Returns
    -------
    numpy.ndarray or dask.array.Array
        Labels of the image's shape, without a channel axis that `channel` or fn took away, int32, or int64 for
        more than 2**31 - 1 objects: a dask array backed by `write_to` when that is given and `compute` is not,
        else a NumPy array.

    Raises
    ------
    TypeError, ValueError, FileExistsError, FileNotFoundError
        For the arguments, all in one message, before any work; also if `resume` finds the stage of another
        run, or finished work lies in the stage and neither `resume` nor `overwrite` was given.
    TileError
        If fn fails on a tile, or returns something else than labels.
    PermissionError
        If another user made the stage, or the lock of a run that has ended and in whose folder only they can
        remove it.
    RuntimeError
        If a dask client is active whose workers live in this process, or another run makes this output now.
    OSError
        If the disk is full, or a staged file is missing or damaged.

    Notes
    -----
    fn runs once per non-empty tile, on dask's configured scheduler or on the active client's
    workers. Peak memory depends on tile, halo and number of workers, not on the image (a NumPy
    result apart). Each label voxel is written twice and read once.

    Examples
    --------
    >>> from scipy import ndimage
    >>> image = np.zeros((64, 64), "uint8")
    >>> image[10:50, 20:30] = 1
    >>> labels = tile_process(image, lambda tile: ndimage.label(tile)[0], tile_shape=(16, 16))
    >>> labels.shape, np.unique(labels).tolist()
    ((64, 64), [0, 1])
    """
    options = dict(locals())
    refuse_in_starting_worker()
    plan = make_plan(options.pop("image"), options.pop("fn"), options)
    warn_of_repeated_chunks(plan)
    warn_of_missing_halo(plan)
    warn_of_small_workers(plan)
    warn_of_little_room(plan)
    warn_of_transformations_left_out(plan.place, plan.geometry)
    with (
        _logged(plan),
        _made_folders_removed(plan),
        claimed(plan, fn) as claim,
        plan.execution.opened() as execution,
    ):
        report = RunReport(claim.plan.settings, claim.plan.tile_runs, installed_versions())
        labels, report = _Run(claim, fn, report, execution).labels()
    logger.info("%s", report)
    return (labels, report) if return_report else labels


@dataclass(frozen=True)
class _Run:
    """A plan on its way to labels."""

    claim: Claim
    fn: Callable[[np.ndarray], Any]
    report: RunReport
    execution: Execution

    @property
    def plan(self) -> RunPlan:
        return self.claim.plan

    def labels(self) -> tuple[Any, RunReport]:
        """Stage and merge, or take what is there."""
        if self.claim.finished is not None:
            assert self.plan.place is not None
            logger.info("%s is complete already", self.plan.place.path)
            return self._stored(self.plan.place), self.claim.finished
        logger.info("%s in %s", "continuing" if self.claim.resumes else "staging", self.claim.directory)
        return self.merge(self.stage()), self.report

    def stage(self) -> StageOutcome:
        """Run fn on every tile."""
        plan, options = self.plan, self.plan.options
        with self.report.timed("stage"), progress_bar(bool(options.progress), "segment", plan.n_tiles) as advance:
            outcome = stage_labels(
                plan.source,
                self._tile_call(),
                plan.bricks,
                self.claim.directory,
                self.execution,
                merge_axes=plan.joined_axes,
                connectivity=plan.connectivity,
                min_agreement=plan.min_agreement,
                fixed_bricks=options.tiles_per_task is not None,
                verbose=bool(options.verbose),
                on_tiles=advance,
                growth=self.claim.growth,
            )
        self._report_stage(outcome)
        return outcome

    def _tile_call(self) -> TileCall:
        plan, options = self.plan, self.plan.options
        threshold, background = plan.empty_threshold, None
        # A run that is continued keeps its own.
        if options.skip_empty and threshold is None and not self.claim.resumes:
            skips = options.on_error == "skip"
            threshold, background = choose_empty_threshold(plan.source, plan.grid, skip_errors=skips)
        return TileCall(
            plan.grid,
            self.fn,
            threshold,
            background,
            plan.channel_axis,
            apart_axes=plan.apart_axes,
            retries=int(options.retries),
            skip_errors=options.on_error == "skip",
            one_at_a_time=bool(options.use_gpu),
        )

    def _report_stage(self, outcome: StageOutcome) -> None:
        report = self.report
        report.n_tiles, report.n_run, report.n_skipped = self.plan.n_tiles, outcome.n_run, outcome.n_skipped
        report.empty_threshold, report.n_provisional = outcome.empty_threshold, outcome.n_labels
        report.n_retried, report.n_resumed = outcome.n_retried, outcome.n_resumed
        report.failed, report.n_failed = outcome.failed, len(outcome.failed)
        report.seconds["fn"] = outcome.fn_seconds
        report.fingerprint, report.samples = self.claim.fingerprint, outcome.samples
        self.claim.growth.look()
        report.grown = self.claim.growth.grown
        if self.claim.resumes:
            report.resumed_from = "stage" if outcome.n_resumed < report.n_tiles else "seams"
        if outcome.n_skipped and outcome.n_skipped == report.n_tiles:
            warn_user(
                f"All {report.n_tiles} tiles were skipped as empty (maximum <= {report.empty_threshold:g}); "
                "lower empty_threshold or pass skip_empty=False if the image is not empty.",
            )
        elif outcome.high_skipped:
            warn_user(
                f"{outcome.n_skipped} of {report.n_tiles} tiles were skipped as empty (maximum <= "
                f"{report.empty_threshold:g}), and {outcome.high_skipped}: they may hold objects. Look at the "
                "picture and the maxima of estimate_empty_tiles, and pass an empty_threshold.",
            )
        if outcome.failed:
            warn_user(_describe_failed(outcome.failed))
        if outcome.n_masks:
            warn_user(describe_mask(outcome.n_masks))

    def merge(self, outcome: StageOutcome) -> Any:
        """Join labels across seams and write the final ones."""
        plan, directory = self.plan, self.claim.directory
        options, place = plan.options, plan.place
        axes = plan.source.axes
        if axes is not None and len(axes) != outcome.staged.bricks.grid.ndim:
            axes = axes.replace("c", "")  # fn took it away
        done = MergeProgress.read(directory) if self.claim.resumes else MergeProgress()
        if done.seams:
            self.report.resumed_from = "write"
        with Journal(directory) as journal:
            finished = FinishedStage(
                outcome.staged,
                ArrayFolder(directory),
                self.execution,
                self.report,
                bool(options.progress),
                journal,
                done,
                self.claim.run,
                self.claim.check_locks,
            )
            table = finished.match(sequential=bool(options.sequential_labels), axes=axes)
            if place is None:
                return finished.to_numpy(table)
            finished.publish(table, place, axes, plan.geometry)
            self.report.labels_at(place.array_path)
        return self._stored(place)

    def _stored(self, place: OutputPlace) -> Any:
        labels = open_labels(place.array_path)
        if self.plan.options.compute:
            return np.asarray(labels[...])
        import dask.array as da

        return da.from_array(labels, chunks=labels.shards or labels.chunks)


def _describe_failed(failed: list[list[Any]]) -> str:
    listed = "; ".join(f"{tuple(tile)}: {what}" for tile, what in failed[:3])
    more = f"; and {len(failed) - 3} more, all in the report" if len(failed) > 3 else ""
    return f"{len(failed)} tiles failed and are background in the labels: {listed}{more}."


class _TerminalFormatter(logging.Formatter):
    """Write out what a terminal would obey: names come from metadata, and errors from anybody."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


class _LogOnStderr:
    """Show the log for as long as a verbose run of any thread is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_runs = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._n_runs += 1
            if self._n_runs > 1 or logger.hasHandlers():
                return
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(_TerminalFormatter("%(message)s"))
            self._undo.callback(logger.setLevel, logger.level)
            self._undo.callback(logger.removeHandler, handler)
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_runs -= 1
            if not self._n_runs:
                self._undo.close()


_log_on_stderr = _LogOnStderr()


@contextlib.contextmanager
def _logged(plan: RunPlan) -> Iterator[None]:
    """Show the log of a verbose run where the user has not configured logging."""
    if not plan.options.verbose:
        yield
        return
    with _log_on_stderr:
        logger.info("%s", plan)
        yield


@contextlib.contextmanager
def _made_folders_removed(plan: RunPlan) -> Iterator[None]:
    """Remove those folders for stage and output in the end that the run made and that hold nothing."""
    folders = [plan.stage_parent] + ([os.path.dirname(plan.place.store)] if plan.place else [])
    missing = [path for folder in folders for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
