"""RunPlan: every argument checked and resolved before a byte is written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import operator
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.errors import ends_process, error_text, unsaid, warn_user
from blockbuster.execution import Execution, find_execution
from blockbuster.execution.memory import vram_bytes_or_warn
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.measure.names import Measures, find_channels, resolve_measures, values_among
from blockbuster.measure.table import check_extra
from blockbuster.output.layout import ArrayLayout, label_chunks
from blockbuster.output.paths import (
    check_stage_dir,
    default_stage_parent,
    resolve_output,
)
from blockbuster.output.places import OutputPlace
from blockbuster.predict import Predictor
from blockbuster.run.alignment import aligned_tiles, describe_network
from blockbuster.run.components import HOLE, Component, check_parents, component_of, names_known
from blockbuster.run.options import (
    Faults,
    RunOptions,
    resolve_connectivity,
    resolve_halo,
    resolve_merge_axes,
    resolve_threshold,
    resolve_tile_lengths,
)
from blockbuster.run.resources import format_bytes, memory_bytes, warn_of_repeated_chunks
from blockbuster.source import Source, open_source
from blockbuster.source.base import open_as_others
from blockbuster.source.geometry import Geometry, geometry_of_level
from blockbuster.stage.bricks import bricks_of, choose_bricks, limit_bricks
from blockbuster.stage.inside import digest_of, find_tiles_inside
from blockbuster.stage.results import UNNAMED
from blockbuster.tiling import auto_tile_shape
from blockbuster.tiling.heuristics import worker_tile_bytes

MAX_NAME_LETTERS = 60
# Where more channels are measured that fn does not see, tasks are smaller: all are in memory.
MAX_OTHERS_AT_ONCE = 4
# Of a predictor: while one task decodes its last tiles, another one has tiles predicted.
TASKS_PER_DECODER = 2
NO_GPU = "use_gpu=True, but CuPy"


@dataclass(frozen=True)
class RunPlan:
    """What a run will do.

    Parameters
    ----------
    source : Source
        The image.
    options : RunOptions
        The arguments, parsed where they depend on nothing else.
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
        As given; ``None`` with ``skip_empty``: one is chosen from a sample when the run begins.
    place : OutputPlace or None
        Where the labels will be written; of several results the first, or where a template says,
        which gives the stage its name.
    places : dict of str to OutputPlace
        The places of the results by their names; ``""`` for one array. Empty where nothing is
        written, or the names are not known yet.
    predictor : Predictor or None
        fn, where it is one.
    stage_parent : str
        Folder that will hold the stage.
    execution : Execution
        Where tasks run.
    geometry : Geometry or None
        Axes, units and scales of the labels, and of the levels of a label image; ``None`` where
        they are not known, or nothing is written or measured.
    measures : Measures or None
        What is measured of objects; axes are those of the image.
    inside : ndarray of bool or None
        In the shape of the tile grid, the tiles that fn is called for; ``None``: all.
    image : object
        What is segmented, as it was given.

    Examples
    --------
    >>> print(plan_run(np.zeros((100, 100), "uint16"), tile_shape=(50, 50), overlap=8))
    image     NumPy array (100, 100) uint16, 20 kB
    tiles     4 of 50 x 50, 2 x 2, halo 8 x 8
    tasks     4 of 1 x 1 tiles
    memory    at most 345 MB in all, fn's own apart
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
    geometry: Geometry | None = None
    measures: Measures | None = None
    inside: np.ndarray | None = None
    image: Any = dataclasses.field(default=None, repr=False, compare=False)
    places: dict[str, OutputPlace] = dataclasses.field(default_factory=dict)
    predictor: Predictor | None = None

    @property
    def grid(self) -> TileGrid:
        """The tiles."""
        return self.bricks.grid

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.grid.n_tiles

    @property
    def n_outside(self) -> int:
        """Number of tiles that do not meet the mask."""
        return 0 if self.inside is None else self.n_tiles - int(np.count_nonzero(self.inside))

    @property
    def apart_axes(self) -> tuple[int, ...]:
        """The axes along which every position has objects of its own."""
        return tuple(axis for axis in range(self.grid.ndim) if axis not in self.merge_axes)

    @property
    def is_resumable(self) -> bool:
        """Whether a later call can find the stage, by `write_to` or `stage_dir`."""
        return self.place is not None or self.options.stage_dir is not None

    @functools.cached_property
    def stage_path(self) -> str:
        """The stage directory; of its own for a run that a later call could not find."""
        return os.path.join(self.stage_parent, self._stage_name() + ".blockbuster-stage")

    def _stage_name(self) -> str:
        if self.place is not None:
            name = os.path.basename(self.place.sibling("stage")).removesuffix(".blockbuster-stage")
            if os.path.realpath(self.stage_parent) == os.path.realpath(os.path.dirname(self.place.store)):
                return name
            # Outputs of one name in many folders may share a folder for their stages.
            return f"{name[:MAX_NAME_LETTERS]}.{_short_digest(self.place.path)}"
        if self.options.stage_dir is None:
            return f"blockbuster-{uuid.uuid4().hex[:12]}"
        source, options, component = self.source, self.options, self.options.output_component
        image = source.path or f"{source.kind} {source.shape} {source.dtype}"
        key = repr((image, _plain(options.channel), _plain(options.level), component))
        name = os.path.basename(source.path or source.kind)[:MAX_NAME_LETTERS]
        shown = component if isinstance(component, str) else "+".join(component.values())
        return f"{name}.{shown.replace('/', '.')[:MAX_NAME_LETTERS]}.{_short_digest(key)}"

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the results of fn, as far as they are known: ``("",)`` for one array."""
        return names_known(self.options.output_component, writes=self.place is not None)

    @property
    def n_results(self) -> int:
        """How many results fn returns; 1 where that is not known."""
        return len(self.names or UNNAMED)

    def places_of(self, names: Iterable[str]) -> dict[str, OutputPlace]:
        """Return the places of results whose names a run has met.

        Raises
        ------
        ValueError, OSError
            If one of them cannot be a place, or nobody may write there.
        """
        if self.place is None:
            return {}
        given = (self.options.output_component, self.options, self.source.path)
        return {name: _resolve_place(name, *given, may_exist=True) for name in names}

    @property
    def keeps_device_fed(self) -> bool:
        """Whether there are more tasks than threads that decode: some have tiles read and predicted
        while others decode their last ones.
        """
        return self.predictor is not None and self.execution.kind == "threads" and self.execution.pool is None

    @property
    def n_tasks_at_once(self) -> int:
        """How many tasks run at once."""
        return self.execution.n_workers * (TASKS_PER_DECODER if self.keeps_device_fed else 1)

    def stage_execution(self, opened: Execution) -> Execution:
        """Return where the tasks of the stage run, given where those of the other phases do."""
        if not self.keeps_device_fed:
            return opened
        return dataclasses.replace(opened, n_workers=self.n_tasks_at_once, pool=None)

    @property
    def n_others(self) -> int:
        """How many channels are measured that fn does not see."""
        channels = () if self.measures is None else self.measures.channels
        return sum(channel.source is not None for channel in channels)

    @property
    def memory_bytes(self) -> int:
        """Bound on the resident memory of all processes of the run; what fn allocates comes on top.

        With the distributed scheduler, workers on other machines are counted as well.
        """
        return memory_bytes(self)

    @property
    def label_bytes(self) -> int:
        """Size of the labels as int32, of all results."""
        return 4 * self.n_results * int(np.prod(self.grid.shape, dtype=np.int64))

    @property
    def chunk_reads(self) -> float:
        """How often a chunk of a dask image is computed, on average; 1 for other images."""
        bricks = self.bricks
        return self.source.chunk_reads(bricks.region(bricks.index(n)) for n in range(bricks.n_bricks))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the labels, for the manifest and the report."""
        options = self.options
        return {
            "image": self.source.name,
            "level": _plain(options.level),
            "channel": _plain(options.channel),
            "axes": self.source.axes,
            "tile_shape": self.grid.tile_shape,
            "halo": self.grid.halo,
            "skip_empty": options.skip_empty,
            "empty_threshold": self.empty_threshold,
            "merge": options.merge,
            "connectivity": self.connectivity,
            "merge_axes": self.merge_axes,
            "sequential_labels": options.sequential_labels,
            **options.rule.parameters,
            # Of a run that measures nothing, as of one from before, nothing is said.
            **({} if self.measures is None else {"measure": list(self.measures.names)}),
            **({} if self.inside is None else {"mask": digest_of(self.inside)}),
            # Nor of results where there is one.
            **({"output_component": self._components} if self._components else {}),
            **({"parents": [":".join(pair) for pair in options.parents]} if options.parents else {}),
        }

    @property
    def _components(self) -> Any:
        """The places of several results; nothing where there is one, or nobody said so."""
        component = self.options.output_component
        return "" if isinstance(component, str) and HOLE not in component else component

    @property
    def tile_runs(self) -> list[list[list[int]]]:
        """Per axis the lengths of the tiles, as runs of ``[length, times]``."""
        return [[[n, len(list(run))] for n, run in itertools.groupby(lengths)] for lengths in self.grid.lengths]

    def with_tiles(self, runs: list[list[list[int]]]) -> RunPlan:
        """Take the tiles of an earlier run where their shape was to be chosen."""
        chosen = self.options.tile_shape == "auto" or callable(self.options.tile_shape)
        # Before they are written out: what a report says may be of any length.
        if not chosen or tuple(sum(n * times for n, times in axis) for axis in runs) != self.grid.shape:
            return self
        lengths = tuple(tuple(n for n, times in axis for _ in range(times)) for axis in runs)
        halo = resolve_halo(self.options.overlap, lengths, self.source.axes, self.channel_axis)
        grid = aligned_tiles(TileGrid(lengths, halo), self.predictor)
        bricks = _choose_bricks(grid, self.source, self.options, self.execution, self.predictor)
        inside = self.inside
        if inside is not None:
            given = (self.options.mask, self.image, self.options.level)
            inside = find_tiles_inside(*given, self.source, bricks.grid)
        return dataclasses.replace(self, bricks=bricks, inside=inside)

    @property
    def coarse_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the levels that the output has besides its finest one."""
        if self.place is None:
            return []
        array = ArrayLayout(self.grid.shape, np.dtype("int32"), *label_chunks(self.grid))
        return [level.shape for level in self.place.layout(array, self.geometry).arrays[1:]]

    @property
    def output_bytes(self) -> int:
        """Size of all that is written for good, as int32 and before compression."""
        return self.label_bytes + 4 * self.n_results * sum(map(math.prod, self.coarse_shapes))

    def __str__(self) -> str:
        grid = self.grid
        shape = tuple(int(n) for n in grid.shape)
        image_bytes = int(np.prod(shape, dtype=np.int64)) * self.source.dtype.itemsize
        target = self.place.path if self.place else "NumPy array"
        stage = "a temporary folder" if self.place is None else self.stage_parent
        chunks = f"chunks    each computed {self.chunk_reads:.2f} times on average"
        n_coarser = len(self.coarse_shapes)
        levels = f"{n_coarser} coarser level{'s' * (n_coarser > 1)} of a label image"
        coarser = f", and {levels}, {format_bytes(self.output_bytes)} in all" if n_coarser else ""
        results = ", ".join(self.names or ()) or "as fn names them; memory, disk and output are for one of them"
        lines = [
            f"image     {self.source.name} {shape} {self.source.dtype}, {format_bytes(image_bytes)}",
            f"tiles     {grid.n_tiles} of {_by(grid.tile_shape)}, {_by(grid.grid_shape)}, halo {_by(grid.halo)}",
            *(
                [f"mask      {self.n_outside} of the tiles are outside and skipped"]
                if self.inside is not None
                else []
            ),
            f"tasks     {self.bricks.n_bricks} of {_by(self.bricks.tiles_per_brick)} tiles",
            *([f"results   {results}"] if self._components else []),
            *([] if self.measures is None else [f"measure   {self.measures}"]),
            *([] if self.predictor is None else [f"network   {describe_network(grid, self.predictor)}"]),
            f"memory    at most {format_bytes(self.memory_bytes)} in all, fn's own apart",
            *([chunks] if self.source.through_graph else []),
            f"disk      at most {format_bytes(self.label_bytes)} of staged labels in {stage}",
            f"output    {target}, {format_bytes(self.label_bytes)}{coarser}",
        ]
        return "\n".join(lines)


def plan_run(image: Any, **options: Any) -> RunPlan:
    """Check the arguments of `tile_process` and say what it would do; nothing is written.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    **options
        As in `tile_process`. fn may be left out.

    Returns
    -------
    RunPlan
        Print it.

    Raises
    ------
    TypeError, ValueError, OSError
        All faults of the arguments, in one message.
    RuntimeError
        If a dask client is active whose workers live in this process.

    Notes
    -----
    Reads metadata of the image, no pixels.

    Examples
    --------
    >>> plan_run(np.zeros((100, 100)), tile_shape=(50, 50)).n_tiles
    4
    """
    # fn is only looked at, so any function will do in its place.
    plan = make_plan(image, options.pop("fn", np.zeros_like), RunOptions(**options))
    warn_of_repeated_chunks(plan)
    return plan


def make_plan(image: Any, fn: Any, options: RunOptions) -> RunPlan:
    """Check and resolve all arguments."""
    faults = Faults()
    with faults.caught():
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; it is a function from a tile to its labels, (ndarray) -> ndarray.")
    # As it was meant, also by a value that is a fault of its own.
    may_exist = bool(options.overwrite) or bool(options.resume)
    options = options.parsed(faults)
    source = None
    with faults.caught():
        source = open_source(image, channel=options.channel, level=options.level, axes=options.axes)
    parts = _resolve_paths(options, may_exist, source.path if source else None, faults)
    if source is None:
        faults.raise_all()
    assert source is not None
    predictor = fn if isinstance(fn, Predictor) else None
    # A predictor has one batch predicted at a time, whatever the device.
    execution = find_execution(one_at_a_time=options.use_gpu and predictor is None)
    parts |= _resolve_tasks(source, options, execution, predictor, faults)
    with faults.caught():
        place: OutputPlace | None = parts["place"]
        # Of labels that are written nowhere no metadata are read.
        parts["geometry"] = place and place.find_geometry(image, options.level, source.shape, path=source.path)
        if place is None and options.measure is not None:
            parts["geometry"] = geometry_of_level(image, options.level)
    with faults.caught():
        if options.mask is not None and "bricks" in parts:
            parts["inside"] = find_tiles_inside(options.mask, image, options.level, source, parts["bricks"].grid)
    with faults.caught():
        parts["measures"] = _resolve_measures(source, options, parts)
    faults.raise_all()
    plan = RunPlan(source=source, options=options, execution=execution, image=image, predictor=predictor, **parts)
    if options.tiles_per_task is None and plan.n_others > MAX_OTHERS_AT_ONCE:
        n_tiles = math.prod(plan.bricks.tiles_per_brick) * MAX_OTHERS_AT_ONCE // plan.n_others
        plan = dataclasses.replace(plan, bricks=limit_bricks(plan.bricks, n_tiles))
    _check_picklable(fn, execution)
    _check_sendable(plan)
    return plan


def warn_of_missing_halo(plan: RunPlan) -> None:
    """Warn where the merge rule looks at a halo that the tiles do not share."""
    grid = plan.grid
    # Tiles of one plane have no halo across their seams on purpose.
    bare = [axis for axis in plan.merge_axes if not grid.halo[axis] and grid.tile_shape[axis] > 1]
    seams = [axis for axis in bare if grid.grid_shape[axis] > 1]
    names = ", ".join(plan.source.axes[axis] if plan.source.axes else str(axis) for axis in seams)
    if seams and (warning := plan.options.rule.missing_halo(names)):
        warn_user(warning)


def _resolve_paths(options: RunOptions, may_exist: bool, image: str | None, faults: Faults) -> dict[str, Any]:
    """Find out where the output and the stage go."""
    parts: dict[str, Any] = {"place": None, "places": {}, "stage_parent": ""}
    component = options.output_component
    with faults.caught():
        if options.write_to is not None:
            # Whether labels that are there already are those of this very run is seen later.
            names = names_known(component, writes=True)
            given = (component, options, image)
            found = {name: _resolve_place(name, *given, may_exist=may_exist) for name in names or (HOLE,)}
            parts |= {"place": next(iter(found.values())), "places": found if names else {}}
    with faults.caught():
        names = names_known(component, writes=options.write_to is not None)
        if options.parents and options.measure is None:
            raise ValueError("parents adds columns to tables of objects; pass measure=True, or what is measured.")
        if options.parents and names:
            check_parents(options.parents, names)
    with faults.caught():
        if options.resume and options.write_to is None and options.stage_dir is None:
            raise ValueError("resume=True needs write_to or stage_dir: without them no stage can be found again.")
    with faults.caught():
        if options.stage_dir is None:
            parts["stage_parent"] = default_stage_parent(image, parts["place"])
        else:
            parts["stage_parent"] = check_stage_dir(options.stage_dir, image, parts["place"])
    return parts


def _resolve_place(
    name: str, component: Component, options: RunOptions, image: str | None, *, may_exist: bool
) -> OutputPlace:
    """Return the place of a result."""
    place = resolve_output(
        options.write_to,
        component_of(component, name),
        image,
        overwrite=may_exist,
        has_table=options.measure is not None,
    )
    return dataclasses.replace(place, replaces=options.overwrite)


def _check_picklable(fn: Any, execution: Execution) -> None:
    if execution.in_process:
        return
    import cloudpickle

    try:
        cloudpickle.dumps(fn)
    except BaseException as error:
        if ends_process(error):
            raise
        name = getattr(fn, "__qualname__", repr(fn))
        raise TypeError(
            f"fn {name} cannot be pickled, which {execution.kind} workers need: {error_text(error)}. "
            "Create what it names inside the function, or run on threads."
        ) from error


def _check_sendable(plan: RunPlan) -> None:
    """Refuse an image that only this process has open, unless it is in memory and gets stored."""
    source = plan.source
    if not plan.bricks.n_bricks:
        return
    # Of a dask image a graph, in every case: what its making raises is no tile's fault.
    sent = source.sent(plan.bricks.region(plan.bricks.index(0)))
    if plan.execution.in_process or source.in_memory:
        return
    try:
        open_as_others(sent)
    except Exception as error:
        raise TypeError(
            f"image ({source.name}) cannot be opened by other processes, as {plan.execution.kind} workers are: "
            f"{type(error).__name__}: {error_text(error)}. Run on threads, store it as zarr, or make it a "
            "dask array whose tasks open the file themselves (dask.array.map_blocks, dask.delayed)."
        ) from None


def _resolve_tasks(
    source: Source, options: RunOptions, execution: Execution, predictor: Predictor | None, faults: Faults
) -> dict[str, Any]:
    """Turn options into tiles and tasks, and into which of their labels are joined."""
    axes, ndim = source.axes, len(source.shape)
    channel_axis = axes.index("c") if axes and "c" in axes and options.channel is None else None
    parts: dict[str, Any] = {"channel_axis": channel_axis, "empty_threshold": None}
    lengths = halo = None
    with faults.caught():
        lengths = _tile_lengths(source, options, channel_axis, execution)
    # The halo is checked even where the tile shape is at fault.
    tiles = lengths or tuple((n,) for n in source.shape)
    with faults.caught():
        halo = resolve_halo(options.overlap, tiles, axes, channel_axis)
    if lengths is not None and halo is not None:
        with faults.caught():
            grid = aligned_tiles(TileGrid(lengths, halo), predictor)
            parts["bricks"] = _choose_bricks(grid, source, options, execution, predictor)
    with faults.caught():
        parts["merge_axes"] = resolve_merge_axes(options.merge_axes, axes, ndim, channel_axis)
    with faults.caught():
        parts["connectivity"] = resolve_connectivity(options.connectivity, ndim, options.rule)
    with faults.caught():
        if options.skip_empty:
            if source.dtype.kind == "c":
                raise TypeError(f"skip_empty needs an image of real numbers; this one is {source.dtype}.")
            parts["empty_threshold"] = resolve_threshold(options.empty_threshold)
    return parts


def _resolve_measures(source: Source, options: RunOptions, parts: dict[str, Any]) -> Measures | None:
    """Find out what is measured of the image, and that there is somewhere to put it."""
    names: tuple[str, ...] | None = options.measure
    if names is None or "merge_axes" not in parts:
        return None
    check_extra()
    if options.write_to is None and not options.return_report:
        raise ValueError(
            "measure needs write_to, beside whose labels the table is written, or return_report=True: the report "
            "then has it as report.objects."
        )
    channels = find_channels(source, parts["channel_axis"]) if values_among(names) else []
    return resolve_measures(names, source, parts["merge_axes"], channels)


def _tile_lengths(
    source: Source, options: RunOptions, channel_axis: int | None, execution: Execution
) -> tuple[tuple[int, ...], ...]:
    by_gpu = options.use_gpu and vram_bytes_or_warn() is not None
    auto = functools.partial(auto_tile_shape, use_gpu=by_gpu, verbose=options.verbose)
    if execution.task_bytes and not by_gpu:
        auto.keywords["target_bytes"] = worker_tile_bytes(source.dtype, execution.task_bytes)
    # A `tile_shape` function that looks for the GPU itself would warn a second time.
    is_said = options.use_gpu and not by_gpu
    with unsaid(NO_GPU) if is_said else contextlib.nullcontext():
        return resolve_tile_lengths(
            options.tile_shape, source.shape, source.dtype, source.chunks, source.axes, channel_axis, auto
        )


def _choose_bricks(
    grid: TileGrid, source: Source, options: RunOptions, execution: Execution, predictor: Predictor | None
) -> BrickGrid:
    n_tiles = options.tiles_per_task
    if n_tiles is None and options.use_gpu and execution.client is None and predictor is None:
        n_tiles = 1
    if n_tiles is not None:
        return bricks_of(grid, source.read_unit, n_tiles)
    most_units = source.max_chunks_per_task
    return choose_bricks(grid, source.read_unit, execution.n_workers, most_units=most_units)


def _plain(value: Any) -> Any:
    """Make what was given fit for JSON: a number of any kind, None, or for an array anything."""
    if isinstance(value, (bool, str, type(None))):
        return value
    return operator.index(value) if hasattr(value, "__index__") else repr(value)


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in numbers)
