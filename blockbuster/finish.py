"""From a finished stage to final labels: match the seams, write, publish."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.cluster import Execution
from blockbuster.merge.merging import match_seams, write_final_labels
from blockbuster.merge.table import RemapTable
from blockbuster.output.publishing import OutputPlace, partial_output
from blockbuster.output.storage import label_chunks
from blockbuster.output.targets import ArrayTarget, NpyTarget, ZarrTarget
from blockbuster.report import RunReport
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels

__all__ = ["FinishedStage", "progress_bar"]

REPORT = "blockbuster-report.json"


@dataclass(frozen=True)
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
    """

    staged: StagedLabels
    arrays: ArrayFolder
    execution: Execution
    report: RunReport
    progress: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the label image."""
        return self.staged.bricks.grid.shape

    @property
    def storage(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Chunk and shard of the label image."""
        return label_chunks(self.staged.bricks.grid)

    def match(self, *, sequential: bool) -> RemapTable:
        """Join labels across seams."""
        with self.report.timed("seams"), self._bar("match seams") as advance:
            match = match_seams(self.staged, self.arrays, self.execution, sequential=sequential, on_done=advance)
        self.report.n_objects, self.report.n_pairs = match.table.n_objects, match.n_pairs
        return match.table

    def publish(self, table: RemapTable, place: OutputPlace, axes: str | None) -> None:
        """Write the labels to a zarr array that becomes visible once it is complete."""
        with partial_output(place, self.shape, table.dtype, *self.storage, axes) as path:
            with self.report.timed("write"):
                self._fill(ZarrTarget(path), table.dtype)
            with open(os.path.join(path, REPORT), "w") as file:
                file.write(self.report.to_json())

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
        shard = self.storage[1]
        with self._bar("write labels") as advance:
            write_final_labels(self.staged, self.arrays, target, shard, self.execution, dtype, on_done=advance)

    def _bar(self, name: str) -> contextlib.AbstractContextManager[Callable[[int], Any]]:
        return progress_bar(self.progress, name, self.staged.bricks.grid.n_tiles)


@contextlib.contextmanager
def progress_bar(shown: bool, name: str, n_tiles: int) -> Iterator[Callable[[int], Any]]:
    """Show progress in tiles, or nothing."""
    if not shown:
        yield bool
        return
    with warnings.catch_warnings():
        # Without ipywidgets tqdm shows its text bar in a notebook and complains; the bar is enough.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    with tqdm(total=n_tiles, desc=name, unit="tile") as bar:
        yield bar.update
