"""RunPlan: every argument checked and resolved before a byte is written."""

from __future__ import annotations

import functools
import os
import pickle
import re
import tempfile
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blockbuster.cluster import Execution, find_execution
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.options import (
    Faults,
    resolve_connectivity,
    resolve_count,
    resolve_halo,
    resolve_merge_axes,
    resolve_threshold,
    resolve_tile_lengths,
)
from blockbuster.output.publishing import OutputPlace
from blockbuster.source import DaskSource, Source, open_source
from blockbuster.stage.bricks import bricks_of, choose_bricks
from blockbuster.tiling import auto_tile_shape

__all__ = ["RunOptions", "RunPlan", "make_plan", "plan_run", "resolve_place", "warn_of_repeated_chunks"]

URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
MOST_CHUNK_READS = 2.0


@dataclass(frozen=True)
class RunOptions:
    """The keyword arguments of `tile_process`, as they were given."""

    tile_shape: Any = None
    overlap: Any = 0
    channel: Any = 0
    level: Any = 0
    use_gpu: bool = False
    compute: bool = False
    progress: bool = False
    write_to: Any = None
    output_component: str = "labels"
    sequential_labels: bool = False
    skip_empty: bool = False
    empty_threshold: Any = None
    stage_dir: Any = None
    keep_stage: bool = False
    verbose: bool = False
    axes: str | None = None
    merge: str = "touch"
    min_agreement: float = 0.3
    connectivity: Any = None
    merge_axes: Any = None
    resume: bool = False
    fn_version: str | None = None
    overwrite: bool = False
    retries: Any = 0
    on_error: str = "raise"
    tiles_per_task: Any = None
    return_report: bool = False


