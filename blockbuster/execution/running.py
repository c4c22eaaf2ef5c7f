"""Run many tasks of one kind, wherever dask would run them, with bounded bookkeeping."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from blockbuster.compat import as_graph, callbacks_taken, own_graph
from blockbuster.errors import ends_process
from blockbuster.execution.execution import Execution
from blockbuster.execution.stopping import allow_tasks, ask_to_stop
from blockbuster.execution.task_folder import Batch, TaskFolder, run_task

# dask holds 3 to 5 kB for each key of a graph. Between two graphs a worker may wait for another's
# last task.
KEYS_PER_GRAPH = 4096
# For each worker, however many keys they have.
MIN_TASKS_PER_GRAPH = 2
# For each worker, where results are known only when the whole graph is done.
TASKS_WITHOUT_WORD = 4

BROKEN_POOL = (
    "A worker process ended abruptly: it was killed (out of memory?), fn ended the process, or the script that "
    "calls blockbuster has no main guard, so that every worker runs it again. Put the call under "
    '`if __name__ == "__main__":`, or use the threads scheduler.'
)

MISSING = (
    "the scheduler has ended, but {n} of {total} tasks gave no result, the first of them {task}, and the run "
    "does not go on without it; use one of dask's own schedulers if this one is not."
)
TWICE = "the scheduler gave the result of {task} twice, or without having been asked for it"


class TaskWatch:
    """What a phase knows of its tasks that the runner does not."""

    def describe(self, number: int) -> str:
        """Name a task in a message."""
        return f"task {number}"

    def blame(self) -> BaseException | None:
        """Return the error that explains why workers died, where it can be told."""
        return None


class Handover:
    """Hand the result of each task to the phase that waits for it, once.

    Parameters
    ----------
    numbers : sequence of int
        One per task, 0 or more.
    on_result : callable
        Called with each result.
    describe : callable
        Name a task in a message.

    Notes
    -----
    Takes a byte for each number up to the largest one.

    Examples
    --------
    >>> handover = Handover([3, 7], print, "task {}".format)
    >>> handover.take(7, "seven")
    seven
    >>> try:
    ...     handover.close()
    ... except RuntimeError as error:
    ...     print(str(error)[:75])
    the scheduler has ended, but 1 of 2 tasks gave no result, the first of them
    """

    def __init__(
        self, numbers: Sequence[int], on_result: Callable[[Any], None], describe: Callable[[int], str]
    ) -> None:
        self._total = len(numbers)
        self._on_result = on_result
        self._describe = describe
        self._awaited = bytearray(max(numbers) + 1)
        for number in numbers:
            self._awaited[number] = 1

    def take(self, number: int, result: Any) -> None:
        """Take the result of a task, and pass it on.

        Raises
        ------
        RuntimeError
            If it was taken before.
        """
        if not self._awaited[number]:
            raise RuntimeError(TWICE.format(task=self._describe(number)))
        self._awaited[number] = 0
        self._on_result(result)

    def close(self) -> None:
        """Assert that every task has given its result.

        Raises
        ------
        RuntimeError
            If one has not.
        """
        n_missing = sum(self._awaited)
        if n_missing:
            first = self._describe(self._awaited.index(1))
            raise RuntimeError(MISSING.format(n=n_missing, total=self._total, task=first))


def run_tasks(
    execution: Execution,
    function: Callable[..., Any],
    job: Any,
    numbers: Sequence[int],
    *,
    directory: str,
    on_result: Callable[[Any], None],
    region: Callable[[int], Any] | None = None,
    watch: TaskWatch | None = None,
) -> None:
    """Run ``function(job, number)`` for every number and hand each result to `on_result`.

    Parameters
    ----------
    execution : Execution
        Where to run.
    function : callable
        ``(job, number)`` or, with `region`, ``(job, number, pixels)``; returns something small. If
        the graph of its pixels raised, it is given `Raised` for them.
    job : object
        What all tasks share. It is sent once per process, not per task.
    numbers : sequence of int
        One per task.
    directory : str
        A directory that every worker sees.
    on_result : callable
        Called once for each number, in this process, as tasks end, in any order. If it raises, no
        new task starts, the running ones are waited for (except those of a client), and the
        exception is passed on.
    region : callable, optional
        Gives for a number the dask array of one chunk whose pixels enter the task through its
        graph, which gets keys of its own, so that no chunk is held until another task wants it;
        ``None`` for a task that reads its own.
    watch : TaskWatch, optional
        Explains what went wrong where workers die.

    Raises
    ------
    RuntimeError
        If a task gave no result, or two. Then a phase does not go on with what it has.

    Notes
    -----
    However many tasks there are, and keys in the graphs of their pixels, only so many at a time are
    known to dask: some thousands locally, or two tasks for each worker where these have more, and a
    few tasks per thread of a client's workers.
    """
    if not len(numbers):
        return
    watch = watch or TaskWatch()
    handover = Handover(numbers, on_result, watch.describe)
    allow_tasks(directory)
    batch = Batch(function, job)
    folder = None if execution.in_process else TaskFolder.create(batch, directory)
    try:
        if execution.kind == "distributed":
            from blockbuster.execution.client_run import ClientRun

            assert folder is not None
            ClientRun(execution.client, folder, handover.take, region, watch).run(numbers)
        else:
            for graph, number_of in _graphs(execution, folder or batch, numbers, region):
                if execution.tells_at_once:
                    # Ours are told to dask: of those that are active another thread may take any
                    # away.
                    with callbacks_taken() as theirs:
                        callbacks = [_handing_over(number_of, handover), *theirs]
                        execution.get(graph, list(number_of), callbacks=callbacks, **execution.options)
                    continue
                results = execution.get(graph, list(number_of))
                for number, result in zip(number_of.values(), results, strict=False):
                    handover.take(number, result)
        handover.close()
    except BrokenProcessPool as error:
        raise (watch.blame() or RuntimeError(BROKEN_POOL)) from error
    except BaseException as error:
        ask_to_stop(directory)
        asked = error.__context__
        if type(error) is RuntimeError and asked is not None and ends_process(asked):
            # What a signal's handler raises as threading takes a lock, it answers with "release
            # unlocked lock".
            raise asked from None
        raise
    finally:
        if folder is not None:
            folder.remove()


def max_keys(keys_per_task: int, n_tasks: int, n_workers: int) -> int:
    """Bound how many keys of pixels are in a graph, where no client runs it."""
    least = MIN_TASKS_PER_GRAPH * n_workers * keys_per_task
    return min(n_tasks * keys_per_task, max(KEYS_PER_GRAPH + keys_per_task, least))


def _graphs(
    execution: Execution,
    sent: Batch | TaskFolder,
    numbers: Sequence[int],
    region: Callable[[int], Any] | None,
) -> Iterator[tuple[dict[Any, Any], dict[Any, int]]]:
    """Cut the tasks into graphs, made as needed, each with the numbers of its tasks by key."""
    most_tasks = KEYS_PER_GRAPH if execution.tells_at_once else TASKS_WITHOUT_WORD * execution.n_workers
    least_tasks = MIN_TASKS_PER_GRAPH * execution.n_workers
    name = f"blockbuster-{uuid.uuid4().hex}"
    graph: dict[Any, Any] = {}
    number_of: dict[Any, int] = {}
    for number in numbers:
        pixels = None if region is None else region(number)
        keys = []
        if pixels is not None:
            region_graph, key = own_graph(pixels, f"{name}-{number}")
            graph.update(region_graph)
            keys = [key]
        # A pair of a function and the keys of its arguments, as a graph has always been written.
        graph[name, number] = (partial(run_task, sent, number), *keys)
        number_of[name, number] = number
        is_full = len(graph) >= KEYS_PER_GRAPH and len(number_of) >= least_tasks
        if len(number_of) == most_tasks or is_full:
            yield as_graph(graph), number_of
            graph, number_of = {}, {}
    if number_of:
        yield as_graph(graph), number_of


def _handing_over(number_of: dict[Any, int], handover: Handover) -> tuple[Any, ...]:
    """Return a callback as dask has them, which hands over the result of each task as it ends."""

    def take(key: Any, result: Any, *_: Any) -> None:
        if key in number_of:
            handover.take(number_of[key], result)

    return (None, None, None, take, None)
