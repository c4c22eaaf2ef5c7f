"""docs/design.md says where each argument is resolved, and how far fn is from the call: the code agrees."""

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from pages import DOCS

import blockbuster
from blockbuster import plan_run, tile_process
from blockbuster.run.options import RunOptions

ARGUMENTS = list(inspect.signature(tile_process).parameters)
PLACES = dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|$", (DOCS / "design.md").read_text(), re.MULTILINE))
MAX_FRAMES = 10


def find(name):
    """Find what a place of the package names: a function, a class or an attribute of one."""
    module, *attributes = re.split(r"\.(?=_*[A-Z])|\.(?=\w+$)", name, maxsplit=1)
    found = importlib.import_module(f"blockbuster.{module}")
    for attribute in attributes[0].split("."):
        found = inspect.getattr_static(found, attribute)
    return getattr(found, "fget", None) or getattr(found, "func", None) or found


def test_every_argument_has_one_place():
    assert list(PLACES) == ARGUMENTS


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_is_found_in_its_place(argument):
    assert re.search(rf"\b{argument}\b", inspect.getsource(find(PLACES[argument])))


def test_options_are_the_arguments_and_a_plan_takes_all_of_them():
    assert [field.name for field in dataclasses.fields(RunOptions)] == ARGUMENTS[2:]
    given = dataclasses.asdict(RunOptions())
    assert plan_run(np.zeros((4, 4)), fn=np.zeros_like, **given).options == RunOptions()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"tiles_per_task": 2}, {"merge": "agree", "overlap": 2, "on_error": "skip"}]
)
def test_few_frames_of_ours_lie_between_the_call_and_fn(chunked, options):
    package, counts = str(Path(blockbuster.__file__).parent), []

    def fn(tile):
        frame, n_frames = sys._getframe(1), 0
        while frame.f_code is not test_few_frames_of_ours_lie_between_the_call_and_fn.__code__:
            n_frames += frame.f_code.co_filename.startswith(package)
            frame = frame.f_back
        counts.append(n_frames)
        return tile

    image = np.ones((40, 40), "uint8")
    with dask.config.set(scheduler="synchronous"):
        tile_process(da.from_array(image, chunks=20) if chunked else image, fn, tile_shape=(10, 10), **options)
    assert len(counts) == 16
    assert max(counts) <= MAX_FRAMES
