"""Where tasks run: dask's configured scheduler, or the workers of an active client."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.multiprocessing
import dask.threaded
import numpy as np
from dask.callbacks import Callback

__all__ = ["Execution", "RunStoppedError", "StopCheck", "find_execution", "run_tasks"]

STOP = "stop"
SECONDS_BETWEEN_LOOKS = 0.25

IN_PROCESS_CLIENT = (
    "The active dask client runs its workers inside this process (processes=False). A function that "
    "holds the GIL starves the workers' heartbeat there and their results are lost. Use a cluster whose "
    "workers are processes (blockbuster.make_local_cluster(), or LocalCluster(processes=True)), or close "
    "the client to run on threads."
)

BROKEN_POOL = (
    "A worker process ended abruptly: it was killed (out of memory?), fn ended the process, or the script that "
    "calls blockbuster has no main guard, so that every worker runs it again. Put the call under "
    '`if __name__ == "__main__":`, or use the threads scheduler.'
)


@dataclass(frozen=True)
class Execution:
    """Where tasks run.

    Parameters
    ----------
    kind : str
        ``"synchronous"``, ``"threads"``, ``"processes"``, ``"distributed"``, or ``"other"``
        for a scheduler of the user's own.
    n_workers : int
        How many tasks run at once.
    get : callable
        dask's scheduler function.
    client : distributed.Client or None
        The active client.
    pool : concurrent.futures.Executor or None
        The pool of workers that the phases of a run share.
    """

    kind: str
    n_workers: int
    get: Callable[..., Any]
    client: Any = None
    pool: Any = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Execution]:
        """Keep one pool of workers for all phases of a run, and end it with the run.

        dask's own pool of threads outlives a failed run and would go on working in the
        background; its processes would be started anew for every phase.
        """
        if self.kind not in ("threads", "processes") or dask.config.get("pool", None) is not None:
            yield self
            return
        if self.kind == "threads":
            pool: Executor = ThreadPoolExecutor(self.n_workers, "blockbuster")
        else:
            context = dask.multiprocessing.get_context()
            pool = ProcessPoolExecutor(self.n_workers, mp_context=context, initializer=_start_worker)
        try:
            yield dataclasses.replace(self, pool=pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @property
    def in_process(self) -> bool:
        """Whether tasks share this process's memory."""
        return self.kind in ("synchronous", "threads")


