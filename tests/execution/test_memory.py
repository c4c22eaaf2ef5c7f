import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from gpus import gpu_memory

from blockbuster import BlockbusterWarning
from blockbuster.execution import memory
from blockbuster.execution.memory import (
    cgroup_free_bytes,
    free_ram_bytes,
    ram_limits,
    slurm_limit_bytes,
    vram_bytes_or_warn,
)
from blockbuster.tiling import auto_tile_shape

SLURM_VARIABLES = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK")
NO_LIMIT_V1 = "9223372036854771712"
MIB = 2**20

no_gpu = pytest.mark.skipif(gpu_memory() is not None, reason="this machine has a GPU")


@pytest.fixture(autouse=True)
def no_batch_system(monkeypatch):
    for name in SLURM_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake_root(tmp_path):
    """Writes files, given as path and content, below a folder that stands for ``/``."""

    def write(files):
        for path, content in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{content}\n")
        return tmp_path

    return write


def v2_group(folder, limit, usage=0, inactive_file=0, high="max"):
    folder = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.high": high,
        f"{folder}/memory.current": usage,
        f"{folder}/memory.stat": f"anon 5\ninactive_anon 99\ninactive_file {inactive_file}\nactive_file 3",
    }


def v1_group(folder, limit, usage=0, inactive_file=0):
    folder = f"sys/fs/cgroup/memory/{folder}".rstrip("/")
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": usage,
        f"{folder}/memory.stat": f"cache 1\ninactive_file 2\ntotal_inactive_file {inactive_file}",
    }


def test_v2_limit_less_usage_with_inactive_file_cache_free(fake_root):
    root = fake_root({"proc/self/cgroup": "0::/job", **v2_group("job", 1000 * MIB, 700 * MIB, 300 * MIB)})
    assert cgroup_free_bytes(root) == 600 * MIB


def test_v2_parent_with_less_left_counts(fake_root):
    root = fake_root(
        {
            "proc/self/cgroup": "0::/slice/job/step",
            **v2_group("slice/job/step", "max", 100 * MIB),
            **v2_group("slice/job", 5000 * MIB, 400 * MIB),
            **v2_group("slice", 6000 * MIB, 5500 * MIB),
        }
    )
    assert cgroup_free_bytes(root) == 500 * MIB


def test_v2_soft_limit_counts(fake_root):
    root = fake_root({"proc/self/cgroup": "0::/job", **v2_group("job", 900 * MIB, high=200 * MIB)})
    assert cgroup_free_bytes(root) == 200 * MIB


def test_v2_inside_a_container_the_mount_point_is_the_group(fake_root):
    group = v2_group("", 800 * MIB, 300 * MIB)
    for line in ("0::/", "0::/docker/0123abc", "0::/../../elsewhere"):
        root = fake_root({"proc/self/cgroup": line, **group})
        assert cgroup_free_bytes(root) == 500 * MIB


def test_group_outside_of_the_namespace_is_not_followed_out_of_the_mount(fake_root):
    root = fake_root(
        {
            "proc/self/cgroup": "0::/../outside",
            "sys/fs/outside/memory.max": 5 * MIB,
            "sys/fs/outside/memory.current": 0,
            **v2_group("", 800 * MIB),
        }
    )
    assert cgroup_free_bytes(root) == 800 * MIB


def test_v1_limit_less_usage_with_inactive_file_cache_free(fake_root):
    root = fake_root(
        {
            "proc/self/cgroup": "9:cpu,cpuacct:/other\n4:memory:/slurm/job_7/step_0\n0::/",
            **v1_group("slurm/job_7/step_0", NO_LIMIT_V1, 50 * MIB),
            **v1_group("slurm/job_7", 2000 * MIB, 900 * MIB, 100 * MIB),
            **v1_group("", NO_LIMIT_V1, 9000 * MIB),
        }
    )
    assert cgroup_free_bytes(root) == 1200 * MIB


