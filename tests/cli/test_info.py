"""`blockbuster info`: what lies at a path, as text and as JSON."""

import json
import re

import numpy as np
import pytest
import zarr
from collections_of_images import write_bioformats2raw, write_plate, write_pyramid
from commands import run, spots, tree, write_array

import blockbuster


def lines(capsys):
    """What was printed, by the word at its beginning; following lines belong to the one above."""
    found, name = {}, ""
    for line in capsys.readouterr().out.splitlines():
        name = line[:10].strip() or name
        found.setdefault(name, []).append(line[10:])
    return found


@pytest.mark.parametrize(("zarr_format", "version"), [(2, "0.4"), (3, "0.5")])
def test_an_image_shows_its_axes_levels_channels_and_the_tile_of_auto(here, capsys, zarr_format, version):
    units = {"y": "micrometer", "x": "micrometer"}
    path = write_pyramid(
        here / "image.zarr",
        spots((2, 100, 130)),
        "cyx",
        zarr_format,
        scale={"c": 1.0, "y": 0.5, "x": 0.25},
        axes_units=units,
    )
    attributes = zarr.open_group(path, mode="a").attrs
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    attributes.update({"ome": {**attributes["ome"], "omero": omero}} if zarr_format == 3 else {"omero": omero})
    before = tree(here)
    assert run("info image.zarr --level 1 --channel 1") == 0
    found = lines(capsys)
    assert found["path"] == [str(path)]
    assert found["what"] == [f"OME-Zarr image {version}, zarr format {zarr_format}"]
    assert found["axes"] == ["c, y (micrometer), x (micrometer)"]
    assert found["dtype"] == ["uint8"]
    assert found["channels"] == ["0 DAPI, 1 GFP"]
    assert [line.split("  ")[0] for line in found["levels"][1:]] == ["0", "1"]
    cells = re.split(" {2,}", found["levels"][1])[2:]
    assert cells == [
        "2 x 100 x 130",
        "25.39 kiB",
        "1 x 0.5 x 0.25",
        "1 x 64 x 64",
    ]
    assert "1 x 1 x 0.5" in found["levels"][2]
    tile = blockbuster.plan_run(path, tile_shape="auto", level=1, channel=1).grid.tile_shape
    assert found["auto tile"] == [f"{tile[0]} x {tile[1]} for level 1, channel 1: 1 tile, 1 x 1"]
    assert tree(here) == before


def test_an_image_lists_its_labels_and_the_runs_that_made_them(here, capsys):
    write_pyramid("image.zarr", spots((100, 130)), "yx")
    for name in ("nuclei", "cells"):
        assert run(f"segment image.zarr --fn otsu --write-to image.zarr --output-component labels/{name}") == 0
    report = blockbuster.read_report("image.zarr", "labels/nuclei")
    capsys.readouterr()
    assert run("info image.zarr") == 0
    labels = lines(capsys)["labels"]
    assert [line.partition(" ")[0] for line in labels] == [
        f"{here}/image.zarr/labels/{n}" for n in ("nuclei", "cells")
    ]
    assert all(f"{report.n_objects} objects)" in line for line in labels)
    assert run("info image.zarr/labels/nuclei") == 0
    found = lines(capsys)
    assert found["what"] == ["OME-Zarr label image 0.5, zarr format 3"]
    made = f"blockbuster, {report.n_tiles} tiles: {report.n_run} run, 0 empty; {report.n_objects} objects"
    assert found["made by"] == [made]


def test_a_store_of_labels_names_the_array_and_its_report(image, here, capsys):
    assert run("segment image.zarr --fn otsu --write-to out.zarr --output-component run1/cells") == 0
    report = blockbuster.read_report("out.zarr", "run1/cells")
    capsys.readouterr()
    assert run("info out.zarr") == 0
    (listed,) = lines(capsys)["images"]
    assert listed.startswith(f"{here}/out.zarr/run1/cells (int32, shape (61, 83); made by blockbuster, 12 tiles")
    assert f"{report.n_objects} objects" in listed
    assert run("info out.zarr/run1/cells") == 0
    assert f"{report.n_objects} objects" in lines(capsys)["made by"][0]
    (here / "out.zarr/run1/cells/blockbuster-report.json").write_text("{")
    assert run("info out.zarr") == 0
    assert "is damaged and cannot be read" in lines(capsys)["images"][0]


