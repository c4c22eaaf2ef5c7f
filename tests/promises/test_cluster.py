"""Runs on the worker processes of a dask cluster: workers that die, are silent, or go away (F3, F4, F20, F24)."""

import asyncio
import contextlib
import functools
import logging
import operator
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import naive
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client, LocalCluster, SchedulerPlugin
from distributed.core import Status
from fatal import Gated, HoldingTheGil, Killing, components, marked, wait_until
from outcomes import assert_same_objects, snapshot, write_image
from strategies import TissueCase, Unsteady

from blockbuster import TileError, make_local_cluster, tile_process
from blockbuster.execution import client_run, find_execution, run_tasks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

SHAPE, TILE = (40, 60), (10, 10)
N_TILES = 24
POISONED, POISONED_TILE = (2, 3), (slice(20, 30), slice(30, 40))
IMAGE = marked(SHAPE, POISONED_TILE)
TILES = {"tile_shape": TILE, "overlap": 1}


@pytest.fixture
def calls(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


@pytest.fixture
def image(folder):
    return write_image(folder / "image.zarr", IMAGE)


@contextlib.contextmanager
def cluster(n_workers=2, threads_per_worker=1, plain=False, **settings):
    """A client of a cluster of worker processes, ours or dask's, whose logs of deaths are not shown."""
    options = {"n_workers": n_workers, "threads_per_worker": threads_per_worker, "silence_logs": logging.CRITICAL}
    with dask.config.set(settings):
        if plain:
            workers = LocalCluster(**options, processes=True, dashboard_address=":0")
            client = Client(workers)
        else:
            client, workers = make_local_cluster(**options)
        with workers, client:
            yield client


@pytest.fixture(scope="module")
def shared_workers(forked_workers):
    """Workers for tests that leave them as they are."""
    with cluster() as client:
        yield client


@pytest.fixture
def workers(shared_workers):
    """The same, active: another test may have had another client."""
    with dask.config.set(scheduler=shared_workers):
        yield shared_workers


@pytest.fixture(scope="session")
def threads_bytes(tmp_path_factory):
    """What threads store, for some options."""

    @functools.cache
    def run(**options):
        folder = tmp_path_factory.mktemp("threads")
        with dask.config.set(scheduler="threads", num_workers=2):
            tile_process(IMAGE, components, write_to=folder / "out.zarr", **TILES, **options)
        return array_bytes(folder / "out.zarr")

    return run


def array_bytes(path):
    """The stored labels, without the report, which holds times."""
    found = snapshot(path)
    return {name: what for name, what in found.items() if "report" not in name}


@pytest.mark.parametrize("plain", [False, True])
def test_F3_a_worker_killed_in_a_tile_costs_that_task_alone(plain, image, calls, threads_bytes):
    fn = Killing(calls, times=1)
    with cluster(plain=plain):
        tile_process(image, fn, write_to="out.zarr", tiles_per_task=1, **TILES)
    assert fn.deaths() == 2
    # Besides the tile that was under way at most one that waited at the worker had begun.
    assert N_TILES + 1 <= fn.calls <= N_TILES + 2
    assert array_bytes("out.zarr") == threads_bytes()


def test_F3_tasks_side_by_side_in_a_worker_that_is_killed_are_all_finished(image, calls, threads_bytes):
    fn = Killing(calls, times=2, seconds=0.1)
    with cluster(n_workers=2, threads_per_worker=3):
        tile_process(image, fn, write_to="out.zarr", tiles_per_task=2, **TILES)
    assert fn.deaths() == 3
    assert array_bytes("out.zarr") == threads_bytes()


@pytest.mark.parametrize(("threads", "tiles", "failures"), [(1, 6, 3), (3, 2, 3), (1, 2, 0)], ids=str)
def test_F4_a_tile_that_kills_every_worker_is_named(image, calls, threads, tiles, failures):
    fn = Killing(calls)
    settings = {"distributed.scheduler.allowed-failures": failures}
    with (
        cluster(threads_per_worker=threads, **settings),
        pytest.raises(TileError, match=": 3 worker processes died while fn ran on this tile") as caught,
    ):
        tile_process(image, fn, write_to="out.zarr", tiles_per_task=tiles, **TILES)
    assert (caught.value.tile, caught.value.slices) == (POISONED, POISONED_TILE)
    assert "resume=True" in caught.value.__notes__[0]
    assert not (image.parent / "out.zarr").exists()


def test_F4_a_worker_that_dies_as_soon_as_it_is_there_is_replaced_by_one_that_is_waited_for():
    with cluster(n_workers=1) as client:
        keeper = client.cluster.workers[0]

        async def kill_twice():
            process = keeper.process
            # How often dask looks whether a new worker is there: it does not see that this one was.
            process._init_msg_interval = 1.0
            os.kill(process.pid, signal.SIGKILL)
            while process.status != Status.starting or not process.pid or process.init_result_q.empty():
                await asyncio.sleep(0.001)
            killed = process.process
            os.kill(process.pid, signal.SIGKILL)
            while process.process in (None, killed) or process.status != Status.running:
                await asyncio.sleep(0.001)

        client.cluster.sync(kill_twice)
        assert keeper.worker_address in client.scheduler_info()["workers"]


def test_a_cluster_that_is_closed_while_a_worker_starts_anew_leaves_none_behind():
    with cluster(n_workers=1) as client:
        keeper = client.cluster.workers[0]
        other = psutil.Process().children(recursive=True)

        async def close_in_the_middle():
            restart = asyncio.ensure_future(keeper.restart(timeout=20))
            while keeper.process.status != Status.starting:
                await asyncio.sleep(0.001)
            await client.cluster.close()
            restart.cancel()

        client.cluster.sync(close_in_the_middle)
        wait_until(lambda: not set(psutil.Process().children(recursive=True)) - set(other))


def test_F4_a_first_tile_that_kills_every_worker_is_named(folder, calls):
    """It is shown to fn before any other, to see how long fn takes."""
    with cluster(), pytest.raises(TileError, match=r"tile \(0, 0\).*died while fn ran"):
        tile_process(marked(SHAPE, (slice(0, 10), slice(0, 10))), Killing(calls), stage_dir=folder, **TILES)


def test_F4_tiles_that_kill_workers_can_be_left_out(image, calls):
    with cluster(), pytest.warns(UserWarning, match=r"1 tiles failed.*\(2, 3\): 3 worker processes died"):
        labels, report = tile_process(
            image, Killing(calls), write_to="out.zarr", on_error="skip", return_report=True, compute=True, **TILES
        )
    without = IMAGE.copy()
    assert [tile for tile, _ in report.failed] == [list(POISONED)]
    assert not labels[POISONED_TILE].any()
    without[POISONED_TILE] = 0
    expected = naive.stitch(IMAGE, components, naive.cut(SHAPE, TILE), (1, 1))
    beyond = naive.stitch(without, components, naive.cut(SHAPE, TILE), (1, 1))
    assert np.array_equal(labels > 0, beyond > 0)
    assert expected[POISONED_TILE].any()


def test_F4_the_tile_is_named_where_dead_workers_do_not_come_back(image, calls, monkeypatch):
    monkeypatch.setattr(client_run, "SECONDS_WITHOUT_WORKERS", 2)
    monkeypatch.setattr(client_run, "SECONDS_BETWEEN_COUNTS", 0.5)
    # A spare task may die with the first worker, but no tile is in hand twice except one.
    with (
        LocalCluster(
            n_workers=0, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as scheduler,
        workers_without_nanny(scheduler.scheduler_address, 2),
        Client(scheduler) as client,
    ):
        client.wait_for_workers(2)
        with pytest.raises(TileError, match="2 worker processes died while fn ran on this tile") as caught:
            tile_process(image, Killing(calls), write_to="out.zarr", tiles_per_task=1, **TILES)
    assert caught.value.tile == POISONED


@contextlib.contextmanager
def workers_without_nanny(address, n):
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
    environment = client_environment()
    processes = [
        subprocess.Popen([*command, "--no-dashboard"], env=environment, stderr=subprocess.DEVNULL)
        for _ in range(n)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def client_environment():
    """Workers import the functions of the tests by name."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_F20_a_function_that_holds_the_gil_longer_than_the_time_to_live_loses_no_work(image, calls):
    # The scheduler's own least time to live is ten heartbeats, 5 s.
    fn = HoldingTheGil(calls, seconds=8.0)
    mask = IMAGE[:10, :20]
    with cluster(**{"distributed.scheduler.worker-ttl": "3 s"}) as client:
        before = set(client.scheduler_info()["workers"])
        labels = tile_process(mask, fn, tiles_per_task=1, stage_dir=image.parent, **TILES)
        assert set(client.scheduler_info()["workers"]) == before
    assert fn.calls == 2
    assert np.array_equal(labels, naive.stitch(mask, components, naive.cut(mask.shape, TILE), (1, 1)))


def is_journalled():
    return any(path.stat().st_size for path in Path().glob("out.zarr*-stage/journal*"))


@pytest.mark.parametrize("ending", ["close", "shutdown"])
def test_F24_a_client_or_cluster_that_is_closed_leaves_a_stage_that_others_continue(
    ending, image, calls, threads_bytes
):
    fn = Gated(calls, gates=(8,))
    with cluster() as client, ThreadPoolExecutor(1) as other:

        def end():
            wait_until(is_journalled)
            getattr(client, ending)()

        closed = other.submit(fn.at_gate, 8, end)
        with pytest.raises(RuntimeError, match="the dask cluster is gone") as caught:
            tile_process(image, fn, write_to="out.zarr", tiles_per_task=1, **TILES)
        closed.result()
        assert "call again with resume=True" in caught.value.__notes__[0]
        assert not (image.parent / "out.zarr").exists()
    n_before = fn.calls
    # Threads continue what a client left, and another cluster what a cluster did.
    with cluster(n_workers=1, threads_per_worker=2) if ending == "shutdown" else contextlib.nullcontext():
        _, report = tile_process(image, fn, write_to="out.zarr", resume=True, return_report=True, **TILES)
    assert 0 < report.n_resumed <= n_before < N_TILES
    assert fn.calls - n_before == N_TILES - report.n_resumed
    assert array_bytes("out.zarr") == threads_bytes()


def raise_at_the_start(tile, kind):
    if tile[0, 0] == 77:
        raise kind(3)
    return components(tile)


def test_B26_what_would_end_a_worker_ends_the_tile_or_the_run(workers, folder):
    image = IMAGE.copy()
    image[0, 0] = 77
    before = set(workers.nthreads())
    with pytest.raises(TileError, match=r"tile \(0, 0\).*fn raised SystemExit: 3"):
        tile_process(image, functools.partial(raise_at_the_start, kind=SystemExit), **TILES, stage_dir=folder)
    for options in ({"tiles_per_task": 1}, {}):
        with pytest.raises(KeyboardInterrupt):
            tile_process(
                image,
                functools.partial(raise_at_the_start, kind=KeyboardInterrupt),
                **{**TILES, **options},
                stage_dir=folder,
                overwrite=True,
            )
    assert set(workers.nthreads()) == before


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal has it: a process that a shell put into the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def n_ready(dask_worker):
    """How many tasks a worker has and has not begun."""
    return len(dask_worker.state.ready)


def is_waiting():
    """Whether the main thread waits for tasks to end; elsewhere Ctrl-C may leave a file to its finalizer."""
    return sys._current_frames()[threading.main_thread().ident].f_code is client_run.ClientRun._wait.__code__


@pytest.mark.usefixtures("interruptible")
def test_F6_ctrl_c_ends_a_run_after_the_tiles_under_way_and_threads_continue_it(image, calls, threads_bytes):
    fn = Gated(calls, gates=(4,))
    with cluster() as client, ThreadPoolExecutor(1) as other:

        def press():
            wait_until(lambda: fn.calls > 4 and is_journalled() and is_waiting())
            os.kill(os.getpid(), signal.SIGINT)

        pressed = other.submit(press)
        with pytest.raises(KeyboardInterrupt) as caught:
            tile_process(image, fn, write_to="out.zarr", tiles_per_task=1, **TILES)
        pressed.result()
        # What had not begun is taken back, from the scheduler and then from its workers.
        wait_until(lambda: client.run_on_scheduler(n_wanted) == 0)
        wait_until(lambda: not any(client.run(n_ready).values()))
        (calls / "open-4").touch()
    assert "call again with resume=True" in caught.value.__notes__[0]
    # It did not wait for the two that were under way, and no other began.
    assert fn.calls <= 6
    tile_process(image, components, write_to="out.zarr", overwrite=True, **TILES)
    assert array_bytes("out.zarr") == threads_bytes()


@contextlib.contextmanager
def before_each_line(act):
    """Call a function before each line of the loop that has a client run tasks, with its number."""

    def trace(frame, event, _):
        if frame.f_code.co_filename != client_run.__file__:
            return None
        if event == "line":
            act(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def test_F6_ctrl_c_at_whatever_line_leaves_no_task_on_its_way(folder, workers):
    lines, errors = set(), []

    def run(act):
        with before_each_line(act):
            run_tasks(find_execution(), operator.add, 100, range(20), directory=str(folder), on_result=str)

    def interrupt_at(wanted, line):
        if line == wanted:
            sys.settrace(None)
            raise KeyboardInterrupt

    run(lines.add)
    for line in lines:
        try:
            run(functools.partial(interrupt_at, line))
        except KeyboardInterrupt as error:
            # Held, as a session of IPython holds the last one, with all that the frames had in hand.
            errors.append(error)
        wait_until(lambda: workers.run_on_scheduler(n_wanted) == 0)
    assert len(errors) > 40


def kill_one(client, killed):
    """Kill a worker process that was not killed before."""
    pids = [pid for pid in client.run(os.getpid, on_error="ignore").values() if pid not in killed]
    os.kill(pids[-1], signal.SIGKILL)
    killed.append(pids[-1])


def test_F3_workers_that_are_killed_in_the_middle_do_not_change_a_byte(image, calls, threads_bytes):
    fn = Gated(calls, gates=(5, 12))
    killed = []
    with cluster() as client, ThreadPoolExecutor(1) as other:
        ends = [other.submit(fn.at_gate, gate, functools.partial(kill_one, client, killed)) for gate in fn.gates]
        tile_process(image, fn, write_to="out.zarr", tiles_per_task=1, **TILES)
        for end in ends:
            end.result()
    assert len(set(killed)) == 2
    assert fn.calls >= N_TILES
    assert array_bytes("out.zarr") == threads_bytes()


def test_F3_a_worker_that_dies_before_its_results_are_taken_loses_none(folder):
    numbers = range(client_run.MIN_TASKS)
    found = []
    with cluster(n_workers=1) as client:

        def take(result):
            if not found:
                statuses = client.futures.values()
                wait_until(lambda: [state.status for state in statuses].count("finished") >= len(numbers) - 1)
                os.kill(*client.run(os.getpid).values(), signal.SIGKILL)
                wait_until(lambda: "lost" in [state.status for state in statuses])
            found.append(result)

        run_tasks(find_execution(), operator.add, 100, numbers, directory=str(folder), on_result=take)
    assert sorted(found) == [100 + number for number in numbers]


def n_wanted(dask_scheduler):
    """How many tasks a scheduler knows whose results a client waits for."""
    return sum(bool(task.who_wants) for task in dask_scheduler.tasks.values())


class Largest(SchedulerPlugin):
    """Keeps how many tasks the scheduler knew at once, and how large the largest was as it was sent."""

    name = "largest"

    def __init__(self):
        self.n_tasks = 0
        self.n_bytes = 0

    async def start(self, scheduler):
        self.scheduler = scheduler

    def transition(self, key, start, finish, *args, **kwargs):
        import pickle

        self.n_tasks = max(self.n_tasks, n_wanted(self.scheduler))
        task = self.scheduler.tasks.get(key)
        if task is not None and task.run_spec is not None:
            self.n_bytes = max(self.n_bytes, len(pickle.dumps(task.run_spec)))


def largest(dask_scheduler):
    plugin = dask_scheduler.plugins["largest"]
    return plugin.n_tasks, plugin.n_bytes


def test_few_and_small_tasks_are_sent_at_a_time(folder, workers):
    pixels = np.zeros((200, 400), "uint16")
    pixels[::7] = 1
    workers.register_plugin(Largest())
    tile_process(pixels, components, tile_shape=(10, 10), tiles_per_task=4, stage_dir=folder)
    n_tasks, n_bytes = workers.run_on_scheduler(largest)
    workers.unregister_scheduler_plugin("largest")
    # Those that have just ended are let go of a moment later.
    assert n_tasks <= 2 * client_run.MIN_TASKS
    assert 0 < n_bytes < 1000


@pytest.mark.usefixtures("folder", "workers")
def test_a_dask_image_enters_the_tasks_of_a_cluster_through_their_graphs(threads_bytes):
    tile_process(da.from_array(IMAGE, chunks=(15, 25)), components, write_to="out.zarr", **TILES)
    assert array_bytes("out.zarr") == threads_bytes()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_F12_B26_what_the_graph_of_any_of_many_bricks_raises_names_its_tile_or_is_skipped(kind, workers):
    def load(block, block_info=None):
        if block_info[0]["chunk-location"] in {(1, 2), (8, 7)}:
            raise kind("no such plane")
        return block

    before = workers.run(os.getpid)
    image = np.ones((100, 90), "uint8")
    meta = np.empty((0, 0), image.dtype)
    lazy = da.from_array(image, chunks=(10, 10)).map_blocks(load, dtype=image.dtype, meta=meta)
    options = {"tile_shape": (10, 10), "tiles_per_task": 1, "overlap": 0}
    with pytest.raises(TileError, match=r"^tile \((1, 2|8, 7)\) .*: reading the image raised .*no such plane"):
        tile_process(lazy, components, **options)
    with pytest.warns(match="2 tiles failed"):
        labels, report = tile_process(lazy, components, **options, on_error="skip", return_report=True)
    assert [tile for tile, _ in report.failed] == [[1, 2], [8, 7]]
    image[10:20, 20:30] = image[80:90, 70:80] = 0
    np.testing.assert_array_equal(labels > 0, image)
    # None has died of it.
    assert workers.run(os.getpid) == before


def test_workers_that_come_and_go_do_not_matter(image, calls, threads_bytes):
    fn = Gated(calls, gates=(4, 12))
    with cluster(n_workers=1) as client, ThreadPoolExecutor(1) as other:

        def scale(n):
            client.cluster.scale(n)
            wait_until(lambda: len(client.nthreads()) == n)

        scaled = [
            other.submit(fn.at_gate, gate, functools.partial(scale, n))
            for gate, n in zip(fn.gates, (3, 1), strict=True)
        ]
        tile_process(image, fn, write_to="out.zarr", tiles_per_task=1, **TILES)
        for one in scaled:
            one.result()
    assert array_bytes("out.zarr") == threads_bytes()


def test_a_run_waits_for_workers_that_are_still_to_come(image, threads_bytes):
    with cluster(n_workers=0, plain=True) as client:
        timer = threading.Timer(1.0, client.cluster.scale, [1])
        timer.start()
        tile_process(image, components, write_to="out.zarr", **TILES)
        timer.join()
    assert array_bytes("out.zarr") == threads_bytes()
    assert zarr.open_array("out.zarr/labels", mode="r").shape == SHAPE


@pytest.mark.usefixtures("workers")
def test_progress_counts_tiles_across_the_cluster(image, capfd):
    tile_process(image, components, write_to="out.zarr", progress=True, **TILES)
    shown = capfd.readouterr().err
    assert f"segment: 100%|██████████| {N_TILES}/{N_TILES}" in shown
    assert f"write labels: 100%|██████████| {N_TILES}/{N_TILES}" in shown


@pytest.mark.usefixtures("workers")
def test_agreement_on_a_cluster_gives_the_same_bytes(image, threads_bytes):
    tile_process(image, components, write_to="out.zarr", merge="agree", tiles_per_task=2, **TILES)
    assert array_bytes("out.zarr") == threads_bytes(merge="agree")
    labels = np.asarray(zarr.open_array("out.zarr/labels", mode="r")[...])
    assert_same_objects(labels > 0, IMAGE > 0)


@pytest.mark.usefixtures("workers")
def test_contradictions_and_ends_on_a_cluster_give_the_same_labels():
    case = TissueCase((41, 37), (7, 9), 3, fn=Unsteady(2, 0.2, 1, cuts=True), tissue="cells", tiles_per_task=3)
    labels, report = case.run(return_report=True)
    assert min(report.seams.contradictions, report.seams.completed) > 0
    assert np.array_equal(labels, case.expected())
