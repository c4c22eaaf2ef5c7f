"""Measure the objects of labels that are complete."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from blockbuster.measure.columns import Columns, ObjectColumns, Scale, scale_of
from blockbuster.measure.folding import MAX_LABELS, Folding, LabelledParts
from blockbuster.measure.names import (
    Channel,
    Measures,
    find_channels,
    parse_measure,
    resolve_measures,
    values_among,
)
from blockbuster.measure.sums import PREFIX, Parts
from blockbuster.measure.table import check_extra, write_table
from blockbuster.merge.table import BrickIds, RemapTable
from blockbuster.output.groups import is_ome_image, is_ome_labels
from blockbuster.output.paths import check_table, default_stage_parent, resolve_place
from blockbuster.output.places import OutputPlace
from blockbuster.output.publishing import replaced_table
from blockbuster.report import OBJECTS
from blockbuster.run.objects import table_in_memory
from blockbuster.run.options import RunOptions
from blockbuster.run.plan import make_plan
from blockbuster.run.run import Run, open_run
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.lock import hold_lock
from blockbuster.source import Source, open_source
from blockbuster.source.geometry import Geometry, geometry_of_level

Path = str | os.PathLike[str]
TILE_VOXELS = 2**22
MAX_EXACT = 2**53


def measure_labels(
    labels: Any,
    image: Any = None,
    *,
    component: str = "labels",
    measure: Any = True,
    level: int = 0,
    axes: str | None = None,
    stage_dir: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Any:
    """Measure every object of labels that exist already, as ``measure`` of `tile_process` does.

    Parameters
    ----------
    labels : path, zarr.Array, dask.array.Array or numpy.ndarray
        The zarr group that holds labels, or an array of integers, 0 = background; one id is one
        object. They are only read.
    image : path, zarr.Array, dask.array.Array or numpy.ndarray, optional
        Whose values are measured, of the labels' shape apart from an axis of channels. ``None``: of
        labels in an OME-Zarr image, that one; of others no values are measured.
    component : str
        For a path: the name of the labels in it, as ``output_component`` of `tile_process`.
    measure : True or list of str
        What is measured, as in `tile_process`; tiles and seams are not known.
    level : int
        The level of `image`, a path, that has the labels' shape.
    axes : str, optional
        Of `image`, one letter per axis; read from metadata where there are any.
    stage_dir : path, optional
        Folder for what is kept until the table is complete. ``None``: beside the labels.
    resume : bool
        Continue a call that was interrupted; begins anew where there was none.
    overwrite : bool
        Replace a table that is there.
    progress : bool
        Show progress bars.

    Returns
    -------
    str or pandas.DataFrame
        For a path, that of the table, which lies with the labels, for `read_objects`; for an array,
        the table.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, FileExistsError
        For the arguments, before any work.
    TileError
        If labels are negative, or cannot be read.
    ImportError
        Without the extra ``table``.

    Notes
    -----
    Labels and values are read once, by bricks, on dask's configured scheduler or the active
    client's workers. Memory grows with the number of labels, about 40 bytes for each.

    Examples
    --------
    >>> labels = np.array([[0, 7, 7], [4, 0, 7]])
    >>> measure_labels(labels)[["label", "area", "centroid-1"]]
       label  area  centroid-1
    0      4     1    0.000000
    1      7     3    1.666667
    """
    check_extra()
    names = parse_measure(measure, "measure")
    if names is None:
        raise ValueError(f"measure is {measure!r}; it is True, or a list of names.")
    job = _open(labels, image, component, names, level=level, axes=axes)
    if job.place is not None:
        job = dataclasses.replace(job, place=check_table(job.place, overwrite=overwrite))
    options = RunOptions(
        # Large ones, so that few objects are cut.
        tile_shape=job.source.block_shape(TILE_VOXELS),
        merge="none",
        # What is in memory only this call knows.
        stage_dir=stage_dir if job.place is None else stage_dir or default_stage_parent(None, job.place),
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    plan = make_plan(job.source, job.fn, options)
    plan = dataclasses.replace(plan, measures=job.measures(plan.merge_axes))
    with open_run(plan, job.fn) as run:
        run.stage("measure")
        return job.table(run)


@dataclass(frozen=True)
class SameLabels:
    """Hand labels on that are there already; values that are measured are those of an image."""

    image: tuple[Any, ...] = ()

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        return tile


@dataclass(frozen=True)
class _Labels:
    """Labels that are measured."""

    source: Source
    place: OutputPlace | None
    names: tuple[str, ...]
    image: Source | None
    channels: tuple[Channel, ...]
    geometry: Geometry | None
    identity: dict[str, Any]

    @property
    def path(self) -> str:
        """Path of the table."""
        assert self.place is not None
        return os.path.join(self.place.array_path, OBJECTS)

    @cached_property
    def fn(self) -> SameLabels:
        """What the run calls for each tile; it differs where the image does."""
        return SameLabels(() if self.image is None else tuple(sorted(map(str, self.image.identity().items()))))

    def measures(self, axes: tuple[int, ...]) -> Measures:
        """What is measured: of the labels themselves, which one a part belongs to."""
        found = resolve_measures(self.names, self.image or self.source, axes, self.channels)
        values = tuple([(name, number + 1) for name, number in found.values])
        return dataclasses.replace(found, channels=(Channel(), *found.channels), values=values)

    def table(self, run: Run) -> Any:
        """Fold the sums, and write the table or return it."""
        columns, batches = self._fold(run)
        if self.place is None:
            return table_in_memory(columns.dtypes, batches)
        with hold_lock(self.place.sibling("lock"), f"the output {self.place.path}"):
            if self.source.identity() != self.identity:
                raise RuntimeError(f"{self.place.path} was changed while it was measured; measure it again.")
            with replaced_table(self.place) as path:
                write_table(path, columns.dtypes, batches, about={"shape": list(self.source.shape)})
        return self.path

    @property
    def scale(self) -> Scale | None:
        """What a voxel is in micrometres."""
        return scale_of(self.geometry, len(self.source.shape))

    def _fold(self, run: Run) -> tuple[ObjectColumns, Iterator[Columns]]:
        """Return what derives the columns, and the objects with them, some at a time."""
        assert run.job is not None
        assert run.job.measures is not None
        staged, measures, arrays = run.job.staged, run.job.measures, ArrayFolder(run.claim.directory)
        ids = BrickIds.from_counts(staged.bricks, arrays.load("counts"))
        labels = np.zeros(int(ids.counts.sum()), np.int64)
        # Of the values of the labels themselves the least is the label.
        section = f"{PREFIX}-values-{len(measures.channels)}"
        for number in range(staged.bricks.n_bricks):
            index = staged.bricks.index(number)
            if ids.n_labels(index):
                labels[ids.all_of(index) - 1] = staged.open_brick(index).read(section)
        if measures.sum_dtype.kind == "f" and labels.max(initial=0) >= MAX_EXACT:
            raise ValueError(f"labels go up to {labels.max()}; beside values that are floats, up to {MAX_EXACT}.")
        nothing = np.zeros(0, np.int64)
        completed = LabelledParts(nothing, nothing, Parts.zeros(0, staged.bricks.grid.ndim, measures))
        folding = Folding(staged, ids, _same_labels(labels), measures, completed)
        columns = ObjectColumns(measures, self.source.shape, self.source.dtype, self.scale, is_of_run=False)
        objects = ((labels[firsts - 1], parts) for firsts, _, parts in folding.objects())
        return columns, _in_order(objects, columns, arrays)


def _same_labels(labels: np.ndarray) -> RemapTable:
    """Return which provisional ids are one object: those of one label."""
    order = np.argsort(labels, kind="stable")
    is_first = np.append(True, np.diff(labels[order]) > 0)[: len(labels)]
    roots = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))] + 1
    absorbed, firsts = order[~is_first] + 1, roots[~is_first]
    again = np.argsort(absorbed)
    return RemapTable(absorbed[again], firsts[again], len(labels), sequential=False)


def _in_order(
    objects: Iterator[tuple[np.ndarray, Parts]], columns: ObjectColumns, arrays: ArrayFolder
) -> Iterator[Columns]:
    """Iterate over objects by their labels, which are met in any order: what is known of them waits
    in files.
    """
    held: list[np.ndarray] = []
    for k, (found, parts) in enumerate(objects):
        held.append(found)
        for j, array in enumerate(parts.arrays):
            arrays.save(f"objects-{k}-{j}", array)
    labels = np.concatenate([np.zeros(0, np.int64), *held])
    starts = np.cumsum([0, *map(len, held)])
    order = np.argsort(labels)
    n_arrays = len(dataclasses.fields(Parts))
    for rows in np.split(order, range(MAX_LABELS, len(order), MAX_LABELS)):
        batches = np.searchsorted(starts, rows, side="right") - 1
        parts = Parts.zeros(len(rows), len(columns.shape), columns.measures)
        for k in np.unique(batches).tolist():
            own = batches == k
            within = rows[own] - starts[k]
            parts.put(own, Parts(*(arrays.load(f"objects-{k}-{j}")[within] for j in range(n_arrays))))
        unknown = np.zeros(0)
        yield columns.of(labels[rows], unknown, unknown, parts)


def _open(
    labels: Any, image: Any, component: str, names: tuple[str, ...], *, level: int, axes: str | None
) -> _Labels:
    """Open labels and the image, and check that they belong together."""
    is_path = isinstance(labels, str | os.PathLike)
    place = resolve_place(labels, component) if is_path else None
    opened: Any = labels
    if place is not None:
        opened = place.path if is_ome_labels(place.path) else place.array_path
    source = open_source(opened)
    if source.dtype.kind not in "iu":
        raise TypeError(f"labels ({source.name}) hold {source.dtype}; they are integers, 0 = background.")
    if image is None and place is not None and is_ome_image(place.store):
        image = place.store
    seen: Source | None = None
    channels: list[Channel] = []
    if values_among(names):
        if image is None:
            raise ValueError(f"measure names {values_among(names)[0]}, of the values of an image; pass image.")
        seen, channels = _open_channels(image, level, axes, source)
    geometry = geometry_of_level(opened, 0) or geometry_of_level(image, level)
    return _Labels(source, place, names, seen, tuple(channels), geometry, source.identity())


def _open_channels(image: Any, level: int, axes: str | None, labels: Source) -> tuple[Source, list[Channel]]:
    """Open the channels of an image, each of the shape of labels."""
    whole = open_source(image, channel=None, level=level, axes=axes)
    others = whole.open_channels()
    if not others and "c" in (whole.axes or ""):
        before = (slice(None),) * (whole.axes or "").index("c")
        others = [open_source(image[(*before, i)]) for i in range(whole.shape[len(before)])]
    axis = (whole.axes or "").index("c") if others else None
    names = [channel.name for channel in find_channels(whole, axis)]
    found = [Channel(name, source=source) for name, source in zip(names, others or [whole], strict=True)]
    for channel in found:
        if channel.source is not None and channel.source.shape != labels.shape:
            raise ValueError(
                f"image ({whole.name}) has shape {whole.shape}, and the labels {labels.shape}; they are alike, "
                "but for an axis of channels: see level and axes."
            )
    return whole, found
