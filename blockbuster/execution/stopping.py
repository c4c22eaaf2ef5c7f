"""Tell tasks that the run has ended, through the directory that all of them see."""

from __future__ import annotations

import contextlib
import os
import time

from blockbuster.identity.owners import O_NOFOLLOW

STOP = "stop"
SECONDS_BETWEEN_LOOKS = 0.25


class RunStoppedError(Exception):
    """The run has ended, so that a task need not go on. It never leaves the task."""


class StopCheck:
    """Look now and then whether the run has ended: it left a file that says so, or its folder is
    gone.

    Parameters
    ----------
    directory : str
        The directory that all tasks of the run see.
    part : str
        The folder in it that is this run's alone.
    """

    def __init__(self, directory: str, part: str) -> None:
        self.directory = directory
        self.part = part
        self._next_look = 0.0

    def pass_on(self) -> None:
        """Go on, or raise `RunStoppedError`; looks only so often."""
        now = time.monotonic()
        if now >= self._next_look:
            self.look()
            self._next_look = now + SECONDS_BETWEEN_LOOKS

    def look(self) -> None:
        """Go on, or raise `RunStoppedError`."""
        is_stopped = os.path.exists(os.path.join(self.directory, STOP))
        if is_stopped or not os.path.isdir(os.path.join(self.directory, self.part)):
            raise RunStoppedError


def allow_tasks(directory: str) -> None:
    """Take back that an earlier run asked tasks to stop."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, STOP))


def ask_to_stop(directory: str) -> None:
    """Tell the tasks that still run to end after their tile."""
    with contextlib.suppress(OSError):
        os.close(os.open(os.path.join(directory, STOP), os.O_WRONLY | os.O_CREAT | O_NOFOLLOW, 0o666))
