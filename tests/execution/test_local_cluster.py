"""Clusters that `make_local_cluster` starts: processes, one GPU each, and no more memory than there is."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client
from fatal import components, wait_until
from outcomes import assert_same_objects, blobs

from blockbuster import auto_tile_shape, make_local_cluster, plan_run, tile_process
from blockbuster.execution.memory import free_ram_bytes, visible_gpus

IMAGE = blobs((25, 33))


def about_worker(dask_worker):
    return {
        "pid": os.getpid(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "order": os.environ.get("CUDA_DEVICE_ORDER"),
        "malloc": [os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("TRIM", "MMAP")],
        "threads": dask_worker.state.nthreads,
        "limit": dask_worker.memory_manager.memory_limit,
    }


def listening(process):
    """The addresses that a process and those that it started listen on."""
    processes = [process, *process.children(recursive=True)]
    # psutil 6 gave it another name.
    found = [(getattr(one, "net_connections", None) or one.connections)("tcp") for one in processes]
    return {sock.laddr for sockets in found for sock in sockets if sock.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({}, {"127.0.0.1"}),
        ({"dashboard_address": "0.0.0.0:0"}, {"127.0.0.1", "0.0.0.0"}),
        ({"host": "127.0.0.2"}, {"127.0.0.1", "127.0.0.2"}),
        ({"interface": "lo", "dashboard_address": "127.0.0.2:0"}, {"127.0.0.1", "127.0.0.2"}),
    ],
    ids=["default", "dashboard", "host", "interface"],
)
def test_F34_a_cluster_listens_on_this_machine_alone_unless_it_is_told(options, hosts):
    before = listening(psutil.Process())
    client, cluster = make_local_cluster(n_workers=1, **options)
    with cluster, client:
        assert {address.ip for address in listening(psutil.Process()) - before} == hosts
        assert client.submit(sum, [1, 2]).result() == 3


def test_F34_with_keys_of_its_own_a_cluster_refuses_who_has_none():
    pytest.importorskip("cryptography", reason="keys are made by cryptography, which is not installed")
    client, cluster = make_local_cluster(n_workers=1, security=True)
    with cluster, client:
        assert client.submit(sum, [1, 2]).result() == 3
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match="tcp://"):
            Client(cluster.scheduler_address.replace("tls", "tcp"), timeout=2)


def test_workers_are_processes_that_share_the_memory_and_run_the_tiles(folder, monkeypatch):
    # An earlier cluster of this process leaves it there.
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    free = free_ram_bytes()
    client, cluster = make_local_cluster(n_workers=2)
    with cluster, client:
        workers = list(client.run(about_worker).values())
        labels = tile_process(IMAGE, components, tile_shape=(10, 10), overlap=1, stage_dir=folder)
    assert len({worker["pid"] for worker in workers} | {os.getpid()}) == 3
    assert [worker["threads"] for worker in workers] == [1, 1]
    # With dask's own 65536 every array of a task is made of fresh pages.
    assert [worker["malloc"] for worker in workers] == 2 * [[str(2**26), str(2**25)]]
    # Free memory changes from moment to moment.
    assert 0.6 * free < sum(worker["limit"] for worker in workers) < 0.95 * free
    assert_same_objects(labels, components(IMAGE))


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "found"), [(1, 2), (3, 3)])
def test_every_gpu_has_a_worker_that_sees_no_other(threads, found, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    client, cluster = make_local_cluster(use_gpu=True, threads_per_worker=threads, memory_limit="1 GB")
    with cluster, client:
        workers, known = list(client.run(about_worker).values()), cluster.scheduler.workers
        first = set(known)
        for worker in workers:
            os.kill(worker["pid"], signal.SIGKILL)
        wait_until(lambda: len(known) == 2 and not first & set(known))
        # One that took the place of another has the same GPU.
        again = list(client.run(about_worker).values())
    assert sorted(worker["gpu"] for worker in workers) == ["3", "GPU-5a"]
    assert sorted(worker["gpu"] for worker in again) == ["3", "GPU-5a"]
    assert {(worker["threads"], worker["limit"], worker["order"]) for worker in workers} == {
        (found, 10**9, "PCI_BUS_ID")
    }
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-5a"


def test_gpus_are_those_of_the_environment_up_to_the_first_that_is_none(monkeypatch):
    for listed, names in [("0, 2", ["0", "2"]), ("1,-1,0", ["1"]), ("", []), ("-1", [])]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert visible_gpus() == names


def test_gpus_are_else_those_that_nvidia_smi_lists(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = tmp_path / "nvidia-smi"
    lines = ["GPU 0: NVIDIA A100 (UUID: GPU-1)", "  MIG 1g.5gb Device 0: (UUID: MIG-2)", "GPU 1: NVIDIA A100"]
    command.write_text("#!/bin/sh\n" + "\n".join(f"echo '{line}'" for line in lines))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # A file of this name that cannot be run is none.
    assert visible_gpus() == []
    command.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize(
    ("options", "gpus", "kind", "message"),
    [
        ({"use_gpu": True}, "", RuntimeError, "no NVIDIA GPU is visible.*without use_gpu"),
        ({"use_gpu": True, "n_workers": 2}, "0", ValueError, r"n_workers is 2, but 1 GPUs are visible \(0\)"),
        ({"n_workers": 0}, "", ValueError, "n_workers is 0; it is 1 or more"),
        ({"n_workers": True}, "", TypeError, "n_workers is True; it is an integer"),
        ({"threads_per_worker": 1.5}, "", TypeError, "threads_per_worker is 1.5; it is an integer"),
        ({"processes": False}, "", ValueError, "processes is False.*threads"),
    ],
)
def test_what_no_cluster_can_have_is_refused_before_one_starts(monkeypatch, options, gpus, kind, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    with pytest.raises(kind, match=message):
        make_local_cluster(**options)


@pytest.fixture(scope="module")
def small_workers():
    """Workers of two threads with 0.6 GB each."""
    client, cluster = make_local_cluster(n_workers=1, threads_per_worker=2, memory_limit=12 * 10**8)
    with cluster, client:
        yield client


@pytest.mark.usefixtures("small_workers")
def test_tiles_are_sized_by_what_a_worker_has():
    image = np.lib.stride_tricks.as_strided(np.zeros(1, "uint8"), (40_000, 40_000), (0, 0))
    tile = plan_run(image, tile_shape="auto").grid.tile_shape
    assert tile == auto_tile_shape(image.shape, image.dtype, target_bytes=300_000_000)


@pytest.mark.usefixtures("small_workers")
def test_a_task_that_does_not_fit_a_worker_is_announced(folder):
    image = np.zeros((4096, 4096), "uint16")
    message = r"a task takes up to .* have 600 MB for each of their threads"
    with pytest.warns(UserWarning, match=message) as caught:
        tile_process(image, components, tile_shape=(4096, 4096), stage_dir=folder)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tile_process(image, components, tile_shape=(1024, 1024), tiles_per_task=1, stage_dir=folder)


SCRIPT = """
import blockbuster
{guard}client, cluster = blockbuster.make_local_cluster(n_workers=1)
{guard}print(len(client.scheduler_info()["workers"]))
{guard}client.close(); cluster.close()
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__": ', ""], ids=["guarded", "bare"])
def test_a_script_without_a_main_guard_is_told_so(folder, guard):
    Path("script.py").write_text(SCRIPT.format(guard=guard))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=600)
    if guard:
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    else:
        assert done.returncode != 0
        assert "while a worker process imports the main script: put the call under" in done.stderr
