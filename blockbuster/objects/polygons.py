"""Outlines of objects as a file of polygons: one feature for each label."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blockbuster.errors import check_installed
from blockbuster.execution import Execution, find_execution, run_tasks
from blockbuster.objects import geojson, geoparquet
from blockbuster.objects.joining import FORMATS, Joined, JoinJob, cut_labels, join_objects, part_file
from blockbuster.objects.measurements import check_measurements, open_measurements
from blockbuster.objects.positions import CHOICES, Positions, choose_positions
from blockbuster.objects.published import COMPLETE, check_absent, check_clear, published_file
from blockbuster.objects.reading import find_table
from blockbuster.objects.tracing import Traced, TraceJob, choose_outline_bricks, trace_brick
from blockbuster.output.paths import resolve_file
from blockbuster.run.finish import progress_bar
from blockbuster.run.options import resolve_choice, resolve_flag
from blockbuster.rundir.durable import full_disk_explained
from blockbuster.source.base import Source
from blockbuster.source.geometry import read_geometry
from blockbuster.source.opening import open_source
from blockbuster.stage.staging import share_source

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SUFFIXES = {".json": "geojson", ".geojson": "geojson", ".parquet": "geoparquet", ".geoparquet": "geoparquet"}
TAKEN = {"geojson": ("label",), "geoparquet": geoparquet.TAKEN}
MAX_LENGTH = 2**31 - 4


def export_polygons(
    labels: Any,
    path: str | os.PathLike[str],
    *,
    format: str = "geojson",
    simplify: float | None = None,
    level: int = 0,
    coordinates: str = "pixels",
    measurements: bool | str | os.PathLike[str] | pd.DataFrame | pa.Table | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> int:
    """Write the outlines of all objects in a label image to a file, one feature for each.

    Parameters
    ----------
    labels : str, path-like, zarr.Array, dask.array.Array or numpy.ndarray
        Labels of two axes, or more of which the others have length 1: integers, 0 = background; a
        boolean array is one object. A path or URL is that of an OME-Zarr label image, e.g.
        ``"image.zarr/labels/cells"``, or of a zarr array.
    path : path
        The file. Nothing of it is visible before it is complete.
    format : {"geojson", "geoparquet"}
        GeoJSON as QuPath imports it, with each object a detection; or GeoParquet 1.1, as geopandas
        and SpatialData open it, for which pyarrow is needed (extra ``table``).
    simplify : float, optional
        How far an outline may be from that of the voxels, in voxels. ``None``: not at all.
    level : int
        For the path of an OME-Zarr label image: the level of its pyramid; 0 is the finest.
    coordinates : {"pixels", "units"}
        In pixels of the finest level, where (0, 0) is the corner of the first voxel, not its
        centre; or in the units of the OME-Zarr metadata, scale and translation applied.
    measurements : True, pandas.DataFrame, pyarrow.Table or path, optional
        What becomes measurements of the objects. True: the table of objects that lies with the
        labels, which are given by their path; else a table, or the path of a Parquet file, with a
        column ``label`` and numbers. ``None``: the area in voxels alone.
    overwrite : bool
        Replace an existing file, once the new one is complete.
    progress : bool
        Show progress bars.

    Returns
    -------
    int
        Number of objects.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, FileExistsError, PermissionError, ImportError
        For the arguments, before any work; for negative labels, and two rows of one label in
        `measurements`, when they are met.
    RuntimeError
        If another process is writing the same file.

    Notes
    -----
    Outlines run along the edges of voxels. An object whose parts do not touch at an edge is a
    MultiPolygon; holes are kept. Every polygon is valid (OGC), and all of them drawn again give the
    labels, voxel by voxel, unless simplified. Features are in the order of labels, and the bytes
    are the same for any scheduler and number of workers.

    With `simplify` the border between two objects is simplified once (Douglas-Peucker), so that no
    gap or overlap opens between them; points where three labels meet stay. What would vanish, such
    as a part of one voxel, and objects whose outline would cross itself, take half of the
    tolerance, if need be again; only there neighbours may overlap or leave a gap. The measured area
    is that of the voxels.

    Labels are read once, in bricks, on the active dask client's workers or by dask's scheduler. The
    outlines lie in a folder beside the file meanwhile, 8 bytes for each vertex. Memory is that of
    the bricks at work, and of about a million vertices, or the largest object, for each worker.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> labels = np.zeros((4, 6), "int32")
    >>> labels[1:3, 2:5] = 7
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_polygons(labels, f"{folder}/cells.geojson")
    ...     (feature,) = json.loads(pathlib.Path(folder, "cells.geojson").read_text())["features"]
    1
    >>> feature["geometry"]["coordinates"]
    [[[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]]]
    >>> feature["properties"]["measurements"]
    {'label': 7, 'area': 6}
    """
    export = _plan(labels, path, format, level, coordinates, measurements, overwrite)
    tolerance = _resolve_tolerance(simplify)
    shown = resolve_flag(progress, "progress")
    with (
        published_file(export.path, replaces=export.replaces) as folder,
        find_execution().opened() as execution,
    ):
        return export.run(folder, execution, tolerance, shown)


@dataclass(frozen=True)
class _Export:
    """A call whose arguments have been checked."""

    source: Source
    path: str
    format: str
    positions: Positions
    measurements: tuple[Any, tuple[str, ...]] | None
    replaces: bool

    def run(self, folder: str, execution: Execution, tolerance: float, shown: bool) -> int:
        """Trace, join, and put the file together."""
        traced = self._trace(folder, execution, tolerance > 0, shown)
        found = [[one.number, one.labels[0], one.labels[-1]] for one in traced if len(one.labels)]
        bricks = np.array(found, np.int64).reshape(-1, 3)
        table = None if self.measurements is None else open_measurements(self.measurements, folder)
        job = JoinJob(folder, cut_labels(traced), bricks, self.format, self.positions, tolerance, table)
        joined: list[Joined] = []
        n_tasks = len(job.lasts)
        with progress_bar(shown, "write objects", n_tasks, "part") as advance:
            _run(execution, join_objects, job, n_tasks, folder, _taking(joined, advance))
        joined.sort(key=lambda one: one.number)
        parts = [part_file(folder, one.number) for one in joined]
        n_bytes = sum(map(os.path.getsize, parts))
        with full_disk_explained(self.path, n_bytes), open(os.path.join(folder, COMPLETE), "wb") as file:
            if self.format == "geojson":
                geojson.finish(parts, file)
            else:
                geoparquet.finish(parts, file, _summarize(joined, self.positions))
        return sum(one.n_objects for one in joined)

    def _trace(self, folder: str, execution: Execution, with_nodes: bool, shown: bool) -> list[Traced]:
        source = share_source(self.source, execution, folder)
        bricks = choose_outline_bricks(source, execution.n_workers)
        if execution.in_process and not source.through_graph:
            source = source.keeping_shared(bricks)
        job = TraceJob(None if source.through_graph else source, bricks, folder, with_nodes)

        def region(number: int) -> Any:
            return source.lazy(bricks.region(bricks.index(number)))

        traced: list[Traced] = []
        with progress_bar(shown, "trace outlines", bricks.n_bricks, "brick") as advance:
            graphs = region if source.through_graph else None
            _run(execution, trace_brick, job, bricks.n_bricks, folder, _taking(traced, advance), graphs)
        return sorted(traced, key=lambda one: one.number)


def _run(
    execution: Execution,
    function: Callable[..., Any],
    job: Any,
    n_tasks: int,
    folder: str,
    take: Callable[[Any], None],
    region: Callable[[int], Any] | None = None,
) -> None:
    run_tasks(execution, function, job, range(n_tasks), directory=folder, on_result=take, region=region)


def _taking(found: list[Any], advance: Callable[[int], Any]) -> Callable[[Any], None]:
    def take(result: Any) -> None:
        found.append(result)
        advance(1)

    return take


def _plan(
    labels: Any, path: Any, format: str, level: int, coordinates: str, measurements: Any, overwrite: bool
) -> _Export:
    """Check all arguments but `simplify`; write nothing."""
    resolve_choice(format, "format", FORMATS)
    resolve_choice(coordinates, "coordinates", CHOICES)
    replaces = resolve_flag(overwrite, "overwrite")
    if format == "geoparquet" or measurements is not None:
        what = 'format="geoparquet"' if format == "geoparquet" else "measurements"
        check_installed("table", ("pyarrow",), what)
    source = open_source(labels, channel=None, level=level)
    _check_labels(source)
    positions = choose_positions(coordinates, read_geometry(labels), level, source.name)
    target = resolve_file(path, "path", source.path)
    by_suffix = SUFFIXES.get(os.path.splitext(target)[1].lower(), format)
    if by_suffix != format:
        raise ValueError(
            f"path is {target}, but format is {format!r}; pass format={by_suffix!r}, or another name."
        )
    if not replaces:
        check_absent(target)
    check_clear(target)
    if measurements is True:
        if not isinstance(labels, str | os.PathLike):
            raise TypeError("measurements is True, but labels are no path, beside which their table would lie.")
        measurements = find_table(*os.path.split(os.path.abspath(os.path.expanduser(labels))))
    checked = None if measurements is None else check_measurements(measurements, TAKEN[format])
    return _Export(source, target, format, positions, checked, replaces)


def _check_labels(source: Source) -> None:
    """Refuse what has no outlines."""
    if source.dtype.kind not in "biu":
        raise TypeError(
            f"labels ({source.name}) hold {source.dtype}; they must be integers, 0 = background, e.g. "
            'labels.astype("int32").'
        )
    if len(source.shape) < 2 or any(n != 1 for n in source.shape[:-2]):
        axes = f", axes {source.axes!r}" if source.axes else ""
        raise ValueError(
            f"labels ({source.name}) have shape {source.shape}{axes}; polygons are of two axes, others must have "
            "length 1. Export plane by plane, each to a file of its own, e.g. "
            "dask.array.from_zarr(...)[0], or of a maximum projection."
        )
    if max(source.shape) > MAX_LENGTH:
        raise ValueError(
            f"labels ({source.name}) have shape {source.shape}; an axis is at most {MAX_LENGTH:,} long."
        )


def _resolve_tolerance(simplify: Any) -> float:
    """Return a tolerance in voxels, 0 for none."""
    if simplify is None:
        return 0.0
    if isinstance(simplify, bool) or not isinstance(simplify, int | float | np.number):
        raise TypeError(f"simplify is {simplify!r}; it is a number of voxels, 0 or more, or None.")
    if not 0 <= simplify < np.inf:
        raise ValueError(f"simplify is {simplify}; it is a number of voxels, 0 or more, or None.")
    return float(simplify)


def _summarize(joined: list[Joined], positions: Positions) -> dict[str, Any]:
    """Return what the metadata of a file say of all its objects."""
    boxes = np.array([one.box for one in joined if one.box])
    n_multiple = sum(one.n_multiple for one in joined)
    kinds = [n_multiple < sum(one.n_objects for one in joined), n_multiple > 0]
    return {
        "bbox": [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()] if len(boxes) else [],
        "geometry_types": [name for name, there in zip(("Polygon", "MultiPolygon"), kinds, strict=True) if there],
        "unit": positions.unit,
    }
