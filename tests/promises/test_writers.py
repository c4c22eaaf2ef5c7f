"""Every stored piece has one writer, and a task that runs twice changes nothing (F19, F25)."""

import collections
import contextlib
import os
import random
import re
import sys
import tempfile
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import dask
import naive
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import assert_same_objects, blobs
from strategies import shapes, tile_shapes

from blockbuster import tile_process
from blockbuster.output.targets import ZarrTarget

REPORT = "blockbuster-report.json"
CHUNK = re.compile(r"/c(/\d+)+$")
PIECE = re.compile(r"/c(/\d+)+$|/part-[^/]*/\d+\.tiles$")


class WrittenFiles:
    """Counts how often each chunk, shard or file of a task is opened for writing, or put in place."""

    def __init__(self):
        self.folder = None
        self.times = collections.Counter()
        sys.addaudithook(self.see)

    def see(self, event, arguments):
        if self.folder is None:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.count(arguments[0])
        elif event == "os.rename":
            self.count(arguments[1])

    def count(self, path):
        name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if isinstance(name, str) and name.startswith(self.folder) and PIECE.search(name):
            self.times[name] += 1

    @contextlib.contextmanager
    def below(self, folder):
        """Count what is written in a folder during a block."""
        self.times.clear()
        self.folder = str(folder)
        try:
            yield self.times
        finally:
            self.folder = None


@pytest.fixture(scope="module")
def written():
    # A hook that Python cannot remove again, so there is one for all.
    return WrittenFiles()


