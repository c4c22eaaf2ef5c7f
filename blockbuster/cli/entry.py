"""The command line: ``blockbuster segment``, ``blockbuster seams`` and ``blockbuster demo``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import math
import operator
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

from blockbuster import __version__

if TYPE_CHECKING:
    import numpy as np

    from blockbuster.plan import RunPlan
    from blockbuster.report import RunReport

__all__ = ["ThresholdAndLabel", "main"]

DONE, FAILED, WRONG_ARGUMENTS = 0, 1, 2
OWN_NAMES = ("image", "fn", "run", "dry_run", "scheduler", "workers", "to_continue")
# A run that is continued does not begin anew.
ANEW = ("--resume", "--overwrite")
MOST_LISTED = 12
FN_FORMS = "otsu, threshold:VALUE or module:function"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; ``None``: those of the process.

    Returns
    -------
    int
        0: done, 1: the run failed, 2: an argument is wrong, 130: interrupted (Ctrl-C), 143: terminated. A
        second signal ends the process at once.

    Raises
    ------
    SystemExit
        By ``--help`` and ``--version``, and with 2 for arguments that cannot be read.

    Examples
    --------
    >>> main(["segment", "missing.zarr", "--fn", "threshold:9", "--write-to", "labels.zarr"])
    2
    """
    given = _with_dashes(sys.argv[1:] if argv is None else argv)
    args = _build_parser().parse_args(given)
    args.to_continue = shlex.join(["blockbuster", *(word for word in given if word not in ANEW), "--resume"])
    with warnings.catch_warnings(), _signals_handled():
        warnings.showwarning = _Warnings().show
        try:
            return int(args.run(args))
        except KeyboardInterrupt as error:
            number = error.args[0] if error.args else signal.SIGINT
            error.args = (("terminated" if number == signal.SIGTERM else "interrupted"),)
            return _complain(error, 128 + number)


@contextlib.contextmanager
def _signals_handled() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the run in order, and the second one end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)
        print("blockbuster: ending after the running calls; once more to leave at once", file=sys.stderr)
        raise KeyboardInterrupt(signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_dashes(argv: Sequence[str]) -> list[str]:
    """Accept the names of arguments as Python spells them: ``--tile_shape`` is ``--tile-shape``."""
    return [re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), text) for text in argv]


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "blockbuster",
        description="Segment images too large for memory in tiles, and merge the labels.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blockbuster {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_segment(commands)
    _add_seams(commands)
    return parser


def _add_demo(commands: Any) -> None:
    summary = "segment a small image in tiles and compare with the untiled result"
    parser = commands.add_parser("demo", help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--folder", default="blockbuster-demo", help="new folder for the results (%(default)s)")
    parser.set_defaults(run=_run_demo)


def _add_segment(commands: Any) -> None:
    summary = "apply a function to every tile of an image and write the merged labels"
    # Options that are not given are left to the defaults of tile_process.
    parser = commands.add_parser(
        "segment",
        help=summary,
        description=f"{summary} (in parentheses below: what holds without the option)",
        usage=f"blockbuster segment IMAGE --fn FN --write-to OUT [options]\n{'':7}FN is {FN_FORMS}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=_wide,
    )
    parser.set_defaults(run=_run_segment)
    parser.add_argument("image", metavar="IMAGE", help="path or URL of an OME-Zarr image or a zarr array")
    _add_job_options(parser.add_argument_group("what to do").add_argument)
    _add_image_options(parser.add_argument_group("the image").add_argument)
    _add_tile_options(parser.add_argument_group("tiles").add_argument)
    _add_label_options(parser.add_argument_group("labels").add_argument)
    _add_run_options(parser.add_argument_group("the run").add_argument)


def _add_seams(commands: Any) -> None:
    summary = "show which labels touch at the seams of finished labels, which are joined, and where to look"
    parser = commands.add_parser(
        "seams", help=summary, description=summary, allow_abbrev=False, formatter_class=_wide
    )
    parser.set_defaults(run=_run_seams)
    parser.add_argument("path", metavar="PATH", help="zarr group that holds the labels")
    parser.add_argument("--component", default="labels", metavar="NAME", help="label array in it (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the seams as JSON")
    parser.add_argument("--picture", metavar="FILE", help="also draw the worst seams to a new PNG file")


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=34, width=116)


