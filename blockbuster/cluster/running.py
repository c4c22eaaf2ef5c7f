"""Run many tasks of one kind, wherever dask would run them, with bounded bookkeeping."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback

from blockbuster.cluster.execution import Execution
from blockbuster.cluster.handover import Handover
from blockbuster.cluster.stopping import allow_tasks, ask_to_stop
from blockbuster.cluster.task_folder import Batch, TaskFolder, run_task

__all__ = ["TaskWatch", "run_tasks"]

# dask holds some 3 kB for each task of a graph. Between two graphs a worker may wait for another's last task.
TASKS_PER_GRAPH = 4096
# For each worker, where results are known only when the whole graph is done.
TASKS_WITHOUT_WORD = 4

BROKEN_POOL = (
    "A worker process ended abruptly: it was killed (out of memory?), fn ended the process, or the script that "
    "calls blockbuster has no main guard, so that every worker runs it again. Put the call under "
    '`if __name__ == "__main__":`, or use the threads scheduler.'
)


class TaskWatch:
    """What a phase knows of its tasks that the runner does not."""

    def describe(self, number: int) -> str:
        """Name a task in a message."""
        return f"task {number}"

    def blame(self) -> BaseException | None:
        """Give the error that explains why workers died, where it can be told."""
        return None


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
        ``(job, number)`` or, with `region`, ``(job, number, pixels)``; returns something small.
    job : object
        What all tasks share. It is sent once per process, not per task.
    numbers : sequence of int
        One per task.
    directory : str
        A directory that every worker sees.
    on_result : callable
        Called once for each number, in this process, as tasks end, in any order. If it raises, no new task
        starts, the running ones are waited for (except those of a client), and the exception is passed on.
    region : callable, optional
        Gives for a number the dask array of pixels that enters the task through its graph; ``None`` for a task
        that reads its own.
    watch : TaskWatch, optional
        Explains what went wrong where workers die.

    Raises
    ------
    RuntimeError
        If a task gave no result, or two. Then a phase does not go on with what it has.

    Notes
    -----
    However many tasks there are, only so many at a time are known to dask: some thousands locally, and a few per
    thread of a client's workers.
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
            from blockbuster.cluster.client_run import ClientRun

            assert folder is not None
            ClientRun(execution.client, folder, handover, region, watch).run(numbers)
        else:
            n_at_once = TASKS_PER_GRAPH if execution.tells_at_once else TASKS_WITHOUT_WORD * execution.n_workers
            for first in range(0, len(numbers), n_at_once):
                _run_graph(execution, folder or batch, numbers[first : first + n_at_once], handover, region)
        handover.close()
    except BrokenProcessPool as error:
        raise (watch.blame() or RuntimeError(BROKEN_POOL)) from error
    except BaseException:
        ask_to_stop(directory)
        raise
    finally:
        if folder is not None:
            folder.remove()


def _run_graph(
    execution: Execution,
    sent: Batch | TaskFolder,
    numbers: Sequence[int],
    handover: Handover,
    region: Callable[[int], Any] | None,
) -> None:
    # dask.compute would rename the only block of a single task, and its result would be missed.
    (tasks,) = dask.optimize(_task_array(sent, numbers, region))
    keys = tasks.__dask_keys__()
    options = execution.options
    if execution.tells_at_once:
        number_of = dict(zip(keys, numbers, strict=True))

        def take(key: Any, result: Any, *_: Any) -> None:
            if key in number_of:
                handover.take(number_of[key], result.item())

        # Of the callbacks that are active in the process, other threads may take away ours, and we theirs.
        options = {**options, "callbacks": [(None, None, None, take, None), *Callback.active]}
    results = execution.get(dict(tasks.__dask_graph__()), keys, **options)
    if not execution.tells_at_once:
        for number, result in zip(numbers, results, strict=False):
            handover.take(number, result.item())


def _task_array(
    sent: Batch | TaskFolder, numbers: Sequence[int], region: Callable[[int], Any] | None
) -> da.Array:
    """One task per block: an array of objects in chunks of one."""
    arrays = [da.from_array(np.asarray(numbers, np.int64), chunks=1)]
    if region is not None:
        boxed = [
            da.from_delayed(dask.delayed(_box)(region(number)), shape=(1,), meta=np.empty(0, object))
            for number in numbers
        ]
        arrays.append(da.concatenate(boxed))
    # With a name of its own dask need not hash what the tasks share.
    name = f"blockbuster-{uuid.uuid4().hex}"
    return da.map_blocks(_run_block, *arrays, sent=sent, name=name, dtype=object, meta=np.empty(0, object))


def _run_block(number: np.ndarray, pixels: np.ndarray | None = None, *, sent: Batch | TaskFolder) -> np.ndarray:
    arguments = () if pixels is None else (pixels.item(),)
    return _box(run_task(sent, number.item(), *arguments))


def _box(value: Any) -> np.ndarray:
    """Put anything into an array of one object, so that dask passes it on as it is."""
    box = np.empty(1, object)
    box[0] = value
    return box
