import os
from pathlib import Path

import numpy as np
import pytest

from blockbuster.source import open_source
from blockbuster.source.location import Location, locate, open_node

ODD_NAMES = [
    "a b.zarr",
    "größe.zarr",
    "a#1.zarr",
    "what?.zarr",
    "100%.zarr",
    "a%20b.zarr",
    "核.zarr",
    "a&b=c;d.zarr",
]
EVERYTHING = (slice(0, 4), slice(0, 5))


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("spell", [str, Path, "{}/".format, "file://{}".format, "local://{}/".format])
def test_odd_names_are_taken_literally(name, spell, tmp_path, write):
    data = write.pixels((4, 5))
    write.array(tmp_path / name, data)
    source = open_source(spell(tmp_path / name))
    assert source.path == str(tmp_path / name)
    np.testing.assert_array_equal(source.read(EVERYTHING), data)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_uri_that_pathlib_writes_is_decoded(name, tmp_path, write):
    write.array(tmp_path / name, write.pixels((4, 5)))
    assert open_source((tmp_path / name).as_uri()).path == str(tmp_path / name)


def test_a_file_url_is_taken_literally_where_that_exists(tmp_path, write):
    write.array(tmp_path / "a b", write.pixels((4, 5)))
    write.array(tmp_path / "a%20b", write.pixels((4, 5)) + 1)
    assert open_source(f"file://{tmp_path}/a%20b").path == str(tmp_path / "a%20b")


@pytest.mark.parametrize("spell", ["image.zarr", "./image.zarr/", "here/../image.zarr", Path("image.zarr")])
def test_a_relative_path_still_works_after_a_change_of_folder(spell, tmp_path, write, monkeypatch):
    data = write.pixels((4, 5))
    write.ome(tmp_path / "image.zarr", data, "yx")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    source = open_source(spell)
    monkeypatch.chdir(tmp_path / "here")
    assert os.path.isabs(source.path)
    np.testing.assert_array_equal(source.read(EVERYTHING), data)


def test_the_home_folder_may_be_abbreviated(tmp_path, write, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write.array(tmp_path / "image.zarr", write.pixels((4, 5)))
    for spell in ("~/image.zarr", Path("~/image.zarr")):
        assert open_source(spell).path == str(tmp_path / "image.zarr")


@pytest.mark.parametrize("url", ["memory://blockbuster/a.zarr", "memory://blockbuster/a.zarr/"])
def test_a_url_is_read_through_fsspec(url, write):
    data = write.pixels((2, 4, 5))
    write.ome("memory://blockbuster/a.zarr", data, "cyx", levels=("s0", "pyramid/s1"))
    source = open_source(url, channel=1)
    assert source.path is None
    np.testing.assert_array_equal(source.read(EVERYTHING), data[1])
    assert open_source(url, level=1).shape == (2, 3)
    plain = open_source("memory://blockbuster/a.zarr/s0", channel=None)
    np.testing.assert_array_equal(plain.read((slice(0, 2), *EVERYTHING)), data)


def test_a_url_with_nothing_behind_it_is_named():
    with pytest.raises(FileNotFoundError, match=r"memory://nowhere/a\.zarr is not there"):
        open_source("memory://nowhere/a.zarr")


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"nonsense://a\.zarr.*Protocol not known"):
        open_source("nonsense://a.zarr")


def test_a_missing_path_is_named_with_what_has_a_similar_name(tmp_path):
    for name in ("brain_01.zarr", "brain_02.zarr", "liver.zarr"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=r"brain_03\.zarr does not exist.*brain_02\.zarr") as caught:
        open_source(tmp_path / "brain_03.zarr")
    assert "liver" not in str(caught.value)


def test_a_missing_level_is_named_with_what_is_there(tmp_path, write):
    write.ome(tmp_path / "image.zarr", write.pixels((4, 5)), "yx", levels=("s0", "s1"))
    with pytest.raises(FileNotFoundError, match=r"image\.zarr/7 does not exist.*image\.zarr has: s0, s1\."):
        open_source(tmp_path / "image.zarr" / "7")


def test_a_missing_path_in_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.zarr does not exist.*has no folders"):
        open_source(tmp_path / "a.zarr")


def test_the_first_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"There is no folder {tmp_path}/b either"):
        open_source(tmp_path / "b" / "c" / "d.zarr")


def test_a_plain_file_is_refused(tmp_path):
    (tmp_path / "image.tif").write_bytes(b"II*\0")
    with pytest.raises(ValueError, match=r"image\.tif is a file"):
        open_source(tmp_path / "image.tif")
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*image\.tif"):
        open_source(tmp_path / "image.tif" / "0")


def test_a_folder_that_is_no_zarr_is_refused_with_the_zarr_inside(tmp_path, write):
    write.array(tmp_path / "a.zarr", write.pixels((4, 5)))
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match=r"no zarr array or group.*It contains: [^,]*a\.zarr\.$"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"none of zarr\.json, \.zarray, \.zgroup\.$"):
        open_source(tmp_path / "notes")


@pytest.mark.parametrize("text", ["{oops", "[]", "{}", '{"zarr_format": 3, "node_type": "array", "shape": [3]}'])
def test_broken_metadata_are_an_error_that_names_the_path(text, tmp_path):
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        open_source(tmp_path)


@pytest.mark.parametrize("path", ["", b"/tmp"])
def test_an_empty_path_is_refused(path):
    with pytest.raises((ValueError, TypeError), match="image is"):
        open_source(path)


def test_locations_inside_a_group_keep_their_kind(tmp_path):
    assert (Location(tmp_path) / "s0").local_path == str(tmp_path / "s0")
    assert str(locate("memory://a/") / "s0/image") == "memory://a/s0/image"
    assert locate("memory://a").local_path is None


def test_arrays_are_opened_read_only(tmp_path, write):
    write.array(tmp_path / "a", write.pixels((4, 5)))
    assert open_node(locate(tmp_path / "a")).read_only
