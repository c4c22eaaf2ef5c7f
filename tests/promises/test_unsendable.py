"""An image that other processes cannot open is refused before any work, and read on threads."""

import contextlib
import threading

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from naive import label
from outcomes import assert_same_objects, blobs, refused

from blockbuster import plan_run, tile_process
from blockbuster.source.base import SMALL_BYTES, open_as_others

MASK = blobs((64, 60))
PROCESSES = {"scheduler": "processes", "num_workers": 2}


class Opened:
    """An array that other processes open anew, and cannot."""

    shape, dtype, ndim = MASK.shape, MASK.dtype, MASK.ndim

    def __getitem__(self, key):
        return MASK[key]

    def __reduce__(self):
        return open_elsewhere, ()


def open_elsewhere():
    raise OSError("the camera is in use")


class Locked:
    """A function of a chunk that holds what cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, block):
        return block


def hdf5(folder, stack):
    h5py = pytest.importorskip("h5py")
    file = stack.enter_context(h5py.File(folder / "image.h5", "w"))
    file["image"] = MASK
    return da.from_array(file["image"], chunks=(16, 20))


def tiff(folder, stack):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(folder / "image.tif", MASK, tile=(16, 16))
    store = tifffile.imread(folder / "image.tif", aszarr=True)
    stack.callback(store.close)
    return store


IMAGES = {
    "hdf5": hdf5,
    "tiff store": lambda folder, stack: zarr.open(tiff(folder, stack), mode="r"),
    "tiff store in dask": lambda folder, stack: da.from_zarr(tiff(folder, stack)),
    "open elsewhere": lambda *_: da.from_array(Opened(), chunks=(16, 20), asarray=False),
    "lock": lambda *_: da.from_array(MASK, chunks=(16, 20)).map_blocks(Locked(), dtype=MASK.dtype),
}
REASONS = {"hdf5": "TypeError: h5py objects cannot be pickled", "open elsewhere": "OSError: the camera is in use"}


@pytest.mark.parametrize("name", IMAGES)
def test_B25_an_image_that_other_processes_cannot_open_is_refused_before_any_work(name, tmp_path):
    (tmp_path / "here").mkdir()
    options = {"tile_shape": (32, 32), "write_to": tmp_path / "here" / "out.zarr"}
    said = ("image .* cannot be opened by other processes, as processes workers are: .*Run on threads",)
    said += (REASONS.get(name, "TypeError: cannot pickle '_thread"),)
    with contextlib.ExitStack() as stack:
        image = IMAGES[name](tmp_path, stack)
        with dask.config.set(**PROCESSES):
            with refused(TypeError, *said, folder=tmp_path):
                tile_process(image, label, **options)
            with refused(TypeError, *said, folder=tmp_path):
                plan_run(image, **options)
        with dask.config.set(scheduler="threads"):
            assert_same_objects(tile_process(image, label, **options), label(MASK))


@pytest.mark.parametrize("scheduler", [PROCESSES, {"scheduler": "threads"}], ids=str)
def test_an_error_of_dasks_own_optimization_is_no_fault_of_the_image_nor_of_a_tile(tmp_path, scheduler):
    def optimize(graph, keys, **_):
        raise KeyError("a setting of somebody's")

    image = da.from_array(MASK, chunks=(16, 20))
    with dask.config.set(array_optimize=optimize, **scheduler), pytest.raises(KeyError, match="a setting of"):
        tile_process(image, label, tile_shape=(32, 32), write_to=tmp_path / "out.zarr", on_error="skip")
    assert not list(tmp_path.iterdir())


def test_B25_a_large_array_in_a_graph_is_not_copied_to_see_that_it_can_be_sent():
    class Large(np.ndarray):
        def __reduce_ex__(self, protocol):
            raise AssertionError("copied")

    # Read only, so that it has no memory of its own; pickled it has 10 GB.
    large = np.broadcast_to(np.zeros((), "uint8"), (100_000, 100_000))
    open_as_others({"image": large, "small": np.zeros(10)})
    with pytest.raises(AssertionError, match="copied"):
        open_as_others(np.zeros(2).view(Large))


class Model:
    """A fitted model, which checks its weights as it is opened."""

    def __init__(self, weights):
        self.weights = weights

    def __getstate__(self):
        return self.weights

    def __setstate__(self, weights):
        assert weights.flags.c_contiguous
        assert weights["value"].any()
        self.weights = weights

    def __call__(self, block):
        return block * np.uint8(self.weights["value"][-1])


def test_B25_a_graph_with_a_large_fitted_model_can_be_sent():
    model = Model(np.ones(SMALL_BYTES // 8, [("node", "i8"), ("value", "f8")]))
    image = da.from_array(MASK, chunks=(32, 32)).map_blocks(model, dtype=MASK.dtype)
    with dask.config.set(**PROCESSES):
        assert_same_objects(tile_process(image, label, tile_shape=(32, 32)), label(MASK))


def test_B25_images_that_can_be_opened_are_read_in_other_processes(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=MASK, chunks=(16, 20))
    inside = zarr.create_array({}, data=MASK, chunks=(16, 20))
    images = [
        tmp_path / "a.zarr",
        da.from_zarr(tmp_path / "a.zarr"),
        da.from_array(MASK, chunks=16),
        inside,
        MASK,
    ]
    with dask.config.set(**PROCESSES):
        for image in images:
            assert plan_run(image, fn=label, tile_shape=(32, 32)).n_tiles == 4
        assert_same_objects(tile_process(images[1], label, tile_shape=(32, 32)), label(MASK))


def test_B10_an_image_without_voxels_needs_nothing_sent():
    image = da.zeros((0, 10), chunks=5, dtype="uint8")
    with dask.config.set(scheduler="processes"):
        assert tile_process(image, label, tile_shape=(4, 4)).shape == (0, 10)
