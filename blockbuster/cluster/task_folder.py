"""Tasks in a folder that all workers see: what they share goes in once, and each one's result comes out.

A task that is sent to a worker is a path and a number. Its result does not wait in the worker's memory, where it
is lost with the worker or cannot be had while fn holds the GIL: it lies in the folder, and a task that a
scheduler repeats finds it there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blockbuster.cluster.code_pickle import dump

__all__ = ["Batch", "TaskFolder", "run_kept_task", "run_task"]

BATCH = "batch.pickle"
# How long a file may take to become visible on another machine.
PATIENCE_SECONDS = 5.0

INVISIBLE = (
    "worker {worker} on host {host} cannot see {path}, where the run keeps its tasks: the stage directory, the "
    "image and the output must lie on a file system that all workers share under the same paths. Pass stage_dir="
    "with a shared folder, or use workers that see this one."
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
    """

    path: str

    @classmethod
    def create(cls, batch: Batch, directory: str) -> TaskFolder:
        """Pickle what tasks share into a new folder inside a directory that every worker sees."""
        path = os.path.join(directory, f"tasks-{uuid.uuid4().hex}")
        os.mkdir(path)
        with open(os.path.join(path, BATCH), "xb") as file:
            dump(batch, file)
        return cls(path)

    def remove(self) -> None:
        """Remove the folder, which nobody else writes to but tasks that outlive the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def batch(self) -> Batch:
        """Give what the tasks share; read once per process.

        Raises
        ------
        RuntimeError
            If this process cannot see the folder.
        """
        with _loading:
            return _load(self.path)

    def has_result(self, number: int) -> bool:
        """Whether a task was finished before."""
        return os.path.exists(self._file(number))

    def keep(self, number: int, result: Any) -> None:
        """Keep the result of a task."""
        new = f"{self._file(number)}-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            # A folder that was removed belongs to a run that has ended.
            with open(new, "xb") as file:
                pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)
            os.replace(new, self._file(number))

    def take(self, number: int) -> Any:
        """Take the result of a finished task out of the folder."""
        _wait_for(self._file(number))
        with open(self._file(number), "rb") as file:
            result = pickle.load(file)
        os.unlink(self._file(number))
        return result

    def _file(self, number: int) -> str:
        return os.path.join(self.path, f"{number}.result")


_loading = threading.Lock()


@functools.lru_cache(maxsize=2)
def _load(path: str) -> Batch:
    import cloudpickle

    file_path = os.path.join(path, BATCH)
    try:
        _wait_for(file_path)
    except FileNotFoundError as error:
        raise RuntimeError(
            INVISIBLE.format(worker=_worker_name(), host=socket.gethostname(), path=path)
        ) from error
    with open(file_path, "rb") as file:
        batch: Batch = cloudpickle.load(file)
    return batch


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


def run_kept_task(path: str, number: int, *pixels: Any) -> None:
    """Run a task, unless its result lies in the folder already, and leave the result there."""
    tasks = TaskFolder(path)
    if not tasks.has_result(number):
        tasks.keep(number, run_task(tasks, number, *pixels))
