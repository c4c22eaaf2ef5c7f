"""fn, or what it comes with, wants to end the process: a tile that failed, or Ctrl-C (B26)."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import dask
import dask.array as da
import dask.multiprocessing
import numpy as np
import pytest
import zarr
from naive import label
from outcomes import assert_same_objects, blobs, refused

from blockbuster import TileError, estimate_empty_tiles, suggest_overlap, tile_process
from blockbuster.stage.empty_threshold import threshold_of_pixels

IMAGE = blobs((25, 33))
IMAGE[22, 31] = 77
EXPECTED = label(IMAGE)
EXITS = {"sys.exit": SystemExit, "generator": GeneratorExit, "asyncio": asyncio.CancelledError}
# Several tasks, and in each several tiles.
OPTIONS = {"tile_shape": (10, 10), "tiles_per_task": 2}

pytestmark = pytest.mark.usefixtures("folder")


def ending(kind, *arguments, flag="never"):
    """Connected components, but for the one tile that holds a 77, until there is a flag."""

    def fn(tile):
        if (tile == 77).any() and not os.path.exists(flag):
            raise kind(*arguments)
        return label(tile)

    return fn


@pytest.fixture(params=["synchronous", "threads", "processes"])
def scheduler(request, workers):
    with workers(request.param):
        yield request.param


@pytest.mark.parametrize("name", EXITS)
def test_B26_an_exit_out_of_fn_is_a_tile_that_failed(name, scheduler):
    kind = EXITS[name]
    with refused(TileError, r"^tile \(2, 3\) \[20:25, 30:33\]: fn raised " + kind.__name__ + ": 3", "in fn"):
        tile_process(IMAGE, ending(kind, 3), **OPTIONS)


def test_B26_a_tile_that_exits_is_tried_again_and_skipped_like_any_other(scheduler, tmp_path):
    flag = str(tmp_path / "flag")

    def once(tile):
        if (tile == 77).any() and not os.path.exists(flag):
            open(flag, "x").close()
            sys.exit("not now")
        return label(tile)

    labels, report = tile_process(IMAGE, once, **OPTIONS, retries=1, return_report=True)
    assert_same_objects(labels, EXPECTED)
    assert report.n_retried == 1
    with pytest.warns(match=r"1 tiles failed.*\(2, 3\): fn raised SystemExit: 3"):
        labels = tile_process(IMAGE, ending(SystemExit, 3), **OPTIONS, on_error="skip")
    assert not labels[20:, 30:].any()
    np.testing.assert_array_equal(labels[:20, :30] > 0, IMAGE[:20, :30] > 0)


@pytest.mark.parametrize("tiles_per_task", [2, None], ids=["in a brick", "in a probe"])
def test_B26_a_keyboard_interrupt_out_of_fn_keeps_the_stage(scheduler, tiles_per_task, tmp_path):
    flag = str(tmp_path / "flag")
    image = IMAGE if tiles_per_task else np.where(IMAGE > 0, np.uint8(77), np.uint8(0))
    # With a version of its own: otherwise the flag is a part of fn, and other tasks may end before this one.
    options = {**OPTIONS, "tiles_per_task": tiles_per_task, "write_to": "out.zarr", "fn_version": "1"}
    fn = ending(KeyboardInterrupt, flag=flag)
    with refused(KeyboardInterrupt):
        tile_process(image, fn, **options)
    assert sorted(os.listdir()) == ["out.zarr.labels.blockbuster-stage"]
    open(flag, "x").close()
    assert_same_objects(tile_process(image, fn, **options, resume=True), label(image))


def exiting_image(kind):
    """A dask array one of whose chunks ends the process."""

    def load(block):
        if (block == 77).any():
            raise kind(3)
        return block

    return da.from_array(IMAGE, chunks=(10, 10)).map_blocks(load, dtype=IMAGE.dtype)


def test_B26_an_exit_while_the_image_is_read_names_the_tile(scheduler):
    with refused(TileError, r"tile \(2, 3\).*: reading the image raised .*SystemExit: 3"):
        tile_process(exiting_image(SystemExit), label, **OPTIONS)
    with pytest.warns(match=r"1 tiles failed.*\(2, 3\)"):
        tile_process(exiting_image(SystemExit), label, **OPTIONS, on_error="skip")
    with pytest.raises(KeyboardInterrupt):
        tile_process(exiting_image(KeyboardInterrupt), label, **OPTIONS)


# Far more bricks than workers: dask computes their regions in an order of its own.
MANY = blobs((120, 100))
ONE_EACH = {"tile_shape": (10, 10), "overlap": 0, "tiles_per_task": 1}


def failing_late(kind, *places, flags=None):
    """A dask image of many chunks, some of which raise; with a folder of flags each of them only once."""
    image = MANY.copy()
    for place in places:
        image[place] = 77

    def load(block, block_info=None):
        flag = None if flags is None else os.path.join(flags, str(block_info[0]["chunk-location"]))
        if (block == 77).any() and not (flag and os.path.exists(flag)):
            if flag:
                open(flag, "x").close()
            raise kind("no such plane")
        return block

    meta = np.empty((0, 0), image.dtype)
    return image, da.from_array(image, chunks=(10, 10)).map_blocks(load, dtype=image.dtype, meta=meta)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
@pytest.mark.parametrize("place", [(3, 7), (65, 51), (119, 99)], ids=["first", "middle", "last"])
def test_F12_B26_what_the_graph_of_any_of_many_bricks_raises_names_its_tile(scheduler, kind, place):
    _, image = failing_late(kind, place)
    row, column = place[0] // 10, place[1] // 10
    said = rf"^tile \({row}, {column}\) .*: reading the image raised .*{kind.__name__}: no such plane"
    with refused(TileError, said):
        tile_process(image, label, **ONE_EACH)
    with refused(TileError, said):
        estimate_empty_tiles(image, (10, 10), threshold=5)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
@pytest.mark.parametrize("tiles_per_task", [1, 4])
def test_F12_B26_all_tiles_that_the_graphs_of_many_bricks_fail_at_are_skipped(scheduler, kind, tiles_per_task):
    image, lazy = failing_late(kind, (3, 7), (65, 51), (66, 38), (119, 99))
    options = {**ONE_EACH, "tiles_per_task": tiles_per_task, "on_error": "skip", "return_report": True}
    with pytest.warns(match="4 tiles failed"):
        labels, report = tile_process(lazy, label, **options)
    assert [tile for tile, _ in report.failed] == [[0, 0], [6, 3], [6, 5], [11, 9]]
    for row, column in (tile for tile, _ in report.failed):
        image[10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = 0
    assert_same_objects(labels, label(image))


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_F12_B26_a_graph_that_raises_once_in_several_bricks_ends_nothing(scheduler, kind, tmp_path):
    (tmp_path / "flags").mkdir()
    image, lazy = failing_late(kind, (3, 7), (65, 51), (119, 99), flags=tmp_path / "flags")
    assert_same_objects(tile_process(lazy, label, **ONE_EACH, retries=1), label(image))
    assert len(os.listdir(tmp_path / "flags")) == 3
    for flag in (tmp_path / "flags").iterdir():
        flag.unlink()
    np.testing.assert_array_equal(
        estimate_empty_tiles(lazy, (10, 10), threshold=5).empty,
        image.reshape(12, 10, 10, 10).max((1, 3)) <= 5,
    )


@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_F12_B26_of_a_graph_that_raises_only_the_chunk_that_does_is_computed_again(name, workers):
    made = Counter()

    def load(block, block_info=None):
        made[block_info[0]["chunk-location"]] += 1
        if block_info[0]["chunk-location"] == (6, 5):
            sys.exit("no such plane")
        return block

    meta = np.empty((0, 0), MANY.dtype)
    image = da.from_array(MANY, chunks=(10, 10)).map_blocks(load, dtype=MANY.dtype, meta=meta)
    with workers(name), pytest.warns(match=r"1 tiles failed.*\(6, 5\)"):
        tile_process(image, label, **ONE_EACH, on_error="skip", retries=1)
    # Once for its brick, and twice alone.
    assert (made.pop((6, 5)), len(made), set(made.values())) == (3, 119, {1})


@pytest.mark.parametrize("threshold", [None, 5])
def test_B26_an_exit_while_tiles_are_looked_at_names_the_tile(scheduler, threshold):
    options = {"tile_shape": (10, 10), "threshold": threshold}
    with pytest.raises(TileError, match=r"tile \(2, 3\).*: reading the image raised .*SystemExit: 3"):
        estimate_empty_tiles(exiting_image(SystemExit), **options)
    with pytest.raises(KeyboardInterrupt):
        estimate_empty_tiles(exiting_image(KeyboardInterrupt), **options)


def test_B26_an_exit_as_a_threshold_is_chosen_names_the_tile(scheduler):
    options = {**OPTIONS, "skip_empty": True}
    with refused(TileError, r"tile \(2, 3\).*: reading the image raised .*SystemExit: 3"):
        tile_process(exiting_image(SystemExit), label, **options)
    with pytest.raises(KeyboardInterrupt):
        tile_process(exiting_image(KeyboardInterrupt), label, **options)
    with pytest.raises(RuntimeError, match="the graph of the image raised SystemExit: 3"):
        suggest_overlap(exiting_image(SystemExit), label, tile_shape=(10, 10), candidates=[2])


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_F12_a_threshold_is_chosen_without_tiles_that_cannot_be_read_or_one_is_named(on_error):
    zarr.create_array("image.zarr", data=IMAGE, chunks=(10, 10))
    Path("image.zarr/c/2/3").write_bytes(b"not a chunk")
    options = {**OPTIONS, "skip_empty": True, "on_error": on_error, "return_report": True}
    if on_error == "raise":
        with refused(TileError, r"tile \(2, 3\).*: reading the image raised"):
            tile_process("image.zarr", label, **options)
        return
    with pytest.warns(match=r"1 tiles failed.*\(2, 3\)"):
        labels, report = tile_process("image.zarr", label, **options)
    readable = np.ones(IMAGE.shape, bool)
    readable[20:, 30:] = False
    assert report.empty_threshold == threshold_of_pixels(IMAGE[readable])[0]
    assert_same_objects(labels, label(IMAGE * readable))


def raising(number):
    """A function that is told to end, as by `kill`, while it works."""

    def fn(block):
        if (block == 77).any():
            # Until the main thread waits, where it does: as it comes to that, threading answers an exception of a
            # handler with one of its own, "release unlocked lock".
            time.sleep(0.5)
            signal.raise_signal(number)
            time.sleep(0.1)
        return block if block.dtype == np.uint8 else label(block)

    return fn


@pytest.mark.parametrize("reading", [False, True], ids=["in fn", "in the image"])
@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_B26_an_exit_that_a_signal_asks_for_ends_the_run_and_not_a_tile(name, reading, folder):
    def leave(number, frame):
        sys.exit(f"told to leave by {number}")

    fn = raising(signal.SIGUSR1)
    image = da.from_array(IMAGE, chunks=(10, 10)).map_blocks(fn, dtype="uint8") if reading else IMAGE.astype(int)
    options = {**OPTIONS, "write_to": "out.zarr", "on_error": "skip", "retries": 2}
    before = signal.signal(signal.SIGUSR1, leave)
    try:
        with dask.config.set(scheduler=name, num_workers=2), refused(SystemExit, "told to leave by"):
            tile_process(image, label if reading else fn, **options)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert os.listdir() == ["out.zarr.labels.blockbuster-stage"]
    assert_same_objects(tile_process(IMAGE, label, **options, overwrite=True), EXPECTED)


class Leaves:
    """A function that ends the process as it is pickled."""

    def __call__(self, tile):
        return label(tile)

    def __reduce__(self):
        raise SystemExit(3)


class LeavesThere(Leaves):
    """A function that ends the process that unpickles it."""

    def __reduce__(self):
        return sys.exit, (3,)


def test_B26_an_exit_of_what_is_asked_before_work_names_the_argument(folder):
    with refused(ValueError, "tile_shape.* raised SystemExit: 3", folder=folder):
        tile_process(IMAGE, label, tile_shape=lambda shape, dtype: sys.exit(3))
    with (
        dask.config.set(scheduler="processes", num_workers=1),
        refused(TypeError, "fn .*Leaves.* cannot be pickled", folder=folder),
    ):
        tile_process(IMAGE, Leaves(), **OPTIONS)


def test_B26_an_exit_while_fn_is_unpickled_is_said(pool):
    with (
        dask.config.set(scheduler="processes", num_workers=2, pool=pool),
        pytest.raises(RuntimeError, match=r"importing what fn needs raised SystemExit: 3 in worker"),
    ):
        tile_process(IMAGE, LeavesThere(), **OPTIONS, fn_version="1")
