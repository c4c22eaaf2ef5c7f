"""Pages of help: one line per option, every argument an option, every example runs as it stands."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import zarr
from collections_of_images import write_plate, write_pyramid
from commands import read, run, spots, tree
from naive import partition_fault
from scipy import ndimage
from skimage.filters import threshold_otsu

import blockbuster
from blockbuster.cli import main
from blockbuster.cli.entry import build_parser

PIXELS = spots((2, 150, 170))
STAGE = "cells.zarr.labels.blockbuster-stage"
MODULE = """
from scipy import ndimage

def find_cells(tile):
    return ndimage.label(tile > 110)[0]
"""


def pages():
    """The parser of each command, and of all of them."""
    parser = build_parser()
    (commands,) = (action for action in parser._actions if action.choices)
    return {"": parser, **commands.choices}


def examples():
    """Every example that any page prints, with the name of the page."""
    found = []
    for name, parser in pages().items():
        lines = parser.format_help().partition("\nexamples:\n")[2].splitlines()
        found += [(name, line.strip()) for line in lines]
    return found


def option_names(command):
    """Names of a command's options, as arguments of Python are written."""
    return {action.dest for action in pages()[command]._actions} - {"help"}


def test_every_argument_of_tile_process_is_an_option_and_the_other_way_round():
    # What only makes sense where something is returned.
    arguments = set(inspect.signature(blockbuster.tile_process).parameters) - {"compute", "return_report"}
    assert option_names("segment") == arguments | {"dry_run", "json", "scheduler", "workers"}


def test_every_argument_of_estimate_empty_tiles_is_an_option():
    arguments = set(inspect.signature(blockbuster.estimate_empty_tiles).parameters)
    assert option_names("estimate-empty") == arguments | {"picture", "json"}


@pytest.mark.parametrize("command", pages())
def test_every_option_has_one_line_of_help(command):
    parser = pages()[command]
    described = [line for line in parser.format_help().splitlines() if re.match(r" {2,8}--", line)]
    assert all(re.search(r"\S {2,}\S", line) for line in described), described
    options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    assert len(described) == len(options)


@pytest.mark.parametrize("command", pages())
def test_every_page_fits_its_width_and_gives_statuses_and_examples(command):
    text = pages()[command].format_help()
    assert max(map(len, text.splitlines())) <= 116
    assert len(text.splitlines()) < 66
    assert (
        "exit status: 0 done, 1 failed, 2 an argument is wrong, 130 interrupted (Ctrl-C), 143 terminated" in text
    )
    assert any(name == command for name, _ in examples())


def test_help_of_merge_says_that_agreement_is_looked_for_in_the_margin_too():
    assert "touch, agree (in the margin too), none" in pages()["segment"].format_help()


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"blockbuster {blockbuster.__version__}\n"