def _add_job_options(add: Callable[..., Any]) -> None:
    add("--fn", required=True, type=_fn_name, help=f"{FN_FORMS} (imported from here)")
    add("--write-to", required=True, metavar="OUT", help="zarr group that takes the labels")
    add("--output-component", metavar="NAME", help="name of the label array inside OUT (labels)")
    add("--overwrite", action="store_true", help="replace existing labels once the new ones are complete")
    add("--dry-run", action="store_true", default=False, help="print the plan and stop")


def _add_image_options(add: Callable[..., Any]) -> None:
    add("--channel", type=_channel, metavar="N", help="channel (0), or none: the function sees all channels")
    add("--level", type=int, metavar="N", help="pyramid level, 0 is the finest (0)")
    add("--axes", help="one letter per axis, e.g. tzyx (from the metadata)")


def _add_tile_options(add: Callable[..., Any]) -> None:
    add("--tile-shape", type=_tile_shape, metavar="N,N", help="voxels per axis, or auto (the image's chunks)")
    add("--overlap", type=_voxels, metavar="N", help="halo in voxels, one number or one per axis: 0,16,16 (0)")
    add("--skip-empty", action="store_true", help="do not call the function for tiles of background alone")
    add("--empty-threshold", type=float, metavar="VALUE", help="a tile not above it is empty (Otsu of a sample)")
    add("--use-gpu", action="store_true", help="size auto tiles by GPU memory and run one tile at a time")
    add("--tiles-per-task", type=int, metavar="N", help="tiles read and stored together (chosen)")


def _add_label_options(add: Callable[..., Any]) -> None:
    add("--merge", metavar="HOW", help="touch, agree (also in the halo) or none: what is one object (touch)")
    add("--min-agreement", type=float, metavar="IOU", help="for agree: least intersection over union (0.3)")
    add("--connectivity", type=int, metavar="N", help="1 = faces ... ndim = corners too (1; ndim for agree)")
    add("--merge-axes", metavar="AXES", help="axes along which labels are joined, e.g. yx (all but t and c)")
    add("--sequential-labels", action="store_true", help="number the objects 1..N without gaps")


def _add_run_options(add: Callable[..., Any]) -> None:
    kinds = ("threads", "processes", "synchronous")
    add("--scheduler", choices=kinds, default=None, metavar="NAME", help=f"{', '.join(kinds)} (threads)")
    add("--workers", type=_at_least_one, default=None, metavar="N", help="tasks that run at once (one per CPU)")
    add("--stage-dir", metavar="FOLDER", help="folder for the temporary stage (beside OUT)")
    add("--keep-stage", action="store_true", help="keep the stage after success")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--fn-version", metavar="TEXT", help="stands for a function whose code cannot be read")
    add("--retries", type=int, metavar="N", help="how often a failed tile is tried again (0)")
    add("--on-error", metavar="HOW", help="raise: stop at the first failed tile; skip: make it background")
    add("--progress", action=argparse.BooleanOptionalAction, help="progress bars (on a terminal)")
    add("--verbose", action="store_true", help="log each tile")


