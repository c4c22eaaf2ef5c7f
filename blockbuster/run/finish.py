"""From a finished stage to final labels: match the seams, write, publish."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.compat import told_of_compiling
from blockbuster.errors import muted, warn_user
from blockbuster.execution import Execution
from blockbuster.execution.memory import give_back_freed_memory
from blockbuster.measure.columns import Columns, ObjectColumns
from blockbuster.measure.table import write_table
from blockbuster.merge.completion import is_kept
from blockbuster.merge.merging import match_seams, write_boxes, write_final_labels
from blockbuster.merge.remap import FinalLabels
from blockbuster.merge.rules import MergeRule, rule_of
from blockbuster.merge.table import RemapTable
from blockbuster.output.layout import ArrayLayout, OutputLayout, label_chunks
from blockbuster.output.places import OutputPlace
from blockbuster.output.publishing import PartialOutput, partial_outputs
from blockbuster.output.pyramid import LevelJob, fill_level_box, level_jobs
from blockbuster.output.targets import ArrayTarget, NpyTarget, Target
from blockbuster.report import OBJECTS, REPORT, RunReport, SeamReport
from blockbuster.run.objects import ObjectTable, made_ahead, table_in_memory
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.durable import write_atomically
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.journal import Journal, read_journal
from blockbuster.rundir.staged import StagedLabels
from blockbuster.source.geometry import Geometry

logger = logging.getLogger("blockbuster")

COMPILING = "compiling, once on this machine"
# What the remap table is kept in.
TABLE = ("counts", "offsets", "border", "roots", "numbers", "completed", "weakest_ids", "weakest")


@dataclass
class MergeProgress:
    """How far an earlier run came with the merge of the same stage.

    Parameters
    ----------
    seams : dict
        Record of the matched seams; empty where they are not matched.
    boxes : dict
        Per level of the labels the boxes that were written, with their checksums.
    """

    seams: dict[str, Any] = field(default_factory=dict)
    boxes: dict[int, dict[int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: str, number: int = 0) -> MergeProgress:
        """Read the journal, of one of the results: what was merged before a task of the stage ran
        again does not count.
        """
        progress = cls()
        for record in read_journal(directory):
            if "task" in record:
                progress = cls()
            elif record.get("result", 0) != number:
                continue
            elif "seams" in record:
                progress = cls(record["seams"])
            elif "box" in record:
                progress.boxes.setdefault(record.get("level", 0), {})[record["box"]] = record["crc"]
        return progress


@dataclass
class FinishedStage:
    """A stage whose bricks are all there.

    Parameters
    ----------
    staged : StagedLabels
        The stage; it is only read.
    arrays : ArrayFolder
        Holds ``counts``; takes what the tasks of the merge share.
    execution : Execution
        Where to run.
    report : RunReport
        Takes the results of the merge.
    progress : bool
        Show progress bars.
    journal : Journal or None
        Takes a record of what is merged, so that it need not be done again.
    done : MergeProgress
        What an earlier run merged.
    run : str
        Name of the run; empty for one that cannot be resumed.
    check : callable
        Called before the output is published; raises if this run may not do so any more.
    rule : MergeRule or None
        How labels are joined; ``None``: as the stage was made for.
    objects : ObjectTable or None
        What is measured of objects.
    """

    staged: StagedLabels
    arrays: ArrayFolder
    execution: Execution
    report: RunReport
    progress: bool = False
    journal: Journal | None = None
    done: MergeProgress = field(default_factory=MergeProgress)
    run: str = ""
    check: Callable[[], Any] = bool
    rule: MergeRule | None = None
    objects: ObjectTable | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the label image."""
        return self.staged.bricks.grid.shape

    @property
    def storage(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Chunk and shard of the label image."""
        return label_chunks(self.staged.bricks.grid)

    def final_labels(self, dtype: np.dtype) -> FinalLabels:
        """Return the labels with their final ids, once seams are matched."""
        return FinalLabels(self.staged, self.arrays, dtype)

    def match(self, *, sequential: bool, axes: str | None = None) -> np.dtype:
        """Join labels across seams; return the dtype of the final ones. `axes` names their axes."""
        with self.report.timed("seams"), self._bar("match seams") as advance:
            if self.done.seams and self._is_matched(self.done.seams["crc"]):
                table, seams = RemapTable.load(self.arrays), SeamReport.from_dict(self.done.seams["report"])
                advance(self.staged.bricks.grid.n_tiles)
            else:
                found = match_seams(
                    self.staged,
                    self.arrays,
                    self.execution,
                    rule=self.rule,
                    sequential=sequential,
                    on_done=advance,
                )
                table, seams = found.table, found.report(self.staged, axes)
                self.done = MergeProgress()
                crc = self.arrays.checksum(*TABLE)
                self._record({"seams": {"crc": crc, "report": dataclasses.asdict(seams)}})
        reach("seams matched")
        self.report.n_objects, self.report.seams = table.n_objects, seams
        if seams.runaway:
            warn_user(seams.runaway)
        return table.dtype

    def _is_matched(self, crc: str) -> bool:
        return self.arrays.checksum(*TABLE) == crc and is_kept(self.arrays)

    def publish(
        self, dtype: np.dtype, place: OutputPlace, axes: str | None, geometry: Geometry | None = None
    ) -> None:
        """Write the labels to a place where they become visible once they are complete."""
        publish_together([(self, dtype, place)], axes, geometry)

    def write_output(self, dtype: np.dtype, place: OutputPlace, layout: OutputLayout, path: str) -> None:
        """Write the labels, their table and the report to a folder where nobody sees them yet."""
        self._write(place.target(path, layout), dtype, self._keep_boxes(0))
        self._write_levels(level_jobs(path, layout, place.partial.path))
        self._write_objects(os.path.join(path, place.finest, OBJECTS), dtype)
        write_atomically(os.path.join(path, place.finest, REPORT), self.report.to_json().encode())

    def to_numpy(self, dtype: np.dtype) -> np.ndarray:
        """Write the labels to memory; other processes write to a file that all can map."""
        labels = np.zeros(self.shape, dtype)
        if self.execution.in_process:
            self._write(ArrayTarget(labels), dtype, _pass_by)
            return labels
        self.arrays.save("labels", labels)
        self._write(NpyTarget(self.arrays.file("labels")), dtype, _pass_by)
        return np.array(self.arrays.load("labels"))

    def _write(self, target: Target, dtype: np.dtype, on_box: Callable[[int, str], None]) -> None:
        # The C library keeps what the tables of the seams took, and has no use for it.
        give_back_freed_memory()
        with self.report.timed("write"), self._bar("write labels") as advance:
            write_final_labels(
                self.final_labels(dtype),
                target,
                self.storage[1],
                self.execution,
                written=self.done.boxes.get(0),
                on_box=on_box,
                on_done=advance,
            )

    def _write_levels(self, jobs: dict[int, LevelJob]) -> None:
        """Write the levels that are not written together with the finest one."""
        if not jobs:
            return
        n_boxes = sum(job.boxes.n_tiles for job in jobs.values())
        with (
            self.report.timed("pyramid"),
            progress_bar(self.progress, self._titled("coarser levels"), n_boxes, "box") as advance,
        ):
            for number, job in jobs.items():
                write_boxes(
                    fill_level_box,
                    job,
                    self.execution,
                    self.arrays.path,
                    written=self.done.boxes.get(number),
                    on_box=self._keep_boxes(number),
                    on_done=lambda _: advance(1),
                )

    def _write_objects(self, path: str, dtype: np.dtype) -> None:
        """Write the table of objects, where they are measured."""
        if self.objects is None:
            return
        columns = self._columns(dtype)
        with self.report.timed("table"):
            write_table(
                path,
                self.objects.dtypes(columns),
                self._batches(columns),
                about=self.objects.about,
                n_rows=self.report.n_objects,
            )

    def objects_in_memory(self, dtype: np.dtype) -> Any:
        """Return the table of objects, where they are measured, as a DataFrame of pandas."""
        if self.objects is None:
            return None
        columns = self._columns(dtype)
        with self.report.timed("table"):
            return table_in_memory(self.objects.dtypes(columns), self._batches(columns))

    def _columns(self, dtype: np.dtype) -> ObjectColumns:
        assert self.objects is not None
        rule = self.rule or rule_of(self.staged)
        return self.objects.columns(dtype, agrees=rule.looks_beyond_pairs)

    def _batches(self, columns: ObjectColumns) -> Iterator[Columns]:
        """Iterate over the objects, and show how far it is."""
        assert self.objects is not None
        title = self._titled("measure objects")
        with progress_bar(self.progress, title, self.report.n_objects, "object") as advance:
            for batch in made_ahead(self.objects.batches(self.arrays, self.execution, columns)):
                yield batch
                advance(len(batch["label"]))

    def _keep_boxes(self, level: int) -> Callable[[int, str], None]:
        """Keep a record of each box of a level that is written."""

        def keep(number: int, checksum: str) -> None:
            reach("box written")
            self._record({"box": number, "crc": checksum, **({"level": level} if level else {})})
            reach("box journalled")

        return keep

    def _record(self, record: dict[str, Any]) -> None:
        number = self.staged.number
        if self.journal is not None:
            self.journal.append({**record, "result": number} if number else record)

    def _bar(self, name: str) -> contextlib.AbstractContextManager[Callable[[int], Any]]:
        return progress_bar(self.progress, self._titled(name), self.staged.bricks.grid.n_tiles)

    def _titled(self, name: str) -> str:
        return f"{name} of {self.report.name}" if self.report.name else name


def publish_together(
    stages: Sequence[tuple[FinishedStage, np.dtype, OutputPlace]],
    axes: str | None,
    geometry: Geometry | None = None,
) -> None:
    """Write the labels of several stages to places where they become visible once all of them are
    complete.

    Parameters
    ----------
    stages : sequence of (FinishedStage, dtype, OutputPlace)
        Of one run; seams are matched, and labels have these dtypes.
    axes : str or None
        Names of their axes.
    geometry : Geometry or None
        Where the labels lie in the world.
    """
    layouts, outputs = [], []
    for stage, dtype, place in stages:
        array = ArrayLayout(stage.shape, dtype, *stage.storage, tuple(axes) if axes else None)
        layouts.append(place.layout(array, geometry))
        create = functools.partial(place.create, layout=layouts[-1])
        outputs.append(PartialOutput(place, create, continues=bool(stage.done.boxes)))
    first, _, place = stages[0]

    def note_moves() -> None:
        if first.journal is not None:
            first.journal.append({"moves": place.replaces})
            first.journal.flush()
        reach("moves journalled")

    with partial_outputs(outputs, run=first.run, on_complete=note_moves) as paths:
        for (stage, dtype, place), layout, path in zip(stages, layouts, paths, strict=True):
            stage.write_output(dtype, place, layout, path)
        reach("output complete")
        if first.journal is not None:
            first.journal.flush()
        first.check()


def _pass_by(_number: int, _checksum: str) -> None:
    """Keep no record of a box in memory, which is lost with the process."""
    reach("box written")


@contextlib.contextmanager
def progress_bar(shown: bool, name: str, total: int, unit: str = "tile") -> Iterator[Callable[[int], Any]]:
    """Show progress where it is wanted, and that kernels are compiled, which nobody expects."""
    if not shown:
        with told_of_compiling(_log_compiling):
            yield bool
        return
    from tqdm import TqdmWarning

    # Without ipywidgets tqdm shows its text bar in a notebook and complains; the bar is enough.
    with muted(TqdmWarning):
        from tqdm.auto import tqdm
    with (
        tqdm(total=total, desc=name, unit=unit) as bar,
        told_of_compiling(lambda begins: bar.set_postfix_str(COMPILING if begins else "")),
    ):
        yield bar.update


@functools.cache
def _log_compiling(begins: bool) -> None:
    """Say it once in each process."""
    if begins:
        logger.info(COMPILING)
