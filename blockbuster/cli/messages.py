"""What commands print and write: lines on stderr, answers on stdout, files of pictures."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from blockbuster.errors import escape_controls, hide_secrets

DONE, FAILED, WRONG_ARGUMENTS = 0, 1, 2
STDOUT, STDERR = 1, 2


def printable(text: object) -> str:
    """Make text fit for a terminal, whatever of it comes from metadata and other programs."""
    return escape_controls(hide_secrets(str(text)))


def say(*lines: object) -> None:
    """Print lines of the answer."""
    print(*map(printable, lines), sep="\n")


def note(text: object) -> None:
    """Print what the user should know beside the answer."""
    print(f"blockbuster: {printable(text)}", file=sys.stderr)


def complain(error: BaseException, status: int, kind: str = "") -> int:
    """Print what went wrong, without a traceback, and return the exit status."""
    text = "\n".join([kind + str(error), *getattr(error, "__notes__", ())])
    note(re.sub(r"\b(overwrite|resume)=True\b", r"--\1", text))
    return status


def print_json(found: Any) -> None:
    """Print what a script reads."""
    print(json.dumps(found, indent=2))


def refuse_existing(file: str | None) -> None:
    """Raise FileExistsError if there is a file that a picture would replace."""
    if file is not None and os.path.lexists(file):
        raise FileExistsError(f"--picture {file}: the file exists; give a new name.")


def write_new(file: str, png: bytes) -> None:
    """Write the bytes of a picture to a file that does not exist yet."""
    refuse_existing(file)
    with open(file, "xb") as stream:
        stream.write(png)


@contextlib.contextmanager
def stdout_kept_free() -> Iterator[None]:
    """Send everything printed to stderr: by the user's function, its libraries, other processes."""
    sys.stdout.flush()
    try:
        before = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
    except OSError:
        # A process without a stdout or a stderr of its own.
        before = -1
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before >= 0:
            os.dup2(before, STDOUT)
            os.close(before)


class Warnings:
    """Print each warning once, as a line; the plan is made twice."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def show(self, message: Warning | str, *_args: object, **_options: object) -> None:
        """Replace `warnings.showwarning`."""
        text = str(message)
        if text not in self._printed:
            self._printed.add(text)
            note(f"warning: {text}")
