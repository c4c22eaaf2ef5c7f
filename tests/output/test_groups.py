"""Groups that labels lie in: their metadata are looked at before work, and written whole or not at all."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from kill_points import IMAGE, Case
from outcomes import consolidate, refused, refuses, refuses_labels, snapshot

from blockbuster import relabel_sequential_zarr, tile_process
from blockbuster.output import publishing
from blockbuster.output.groups import EnclosingGroups, is_ome_labels
from blockbuster.output.places import LabelImagePlace

DEEP = "[" * 100_000


@pytest.fixture(params=[2, 3])
def zarr_format(request):
    return request.param


def image_with_labels(folder, zarr_format):
    """An OME-Zarr image with a label image in it, all of it consolidated, and the file that lists labels."""
    Case("labels/old", is_image=True, has_labels=True, zarr_format=zarr_format).prepare(folder)
    return folder / "x.zarr", folder / "x.zarr/labels" / (".zattrs" if zarr_format == 2 else "zarr.json")


def put_listing(file, zarr_format, listed):
    if zarr_format == 2:
        file.write_text(json.dumps(listed))
    else:
        node = {"zarr_format": 3, "node_type": "group"}
        file.write_text(json.dumps({**node, "attributes": {"ome": {"version": "0.5", **listed}}}))


NO_LISTS = [None, 3, "old", {"old": 1}, [None], ["old", 7], [["old"]]]


@pytest.mark.parametrize("listed", NO_LISTS, ids=map(str, NO_LISTS))
def test_B22_labels_that_are_listed_as_what_is_no_list_are_refused_before_work(listed, zarr_format, tmp_path):
    path, file = image_with_labels(tmp_path, zarr_format)
    put_listing(file, zarr_format, {"labels": listed})
    refuses_labels(ValueError, f'write_to: {file}: "labels" is .* it is a list of names', path=path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"labels"', DEEP, "\0", '{"labels": [}'])
def test_B22_a_listing_that_makes_no_sense_is_refused_before_work(text, tmp_path):
    path, file = image_with_labels(tmp_path, 2)
    file.write_text(text)
    refuses_labels(ValueError, f"write_to: {file} is not a JSON object; repair or remove it", path=path)


@pytest.mark.parametrize("attributes", [None, [], {"ome": None}, {"ome": ["0.5"]}])
def test_B22_attributes_of_a_group_of_labels_that_make_no_sense_are_refused_before_work(attributes, tmp_path):
    path, file = image_with_labels(tmp_path, 3)
    file.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    name = "ome" if isinstance(attributes, dict) else "attributes"
    refuses_labels(ValueError, f'write_to: {file}: "{name}" is .* it is a JSON object', path=path)


def test_what_a_group_of_labels_says_besides_stays(zarr_format, tmp_path):
    path, file = image_with_labels(tmp_path, zarr_format)
    put_listing(file, zarr_format, {"labels": ["old"], "colours": {"old": "red"}})
    consolidate(path)
    tile_process(IMAGE, np.copy, write_to=path, output_component="labels/cells", fn_version="1")
    stated = zarr.open_group(path / "labels", mode="r", use_consolidated=False).attrs.asdict()
    stated = stated.get("ome", stated)
    assert (stated["labels"], stated["colours"]) == (["old", "cells"], {"old": "red"})


def test_consolidated_metadata_that_cannot_be_written_anew_are_found_before_work(zarr_format, tmp_path):
    path, _ = image_with_labels(tmp_path, zarr_format)
    broken = path / "1" / (".zarray" if zarr_format == 2 else "zarr.json")
    metadata = json.loads(broken.read_text())
    broken.write_text(json.dumps({**metadata, "zarr_format": 2, "compressor": {"id": "unheard of"}, "codecs": 7}))
    options = {"image": IMAGE, "folder": tmp_path, "write_to": path, "output_component": "labels/cells"}
    refuses(
        ValueError, f"write_to: the consolidated metadata of {path} cannot be written anew", "repair", **options
    )
    # What is itself replaced may be as damaged as it likes.
    replaced = path / "labels/old/0" / broken.name
    shutil.copyfile(broken, replaced)
    broken.write_text(json.dumps(metadata))
    tile_process(IMAGE, np.copy, write_to=path, output_component="labels/old", fn_version="1", overwrite=True)
    assert zarr.open_group(path, mode="r", use_consolidated=True)["labels/old/0"].shape == IMAGE.shape


def fault_for_another_user(groups):
    is_root = not os.geteuid()
    if is_root:
        # And back again, so that this process can say what came of it.
        os.setresuid(65534, 65534, 0)
    try:
        groups.check()
    except ValueError as error:
        return str(error)
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
    return ""


def test_B22_a_consolidated_group_that_may_not_be_written_to_is_found_before_work(zygote):
    temporary = Path(tempfile.gettempdir())
    if not all(path.stat().st_mode & 0o1 for path in (temporary, *temporary.parents)):
        pytest.skip(f"other users cannot enter {temporary}")
    folder = tempfile.mkdtemp()
    try:
        os.chmod(folder, 0o755)
        zarr.create_group(f"{folder}/plate.zarr")
        zarr.create_group(f"{folder}/plate.zarr/a.zarr").create_array("labels", data=IMAGE)
        groups = EnclosingGroups(f"{folder}/plate.zarr/a.zarr", f"{folder}/plate.zarr/a.zarr/labels", 3)
        os.chmod(f"{folder}/plate.zarr", 0o555)
        assert zygote.run(fault_for_another_user, groups).result() == ""
        consolidate(f"{folder}/plate.zarr")
        fault = zygote.run(fault_for_another_user, groups).result()
        assert f"{folder}/plate.zarr is not writable" in fault
    finally:
        os.chmod(f"{folder}/plate.zarr", 0o755)
        shutil.rmtree(folder)


def test_a_new_store_in_a_consolidated_group_is_seen_in_it(zarr_format, tmp_path):
    zarr.create_group(tmp_path / "plate.zarr", zarr_format=zarr_format)
    consolidate(tmp_path / "plate.zarr")
    tile_process(IMAGE, np.copy, write_to=tmp_path / "plate.zarr/a.zarr", fn_version="1")
    plate = zarr.open_group(tmp_path / "plate.zarr", mode="r", use_consolidated=True)
    np.testing.assert_array_equal(plate["a.zarr/labels"][...], IMAGE)


def test_F30_only_what_a_run_on_the_same_store_left_is_swept(zarr_format, tmp_path):
    zarr.create_group(tmp_path / "plate.zarr", zarr_format=zarr_format)
    stores = [tmp_path / "plate.zarr" / name for name in ("a", "b")]
    for store in stores:
        zarr.create_group(store, zarr_format=zarr_format).create_array("labels", data=IMAGE)
    groups = [EnclosingGroups(str(store), str(store / "labels"), zarr_format) for store in stores]
    unique = "0a" * 16
    for folder in (tmp_path / "plate.zarr", stores[0]):
        (folder / f".writing-{groups[0]._owner(str(folder))}-{unique}").touch()
        (folder / f"zarr.{unique}.partial").touch()
        (folder / f".writing-{unique}").touch()
    before = snapshot(tmp_path)
    groups[1].update()
    assert snapshot(tmp_path) == before
    moved = tmp_path / "moved"
    os.rename(tmp_path / "plate.zarr", moved)
    EnclosingGroups(str(moved / "a"), str(moved / "a/labels"), zarr_format).update()
    left = [path.name for path in moved.rglob("*") if unique in path.name]
    assert sorted(left) == sorted([f"zarr.{unique}.partial", f".writing-{unique}"] * 2)


def test_B22_labels_are_not_renumbered_in_a_group_that_cannot_be_told_of_them(tmp_path):
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("labels", data=IMAGE)
    group.create_array("other", data=IMAGE)
    consolidate(tmp_path / "x.zarr")
    file = tmp_path / "x.zarr/other/zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "codecs": 7}))
    with refused(ValueError, "the consolidated metadata of .*x.zarr cannot be written anew", folder=tmp_path):
        relabel_sequential_zarr(tmp_path / "x.zarr")


def test_metadata_of_groups_are_not_flushed_where_nothing_changes(tmp_path):
    path, file = image_with_labels(tmp_path, 3)
    before = file.stat().st_mtime_ns
    LabelImagePlace(str(path), "labels/old").groups.update()
    assert file.stat().st_mtime_ns == before
    assert not list(Path(path).rglob(".writing-*"))


def test_runs_that_end_at_once_in_stores_of_one_group_take_turns(tmp_path, monkeypatch):
    plate = tmp_path / "plate.zarr"
    zarr.create_group(plate)
    consolidate(plate)
    options = {"write_to": plate / "a.zarr", "fn_version": "1", "tile_shape": IMAGE.shape}
    monkeypatch.setattr(publishing, "LOCK_SECONDS", 0.0)
    other = EnclosingGroups(str(plate / "b.zarr"), str(plate / "b.zarr/labels"), 3)
    with publishing.publishing_alone(other), refused(RuntimeError, f"the store {plate} is locked by"):
        tile_process(IMAGE, np.copy, **options)
    tile_process(IMAGE, np.copy, **options, resume=True)
    assert "a.zarr" in zarr.open_group(plate, mode="r", use_consolidated=True)
    assert sorted(path.name for path in plate.iterdir()) == ["a.zarr", "zarr.json"]


LABELS = {"multiscales": [], "image-label": {}}


@pytest.mark.parametrize(
    ("zattrs", "attributes", "is_labels"),
    [
        (LABELS, None, True),
        (None, {"ome": LABELS}, True),
        (None, LABELS, True),
        ({"multiscales": []}, {"ome": LABELS}, False),
        ({**LABELS, "ome": {"multiscales": []}}, None, False),
        (None, {**LABELS, "ome": {"multiscales": []}}, False),
        ({}, {"ome": LABELS}, True),
        (None, {"ome": {"multiscales": []}}, False),
        (None, None, False),
    ],
)
def test_a_label_image_is_what_readers_take_for_one(zattrs, attributes, is_labels, tmp_path):
    """What they do not may hold something else, which is not to be replaced."""
    if zattrs is not None:
        (tmp_path / ".zattrs").write_text(json.dumps(zattrs))
    if attributes is not None:
        (tmp_path / "zarr.json").write_text(json.dumps({"attributes": attributes}))
    assert is_ome_labels(str(tmp_path)) is is_labels