def test_mixed_versions_give_the_least(fake_root):
    root = fake_root(
        {
            "proc/self/cgroup": "5:hugetlb,memory:/a\n0::/b",
            **v1_group("a", 700 * MIB),
            "sys/fs/cgroup/unified/b/memory.max": 300 * MIB,
            "sys/fs/cgroup/unified/b/memory.current": 100 * MIB,
        }
    )
    assert cgroup_free_bytes(root) == 200 * MIB


@pytest.mark.parametrize("limit", ["max", NO_LIMIT_V1, "9223372036854775807", "nonsense", ""])
def test_no_real_limit_is_none(fake_root, limit):
    files = {"proc/self/cgroup": "4:memory:/job\n0::/job"}
    assert cgroup_free_bytes(fake_root({**files, **v1_group("job", limit), **v2_group("job", limit)})) is None


@pytest.mark.parametrize("content", ["", "garbage", "0::", "1:name=systemd:/user.slice"])
def test_unreadable_group_is_none(fake_root, content):
    assert cgroup_free_bytes(fake_root({"proc/self/cgroup": content})) is None


def test_group_path_may_hold_colons(fake_root):
    root = fake_root({"proc/self/cgroup": "0::/a:b/c", **v2_group("a:b/c", 60 * MIB, 20 * MIB)})
    assert cgroup_free_bytes(root) == 40 * MIB


def test_missing_statistics_count_all_usage(fake_root):
    root = fake_root(
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 70 * MIB,
            "sys/fs/cgroup/memory.current": 30 * MIB,
        }
    )
    assert cgroup_free_bytes(root) == 40 * MIB


def test_container_limit_bounds_free_ram(fake_root, monkeypatch):
    root = fake_root({"proc/self/cgroup": "0::/", **v2_group("", 90 * MIB, 20 * MIB)})
    monkeypatch.setattr(memory, "ROOT", root)
    assert free_ram_bytes() == 70 * MIB


def test_exceeded_limit_leaves_nothing(fake_root, monkeypatch):
    root = fake_root({"proc/self/cgroup": "0::/", **v2_group("", 90 * MIB, 200 * MIB)})
    monkeypatch.setattr(memory, "ROOT", root)
    assert ram_limits()["cgroup"] == -110 * MIB
    assert free_ram_bytes() == 0


def test_without_proc_and_sys_the_system_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert "cgroup" not in ram_limits()
    assert 0 < free_ram_bytes() <= psutil.virtual_memory().total


def test_free_ram_of_this_machine_is_less_than_its_ram():
    assert 0 < free_ram_bytes() < psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("environ", "mib"),
    [
        ({"SLURM_MEM_PER_NODE": "4000"}, 4000),
        ({"SLURM_MEM_PER_NODE": "4G"}, 4096),
        ({"SLURM_MEM_PER_NODE": "2T"}, 2 * 2**20),
        ({"SLURM_MEM_PER_NODE": "512m"}, 512),
        ({"SLURM_MEM_PER_NODE": "2048K"}, 2),
        ({"SLURM_MEM_PER_NODE": "3GB"}, 3072),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "7", "SLURM_CPUS_PER_TASK": "3"}, 7000),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_PER_TASK": "3"}, 3000),
        ({"SLURM_MEM_PER_CPU": "1000"}, 1000),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "many"}, 1000),
        ({"SLURM_MEM_PER_NODE": "500", "SLURM_MEM_PER_CPU": "1000"}, 500),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_CPU": "11"}, 11),
    ],
)
def test_slurm_variables_are_mebibytes_or_carry_a_unit(environ, mib):
    assert slurm_limit_bytes(environ) == mib * MIB


@pytest.mark.parametrize("text", ["0", "", "lots", "-5", "4X", "1.5G"])
def test_slurm_variable_without_a_number_or_with_zero_is_no_limit(text):
    assert slurm_limit_bytes({"SLURM_MEM_PER_NODE": text, "SLURM_MEM_PER_CPU": text}) is None


