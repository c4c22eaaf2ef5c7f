"""Memory, file handles, and a system that lets nothing be cached (F22, F23, F29)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
import zarr
from outcomes import assert_same_objects, blobs

import blockbuster

pytestmark = pytest.mark.slow

PROC = Path("/proc/self/status")
needs_proc = pytest.mark.skipif(
    not PROC.is_file() or not os.access("/proc/self/clear_refs", os.W_OK),
    reason="no /proc to measure the peak of the memory",
)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def run(script, folder, **arguments):
    """Run a script in a process of its own, where other tests have used no memory, and give what it prints."""
    command = [sys.executable, "-c", MEASURE + script, json.dumps(arguments)]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The peak is read from /proc: the ru_maxrss of a new process starts at that of its parent.
MEASURE = """
import json, os, resource, sys
import dask, numpy as np, zarr
from scipy import ndimage
from blockbuster import plan_run, tile_process

given = json.loads(sys.argv[1])

def status_bytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

def peak_bytes_now():
    return status_bytes("VmHWM")

def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
"""

FOOTPRINT = """
def label(tile):
    return ndimage.label(tile > 50)[0]

kept = {}

def one_object(tile):
    if tile.shape not in kept:
        kept[tile.shape] = np.ones(tile.shape, "uint8")
    return kept[tile.shape]

options = {"tile_shape": tuple(given["tile"]), "overlap": given.get("overlap", 0)}
options |= {"tiles_per_task": given.get("tiles_per_task"), "merge": given.get("merge", "touch")}
options["write_to"] = "out.zarr" if given.get("stored", True) else None
image = zarr.open_array("image.zarr", mode="r")
with dask.config.set(scheduler="threads", num_workers=2):
    bound = plan_run(image, **options).memory_bytes
    labels = tile_process(image, label if given["fn"] == "label" else one_object, **options)
    libraries = status_bytes("RssFile")
    print(json.dumps({"bound": bound, "peak": peak_bytes_now(), "libraries": libraries}))
"""


def write_discs(folder, shape, dtype, chunks):
    """An image of round objects, the same in every chunk."""
    axes = np.meshgrid(*(np.arange(n) for n in chunks), indexing="ij")
    wave = sum(np.sin(axis / 3.0) for axis in axes)
    chunk = (np.clip(wave, 0, None) * 60).astype(dtype)
    repeats = [-(-n // size) for n, size in zip(shape, chunks, strict=True)]
    zarr.create_array(folder / "image.zarr", data=np.tile(chunk, repeats), chunks=chunks)


# So much of libraries' files the bound counts; the system maps 100 to 160 MB, as they happen to lie in memory.
LIBRARIES = 160_000_000


@needs_proc
@pytest.mark.parametrize(
    ("shape", "tile", "fn", "options"),
    [
        ((1024, 1024), (128, 128), "label", {"overlap": 32}),
        ((4096, 4096), (1024, 1024), "label", {"overlap": 16}),
        ((4096, 4096), (256, 256), "one object", {"overlap": 8}),
        ((64, 512, 512), (32, 128, 128), "label", {"overlap": 8}),
        ((64, 512, 512), (32, 64, 64), "label", {"overlap": 16, "merge": "agree"}),
        ((4096, 2048), (256, 256), "label", {"overlap": 0, "stored": False}),
    ],
)
def test_F22_the_peak_is_within_the_stated_bound_and_not_far_below(tmp_path, shape, tile, fn, options):
    dtype = {1024: "uint8", 4096: "float32", 64: "uint16"}[shape[0]]
    write_discs(tmp_path, shape, dtype, (16, 256, 256) if len(shape) == 3 else (512, 512))
    found = run(FOOTPRINT, tmp_path, tile=tile, fn=fn, **options)
    not_mapped = max(0, LIBRARIES - found["libraries"])
    assert found["peak"] <= found["bound"] <= 2 * (found["peak"] + not_mapped), found


@needs_proc
def test_F22_an_image_of_16_times_the_size_takes_no_more_memory(tmp_path):
    found = []
    for size in (2048, 4096, 8192):
        folder = tmp_path / str(size)
        folder.mkdir()
        # Chunks that were never written are read as 100.
        layout = {"shape": (size, size), "chunks": (512, 512), "dtype": "uint8", "fill_value": 100}
        zarr.create_array(folder / "image.zarr", **layout)
        found.append(run(FOOTPRINT, folder, tile=(512, 512), tiles_per_task=4, fn="one object"))
    assert all(one["peak"] <= one["bound"] <= 2 * one["peak"] for one in found), found
    # One shard cannot be written while another is; from the second image on there are several.
    assert found[2]["bound"] < 1.01 * found[1]["bound"]
    assert found[2]["peak"] < 1.1 * found[1]["peak"]


MANY = """
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
handles = []

