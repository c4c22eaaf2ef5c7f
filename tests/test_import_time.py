"""The import is light, every public name is there, and the defaults are those of the contract."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
import zarr

import blockbuster
from blockbuster.run.options import RunOptions

HEAVY = ["cupy", "dask", "distributed", "numba", "ome_zarr", "psutil", "scipy", "skimage", "tqdm", "zarr"]
# The signature of tile_process as it was specified: what users rely on.
DEFAULTS = {
    "tile_shape": None,
    "overlap": 0,
    "channel": 0,
    "level": 0,
    "use_gpu": False,
    "compute": False,
    "progress": False,
    "write_to": None,
    "output_component": "labels",
    "sequential_labels": False,
    "skip_empty": False,
    "empty_threshold": None,
    "stage_dir": None,
    "keep_stage": False,
    "verbose": False,
    "axes": None,
    "merge": "touch",
    "min_agreement": 0.4,
    "connectivity": None,
    "merge_axes": None,
    "resume": False,
    "fn_version": None,
    "overwrite": False,
    "retries": 0,
    "on_error": "raise",
    "tiles_per_task": None,
    "return_report": False,
    "measure": None,
    "mask": None,
    "parents": None,
}


def imported_by(statement):
    """Modules that a new interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = imported_by("import blockbuster")
    assert "blockbuster" in loaded
    assert sorted(loaded.intersection(HEAVY)) == []


def test_name_loads_its_own_module_alone():
    loaded = imported_by("from blockbuster import TileError, RunReport")
    assert {name for name in loaded if name.startswith("blockbuster.")} == {
        "blockbuster.errors",
        "blockbuster.report",
        "blockbuster.report.expected",
        "blockbuster.report.run",
        "blockbuster.report.seams",
        "blockbuster.identity.sealed",
        "blockbuster.identity",
    }
    assert sorted(loaded.intersection(HEAVY)) == []


def test_a_report_is_read_without_what_labels_are_read_with():
    assert sorted(imported_by("from blockbuster import read_report").intersection(HEAVY)) == []


# Slow to import, or imported by one of these, and needed for few images.
NEEDED_BY_FEW = ["dask.array", "distributed", "matplotlib", "ome_zarr", "pandas", "skimage", "xarray"]
RUN = """
import numpy as np
from blockbuster import tile_process
image = np.zeros((64, 64), "uint8")
image[10:50, 10:50] = 1
tile_process(image, lambda tile: tile.astype(int), tile_shape=(32, 32), overlap=4, merge="agree", {more})
"""


@pytest.mark.slow
def test_a_run_loads_only_what_it_uses(folder):
    loaded = imported_by(RUN.format(more="write_to='out.zarr', compute=True"))
    assert sorted(loaded.intersection(NEEDED_BY_FEW)) == []
    assert "dask.array" in imported_by(RUN.format(more="write_to='lazy.zarr'"))


@pytest.mark.slow
def test_the_command_line_loads_only_what_it_uses(folder):
    zarr.create_array("image.zarr", shape=(64, 64), dtype="uint8")
    call = "import sys; from blockbuster.cli import main\nsys.argv[1:] = {}\ntry: main()\nexcept SystemExit: pass"
    for words in (
        "info image.zarr",
        "segment image.zarr --fn otsu --write-to o.zarr --dry-run",
        "segment --help",
    ):
        assert sorted(imported_by(call.format(words.split())).intersection(NEEDED_BY_FEW)) == []


def test_every_public_name_is_there_and_documented():
    for name in blockbuster.__all__:
        public = getattr(blockbuster, name)
        assert public.__name__ == name
        assert len(public.__doc__) > 40
        assert name in dir(blockbuster)


def test_names_that_are_not_there_are_missed():
    assert not hasattr(blockbuster, "tile_proces")


def test_defaults_of_tile_process_are_those_of_the_contract():
    image, fn, *options = inspect.signature(blockbuster.tile_process).parameters.values()
    assert [(p.name, p.default, p.kind) for p in (image, fn)] == [
        (name, inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("image", "fn")
    ]
    assert all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in options)
    assert [(p.name, p.default, type(p.default)) for p in options] == [
        (name, default, type(default)) for name, default in DEFAULTS.items()
    ]


def test_options_of_a_plan_have_the_same_defaults():
    defaults = {field.name: field.default for field in dataclasses.fields(RunOptions)}
    assert defaults == DEFAULTS
