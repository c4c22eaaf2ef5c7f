"""Label arrays that are stored already: merge what somebody staged, number ids without gaps."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from typing import Any

import numpy as np
import zarr

from blockbuster.compat import open_labels
from blockbuster.execution import find_execution, with_workers
from blockbuster.grid import TileGrid
from blockbuster.kernels.jit import in_native_order
from blockbuster.measure.table import open_table, write_table
from blockbuster.merge.rules import RULES, MergeRule, choose_rule
from blockbuster.output.paths import resolve_output, resolve_place
from blockbuster.output.places import OutputPlace, check_independent, lies_in, warn_of_transformations_left_out
from blockbuster.output.publishing import replaced_output
from blockbuster.process import tile_process
from blockbuster.report import OBJECTS, REPORT, RunReport
from blockbuster.run.finish import FinishedStage
from blockbuster.run.options import resolve_choice, resolve_count, resolve_fraction
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.durable import folders_made, write_atomically
from blockbuster.rundir.folder import is_stage
from blockbuster.rundir.lock import hold_lock
from blockbuster.rundir.staged import StagedLabels
from blockbuster.stage.opening import open_kept

__all__ = ["relabel_sequential_zarr", "zarr_native_merge"]

DENSE_TABLE_LENGTH = 2**24
Path = str | os.PathLike[str]


def zarr_native_merge(
    stage_path: Path,
    stage_component: str,
    out_path: Path,
    out_component: str,
    *,
    n_workers: int | None = None,
    show_progress: bool = False,
    connectivity: int | None = None,
    sequential: bool = False,
    overwrite: bool = False,
    merge: str | None = None,
    min_agreement: float | None = None,
) -> int:
    """Merge labels that were staged tile by tile into one label array.

    Parameters
    ----------
    stage_path : path
        A zarr group, or a stage that `tile_process` kept. It is only read.
    stage_component : str
        Name of the array inside it: one tile per chunk, integer ids local to the chunk, 0 =
        background. Not looked at for a stage that `tile_process` kept, which has its own grid.
    out_path, out_component : path, str
        Where the merged labels go, as ``write_to`` and ``output_component`` of `tile_process`.
    n_workers : int, optional
        How many threads or processes work; ``None``: as dask is configured.
    show_progress : bool
        Show progress bars.
    connectivity : int, optional
        Which neighbours across a seam touch: 1 = faces ... ndim = corners too. ``None``: those of
        the run for a stage that `tile_process` kept, which has no others; else 1.
    sequential : bool
        Number the objects 1..N.
    overwrite : bool
        Replace an existing array, once the new one is complete.
    merge : str, optional
        What is one object, as for `tile_process`; ``None``: as the run had it, and for labels of
        others "touch". A stage that was made for "agree" can be merged in every way, any other as
        it was made or with "none".
    min_agreement : float, optional
        The least agreement of two labels that become one with ``merge="agree"``; ``None``: that of
        the run.

    Returns
    -------
    int
        Number of objects.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, FileExistsError, PermissionError
        For the arguments, before any work.
    OSError
        If the metadata of labels, or a file of the stage, is damaged.

    Notes
    -----
    A stage that was kept is merged without running fn again. Labels of others are read and staged
    once, then merged like those of `tile_process`; memory depends on the chunks and the number of
    labels that touch a seam.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> staged = zarr.create_group(f"{folder}/staged.zarr").create_array(
    ...     "tiles", shape=(4, 8), chunks=(4, 4), dtype="int32")
    >>> staged[1:3, 2:6] = 1
    >>> zarr_native_merge(f"{folder}/staged.zarr", "tiles", f"{folder}/merged.zarr", "labels")
    1
    """
    if merge is not None:
        resolve_choice(merge, "merge", RULES)
    given: dict[str, Any] = {}
    if min_agreement is not None:
        given["min_agreement"] = resolve_fraction(min_agreement, "min_agreement")
    with with_workers(None if n_workers is None else resolve_count(n_workers, "n_workers", 1)):
        if is_stage(stage_path):
            staged, counts, failed = open_kept(stage_path, stage_component)
            if connectivity not in (None, staged.connectivity):
                raise ValueError(
                    f"connectivity is {connectivity}; {staged.path} was staged for {staged.connectivity}, pass "
                    f"connectivity={staged.connectivity} or None."
                )
            rule = choose_rule(staged, merge, given)
            place = resolve_output(out_path, out_component, None, overwrite=overwrite)
            if lies_in(place.path, staged.path) or lies_in(staged.path, place.path):
                raise ValueError(f"out_path: {place.path} and the stage lie one in the other; give another path.")
            return _merge_own_stage(
                staged, {"counts": counts, "failed": failed}, rule, place, show_progress, sequential
            )
        labels = _open_labels(stage_path, stage_component, "stage")
        given |= {"connectivity": connectivity, "merge": merge}
        _, report = tile_process(
            labels,
            _as_it_is,
            write_to=out_path,
            output_component=out_component,
            progress=show_progress,
            sequential_labels=sequential,
            overwrite=overwrite,
            return_report=True,
            **{name: value for name, value in given.items() if value is not None},
        )
        return int(report.n_objects)


def relabel_sequential_zarr(path: Path, component: str = "labels") -> int:
    """Renumber a stored label array to 1..N.

    Parameters
    ----------
    path : path
        A zarr group on the file system.
    component : str
        Name of the label array inside it; integers, none negative, 0 = background.

    Returns
    -------
    int
        N. The order of the ids is kept.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If there is no label array.
    OSError
        If its metadata are damaged.

    Notes
    -----
    Reads the array twice and writes it once, beside the old one, which is replaced when the new one
    is complete: a crash leaves either. Memory grows with the number of labels. Metadata, chunks and
    dtype are kept. So is the report of `tile_process`, with ``sequential_labels=True``: these are
    the ids that such a run gives, and ``resume=True`` with that setting takes them for finished.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> group = zarr.create_group(f"{folder}/x.zarr")
    >>> labels = group.create_array("labels", data=np.array([[0, 7], [9, 7]]))
    >>> relabel_sequential_zarr(f"{folder}/x.zarr")
    2
    >>> zarr.open_array(f"{folder}/x.zarr/labels")[:].tolist()
    [[0, 1], [2, 1]]
    """
    place = resolve_place(path, component)
    check_independent(place)
    _check_no_parents(place)
    if not os.path.lexists(place.path) and os.path.lexists(place.partial.path):
        # An earlier call was killed when the old array was aside and the new one not yet in its
        # place.
        with _locked(place):
            place.partial.clear()
    labels = _open_labels(place.store, component, "label array")
    place.groups.check()
    unit = labels.shards or labels.chunks
    boxes = TileGrid.regular(labels.shape, unit, (0,) * labels.ndim)
    with _locked(place), replaced_output(place) as new_path:
        ids = np.empty(0, labels.dtype.newbyteorder("="))
        for box in map(boxes.core, boxes.indices()):
            ids = np.union1d(ids, in_native_order(np.asarray(labels[box])))
        if len(ids) and ids[0] < 0:
            raise ValueError(f"the array holds negative labels (least {ids[0]}); ids count from 1.")
        ids = ids[ids > 0]
        new = zarr.open_array(pathlib.Path(new_path), mode="r+")
        for box in map(boxes.core, boxes.indices()):
            new[box] = _ranked(in_native_order(np.asarray(labels[box])), ids)
        _keep_report(place, new_path, ids)
        _keep_table(place, new_path, ids)
    return len(ids)


def _check_no_parents(place: OutputPlace) -> None:
    """Refuse labels whose ids the table of another result of the same run names."""
    try:
        report = RunReport.read(place.array_path)
    except (OSError, ValueError):
        return
    for pair in report.settings.get("parents", []):
        child, _, parent = pair.partition(":")
        if parent == report.name:
            raise ValueError(
                f"{place.path}: the table of {child!r} names its ids as parents, and would not fit new ones; "
                "segment again with sequential_labels=True and overwrite=True."
            )


def _keep_report(place: OutputPlace, new_path: str, ids: np.ndarray) -> None:
    """Keep the report with labels that are now what the run gives with
    ``sequential_labels=True``.
    """
    try:
        report = RunReport.read(place.array_path)
    except (OSError, ValueError):
        # Not from `tile_process`, or damaged: nothing can be said of how the labels were made.
        return
    n_objects, identity = len(ids), report.fingerprint.get("settings")
    for pair in report.seams.doubtful_pairs:
        pair.labels = [int(n) + 1 for n in np.searchsorted(ids, pair.labels)]
    if identity and n_objects != report.n_objects:
        identity["edited"] = f"{n_objects} objects of {report.n_objects}"
    for settings in filter(None, (report.settings, identity)):
        settings["sequential_labels"] = True
    report.n_objects = n_objects
    write_atomically(os.path.join(new_path, REPORT), report.to_json().encode())


def _keep_table(place: OutputPlace, new_path: str, ids: np.ndarray) -> None:
    """Keep the table of objects with their new labels, if it is of these objects."""
    path = os.path.join(place.array_path, OBJECTS)
    if not os.path.exists(path):
        return
    _, _, batches = open_table(path, ["label"])
    known = np.concatenate([np.zeros(0, np.int64), *(batch["label"] for batch in batches)])
    if not np.array_equal(known, ids):
        # Somebody edited the labels, and measures them again.
        return
    columns, about, batches = open_table(path)
    ranked = ({**batch, "label": _ranked(batch["label"], ids)} for batch in batches)
    write_table(os.path.join(new_path, OBJECTS), columns, ranked, about=about, n_rows=len(ids))


def _locked(place: OutputPlace) -> contextlib.AbstractContextManager[object]:
    return hold_lock(place.sibling("lock"), f"the output {place.path}")


def _as_it_is(tile: np.ndarray) -> np.ndarray:
    """Hand labels on that are there already."""
    return tile


def _open_labels(path: Path, component: str, what: str) -> zarr.Array[Any]:
    folder = os.path.abspath(os.path.expanduser(os.fspath(path)))
    return open_labels(os.path.join(folder, *component.split("/")), what)


def _merge_own_stage(
    staged: StagedLabels,
    kept: dict[str, np.ndarray],
    rule: MergeRule,
    place: OutputPlace,
    progress: bool,
    sequential: bool,
) -> int:
    geometry = place.find_geometry(None, 0, staged.bricks.grid.shape, path=None)
    warn_of_transformations_left_out(place, geometry)
    with (
        folders_made(os.path.dirname(place.sibling("lock"))),
        _locked(place),
        tempfile.TemporaryDirectory(prefix="blockbuster-") as folder,
        find_execution().opened() as execution,
    ):
        arrays = ArrayFolder(folder)
        for name, array in kept.items():
            arrays.save(name, array)
        finished = FinishedStage(staged, arrays, execution, RunReport(), progress, rule=rule)
        dtype = finished.match(sequential=sequential)
        finished.publish(dtype, place, None, geometry)
    return finished.report.n_objects


def _ranked(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Replace ids by their rank: through a table where the ids are small, else by searching."""
    largest = int(ids[-1]) if len(ids) else 0
    if largest <= max(DENSE_TABLE_LENGTH, 8 * len(ids)):
        table = np.zeros(largest + 1, labels.dtype)
        table[ids] = np.arange(1, len(ids) + 1)
        ranked: np.ndarray = table[labels]
        return ranked
    ranked = np.searchsorted(ids, labels).astype(labels.dtype) + 1
    ranked[labels == 0] = 0
    return ranked
