"""What the benchmarks that measure images take on the command line, and where their images are kept."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["data_folder", "measuring_parser"]


def measuring_parser(name: str, description: str | None, repeats: str) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks.NAME``, whose calls are repeated as often as `repeats` says."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, help=f"counted calls of each (default: {repeats}; 1 with --small)")
    parser.add_argument("--only", default="", metavar="TEXT", help="settings whose name has this text")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep generated images here")
    parser.add_argument("--small", action="store_true", help="smallest sizes, in seconds; nothing is judged")
    return parser


@contextlib.contextmanager
def data_folder(kept: Path | None) -> Iterator[Path]:
    """Give the folder of the images: the user's, or one that goes away."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
