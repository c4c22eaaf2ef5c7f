"""Marks that tasks leave on disk while they run, so that a process that dies says what it was
doing.

A worker that is killed cannot report the tile that it had in hand, and a scheduler knows at most
the task. So a task keeps a small file as long as it runs, with the step that it is at; only a
process that dies leaves it behind. Who tries the task again finds the files of those who tried
before.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from blockbuster.compat import process_status

ATTEMPTS = "attempts"
SUFFIX = ".attempt"
STEP_BYTES = 12
# Of the flags of a process, in include/linux/sched.h.
PF_EXITING = 0x4


class DeadAttempt(NamedTuple):
    """A task that a process had in hand as it died.

    Parameters
    ----------
    task : str
        Name of the task.
    step : int
        Where it was; -1 before the first step.
    process : str
        Name of the process.
    alone : bool
        Whether the process had no other task in hand.
    """

    task: str
    step: int
    process: str
    alone: bool


class _Turns:
    """Tasks of one process run side by side, but one that died before runs alone: so it cannot
    blame others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_running = 0
        self._has_lone = False

    @contextlib.contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._has_lone and not (alone and self._n_running))
            self._has_lone = alone
            self._n_running += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_running -= 1
                self._has_lone = False if alone else self._has_lone
                self._changed.notify_all()


_turns = _Turns()


@dataclass
class Attempt:
    """A task that marks where it is, in a folder that outlives its process.

    Parameters
    ----------
    directory : str or None
        The directory of the run; ``None`` leaves no mark, for tasks whose process drives the run
        itself.
    task : str
        Name of the task: a word, a hyphen and a number.

    Notes
    -----
    Costs a file that is made and removed, and a write of 12 bytes for each step: 30 and 1
    microseconds on a local disk.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Attempt(folder, "brick-7") as attempt:
    ...     attempt.at(3)
    ...     attempt.deaths_at(3)
    0
    """

    directory: str | None
    task: str

    def __post_init__(self) -> None:
        self._file: int | None = None
        self._path = ""
        self._before: Counter[int] = Counter()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self.directory is None:
            return self
        before = []
        # The marks of those that died of this task begin with the first.
        if os.path.lexists(self._path_of(self.directory, 0)):
            before = [attempt for attempt in dead_attempts(self.directory) if attempt.task == self.task]
        self._before = Counter(attempt.step for attempt in before if attempt.alone)
        # A task that waits for its turn has no mark yet: it is not what the process dies of
        # meanwhile.
        self._stack.enter_context(_turns.turn(alone=bool(before)))
        # Where the folder was removed, the run has ended, and the task will see that.
        with contextlib.suppress(FileNotFoundError):
            self._mark(self.directory)
        return self

    def _path_of(self, directory: str, number: int) -> str:
        return os.path.join(directory, ATTEMPTS, f"{self.task}.{number}{SUFFIX}")

    def _mark(self, directory: str) -> None:
        """Make the first file that is not there."""
        number = 0
        while self._file is None:
            self._path = self._path_of(directory, number)
            try:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                number += 1
        os.pwrite(self._file, b"%-*d" % (STEP_BYTES, -1) + _process_name().encode(), 0)

    def at(self, step: int) -> None:
        """Mark that a step begins."""
        if self._file is not None:
            os.pwrite(self._file, b"%-*d" % (STEP_BYTES, step), 0)

    @property
    def is_repeated(self) -> bool:
        """Whether a process died of the task before."""
        return bool(self._before)

    def deaths_at(self, step: int) -> int:
        """How many processes died at this step that had nothing else in hand."""
        return self._before[step]

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._stack.close()


def dead_attempts(directory: str) -> list[DeadAttempt]:
    """Read the marks of processes that are not known to live."""
    folder = os.path.join(directory, ATTEMPTS)
    found = []
    for name in _marks(folder):
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(folder, name), "rb") as file:
                step, process = int(file.read(STEP_BYTES)), file.read().decode()
            if not _is_alive(process):
                found.append((name.partition(".")[0], step, process))
    in_hand = Counter(process for _, _, process in found)
    return [DeadAttempt(*attempt, alone=in_hand[attempt[2]] == 1) for attempt in found]


def clear_attempts(directory: str) -> None:
    """Forget the processes of earlier runs, and make room for the marks of this one."""
    folder = os.path.join(directory, ATTEMPTS)
    os.makedirs(folder, exist_ok=True)
    for name in _marks(folder):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))


def _marks(folder: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
    return []


def _is_alive(process: str) -> bool:
    """Return whether a process runs, as far as that can be known from here."""
    host, pid, _ = process.rsplit("-", 2)
    if process == _process_name():
        return True
    if host != socket.gethostname():
        return False
    import psutil

    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE and not _is_exiting(int(pid))
    except (psutil.Error, OverflowError):
        return False


def _is_exiting(pid: int) -> bool:
    """Return whether Linux is removing a process, whose connections are closed before it is a
    zombie.
    """
    fields = process_status(pid)
    return fields is not None and bool(int(fields[6]) & PF_EXITING)


def _process_name() -> str:
    return _name_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _name_of(pid: int) -> str:
    """Name a process; the random part tells it from a later one with the same number."""
    return f"{socket.gethostname()}-{pid}-{uuid.uuid4().hex[:8]}"