def _fn_name(text: str) -> str:
    kind, _, value = text.partition(":")
    if kind == "threshold":
        _threshold_value(value)
    elif text != "otsu" and not (kind and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {FN_FORMS}.")
    return text


def _threshold_value(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"threshold:{value} needs a number, e.g. threshold:120.")
    return number


def _channel(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none.") from None


def _tile_shape(text: str) -> str | tuple[int, ...] | int:
    return text if text == "auto" else _voxels(text, "voxels per axis, e.g. 256,256, or auto")


def _voxels(text: str, rule: str = "a number of voxels, e.g. 16, or one per axis, e.g. 0,16,16") -> Any:
    """Read ``16`` as a number, and ``0,16,16`` or ``16,`` as a tuple."""
    try:
        numbers = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule}.") from None
    return numbers if "," in text else numbers[0]


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more.")
    return int(text)


def _run_demo(args: argparse.Namespace) -> int:
    from blockbuster.demo import run_demo

    try:
        return DONE if run_demo(args.folder) else FAILED
    except FileExistsError as error:
        return _complain(error, WRONG_ARGUMENTS)
    except OSError as error:
        return _complain(error, FAILED)


def _run_seams(args: argparse.Namespace) -> int:
    from blockbuster.report import read_report

    try:
        report = read_report(args.path, args.component)
        if args.picture is not None:
            _write_picture(report, args.picture)
    except (OSError, ValueError) as error:
        return _complain(error, WRONG_ARGUMENTS)
    if args.json:
        print(json.dumps(dataclasses.asdict(report.seams), indent=2))
    else:
        print(report, report.seams, sep="\n")
    return DONE


def _write_picture(report: RunReport, file: str) -> None:
    from blockbuster.report.picture import draw_sheet, encode_png, read_crops

    crops = read_crops(report.seams, report.labels_path)
    if not crops:
        raise ValueError(f"--picture {file}: there is no seam to show, or its labels cannot be read.")
    png = encode_png(draw_sheet(crops))
    try:
        with open(file, "xb") as stream:
            stream.write(png)
    except FileExistsError as error:
        raise FileExistsError(f"--picture {file}: the file exists; give a new name.") from error


def _run_segment(args: argparse.Namespace) -> int:
    import dask

    options = {name: value for name, value in vars(args).items() if name not in OWN_NAMES}
    options.setdefault("progress", sys.stderr.isatty())
    given = {"scheduler": args.scheduler, "num_workers": args.workers}
    with dask.config.set({name: value for name, value in given.items() if value is not None}):
        return _Job(args.image, args.fn, options, args.to_continue).run(dry_run=args.dry_run)


@dataclass(frozen=True)
class _Job:
    """A call of tile_process as the command line gave it."""

    image: str
    fn_name: str
    options: dict[str, Any]
    to_continue: str

    def run(self, *, dry_run: bool) -> int:
        try:
            plan, fn = self._plan()
        except (TypeError, ValueError, OSError, ImportError, RuntimeError) as error:
            return _complain(error, WRONG_ARGUMENTS)
        if dry_run:
            print(plan)
            return DONE
        return self._segment_or_complain(plan, fn)

    def _plan(self) -> tuple[RunPlan, Callable[..., Any] | None]:
        """Check all arguments; give the user's function, or None for one of ours."""
        from blockbuster.plan import plan_run

        is_ours = self.fn_name == "otsu" or self.fn_name.startswith("threshold:")
        given = {} if is_ours else {"fn": _import_function(self.fn_name)}
        plan = plan_run(self.image, **given, **self.options)
        if is_ours and plan.source.dtype.kind == "c":
            raise TypeError(
                f"--fn {self.fn_name} needs an image of real numbers; this one is {plan.source.dtype}."
            )
        return plan, given.get("fn")

    def _segment_or_complain(self, plan: RunPlan, fn: Callable[..., Any] | None) -> int:
        from blockbuster.errors import TileError

        try:
            with self._way_on_named():
                self._segment(plan, fn)
        except (FileExistsError, ValueError) as error:
            return _complain(error, WRONG_ARGUMENTS)
        except (TileError, OSError) as error:
            return _complain(error, FAILED)
        except Exception as error:
            if self.options.get("verbose"):
                traceback.print_exc()
            return _complain(error, FAILED, f"{type(error).__name__}: ")
        return DONE

    @contextlib.contextmanager
    def _way_on_named(self) -> Iterator[None]:
        """Add the command that continues to an error that left a stage to continue."""
        try:
            yield
        except BaseException as error:
            if any("resume=True" in note for note in getattr(error, "__notes__", ())):
                error.add_note(f"To continue: {self.to_continue}")
            raise

    def _segment(self, plan: RunPlan, fn: Callable[..., Any] | None) -> None:
        from blockbuster.process import tile_process

        if fn is None:
            fn = _make_function(self.fn_name, plan)
            print(f"threshold {fn.threshold:.9g}")
        labels, report = tile_process(self.image, fn, **self.options, return_report=True)
        print(report)
        if plan.place is not None:
            print(f"labels    {plan.place.array_path} {labels.shape} {labels.dtype}")


@dataclass(frozen=True)
class ThresholdAndLabel:
    """Label the connected voxels above a threshold.

    Parameters
    ----------
    threshold : float
        Foreground is above it.
    axes : tuple of int
        Axes along which voxels are connected.
    connectivity : int
        Along how many of `axes` two neighbours may differ.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[9, 0], [0, 9]])
    >>> ThresholdAndLabel(5, axes=(0, 1))(image).tolist()
    [[1, 0], [0, 2]]
    >>> ThresholdAndLabel(5, axes=(0, 1), connectivity=2)(image).tolist()
    [[1, 0], [0, 1]]
    """

    threshold: float
    axes: tuple[int, ...]
    connectivity: int = 1

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Label a tile; voxels that are NaN are background."""
        from scipy import ndimage

        labels: np.ndarray = ndimage.label(tile > self.threshold, self._neighbours(tile.ndim))[0]
        return labels

    def _neighbours(self, ndim: int) -> np.ndarray:
        import numpy as np

        steps = np.abs(np.indices((3,) * ndim) - 1)
        apart = [axis for axis in range(ndim) if axis not in self.axes]
        return np.asarray((steps.sum(axis=0) <= self.connectivity) & ~steps[apart].any(axis=0))


def _make_function(name: str, plan: RunPlan) -> ThresholdAndLabel:
    """Make one of our functions, so that it connects voxels as the merge does."""
    from blockbuster.stage.empty import otsu_threshold

    threshold = otsu_threshold(plan.source) if name == "otsu" else _threshold_value(name.partition(":")[2])
    return ThresholdAndLabel(threshold, plan.merge_axes, plan.connectivity)


def _import_function(name: str) -> Any:
    """Import ``module:function``, looking in the current folder first."""
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ImportError(f"--fn {name}: {module_name} needs a module that is not there: {error}.") from error
        hint = f" Write {module_name[:-3]}:{attribute}." if module_name.endswith(".py") else ""
        raise ImportError(
            f"--fn {name}: there is no module {module_name!r} in {here} or among the installed packages.{hint}"
        ) from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ImportError(
            f"--fn {name}: importing {module_name} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error
    return _find_function(module, attribute, name)


def _find_function(module: ModuleType, attribute: str, name: str) -> Any:
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        listed = f" It has: {', '.join(known[:MOST_LISTED])}." if known else " It has no functions."
        raise ImportError(f"--fn {name}: {module.__name__} has no {attribute!r}.{listed}") from None


def _complain(error: BaseException, status: int, kind: str = "") -> int:
    """Print what went wrong, without a traceback, and give the exit status."""
    text = "\n".join([kind + str(error), *getattr(error, "__notes__", ())])
    text = re.sub(r"\b(overwrite|resume)=True\b", r"--\1", text)
    print(f"blockbuster: {text}", file=sys.stderr)
    return status


class _Warnings:
    """Print each warning once, as a line; the plan is made twice."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message)
        if text not in self._printed:
            self._printed.add(text)
            print(f"blockbuster: warning: {text}", file=sys.stderr)
