"""What is raised when fn, or reading the image, fails, and what is left then (F1, F12)."""

import contextlib
import copy
import functools
import itertools
import linecache
import os
import pickle
import re
import threading
import time
import traceback
import uuid
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from brick_files import staged_labels
from naive import label
from outcomes import assert_same_objects, blobs, refused, snapshot, write_image
from scipy import ndimage

from blockbuster import TileError, tile_process
from blockbuster.errors import format_slices
from blockbuster.grid import relative_box
from blockbuster.rundir.folder import is_stage
from blockbuster.rundir.staged import StagedLabels

IMAGE = blobs((25, 33))
IMAGE[22, 31] = 77
TILES = {"tile_shape": (10, 10), "overlap": 1}
TILE, SLICES = (2, 3), (slice(20, 25), slice(30, 33))
NAME = r"^tile \(2, 3\) \[20:25, 30:33\]: fn raised "


pytestmark = pytest.mark.usefixtures("folder")


def failing_with(make_error):
    """Connected components, but for the one tile that holds a 77."""

    def fn(tile):
        if (tile == 77).any():
            raise make_error()
        return ndimage.label(tile)[0]

    return fn


def model_failure():
    """Fail with an exception that no other process knows, and that cannot be pickled."""

    class ModelError(Exception):
        def __init__(self, code, lock):
            super().__init__(f"out of memory, code {code}")
            self.lock = lock

    try:
        raise KeyError("weights")
    except KeyError as cause:
        error = ModelError(7, threading.Lock())
        error.__cause__ = cause
        return error


@pytest.fixture(scope="module")
def cluster(forked_workers):
    """Workers as a cluster has them: two processes with two threads each."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(params=["synchronous", "threads", "processes", "distributed"])
def scheduler(request, workers):
    """Run everything inside on this scheduler."""
    with contextlib.ExitStack() as stack:
        if request.param == "distributed":
            from distributed import Client

            stack.enter_context(Client(request.getfixturevalue("cluster")))
        else:
            stack.enter_context(workers(request.param))
        yield request.param


def named_stage(error):
    """The stage that a note of the error says is kept."""
    (note,) = error.__notes__
    found = re.search(r"kept .*?(/\S+\.blockbuster-stage)\b", note)
    assert found, note
    return Path(found[1])


@pytest.mark.usefixtures("scheduler")
def test_F1_a_tile_that_fails_is_named_with_its_cause_and_nothing_becomes_visible(folder):
    image = write_image(folder / "image.zarr", IMAGE)
    (folder / "out.zarr.notes").write_text("somebody else's")
    before = snapshot(folder.parent)
    with pytest.raises(TileError, match=NAME) as caught:
        tile_process(image, failing_with(model_failure), write_to="out.zarr", tiles_per_task=2, **TILES)
    error = caught.value
    assert (error.tile, error.slices) == (TILE, SLICES)
    assert (error.cause_type, error.cause_text) == ("ModelError", "out of memory, code 7")
    assert "raise make_error()" in error.cause_traceback
    assert "KeyError: 'weights'" in error.cause_traceback
    assert "fn raised ModelError: out of memory, code 7" in str(error)
    stage = named_stage(error)
    assert stage == folder / "out.zarr.labels.blockbuster-stage"
    assert is_stage(stage)
    assert snapshot(folder.parent, but_for=stage) == before


CELL = """
threshold = lambda tile: tile < max([])

class Model:
    def predict(self, tile):
        return threshold(tile)

def segment(model):
    def fn(tile):
        return helper(model, tile)
    return fn

def helper(model, tile):
    return model.predict(
        tile
    )
