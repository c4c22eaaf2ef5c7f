"""The table of objects of a run: what tasks summed, folded through the merge."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.execution import Execution, run_tasks
from blockbuster.measure.columns import Columns, ObjectColumns, Scale
from blockbuster.measure.folding import Folding, LabelledParts
from blockbuster.measure.names import Measures
from blockbuster.measure.sums import Parts
from blockbuster.merge.completion import completed_bricks
from blockbuster.merge.overlaps import find_parents
from blockbuster.merge.remap import FinalLabels
from blockbuster.merge.table import BrickIds, RemapTable, find_among
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.source import Source
from blockbuster.stage.task import StageJob
from blockbuster.stage.values import CompletedJob, sum_completed

# The column with the object of another result that covers most of an object.
PARENT = "parent-{}"


@dataclass(frozen=True)
class ObjectTable:
    """What is measured of the objects of a stage.

    Parameters
    ----------
    job : StageJob
        What the tasks of the stage shared.
    source : Source
        The image that fn saw.
    scale : Scale or None
        What a voxel of the labels is in micrometres.
    parents : dict of str to (FinalLabels, FinalLabels)
        Of other results of fn by their names: the labels of these objects, and the others.
    """

    job: StageJob
    source: Source
    scale: Scale | None = None
    parents: dict[str, tuple[FinalLabels, FinalLabels]] = field(default_factory=dict)

    def with_parent(self, name: str, own: FinalLabels, labels: FinalLabels) -> ObjectTable:
        """Add a column of the objects of another result that cover most of these."""
        return dataclasses.replace(self, parents={**self.parents, name: (own, labels)})

    def dtypes(self, columns: ObjectColumns) -> dict[str, np.dtype]:
        """Return the columns with their dtypes."""
        parents = {PARENT.format(name): labels.dtype for name, (_, labels) in self.parents.items()}
        return {**columns.dtypes, **parents}

    def columns(self, dtype: np.dtype, *, agrees: bool) -> ObjectColumns:
        """Return what derives the columns, for labels of a dtype, with the agreement of tiles if it
        was measured.
        """
        assert self.job.measures is not None
        shape = self.job.staged.bricks.grid.shape
        return ObjectColumns(self.job.measures, shape, dtype, self.scale, agrees)

    @property
    def about(self) -> dict[str, Any]:
        """What the table is of, which does not differ from run to run: the shape of the labels, and
        how they are scaled.
        """
        scale = None if self.scale is None else dataclasses.asdict(self.scale)
        return {"shape": list(self.job.staged.bricks.grid.shape), "micrometres": scale}

    def batches(self, arrays: ArrayFolder, execution: Execution, columns: ObjectColumns) -> Iterator[Columns]:
        """Iterate over the objects, some at a time, with their columns; labels ascend.

        Parameters
        ----------
        arrays : ArrayFolder
            What the merge kept.
        execution : Execution
            Where to run.
        columns : ObjectColumns
            What derives the columns.
        """
        staged, measures = self.job.staged, columns.measures
        ids = BrickIds(staged.bricks, arrays.load("counts"), arrays.load("offsets"))
        table = RemapTable.load(arrays)
        completed = self._completed(arrays, execution, measures)
        weak_ids, weakest = arrays.load("weakest_ids"), arrays.load("weakest")
        parents = {name: find_parents(*pair, execution) for name, pair in self.parents.items()}
        for firsts, n_tiles, objects in Folding(staged, ids, table, measures, completed).objects():
            agreement = np.full(len(firsts), np.nan, np.float32)
            places, hit = find_among(weak_ids, firsts)
            agreement[hit] = weakest[places]
            labels = table.final_ids(firsts)
            batch = columns.of(labels, n_tiles, agreement, objects)
            for name, (children, their) in parents.items():
                column = batch[PARENT.format(name)] = np.zeros(len(labels), their.dtype)
                places, hit = find_among(children, labels)
                column[hit] = their[places]
            yield batch

    def _completed(self, arrays: ArrayFolder, execution: Execution, measures: Measures) -> LabelledParts:
        """Sum what completes objects; values of an image that only the driver can read, there."""
        source, axis = self.source, self.job.call.channel_axis
        seen = dataclasses.replace(self.job.seen, reader=source if measures.channels else None)
        job = CompletedJob(self.job.staged, arrays, seen, 1 if axis is None else source.shape[axis])
        numbers, found = sorted(completed_bricks(arrays)), {}
        nothing = np.zeros(0, np.int64)
        parts = Parts.zeros(0, self.job.staged.bricks.grid.ndim, measures)
        if measures.channels and (source.through_graph or (source.in_memory and not execution.in_process)):
            found = {number: sum_completed(job, number) for number in numbers}
        else:
            run_tasks(
                execution,
                _numbered,
                job,
                numbers,
                directory=arrays.path,
                on_result=lambda result: found.update([result]),
            )
        ordered = [LabelledParts(nothing, nothing, parts), *(found[number] for number in numbers)]
        return LabelledParts.concatenated(ordered).in_order()


def made_ahead(batches: Iterator[Columns]) -> Iterator[Columns]:
    """Iterate over batches, of which the next is made while one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _numbered(job: CompletedJob, number: int) -> tuple[int, LabelledParts]:
    return number, sum_completed(job, number)


def table_in_memory(dtypes: dict[str, np.dtype], batches: Iterable[Columns]) -> Any:
    """Return a table as a DataFrame of pandas."""
    import pandas as pd

    held = list(batches)
    found = {
        name: np.concatenate([np.zeros(0, dtype), *(batch[name] for batch in held)])
        for name, dtype in dtypes.items()
    }
    return pd.DataFrame(found)
