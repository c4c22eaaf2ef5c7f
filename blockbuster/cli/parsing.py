"""How commands and their options are read, and how ``--help`` looks."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from blockbuster.cli.messages import printable

STATUSES = "exit status: 0 done, 1 failed, 2 an argument is wrong, 130 interrupted (Ctrl-C), 143 terminated"


class Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no secrets and no control characters."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave with status 2."""
        super().error(printable(message))


def make_formatter(prog: str) -> argparse.HelpFormatter:
    """Return the layout of all help pages."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=116)


def make_parser(
    commands: Any, name: str, summary: str, run: Callable[..., int], examples: Sequence[str], **options: Any
) -> argparse.ArgumentParser:
    """Add a command to the list of them."""
    description = options.pop("description", summary)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{description[0].upper()}{description[1:]}.",
        allow_abbrev=False,
        formatter_class=make_formatter,
        **options,
    )
    parser.set_defaults(run=run)
    add_examples(parser, examples)
    return parser


def add_examples(parser: argparse.ArgumentParser, examples: Sequence[str], *notes: str) -> None:
    """End a help page with notes, the exit statuses, and commands to copy."""
    parser.epilog = "\n".join([*notes, STATUSES, "", "examples:", *(f"  {line}" for line in examples)])


def read_channel(text: str) -> int | None:
    """Read the index of a channel, or ``none`` for all of them."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none.") from None


def read_names(text: str) -> list[str]:
    """Read names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_tile_shape(text: str) -> str | tuple[int, ...] | int:
    """Read voxels per axis, or ``auto``."""
    return text if text == "auto" else read_voxels(text, "voxels per axis, e.g. 256,256, or auto")


def read_voxels(text: str, rule: str = "a number of voxels, e.g. 16, or one per axis, e.g. 0,16,16") -> Any:
    """Read ``16`` as a number, and ``0,16,16`` or ``16,`` as a tuple."""
    try:
        numbers = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule}.") from None
    return numbers if "," in text else numbers[0]


def read_at_least_one(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more.")
    return int(text)


def read_real(text: str) -> float:
    """Read a number as it is written: a whole one of any size stays exact."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number.")


def read_number(text: str, rule: str) -> float:
    """Read a number that is neither infinite nor NaN."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(rule)
    return number
