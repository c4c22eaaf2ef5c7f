"""A dask cluster on this machine whose workers are processes, one per GPU where GPUs are used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_bytes

from blockbuster.compat import is_starting_worker, set_before_start
from blockbuster.execution import ONE_AT_A_TIME
from blockbuster.execution.memory import free_ram_bytes, visible_gpus

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

# A worker that has imported everything takes 235 MB before its first tile.
MIN_WORKER_BYTES = 10**9
LOOPBACK = "127.0.0.1"
# Left to this process: the scheduler, the tables of the merge.
DRIVER_SHARE = 0.1
# dask has workers give every array back to the system at once, so that tasks wait for fresh pages.
# These are the thresholds that malloc comes to by itself.
DASK_TRIM = "65536"
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**26), "MALLOC_MMAP_THRESHOLD_": str(2**25)}

NO_DISTRIBUTED = (
    "make_local_cluster needs dask.distributed, which is not installed: "
    "pip install 'blockbuster-tiles[distributed]'"
)
NO_GPU = (
    "use_gpu=True, but no NVIDIA GPU is visible: nvidia-smi lists none and CUDA_VISIBLE_DEVICES is "
    "{visible}. Check the driver, or what the batch system gave this job; without use_gpu the workers use CPUs."
)
# Names a file in the environment of workers that start.
NO_GUARD_MARK = "BLOCKBUSTER_NO_GUARD_MARK"
NO_GUARD = (
    "make_local_cluster was called while a worker process imports the main script: put the call under "
    '`if __name__ == "__main__":`.'
)


def make_local_cluster(
    use_gpu: bool = False,
    n_workers: int | None = None,
    threads_per_worker: int = 1,
    memory_limit: str | int | None = "auto",
    **kwargs: Any,
) -> tuple[Client, LocalCluster]:
    """Start a dask cluster of worker processes on this machine, and a client that `tile_process`
    uses.

    Parameters
    ----------
    use_gpu : bool
        One worker for each visible GPU, that sees this GPU alone. It has two threads at least, and
        `tile_process` calls fn in one of them at a time: the other reads the next tile, so that the
        GPU need not wait. Of a `Predictor` all of them decode.
    n_workers : int, optional
        Processes. ``None``: one for every `threads_per_worker` CPUs that this process may use, and
        no more than have 1 GB of the free memory each; with `use_gpu`, one for each GPU.
    threads_per_worker : int
        Tiles at once in one process. More than 1 serves an fn that lets go of the GIL; with
        `use_gpu`, more than 2 serve a `Predictor` alone.
    memory_limit : str, int or None
        Bytes per worker, above which dask restarts it; a text such as ``"4 GiB"``; ``None`` or 0:
        no limit. ``"auto"``: an equal share of 0.9 of the memory that this process can really have:
        what is free, within the limits of its container and batch job.
    **kwargs
        For `distributed.LocalCluster`. Unless `host`, `interface` or `dashboard_address` say
        otherwise, the scheduler, the workers and the dashboard listen on 127.0.0.1 alone, on free
        ports.

    Returns
    -------
    client : distributed.Client
        Active until it is closed: `tile_process` runs on its workers.
    cluster : distributed.LocalCluster

    Raises
    ------
    ImportError
        If dask.distributed is not installed.
    RuntimeError
        If no GPU is visible with `use_gpu`, or the main script has no main guard.
    TypeError, ValueError
        For arguments that no such cluster can have.

    Notes
    -----
    Takes one to three seconds. Use processes where fn holds the GIL (loops in Python, some
    libraries); threads, which need no cluster, are as fast for an fn that does not.

    Examples
    --------
    ::

        if __name__ == "__main__":
            client, cluster = blockbuster.make_local_cluster()
            with cluster, client:
                blockbuster.tile_process("image.zarr", fn, write_to="labels.zarr")
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(NO_DISTRIBUTED) from error
    _refuse_in_starting_worker()
    if not kwargs.pop("processes", True):
        raise ValueError(
            "processes is False; workers that live in this process lose results when fn holds the GIL. Without a "
            "client tile_process runs on threads."
        )
    _check_count(threads_per_worker, "threads_per_worker")
    if n_workers is not None:
        _check_count(n_workers, "n_workers")
    _check_memory_limit(memory_limit)
    gpus = visible_gpus() if use_gpu else None
    if gpus is not None:
        n_workers = _count_gpu_workers(gpus, n_workers)
        # Two take turns in fn: while one evaluates, the other reads.
        threads_per_worker = max(2, threads_per_worker)
    memory_bytes = int((1 - DRIVER_SHARE) * free_ram_bytes())
    if n_workers is None:
        n_workers = max(1, min(_n_cpus() // threads_per_worker, memory_bytes // MIN_WORKER_BYTES))
    if memory_limit == "auto":
        memory_limit = memory_bytes // n_workers
    # Whoever reaches its scheduler can have anything run.
    host = {} if {"host", "interface"} & kwargs.keys() else {"host": LOOPBACK}
    own = {**host, "dashboard_address": f"{LOOPBACK}:0", "worker_class": _nanny(gpus)}
    with _missing_guard_told():
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            memory_limit=memory_limit,
            processes=True,
            **{**own, **kwargs},
        )
    try:
        return Client(cluster), cluster
    except BaseException:
        cluster.close()
        raise


def _refuse_in_starting_worker() -> None:
    """Refuse a call that comes from a script without a main guard, which a new worker imports."""
    if not is_starting_worker():
        return
    if os.environ.get(NO_GUARD_MARK):
        with contextlib.suppress(OSError):
            Path(os.environ[NO_GUARD_MARK]).touch()
            # The process that waits for this one says why.
            raise SystemExit(1)
    raise RuntimeError(NO_GUARD)


@contextlib.contextmanager
def _missing_guard_told() -> Iterator[None]:
    """Raise what a worker found that imports the main script; dask only knows that it did not
    start.
    """
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder, "no-guard")
        os.environ[NO_GUARD_MARK] = str(mark)
        try:
            yield
        except RuntimeError:
            if mark.exists():
                raise RuntimeError(NO_GUARD) from None
            raise
        finally:
            os.environ.pop(NO_GUARD_MARK, None)