@contextlib.contextmanager
def small_pieces(chunk_voxels, shard_voxels):
    """Give small images many chunks and shards, as large ones have."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("blockbuster.output.layout.CHUNK_VOXELS", chunk_voxels)
        monkeypatch.setattr("blockbuster.output.layout.SHARD_VOXELS", shard_voxels)
        monkeypatch.setattr("blockbuster.stage.brick_labels.GROUP_VOXELS", chunk_voxels)
        yield


@st.composite
def layouts(draw):
    """An image, its tiles, and the chunks and shards of its input: none a multiple of another."""
    shape = draw(shapes((1, 2, 3)))
    chunk = draw(tile_shapes(shape))
    shard = tuple(n * draw(st.integers(1, 3)) for n in chunk)
    return shape, draw(tile_shapes(shape)), chunk, draw(st.sampled_from([None, shard]))


@settings(max_examples=examples(25))
@given(
    layouts(),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([(4, 16), (8, 96), (64, 512)]),
    st.integers(0, 2**32 - 1),
)
def test_F19_every_chunk_and_shard_has_one_writer_whatever_the_tiles_are(
    written, layout, tiles_per_task, pieces, seed
):
    shape, tile_shape, chunk, shard = layout
    mask = (np.random.default_rng(seed).random(shape) < 0.6).astype("uint8")
    with (
        small_pieces(*pieces),
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(scheduler="threads", num_workers=8),
    ):
        image = zarr.create_array(f"{folder}/image.zarr", shape=shape, dtype="uint8", chunks=chunk, shards=shard)
        image[...] = mask
        options = {"tile_shape": tile_shape, "overlap": 1, "tiles_per_task": tiles_per_task}
        with written.below(f"{folder}/labels.zarr") as times:
            labels = tile_process(image, naive.label, write_to=f"{folder}/labels.zarr", **options).compute()
    assert_same_objects(labels, naive.label(mask))
    assert set(times.values()) <= {1}, times.most_common(3)
    assert (len(times) > 0) == bool(mask.any())


class Twice(Executor):
    """Runs everything twice at once and in shuffled order, as a cluster may that takes a worker for dead.

    With `waits`, a result is handed on once both copies have ended, else with the first.
    """

    def __init__(self, pool, waits, seed=0):
        self.pool = pool
        self.waits = waits
        self._max_workers = pool._max_workers
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._held = []
        self.copies = []

    def submit(self, function, *arguments):
        """Hold tasks back until there are several, and start the copies of all of them in any order."""
        result = Future()
        with self._lock:
            self._held += [(result, function, arguments)] * 2
            if len(self._held) == 2:
                threading.Timer(0.02, self._start).start()
        return result

    def _start(self):
        with self._lock:
            held, self._held = self._held, []
        self._random.shuffle(held)
        ended = collections.Counter()
        for result, function, arguments in held:
            copy = self.pool.submit(function, *arguments)
            self.copies.append(copy)
            copy.add_done_callback(lambda copy, result=result: self._pass_on(result, copy, ended))

    def _pass_on(self, result, copy, ended):
        with self._lock:
            ended[result] += 1
            if ended[result] != (2 if self.waits else 1):
                return
        if copy.exception():
            result.set_exception(copy.exception())
        else:
            result.set_result(copy.result())


def stored(folder):
    """Every byte below a folder; the report, which has times in it, excepted."""
    return {path: data for path, data in naive.files_in(folder).items() if not path.endswith(REPORT)}


IMAGE = blobs((45, 52))
OPTIONS = {"tile_shape": (10, 7), "overlap": 1, "tiles_per_task": 2}


@pytest.fixture
def once(tmp_path):
    """What a plain run stores."""
    with small_pieces(64, 512), dask.config.set(scheduler="synchronous"):
        tile_process(IMAGE, naive.label, write_to=tmp_path / "once" / "out.zarr", **OPTIONS)
    files = stored(tmp_path / "once")
    assert len(files) > 5
    return files


@pytest.mark.parametrize("make_pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_F25_a_task_that_runs_twice_at_once_stores_the_same_bytes(tmp_path, once, make_pool):
    with make_pool(4) as pool, small_pieces(64, 512):
        twice = Twice(pool, waits=True)
        with dask.config.set(scheduler=twice):
            labels = tile_process(IMAGE, naive.label, write_to=tmp_path / "twice" / "out.zarr", **OPTIONS)
        assert_same_objects(labels, naive.label(IMAGE))
    assert len(twice.copies) > 2 * 15
    assert [copy.exception() for copy in twice.copies if copy.exception()] == []
    assert stored(tmp_path / "twice") == once


class Gate:
    """Lets the first copy of anything pass, and the second one when the run is over."""

    current: "Gate"

    def __init__(self):
        Gate.current = self
        self.seen = set()
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.n_late = 0

    def enter(self, name):
        with self.lock:
            is_second = name in self.seen
            self.seen.add(name)
            self.n_late += is_second
        if is_second:
            self.over.wait(60)


def label_when_let(tile):
    Gate.current.enter(tile.tobytes())
    return naive.label(tile)


@pytest.mark.parametrize(
    "where", ["in fn", "before a box is written", "before a shard is encoded", "before a shard is in place"]
)
def test_F25_a_copy_that_ends_after_the_run_leaves_nothing_behind(tmp_path, once, monkeypatch, where):
    gate = Gate()

    def hold(owner, name, moment, name_of):
        function = getattr(owner, name)

        def when_let(*arguments):
            if where == moment and (gated := name_of(*arguments)):
                gate.enter(gated)
            return function(*arguments)

        monkeypatch.setattr(owner, name, when_let)

    hold(ZarrTarget, "write", "before a box is written", lambda target, box, labels: str(box))
    hold(ZarrTarget, "_encode_shard", "before a shard is encoded", lambda target, box, labels: str(box))
    hold(os, "replace", "before a shard is in place", lambda old, new: CHUNK.search(str(new)) and str(new))
    with ThreadPoolExecutor(64) as pool, small_pieces(64, 512):
        with dask.config.set(scheduler=Twice(pool, waits=False)):
            fn = label_when_let if where == "in fn" else naive.label
            tile_process(IMAGE, fn, write_to=tmp_path / "twice" / "out.zarr", **OPTIONS)
        gate.over.set()
    assert gate.n_late
    assert stored(tmp_path / "twice") == once
    assert os.listdir(tmp_path / "twice") == ["out.zarr"]
