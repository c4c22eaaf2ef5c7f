"""fn runs once per tile and sees the tile plus its halo, clamped to the image, on every kind of input."""

import functools
import hashlib
import math
import os
import threading
import time
from collections import Counter

import dask
import dask.array as da
import naive
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases, given_as

from blockbuster import plan_run, tile_process
from blockbuster.grid import BrickGrid, TileGrid

SHAPE, TILE, HALO = (61, 47), (16, 12), (3, 2)
pytestmark = pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")


def numbered(shape):
    """An image whose pixels say where they are."""
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def fingerprint(pixels):
    """A name for a region of a numbered image, with its content."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]
    return f"{int(pixels.flat[0])} {pixels.shape} {pixels.dtype} {digest}"


def expected_calls(image, lengths, halo):
    return Counter(fingerprint(image[region]) for _, _, region in naive.tiles(lengths, halo))


def note_call(pixels, folder):
    """Leave a file that can be made only once."""
    os.close(os.open(f"{folder}/{fingerprint(pixels)}", os.O_CREAT | os.O_EXCL))
    return np.zeros(pixels.shape, np.int32)


class Recorder:
    """A function that keeps what it is called with."""

    def __init__(self):
        self.calls = []
        self.lock = threading.Lock()

    def __call__(self, pixels):
        with self.lock:
            self.calls.append(fingerprint(pixels))
        return np.zeros(pixels.shape, np.int32)


def write_ome(folder, image, version):
    """An image as the middle one of three channels of an OME-Zarr store."""
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    metadata = {"multiscales": [{"version": version, "axes": axes, "datasets": [{"path": "0"}]}]}
    group.attrs.update(metadata if version == "0.4" else {"ome": {"version": version, **metadata}})
    data = np.stack([image * 0, image, image * 0 - 1])
    array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(1, 20, 20))
    array[...] = data
    return folder


def create(folder, image, **layout):
    zarr.create_array(folder, data=image, **layout)
    return folder


KINDS = {
    "numpy": lambda image, _: image,
    "numpy, Fortran order, big-endian": lambda image, _: np.asfortranarray(image).astype(">i4"),
    "dask": lambda image, _: da.from_array(image, chunks=(20, 20)),
    "dask, irregular chunks": lambda image, _: da.from_array(image, chunks=((1, 50, 10), (47,))),
    "zarr v3 path": lambda image, path: create(path, image, chunks=(20, 20)),
    "zarr v2 path": lambda image, path: create(path, image, chunks=(20, 20), zarr_format=2),
    "zarr v2 path, Fortran order": lambda image, path: create(
        path, image, chunks=(20, 20), zarr_format=2, order="F"
    ),
    "sharded path": lambda image, path: create(path, image, chunks=(10, 10), shards=(20, 30)),
    "zarr.Array": lambda image, path: zarr.open_array(create(path, image, chunks=(20, 20)), mode="r"),
    "zarr.Array in memory": lambda image, _: zarr.array(image, chunks=(20, 20)),
    "OME-Zarr 0.4, channel": functools.partial(write_ome, version="0.4"),
    "OME-Zarr 0.5, channel": functools.partial(write_ome, version="0.5"),
}


def opened(kind, image, path):
    make = KINDS[kind]
    return make(path, image) if kind.startswith("OME") else make(image, path)


@pytest.mark.parametrize("tiles_per_task", [None, 1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_B15_fn_runs_once_per_tile_and_sees_its_halo_on_every_kind_of_image(kind, tiles_per_task, tmp_path):
    image = numbered(SHAPE)
    calls = tmp_path / "calls"
    calls.mkdir()
    tile_process(
        opened(kind, image, str(tmp_path / "image.zarr")),
        functools.partial(note_call, folder=calls),
        tile_shape=TILE,
        overlap=HALO,
        channel=1 if kind.startswith("OME") else 0,
        tiles_per_task=tiles_per_task,
    )
    assert Counter(os.listdir(calls)) == expected_calls(image, naive.cut(SHAPE, TILE), HALO)


@pytest.mark.parametrize("kind", ["numpy", "dask", "sharded path", "zarr.Array in memory"])
def test_fn_runs_once_per_tile_in_other_processes_too(kind, tmp_path, workers):
    image = numbered(SHAPE)
    calls = tmp_path / "calls"
    calls.mkdir()
    with workers("processes"):
        tile_process(
            opened(kind, image, str(tmp_path / "image.zarr")),
            functools.partial(note_call, folder=calls),
            tile_shape=TILE,
            overlap=HALO,
        )
    assert Counter(os.listdir(calls)) == expected_calls(image, naive.cut(SHAPE, TILE), HALO)


@settings(max_examples=examples(40))
@given(cases())
def test_B13_fn_sees_exactly_the_grid_that_was_asked_for(case):
    image, record = numbered(case.shape), Recorder()
    case.run(record, image)
    assert Counter(record.calls) == expected_calls(image, case.lengths, case.halo)


@pytest.mark.parametrize("chunks", [((3, 11, 1), (20, 1, 7)), (4, 9)])
@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_B12_chunks_of_the_image_are_the_tiles_by_default(kind, chunks):
    if kind == "zarr" and not isinstance(chunks[0], int):
        chunks = (11, 20)
    image, record = numbered((15, 28)), Recorder()
    lengths = chunks if not isinstance(chunks[0], int) else naive.cut(image.shape, chunks)
    with given_as(image, kind, chunks) as given_image:
        tile_process(given_image, record, overlap=(2, 5))
    assert Counter(record.calls) == expected_calls(image, lengths, (2, 5))


def test_chunks_and_not_shards_are_the_tiles_by_default(tmp_path):
    image, record = numbered(SHAPE), Recorder()
    tile_process(create(str(tmp_path / "image.zarr"), image, chunks=(10, 10), shards=(30, 20)), record)
    assert Counter(record.calls) == expected_calls(image, naive.cut(SHAPE, (10, 10)), (0, 0))


def test_numpy_image_is_one_tile_by_default():
    image, record = numbered(SHAPE), Recorder()
    tile_process(image, record)
    assert Counter(record.calls) == expected_calls(image, naive.cut(SHAPE, SHAPE), (0, 0))


@pytest.mark.parametrize("seconds", [0.22, 0.0])
def test_tiles_that_were_run_to_time_fn_are_not_run_again(seconds):
    """A slow first call is measured twice, and its tasks become smaller."""
    image, record = numbered((40, 40)), Recorder()

    def slow_at_first(pixels):
        time.sleep(seconds if len(record.calls) < 2 else 0)
        return record(pixels)

    with dask.config.set(scheduler="threads", num_workers=1):
        tile_process(image, slow_at_first, tile_shape=(10, 10), overlap=2)
    assert Counter(record.calls) == expected_calls(image, naive.cut((40, 40), (10, 10)), (2, 2))


@settings(max_examples=examples(25))
@given(cases(), st.integers(0, 200))
@pytest.mark.filterwarnings("ignore:All .* tiles were skipped")
def test_empty_tiles_alone_are_not_shown_to_fn(case, threshold):
    image, record = np.random.default_rng(case.seed).integers(0, 256, case.shape) * case.mask, Recorder()
    report = case.run(record, image, skip_empty=True, empty_threshold=threshold, return_report=True)[1]
    regions = [region for _, _, region in naive.tiles(case.lengths, case.halo)]
    shown = Counter(fingerprint(image[region]) for region in regions if image[region].max() > threshold)
    assert Counter(record.calls) == shown
    assert (report.n_run, report.n_skipped) == (shown.total(), len(regions) - shown.total())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_B16_nan_never_makes_a_tile_empty(value):
    image = np.zeros((8, 8))
    image[0, 0] = value
    calls = []

    def fn(tile):
        calls.append(tile.copy())
        return np.zeros(tile.shape, int)

    tile_process(image, fn, tile_shape=(4, 4), skip_empty=True, empty_threshold=0)
    assert len(calls) == 1
    assert np.array_equal(calls[0], image[:4, :4], equal_nan=True)


class ChunkCounter:
    """A dask array that counts how often each of its chunks is computed."""

    def __init__(self, image, chunks):
        self.made = Counter()
        self.lock = threading.Lock()
        self.image = image
        self.array = da.map_blocks(
            self.make, chunks=da.core.normalize_chunks(chunks, image.shape), dtype=image.dtype
        )

    def make(self, block_info=None):
        location = block_info[None]["array-location"]
        with self.lock:
            self.made[tuple(start for start, _ in location)] += 1
        return self.image[tuple(slice(start, stop) for start, stop in location)]

    def computed_too_often(self, bricks):
        """Chunks that were computed more often than bricks touch them, with both numbers."""
        regions = [bricks.region(bricks.index(n)) for n in range(bricks.n_bricks)]
        found = {}
        for _, chunk, _ in naive.tiles(self.array.chunks, (0,) * self.array.ndim):
            origin = tuple(part.start for part in chunk)
            assert self.made[origin] > 0
            touching = sum(overlapping(region, chunk) for region in regions)
            if self.made[origin] > touching:
                found[origin] = self.made[origin], touching
        return found


def overlapping(region, box):
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(region, box, strict=True))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("skip_empty", [False, True])
@pytest.mark.parametrize("tiles_per_task", [1, 4, None])
def test_chunks_of_a_dask_image_are_computed_at_most_once_per_task_that_touches_them(
    tiles_per_task, skip_empty, scheduler
):
    image = numbered((40, 36))
    chunked = ChunkCounter(image, chunks=(11, 9))
    options = {
        "tile_shape": (8, 8),
        "overlap": 2,
        "tiles_per_task": tiles_per_task,
        "skip_empty": skip_empty,
        "empty_threshold": 1300,
    }
    with dask.config.set(scheduler=scheduler):
        bricks = plan_run(chunked.array, **options).bricks
        tile_process(chunked.array, lambda tile: np.zeros(tile.shape, int), **options)
    assert chunked.computed_too_often(bricks) == {}


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_chunks_are_not_computed_again_where_tasks_became_smaller_for_a_slow_function(scheduler, monkeypatch):
    monkeypatch.setattr("blockbuster.stage.staging.MAX_FN_SECONDS_PER_TASK", 0.0)
    image, record = numbered((32, 32)), Recorder()
    chunked = ChunkCounter(image, chunks=(11, 9))
    with dask.config.set(scheduler=scheduler):
        tile_process(chunked.array, record, tile_shape=(8, 8), overlap=2)
    assert Counter(record.calls) == expected_calls(image, naive.cut((32, 32), (8, 8)), (2, 2))
    one_tile_each = BrickGrid(TileGrid.regular((32, 32), (8, 8), (2, 2)), (1, 1))
    assert chunked.computed_too_often(one_tile_each) == {}


def test_B8_fn_may_change_the_tile_it_is_given():
    image = np.full((20, 20), 7, np.uint8)

    def greedy(tile):
        labels = naive.label(tile)
        tile[...] = 0
        return labels

    labels = tile_process(image, greedy, tile_shape=(5, 5), overlap=3)
    assert np.all(labels == 1)
    assert np.all(image == 7)


def test_B9_function_that_is_not_deterministic_gives_a_consistent_result():
    """Each tile has one set of labels, those of its only run."""
    random = np.random.default_rng(0)
    given_out = []

    def fn(tile):
        labels = random.integers(1, 2**40, tile.shape)
        given_out.append(labels)
        return labels

    with dask.config.set(scheduler="synchronous"):
        labels = tile_process(np.zeros((6, 6)), fn, tile_shape=(3, 6), merge_axes="x", axes="yx")
    assert naive.partition_fault(labels, np.concatenate(given_out)) == ""