def _check_count(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; it is an integer, 1 or more.")
    if value < 1:
        raise ValueError(f"{name} is {value}; it is 1 or more.")


def _check_memory_limit(value: Any) -> None:
    if value is None or value == "auto":
        return
    try:
        n_bytes = parse_bytes(value) if isinstance(value, str) else value
        is_limit = not isinstance(value, bool) and 0 <= n_bytes < 2**63
    except (TypeError, ValueError):
        is_limit = False
    if not is_limit:
        raise ValueError(
            f'memory_limit is {value!r}; it is the bytes of a worker, 0 or more, a text such as "4 GiB", "auto", '
            "or None."
        )


def _n_cpus() -> int:
    """CPUs that this process may use: its affinity and container, and its share of a batch job."""
    share = os.environ.get("SLURM_CPUS_PER_TASK", "")
    n_cpus = int(dask.system.CPU_COUNT)
    return min(n_cpus, int(share)) if share.isdigit() and int(share) else n_cpus


def _count_gpu_workers(gpus: list[str], n_workers: int | None) -> int:
    if not gpus:
        raise RuntimeError(NO_GPU.format(visible=repr(os.environ.get("CUDA_VISIBLE_DEVICES", "not set"))))
    if n_workers is not None and n_workers > len(gpus):
        raise ValueError(
            f"n_workers is {n_workers}, but {len(gpus)} GPUs are visible ({', '.join(gpus)}); with use_gpu every "
            "worker has one of its own."
        )
    return n_workers or len(gpus)


def _nanny(gpus: list[str] | None) -> type:
    """Make the class of process keepers: with memory as threads have it, and each its own GPU."""
    from distributed import Nanny
    from distributed.core import Status

    ending = (Status.closing, Status.closed, Status.closing_gracefully, Status.failed)

    class WorkerKeeper(Nanny):
        def __init__(self, scheduler: Any, *, name: Any, env: Any = None, **kwargs: Any) -> None:
            env = dict(env or {})
            if gpus is not None:
                if not 0 <= int(name) < len(gpus):
                    raise ValueError(
                        f"there is no GPU for a worker number {int(name) + 1}; {len(gpus)} are visible."
                    )
                # The order of PCI slots, which is the one that nvidia-smi counts in.
                env["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
                env["CUDA_VISIBLE_DEVICES"] = gpus[int(name)]
                env[ONE_AT_A_TIME] = "1"
            super().__init__(scheduler, name=name, env=env, **kwargs)
            self.starting_alone = asyncio.Lock()
            for variable, value in MALLOC.items():
                # What dask asks for stays in the environment of this process as well.
                if variable not in env and os.environ.get(variable, DASK_TRIM) == DASK_TRIM:
                    set_before_start(self, variable, value)

        async def instantiate(self) -> Any:
            # Some versions of dask would start such a worker again and again.
            if os.path.exists(os.environ.get(NO_GUARD_MARK, "")):
                await self.close(reason="no main guard")
                return self.status
            # The start of a worker that died at once may not have ended: dask would then take the
            # next one, which is not there yet, for the one that has come.
            async with self.starting_alone:
                if self.status in ending:
                    return self.status
                return await super().instantiate()

    return WorkerKeeper