def test_an_array_by_itself_shows_its_chunks_and_shards(here, capsys):
    zarr.create_array("plain.zarr", shape=(40, 60), chunks=(10, 20), shards=(20, 40), dtype="float32")
    assert run("info plain.zarr") == 0
    found = lines(capsys)
    assert found["what"] == ["zarr array, zarr format 3"]
    assert found["axes"] == ["not stated; name them with --axes"]
    assert [text.split() for text in found["array"]] == [
        ["shape", "size", "chunks", "shards"],
        ["40", "x", "60", "9.38", "kiB", "10", "x", "20", "20", "x", "40"],
    ]
    assert found["auto tile"] == ["40 x 60 for level 0: 1 tile, 1 x 1"]


def test_json_has_everything_that_is_printed(here, capsys):
    write_pyramid("image.zarr", spots((2, 3, 40, 50)), "tcyx")
    assert run("info image.zarr --channel none --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["version"], found["axes"]) == ("OME-Zarr image", "0.5", "tcyx")
    assert found["levels"][1] == {
        "path": "s1",
        "shape": [2, 3, 20, 25],
        # Some versions of ome-zarr cut them to the level's shape.
        "chunks": list(zarr.open_array("image.zarr/s1", mode="r").chunks),
        "shards": None,
        "n_bytes": 3000,
        "voxel_size": [1, 1, 2, 2],
    }
    tile = blockbuster.plan_run("image.zarr", tile_shape="auto", channel=None).grid.tile_shape
    assert found["auto"]["tile_shape"] == list(tile)
    assert len(tile) == 4


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plate_lists_images_that_can_be_segmented(here, capsys, zarr_format):
    write_plate(here / "plate.zarr", spots((40, 50)), 2, 3, 2, zarr_format)
    assert run("info plate.zarr") == 0
    found = lines(capsys)
    assert found["what"] == ["an HCS plate of 6 wells, at most 2 images each"]
    paths = [f"{here}/plate.zarr/{row}/{column}/{field}" for row in "AB" for column in "123" for field in "01"]
    assert found["images"] == paths
    assert run("info plate.zarr/B/2") == 0
    assert lines(capsys)["images"] == paths[8:10]
    assert run(f"segment {paths[9]} --fn otsu --write-to out.zarr") == 0


def test_a_long_list_is_cut_unless_all_is_given(here, capsys):
    write_plate(here / "plate.zarr", np.zeros((4, 5), "uint8"), 3, 9)
    assert run("info plate.zarr") == 0
    images = lines(capsys)["images"]
    assert (len(images), images[-1]) == (25, "... (--all lists all)")
    assert run("info plate.zarr --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert ([entry["path"] for entry in found["images"]], found["is_complete"]) == (images[:-1], False)
    assert run("info plate.zarr --all --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["images"]), found["is_complete"]) == (27, True)


def test_a_bioformats2raw_collection_lists_its_series(here, capsys):
    write_bioformats2raw(here / "many.zarr", {"0": spots((9, 9)), "1": spots((9, 9))}, 2)
    assert run("info many.zarr") == 0
    found = lines(capsys)
    assert found["what"] == ["a bioformats2raw collection of images"]
    assert found["images"] == [f"{here}/many.zarr/{number}" for number in "01"]


def test_an_empty_group_says_so(here, capsys):
    zarr.open_group("group.zarr", mode="w")
    assert run("info group.zarr") == 0
    assert lines(capsys)["images"] == ["none"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("nowhere.zarr", "nowhere.zarr does not exist"),
        ("image.zarr --level 1", "level is 1"),
        ("image.zarr --channel 2", "channel is 2"),
        ("file.tif", "file.tif is a file"),
    ],
)
def test_what_is_not_there_is_status_2(image, here, capsys, argv, message):
    (here / "file.tif").write_bytes(b"II*")
    assert run(f"info {argv}") == 2
    captured = capsys.readouterr()
    assert (captured.out, message in captured.err) == ("", True)


def test_a_level_that_is_missing_is_named(here, capsys):
    write_array("broken.zarr/0", np.zeros((4, 5), "uint8"), (4, 5))
    group = zarr.open_group("broken.zarr", mode="a")
    axes = [{"name": name, "type": "space"} for name in "yx"]
    datasets = [{"path": path} for path in ("0", "1")]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    assert run("info broken.zarr") == 2
    assert "'1'" in capsys.readouterr().err
