"""What all tests share: hypothesis profiles, real images, kernels with and without the compiler."""

import functools
import multiprocessing.util
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import dask.multiprocessing
import numba
import pytest
from hypothesis import HealthCheck, settings

# A run flushes what must outlive a power cut, and a test of many runs would wait for the disk most of its time.
# A folder in memory gets the same calls. Whoever sets TMPDIR chooses another place, such as a disk.
MEMORY, MIN_BYTES_IN_MEMORY = "/dev/shm", 4 * 2**30


def has_room(folder):
    """Whether a folder is a file system of its own, with room for what tests write, commands too."""
    is_usable = os.path.ismount(folder) and os.access(folder, os.W_OK)
    is_usable = is_usable and not os.statvfs(folder).f_flag & os.ST_NOEXEC
    return is_usable and shutil.disk_usage(folder).free >= MIN_BYTES_IN_MEMORY


if "TMPDIR" not in os.environ and has_room(MEMORY):
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY

# `naive` and `strategies` are imported by name, in worker processes too, which get this path from here.
sys.path.insert(0, str(Path(__file__).parent))

# Everybody tries the same examples every time, whatever the machine; .ci/search is what tries others.
settings.register_profile(
    "blockbuster",
    deadline=None,
    derandomize=not os.environ.get("BLOCKBUSTER_SEARCH"),
    max_examples=int(os.environ.get("BLOCKBUSTER_EXAMPLES") or 100),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("blockbuster")


def pytest_collection_modifyitems(items):
    """Begin with the files that take long, so that none is left when all other processes are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_images():
    """The folder of real images."""
    root = os.environ.get("BLOCKBUSTER_DATA")
    if not root:
        pytest.skip("BLOCKBUSTER_DATA is not set: no real images")
    return Path(root)


@functools.cache
def compiled(kernel):
    """A kernel as it is; a part of kernels as one of its own."""
    return kernel if hasattr(kernel, "py_func") else numba.njit(kernel)


@pytest.fixture(params=["python"] if numba.config.DISABLE_JIT else ["compiled", "python"])
def as_run(request):
    """How a kernel is run: compiled, or as plain Python, which is all there is with NUMBA_DISABLE_JIT=1."""
    if request.param == "compiled":
        return compiled
    return lambda kernel: getattr(kernel, "py_func", kernel)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder for temporary files, to see that nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path, temporary, monkeypatch):
    """The working directory of the test; temporary files are elsewhere, and watched as well."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="session")
def pool():
    """Two worker processes, which take seconds to start."""
    start = dask.multiprocessing.initialize_worker_process
    with ProcessPoolExecutor(2, dask.multiprocessing.get_context(), start) as pool:
        # Both start here and not in the folder of a test, which is removed: without a working directory Python
        # 3.13.0 fails as it looks up a codec.
        list(pool.map(abs, range(2)))
        assert len(pool._processes) == 2
        yield pool


@pytest.fixture
def workers(pool):
    """Have a scheduler run two tasks at once, or one; its processes are those that all tests share."""

    def choose(scheduler):
        options = {"pool": pool} if scheduler == "processes" else {}
        return dask.config.set(scheduler=scheduler, num_workers=2, **options)

    return choose


@pytest.fixture(scope="module")
def one_at_a_time():
    """Have runs start no threads; most are quick."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """Contents of the output of a run that nothing interrupts."""
    from interrupted import clean_contents

    with dask.config.set(scheduler="synchronous"):
        return clean_contents(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="session")
def fork_server():
    """The process that workers are forked from; it has imported everything, which takes each of them seconds."""
    from zygote import parent_environment

    # Made now: a test has a folder of its own for temporary files, which is removed.
    multiprocessing.util.get_temp_dir()
    forkserver.set_forkserver_preload(["forked"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        for name, value in parent_environment().items():
            patch.setenv(name, value)
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def forked_workers(fork_server):
    """Fork the worker processes of clusters; those of users are new, as dask's default is."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="session")
def zygote():
    """A process that has imported everything, and forks others from itself."""
    from zygote import Zygote

    with Zygote() as zygote:
        yield zygote
