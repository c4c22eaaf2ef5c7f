"""Run tasks on the workers of a dask client, a few per thread at a time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dask.delayed import Delayed, delayed
from distributed import KilledWorker, SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from blockbuster.compat import cancel_tasks, own_graph, time_to_live, vouch_for_workers
from blockbuster.errors import warn_user
from blockbuster.execution.task_folder import TaskFolder, run_kept_task

logger = logging.getLogger("blockbuster")

# Enough that a worker finds its next task waiting, and few enough that workers that come later get
# theirs.
TASKS_PER_THREAD = 4
MIN_TASKS = 8
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_COUNTS = 5.0
# After a worker that died, its nanny starts another, within seconds or, on a busy host or a slow
# disk, a minute.
SECONDS_WITHOUT_WORKERS = 120.0
MAX_TIMES_SENT = 3
LOOKS_PER_TTL = 4

CLUSTER_LOST = (
    "the dask cluster is gone: its client was closed or restarted, or lost the connection to the scheduler, "
    "before the tasks were finished"
)
NO_WORKERS = (
    "the dask cluster has no workers at present; waiting for some, without limit (to give up after a time, set "
    "distributed.scheduler.no-workers-timeout)"
)
NOT_PATIENT = (
    "the scheduler of the dask cluster could not be told to wait for workers whose fn holds the GIL ({error}); "
    "it restarts a worker that is silent for {ttl} (the setting distributed.scheduler.worker-ttl). If single "
    "tiles take that long, set it to a longer time, or null, before the cluster starts."
)


@dataclass(eq=False)
class ClientRun:
    """Tasks on their way through a cluster.

    Parameters
    ----------
    client : distributed.Client
        Its workers run the tasks.
    folder : TaskFolder
        What they share, and where they leave their results.
    take : callable
        Takes the number of a task and its result.
    region : callable or None
        Gives the dask array of a task's pixels, or ``None``.
    watch : TaskWatch
        Explains what went wrong where workers die.
    """

    client: Any
    folder: TaskFolder
    take: Callable[[int, Any], None]
    region: Callable[[int], Any] | None
    watch: Any

    def __post_init__(self) -> None:
        self.prefix = f"blockbuster-{uuid.uuid4().hex[:12]}"
        self._under_way: dict[Any, int] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._times_sent: Counter[int] = Counter()
        self._window = MIN_TASKS
        self._most_workers = 0
        self._last_count = 0.0
        self._last_worker = time.monotonic()

    def run(self, numbers: Sequence[int]) -> None:
        """Run the tasks; at an error, or Ctrl-C, take back those that have not begun."""
        waiting = iter(numbers)
        with patient_scheduler(self.client, self.prefix):
            try:
                self._look_at_cluster()
                self._send(list(itertools.islice(waiting, self._window)))
                while self._under_way:
                    self._take_ended()
                    self._look_at_cluster()
                    n_room = max(0, self._window - len(self._under_way))
                    self._send(list(itertools.islice(waiting, n_room)))
            finally:
                # By their keys: Ctrl-C may come between the sending of tasks and the note that they
                # are under way. The connection may be what failed.
                with contextlib.suppress(Exception):
                    cancel_tasks(self.client, self.prefix)

    def _send(self, numbers: list[int]) -> None:
        if not numbers:
            return
        self._times_sent.update(numbers)
        keys = [f"{self.prefix}-{number}-{self._times_sent[number]}" for number in numbers]
        if self.region is None:
            paths, digests = [self.folder.path] * len(numbers), [self.folder.digest] * len(numbers)
            futures = self.client.map(run_kept_task, paths, digests, numbers, key=keys, pure=False)
        else:
            tasks = []
            for key, number in zip(keys, numbers, strict=True):
                pixels = self.region(number)
                task = [self.folder.path, self.folder.digest, number]
                if pixels is not None:
                    graph, chunk = own_graph(pixels, key)
                    task.append(Delayed(chunk, graph))
                tasks.append(delayed(run_kept_task)(*task, dask_key_name=key))
            futures = self.client.compute(tasks)
        for future, number in zip(futures, numbers, strict=True):
            self._under_way[future] = number
            future.add_done_callback(self._ended.put)

    def _take_ended(self) -> None:
        """Wait a while for tasks to end, and take those that did."""
        for future in list(self._wait()):
            number = self._under_way.pop(future)
            # One whose worker died after it had ended is lost, but its result lies in the folder.
            if future.status != "finished" and not (future.status == "lost" and self.folder.has_result(number)):
                self._take_failed(future, number)
                continue
            future.release()
            # Kept of those under way alone: there may be millions.
            del self._times_sent[number]
            self.take(number, self.folder.take(number))

    def _wait(self) -> Iterator[Any]:
        with contextlib.suppress(queue.Empty):
            yield self._ended.get(timeout=SECONDS_BETWEEN_LOOKS)
            while True:
                yield self._ended.get_nowait()

    def _take_failed(self, future: Any, number: int) -> None:
        if future.status != "error":
            raise RuntimeError(f"{CLUSTER_LOST} (the task is {future.status})")
        error = future.exception()
        if not isinstance(error, KilledWorker):
            raise error
        # It need not be the task's fault: all that waited at a worker that dies are counted as
        # suspects. One that kills its worker finds the marks of those that tried before it, and
        # says so.
        logger.warning("workers died that had %s: %s", self.watch.describe(number), error)
        if self._times_sent[number] < MAX_TIMES_SENT:
            self._send([number])
            return
        raise self.watch.blame() or RuntimeError(
            f"workers died again and again that had {self.watch.describe(number)}: {error}"
        ) from error

    def _look_at_cluster(self) -> None:
        """See now and then how many workers there are."""
        if self.client.status not in ("running", "connecting"):
            raise RuntimeError(CLUSTER_LOST)
        now = time.monotonic()
        if now < self._last_count + SECONDS_BETWEEN_COUNTS or self.client.status != "running":
            return
        self._last_count = now
        threads = self.client.nthreads()
        self._window = max(MIN_TASKS, TASKS_PER_THREAD * sum(threads.values()))
        self._most_workers = max(self._most_workers, len(threads))
        if threads:
            self._last_worker = now
        elif now > self._last_worker + SECONDS_WITHOUT_WORKERS:
            error = self.watch.blame() if self._most_workers else None
            if error is not None:
                raise error
            logger.warning(NO_WORKERS)
            self._last_worker = time.monotonic()


class Patience(SchedulerPlugin):
    """See workers that run tasks of a client as alive as long as their connection stands.

    A worker whose fn holds the GIL sends no heartbeat, and after ``worker-ttl`` the scheduler
    restarts it: what it computed is lost, again and again. Whether the process lives, the operating
    system knows better: the connection of a dead process, or of a host that is gone, ends.

    Parameters
    ----------
    client : str
        Id of the client; with it the plugin ends.
    prefix : str
        What the keys of the tasks begin with.
    """

    def __init__(self, client: str, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        self.name = f"{prefix}-patience"
        self._looks: PeriodicCallback | None = None
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        """Look at the workers several times in the period after which they would be taken for
        lost.
        """
        self._scheduler = scheduler
        seconds = time_to_live(scheduler)
        if seconds:
            self._looks = PeriodicCallback(self._look, 1000 * seconds / LOOKS_PER_TTL)
            self._looks.start()

    def _look(self) -> None:
        vouch_for_workers(self._scheduler, self.prefix)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """End with the client, even one that was killed."""
        if client == self.client:
            self._stop()
            scheduler.remove_plugin(self.name)

    async def close(self) -> None:
        """End with the scheduler, or when the run is over."""
        self._stop()

    def _stop(self) -> None:
        if self._looks is not None:
            self._looks.stop()


@contextlib.contextmanager
def patient_scheduler(client: Any, prefix: str) -> Iterator[None]:
    """Have the scheduler of a client wait for workers that run tasks whose keys begin so."""
    plugin = Patience(client.id, prefix)
    try:
        client.register_plugin(plugin)
    except Exception as error:
        # A scheduler that does not unpickle, or has no blockbuster.
        from dask import config

        ttl = config.get("distributed.scheduler.worker-ttl", None)
        if ttl:
            warn_user(NOT_PATIENT.format(error=f"{type(error).__name__}: {error}", ttl=ttl))
        yield
        return
    try:
        yield
    finally:
        # The connection may be what failed.
        with contextlib.suppress(Exception):
            client.unregister_scheduler_plugin(plugin.name)
