"""Memory and disk are looked at before fn runs (F7)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from interrupted import EXPECTED, IMAGE, Labeller
from outcomes import refused

from blockbuster import plan_run, tile_process
from blockbuster.run.resources import BASE_BYTES, warn_of_little_room

N_VOXELS = 200 * 300
OPTIONS = {"tile_shape": (50, 50)}


def failing(pixels):
    raise AssertionError("fn ran")


def plan(image=None, **options):
    return plan_run(np.zeros((200, 300), "uint16") if image is None else image, **OPTIONS, **options)


@pytest.fixture
def free(monkeypatch):
    """Say how many bytes every file system has left."""

    def set_free(n_bytes):
        monkeypatch.setattr("blockbuster.run.resources.free_bytes", lambda folder: n_bytes)

    return set_free


def test_enough_room_is_passed_over_in_silence(free, tmp_path):
    # Staged labels of two bytes, and the output of four.
    free(6 * N_VOXELS)
    warn_of_little_room(plan(write_to=tmp_path / "out.zarr"))
    free(2 * N_VOXELS)
    warn_of_little_room(plan())


@pytest.mark.parametrize(("options", "n_bytes"), [({"write_to": "out.zarr"}, 6 * N_VOXELS), ({}, 2 * N_VOXELS)])
def test_F7_a_warning_with_both_numbers_says_that_labels_may_not_fit(options, n_bytes, free, folder):
    free(n_bytes - 1)
    with pytest.warns(UserWarning, match="may not fit") as caught:
        warn_of_little_room(plan(**options))
    assert f"has {n_bytes - 1:,} bytes free" in str(caught[0].message)
    assert f"up to {n_bytes:,} before compression" in str(caught[0].message)
    assert len(caught) == 1


def test_F7_the_warning_points_at_the_call_and_the_run_goes_on(free, tmp_path):
    free(10)
    with pytest.warns(UserWarning, match="may not fit") as caught, dask.config.set(scheduler="synchronous"):
        labels = tile_process(
            IMAGE, Labeller(tmp_path / "labeller"), tile_shape=(10, 11), overlap=1, fn_version="1"
        )
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(labels, EXPECTED)


def test_F7_a_run_that_certainly_does_not_fit_is_refused_before_fn_runs(free, folder):
    image = np.zeros((200, 300), "uint16")
    free(2 * N_VOXELS - 1)
    with (
        dask.config.set(scheduler="processes"),
        refused(OSError, f"{2 * N_VOXELS - 1:,} bytes free", f"stores {2 * N_VOXELS:,} there", folder=folder),
    ):
        # Where fn ran, its error would come instead.
        tile_process(image, failing, write_to="out.zarr", **OPTIONS)


def test_needs_on_one_file_system_are_added_up_and_those_on_others_are_not(free, tmp_path):
    device = os.stat(tmp_path).st_dev
    other = [path for path in ("/dev/shm", "/tmp") if os.path.isdir(path) and os.stat(path).st_dev != device]
    if not other:
        pytest.skip("there is no second file system here")
    options = {"write_to": tmp_path / "out.zarr", "stage_dir": f"{other[0]}/blockbuster-test"}
    free(4 * N_VOXELS)
    warn_of_little_room(plan(**options))
    free(4 * N_VOXELS - 1)
    with pytest.warns(UserWarning, match=f"{tmp_path} has .* up to {4 * N_VOXELS:,} ") as caught:
        warn_of_little_room(plan(**options))
    assert len(caught) == 1
    assert not os.path.exists("/dev/shm/blockbuster-test")


SCRIPT = """
import os, sys, warnings
import dask, numpy as np
from scipy import ndimage
from blockbuster import tile_process

def fn(tile):
    return ndimage.label(tile)[0]

if __name__ == "__main__":
    dask.config.set(scheduler="synchronous")
    image = np.zeros((1000, 1500), "uint8")
    image[100:900, 700:720] = 1
    options = {"tile_shape": (500, 500), "write_to": "full/out.zarr"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = tile_process(image, fn, **options)
    print("warned", *caught)
    assert np.array_equal(labels, image)
    dask.config.set(scheduler="processes", num_workers=1)
    try:
        tile_process(image.astype("uint16"), fn, overwrite=True, **options)
    except OSError as error:
        print("refused", error)
    print(sorted(os.listdir("full")))
"""


def test_F7_room_is_that_of_the_file_system_of_the_stage_and_the_output(tmp_path):
    command = f"mount -t tmpfs -o size=2m tmpfs full && exec '{sys.executable}' script.py"
    (tmp_path / "full").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=2m tmpfs full"
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, mount], cwd=tmp_path, capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a file system in a namespace of their own")
    done = subprocess.run([*unshare, command], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    warned, denied, listed = done.stdout.splitlines()
    assert "up to 9,000,000 before compression" in warned
    assert "may not fit" in warned
    assert denied.startswith("refused ")
    assert "stores 3,000,000 there" in denied
    assert listed == "['out.zarr']"
    assert Path(tmp_path, "full").is_dir()


def memory(shape=(4001, 3001), dtype="uint32", n_workers=2, scheduler="threads", **options):
    image = zarr.create_array({}, shape=shape, chunks=(512, 512), dtype=dtype)
    # Tasks large enough to hold more as they are staged than as boxes of the output are written.
    options = {"tile_shape": (512, 512), "tiles_per_task": 24, "write_to": "out.zarr", "axes": "yx", **options}
    with dask.config.set(scheduler=scheduler, num_workers=n_workers):
        return plan_run(image, **options).memory_bytes


@pytest.mark.parametrize(
    "more",
    [
        {"n_workers": 3},
        {"dtype": "uint64"},
        {"overlap": 300},
        {"tile_shape": (1024, 1024)},
        {"tiles_per_task": 48},
        {"tile_shape": (8, 8), "tiles_per_task": 64**2 * 24},
        {"merge_axes": "y"},
        {"skip_empty": True},
        {"compute": True},
    ],
)
def test_bound_grows_with_everything_that_a_run_holds(more, folder):
    assert memory(**more) > memory()


def test_tiles_that_wait_for_their_neighbours_count_where_labels_must_agree(folder):
    options = {"overlap": 16, "dtype": "uint64", "tiles_per_task": 48}
    assert memory(**options, merge="agree") > memory(**options)


def test_result_and_image_in_memory_count_once():
    image = np.zeros((300, 401), "uint16")
    stored = zarr.create_array({}, shape=image.shape, chunks=(50, 50), dtype=image.dtype)
    held, read = (plan(pixels, tiles_per_task=1).memory_bytes for pixels in (image, stored))
    assert held - read == image.nbytes


def test_workers_are_counted_one_by_one_beside_the_process_that_drives_them(folder):
    bounds = [memory(n_workers=n, scheduler="processes") for n in (1, 2, 3)]
    worker = bounds[1] - bounds[0]
    assert bounds[2] - bounds[1] == worker > BASE_BYTES
    assert BASE_BYTES < bounds[0] - worker < BASE_BYTES + 10_000_000


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_one_task_needs_its_pixels_and_labels_and_a_worker_more_not_twice_as_much(dtype, folder):
    one, two = (memory(dtype=dtype, n_workers=n) - BASE_BYTES for n in (1, 2))
    assert one > (np.dtype(dtype).itemsize + 6) * 24 * 512 * 512
    assert one < two < 2 * one


def test_bound_is_a_plain_integer(folder):
    assert type(memory()) is int
