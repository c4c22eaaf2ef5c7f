"""Tasks run once each, on every local scheduler, however many graphs they take."""

import contextlib
import operator
import os
import pickle
import sys
import threading
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback
from users import Planted

from blockbuster import plan_run, tile_process
from blockbuster.execution import find_execution, run_tasks, running
from blockbuster.execution.task_folder import Batch, TaskFolder, run_kept_task
from blockbuster.run.resources import count_keys
from blockbuster.source import DaskSource


def add(job, number, *pixels):
    return job + number + sum(int(part.sum()) for part in pixels if part is not None)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("per_graph", [1, 7, 4096])
def test_every_task_runs_once_however_they_are_cut(tmp_path, monkeypatch, scheduler, per_graph, workers):
    monkeypatch.setattr(running, "KEYS_PER_GRAPH", per_graph)
    results = []
    numbers = [3, 11, *range(20, 30)]
    with workers(scheduler), find_execution().opened() as execution:
        run_tasks(execution, add, 100, numbers, directory=str(tmp_path), on_result=results.append)
    assert sorted(results) == [100 + number for number in numbers]
    assert os.listdir(tmp_path) == []


def test_pixels_enter_where_a_task_has_some(tmp_path):
    results = []
    pixels = da.ones((4, 4), chunks=2, dtype=int)
    with dask.config.set(scheduler="threads"):
        run_tasks(
            find_execution(),
            add,
            100,
            range(4),
            directory=str(tmp_path),
            on_result=results.append,
            region=lambda number: pixels[:number].rechunk(-1) if number % 2 else None,
        )
    assert sorted(results) == sorted([100, 101 + 4, 102, 103 + 12])


def test_a_task_that_is_repeated_finds_its_result(tmp_path):
    calls = []

    def once(job, number):
        calls.append(number)
        return {"counts": np.arange(number)}

    folder = TaskFolder.create(Batch(once, None), str(tmp_path))
    # The function is read from the file, and so has a list of its own.
    batch = folder.batch()
    run_kept_task(folder.path, folder.digest, 5)
    run_kept_task(folder.path, folder.digest, 5)
    assert batch.function.__closure__[0].cell_contents == [5]
    assert folder.take(5)["counts"].tolist() == [0, 1, 2, 3, 4]
    # The scheduler may not know yet that it was taken.
    run_kept_task(folder.path, folder.digest, 5)
    assert batch.function.__closure__[0].cell_contents == [5]
    assert {name: os.path.getsize(f"{folder.path}/{name}") for name in os.listdir(folder.path)} == {
        "batch.pickle": os.path.getsize(f"{folder.path}/batch.pickle"),
        "5.result": 0,
    }
    folder.remove()
    # A task that outlives its run has nowhere to leave its result.
    folder.keep(6, "late")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_seen_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("blockbuster.execution.task_folder.PATIENCE_SECONDS", 0.1)
    with pytest.raises(RuntimeError, match=r"cannot see .*/gone, where.*file system that all workers share"):
        run_kept_task(str(tmp_path / "gone"), "0" * 64, 1)


def test_F34_what_tasks_share_is_read_only_as_it_was_sent(folder, monkeypatch):
    monkeypatch.setattr("blockbuster.execution.task_folder.PATIENCE_SECONDS", 0.1)
    tasks = TaskFolder.create(Batch(add, 100), str(folder))
    Path(tasks.path, "batch.pickle").write_bytes(pickle.dumps(Planted()))
    with pytest.raises(RuntimeError, match=r"batch.pickle is not what the run put there \(its digest differs\)"):
        run_kept_task(tasks.path, tasks.digest, 1)
    assert not Path("ran").exists()


def test_F34_a_result_that_no_task_left_is_refused(folder):
    tasks = TaskFolder.create(Batch(add, 100), str(folder))
    Path(tasks.path, "1.result").write_bytes(pickle.dumps(Planted()))
    run_kept_task(tasks.path, tasks.digest, 1)
    with pytest.raises(RuntimeError, match=r"1.result is not what the run put there \(\w+Error"):
        tasks.take(1)
    assert not Path("ran").exists()


def test_what_tasks_share_may_be_late(folder):
    tasks = TaskFolder.create(Batch(add, 100), str(folder))
    file = Path(tasks.path, "batch.pickle")
    whole = file.read_bytes()
    # Seen from another machine a file may be empty at first.
    file.write_bytes(b"")
    later = threading.Timer(0.3, file.write_bytes, [whole])
    later.start()
    run_kept_task(tasks.path, tasks.digest, 1)
    later.join()
    assert tasks.take(1) == 101


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_F37_graphs_are_cut_by_the_keys_of_the_pixels_as_well(tmp_path, monkeypatch, scheduler, workers):
    monkeypatch.setattr(running, "KEYS_PER_GRAPH", 100)
    pixels = DaskSource(da.ones((40, 40), chunks=2, dtype=int))
    results, sizes = [], []
    with (
        workers(scheduler),
        find_execution().opened() as execution,
        Callback(start=lambda graph: sizes.append(len(graph))),
    ):
        run_tasks(
            execution,
            add,
            100,
            range(20),
            directory=str(tmp_path),
            on_result=results.append,
            region=lambda number: pixels.lazy((slice(2 * number, 2 * number + 2), slice(0, 40))),
        )
    assert sorted(results) == [100 + number + 80 for number in range(20)]
    # A region has twenty chunks, read and cut to it, and put together.
    assert len(sizes) >= 5
    assert max(sizes) < 100 + 100


@pytest.mark.parametrize("n_workers", [1, 2, 8])
def test_F37_graphs_hold_two_tasks_for_each_worker_and_no_more_keys_than_the_plan_says(monkeypatch, n_workers):
    monkeypatch.setattr(running, "KEYS_PER_GRAPH", 100)
    image = da.zeros((160, 160), chunks=4, dtype="uint8")
    options = {"tile_shape": (16, 16), "tiles_per_task": 2, "fn_version": "1"}
    n_tasks, n_keys = [], []

    def count(graph):
        own = [key for key in graph if isinstance(key, tuple) and key[0].startswith("blockbuster-")]
        if len(graph) > len(own):
            n_tasks.append(len(own))
            n_keys.append(len(graph) - len(own))

    with dask.config.set(scheduler="threads", num_workers=n_workers), Callback(start=count):
        plan = plan_run(image, **options)
        tile_process(image, lambda tile: tile.astype("int32"), **options)
    assert sum(n_tasks) == 50
    assert min(n_tasks[:-1]) >= 2 * n_workers
    assert max(n_keys) <= count_keys(plan) <= 2 * max(n_keys)


@contextlib.contextmanager
def raising_as_a_lock_is_taken(error):
    """Raise, as a handler of signals may, where the main thread takes the lock again after it has waited."""

    def trace(frame, event, _):
        if frame.f_code is threading.Condition._acquire_restore.__code__:
            sys.settrace(None)
            raise error

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def test_B26_an_exit_that_threading_answers_with_an_error_of_its_own_is_what_ends_a_run(tmp_path):
    error, options = KeyboardInterrupt("as asked"), {"directory": str(tmp_path), "on_result": str}
    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.raises(KeyboardInterrupt) as caught,
        raising_as_a_lock_is_taken(error),
    ):
        run_tasks(find_execution(), operator.add, 1, range(20), **options)
    assert caught.value is error
