"""Other threads of the process use dask, or run `tile_process`: neither changes what the other gets (F31)."""

import ast
import contextlib
import io
import logging
import os
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import dask.multiprocessing
import naive
import pytest
import zarr
from dask.callbacks import Callback
from outcomes import assert_same_objects, blobs

import blockbuster
from blockbuster import read_report, tile_process, zarr_native_merge
from blockbuster.errors import muted
from blockbuster.execution import find_execution, with_workers

IMAGE = blobs((51, 60))
EXPECTED = naive.label(IMAGE)
OPTIONS = {"tile_shape": (20, 20), "tiles_per_task": 1}
# One call of dask's for each of them.
PHASES = ["stage", "seams", "write", "coarser level"]


class Computing(threading.Thread):
    """A thread that is inside a computation of dask's until it is told to end it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.is_inside, self.may_end = threading.Event(), threading.Event()

    def run(self):
        dask.delayed(self.wait)().compute(scheduler="synchronous")

    def wait(self):
        self.is_inside.set()
        assert self.may_end.wait(60)

    def begin(self):
        self.start()
        assert self.is_inside.wait(60)

    def end(self):
        self.may_end.set()
        self.join(60)


class Switching:
    """A pool that lets another thread begin or end a computation at the moment at which a phase begins one."""

    def let_in(self, moment, phase):
        self.other, self.moment, self.phase, self.n_begun = Computing(), moment, phase, 0
        if moment == "end":
            self.other.begin()

    @property
    def submit(self):
        # dask looks this up once in each call, when callbacks are registered and not yet taken.
        if self.n_begun == self.phase:
            getattr(self.other, self.moment)()
        self.n_begun += 1
        return super().submit


class SwitchingThreads(Switching, ThreadPoolExecutor):
    pass


class SwitchingProcesses(Switching, ProcessPoolExecutor):
    pass


@contextlib.contextmanager
def switched(pool, moment, phase):
    scheduler = "threads" if isinstance(pool, ThreadPoolExecutor) else "processes"
    with pool, dask.config.set(scheduler=scheduler, pool=pool):
        pool.let_in(moment, phase)
        try:
            yield
            assert pool.n_begun == len(PHASES)
        finally:
            if pool.other.ident:
                pool.other.end()


def assert_labels(folder):
    labels = zarr.open_array(folder / "image.zarr" / "labels" / "found" / "0", mode="r")[...]
    assert_same_objects(labels, EXPECTED)
    report = read_report(folder / "image.zarr", "labels/found")
    assert (report.n_objects, report.n_run) == (EXPECTED.max(), 9)


@pytest.fixture
def thirds(folder, monkeypatch):
    """An image whose coarser level is written by itself: its shards do not lie in those of the finest one."""
    monkeypatch.setattr("blockbuster.output.layout.SHARD_VOXELS", 300)
    monkeypatch.setattr("blockbuster.output.layout.CHUNK_VOXELS", 100)
    group = zarr.create_group(folder / "image.zarr")
    group.create_array("0", data=IMAGE)
    group.create_array("1", shape=(17, 20), dtype="uint8")
    scales = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [3.0**n] * 2}]} for n in (0, 1)
    ]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": scales}]}
    return folder


def segment(folder, **options):
    return tile_process(
        folder / "image.zarr",
        naive.label,
        write_to=folder / "image.zarr",
        output_component="labels/found",
        **OPTIONS,
        **options,
    )


@pytest.mark.parametrize("moment", ["begin", "end"])
@pytest.mark.parametrize("phase", range(len(PHASES)), ids=PHASES)
def test_F31_a_computation_of_another_thread_takes_no_result_away(phase, moment, thirds):
    with switched(SwitchingThreads(2), moment, phase):
        segment(thirds)
    assert_labels(thirds)


def test_F31_nor_does_it_from_a_run_on_other_processes(thirds):
    context = dask.multiprocessing.get_context()
    with switched(SwitchingProcesses(2, context, dask.multiprocessing.initialize_worker_process), "begin", 0):
        segment(thirds)
    assert_labels(thirds)


class Busy(threading.Thread):
    """A thread that computes with dask as fast as it can."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended, self.sums = threading.Event(), set()

    def __enter__(self):
        self.start()

    def __exit__(self, *error):
        self.ended.set()
        self.join(60)

    def run(self):
        numbers = da.arange(40, chunks=10)
        while not self.ended.is_set():
            self.sums.add(int(numbers.sum().compute(scheduler="threads")))


