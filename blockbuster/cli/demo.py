"""``blockbuster demo``."""

from __future__ import annotations

import argparse
from typing import Any

from blockbuster.cli.messages import DONE, FAILED, WRONG_ARGUMENTS, complain
from blockbuster.cli.parsing import make_parser

EXAMPLES = ("blockbuster demo --folder my-demo",)


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "segment a small image in tiles and compare with the untiled result"
    parser = make_parser(commands, "demo", summary, _run, EXAMPLES)
    parser.add_argument("--folder", default="blockbuster-demo", help="new folder for the results (%(default)s)")


def _run(args: argparse.Namespace) -> int:
    from blockbuster.cli.demonstration import run_demo

    try:
        return DONE if run_demo(args.folder) else FAILED
    except FileExistsError as error:
        return complain(error, WRONG_ARGUMENTS)
    except OSError as error:
        return complain(error, FAILED)
