"""`blockbuster estimate-empty`: the tiles that a run would skip, as text, JSON and a picture."""

import json

import numpy as np
import pytest
from commands import run, tree, write_array
from skimage.filters import threshold_otsu
from skimage.io import imread

import blockbuster


def test_what_is_printed_is_what_estimate_empty_tiles_finds(image, capsys):
    assert run("estimate-empty image.zarr --tile-shape 10,12 --overlap 2 --threshold 150") == 0
    found = blockbuster.estimate_empty_tiles("image.zarr", (10, 12), overlap=2, threshold=150)
    assert 0 < found.n_empty < found.n_tiles
    assert capsys.readouterr() == (f"{found}\n", "")


def test_a_run_skips_the_tiles_that_were_counted(image, capsys):
    assert run("estimate-empty image.zarr --tile-shape 5,6 --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert run("segment image.zarr --fn threshold:0 --tile-shape 5,6 --skip-empty --write-to out.zarr") == 0
    report = blockbuster.read_report("out.zarr")
    assert found["threshold"] == report.empty_threshold == threshold_otsu(image)
    assert (found["n_tiles"], found["n_empty"]) == (report.n_tiles, report.n_skipped)
    assert np.array(found["empty"]).shape == tuple(found["grid"]) == (13, 14)
    assert np.sum(found["empty"]) == found["n_empty"] > 0


def test_without_a_tile_shape_the_chunks_are_counted(image, capsys):
    assert run("estimate-empty image.zarr --json") == 0
    assert json.loads(capsys.readouterr().out)["grid"] == [4, 3]


def test_a_channel_and_a_stack_are_seen_from_above(here, capsys):
    stack = np.zeros((2, 2, 4, 6), "uint8")
    stack[1, 0, 0, 0] = stack[1, 1, 3, 5] = 9
    write_array("stack.zarr", stack, stack.shape)
    assert run("estimate-empty stack.zarr --tile-shape 1,1,2,2 --threshold 1") == 0
    assert capsys.readouterr().out == "22 of 24 tiles are empty (maximum <= 1)\n.##\n##.\n"


def test_a_large_grid_is_drawn_and_not_printed(here, capsys):
    write_array("wide.zarr", np.arange(3 * 200, dtype="uint16").reshape(3, 200), (3, 200))
    assert run("estimate-empty wide.zarr --tile-shape 1,1 --threshold 299 --picture wide.png") == 0
    out = capsys.readouterr().out
    assert out == (
        "300 of 600 tiles are empty (maximum <= 299)\n"
        "The grid of 3 x 200 tiles is too large to print; --picture FILE draws it.\n"
    )
    picture = imread("wide.png").astype(int)
    side = picture.shape[1] // 200
    assert picture.shape[:2] == (3 * side, 200 * side)
    bright = picture[side // 2 :: side, side // 2 :: side, :3].mean(axis=-1) > 160
    assert (bright.ravel() == (np.arange(600) <= 299)).all()


def test_a_picture_is_a_new_file_and_known_to_be_before_the_image_is_read(image, here, capsys):
    (here / "empty.png").write_text("mine")
    before = tree(here)
    assert run("estimate-empty image.zarr --picture empty.png") == 2
    assert capsys.readouterr() == ("", "blockbuster: --picture empty.png: the file exists; give a new name.\n")
    assert tree(here) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("nowhere.zarr", "nowhere.zarr does not exist"),
        ("image.zarr --overlap -1", "overlap is -1"),
        ("image.zarr --threshold nan", "empty_threshold is nan"),
        ("image.zarr --level 3", "level is 3"),
        ("image.zarr --tile-shape 16", "tile_shape is 16"),
    ],
)
def test_a_wrong_argument_is_status_2_and_a_message(image, capsys, options, message):
    assert run(f"estimate-empty {options}") == 2
    captured = capsys.readouterr()
    assert (captured.out, message in captured.err) == ("", True)
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("threshold", ["", " --threshold 5"])
def test_an_image_that_cannot_be_read_is_status_1_without_a_traceback(threshold, image, here, capsys):
    (here / "image.zarr/c/1/1").write_bytes(b"not a chunk")
    assert run(f"estimate-empty image.zarr{threshold}") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("blockbuster: tile (")
    assert "Traceback" not in captured.err
