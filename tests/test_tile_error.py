"""What is raised when fn fails, and what is left then (F1)."""

import copy
import os
import pickle
import threading
import time
import traceback
from pathlib import Path

import dask
import numpy as np
import pytest
from naive import label
from outcomes import assert_same_objects, blobs, refused, snapshot, write_image
from scipy import ndimage

from blockbuster import TileError, tile_process
from blockbuster.errors import format_slices
from blockbuster.grid import relative_box
from blockbuster.rundir.staged import StagedLabels, is_stage

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


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_F1_a_tile_that_fails_is_named_with_its_cause_and_nothing_becomes_visible(folder, scheduler):
    image = write_image(folder / "image.zarr", IMAGE)
    before = snapshot(folder.parent)
    with dask.config.set(scheduler=scheduler, num_workers=2), pytest.raises(TileError, match=NAME) as caught:
        tile_process(image, failing_with(model_failure), write_to="out.zarr", tiles_per_task=2, **TILES)
    error = caught.value
    assert (error.tile, error.slices) == (TILE, SLICES)
    assert (error.cause_type, error.cause_text) == ("ModelError", "out of memory, code 7")
    assert "raise make_error()" in error.cause_traceback
    assert "KeyError: 'weights'" in error.cause_traceback
    assert "fn raised ModelError: out of memory, code 7" in str(error)
    stage = folder / "out.zarr.labels.blockbuster-stage"
    assert error.__notes__ == [f"The stage is kept at {stage}; overwrite=True starts anew."]
    assert is_stage(stage)
    after = snapshot(folder.parent)
    assert {k: v for k, v in after.items() if not k.startswith(f"work/{stage.name}")} == before


def test_F1_finished_tiles_are_kept_in_the_stage(folder):
    with dask.config.set(scheduler="synchronous"), refused(TileError, NAME):
        tile_process(IMAGE, failing_with(ValueError), write_to="out.zarr", tiles_per_task=1, **TILES)
    staged = StagedLabels.open("out.zarr.labels.blockbuster-stage")
    finished = [int(path.stem) for path in Path(staged.path, "sidecars").iterdir()]
    for index in map(staged.bricks.index, finished):
        core, region = staged.bricks.core(index), staged.bricks.region(index)
        expected = label(IMAGE[region])[relative_box(core, region)]
        assert_same_objects(staged.read(index, int(expected.max()), relative_box(core, core)), expected)
    assert len(finished) > 3


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
    started, ended = [], []

    def slow(tile):
        started.append(1)
        if len(started) == 3:
            raise RuntimeError("third")
        time.sleep(0.05)
        ended.append(1)
        return ndimage.label(tile)[0]

    with dask.config.set(scheduler="threads", num_workers=2), refused(TileError, "RuntimeError: third"):
        tile_process(np.ones((100, 10), "uint8"), slow, tile_shape=(1, 10), tiles_per_task=1)
    n = len(started)
    assert n < 20
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
def test_error_survives_the_way_to_another_process(send):
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