@dataclass(frozen=True)
class RunPlan:
    """What a run will do.

    Parameters
    ----------
    source : Source
        The image.
    options : RunOptions
        The arguments as given.
    bricks : BrickGrid
        Tiles of the image and the tasks they are grouped into; smaller tasks are used when fn
        turns out to be slow.
    channel_axis : int or None
        The axis that fn may drop.
    merge_axes : tuple of int
        Axes of the image along which labels are joined.
    connectivity : int
        Which neighbours across a seam touch.
    empty_threshold : float or None
        As given; ``None`` with ``skip_empty`` means Otsu on a sample.
    place : OutputPlace or None
        Where the labels will be written.
    stage_parent : str
        Folder that will hold the stage.
    execution : Execution
        Where tasks run.

    Examples
    --------
    >>> print(plan_run(np.zeros((100, 100), "uint16"), tile_shape=(50, 50), overlap=8))
    image     NumPy array (100, 100) uint16, 20 kB
    tiles     4 of 50 x 50, 2 x 2, halo 8 x 8
    tasks     4 of 1 x 1 tiles
    memory    about 28.7 kB for each task
    disk      at most 40 kB of staged labels in a temporary folder
    output    NumPy array, 40 kB
    """

    source: Source
    options: RunOptions
    bricks: BrickGrid
    channel_axis: int | None
    merge_axes: tuple[int, ...]
    connectivity: int
    empty_threshold: float | None
    place: OutputPlace | None
    stage_parent: str
    execution: Execution

    @property
    def grid(self) -> TileGrid:
        """The tiles."""
        return self.bricks.grid

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.grid.n_tiles

    @property
    def stage_name(self) -> str:
        """Name of the stage directory; of its own for a run whose output has no place on disk."""
        if self.place is None:
            return f"blockbuster-{uuid.uuid4().hex[:12]}.blockbuster-stage"
        return os.path.basename(self.place.sibling("stage"))

    @property
    def task_bytes(self) -> int:
        """Memory of one task: its region, labels, and copies for fn and storage."""
        lengths = zip(self.bricks.brick_shape, self.grid.halo, self.grid.shape, strict=True)
        region = int(np.prod([min(n, brick + 2 * halo) for brick, halo, n in lengths], dtype=np.int64))
        core = int(np.prod(self.bricks.brick_shape, dtype=np.int64))
        return region * self.source.dtype.itemsize + 2 * 4 * core

    @property
    def label_bytes(self) -> int:
        """Size of the labels as int32."""
        return 4 * int(np.prod(self.grid.shape, dtype=np.int64))

    @property
    def chunk_reads(self) -> float:
        """How often a chunk of a dask image is computed, on average; 1 for other images."""
        if not isinstance(self.source, DaskSource):
            return 1.0
        bricks = self.bricks
        return self.source.chunk_reads([bricks.region(bricks.index(n)) for n in range(bricks.n_bricks)])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the labels, for the manifest and the report."""
        names = ("level", "channel", "merge", "skip_empty", "sequential_labels")
        settings = {name: getattr(self.options, name) for name in names}
        settings |= {"tile_shape": self.grid.tile_shape, "halo": self.grid.halo}
        settings |= {"image": self.source.name, "connectivity": self.connectivity}
        return settings | {"merge_axes": self.merge_axes}

    def _chunk_lines(self) -> list[str]:
        if not isinstance(self.source, DaskSource):
            return []
        return [f"chunks    each computed {self.chunk_reads:.2f} times on average"]

    def __str__(self) -> str:
        grid = self.grid
        shape = tuple(int(n) for n in grid.shape)
        image_bytes = int(np.prod(shape, dtype=np.int64)) * self.source.dtype.itemsize
        target = self.place.array_path if self.place else "NumPy array"
        stage = "a temporary folder" if self.place is None else self.stage_parent
        lines = [
            f"image     {self.source.name} {shape} {self.source.dtype}, {_bytes(image_bytes)}",
            f"tiles     {grid.n_tiles} of {_by(grid.tile_shape)}, {_by(grid.grid_shape)}, halo {_by(grid.halo)}",
            f"tasks     {self.bricks.n_bricks} of {_by(self.bricks.tiles_per_brick)} tiles",
            f"memory    about {_bytes(self.task_bytes)} for each task",
            *self._chunk_lines(),
            f"disk      at most {_bytes(self.label_bytes)} of staged labels in {stage}",
            f"output    {target}, {_bytes(self.label_bytes)}",
        ]
        return "\n".join(lines)


def plan_run(image: Any, *, fn: Callable[[np.ndarray], Any] | None = None, **options: Any) -> RunPlan:
    """Check the arguments of `tile_process` and say what it would do; nothing is written.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    fn : callable, optional
        Checked when given.
    **options
        As in `tile_process`.

    Returns
    -------
    RunPlan
        Print it.

    Raises
    ------
    TypeError, ValueError, FileExistsError, NotImplementedError
        All faults of the arguments, in one message.

    Examples
    --------
    >>> plan_run(np.zeros((100, 100)), tile_shape=(50, 50)).n_tiles
    4
    """
    plan = make_plan(image, fn, options)
    warn_of_repeated_chunks(plan)
    return plan


def make_plan(image: Any, fn: Callable[[np.ndarray], Any] | None, options: dict[str, Any]) -> RunPlan:
    """Check and resolve all arguments."""
    given = RunOptions(**options)
    faults = Faults()
    with faults.caught():
        _check_fn(fn)
    with faults.caught():
        _check_choices(given)
    source = open_source(image, channel=given.channel, level=given.level, axes=given.axes)
    resolver = _Resolver(source, given, find_execution(one_at_a_time=bool(given.use_gpu)), faults)
    parts = resolver.resolve()
    faults.raise_all()
    _refuse_unfinished_parts(given, parts["place"])
    plan = RunPlan(source=source, options=given, execution=resolver.execution, **parts)
    _check_picklable(fn, plan.execution)
    return plan


def warn_of_repeated_chunks(plan: RunPlan) -> None:
    """Warn the caller's caller where tasks compute the chunks of a dask image several times."""
    if plan.chunk_reads > MOST_CHUNK_READS:
        warnings.warn(
            f"every chunk of the dask image is computed {plan.chunk_reads:.1f} times on average, once for each "
            "task that touches it; choose tiles that are multiples of the chunks, rechunk the image, or store it "
            "as zarr first.",
            stacklevel=3,
        )


def _check_fn(fn: Any) -> None:
    if fn is not None and not callable(fn):
        raise TypeError(f"fn is {fn!r}; it is a function from a tile to its labels, (ndarray) -> ndarray.")


