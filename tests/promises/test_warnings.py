"""Every warning of ours names the line of the user that called us, however deep inside it is given (D23)."""

import ast
import inspect
import os
import warnings
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import naive
import numpy as np
import pytest
from gpus import gpu_memory
from shapes import Renamed, tissue

import blockbuster
from blockbuster import BlockbusterWarning, auto_tile_shape, auto_tile_shape_cellpose, plan_run, tile_process
from blockbuster.execution.memory import vram_bytes_or_warn

IMAGE = np.zeros((64, 64), "uint8")
IMAGE[10:30, 10:30] = 1
CHUNKED = da.from_array(IMAGE, chunks=64)
TILES = {"tile_shape": (32, 32)}
NOTES = "notes of somebody else"


def failing(tile):
    raise ValueError("no")


def unreadable():
    generator = iter(range(9**9))
    return lambda tile: naive.label(tile) + 0 * next(generator)


def with_notes(tile, folder):
    for stage in Path(folder).glob("*.blockbuster-stage"):
        (stage / "notes.txt").write_text(NOTES)
    return naive.label(tile)


def stripes(tile):
    return np.indices(tile.shape)[0] // 4 % 2


def a_shape(shape, dtype):
    return auto_tile_shape(shape, dtype, use_gpu=True)


# Some in a frame of ours alone, some with frames of contextlib, dask or the user's between frames of ours.
CALLS = {
    "all tiles are skipped": lambda _: tile_process(IMAGE, naive.label, skip_empty=True, empty_threshold=9),
    "a tile failed": lambda _: tile_process(IMAGE, failing, **TILES, on_error="skip"),
    "chunks are computed again": lambda _: tile_process(CHUNKED, naive.label, **TILES, tiles_per_task=1),
    "chunks are computed again in a plan": lambda _: plan_run(CHUNKED, **TILES, tiles_per_task=1),
    "no halo": lambda _: tile_process(IMAGE, naive.label, **TILES, merge="agree"),
    "runaway merging": lambda _: tile_process(tissue((40,) * 3, 120), Renamed(), tile_shape=(20,) * 3, overlap=2),
    "fn cannot be read": lambda _: tile_process(IMAGE, unreadable(), **TILES, write_to="out.zarr"),
    "a file of others": lambda f: tile_process(IMAGE, partial(with_notes, folder=f), write_to="out.zarr"),
    "a mask": lambda _: tile_process(IMAGE, stripes, **TILES),
    "little room": lambda _: tile_process(IMAGE, naive.label, **TILES),
    "no GPU": lambda _: auto_tile_shape(IMAGE.shape, IMAGE.dtype, use_gpu=True),
    "no GPU for Cellpose": lambda _: auto_tile_shape_cellpose(IMAGE.shape, IMAGE.dtype, use_gpu=True),
    "no GPU for a run": lambda _: tile_process(IMAGE, naive.label, tile_shape="auto", use_gpu=True),
    "no GPU in a function": lambda _: tile_process(IMAGE, naive.label, tile_shape=a_shape),
}
MESSAGES = {
    "all tiles are skipped": "tiles were skipped as empty",
    "a tile failed": "4 tiles failed",
    "chunks": "of the dask image is computed",
    "no halo": "without a halo",
    "runaway merging": "runaway merging: ",
    "fn cannot be read": "will not be resumable",
    "a file of others": r"notes\.txt",
    "a mask": "same id in",
    "little room": "may not fit",
    "no GPU": "use_gpu=True, but CuPy",
}


@pytest.fixture(params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param, num_workers=2):
        yield


def lines(function):
    first = function.__code__.co_firstlineno
    return range(first, first + len(inspect.getsourcelines(function)[0]))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("scheduler")
def test_every_warning_names_the_line_of_the_caller(name, folder, monkeypatch):
    if name.startswith("no GPU") and gpu_memory() is not None:
        pytest.skip("there is a GPU")
    if name == "little room":
        monkeypatch.setattr("blockbuster.run.resources.free_bytes", lambda folder: 10)
    message = next(text for start, text in MESSAGES.items() if name.startswith(start))
    call = CALLS[name]
    with pytest.warns(match=message) as caught:
        call(folder)
    for warning in caught:
        named = (warning.category, warning.filename, warning.lineno in lines(call))
        assert named == (BlockbusterWarning, __file__, True), warning


@pytest.mark.skipif(gpu_memory() is not None, reason="there is a GPU")
def test_a_warning_in_a_worker_thread_names_fn_that_calls_us_or_our_own_line():
    """Where a thread of dask's is all that calls us, dask has no line that the user would know."""

    def fn(tile):
        auto_tile_shape(tile.shape, tile.dtype, use_gpu=True)
        return naive.label(tile)

    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.warns(BlockbusterWarning, match="CuPy") as caught,
    ):
        tile_process(IMAGE, fn, **TILES)
    assert {(warning.filename, warning.lineno in lines(fn)) for warning in caught} == {(__file__, True)}
    with pytest.warns(BlockbusterWarning, match="CuPy") as caught:
        dask.delayed(vram_bytes_or_warn)().compute(scheduler="threads")
    assert {warning.filename for warning in caught} == {inspect.getfile(vram_bytes_or_warn)}


def test_a_warning_is_shown_once_for_each_line_as_python_has_it():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            plan_run(CHUNKED, **TILES, tiles_per_task=1)
        plan_run(CHUNKED, **TILES, tiles_per_task=1)
    assert len(caught) == 2


def test_nothing_in_the_package_warns_but_through_one_function():
    package = Path(os.path.dirname(blockbuster.__file__))
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if getattr(node, "attr", "") in ("warn", "warn_explicit") or getattr(node, "module", "") == "warnings"
    }
    assert found == {"errors.py"}
