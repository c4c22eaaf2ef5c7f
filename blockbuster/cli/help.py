"""How ``--help`` looks: one line per option, then the exit statuses, then examples that run as they stand."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from blockbuster.cli.messages import printable

__all__ = ["Parser", "add_examples", "make_formatter", "make_parser"]

STATUSES = "exit status: 0 done, 1 failed, 2 an argument is wrong, 130 interrupted (Ctrl-C), 143 terminated"


class Parser(argparse.ArgumentParser):
    """A parser that repeats no secrets and no control characters of what it cannot read."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave with status 2."""
        super().error(printable(message))


def make_formatter(prog: str) -> argparse.HelpFormatter:
    """Return the layout of all pages of help."""
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


def add_examples(parser: argparse.ArgumentParser, examples: Sequence[str], *, notes: Sequence[str] = ()) -> None:
    """End a page of help with notes, the exit statuses, and commands to copy."""
    parser.epilog = "\n".join([*notes, STATUSES, "", "examples:", *(f"  {line}" for line in examples)])
