"""Several hosts for real: scheduler, workers and driver in networks of their own, and a shared folder."""

import json
import sys
from pathlib import Path

import dask
import pytest
import zarr
from fatal import Counting, components, marked, wait_until
from hosts import PORT, dask_command, hosts_or_skip, kill
from outcomes import snapshot, write_image

from blockbuster import tile_process

SHAPE, TILES = (60, 80), {"tile_shape": (10, 10), "overlap": 1}
N_TILES = 48
IMAGE = marked(SHAPE, (slice(20, 30), slice(30, 40)))
# The scheduler finds out about a host that is gone after so long.
SOON = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "4s"}

DRIVER = """
import json, sys, warnings
from pathlib import Path
from distributed import Client
from fatal import Counting
from blockbuster import tile_process

address, folder, n_workers, options = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
with Client(address) as client:
    client.wait_for_workers(n_workers)
    _, report = tile_process(folder / "image.zarr", Counting(folder / "calls", 0.1), tile_shape=(10, 10),
                             overlap=1, tiles_per_task=1, return_report=True, **options)
(folder / "report.json").write_text(report.to_json())
"""


@pytest.fixture
def hosts(folder):
    with hosts_or_skip() as hosts:
        yield hosts


@pytest.fixture
def shared(folder):
    """The folder that all hosts see."""
    shared = folder / "shared"
    (shared / "calls").mkdir(parents=True)
    write_image(shared / "image.zarr", IMAGE)
    (folder / "driver.py").write_text(DRIVER)
    return shared


def start_cluster(hosts, n_workers, **hidden):
    """A scheduler, and workers by name; `hidden` gives for a worker the folder that it cannot see."""
    scheduler = f"tcp://{hosts.add('scheduler')}:{PORT}"
    hosts.start("scheduler", *dask_command("scheduler", "--port", PORT, "--no-dashboard"), **SOON)
    workers = {}
    for number in range(n_workers):
        name = f"worker{number}"
        address = hosts.add(name)
        command = dask_command("worker", scheduler, "--nthreads", 1, "--host", address, "--no-dashboard")
        local = ["--local-directory", Path.cwd() / name]
        workers[name] = hosts.start(name, *command, *local, hide=hidden.get(name), **SOON)
    hosts.add("driver")
    return scheduler, workers


def start_driver(hosts, folder, scheduler, shared, n_workers, **options):
    command = [sys.executable, folder / "driver.py", scheduler, shared, n_workers, json.dumps(options)]
    return hosts.start("driver", *command, **SOON)


def finish(process, folder):
    """Wait for the driver; gives its status and what it printed."""
    status = process.wait(120)
    return status, "".join(path.read_text() for path in sorted(folder.glob("driver-*.log")))


def array_bytes(path):
    return {name: what for name, what in snapshot(path).items() if "report" not in name}


def bytes_of_threads(folder):
    with dask.config.set(scheduler="threads", num_workers=2):
        tile_process(IMAGE, components, write_to=folder / "threads.zarr", **TILES)
    return array_bytes(folder / "threads.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["killed", "unplugged"])
def test_a_host_that_is_lost_does_not_change_a_byte(hosts, folder, shared, loss):
    scheduler, workers = start_cluster(hosts, 2)
    out = str(shared / "out.zarr")
    driver = start_driver(hosts, folder, scheduler, shared, 2, write_to=out)
    calls = Counting(shared / "calls")
    wait_until(lambda: calls.calls >= 10)
    if loss == "killed":
        kill(workers["worker1"])
    else:
        hosts.unplug("worker1")
    status, output = finish(driver, folder)
    assert status == 0, output
    assert array_bytes(out) == bytes_of_threads(folder)
    report = json.loads((shared / "report.json").read_text())
    assert report["n_run"] == N_TILES
    # The task that it had in hand ran again; that of one that is unplugged may even have ended.
    assert N_TILES <= calls.calls <= N_TILES + 4
    assert zarr.open_array(Path(out, "labels"), mode="r").shape == SHAPE


def test_a_worker_that_cannot_see_the_stage_is_named(hosts, folder, shared):
    scheduler, _ = start_cluster(hosts, 1, worker0=shared)
    driver = start_driver(hosts, folder, scheduler, shared, 1, write_to=str(shared / "out.zarr"))
    status, output = finish(driver, folder)
    assert status == 1
    assert "cannot see" in output
    assert f"worker tcp://{hosts.names['worker0']}" in output
    assert "file system that all workers share" in output
    assert Counting(shared / "calls").calls == 0
    assert not (shared / "out.zarr").exists()


def test_a_worker_that_sees_the_stage_but_not_the_image_is_no_source_of_zeros(hosts, folder, shared):
    (folder / "stages").mkdir()
    scheduler, _ = start_cluster(hosts, 1, worker0=shared / "image.zarr")
    options = {"stage_dir": str(folder / "stages"), "write_to": str(shared / "out.zarr")}
    driver = start_driver(hosts, folder, scheduler, shared, 1, **options)
    status, output = finish(driver, folder)
    assert status == 1
    assert "TileError: tile (0, 0) [0:10, 0:10]: reading the image raised" in output
    assert Counting(shared / "calls").calls == 0
    assert not (shared / "out.zarr").exists()
