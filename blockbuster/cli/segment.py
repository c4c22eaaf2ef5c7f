"""``blockbuster segment``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockbuster.cli.fn_argument import FnName, fn_forms, modules_found_in, read_fn_name
from blockbuster.cli.messages import (
    DONE,
    FAILED,
    WRONG_ARGUMENTS,
    complain,
    note,
    print_json,
    say,
    stdout_kept_free,
)
from blockbuster.cli.parsing import (
    make_parser,
    read_at_least_one,
    read_channel,
    read_names,
    read_real,
    read_tile_shape,
    read_voxels,
)
from blockbuster.cli.segmenters import ThresholdAndLabel, ThresholdAndSplit
from blockbuster.merge.rules import RULES, Agree

if TYPE_CHECKING:
    from blockbuster.report import RunReport
    from blockbuster.run.plan import RunPlan

OWN_NAMES = ("image", "fn", "run", "dry_run", "json", "scheduler", "workers", "to_continue")
EXAMPLES = (
    "blockbuster segment image.zarr --fn otsu --write-to labels.zarr",
    "blockbuster segment image.zarr --fn watershed:24 --tile-shape 512,512 --write-to labels.zarr",
    "blockbuster segment image.zarr --fn my_module:find_cells --tile-shape auto --overlap 16 --write-to out.zarr",
    "blockbuster segment image.zarr --fn threshold:120 --write-to image.zarr --output-component labels/cells",
    "blockbuster segment image.zarr --fn otsu --write-to labels.zarr --measure intensity_mean,extent",
    "blockbuster segment image.zarr --fn otsu --skip-empty --write-to labels.zarr --dry-run",
    "blockbuster segment image.zarr --fn otsu --write-to labels.zarr --resume",
)


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "apply a function to every tile of an image and write the merged labels"
    # Options that are not given are left to the defaults of tile_process.
    parser = make_parser(
        commands,
        "segment",
        summary,
        _run,
        EXAMPLES,
        description=f"{summary} (in brackets: what holds without an option)",
        usage=f"blockbuster segment IMAGE --fn FN --write-to OUT [options]\n{'':7}FN is {fn_forms()}",
        argument_default=argparse.SUPPRESS,
    )
    _add_image_options(parser)
    _add_label_options(parser)


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is done to which tiles, named as in `tile_process`."""
    parser.add_argument("image", metavar="IMAGE", help="path or URL of an OME-Zarr image or a zarr array")
    add = parser.add_argument_group("what to do").add_argument
    add(
        "--fn",
        required=True,
        type=read_fn_name,
        help="what labels a tile; watershed splits blobs that touch (DIAMETER in voxels: 20)",
    )
    add("--write-to", required=True, metavar="OUT", help="zarr group that takes the labels, new or not")
    add(
        "--output-component",
        metavar="NAME",
        help="name in OUT: in an image labels/NAME, of many labels/{} (labels)",
    )
    add("--overwrite", action="store_true", help="replace existing labels once the new ones are complete")
    add("--dry-run", action="store_true", default=False, help="print the plan, write nothing")
    add("--json", action="store_true", default=False, help="print the report, or the plan, as JSON")
    add = parser.add_argument_group("the image").add_argument
    add("--channel", type=read_channel, metavar="N", help="channel (0), or none: the function sees all channels")
    add("--level", type=int, metavar="N", help="pyramid level, 0 is the finest (0)")
    add("--axes", help="one letter per axis, e.g. tzyx (from the metadata)")
    add = parser.add_argument_group("tiles").add_argument
    add("--tile-shape", type=read_tile_shape, metavar="N,N", help="voxels per axis, or auto (the image's chunks)")
    add(
        "--overlap",
        type=read_voxels,
        metavar="N",
        help="margin that the function sees too, in voxels, or per axis: 0,16 (0; watershed: DIAMETER)",
    )
    add("--skip-empty", action="store_true", help="do not call the function for tiles of background alone")
    add(
        "--empty-threshold",
        type=read_real,
        metavar="VALUE",
        help="a tile not above it is empty (chosen from a sample)",
    )
    add("--mask", metavar="PATH", help="array or labels, at any resolution: skip tiles that do not meet it")
    add("--use-gpu", action="store_true", help="size auto tiles by GPU memory and run one tile at a time")
    add("--tiles-per-task", type=int, metavar="N", help="tiles read and stored together (chosen)")


