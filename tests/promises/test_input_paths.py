"""Images by path and URL, in every spelling, wherever fn goes meanwhile (B18)."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from naive import label
from outcomes import assert_same_objects, blobs, refuses, snapshot, write_image

from blockbuster import load_ome_zarr, tile_process

IMAGE = blobs((25, 33))
EXPECTED = label(IMAGE)
TILES = {"tile_shape": (10, 10), "overlap": 2}


@pytest.fixture
def in_other_process():
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool, dask.config.set(scheduler="processes", pool=pool):
        yield


def labels_or_refusal(image, fn, **options):
    """One of the two."""
    try:
        return tile_process(image, fn, **TILES, **options), None
    except (ValueError, OSError) as error:
        return None, error


NAMES = [
    "new\nline",
    "tab\t",
    " blanks ",
    "🔬",
    "é",
    "e\u0301",
    "a:b",
    "file:x",
    "*",
    "%s{}",
    "$HOME",
    "'\"",
    "~x",
    "#",
]


@pytest.mark.parametrize("name", [*NAMES, "?", "%", "%00", "-", "x..", "back\\slash"])
def test_B18_names_that_mean_something_elsewhere_are_only_names(folder, name):
    write_image(folder / "in" / name, IMAGE)
    tile_process(f"in/{name}", label, write_to=f"out/{name}", stage_dir=f"stage/{name}", **TILES)
    assert_same_objects(zarr.open_array(folder / "out" / name / "labels", mode="r")[...], EXPECTED)
    assert {place: os.listdir(folder / place) for place in os.listdir()} == {"in": [name], "out": [name]}


@pytest.mark.parametrize("argument", ["image", "write_to", "stage_dir", "output_component"])
def test_B18_a_name_that_is_no_text_is_taken_or_refused_before_any_work(folder, argument):
    """Bytes that are not UTF-8 may be in the name of a file, and in no text."""
    name = os.fsdecode(b"\xff\xfe.zarr")
    write_image(folder / "image.zarr", IMAGE)
    os.rename("image.zarr", name if argument == "image" else "image.zarr")
    before = snapshot(folder)
    options = {"image": "image.zarr", "write_to": "out.zarr"} | {argument: name}
    labels, error = labels_or_refusal(options.pop("image"), label, **options)
    if error is None:
        assert_same_objects(labels, EXPECTED)
        return
    assert type(error) is not UnicodeEncodeError
    assert argument in str(error)
    assert snapshot(folder) == before


SPELLINGS = [
    lambda path: f"~/{path.name}",
    lambda path: f"~//{path.name}/",
    lambda path: Path("~") / path.name,
    lambda path: f"{path.name}/.",
    lambda path: f"{path.name}/../{path.name}",
    lambda path: f"file://{path}",
    lambda path: f"file://{path}/",
    lambda path: f"local://{path}",
    lambda path: path.as_uri(),
]


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("axes", ["yx", "cyx"])
def test_B18_an_image_may_be_spelled_in_many_ways(folder, monkeypatch, spell, axes):
    monkeypatch.setenv("HOME", str(folder))
    path = write_image(folder / "my image.zarr", np.stack([IMAGE, IMAGE * 0]) if "c" in axes else IMAGE, axes)
    before = snapshot(folder)
    assert_same_objects(tile_process(spell(path), label, **TILES), EXPECTED)
    assert snapshot(folder) == before


def test_B18_a_folder_whose_name_begins_with_a_tilde_is_no_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    write_image(folder / "~image.zarr", IMAGE)
    for image in ("~image.zarr", "./~image.zarr"):
        assert_same_objects(tile_process(image, label, **TILES), EXPECTED)
    refuses(FileNotFoundError, "~nobody", image="~nobody-of-this-name/image.zarr", folder=folder)


def test_B18_an_image_in_memory_is_read_by_other_processes_too(folder, in_other_process):
    write_image("memory://test-inputs/image.zarr", IMAGE)
    try:
        for url in ("memory://test-inputs/image.zarr", "memory:///test-inputs/image.zarr/"):
            labels = tile_process(url, label, write_to="out.zarr", overwrite=True, **TILES)
            assert_same_objects(labels.compute(scheduler="threads"), EXPECTED)
    finally:
        fsspec.filesystem("memory").rm("/test-inputs", recursive=True)
    assert os.listdir(folder) == ["out.zarr"]


def test_B18_an_image_in_memory_that_is_not_there_is_refused(folder):
    refuses(FileNotFoundError, "memory://nowhere/image.zarr", image="memory://nowhere/image.zarr", folder=folder)


def wander(tile):
    os.chdir(os.path.dirname(os.getcwd()) or "/")
    return label(tile)


# Zarr gives the fill value for a chunk that it does not find, so a wrong folder would not be noticed.
HELD = {
    "path": lambda: "image.zarr",
    "zarr.Array": lambda: zarr.open_array("image.zarr", mode="r"),
    "load_ome_zarr": lambda: load_ome_zarr("image.zarr"),
    "dask of a path": lambda: da.from_zarr("image.zarr"),
    "dask of a zarr.Array": lambda: da.from_array(zarr.open_array("image.zarr", mode="r"), chunks=(8, 8)),
}


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("kind", HELD)
def test_B18_an_image_by_its_relative_path_is_read_while_fn_changes_the_directory(folder, kind, scheduler):
    write_image("image.zarr", IMAGE)
    with dask.config.set(scheduler=scheduler):
        labels, error = labels_or_refusal(HELD[kind](), wander, write_to="out.zarr", tiles_per_task=1)
    if error is None:
        assert_same_objects(labels, EXPECTED)
        assert sorted(os.listdir(folder)) == ["image.zarr", "out.zarr"]
    else:
        # Some versions of dask keep the path as it was given.
        assert kind in ("dask of a path", "dask of a zarr.Array")
        assert "image.zarr" in str(error)


def test_B18_relative_paths_hold_in_other_processes_while_fn_changes_the_directory(folder, in_other_process):
    def wander_about(tile):
        os.chdir(os.path.dirname(os.getcwd()) or "/")
        return label(tile)

    write_image("image.zarr", IMAGE)
    labels = tile_process("image.zarr", wander_about, write_to="out.zarr", stage_dir="stage", **TILES)
    assert_same_objects(labels.compute(scheduler="threads"), EXPECTED)
    assert sorted(os.listdir(folder)) == ["image.zarr", "out.zarr"]