"""
SHOWN = [
    "return helper(model, tile)",
    "return model.predict(",
    "return threshold(tile)",
    "threshold = lambda tile: tile < max([])",
]


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("written_in", ["cell", "file"])
def test_F1_every_line_that_failed_is_shown_from_any_process_wherever_it_was_written(folder, written_in):
    path = f"<cell-{uuid.uuid4().hex}>" if written_in == "cell" else str(folder / "script.py")
    if written_in == "cell":
        # As notebooks make the text of a cell known, to their own process.
        linecache.cache[path] = (len(CELL), None, CELL.splitlines(keepends=True), path)
    else:
        Path(path).write_text(CELL)
    names = {"__name__": "__main__"}
    exec(compile(CELL, path, "exec"), names)
    with pytest.raises(TileError, match="fn raised ValueError: max") as caught:
        tile_process(IMAGE, names["segment"](names["Model"]()), **TILES)
    lines = [line.strip() for line in caught.value.cause_traceback.splitlines()]
    assert [line for line in lines if line in SHOWN] == SHOWN
    assert [line for line in lines if path in line] == [
        f'File "{path}", line {number}, in {name}'
        for number, name in [(10, "fn"), (14, "helper"), (6, "predict"), (2, "<lambda>")]
    ]


def failing_late(tile, stage):
    """Components; the tile that fails does so when most others are done."""
    if (tile == 77).any():
        end = time.monotonic() + 60
        while len(list(stage.glob("part-*/*.tiles"))) < 7 and time.monotonic() < end:
            time.sleep(0.02)
        raise ValueError("at last")
    return ndimage.label(tile)[0]


@pytest.mark.usefixtures("scheduler")
def test_F1_finished_tiles_are_kept_in_the_stage_that_the_error_names(folder):
    fn = functools.partial(failing_late, stage=folder / "out.zarr.labels.blockbuster-stage")
    with pytest.raises(TileError, match=NAME) as caught:
        tile_process(IMAGE, fn, write_to="out.zarr", tiles_per_task=1, **TILES)
    staged = StagedLabels.open(named_stage(caught.value))
    # Tasks of other workers may still be writing theirs.
    finished = [int(path.stem) for path in Path(staged.path, staged.part).glob("[0-9]*")]
    for index in map(staged.bricks.index, finished):
        core, region = staged.bricks.core(index), staged.bricks.region(index)
        expected = label(IMAGE[region])[relative_box(core, region)]
        assert_same_objects(staged_labels(staged, index), expected)
    assert len(finished) > 6


def wait_for(path, seconds):
    """Wait for another process to come so far, and a while more."""
    end = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(seconds)


def first_label(tile, folder):
    """Fail on one tile; the other is late, and its labels are not those of the second run."""
    if not (tile == 77).any():
        wait_for(folder / "first started", 0)
        raise ValueError("the first run fails")
    (folder / "first started").touch()
    wait_for(folder / "second labelled", 0.3)
    (folder / "first labelled").touch()
    return np.full(tile.shape, 5)


def second_label(tile, folder):
    """Components; the tile that the first run is late with is done before, the other after it."""
    if (tile == 77).any():
        (folder / "second labelled").touch()
    else:
        wait_for(folder / "first labelled", 0.5)
    return ndimage.label(tile)[0]


def test_F25_a_task_that_a_failed_run_left_running_does_not_reach_the_next_run(folder, cluster):
    from distributed import Client

    image = IMAGE[13:23, 12:32]
    options = {"tile_shape": (10, 10), "tiles_per_task": 1, "write_to": "out.zarr"}
    with Client(cluster):
        with refused(TileError, "the first run fails"):
            tile_process(image, functools.partial(first_label, folder=folder.parent), **options)
        second = functools.partial(second_label, folder=folder.parent)
        labels = tile_process(image, second, overwrite=True, **options)
    assert (folder.parent / "first labelled").exists()
    assert_same_objects(labels, label(image))
    assert os.listdir(folder) == ["out.zarr"]


def damage(path, how):
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "garbage": bytes(len(data))}[how])


def corrupt_image(folder, how, **layout):
    """An image of which the chunk at (2, 3) cannot be read."""
    image = write_image(folder / "image.zarr", IMAGE, chunks=(10, 10), **layout)
    damage(folder / "image.zarr" / "c" / "2" / "3", how)
    return image


@pytest.mark.usefixtures("scheduler")
def test_F12_a_corrupt_chunk_of_the_input_names_the_tile_and_nothing_becomes_visible(folder):
    image = corrupt_image(folder, "cut")
    before = snapshot(folder.parent)
    with pytest.raises(TileError, match=r"^tile \(2, 3\) \[20:25, 30:33\]: reading the image raised ") as caught:
        tile_process(image, label, tile_shape=(10, 10), write_to="out.zarr")
    assert (caught.value.tile, caught.value.slices) == (TILE, SLICES)
    assert caught.value.cause_type
    stage = named_stage(caught.value)
    assert snapshot(folder.parent, but_for=stage) == before


@pytest.mark.parametrize("tiles_per_task", [1, 2, 12])
@pytest.mark.parametrize("how", ["cut", "empty", "garbage"])
def test_F12_damage_of_any_kind_is_told_of_a_tile_that_reads_it(folder, how, tiles_per_task):
    """Four tiles touch the damaged chunk with their halo."""
    image = corrupt_image(folder, how)
    with (
        dask.config.set(scheduler="synchronous"),
        refused(TileError, r"^tile \([12], [23]\) \[[12]0:2[05], [23]0:3[03]\]: reading the image raised "),
    ):
        tile_process(image, label, tiles_per_task=tiles_per_task, **TILES)


def test_F12_a_shard_that_was_cut_off_names_the_tile(folder):
    image = write_image(folder / "image.zarr", IMAGE, chunks=(5, 5), shards=(10, 10))
    damage(folder / "image.zarr" / "c" / "2" / "3", "cut")
    with refused(TileError, r"^tile \(2, 3\) \[20:25, 30:33\]: reading the image raised "):
        tile_process(image, label, tile_shape=(10, 10))


def failing_block(block, block_info):
    if block_info[0]["chunk-location"] == (2, 3):
        raise OSError("the disk is on fire")
    return block


@pytest.mark.usefixtures("scheduler")
def test_F12_a_block_of_a_dask_image_that_cannot_be_computed_names_the_tile(folder):
    image = da.from_array(IMAGE, chunks=(10, 10)).map_blocks(failing_block, dtype="uint8")
    with refused(
        TileError, r"^tile \(2, 3\) \[20:25, 30:33\]: reading the image raised OSError: the disk is on fire"
    ):
        tile_process(image, label, tile_shape=(10, 10), tiles_per_task=1, write_to="out.zarr")
    assert os.listdir(folder) == ["out.zarr.labels.blockbuster-stage"]


@pytest.mark.parametrize("layout", [{}, {"shards": (20, 20)}, {"zarr_format": 2}])
def test_F12_a_missing_chunk_of_the_input_is_the_fill_value(folder, layout):
    chunks = (5, 5) if "shards" in layout else (10, 10)
    array = zarr.create_array(
        folder / "image.zarr", shape=IMAGE.shape, dtype="uint8", chunks=chunks, fill_value=3, **layout
    )
    array[...] = IMAGE
    files = [path for path in sorted((folder / "image.zarr").rglob("*[0-9]")) if path.is_file()]
    files[1].unlink()
    expected = array[...]
    assert (expected == 3).any()
    before = snapshot(folder / "image.zarr")
    labels = tile_process(folder / "image.zarr", label, **TILES)
    assert_same_objects(labels, label(expected))
    assert snapshot(folder / "image.zarr") == before


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, []),
        ({"compute": True, "keep_stage": True}, []),
        ({"write_to": "out.zarr"}, ["out.zarr.labels.blockbuster-stage"]),
        ({"write_to": "out.zarr", "output_component": "a/b"}, ["out.zarr.a.b.blockbuster-stage"]),
        ({"write_to": "out.zarr", "stage_dir": "stage"}, ["stage"]),
        ({"stage_dir": "stage"}, ["stage"]),
    ],
)
def test_F1_the_stage_stays_where_a_place_was_given_for_it_and_only_there(folder, options, left):
    for image in (IMAGE, write_image(folder.parent / "image.zarr", IMAGE)):
        with refused(TileError, NAME):
            tile_process(image, failing_with(ValueError), overwrite=True, **options, **TILES)
        assert os.listdir(folder) == left
        assert os.listdir(folder.parent / "temporary") == []
    assert sorted(os.listdir(folder.parent)) == ["image.zarr", "temporary", "work"]


def test_F1_an_image_in_memory_and_the_result_of_others_are_untouched(folder):
    (folder / "out.zarr.notes").write_text("mine")
    image = IMAGE.copy()
    with refused(TileError, NAME):
        tile_process(image, failing_with(ValueError), write_to="out.zarr", **TILES)
    np.testing.assert_array_equal(image, IMAGE)
    assert (folder / "out.zarr.notes").read_text() == "mine"


def test_F1_no_further_tile_starts_after_a_failure_and_running_ones_are_waited_for():
    numbers, started, ended = itertools.count(1), [], []

    def slow(tile):
        number = next(numbers)
        started.append(number)
        if number == 3:
            raise RuntimeError("third")
        time.sleep(0.05)
        ended.append(1)
        return ndimage.label(tile)[0]

    with dask.config.set(scheduler="threads", num_workers=2), refused(TileError, "RuntimeError: third"):
        tile_process(np.ones((100, 10), "uint8"), slow, tile_shape=(1, 10), tiles_per_task=1)
    n = len(started)
    assert n < 50
    assert len(ended) == n - 1
    time.sleep(0.15)
    assert len(started) == n


class Untellable(Exception):
    """An exception whose own text fails."""

    def __str__(self):
        raise AttributeError("no text")


@pytest.mark.parametrize(
    ("make_error", "said"),
    [
        (lambda: ZeroDivisionError("division by zero"), r"fn raised ZeroDivisionError: division by zero\n"),
        (lambda: RuntimeError(), r"fn raised RuntimeError\n"),
        (lambda: KeyError("mask"), r"fn raised KeyError: 'mask'\n"),
        (lambda: Untellable(), r"fn raised Untellable\n"),
        (lambda: MemoryError(), r"fn raised MemoryError\n"),
        (lambda: StopIteration(), r"fn raised StopIteration\n"),
        (lambda: ValueError("größe\nzweite Zeile"), "größe\nzweite Zeile"),
        (lambda: TileError("inner", (9,), (slice(0, 1),)), r"fn raised TileError: tile \(9,\) \[0:1\]: inner"),
    ],
)
def test_F1_any_exception_is_told_by_its_type_and_text(make_error, said):
    with refused(TileError, said, "The original traceback:"):
        tile_process(IMAGE, failing_with(make_error), **TILES)


def test_F1_in_this_process_the_original_exception_is_the_cause():
    original = ValueError("original")
    with pytest.raises(TileError) as caught:
        tile_process(IMAGE, failing_with(lambda: original), **TILES)
    assert caught.value.__cause__ is original


def test_F1_a_warning_that_was_made_an_error_is_told_as_well():
    def warning(tile):
        return (1 / np.zeros(3)).astype(int)

    with refused(TileError, "fn raised RuntimeWarning: divide by zero"):
        tile_process(IMAGE, warning, **TILES)


def test_F1_a_failure_of_the_first_tile_that_is_timed_ahead_is_told_alike():
    image = np.full((200, 200), 77, "uint8")
    with refused(TileError, r"^tile \(0, 0\) \[0:10, 0:10\]: fn raised ValueError"):
        tile_process(image, failing_with(ValueError), tile_shape=(10, 10))


def example():
    return TileError.from_exception("fn", model_failure(), (np.int64(1), 2), (slice(0, 3), slice(4, 5)))


@pytest.mark.parametrize("send", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_F1_error_survives_the_way_to_another_process(send):
    error = example()
    error.add_note("kept")
    sent = send(error)
    assert str(sent) == str(error)
    assert (sent.tile, sent.slices, sent.what) == ((1, 2), error.slices, error.what)
    assert (sent.cause_type, sent.cause_text) == ("ModelError", "out of memory, code 7")
    assert sent.cause_traceback == error.cause_traceback
    assert sent.__notes__ == ["kept"]


def test_error_is_a_runtime_error_that_says_what_where_and_why():
    error = example()
    assert isinstance(error, RuntimeError)
    assert [type(i) for i in error.tile] == [int, int]
    assert str(error).startswith("tile (1, 2) [0:3, 4:5]: fn raised ModelError: out of memory, code 7\n")
    assert "KeyError: 'weights'" in "".join(traceback.format_exception(error))


def test_slices_are_written_as_they_are_typed():
    assert format_slices((slice(0, 256), slice(768, 1024))) == "[0:256, 768:1024]"


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_F1_errors_of_reading_that_have_no_text_or_name_each_other_are_told():
    one, other = Speechless(), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    def load(block):
        if (block == 77).any():
            raise one
        return block

    image = da.from_array(IMAGE, chunks=(10, 10)).map_blocks(load, dtype=IMAGE.dtype)
    with refused(TileError, r"reading the image raised Speechless\n", "ValueError: other", "raise one"):
        tile_process(image, label, tile_shape=(10, 10))