def run_often(seed, goes_on, faults):
    """Segment one image again and again, and keep what went wrong."""
    image = blobs((60, 60), seed)
    expected = naive.label(image)
    while goes_on():
        try:
            assert_same_objects(tile_process(image, naive.label, **OPTIONS), expected)
        except BaseException as error:
            faults.append(error)


def run_side_by_side(goes_on):
    """Two threads that segment and a third that computes, with as many thread switches as there can be."""
    faults, busy, interval = [], Busy(), sys.getswitchinterval()
    threads = [threading.Thread(target=run_often, args=(seed, goes_on(), faults)) for seed in (1, 2)]
    sys.setswitchinterval(1e-6)
    try:
        with busy:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads)
    assert busy.sums == {780}
    assert faults == []


def times(n):
    """How a loop is told to go on, so often."""
    return iter([True] * n + [False]).__next__


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_F31_two_runs_and_a_busy_thread_do_not_disturb_each_other(scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        run_side_by_side(lambda: times(6))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_F31_callbacks_of_the_user_are_told_of_the_run_and_stay(scheduler):
    ended = []
    with (
        dask.config.set(scheduler=scheduler, num_workers=2),
        Callback(posttask=lambda key, *_: ended.append(key)),
    ):
        before = Callback.active
        tile_process(IMAGE, naive.label, **OPTIONS)
        assert Callback.active == before
    # Bricks, seams, boxes.
    assert len(ended) > 2 * 9


def test_F31_callbacks_of_the_user_outlive_what_fn_computes_in_two_threads():
    begun, done = [threading.Event(), threading.Event()], threading.Event()
    turns = iter((0, 1))

    def wait(turn):
        begun[turn].set()
        assert (done if turn else begun[1]).wait(60)

    def fn(tile):
        turn = next(turns, None)
        if turn == 1:
            assert begun[0].wait(60)
        if turn is not None:
            dask.delayed(wait)(turn).compute(scheduler="synchronous")
        if turn == 0:
            done.set()
        return naive.label(tile)

    ended, told = [], []
    with dask.config.set(scheduler="threads", num_workers=2), Callback(posttask=lambda *_: told.append(1)):
        tile_process(IMAGE, naive.label, **OPTIONS)
    with dask.config.set(scheduler="threads", num_workers=2), Callback(posttask=lambda *_: ended.append(1)):
        before = Callback.active
        labels = tile_process(IMAGE, fn, **OPTIONS)
        assert Callback.active == before
    assert_same_objects(labels, EXPECTED)
    # Not of what fn computed.
    assert len(ended) == len(told)


def a_scheduler(dsk, keys, **options):
    """One of the user's own, which tells of nothing before it has ended."""
    assert not options
    return dask.local.get_sync(dsk, keys, callbacks=[])


def a_forgetful_scheduler(dsk, keys):
    return dask.local.get_sync(dsk, keys, callbacks=[])[:-1]


def test_results_of_a_scheduler_of_the_users_own_are_what_it_returns(folder):
    with dask.config.set(scheduler=a_scheduler):
        assert_same_objects(tile_process(IMAGE, naive.label, **OPTIONS), EXPECTED)
    with dask.config.set(scheduler=ThreadPoolExecutor(2)):
        assert_same_objects(tile_process(IMAGE, naive.label, **OPTIONS), EXPECTED)


def test_results_that_are_missing_end_the_run(folder):
    rule = r"(?s)but 3 of 9 tasks gave no result, the first of them the 1 tiles in \[20:40, 0:20\].*resume=True"
    options = {**OPTIONS, "write_to": "out.zarr"}
    with dask.config.set(scheduler=a_forgetful_scheduler, num_workers=1), pytest.raises(RuntimeError, match=rule):
        tile_process(IMAGE, naive.label, **options)
    assert not os.path.exists("out.zarr/labels")
    with dask.config.set(scheduler="synchronous"):
        labels, report = tile_process(IMAGE, naive.label, **options, resume=True, return_report=True)
    assert_same_objects(labels, EXPECTED)
    assert report.n_resumed == 6


def test_a_number_of_workers_is_for_the_thread_that_asks(folder):
    """dask's configuration belongs to the process."""
    staged = zarr.create_array(folder / "staged.zarr", data=EXPECTED, chunks=(20, 20))
    found = {}

    def look():
        found["other"] = find_execution().n_workers

    with dask.config.set(scheduler="threads", num_workers=2):
        with with_workers(5):
            found["here"] = find_execution().n_workers
            other = threading.Thread(target=look)
            other.start()
            other.join()
        assert found == {"here": 5, "other": 2}
        with Callback(pretask=lambda *_: found.update(inside=dask.config.get("num_workers"))):
            zarr_native_merge(folder, "staged.zarr", folder / "out.zarr", "labels", n_workers=3)
        assert found["inside"] == 2
        assert staged.shape == EXPECTED.shape


def test_the_log_of_verbose_runs_is_shown_until_the_last_one_has_ended(monkeypatch):
    logger, shown = logging.getLogger("blockbuster"), io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(logger, "propagate", False)
    may_end, is_inside = threading.Event(), threading.Event()

    def wait(tile):
        is_inside.set()
        assert may_end.wait(60)
        return naive.label(tile)

    options = {"tile_shape": (60, 60), "verbose": True}
    with dask.config.set(scheduler="synchronous"):
        long_run = threading.Thread(target=tile_process, args=(IMAGE, wait), kwargs=options)
        tile_process(IMAGE, lambda tile: [long_run.start(), is_inside.wait(60), naive.label(tile)][-1], **options)
        n_lines = shown.getvalue().count("seen by fn")
        may_end.set()
        long_run.join(60)
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)
    assert (n_lines, shown.getvalue().count("seen by fn")) == (1, 2)


