"""Tasks in a folder that all workers see: what they share goes in once, and each one's result comes
out.

A task that is sent to a worker is a path, a digest and a number. Its result does not wait in the
worker's memory, where it is lost with the worker or cannot be had while fn holds the GIL: it lies
in the folder, and a task that a scheduler repeats finds it there, or an empty file where it was
taken already.

Whoever else can write to the folder cannot have code of theirs run. What the tasks share is a
pickle, and a worker reads it only if it has the digest that came with the task; results are plain
data.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from blockbuster.execution.code_pickle import dump
from blockbuster.execution.plain import decode, encode
from blockbuster.identity.owners import private_mode

BATCH = "batch.pickle"
# How long a file may take to become visible on another machine.
PATIENCE_SECONDS = 5.0

INVISIBLE = (
    "worker {worker} on host {host} cannot see {path}, where the run keeps its tasks: the stage directory, the "
    "image and the output must lie on a file system that all workers share under the same paths, and the workers "
    "run as the user who calls. Pass stage_dir= with a shared folder, or use workers that see this one."
)
CHANGED = (
    "{path} is not what the run put there ({what}): somebody else can write to the stage, the disk is at fault, "
    "or workers have another version of blockbuster. See which it is, then run again with resume=True."
)


ENDED = (
    "importing what fn needs raised SystemExit: {code} in worker {worker}: a module that it names ends the "
    'process as it is imported, perhaps a script without `if __name__ == "__main__":`.'
)


class Batch:
    """Tasks that differ by a number: ``function(job, number)``.

    Not a dataclass, which dask would search for dask arrays of the user's, to compute them.
    """

    def __init__(self, function: Callable[..., Any], job: Any) -> None:
        self.function = function
        self.job = job


@dataclass(frozen=True)
class TaskFolder:
    """Tasks on disk.

    Parameters
    ----------
    path : str
        The folder.
    digest : str
        SHA-256 of what the tasks share. It is sent with every task, past the folder.
    """

    path: str
    digest: str

    @classmethod
    def create(cls, batch: Batch, directory: str) -> TaskFolder:
        """Pickle what tasks share into a new folder inside a directory that every worker sees."""
        path = os.path.join(directory, f"tasks-{uuid.uuid4().hex}")
        os.mkdir(path, private_mode())
        with open(os.path.join(path, BATCH), "xb") as file:
            hashing = _Hashing(file)
            dump(batch, hashing)
        return cls(path, hashing.hash.hexdigest())

    def remove(self) -> None:
        """Remove the folder, which nobody else writes to but tasks that outlive the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def batch(self) -> Batch:
        """Return what the tasks share; read once per process.

        Raises
        ------
        RuntimeError
            If this process cannot see the folder, or what lies there is something else.
        """
        with _loading:
            return _load(self.path, self.digest)

    def has_result(self, number: int) -> bool:
        """Return whether a task was finished before, its result taken or not."""
        return os.path.exists(self._file(number))

    def keep(self, number: int, result: Any) -> None:
        """Keep the result of a task."""
        data = encode(result)
        new = f"{self._file(number)}-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            # A folder that was removed belongs to a run that has ended.
            with open(new, "xb") as file:
                file.write(data)
            os.replace(new, self._file(number))

    def take(self, number: int) -> Any:
        """Take the result of a finished task, and leave an empty file in its place.

        A scheduler that hears of a worker's death before it hears that the result was taken repeats
        the task.

        Raises
        ------
        RuntimeError
            If what lies there is not a result.
        """
        path = self._file(number)
        _wait_for(path)
        data = Path(path).read_bytes()
        os.truncate(path, 0)
        try:
            return decode(data)
        except ValueError as error:
            raise RuntimeError(CHANGED.format(path=path, what=error)) from None

    def _file(self, number: int) -> str:
        return os.path.join(self.path, f"{number}.result")


_loading = threading.Lock()


class _Hashing:
    """What is written to a file, and its digest: the file itself may have another by the time it is
    read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self.file.write(data)


@functools.lru_cache(maxsize=2)
def _load(path: str, digest: str) -> Batch:
    try:
        batch: Batch = pickle.loads(_read_batch(path, digest))
    except SystemExit as error:
        # It would end a worker, and then the process that waits for it.
        raise RuntimeError(ENDED.format(worker=_worker_name(), code=error.code)) from None
    return batch


def _read_batch(path: str, digest: str) -> bytes:
    """Read what tasks share, once it is visible here and whole."""
    file = os.path.join(path, BATCH)
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        data = Path(file).read_bytes() if os.path.exists(file) else None
        if data is not None and hashlib.sha256(data).hexdigest() == digest:
            return data
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    if data is None:
        raise RuntimeError(INVISIBLE.format(worker=_worker_name(), host=socket.gethostname(), path=path))
    raise RuntimeError(CHANGED.format(path=file, what="its digest differs"))


def _wait_for(path: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise FileNotFoundError(path)
        time.sleep(0.05)


def _worker_name() -> str:
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        return str(get_worker().address)
    return f"process {os.getpid()}"


def run_task(tasks: Batch | TaskFolder, number: int, *pixels: Any) -> Any:
    """Run a task and return its result."""
    batch = tasks.batch() if isinstance(tasks, TaskFolder) else tasks
    return batch.function(batch.job, number, *pixels)


def run_kept_task(path: str, digest: str, number: int, *pixels: Any) -> None:
    """Run a task, unless its result lies in the folder already, and leave the result there."""
    tasks = TaskFolder(path, digest)
    if not tasks.has_result(number):
        tasks.keep(number, run_task(tasks, number, *pixels))