def _add_label_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the labels and of the run."""
    add = parser.add_argument_group("labels").add_argument
    rules = ", ".join(f"{rule} (in the margin too)" if rule == Agree.name else rule for rule in RULES)
    add("--merge", metavar="HOW", help=f"what is one object: {rules} (touch; watershed: agree)")
    add(
        "--min-agreement",
        type=read_real,
        metavar="SHARE",
        help="for agree: least share of a piece in the other (0.4)",
    )
    add("--connectivity", type=int, metavar="N", help="1 = faces ... ndim = corners too (1; ndim for agree)")
    add("--merge-axes", metavar="AXES", help="axes along which labels are joined, e.g. yx (all but t and c)")
    add("--sequential-labels", action="store_true", help="number the objects 1..N without gaps")
    add(
        "--measure",
        nargs="?",
        const=True,
        type=read_names,
        metavar="NAMES",
        help="write a table of the objects; NAMES add to it: intensity_mean,intensity_max-DAPI",
    )
    add(
        "--parents",
        type=read_names,
        metavar="PAIRS",
        help="of many results: nuclei:cells adds its cell to each nucleus",
    )
    add = parser.add_argument_group("the run").add_argument
    kinds = ("threads", "processes", "synchronous")
    add("--scheduler", choices=kinds, default=None, metavar="NAME", help=f"{', '.join(kinds)} (threads)")
    add(
        "--workers",
        type=read_at_least_one,
        default=None,
        metavar="N",
        help="tasks that run at once (one per CPU)",
    )
    add("--stage-dir", metavar="FOLDER", help="folder for the temporary stage (beside OUT)")
    add("--keep-stage", action="store_true", help="keep the temporary stage after success")
    add("--resume", action="store_true", help="continue an interrupted run, or begin where there is none")
    add("--fn-version", metavar="TEXT", help="stands for a function whose code cannot be read")
    add("--retries", type=int, metavar="N", help="how often a failed tile is tried again (0)")
    add(
        "--on-error", metavar="HOW", help="raise: stop at the first failed tile; skip: make it background (raise)"
    )
    add("--progress", action=argparse.BooleanOptionalAction, help="progress bars (on a terminal)")
    add("--verbose", action="store_true", help="log each tile")


def _run(args: argparse.Namespace) -> int:
    import dask

    options = {name: value for name, value in vars(args).items() if name not in OWN_NAMES}
    options.setdefault("progress", sys.stderr.isatty())
    given = {"scheduler": args.scheduler, "num_workers": args.workers}
    config = dask.config.set({name: value for name, value in given.items() if value is not None})
    # Worker processes get the path of this one.
    with config, modules_found_in(os.getcwd()):
        job = _Job(args.image, args.fn, options, args.to_continue, as_json=args.json)
        return job.run(dry_run=args.dry_run)


@dataclass(frozen=True)
class _Job:
    """A call of tile_process as the command line gave it."""

    image: str
    fn_name: FnName
    options: dict[str, Any]
    to_continue: str
    as_json: bool

    def run(self, *, dry_run: bool) -> int:
        try:
            with self._stdout():
                plan, fn = self._plan()
        except (TypeError, ValueError, OSError, ImportError, RuntimeError) as error:
            return complain(error, WRONG_ARGUMENTS)
        if not dry_run:
            return self._segment_or_complain(plan, fn)
        if self.as_json:
            print_json(_plan_as_dict(plan))
        else:
            say(plan)
        return DONE

    def _stdout(self) -> contextlib.AbstractContextManager[None]:
        return stdout_kept_free() if self.as_json else contextlib.nullcontext()

    def _plan(self) -> tuple[RunPlan, Callable[..., Any] | None]:
        """Check all arguments; return the plan and the user's function, or None for one of ours."""
        from blockbuster.run.plan import plan_run

        fn = None if self.fn_name.is_ours else self.fn_name.load(use_gpu=bool(self.options.get("use_gpu")))
        given = {} if fn is None else {"fn": fn}
        plan = plan_run(self.image, **given, **self.options)
        if fn is None and plan.source.dtype.kind == "c":
            raise TypeError(
                f"--fn {self.fn_name} needs an image of real numbers; this one is {plan.source.dtype}."
            )
        if self.fn_name.kind == "watershed" and self._choose_seams(plan):
            plan = plan_run(self.image, **self.options)
        return plan, fn

    def _choose_seams(self, plan: RunPlan) -> bool:
        """Choose halo and merge for touching blobs unless given; return whether any was chosen."""
        if not plan.merge_axes:
            raise ValueError(
                "--fn watershed needs an axis along which labels are joined; see --axes, --merge-axes."
            )
        chosen: dict[str, Any] = {}
        if "overlap" not in self.options:
            # A diameter along the axes in which blobs are connected and cut.
            spacing = _spacing(plan) or (1.0,) * len(plan.grid.shape)
            size = self.fn_name.number * spacing[plan.merge_axes[-1]]
            chosen["overlap"] = tuple(
                math.ceil(size / spacing[axis]) if axis in plan.merge_axes and tile > 1 else 0
                for axis, tile in enumerate(plan.grid.tile_shape)
            )
        if "merge" not in self.options:
            chosen["merge"] = Agree.name
        self.options.update(chosen)
        if RULES[self.options["merge"]].joins_all:
            note(
                f"hint: --merge {self.options['merge']} joins all blobs that touch at a seam; "
                f"--merge {Agree.name} keeps apart what the watershed split"
            )
        return bool(chosen)

    def _segment_or_complain(self, plan: RunPlan, fn: Callable[..., Any] | None) -> int:
        from blockbuster.errors import TileError

        try:
            with self._stdout(), contextlib.nullcontext() if self.as_json else _report_kept_out_of_log():
                labels, report = self._segment(plan, fn)
        except (FileExistsError, ValueError) as error:
            return complain(error, WRONG_ARGUMENTS)
        except (TileError, OSError) as error:
            return complain(error, FAILED)
        except Exception as error:
            if self.options.get("verbose"):
                note(traceback.format_exc())
            return complain(error, FAILED, f"{type(error).__name__}: ")
        self._print(plan, labels, report)
        return DONE

    def _print(self, plan: RunPlan, labels: Any, report: RunReport) -> None:
        """Print what a run did, and where each of its results is."""
        from blockbuster.report import OBJECTS

        assert plan.place is not None
        places = plan.places_of(report.names) if report.results else {"": plan.place}
        arrays = labels if report.results else {"": labels}
        found = {
            name: {"path": place.path, "shape": arrays[name].shape, "dtype": str(arrays[name].dtype)}
            for name, place in places.items()
        }
        if self.as_json:
            reports = report.results or {"": report}
            results = {name: {"labels": found[name], **dataclasses.asdict(one)} for name, one in reports.items()}
            print_json({**dataclasses.asdict(report), "results": results} if report.results else results[""])
            return
        say(report)
        for name, place in places.items():
            say("labels    {path} {shape} {dtype}".format(**found[name]))
            if plan.measures is not None:
                say(f"objects   {os.path.join(place.array_path, OBJECTS)}")

    def _segment(self, plan: RunPlan, fn: Callable[..., Any] | None) -> tuple[Any, RunReport]:
        from blockbuster.process import tile_process
        from blockbuster.stage.empty_threshold import otsu_threshold

        name = self.fn_name
        if fn is None:
            # One of ours, which connects voxels as the merge does.
            threshold = name.number if name.kind == "threshold" else otsu_threshold(plan.source)
            fn = ThresholdAndLabel(threshold, plan.merge_axes, plan.connectivity)
            if name.kind == "watershed":
                spacing = _spacing(plan)
                sizes = None if spacing is None else tuple(spacing[axis] for axis in plan.merge_axes)
                fn = ThresholdAndSplit(threshold, name.number, plan.merge_axes, plan.connectivity, sizes)
            say(f"threshold {threshold:.9g}")
        if isinstance(fn, ThresholdAndSplit):
            halo = " x ".join(map(str, plan.grid.halo))
            say(f"watershed diameter {fn.diameter:g}, halo {halo}, merge {plan.options.merge}")
        try:
            labels, report = tile_process(self.image, fn, **self.options, return_report=True)
        except BaseException as error:
            # It left a stage to continue.
            if any("resume=True" in note for note in getattr(error, "__notes__", ())):
                error.add_note(f"To continue: {self.to_continue}")
            raise
        return labels, report


