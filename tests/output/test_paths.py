"""Paths that a run may write to."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from outcomes import consolidate, refused, snapshot, write_image

from blockbuster.output.groups import is_ome_image
from blockbuster.output.paths import (
    check_stage_dir,
    default_stage_parent,
    resolve_output,
    resolve_place,
)
from blockbuster.output.places import ArrayPlace, LabelImagePlace

IMAGE = np.ones((6, 6), "uint8")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_ome_zarr_image_is_known_by_its_own_metadata(tmp_path, zarr_format):
    zarr.create_group(tmp_path / "study", zarr_format=zarr_format)
    image = write_image(tmp_path / "study" / "image", IMAGE, "yx", zarr_format=zarr_format)
    consolidate(tmp_path / "study")
    assert is_ome_image(image)
    assert not is_ome_image(tmp_path / "study")
    assert not is_ome_image(image / "0")
    assert LabelImagePlace.suits(str(image), "labels/cells")
    assert not LabelImagePlace.suits(str(image), "labels")
    assert not LabelImagePlace.suits(str(tmp_path / "study"), "labels/cells")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"multiscales"', '{"attributes": [1]}', '{"attributes": {"ome": 3}}']
)
def test_metadata_that_make_no_sense_are_no_image(tmp_path, text):
    for name in (".zattrs", "zarr.json"):
        (tmp_path / name).write_text(text)
    assert not is_ome_image(tmp_path)


def test_place_is_absolute_whatever_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert resolve_place("a/../out.zarr/", "labels") == ArrayPlace(str(tmp_path / "out.zarr"), "labels")
    assert resolve_place(Path("out.zarr"), "a/b").array_path == str(tmp_path / "out.zarr" / "a" / "b")
    assert resolve_place("~/out.zarr", "labels").store == "/home/somebody/out.zarr"


def test_output_knows_whether_it_may_replace_an_array(tmp_path):
    for overwrite in (False, True):
        assert resolve_output(tmp_path / "out.zarr", "labels", None, overwrite=overwrite).replaces is overwrite


def test_nothing_is_made_while_paths_are_checked(tmp_path):
    image = write_image(tmp_path / "image.zarr", IMAGE)
    before = snapshot(tmp_path)
    place = resolve_output(tmp_path / "new" / "out.zarr", "a/labels", str(image), overwrite=False)
    assert check_stage_dir(tmp_path / "scratch" / "a", str(image), place) == str(tmp_path / "scratch" / "a")
    assert snapshot(tmp_path) == before


def test_link_to_the_image_is_the_image(tmp_path):
    image = write_image(tmp_path / "image.zarr", IMAGE)
    (tmp_path / "link").symlink_to(image)
    for given in (image, tmp_path / "link"):
        with refused(ValueError, "lies in the image", folder=tmp_path):
            resolve_output(image, "labels", str(given), overwrite=True)


def test_stage_is_beside_a_link_to_an_image_whose_folder_is_somebody_elses(tmp_path):
    (tmp_path / "mine").mkdir()
    write_image(tmp_path / "image.zarr", IMAGE)
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "image.zarr")
    assert default_stage_parent(str(tmp_path / "mine" / "link"), None) == str(tmp_path / "mine")


def test_stage_of_an_array_deep_in_a_store_is_beside_the_store(tmp_path):
    """The folders between need not be groups themselves."""
    zarr.create_group(tmp_path / "plate.zarr")
    image = write_image(tmp_path / "plate.zarr" / "A" / "1" / "0", IMAGE)
    assert default_stage_parent(str(image), None) == str(tmp_path)
    place = ArrayPlace(str(tmp_path / "far" / "out.zarr"), "labels")
    assert default_stage_parent(str(image), place) == os.path.join(tmp_path, "far")
