"""From a finished stage to final labels: match the seams, write, publish."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.cluster import Execution
from blockbuster.failpoints import reach
from blockbuster.merge.merging import match_seams, write_final_labels
from blockbuster.merge.table import RemapTable
from blockbuster.output.publishing import OutputPlace, partial_output
from blockbuster.output.storage import label_chunks
from blockbuster.output.targets import ArrayTarget, NpyTarget, ZarrTarget
from blockbuster.report import REPORT, RunReport, SeamReport
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.durable import write_atomically
from blockbuster.rundir.journal import Journal, read_journal
from blockbuster.rundir.staged import StagedLabels

__all__ = ["FinishedStage", "MergeProgress", "progress_bar"]

# What the remap table is kept in.
TABLE = ("counts", "offsets", "border", "roots", "numbers")


@dataclass
class MergeProgress:
    """How far an earlier run came with the merge of the same stage.

    Parameters
    ----------
    seams : dict
        Record of the matched seams; empty where they are not matched.
    boxes : dict
        Boxes that were written, with their checksums.
    """

    seams: dict[str, Any] = field(default_factory=dict)
    boxes: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: str) -> MergeProgress:
        """Read the journal: what was merged before a task of the stage ran again does not count."""
        progress = cls()
        for record in read_journal(directory):
            if "task" in record:
                progress = cls()
            elif "seams" in record:
                progress = cls(record["seams"])
            elif "box" in record:
                progress.boxes[record["box"]] = record["crc"]
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
        Takes what the merge came to.
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the label image."""
        return self.staged.bricks.grid.shape

    @property
    def storage(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Chunk and shard of the label image."""
        return label_chunks(self.staged.bricks.grid)

    def match(self, *, sequential: bool, axes: str | None = None) -> RemapTable:
        """Join labels across seams; `axes` names those of the labels."""
        with self.report.timed("seams"), self._bar("match seams") as advance:
            if self.done.seams and self.arrays.checksum(*TABLE) == self.done.seams["crc"]:
                table, seams = RemapTable.load(self.arrays), SeamReport.from_dict(self.done.seams["report"])
                advance(self.staged.bricks.grid.n_tiles)
            else:
                found = match_seams(
                    self.staged, self.arrays, self.execution, sequential=sequential, on_done=advance
                )
                table, seams = found.table, found.report(self.staged, axes)
                self.done = MergeProgress()
                crc = self.arrays.checksum(*TABLE)
                self._record({"seams": {"crc": crc, "report": dataclasses.asdict(seams)}})
        reach("seams matched")
        self.report.n_objects, self.report.seams = table.n_objects, seams
        if seams.runaway:
            warnings.warn(seams.runaway, stacklevel=5)
        return table

    def publish(self, table: RemapTable, place: OutputPlace, axes: str | None) -> None:
        """Write the labels to a zarr array that becomes visible once it is complete."""
        layout = (self.shape, table.dtype, *self.storage, axes)
        with partial_output(place, *layout, run=self.run, continues=bool(self.done.boxes)) as path:
            with self.report.timed("write"):
                self._fill(ZarrTarget(path), table.dtype)
            write_atomically(os.path.join(path, REPORT), self.report.to_json().encode())
            reach("output complete")
            if self.journal is not None:
                self.journal.flush()
            self.check()

    def to_numpy(self, table: RemapTable) -> np.ndarray:
        """Write the labels to memory; other processes write to a file that all can map."""
        with self.report.timed("write"):
            labels = np.zeros(self.shape, table.dtype)
            if self.execution.in_process:
                self._fill(ArrayTarget(labels), table.dtype)
                return labels
            self.arrays.save("labels", labels)
            self._fill(NpyTarget(self.arrays.file("labels")), table.dtype)
            return np.array(self.arrays.load("labels"))

    def _fill(self, target: ArrayTarget | NpyTarget | ZarrTarget, dtype: np.dtype) -> None:
        def keep(number: int, checksum: str) -> None:
            reach("box written")
            if isinstance(target, ZarrTarget):
                self._record({"box": number, "crc": checksum})
            reach("box journalled")

        with self._bar("write labels") as advance:
            write_final_labels(
                self.staged,
                self.arrays,
                target,
                self.storage[1],
                self.execution,
                dtype,
                written=self.done.boxes,
                on_box=keep,
                on_done=advance,
            )

    def _record(self, record: dict[str, Any]) -> None:
        if self.journal is not None:
            self.journal.append(record)

    def _bar(self, name: str) -> contextlib.AbstractContextManager[Callable[[int], Any]]:
        return progress_bar(self.progress, name, self.staged.bricks.grid.n_tiles)


@contextlib.contextmanager
def progress_bar(shown: bool, name: str, total: int, unit: str = "tile") -> Iterator[Callable[[int], Any]]:
    """Show progress, or nothing."""
    if not shown:
        yield bool
        return
    with warnings.catch_warnings():
        # Without ipywidgets tqdm shows its text bar in a notebook and complains; the bar is enough.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    with tqdm(total=total, desc=name, unit=unit) as bar:
        yield bar.update
