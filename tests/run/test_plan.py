"""The plan of a run: what it will do, with nothing done."""

import os
import threading

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from gpus import gpu_memory
from naive import label
from outcomes import Counted, blobs, refuses, snapshot, write_image

from blockbuster import BlockbusterWarning, plan_run, tile_process

IMAGE = blobs((40, 50))


def test_plan_says_what_the_run_will_do_and_does_nothing(tmp_path):
    image = write_image(tmp_path / "image.zarr", np.zeros((3, 400, 500), "uint16"), "cyx", chunks=(1, 100, 100))
    before = snapshot(tmp_path)
    plan = plan_run(image, channel=2, tile_shape=(100, 200), overlap=16, write_to=tmp_path / "out.zarr")
    assert snapshot(tmp_path) == before
    said = dict(line.split(maxsplit=1) for line in str(plan).splitlines())
    assert said["image"] == f"{image}/0, channel 2 (400, 500) uint16, 400 kB"
    assert said["tiles"] == "12 of 100 x 200, 4 x 3, halo 16 x 16"
    assert said["disk"] == f"at most 800 kB of staged labels in {tmp_path}"
    assert said["output"] == f"{tmp_path}/out.zarr/labels, 800 kB"
    assert set(said) == {"image", "tiles", "tasks", "memory", "disk", "output"}


@pytest.mark.parametrize("image", [np.zeros((0, 10)), np.zeros(7, "complex64"), np.zeros((1, 2, 3, 4, 5), bool)])
def test_every_plan_can_be_printed(image):
    assert f"{image.shape} {image.dtype}" in str(plan_run(image, tile_shape=(2,)))


def test_plan_is_what_the_run_does():
    fn = Counted()
    plan = plan_run(IMAGE, tile_shape=(15, 16), overlap=(2, 3))
    tile_process(IMAGE, fn, tile_shape=(15, 16), overlap=(2, 3))
    regions = [plan.grid.region(tile) for tile in plan.grid.indices()]
    assert sorted(fn.seen) == sorted(tuple(part.stop - part.start for part in region) for region in regions)


def test_tasks_hold_as_many_tiles_as_asked():
    for n_tiles in (1, 3, 4, 100):
        plan = plan_run(IMAGE, tile_shape=(5, 5), tiles_per_task=n_tiles)
        assert 1 <= np.prod(plan.bricks.tiles_per_brick) <= n_tiles


def test_memory_grows_with_workers_and_result_and_hardly_with_the_image(tmp_path):
    def memory(n=2**15, n_workers=2, **options):
        with dask.config.set(num_workers=n_workers):
            image = zarr.create_array({}, shape=(n, n), chunks=(1024, 1024), dtype="u1")
            options = {"tile_shape": (256, 256), "write_to": tmp_path / "x", **options}
            return plan_run(image, **options).memory_bytes

    # Nothing but the tasks that dask knows of.
    assert 0 <= memory(2**16) - memory() < 0.02 * memory()
    assert memory(n_workers=4) > memory(n_workers=2) > memory(n_workers=1)
    assert memory(write_to=None) == memory() + 4 * 2**30
    assert memory(compute=True) == memory(write_to=None)


def test_chunks_of_a_dask_image_that_are_computed_several_times_are_a_warning():
    image = da.zeros((64, 64), chunks=(64, 64))
    with pytest.warns(UserWarning, match=r"computed 16.0 times on average.*rechunk") as said:
        plan = plan_run(image, tile_shape=(16, 16), tiles_per_task=1)
    assert said[0].filename == __file__
    assert "each computed 16.00 times on average" in str(plan)
    with pytest.warns(UserWarning, match=r"computed 16.0 times"):
        tile_process(image, Counted(), tile_shape=(16, 16), tiles_per_task=1)
    assert "each computed 1.00 times on average" in str(plan_run(image, tile_shape=(64, 64)))


def test_two_tasks_of_one_tile_with_a_gpu():
    with pytest.warns(BlockbusterWarning, match="use_gpu=True") if gpu_memory() is None else dask.config.set():
        plan = plan_run(IMAGE, tile_shape=(10, 10), use_gpu=True)
    assert (plan.execution.kind, plan.execution.n_workers) == ("threads", 2)
    assert plan.bricks.tiles_per_brick == (1, 1)


def test_fn_that_cannot_be_pickled_is_refused_before_work_where_that_is_needed(tmp_path):
    lock = threading.Lock()

    def segment_with_lock(tile):
        with lock:
            return label(tile)

    options = {"image": IMAGE, "fn": segment_with_lock, "folder": tmp_path, "write_to": tmp_path / "out.zarr"}
    with dask.config.set(scheduler="processes"):
        refuses(TypeError, "segment_with_lock cannot be pickled", "processes workers", "lock", **options)
    tile_process(IMAGE, segment_with_lock, write_to=tmp_path / "out.zarr")


def test_fn_whose_pickling_fails_in_its_own_way_is_refused_alike(tmp_path):
    class Model:
        def __call__(self, tile):
            return tile

        def __getstate__(self):
            raise NotImplementedError("weights stay here")

    with dask.config.set(scheduler="processes"):
        refuses(TypeError, "cannot be pickled", "weights stay here", image=IMAGE, fn=Model(), folder=tmp_path)


def test_stages_of_runs_without_an_output_have_names_of_their_own():
    plans = [plan_run(IMAGE) for _ in range(3)]
    assert len({plan.stage_path for plan in plans}) == 3
    assert all(os.path.isdir(plan.stage_parent) for plan in plans)
