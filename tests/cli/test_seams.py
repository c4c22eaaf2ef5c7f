"""`blockbuster seams`: the report of finished labels, as text, JSON and a picture."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from commands import run, tree, write_array
from skimage.io import imread

import blockbuster


@pytest.fixture
def segmented(image, capsys):
    """Labels in out.zarr, joined where they agree."""
    argv = (
        "segment image.zarr --fn threshold:110 --merge agree --overlap 3 --tile-shape 20,30 --write-to out.zarr"
    )
    assert run(argv) == 0
    capsys.readouterr()
    return blockbuster.read_report("out.zarr")


def test_seams_prints_the_run_and_what_its_seams_came_to(segmented, capsys):
    assert run("seams out.zarr") == 0
    assert capsys.readouterr() == (f"{segmented}\n{segmented.seams}\n", "")
    assert f"{segmented.seams.refused} of {segmented.n_pairs} pairs refused" in str(segmented)
    assert segmented.n_pairs > 10


SHAKY = """
import zlib
from scipy import ndimage

def fn(tile):
    return ndimage.label(tile > 90 + 15 * (zlib.crc32(tile.tobytes()) % 3))[0]
"""


def test_doubtful_pairs_are_listed(image, capsys, monkeypatch):
    Path("shaky.py").write_text(SHAKY)
    monkeypatch.syspath_prepend(".")
    tiles = "--merge agree --overlap 3 --tile-shape 12,12 --write-to thin.zarr"
    assert run(f"segment image.zarr --fn shaky:fn {tiles}") == 0
    report = blockbuster.read_report("thin.zarr")
    assert len(report.doubtful()) > 2
    capsys.readouterr()
    assert run("seams thin.zarr --doubtful 2") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == list(map(str, report.doubtful(2)))


def test_seams_as_json_are_what_the_report_holds(segmented, capsys):
    assert run("seams out.zarr --component labels --json") == 0
    found = json.loads(capsys.readouterr().out)
    expected = found.pop("expected")
    assert found == dataclasses.asdict(segmented.seams)
    # A threshold sees the same in every tile.
    assert expected["f1"][1:] == [1.0, 1.0]
    assert expected["wrong"][:2] == [0.0, 0.0]
    assert f"as far as seams can tell, about 0 of {segmented.seams.n_crossing} objects" in str(segmented.seams)


def test_seams_are_drawn_to_a_new_file_and_never_over_another(here, capsys):
    write_array("stripes.zarr", np.tile(np.array([9, 9, 0], "uint8"), (30, 10)), (30, 30))
    assert run("segment stripes.zarr --fn threshold:5 --tile-shape 10,30 --write-to out.zarr") == 0
    argv = "seams out.zarr --picture seams.png"
    assert run(argv) == 0
    picture = imread("seams.png")
    assert picture.shape[1] > 2 * 240
    label = picture[12, 12]
    assert (picture[12, 12:28] == label).all()
    assert not (picture[12, 28:36] == label).any()
    before = tree(here)
    capsys.readouterr()
    assert run(argv) == 2
    assert capsys.readouterr() == ("", "blockbuster: --picture seams.png: the file exists; give a new name.\n")
    assert run("seams out.zarr --picture no/seams.png") == 2
    assert "no/seams.png" in capsys.readouterr().err
    assert tree(here) == before


def test_no_picture_is_made_where_there_is_no_seam(image, here, capsys):
    assert run("segment image.zarr --fn otsu --tile-shape 61,83 --write-to out.zarr") == 0
    capsys.readouterr()
    assert run("seams out.zarr --picture seams.png") == 2
    assert "--picture seams.png: there is no seam to show" in capsys.readouterr().err
    assert not (here / "seams.png").exists()


@pytest.mark.parametrize("argv", ["seams nowhere.zarr", "seams image.zarr", "seams out.zarr --component cells"])
def test_seams_of_what_has_no_report_are_status_2_and_say_what_to_give(segmented, here, capsys, argv):
    assert run(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"blockbuster: {here}")
    assert err.endswith(
        "report.json does not exist; give the path and the component of labels that tile_process wrote.\n"
    )


def test_a_damaged_report_is_status_2_without_a_traceback(segmented, here, capsys):
    (here / "out.zarr/labels/blockbuster-report.json").write_text('{"seams": {"axes": 5}}')
    assert run("seams out.zarr") == 2
    err = capsys.readouterr().err
    assert "is damaged and cannot be read" in err
    assert "Traceback" not in err