def _start_worker() -> None:
    dask.multiprocessing.initialize_worker_process()
    threading.Thread(target=_end_with_parent, name="blockbuster-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End a worker process whose parent was killed: it would wait for tasks for ever, or write to a stage."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def find_execution(*, one_at_a_time: bool = False) -> Execution:
    """Find out where dask would run tasks now.

    Parameters
    ----------
    one_at_a_time : bool
        Without a client, run one task at a time, for a device that cannot be shared.

    Raises
    ------
    RuntimeError
        If the workers of the active client live in this process.

    Examples
    --------
    >>> with dask.config.set(scheduler="synchronous"):
    ...     find_execution().kind
    'synchronous'
    """
    get = dask.base.get_scheduler() or dask.threaded.get
    client = getattr(get, "__self__", None)
    if client is not None and hasattr(client, "nthreads"):
        _refuse_in_process(client)
        return Execution("distributed", max(1, sum(client.nthreads().values())), get, client)
    if one_at_a_time or get is dask.local.get_sync:
        return Execution("synchronous", 1, dask.local.get_sync)
    return Execution(_kind(get), _n_workers(), get)


def _kind(get: Callable[..., Any]) -> str:
    if get is dask.threaded.get:
        return "threads"
    return "processes" if get is dask.multiprocessing.get else "other"


def _n_workers() -> int:
    pool = dask.config.get("pool", None)
    workers = getattr(pool, "_max_workers", None) or dask.config.get("num_workers", None)
    return int(workers or dask.system.CPU_COUNT)


def _refuse_in_process(client: Any) -> None:
    here = _process()
    if here in client.run(_process).values():
        raise RuntimeError(IN_PROCESS_CLIENT)


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


class RunStoppedError(Exception):
    """The run has ended, so that a task need not go on. It never leaves the task."""


class StopCheck:
    """Look now and then whether the run has ended: it left a file that says so, or its folder is gone.

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
            self._next_look = now + SECONDS_BETWEEN_LOOKS
            self.look()

    def look(self) -> None:
        """Go on, or raise `RunStoppedError`."""
        is_stopped = os.path.exists(os.path.join(self.directory, STOP))
        if is_stopped or not os.path.isdir(os.path.join(self.directory, self.part)):
            raise RunStoppedError


def _allow_tasks(directory: str) -> None:
    """Take back that an earlier run asked tasks to stop."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, STOP))


def _ask_to_stop(directory: str) -> None:
    """Tell the tasks that still run to end after their tile."""
    with contextlib.suppress(OSError):
        Path(directory, STOP).touch()


class Batch:
    """Tasks that differ by a number: ``function(job, number)``.

    Not a dataclass, which dask would search for dask arrays of the user's, to compute them.
    """

    def __init__(self, function: Callable[..., Any], job: Any, numbers: Sequence[int]) -> None:
        self.function = function
        self.job = job
        self.numbers = numbers


@dataclass(frozen=True)
class PickledBatch:
    """A batch in a file, so that a task carries a path and not the user's function."""

    path: str

    @classmethod
    def write(cls, batch: Batch, directory: str) -> PickledBatch:
        """Pickle a batch into a directory that every worker can see."""
        import cloudpickle

        path = os.path.join(directory, f"tasks-{uuid.uuid4().hex}.pickle")
        with open(path, "xb") as file:
            cloudpickle.dump(batch, file)
        return cls(path)


@functools.lru_cache(maxsize=4)
def _load(pickled: PickledBatch) -> Batch:
    import cloudpickle

    with open(pickled.path, "rb") as file:
        batch: Batch = cloudpickle.load(file)
    return batch


def run_tasks(
    execution: Execution,
    function: Callable[..., Any],
    job: Any,
    numbers: Sequence[int],
    *,
    directory: str,
    on_result: Callable[[Any], None],
    regions: Sequence[Any] | None = None,
) -> None:
    """Run ``function(job, number)`` for every number and hand each result to `on_result`.

    Parameters
    ----------
    execution : Execution
        Where to run.
    function : callable
        ``(job, number)`` or, with `regions`, ``(job, number, pixels)``; returns something small.
    job : object
        What all tasks share. It is sent once per process, not per task.
    numbers : sequence of int
        One per task.
    directory : str
        A directory that every worker sees.
    on_result : callable
        Called in this process as tasks end, in any order. If it raises, no new task starts, the
        running ones are waited for, and the exception is passed on.
    regions : sequence of dask arrays or None, optional
        Pixels that enter each task through its graph; ``None`` for a task that reads its own.
    """
    if not len(numbers):
        return
    _allow_tasks(directory)
    batch = Batch(function, job, list(numbers))
    sent = batch if execution.in_process else PickledBatch.write(batch, directory)
    tasks = _task_array(sent, len(numbers), regions)
    try:
        if execution.kind == "distributed":
            _run_on_client(execution.client, tasks, on_result)
        else:
            _run_on_scheduler(execution, tasks, on_result)
    except BrokenProcessPool as error:
        raise RuntimeError(BROKEN_POOL) from error
    except BaseException:
        _ask_to_stop(directory)
        raise


def _task_array(batch: Batch | PickledBatch, n: int, regions: Sequence[Any] | None) -> da.Array:
    """One task per block: an array of `n` objects in chunks of one."""
    options: dict[str, Any] = {"dtype": object, "meta": np.empty(0, object), "batch": batch}
    if regions is None:
        return da.map_blocks(_run_block, chunks=((1,) * n,), **options)
    boxed = [
        da.from_delayed(dask.delayed(_box)(region), shape=(1,), meta=np.empty(0, object)) for region in regions
    ]
    return da.map_blocks(_run_block, da.concatenate(boxed), **options)


def _run_block(
    pixels: np.ndarray | None = None, *, batch: Batch | PickledBatch, block_id: tuple[int, ...]
) -> np.ndarray:
    tasks = _load(batch) if isinstance(batch, PickledBatch) else batch
    arguments = () if pixels is None else (pixels.item(),)
    return _box(tasks.function(tasks.job, tasks.numbers[block_id[0]], *arguments))


def _box(value: Any) -> np.ndarray:
    """Put anything into an array of one object, so that dask passes it on as it is."""
    box = np.empty(1, object)
    box[0] = value
    return box


class _Collector(Callback):
    """Hand over the results of the tasks as the local schedulers finish them."""

    def __init__(self, name: str, on_result: Callable[[Any], None]) -> None:
        super().__init__()
        self.name = name
        self.on_result = on_result

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(key, tuple) and key[0] == self.name:
            self.on_result(result.item())


def _run_on_scheduler(execution: Execution, tasks: da.Array, on_result: Callable[[Any], None]) -> None:
    options: dict[str, Any] = {} if execution.pool is None else {"pool": execution.pool}
    if execution.kind == "processes":
        # By default dask sends six tasks at a time, and a task of ours is long.
        options["chunksize"] = 1
    # dask.compute would rename the only block of a single task, and its result would be missed.
    (tasks,) = dask.optimize(tasks)
    with _Collector(tasks.name, on_result):
        execution.get(dict(tasks.__dask_graph__()), tasks.__dask_keys__(), **options)


def _run_on_client(client: Any, tasks: da.Array, on_result: Callable[[Any], None]) -> None:
    from distributed import as_completed

    futures = client.compute(list(tasks.to_delayed().ravel()))
    try:
        for future, result in as_completed(futures, with_results=True):
            on_result(result.item())
            future.release()
    finally:
        client.cancel(futures)