def _check_choices(options: RunOptions) -> None:
    for name, choices in (("merge", ("touch", "agree", "none")), ("on_error", ("raise", "skip"))):
        value = getattr(options, name)
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it is one of {', '.join(map(repr, choices))}.")
    resolve_count(options.retries, "retries", 0)
    if options.tiles_per_task is not None:
        resolve_count(options.tiles_per_task, "tiles_per_task", 1)
    agreement = options.min_agreement
    if isinstance(agreement, (bool, str)) or not 0 <= agreement <= 1:
        raise ValueError(f"min_agreement is {agreement!r}; it is a number from 0 to 1.")
    if options.fn_version is not None and not isinstance(options.fn_version, str):
        raise TypeError(f"fn_version is {options.fn_version!r}; it is a string that stands for fn, or None.")


def _refuse_unfinished_parts(options: RunOptions, place: OutputPlace | None) -> None:
    """Refuse what is not built yet, so that nothing is silently ignored."""
    asked = {
        f"merge={options.merge!r}": options.merge != "touch",
        "resume=True": bool(options.resume),
        f"retries={options.retries}": options.retries != 0,
        "on_error='skip'": options.on_error == "skip",
        f"output_component={options.output_component!r} inside an OME-Zarr image": place is not None
        and _is_ome_image(place.store)
        and options.output_component.startswith("labels/"),
    }
    missing = [name for name, is_asked in asked.items() if is_asked]
    if missing:
        raise NotImplementedError(f"{', '.join(missing)}: not implemented yet in this version of blockbuster.")


def _check_picklable(fn: Any, execution: Execution) -> None:
    if fn is None or execution.in_process:
        return
    import cloudpickle

    try:
        cloudpickle.dumps(fn)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        name = getattr(fn, "__qualname__", repr(fn))
        raise TypeError(
            f"fn {name} cannot be pickled, which {execution.kind} workers need: {error}. "
            "Create what it names inside the function, or run on threads."
        ) from error


