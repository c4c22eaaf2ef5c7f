"""The command line as a whole: arguments, exit status, and signals."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from blockbuster import __version__
from blockbuster.cli import demo, empty, info, merge, polygons, seams, segment
from blockbuster.cli.messages import Warnings, complain
from blockbuster.cli.parsing import Parser, add_examples, make_formatter

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Options that the command to continue a run must not have: they would start over, or not run.
ANEW = ("--resume", "--overwrite", "--dry-run")
COMMANDS = (demo, info, empty, segment, seams, merge, polygons)
EXAMPLES = (
    "blockbuster demo",
    "blockbuster info image.zarr",
    "blockbuster segment image.zarr --fn otsu --write-to labels.zarr",
    "blockbuster seams labels.zarr",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; ``None``: those of the process.

    Returns
    -------
    int
        0: done, 1: the run failed, 2: an argument is wrong, 130: interrupted (Ctrl-C), 143:
        terminated. A second signal ends the process at once, which a shell shows as the same
        numbers.

    Raises
    ------
    SystemExit
        By ``--help`` and ``--version``, and with 2 for arguments that cannot be read.

    Examples
    --------
    >>> main(["segment", "missing.zarr", "--fn", "threshold:9", "--write-to", "labels.zarr"])
    2
    """
    given = sys.argv[1:] if argv is None else argv
    # The names of arguments are accepted as Python spells them: --tile_shape is --tile-shape.
    given = [re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), text) for text in given]
    args = build_parser().parse_args(given)
    args.to_continue = shlex.join(["blockbuster", *(word for word in given if word not in ANEW), "--resume"])
    with warnings.catch_warnings(), _signals_handled():
        warnings.showwarning = Warnings().show
        try:
            return int(args.run(args))
        except KeyboardInterrupt as error:
            number = error.args[0] if error.args else signal.SIGINT
            error.args = (("terminated" if number == signal.SIGTERM else "interrupted"),)
            return complain(error, 128 + number)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        "blockbuster",
        description="Segment images too large for memory in tiles, and merge the labels.",
        allow_abbrev=False,
        formatter_class=make_formatter,
    )
    parser.add_argument("--version", action="version", version=f"blockbuster {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    add_examples(parser, EXAMPLES, "blockbuster COMMAND --help shows the options of a command.")
    return parser


@contextlib.contextmanager
def _signals_handled() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the run in order, and the second one end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        os._exit(128 + number)

    def handle(number: int, frame: object) -> None:
        for other in SIGNALS:
            signal.signal(other, again)
        print("blockbuster: ending after the running calls; once more to leave at once", file=sys.stderr)
        raise KeyboardInterrupt(signal.Signals(number))

    # The system itself ends the process: while the main thread waits for a lock, Python calls no
    # handler for what came just before that, or to another thread. But the first process of a
    # container needs a handler.
    again = leave if os.getpid() == 1 else signal.SIG_DFL
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