@contextlib.contextmanager
def _report_kept_out_of_log() -> Iterator[None]:
    """Leave the report out of the log: it is the answer, and printed as such."""
    from blockbuster.report import RunReport

    def is_no_report(record: logging.LogRecord) -> bool:
        return not any(isinstance(arg, RunReport) for arg in record.args or ())

    logger = logging.getLogger("blockbuster")
    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)


def _plan_as_dict(plan: RunPlan) -> dict[str, Any]:
    """Return what a run would read, hold and write: voxels and bytes, fit for JSON."""
    grid, bricks, source = plan.grid, plan.bricks, plan.source
    return {
        "image": {
            "name": source.name,
            "shape": list(grid.shape),
            "dtype": str(source.dtype),
            "axes": source.axes,
            "bytes": math.prod(int(n) for n in grid.shape) * source.dtype.itemsize,
        },
        "tiles": {"n": grid.n_tiles, "shape": list(grid.tile_shape), "grid": list(grid.grid_shape)},
        "halo": list(grid.halo),
        "tasks": {"n": bricks.n_bricks, "tiles": list(bricks.tiles_per_brick)},
        "memory_bytes": plan.memory_bytes,
        "stage": {"path": plan.stage_path, "bytes": plan.label_bytes},
        "output": {
            "path": None if plan.place is None else plan.place.path,
            "bytes": plan.label_bytes,
            "levels": 1 + len(plan.coarse_shapes),
        },
        "settings": plan.settings,
    }


def _spacing(plan: RunPlan) -> tuple[float, ...] | None:
    """Return the size of a voxel along each axis; None where the metadata do not compare them."""
    if plan.geometry is None:
        return None
    geometry = plan.geometry.for_labels(len(plan.grid.shape))
    scale = geometry.levels[0].scale
    units = {geometry.axes[axis].get("unit") for axis in plan.merge_axes}
    if scale is None or len(units) > 1:
        return None
    return scale if all(math.isfinite(size) and size > 0 for size in scale) else None