@dataclass
class _Resolver:
    """Turn options into the parts of a plan, keeping every fault."""

    source: Source
    options: RunOptions
    execution: Execution
    faults: Faults

    @property
    def channel_axis(self) -> int | None:
        axes = self.source.axes or ""
        return axes.index("c") if self.options.channel is None and "c" in axes else None

    def resolve(self) -> dict[str, Any]:
        ndim = len(self.source.shape)
        parts: dict[str, Any] = {"channel_axis": self.channel_axis, "merge_axes": (), "connectivity": 1}
        parts |= {"place": None, "stage_parent": "", "empty_threshold": None}
        with self.faults.caught():
            parts["bricks"] = self._bricks(self._grid())
        with self.faults.caught():
            parts["merge_axes"] = resolve_merge_axes(
                self.options.merge_axes, self.source.axes, ndim, self.channel_axis
            )
        with self.faults.caught():
            parts["connectivity"] = resolve_connectivity(self.options.connectivity, ndim)
        with self.faults.caught():
            parts["empty_threshold"] = self._empty_threshold()
        with self.faults.caught():
            parts["place"] = self._place()
        with self.faults.caught():
            parts["stage_parent"] = self._stage_parent(parts["place"])
        return parts

    def _grid(self) -> TileGrid:
        source = self.source
        auto = functools.partial(
            auto_tile_shape, use_gpu=bool(self.options.use_gpu), verbose=bool(self.options.verbose)
        )
        lengths = resolve_tile_lengths(
            self.options.tile_shape,
            source.shape,
            source.dtype,
            source.chunks,
            source.axes,
            self.channel_axis,
            auto,
        )
        return TileGrid(lengths, resolve_halo(self.options.overlap, lengths, source.axes, self.channel_axis))

    def _bricks(self, grid: TileGrid) -> BrickGrid:
        if self.options.tiles_per_task is not None:
            return bricks_of(grid, self.source.read_unit, int(self.options.tiles_per_task))
        if self.options.use_gpu and self.execution.kind == "synchronous":
            return bricks_of(grid, self.source.read_unit, 1)
        return choose_bricks(grid, self.source.read_unit, self.execution.n_workers)

    def _empty_threshold(self) -> float | None:
        if self.options.skip_empty and self.source.dtype.kind == "c":
            raise TypeError(f"skip_empty needs an image of real numbers; this one is {self.source.dtype}.")
        return resolve_threshold(self.options.empty_threshold) if self.options.skip_empty else None

    def _place(self) -> OutputPlace | None:
        options = self.options
        if options.write_to is None:
            _check_component(options.output_component)
            return None
        place = resolve_place(options.write_to, options.output_component)
        self._check_apart(place.array_path, "write_to")
        if _is_ome_image(place.store) and not place.component.startswith("labels/"):
            raise ValueError(
                f"write_to: {place.store} is an OME-Zarr image; labels inside it are named "
                "output_component='labels/NAME', or give another path."
            )
        fault = place.fault(overwrite=bool(options.overwrite))
        if fault:
            raise FileExistsError(fault)
        _check_writable(os.path.dirname(place.store), "write_to")
        return place

    def _check_apart(self, path: str, name: str) -> None:
        """Refuse a path that is the input, lies in it, or holds it."""
        if self.source.path is None:
            return
        image, target = os.path.realpath(self.source.path), os.path.realpath(path)
        if self._may_hold_labels(image, target):
            return
        if _holds(image, target) or _holds(target, image):
            raise ValueError(f"{name}: {path} is the image, lies in it or holds it; give another path.")

    def _may_hold_labels(self, image: str, target: str) -> bool:
        labels = os.path.join(image, "labels")
        return _is_ome_image(image) and _holds(labels, target) and labels != target

    def _stage_parent(self, place: OutputPlace | None) -> str:
        if self.options.stage_dir is not None:
            path = _local_path(self.options.stage_dir, "stage_dir")
            self._check_apart(os.path.join(path, "stage"), "stage_dir")
            _check_writable(path, "stage_dir")
            return path
        if place is not None:
            return os.path.dirname(place.store)
        beside = os.path.dirname(self.source.path) if self.source.path else ""
        return beside if beside and os.access(beside, os.W_OK) else tempfile.gettempdir()


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def resolve_place(write_to: Any, output_component: Any) -> OutputPlace:
    """Check the path and the name of a label array."""
    component = _check_component(output_component)
    return OutputPlace(_local_path(write_to, "write_to"), component)


def _check_component(component: Any) -> str:
    rule = "it is the name of an array inside write_to, e.g. 'labels' or 'run1/labels'"
    if not isinstance(component, str):
        raise TypeError(f"output_component is {component!r}; {rule}.")
    parts = component.split("/")
    if any(part in ("", ".", "..") or part.startswith("__") or "\\" in part for part in parts):
        raise ValueError(f"output_component is {component!r}; {rule}.")
    return component


def _local_path(path: Any, name: str) -> str:
    """Make a path absolute now: fn may change the working directory."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"{name} is {path!r}; it is a path on the file system.")
    text = os.fspath(path)
    if not isinstance(text, str) or URL.match(text):
        raise ValueError(f"{name} is {text!r}; output and stage need a path on a file system, not a URL.")
    absolute = os.path.abspath(os.path.expanduser(text))
    if os.path.islink(absolute):
        real = os.path.realpath(absolute)
        raise ValueError(f"{name}: {absolute} is a symbolic link; to write there, give {real} itself.")
    if name == "write_to" and (
        absolute in (os.getcwd(), os.path.expanduser("~"), os.sep) or os.path.ismount(absolute)
    ):
        raise ValueError(f"{name} is {text!r}; give a name of its own for the labels, e.g. 'labels.zarr'.")
    return absolute


def _check_writable(folder: str, name: str) -> None:
    """Check the nearest folder that exists."""
    existing = Path(folder)
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise FileExistsError(f"{name}: {existing} is not a folder; give another path.")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{name}: {existing} is not writable; give another path.")


def _is_ome_image(store: str) -> bool:
    """Say whether a folder holds the metadata of an OME-Zarr image."""
    for name in (".zattrs", "zarr.json"):
        path = Path(store, name)
        if path.is_file() and '"multiscales"' in path.read_text(errors="replace"):
            return True
    return False


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in numbers)


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
