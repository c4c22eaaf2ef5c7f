"""Images behind URLs and in stores of every kind: file://, memory://, fsspec, obstore."""

import json
import pickle
import uuid

import fsspec
import numpy as np
import pytest
import zarr
from collections_of_images import write_plate, write_pyramid
from commands import read, run, spots
from naive import partition_fault
from scipy import ndimage
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from blockbuster import plan_run, read_report, tile_process

PIXELS = spots((2, 61, 83))
OPTIONS = {"tile_shape": (16, 20), "overlap": 3}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def components(tile):
    return ndimage.label(tile > 110)[0]


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    """Of a fresh OME-Zarr image."""
    where = (
        f"file://{tmp_path}/image.zarr" if request.param == "file" else f"memory://{uuid.uuid4().hex}/image.zarr"
    )
    if request.param == "file":
        write_pyramid(tmp_path / "image.zarr", PIXELS, "cyx")
    else:
        write_pyramid(where, PIXELS, "cyx")
    return where


def test_an_image_behind_a_url_gives_the_labels_of_its_pixels(url, tmp_path):
    labels = tile_process(url, components, **OPTIONS, channel=1, write_to=tmp_path / "out.zarr")
    assert partition_fault(np.asarray(labels), components(PIXELS[1])) == ""
    assert read_report(tmp_path / "out.zarr").n_tiles == 20


def test_a_level_behind_a_url_is_its_array(url):
    stored = zarr.open_array(f"{url}/s1", mode="r")[0]
    labels = tile_process(url, components, **OPTIONS, level=1)
    assert partition_fault(labels, components(stored)) == ""


def test_an_array_inside_an_image_behind_a_url_is_an_image(url):
    labels = tile_process(f"{url}/s0", components, **OPTIONS, axes="cyx")
    assert partition_fault(labels, components(PIXELS[0])) == ""


def test_segment_and_info_take_a_url(url, here, capsys):
    assert run(f"segment {url} --fn threshold:110 --channel 1 --tile-shape 16,20 --write-to out.zarr") == 0
    assert partition_fault(read("out.zarr"), components(PIXELS[1])) == ""
    capsys.readouterr()
    assert run(f"info {url} --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["axes"], [level["shape"] for level in found["levels"]]) == ("cyx", [[2, 61, 83], [2, 30, 41]])
    assert found["auto"]["tile_shape"] == list(plan_run(url, tile_shape="auto").grid.tile_shape)
    assert found["path"] == url.removeprefix("file://")


def test_estimate_empty_takes_a_url(url, here, capsys):
    assert run(f"estimate-empty {url} --tile-shape 8,8 --threshold 120 --json") == 0
    found = json.loads(capsys.readouterr().out)
    padded = np.zeros((64, 88), "uint8")
    padded[:61, :83] = PIXELS[0]
    expected = padded.reshape(8, 8, 11, 8).max(axis=(1, 3)) <= 120
    assert (np.array(found["empty"]) == expected).all()


def test_B15_a_plate_behind_a_url_lists_the_urls_of_its_images(here, capsys):
    url = f"memory://{uuid.uuid4().hex}/plate.zarr"
    write_plate(here / "plate.zarr", PIXELS[0], 1, 2)
    fsspec.filesystem("memory").put(str(here / "plate.zarr"), url, recursive=True)
    assert run(f"segment {url} --fn otsu --write-to out.zarr") == 2
    assert capsys.readouterr().err.splitlines()[1:] == [f"  {url}/A/1/0", f"  {url}/A/2/0"]
    assert run(f"info {url}") == 0
    assert f"{url}/A/2/0" in capsys.readouterr().out
    assert run(f"segment {url}/A/2/0 --fn threshold:110 --write-to out.zarr") == 0
    assert partition_fault(read("out.zarr"), components(PIXELS[0])) == ""


def test_a_group_behind_a_url_lists_what_lies_in_its_folders(here, capsys):
    url = f"memory://{uuid.uuid4().hex}/group.zarr"
    group = zarr.open_group(url, mode="w")
    for name in ("10", "9", "raw"):
        group.create_array(name, shape=(4, 5), dtype="uint8")
    assert run(f"info {url}") == 0
    listed = [line[10:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == [f"{url}/{name} (uint8, shape (4, 5))" for name in ("9", "10", "raw")]


@pytest.mark.parametrize("url", ["memory://out.zarr", "s3://bucket/out.zarr"])
def test_an_output_behind_a_url_is_refused_before_any_work(here, capsys, url):
    write_pyramid("image.zarr", PIXELS, "cyx")
    assert run(f"segment image.zarr --fn otsu --write-to {url}") == 2
    assert f"write_to is '{url}'" in capsys.readouterr().err


def obstore_store(folder):
    """A store of obstore over a local folder."""
    obstore = pytest.importorskip("obstore.store")
    from zarr.storage import ObjectStore

    return ObjectStore(obstore.LocalStore(str(folder), mkdir=True))


STORES = {
    "local": lambda folder: LocalStore(folder),
    "memory": lambda folder: MemoryStore(),
    "fsspec, file": lambda folder: FsspecStore.from_url(f"file://{folder}", storage_options={"auto_mkdir": True}),
    "fsspec, memory": lambda folder: FsspecStore.from_url(f"memory://{uuid.uuid4().hex}"),
    "obstore": obstore_store,
}


@pytest.mark.parametrize("kind", STORES)
def test_a_zarr_array_in_any_store_gives_the_labels_of_its_pixels(kind, tmp_path):
    array = zarr.create_array(
        STORES[kind](tmp_path / "image.zarr"), shape=(61, 83), chunks=(20, 30), dtype="uint8"
    )
    array[...] = PIXELS[0]
    labels = tile_process(array, components, **OPTIONS, write_to=tmp_path / "out.zarr")
    assert partition_fault(np.asarray(labels), components(PIXELS[0])) == ""


def test_an_image_behind_a_url_of_files_is_opened_again_where_it_is_unpickled(tmp_path):
    write_pyramid(tmp_path / "image.zarr", PIXELS, "cyx")
    source = plan_run(f"file://{tmp_path}/image.zarr").source
    text = pickle.dumps(source)
    assert len(text) < 2000
    region = (slice(5, 40), slice(7, 60))
    np.testing.assert_array_equal(pickle.loads(text).read(region), PIXELS[0][region])


def test_the_remedy_for_an_archive_that_is_broken_speaks_of_no_server(here):
    (here / "broken.zip").write_bytes(b"no archive")
    for url in (f"zip://a.zarr::{here}/broken.zip", f"zip://::file://{here}/broken.zip"):
        with pytest.raises(OSError, match=r"^image zip://.* cannot be read: .*what it leads to is whole\.$"):
            plan_run(url)
    with pytest.raises(FileNotFoundError, match=r"can be read\.$"):
        plan_run(f"zip://a.zarr::{here}/missing.zip")
    with pytest.raises(FileNotFoundError, match="exists only in the process that wrote it"):
        plan_run("memory://missing.zarr")
