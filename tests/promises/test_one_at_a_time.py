"""A device that cannot be shared: tiles are evaluated in turn, and the next one is read meanwhile."""

import os
import threading

import dask
import dask.array as da
import numpy as np
import pytest
from fatal import components
from outcomes import assert_same_objects, blobs, write_image

from blockbuster import TileError, make_local_cluster, tile_process

SHAPE, TILE = (24, 40), (8, 8)
N_TILES = 15

pytestmark = pytest.mark.filterwarnings("ignore:use_gpu=True")


class Reads:
    """An image that counts how many of its chunks were read."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.count = 0
        self.changed = threading.Condition()

    def read(self, block_info=None):
        place = tuple(slice(*pair) for pair in block_info[None]["array-location"])
        with self.changed:
            self.count += 1
            self.changed.notify_all()
        return self.pixels[place]

    def image(self):
        chunks = tuple((size,) * (n // size) for n, size in zip(self.pixels.shape, TILE, strict=True))
        return da.map_blocks(self.read, chunks=chunks, dtype=self.pixels.dtype, meta=np.empty((0, 0), "uint8"))

    def wait_for(self, count):
        with self.changed:
            return self.changed.wait_for(lambda: self.count >= count, timeout=60)


def test_the_next_tile_is_read_while_one_is_evaluated():
    reads = Reads(blobs(SHAPE))
    alone = threading.Lock()
    n_evaluated = 0

    def fn(tile):
        nonlocal n_evaluated
        assert alone.acquire(blocking=False), "two tiles at once"
        try:
            n_evaluated += 1
            # The evaluation of a tile does not end before the next one was read.
            assert reads.wait_for(min(n_evaluated + 1, N_TILES)), "nothing is read meanwhile"
            return components(tile)
        finally:
            alone.release()

    with dask.config.set(num_workers=4, scheduler="threads"):
        labels = tile_process(reads.image(), fn, use_gpu=True)
    assert n_evaluated == N_TILES
    assert_same_objects(labels, components(reads.pixels))


def test_after_a_fault_no_other_tile_is_evaluated():
    evaluated = []

    def fn(tile):
        evaluated.append(tile)
        raise RuntimeError("the device is gone")

    with pytest.raises(TileError, match="the device is gone"):
        tile_process(blobs(SHAPE), fn, tile_shape=TILE, use_gpu=True)
    # The other task may have taken its turn before the fault was known.
    assert 1 <= len(evaluated) <= 2


class Alone:
    """Label a tile, and fail where another one of the same process is being labelled."""

    busy = threading.Lock()

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, tile):
        assert Alone.busy.acquire(blocking=False), "two tiles at once"
        try:
            with open(os.path.join(self.folder, f"{os.getpid()}-{threading.get_ident()}"), "a") as file:
                file.write("tile\n")
            # A long while, for a thread that does not wait.
            threading.Event().wait(0.02)
            return components(tile)
        finally:
            Alone.busy.release()


@pytest.mark.slow
@pytest.mark.parametrize("use_gpu", [True, False])
def test_workers_with_a_gpu_evaluate_one_tile_at_a_time_whoever_asks(use_gpu, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    image = write_image(folder / "image.zarr", blobs((64, 64)))
    client, cluster = make_local_cluster(use_gpu=True, memory_limit="1 GB")
    with cluster, client:
        labels = tile_process(image, Alone(tmp_path), tile_shape=(8, 8), use_gpu=use_gpu, compute=True)
        n_threads = sum(worker["nthreads"] for worker in client.scheduler_info()["workers"].values())
    assert n_threads == 4
    calls = [file.read_text().count("tile") for file in tmp_path.iterdir() if file.is_file()]
    assert sum(calls) == 64
    assert_same_objects(labels, components(blobs((64, 64))))