def test_slurm_job_leaves_its_memory_less_what_this_process_holds(monkeypatch):
    held = psutil.Process().memory_info().rss
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(held // MIB + 300))
    assert ram_limits()["slurm"] == pytest.approx(300 * MIB, abs=60 * MIB)
    assert free_ram_bytes() <= 360 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced on Linux")
def test_address_space_limit_counts():
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))\n"
        "from blockbuster.execution.memory import ram_limits; import psutil\n"
        "limit = ram_limits()['rlimit']; print(3 * 2**30 - psutil.Process().memory_info().vms - limit)"
    )
    root = Path(__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert abs(int(done.stdout)) < 50 * MIB


def test_unlimited_address_space_is_no_source():
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("this shell has an address space limit")
    assert "rlimit" not in ram_limits()


@no_gpu
def test_without_a_gpu_sizing_falls_back_to_ram_with_one_warning_that_says_what_to_install():
    with pytest.warns(BlockbusterWarning) as caught:
        tile = auto_tile_shape((300, 200), "uint8", use_gpu=True)
    assert tile == (300, 200)
    (warning,) = caught
    assert "pip install 'blockbuster-tiles[gpu-cuda12]' (or [gpu-cuda13]" in str(warning.message)
    assert "sized by free RAM" in str(warning.message)
    assert warning.filename == __file__


WITHOUT_DRIVER = """
class runtime:
    class CUDARuntimeError(RuntimeError): ...
    def getDeviceCount():
        raise runtime.CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
class cuda:
    runtime = runtime
"""
BROKEN = "raise ImportError('libnvrtc.so.12: cannot open shared object file', name='cupy_backends')"


@pytest.mark.parametrize(
    ("cupy", "missing"),
    [
        (None, "but CuPy is not installed: python -m pip install"),
        (BROKEN, "but CuPy cannot be imported (libnvrtc.so.12: cannot open shared object file): python -m pip"),
        (
            WITHOUT_DRIVER,
            "but CuPy finds no NVIDIA GPU (cudaErrorInsufficientDriver: CUDA driver version is insuf",
        ),
    ],
    ids=["not installed", "broken", "without a driver"],
)
def test_what_is_missing_of_cupy_is_said_in_one_sentence(cupy, missing, tmp_path, monkeypatch):
    if cupy is None and find_spec("cupy"):
        pytest.skip("CuPy is installed")
    if cupy is not None:
        (tmp_path / "cupy.py").write_text(cupy)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.warns(BlockbusterWarning, match="gpu-cuda12") as caught:
        assert vram_bytes_or_warn() is None
    assert missing in str(caught[0].message)
    sys.modules.pop("cupy", None)


@no_gpu
def test_explicit_target_needs_no_gpu_and_does_not_warn():
    assert auto_tile_shape((300, 200), "uint8", target_bytes=2**26, use_gpu=True) == (300, 200)


@pytest.mark.skipif(gpu_memory() is None, reason="needs a GPU and CuPy")
def test_vram_is_what_the_device_reports():
    assert 0 < vram_bytes_or_warn() <= gpu_memory()[1]


HOARD = """
import threading
import psutil
from blockbuster.execution.memory import give_back_freed_memory

def held():
    return psutil.Process().memory_info().rss / 2**20

def work():
    parts = [bytes(20_000) for _ in range(10_000)]
    keep.append(parts.pop())

keep = []
start = held()
for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
hoarded = held()
give_back_freed_memory()
print(start, hoarded, held())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries give freed memory back, or never"
)
def test_what_threads_have_freed_is_given_back():
    done = subprocess.run([sys.executable, "-c", HOARD], stdout=subprocess.PIPE, text=True, check=True)
    start, hoarded, left = map(float, done.stdout.split())
    assert hoarded > start + 150
    assert left < start + 20
