"""``blockbuster merge``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from blockbuster.cli.messages import DONE, FAILED, WRONG_ARGUMENTS, complain, print_json, say
from blockbuster.cli.parsing import make_parser, read_at_least_one, read_real
from blockbuster.merge.rules import RULES

EXAMPLES = (
    "blockbuster merge cells.zarr.labels.blockbuster-stage --min-agreement 0.5 --write-to stricter.zarr",
    "blockbuster merge cells.zarr.labels.blockbuster-stage --merge none --write-to tiles.zarr",
)


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "merge the labels of a run with --keep-stage again, without running its function"
    add = make_parser(commands, "merge", summary, _run, EXAMPLES).add_argument
    add("stage", metavar="STAGE", help="the stage that was kept: OUT.NAME.blockbuster-stage")
    add("--write-to", required=True, metavar="OUT", help="zarr group that takes the labels, new or not")
    add("--output-component", default="labels", metavar="NAME", help="name of the labels in OUT (%(default)s)")
    add("--merge", metavar="HOW", help=f"which labels are one object: {', '.join(RULES)} (as the run had it)")
    add(
        "--min-agreement",
        type=read_real,
        metavar="SHARE",
        help="for agree: least share of a piece in the other (the run's)",
    )
    add("--result", default="", metavar="NAME", help="which result of a function that returned several")
    add("--sequential-labels", action="store_true", help="number the objects 1..N without gaps")
    add("--overwrite", action="store_true", help="replace existing labels once the new ones are complete")
    add("--workers", type=read_at_least_one, metavar="N", help="tasks that run at once (one per CPU)")
    add("--progress", action=argparse.BooleanOptionalAction, help="progress bars (on a terminal)")
    add("--json", action="store_true", help="print the number of objects as JSON")


def _run(args: argparse.Namespace) -> int:
    from blockbuster.native import zarr_native_merge
    from blockbuster.stage.opening import open_kept

    try:
        # Labels of others, which are merged as well, are not what is asked for.
        open_kept(args.stage, args.result)
        n_objects = zarr_native_merge(
            args.stage,
            args.result or "labels",
            args.write_to,
            args.output_component,
            n_workers=args.workers,
            show_progress=sys.stderr.isatty() if args.progress is None else args.progress,
            sequential=args.sequential_labels,
            overwrite=args.overwrite,
            merge=args.merge,
            min_agreement=args.min_agreement,
        )
    except (TypeError, ValueError, OSError) as error:
        return complain(error, WRONG_ARGUMENTS)
    except Exception as error:
        return complain(error, FAILED, f"{type(error).__name__}: ")
    if args.json:
        print_json({"n_objects": n_objects})
    else:
        say(f"{n_objects:,} objects in {args.write_to}/{args.output_component}")
    return DONE