def label(tile):
    if len(handles) < given["n_tiles"] and not int(tile[0, 0]) % 64:
        handles.append(len(os.listdir("/proc/self/fd")))
    return (tile > 0).view("uint8")

image = np.arange(1600 * 1000, dtype="uint16").reshape(1600, 1000)
tile = (4, 1000 * 400 // given["n_tiles"])
with dask.config.set(scheduler="threads", num_workers=2):
    before = peak_bytes_now()
    labels, report = tile_process(image, label, tile_shape=tile, write_to="out.zarr", return_report=True)
print(json.dumps({"n_tiles": report.n_tiles, "handles": max(handles), "bytes": peak_bytes_now() - before}))
"""


@needs_proc
def test_F23_handles_and_memory_stay_flat_with_100_000_tiles(tmp_path):
    found = []
    for n_tiles in (10_000, 100_000):
        (tmp_path / str(n_tiles)).mkdir()
        found.append(run(MANY, tmp_path / str(n_tiles), n_tiles=n_tiles))
    few, many = found
    assert (few["n_tiles"], many["n_tiles"]) == (10_000, 100_000)
    assert many["handles"] <= few["handles"] + 8 < 128
    # 200 bytes for each tile, whose one label touches its neighbours and so stands in the tables of the merge.
    # One that held its labels would take 1,000.
    assert many["bytes"] < few["bytes"] + 90_000 * 200 + 10_000_000, found


UNCACHED = """
import logging, os, sys
import numpy as np
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
for folder in (os.path.expanduser("~"), "site/blockbuster", "site/blockbuster/kernels/__pycache__"):
    try:
        open(os.path.join(folder, "probe"), "w")
    except OSError:
        continue
    sys.exit(f"{folder} is writable")

import blockbuster
assert blockbuster.__file__ == os.path.abspath("site/blockbuster/__init__.py"), blockbuster.__file__
from naive import label
labels = blockbuster.tile_process(np.load("image.npy"), label, tile_shape=(10, 10), overlap=1)
np.save("labels.npy", labels)
"""


def unshared(folder, *read_only):
    """The command that runs another where some folders cannot be written to, not even by root."""
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare")
    mounts = [f"mount --bind {path} {path} && mount -o remount,ro,bind {path}" for path in read_only]
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        " && ".join([*mounts, 'exec "$0" "$@"']),
    ]
    if subprocess.run([*command, "true"], cwd=folder, capture_output=True).returncode:
        pytest.skip("this system allows no mounts of one's own")
    return command


def test_F29_without_a_writable_folder_for_the_cache_the_result_is_the_same_and_the_log_says_so(tmp_path):
    package = Path(blockbuster.__file__).parent
    shutil.copytree(package, tmp_path / "site" / "blockbuster", ignore=shutil.ignore_patterns("*.nb?"))
    (tmp_path / "site" / "blockbuster" / "kernels" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "home").mkdir()
    image = blobs((25, 33))
    np.save(tmp_path / "image.npy", image)
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    command = [*unshared(tmp_path, "site", "home"), sys.executable, "-c", UNCACHED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_objects(np.load(tmp_path / "labels.npy"), naive.label(image))
    said = [line for line in done.stdout.splitlines() if line.startswith("blockbuster: numba cannot cache")]
    assert said
    assert all("it is compiled at each start" in line for line in said)


CHUNKS = """
import dask.array as da

image = da.zeros((8 * given["n_side"],) * 2, chunks=8, dtype="uint8")
with dask.config.set(scheduler="synchronous"):
    options = {"tile_shape": (32, 32), "write_to": "out.zarr"}
    bound = plan_run(image, **options).memory_bytes
    tile_process(image, lambda tile: tile.astype("int32"), **options)
    print(json.dumps({"bound": bound, "peak": peak_bytes_now()}))
"""


@needs_proc
def test_F37_memory_does_not_grow_with_the_chunks_of_a_dask_image(tmp_path):
    few = run(CHUNKS, tmp_path, n_side=32)
    shutil.rmtree(tmp_path / "out.zarr")
    many = run(CHUNKS, tmp_path, n_side=100)
    # 9,000 chunks more: known all at once they took 80 MB.
    assert many["peak"] < few["peak"] + 50_000_000
    assert many["peak"] <= many["bound"] <= 2 * many["peak"]
