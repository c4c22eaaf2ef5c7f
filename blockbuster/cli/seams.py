"""``blockbuster seams``."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from blockbuster.cli.messages import DONE, WRONG_ARGUMENTS, complain, print_json, say, write_new
from blockbuster.cli.parsing import make_parser, read_at_least_one

if TYPE_CHECKING:
    from blockbuster.report import RunReport

EXAMPLES = (
    "blockbuster seams labels.zarr",
    "blockbuster seams labels.zarr --picture seams.png --doubtful 10",
    "blockbuster seams image.zarr --component labels/nuclei --json",
)


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "show which labels touch at the seams between tiles, which are joined, and where to look"
    add = make_parser(commands, "seams", summary, _run, EXAMPLES).add_argument
    add("path", metavar="PATH", help="zarr group that holds the labels")
    add("--component", default="labels", metavar="NAME", help="labels in it, e.g. labels/cells (%(default)s)")
    add(
        "--doubtful",
        type=read_at_least_one,
        default=0,
        metavar="N",
        help="also list N pairs of labels to look at first",
    )
    add("--picture", metavar="FILE", help="also draw the worst seams to a new PNG file")
    add("--json", action="store_true", help="print the seams as JSON")


def _run(args: argparse.Namespace) -> int:
    from blockbuster.report import read_report

    try:
        report = read_report(args.path, args.component)
        if args.picture is not None:
            _draw(report, args.picture)
    except (OSError, ValueError) as error:
        return complain(error, WRONG_ARGUMENTS)
    if args.json:
        expected = report.seams.expected
        print_json({**dataclasses.asdict(report.seams), "expected": expected and dataclasses.asdict(expected)})
    else:
        say(report, report.seams, *report.doubtful(args.doubtful))
    return DONE


def _draw(report: RunReport, file: str) -> None:
    from blockbuster.report.picture import draw_sheet, encode_png, read_crops

    crops = read_crops(report.seams, report.labels_path)
    if not crops:
        raise ValueError(f"--picture {file}: there is no seam to show, or its labels cannot be read.")
    write_new(file, encode_png(draw_sheet(crops)))
