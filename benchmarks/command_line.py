"""What the benchmarks take on the command line, and where their images are kept."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.machine import describe_machine, machine_facts
from benchmarks.settings import is_small

__all__ = ["SMALL_NOTE", "begin", "data_folder", "measuring_parser", "plain_parser"]

SMALL_NOTE = "\nThese are the smallest sizes: they show that the benchmark runs, and nothing is judged."


def plain_parser(
    name: str, description: str | None, small: str = "smallest sizes, in seconds; nothing is judged"
) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks.NAME``; `small` says what ``--small`` does."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help=small)
    return parser


def measuring_parser(name: str, description: str | None, repeats: str) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks.NAME``, whose calls are repeated as often as `repeats` says."""
    parser = plain_parser(name, description)
    parser.add_argument("--repeats", type=int, help=f"counted calls of each (default: {repeats}; 1 with --small)")
    parser.add_argument("--only", default="", metavar="TEXT", help="settings whose name has this text")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep generated images here")
    return parser


def begin(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, repeats: int = 1
) -> argparse.Namespace:
    """Read the options, decide what they leave open, and print where this runs: the facts of the machine."""
    options = parser.parse_args(arguments)
    options.small |= is_small()
    if "repeats" in options:
        options.repeats = options.repeats or (1 if options.small else repeats)
    options.facts = machine_facts()
    print(describe_machine(options.facts), flush=True)
    return options


@contextlib.contextmanager
def data_folder(kept: Path | None) -> Iterator[Path]:
    """Give the folder of the images: the user's, or one that goes away."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
