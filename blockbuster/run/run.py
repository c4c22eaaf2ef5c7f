"""A run under way: what it holds while it lasts, its two phases and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.compat import is_starting_worker
from blockbuster.errors import escape_controls, warn_user
from blockbuster.execution import Execution
from blockbuster.measure.columns import scale_of
from blockbuster.output.places import warn_of_transformations_left_out
from blockbuster.report import DEVICE_PHASES, RunReport, installed_versions
from blockbuster.run.alignment import warn_of_thin_halo
from blockbuster.run.claim import Claim, claimed
from blockbuster.run.finish import FinishedStage, MergeProgress, progress_bar, publish_together
from blockbuster.run.objects import ObjectTable
from blockbuster.run.plan import RunPlan, warn_of_missing_halo
from blockbuster.run.resources import warn_of_little_room, warn_of_repeated_chunks, warn_of_small_workers
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.durable import folders_made
from blockbuster.rundir.journal import Journal
from blockbuster.stage.empty_threshold import choose_empty_threshold, describe_high_skipped
from blockbuster.stage.finished import read_samples
from blockbuster.stage.inside import choose_pieces_inside
from blockbuster.stage.masks import describe_mask
from blockbuster.stage.results import UNNAMED
from blockbuster.stage.staging import stage_labels
from blockbuster.stage.tally import Tally
from blockbuster.stage.task import StageJob
from blockbuster.stage.tile_call import TileCall

logger = logging.getLogger("blockbuster")


@contextlib.contextmanager
def open_run(plan: RunPlan, fn: Callable[[np.ndarray], Any]) -> Iterator[Run]:
    """Hold what a run needs while it lasts: warnings first, then log, folders, locks and workers.

    Parameters
    ----------
    plan : RunPlan
        What will be done.
    fn : callable
        The function.

    Yields
    ------
    Run

    Raises
    ------
    RuntimeError
        If another process makes the same output now.
    OSError
        If what is stored for certain does not fit on the disk.
    ValueError, FileExistsError, PermissionError
        If what is there is in the way, as in `claimed`.
    """
    warn_of_repeated_chunks(plan)
    warn_of_missing_halo(plan)
    warn_of_thin_halo(plan.grid, plan.predictor)
    warn_of_small_workers(plan)
    warn_of_little_room(plan)
    warn_of_transformations_left_out(plan.place, plan.geometry)
    parents = [plan.stage_parent, *([os.path.dirname(plan.place.store)] if plan.place else [])]
    with _logged(plan):
        with (
            folders_made(*parents),
            claimed(plan, fn) as claim,
            plan.execution.opened() as execution,
        ):
            report = claim.finished or RunReport(claim.plan.settings, claim.plan.tile_runs, installed_versions())
            run = Run(claim, fn, execution, report)
            if run.is_finished:
                logger.info("%s is complete already", plan.place and plan.place.path)
            else:
                logger.info("%s in %s", "continuing" if claim.resumes else "staging", claim.directory)
            yield run
        logger.info("%s", run.report)


@dataclass
class Run:
    """A plan on its way to labels.

    Parameters
    ----------
    claim : Claim
        What the run has for itself, with the plan as it is carried out.
    fn : callable
        The function.
    execution : Execution
        Where tasks run, its workers started.
    report : RunReport
        Takes the results of the phases.
    job : StageJob or None
        What the tasks of the finished stage shared.
    names : tuple of str
        Names of the results of fn, once it was called.
    labels : dict of str to ndarray
        The merged labels, where they are not written to a place.
    """

    claim: Claim
    fn: Callable[[np.ndarray], Any]
    execution: Execution
    report: RunReport
    job: StageJob | None = None
    names: tuple[str, ...] = UNNAMED
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def plan(self) -> RunPlan:
        """The plan, with the tiles of a run that is continued."""
        return self.claim.plan

    @property
    def is_finished(self) -> bool:
        """Whether the output of this very call is there already."""
        return self.claim.finished is not None

    def stage(self, name: str = "segment") -> None:
        """Run fn on every tile; `name` is what the progress bar calls it."""
        plan, options = self.plan, self.plan.options
        with (
            self.report.timed("stage"),
            progress_bar(options.progress, name, plan.n_tiles) as advance,
            plan.stage_execution(self.execution).opened() as execution,
        ):
            job, tally = stage_labels(
                plan.source,
                self._tile_call(),
                plan.bricks,
                self.claim.directory,
                execution,
                merge_axes=plan.merge_axes,
                connectivity=plan.connectivity,
                rule=options.rule,
                fixed_bricks=options.tiles_per_task is not None,
                verbose=options.verbose,
                on_tiles=advance,
                growth=self.claim.growth,
                measures=plan.measures,
                on_names=self.claim.name_results,
            )
        self.job, self.names = job, self._names_of(tally)
        self._report_stage(tally, job.call)

    def _names_of(self, tally: Tally) -> tuple[str, ...]:
        names = tally.names or self.claim.names
        if names is None and self.plan.place is not None:
            raise ValueError(
                "fn was called for no tile, so that the names of its results are not known; give "
                "output_component as a dict of name to place."
            )
        return names or UNNAMED

    def _tile_call(self) -> TileCall:
        plan, options = self.plan, self.plan.options
        threshold, background = plan.empty_threshold, None
        # A run that is continued keeps its own.
        if options.skip_empty and threshold is None and not self.claim.resumes:
            skips = options.on_error == "skip"
            boxes = choose_pieces_inside(plan.source, plan.grid, plan.inside)
            threshold, background = choose_empty_threshold(plan.source, plan.grid, boxes=boxes, skip_errors=skips)
        return TileCall(
            plan.grid,
            self.fn,
            threshold,
            background,
            plan.channel_axis,
            apart_axes=plan.apart_axes,
            retries=options.retries,
            skip_errors=options.on_error == "skip",
            inside=plan.inside,
            one_at_a_time=options.use_gpu,
            names=self.claim.names,
            decode_turns=threading.Semaphore(plan.execution.n_workers) if plan.keeps_device_fed else None,
        )

    def _report_stage(self, tally: Tally, call: TileCall) -> None:
        report, plan = self.report, self.plan
        report.n_tiles, report.n_skipped = plan.n_tiles, tally.n_skipped
        report.n_run, report.n_resumed = plan.n_tiles - tally.n_skipped, tally.n_resumed
        report.n_outside = tally.n_outside
        report.empty_threshold, report.n_provisional = call.empty_threshold, int(tally.counts.sum())
        report.n_retried, report.seconds["fn"] = tally.n_retried, tally.fn_seconds
        if tally.device is not None:
            report.seconds |= dict(zip(DEVICE_PHASES, tally.device.tolist(), strict=True))
        report.failed, report.n_failed = sorted(tally.failed), len(tally.failed)
        report.fingerprint = self.claim.fingerprint
        if plan.source.sampled:
            report.samples = read_samples(self.claim.directory, plan.grid)
        self.claim.growth.look()
        report.grown = self.claim.growth.grown
        if self.claim.resumes:
            report.resumed_from = "stage" if report.n_resumed < report.n_tiles else "seams"
        self._warn_of_stage(tally, call)

    def _warn_of_stage(self, tally: Tally, call: TileCall) -> None:
        report = self.report
        high_skipped = describe_high_skipped(tally.maxima, call.background) if call.background else ""
        n_empty = report.n_skipped - report.n_outside
        if report.n_outside and report.n_outside == report.n_tiles:
            warn_user(
                f"No tile meets the mask, and all {report.n_tiles} are background: it has nothing inside, or "
                "lies elsewhere than the image; compare the metadata of both.",
            )
        elif n_empty and report.n_skipped == report.n_tiles:
            warn_user(
                f"All {n_empty} tiles{' inside the mask' if report.n_outside else ''} were skipped as empty "
                f"(maximum <= {report.empty_threshold:g}); lower empty_threshold or pass skip_empty=False if the "
                "image is not empty.",
            )
        elif high_skipped:
            warn_user(
                f"{n_empty} of {report.n_tiles} tiles were skipped as empty (maximum <= "
                f"{report.empty_threshold:g}), and {high_skipped}: they may hold objects. Look at the "
                "picture and the maxima of estimate_empty_tiles, and pass an empty_threshold.",
            )
        if report.n_failed:
            listed = "; ".join(f"{tuple(tile)}: {what}" for tile, what in report.failed[:3])
            more = f"; and {report.n_failed - 3} more, all in the report" if report.n_failed > 3 else ""
            warn_user(f"{report.n_failed} tiles failed and are background in the labels: {listed}{more}.")
        for name, in_pieces, counts in zip(self.names, tally.in_pieces, tally.counts, strict=False):
            if in_pieces:
                which = f"result {name!r}: " if name else ""
                warn_user(which + describe_mask(int(np.count_nonzero(counts))))

    def merge(self) -> None:
        """Join labels across seams and write the final ones, of each result of fn."""
        assert self.job is not None
        options, places = self.plan.options, self.claim.places
        axes = self.plan.source.axes
        if axes is not None and len(axes) != self.job.staged.bricks.grid.ndim:
            axes = axes.replace("c", "")  # fn took it away
        with Journal(self.claim.directory) as journal:
            finished = {name: self._finished(number, journal) for number, name in enumerate(self.names)}
            dtypes = {
                name: stage.match(sequential=options.sequential_labels, axes=axes)
                for name, stage in finished.items()
            }
            for child, parent in options.parents or ():
                own, labels = finished[child], finished[parent].final_labels(dtypes[parent])
                assert own.objects is not None
                own.objects = own.objects.with_parent(parent, own.final_labels(dtypes[child]), labels)
            if self.plan.place is None:
                self.labels = {name: stage.to_numpy(dtypes[name]) for name, stage in finished.items()}
                for name, stage in finished.items():
                    stage.report.table = stage.objects_in_memory(dtypes[name])
            else:
                stages = [(stage, dtypes[name], places[name]) for name, stage in finished.items()]
                publish_together(stages, axes, self.plan.geometry)
                for stage, _, place in stages:
                    stage.report.labels_at(place.array_path)
        if self.names != UNNAMED:
            self.report = RunReport.of_results({name: stage.report for name, stage in finished.items()})

    def _finished(self, number: int, journal: Journal) -> FinishedStage:
        """Return what merges one of the results."""
        assert self.job is not None
        directory = self.claim.directory
        job = dataclasses.replace(self.job, staged=self.job.staged.of_result(number))
        arrays = ArrayFolder.of_result(directory, number)
        done = MergeProgress.read(directory, number) if self.claim.resumes else MergeProgress()
        if done.seams:
            self.report.resumed_from = "write"
        report = self.report
        if self.names != UNNAMED:
            report = report.of_result(self.names[number], self.names)
            report.n_provisional = int(arrays.load("counts").sum())
        return FinishedStage(
            job.staged,
            arrays,
            self.execution,
            report,
            self.plan.options.progress,
            journal,
            done,
            self.claim.run,
            self.claim.locks.check,
            objects=self._objects(job),
        )

    def _objects(self, job: StageJob) -> ObjectTable | None:
        """Return what is measured of objects, where anything is."""
        if job.measures is None:
            return None
        scale = scale_of(self.plan.geometry, job.staged.bricks.grid.ndim)
        return ObjectTable(job, self.plan.source, scale)

    def result(self) -> Any:
        """Return what `tile_process` does: the labels, and the report where it was asked for."""
        found: dict[str, Any] = self.labels
        if self.plan.place is not None:
            compute = self.plan.options.compute
            found = {name: place.read(compute=compute) for name, place in self.claim.places.items()}
        labels = found[""] if tuple(found) == UNNAMED else found
        return (labels, self.report) if self.plan.options.return_report else labels


def refuse_in_starting_worker() -> None:
    """Refuse a call from a script without a main guard, which a new worker process imports.

    Raises
    ------
    RuntimeError
        In such a worker.
    """
    if is_starting_worker():
        raise RuntimeError(
            "tile_process was called while a worker process imports the main script: put the call under "
            '`if __name__ == "__main__":`.'
        )


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