def test_help_imports_nothing_heavy():
    code = """
import sys
from blockbuster.cli import main
try:
    main(["segment", "--help"])
except SystemExit as stopped:
    heavy = {"numpy", "zarr", "dask", "numba", "skimage", "scipy"} & set(sys.modules)
    sys.exit(f"imported {heavy}" if heavy else stopped.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--tile-shape" in done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    write_pyramid(folder / "image.zarr", PIXELS, "cyx")
    write_plate(folder / "plate.zarr", PIXELS[0], 1, 2, zarr_format=2)
    (folder / "my_module.py").write_text(MODULE)
    start = os.getcwd()
    os.chdir(folder)
    try:
        agree = "--merge agree --connectivity 1 --overlap 16 --tile-shape 60,60 --keep-stage"
        for output in ("labels.zarr", "image.zarr --output-component labels/nuclei", f"cells.zarr {agree}"):
            assert run(f"segment image.zarr --fn threshold:110 --write-to {output}") == 0
    finally:
        os.chdir(start)
    return folder


def found_by(mask, path="labels.zarr", component="labels"):
    """The labels are the connected components of a mask."""
    assert partition_fault(read(path, component), ndimage.label(mask)[0]) == ""


def segmented_by_watershed(out, before):
    labels = read("labels.zarr")
    assert ((labels > 0) == (PIXELS[0] > threshold_otsu(PIXELS[0]))).all()
    n_components = ndimage.label(labels)[1]
    assert n_components <= len(np.unique(labels)) - 1 < 2 * n_components
    assert "watershed diameter 24, halo 24 x 24, merge agree" in out


def planned(out, before):
    assert str(blockbuster.plan_run("image.zarr", write_to="labels.zarr", skip_empty=True)) == out.strip()
    assert tree(Path.cwd()) == before


def empty_tiles_are_drawn(out, before):
    found = blockbuster.estimate_empty_tiles("image.zarr", (256, 256), overlap=16, threshold=100)
    assert out == f"{found}\n"
    assert Path("empty.png").read_bytes().startswith(b"\x89PNG")


def shown(*parts):
    return lambda out, before: [out.index(part) for part in parts]


def is_otsu(out, before):
    found_by(PIXELS[0] > threshold_otsu(PIXELS[0]))


def is_measured(out, before):
    is_otsu(out, before)
    table = blockbuster.read_objects("labels.zarr")
    assert table["area"].sum() == np.count_nonzero(read("labels.zarr"))
    assert {"extent", "intensity_mean-0", "intensity_mean-1"} < set(table.columns)
    assert "objects   " in out


def outlines_cover(path):
    features = json.loads(Path(path).read_text())["features"]
    areas = [feature["properties"]["measurements"]["area"] for feature in features]
    assert sum(areas) == np.count_nonzero(PIXELS[0] > 110)


def is_split_at_seams(out, before):
    labels = read("tiles.zarr", "labels")
    assert np.array_equal(labels > 0, PIXELS[0] > 110)
    assert labels.max() > ndimage.label(labels)[1]


# What each example must have done, given what it printed and the files before it.
OUTCOMES = {
    "demo": shown("tiled and untiled partitions are equal"),
    "demo --folder my-demo": lambda out, before: zarr.open_group("my-demo/labels.zarr", mode="r")["labels"],
    "info image.zarr": shown("c, y, x", "2 x 150 x 170", "labels/nuclei", "auto tile", "level 0, channel 0"),
    "info image.zarr --level 1 --channel none": shown("level 1, all channels"),
    "info labels.zarr": shown("labels.zarr/labels", "int32", "made by blockbuster", "objects"),
    "info plate.zarr --all --json": lambda out, before: [
        Path(entry["path"]).relative_to(Path.cwd() / "plate.zarr" / "A") for entry in json.loads(out)["images"]
    ],
    "estimate-empty image.zarr --tile-shape 256,256": shown("0 of 1 tiles are empty (maximum <= "),
    "estimate-empty image.zarr --tile-shape 256,256 --overlap 16 --threshold 100 --picture empty.png": (
        empty_tiles_are_drawn
    ),
    "estimate-empty image.zarr --tile-shape auto --json": lambda out, before: json.loads(out)["empty"][0][0],
    "segment image.zarr --fn otsu --write-to labels.zarr": is_otsu,
    "segment image.zarr --fn watershed:24 --tile-shape 512,512 --write-to labels.zarr": segmented_by_watershed,
    "segment image.zarr --fn my_module:find_cells --tile-shape auto --overlap 16 --write-to out.zarr": (
        lambda out, before: found_by(PIXELS[0] > 110, "out.zarr")
    ),
    "segment image.zarr --fn threshold:120 --write-to image.zarr --output-component labels/cells": (
        lambda out, before: found_by(PIXELS[0] > 120, "image.zarr", "labels/cells/0")
    ),
    "segment image.zarr --fn otsu --skip-empty --write-to labels.zarr --dry-run": planned,
    "segment image.zarr --fn otsu --write-to labels.zarr --resume": is_otsu,
    "segment image.zarr --fn otsu --write-to labels.zarr --measure intensity_mean,extent": is_measured,
    "polygons image.zarr/labels/nuclei nuclei.geojson": lambda out, before: outlines_cover("nuclei.geojson"),
    "polygons labels.zarr/labels cells.geojson --simplify 1": lambda out, before: [
        json.loads(Path("cells.geojson").read_text())["features"][0]
    ],
    "polygons image.zarr/labels/nuclei nuclei.parquet --coordinates units": lambda out, before: [
        pyarrow.parquet.read_table("nuclei.parquet")["geometry"][0]
    ],
    "seams labels.zarr": lambda out, before: shown(str(blockbuster.read_report("labels.zarr").seams))(
        out, before
    ),
    "seams labels.zarr --picture seams.png --doubtful 10": lambda out, before: (
        Path("seams.png").read_bytes().index(b"PNG")
    ),
    "seams image.zarr --component labels/nuclei --json": lambda out, before: json.loads(out)["axes"][0][
        "touching"
    ],
    f"merge {STAGE} --min-agreement 0.5 --write-to stricter.zarr": (
        lambda out, before: found_by(PIXELS[0] > 110, "stricter.zarr")
    ),
    f"merge {STAGE} --merge none --write-to tiles.zarr": is_split_at_seams,
}


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")
@pytest.mark.parametrize(("page", "example"), examples())
def test_every_example_of_every_page_runs_and_does_what_it_is_for(page, example, prepared, here, capsys):
    shutil.copytree(prepared, here, dirs_exist_ok=True)
    if " segment " in example:
        shutil.rmtree("labels.zarr")
    sys.modules.pop("my_module", None)
    program, _, command = example.partition(" ")
    assert program == "blockbuster"
    if command.endswith("--help"):
        return
    before = tree(here)
    capsys.readouterr()
    assert run(command) == 0
    OUTCOMES[command](capsys.readouterr().out, before)


def test_no_outcome_is_left_over():
    assert {example.removeprefix("blockbuster ") for _, example in examples()} == set(OUTCOMES)