def test_warnings_are_muted_in_the_thread_that_asks_alone():
    may_end, is_inside = threading.Event(), threading.Event()

    def hold():
        with muted(UserWarning):
            is_inside.set()
            assert may_end.wait(60)
            warnings.warn("not to be seen", UserWarning, stacklevel=1)

    thread = threading.Thread(target=hold)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        thread.start()
        assert is_inside.wait(60)
        warnings.warn("to be seen", UserWarning, stacklevel=1)
        may_end.set()
        thread.join()
        with muted(DeprecationWarning):
            warnings.warn("to be seen", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in said] == ["to be seen"] * 2


def test_state_of_the_whole_process_is_changed_by_the_command_line_alone():
    package = Path(os.path.dirname(blockbuster.__file__))
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.endswith(
                ("catch_warnings", "config.set", "signal.signal", "chdir", "putenv", "add_callbacks")
            ):
                found.add(path.relative_to(package).as_posix())
    assert found == {"cli/entry.py", "cli/segment.py"}


if __name__ == "__main__":
    end = time.monotonic() + float(sys.argv[1])
    n_runs = 0

    def goes_on():
        global n_runs
        n_runs += 1
        return time.monotonic() < end

    with dask.config.set(scheduler=sys.argv[2], num_workers=2):
        run_side_by_side(lambda: goes_on)
    print(n_runs, "runs")
