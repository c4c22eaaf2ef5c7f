"""Find out where dask would run tasks: its configured scheduler, or the workers of an active
client.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dask
import dask.multiprocessing
import dask.threaded
from dask.local import get_async, get_sync

from blockbuster.compat import client_workers, pool_size, process_context, start_dask_process
from blockbuster.execution.code_pickle import dumps

IN_PROCESS_CLIENT = (
    "The active dask client runs its workers inside this process (processes=False). A function that "
    "holds the GIL starves the workers' heartbeat there and their results are lost. Use a cluster whose "
    "workers are processes (blockbuster.make_local_cluster(), or LocalCluster(processes=True)), or close "
    "the client to run on threads."
)

N_TAKING_TURNS = 2
# In the environment of a worker: all its tasks take turns.
ONE_AT_A_TIME = "BLOCKBUSTER_ONE_AT_A_TIME"
_turn = threading.Lock()
_wanted: ContextVar[int | None] = ContextVar("n_workers", default=None)


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
        The pool of workers that the phases of a run share: dask's configured one, or the run's own.
    task_bytes : int or None
        Memory that a task on a client's worker can have: the least limit of a worker, shared by its
        threads. ``None``: not known, or no limit.
    n_processes : int or None
        Processes that the tasks are spread over. ``None``: this one alone.
    worker_bytes : int or None
        The least memory limit of a client's worker.
    """

    kind: str
    n_workers: int
    get: Callable[..., Any]
    client: Any = None
    pool: Any = None
    task_bytes: int | None = None
    n_processes: int | None = None
    worker_bytes: int | None = None

    @property
    def tells_at_once(self) -> bool:
        """Whether the scheduler tells of each task as it ends, as all of dask's own do in this
        process.
        """
        get = self.get.func if isinstance(self.get, functools.partial) else self.get
        return get in (get_async, get_sync, dask.threaded.get, dask.multiprocessing.get)

    @property
    def options(self) -> dict[str, Any]:
        """What the scheduler is told, so that settings which another thread makes do not reach the
        run.
        """
        if not self.tells_at_once:
            return {}
        # By default dask sends six tasks at a time to other processes, and a task of ours is long;
        # nor does it run a task again that failed.
        options: dict[str, Any] = {"chunksize": 1, "rerun_exceptions_locally": False}
        if self.kind in ("threads", "processes"):
            options |= {"num_workers": self.n_workers} if self.pool is None else {"pool": self.pool}
        if self.kind == "processes":
            options |= {"func_dumps": dumps, "func_loads": pickle.loads}
        return options

    @contextlib.contextmanager
    def opened(self) -> Iterator[Execution]:
        """Keep one pool of workers for all phases of a run, and end it with the run.

        dask's own pool of threads outlives a failed run and would go on working in the
        background; its processes would be started anew for every phase.
        """
        if self.kind not in ("threads", "processes") or self.pool is not None:
            yield self
            return
        if self.kind == "threads":
            pool: Executor = ThreadPoolExecutor(self.n_workers, "blockbuster")
        else:
            pool = ProcessPoolExecutor(self.n_workers, mp_context=process_context(), initializer=_start_worker)
        try:
            yield dataclasses.replace(self, pool=pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @property
    def in_process(self) -> bool:
        """Whether tasks share this process's memory."""
        return self.kind in ("synchronous", "threads")


def _start_worker() -> None:
    start_dask_process()
    threading.Thread(target=_end_with_parent, name="blockbuster-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End a worker process whose parent was killed: it would wait for tasks for ever, or write to a
    stage.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def find_execution(*, one_at_a_time: bool = False) -> Execution:
    """Find out where dask would run tasks now.

    Parameters
    ----------
    one_at_a_time : bool
        Without a client, run two tasks in this process, whose evaluations take turns: for a device
        that cannot be shared, and that shall not wait while pixels are read.

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
    get = _scheduler() or dask.threaded.get
    client = getattr(get, "__self__", None)
    if client is not None and hasattr(client, "nthreads"):
        return _execution_of_client(client, get)
    if get is get_sync:
        return Execution("synchronous", 1, get)
    pool = dask.config.get("pool", None)
    if one_at_a_time:
        return Execution("threads", N_TAKING_TURNS, dask.threaded.get, pool=pool)
    workers = pool_size(pool) or _wanted.get() or dask.config.get("num_workers", None)
    n_workers = int(workers or dask.system.CPU_COUNT)
    if get is dask.threaded.get:
        return Execution("threads", n_workers, get, pool=pool)
    kind = "processes" if get is dask.multiprocessing.get else "other"
    return Execution(kind, n_workers, get, pool=pool, n_processes=n_workers)


def _scheduler() -> Callable[..., Any] | None:
    """Return the scheduler that dask would use, if it is not that of the collection."""
    # To look for a client dask imports distributed, which takes a second; who has a client has done
    # so.
    if "distributed" in sys.modules or any(dask.config.get(name, None) for name in ("scheduler", "get")):
        found: Callable[..., Any] | None = dask.base.get_scheduler()
        return found
    return None


@contextlib.contextmanager
def with_workers(n_workers: int | None) -> Iterator[None]:
    """Have the runs that this thread begins use so many workers; ``None``: as dask is configured.

    Unlike dask's configuration, which is the whole process's, this does not reach runs of other
    threads.

    Examples
    --------
    >>> with dask.config.set(scheduler="threads"), with_workers(3):
    ...     find_execution().n_workers
    3
    """
    token = _wanted.set(n_workers)
    try:
        yield
    finally:
        _wanted.reset(token)


def take_turns(wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Return what only one thread of this process can be in, where that is wanted here or by the
    environment.

    Examples
    --------
    >>> with take_turns(True):
    ...     _turn.locked()
    True
    >>> with take_turns(False):
    ...     _turn.locked()
    False
    """
    return _turn if wanted or os.environ.get(ONE_AT_A_TIME) else contextlib.nullcontext()


def _execution_of_client(client: Any, get: Callable[..., Any]) -> Execution:
    """See what workers a client has, and refuse them where they live in this process."""
    workers = client_workers(client)
    # One with a nanny is a process of its own, and may be too busy to answer.
    without = [address for address, worker in workers.items() if not worker.get("nanny")]
    if without and _process() in client.run(_process, workers=without).values():
        raise RuntimeError(IN_PROCESS_CLIENT)
    n_threads = sum(worker["nthreads"] for worker in workers.values())
    limited = [worker for worker in workers.values() if worker["memory_limit"]]
    return Execution(
        "distributed",
        max(1, n_threads),
        get,
        client,
        task_bytes=min((worker["memory_limit"] // worker["nthreads"] for worker in limited), default=None),
        n_processes=max(1, len(workers)),
        worker_bytes=min((worker["memory_limit"] for worker in limited), default=None),
    )


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()
