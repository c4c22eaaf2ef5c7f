"""What lies at the output before a run, and what lies there after it, whatever happens (F18, B17)."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from brick_files import places_in
from naive import components, label
from outcomes import Counted, assert_same_objects, blobs, consolidate, refused, refuses, snapshot

from blockbuster import TileError, tile_process

IMAGE = blobs((25, 33))
EXPECTED = label(IMAGE)
TILES = {"tile_shape": (10, 10), "overlap": 2}


pytestmark = pytest.mark.usefixtures("folder")


def read(component="labels", store="out.zarr"):
    return zarr.open_array(Path(store, component), mode="r")[...]


def others_group(zarr_format, consolidated=False):
    """A group as somebody else made it, with arrays, a subgroup, attributes and a file."""
    group = zarr.create_group("out.zarr", zarr_format=zarr_format, attributes={"author": "somebody else"})
    group.create_array("raw", data=IMAGE, chunks=(9, 9))
    group.create_group("tables", attributes={"n": 3}).create_array("areas", data=np.arange(7))
    Path("out.zarr", "notes.txt").write_text("read me")
    if consolidated:
        consolidate("out.zarr")
    return snapshot("out.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("component", ["labels", "tables/labels", "new/group/labels"])
def test_F18_a_group_of_somebody_else_gets_one_array_more_and_nothing_else_changes(zarr_format, component):
    before = others_group(zarr_format)
    tile_process(IMAGE, components, write_to="out.zarr", output_component=component, **TILES)
    after = snapshot("out.zarr")
    assert before.items() <= after.items()
    assert {path.split("/")[0] for path in after.keys() - before.keys()} <= {component.split("/")[0]}
    assert os.listdir() == ["out.zarr"]
    assert_same_objects(read(component), EXPECTED)
    array = zarr.open_group("out.zarr", mode="r")[component]
    assert array.metadata.zarr_format == zarr_format
    assert_same_objects(array[...], EXPECTED)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("component", ["labels", "tables/labels"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_F18_consolidated_metadata_show_the_new_array_and_keep_the_rest(zarr_format, component, overwrite):
    before = others_group(zarr_format, consolidated=True)
    tile_process(IMAGE, components, write_to="out.zarr", output_component=component, overwrite=overwrite, **TILES)
    after = snapshot("out.zarr")
    root = {"zarr.json"} if zarr_format == 3 else {".zmetadata"}
    assert {path for path in before if before[path] != after.get(path)} <= root
    group = zarr.open_group("out.zarr", mode="r", use_consolidated=True)
    assert group.attrs.asdict() == {"author": "somebody else"}
    assert_same_objects(group[component][...], EXPECTED)
    np.testing.assert_array_equal(group["raw"][...], IMAGE)
    assert group["tables"].attrs["n"] == 3


def test_F18_a_group_that_is_not_consolidated_stays_so():
    others_group(3)
    tile_process(IMAGE, components, write_to="out.zarr", **TILES)
    assert "consolidated_metadata" not in json.loads(Path("out.zarr", "zarr.json").read_text())


def test_F18_a_store_with_metadata_of_both_formats_gets_an_array_that_zarr_shows():
    others_group(2)
    zarr.create_group("three.zarr", zarr_format=3)
    os.rename("three.zarr/zarr.json", "out.zarr/zarr.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tile_process(IMAGE, components, write_to="out.zarr", **TILES)
        assert_same_objects(zarr.open_group("out.zarr", mode="r")["labels"][...], EXPECTED)


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.mkdir(parents=True)]
)
def test_a_new_path_and_an_empty_folder_become_a_group(folder, make):
    make(folder / "out.zarr")
    tile_process(IMAGE, components, write_to="out.zarr", axes="yx", **TILES)
    group = zarr.open_group("out.zarr", mode="r")
    assert list(group) == ["labels"]
    assert group.metadata.zarr_format == 3
    assert group["labels"].metadata.dimension_names == ("y", "x")
    assert_same_objects(group["labels"][...], EXPECTED)
    assert os.listdir() == ["out.zarr"]


def test_missing_folders_above_the_output_are_made(folder):
    tile_process(IMAGE, components, write_to="a/b/out.zarr", **TILES)
    assert_same_objects(read(store="a/b/out.zarr"), EXPECTED)
    assert os.listdir("a/b") == ["out.zarr"]


def test_missing_folders_above_the_output_are_not_left_after_a_failure(monkeypatch):
    with pytest.raises(TileError):
        tile_process(IMAGE, lambda tile: None, write_to="a/b/out.zarr", stage_dir="stage")
    assert os.listdir() == ["stage"]
    monkeypatch.setattr(os, "replace", failing_rename)
    with pytest.raises(OSError, match="rename failed"):
        tile_process(IMAGE, components, write_to="a/b/out.zarr", stage_dir="stage", overwrite=True)
    assert os.listdir() == ["stage"]


def failing_rename(source, target):
    raise OSError("rename failed")


def test_axes_are_stored_in_zarr_format_2_as_xarray_has_them():
    others_group(2)
    tile_process(IMAGE, components, write_to="out.zarr", axes="yx", **TILES)
    assert zarr.open_array("out.zarr/labels", mode="r").attrs["_ARRAY_DIMENSIONS"] == ["y", "x"]


def old_output(kind):
    """Put an array of somebody else at the place of the output."""
    old = {
        "labels": lambda: EXPECTED.astype("int32"),
        "other shape": lambda: np.arange(60).reshape(3, 4, 5),
        "other dtype": lambda: np.random.default_rng(0).random((25, 33)),
    }[kind]()
    others_group(3)
    array = zarr.create_array("out.zarr/labels", data=old, attributes={"by": "hand"})
    return array, snapshot("out.zarr")


KINDS = ["labels", "other shape", "other dtype"]
# The stage and the partial output are what resume=True continues from.
LEFT_BY_THE_MERGE = ["out.zarr", "out.zarr.labels.blockbuster-partial", "out.zarr.labels.blockbuster-stage"]


@pytest.mark.parametrize("kind", KINDS)
def test_F18_an_existing_array_is_refused_before_fn_runs(folder, kind):
    old_output(kind)
    parts = ("out.zarr/labels exists", "overwrite=True", "output_component")
    refuses(FileExistsError, *parts, image=IMAGE, folder=folder.parent, write_to="out.zarr", **TILES)


@pytest.mark.parametrize("given", [{"overwrite": 1}, {"resume": "yes"}], ids=str)
def test_a_wrong_way_to_say_that_labels_may_be_there_is_the_only_fault(folder, given):
    old_output(KINDS[0])
    (name,) = given
    with refused(TypeError, rf"^{name} is .*; it is True or False\.$", folder=folder.parent):
        tile_process(IMAGE, components, write_to="out.zarr", **given, **TILES)


@pytest.mark.parametrize("kind", KINDS)
def test_F18_with_overwrite_the_old_array_is_there_until_the_new_one_is_complete(kind):
    array, before = old_output(kind)
    old = array[...]

    def looking(tile):
        np.testing.assert_array_equal(read(), old)
        return components(tile)

    labels = tile_process(IMAGE, looking, write_to="out.zarr", overwrite=True, **TILES)
    assert_same_objects(labels, EXPECTED)
    others = [{k: v for k, v in found.items() if k[:6] != "labels"} for found in (before, snapshot("out.zarr"))]
    assert others[0] == others[1]
    assert dict(zarr.open_array("out.zarr/labels").attrs) == {}
    assert os.listdir() == ["out.zarr"]


@pytest.mark.parametrize("kind", KINDS)
def test_F18_a_failure_in_fn_leaves_the_old_array_as_it_was(kind):
    _, before = old_output(kind)

    def failing(tile):
        return None if tile.shape == (7, 5) else components(tile)

    with refused(TileError, "fn returned None"):
        tile_process(IMAGE, failing, write_to="out.zarr", overwrite=True, **TILES)
    assert snapshot("out.zarr") == before
    assert sorted(os.listdir()) == ["out.zarr", "out.zarr.labels.blockbuster-stage"]


def spoil_labels(path):
    """Flip a bit of what only the last step of the merge reads."""
    data = bytearray(path.read_bytes())
    data[places_in(path)["group-0-ids"][0]] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_F18_a_failure_in_the_merge_leaves_the_old_array_as_it_was(kind):
    """The last call of fn spoils what an earlier tile has staged, which its checksum tells the merge."""
    _, before = old_output(kind)
    calls = []

    def spoiling(tile):
        calls.append(tile.shape)
        if len(calls) == 12:
            stage = Path("out.zarr.labels.blockbuster-stage")
            spoil_labels(min(stage.glob("part-*/*.tiles")))
        return components(tile)

    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(Exception, match="(?i)checksum|zstd|corrupt|decod"),
    ):
        tile_process(IMAGE, spoiling, write_to="out.zarr", overwrite=True, tiles_per_task=1, **TILES)
    assert len(calls) == 12
    assert snapshot("out.zarr") == before
    assert sorted(os.listdir()) == LEFT_BY_THE_MERGE


def test_F18_a_failure_while_publishing_leaves_the_old_array_as_it_was(monkeypatch):
    """The old array is aside when the new one cannot be put in its place."""
    _, before = old_output("labels")
    rename, failed = os.rename, []

    def failing(source, target):
        if str(target).endswith("out.zarr/labels") and not failed:
            failed.append(snapshot("out.zarr"))
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        tile_process(IMAGE, components, write_to="out.zarr", overwrite=True, **TILES)
    assert failed
    assert not any(path.startswith("labels") for path in failed[0])
    assert snapshot("out.zarr") == before


KILLED = """
import os, signal
import numpy as np
from blockbuster import tile_process
from scipy import ndimage

rename = os.rename

def dying(source, target):
    if str(target).endswith("out.zarr/labels"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.rename = dying
image = np.load("image.npy")
tile_process(image, lambda tile: ndimage.label(tile)[0], tile_shape=(10, 10), write_to="out.zarr", overwrite=True)
"""


def test_F18_a_run_killed_between_the_two_renames_loses_nothing(folder):
    _, before = old_output("labels")
    np.save("image.npy", IMAGE)
    killed = subprocess.run([sys.executable, "-c", KILLED])
    assert killed.returncode == -signal.SIGKILL
    assert not Path("out.zarr", "labels").exists()
    parts = (
        "out.zarr/labels was put aside as .*replaced by a run that was interrupted",
        "overwrite=True",
        "move it back",
    )
    refuses(FileExistsError, *parts, image=IMAGE, folder=folder.parent, write_to="out.zarr", **TILES)
    aside = Path("out.zarr.labels.blockbuster-partial", "replaced")
    assert snapshot(aside) == {path[7:]: what for path, what in before.items() if path.startswith("labels/")}
    tile_process(IMAGE, components, write_to="out.zarr", overwrite=True, **TILES)
    assert_same_objects(read(), EXPECTED)
    assert sorted(os.listdir()) == ["image.npy", "out.zarr"]


@pytest.mark.parametrize("what", ["array", "group", "file", "folder"])
def test_F18_what_somebody_puts_there_during_the_run_is_not_replaced(what):
    others_group(3)
    put = []

    def slow(tile):
        if not put:
            put.append(what)
            path = Path("out.zarr", "labels")
            if what in ("array", "group"):
                zarr.create_array(path, data=np.arange(3)) if what == "array" else zarr.create_group(path)
            else:
                path.write_text("text") if what == "file" else path.mkdir()
            put.append(snapshot("out.zarr"))
        return components(tile)

    with refused(FileExistsError, "their place was taken", "out.zarr/labels exists"):
        tile_process(IMAGE, slow, write_to="out.zarr", **TILES)
    assert snapshot("out.zarr") == put[1]
    assert sorted(os.listdir()) == LEFT_BY_THE_MERGE


def test_F18_a_store_that_appears_during_the_run_is_not_replaced():
    def slow(tile):
        Path("out.zarr").mkdir(exist_ok=True)
        Path("out.zarr", "thesis.txt").write_text("done")
        return components(tile)

    with refused(FileExistsError, "their place was taken", "not a zarr group and is left alone"):
        tile_process(IMAGE, slow, write_to="out.zarr", **TILES)
    assert list(snapshot("out.zarr")) == ["thesis.txt"]


def make_file(path):
    path.write_text("text")


def make_folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("text")


def make_broken_group(path):
    path.mkdir()
    (path / "zarr.json").write_text("{")


def make_array(path):
    zarr.create_array(path, data=IMAGE)


def make_array_of_format_2(path):
    zarr.create_array(path, data=IMAGE, zarr_format=2)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_file, "is a file"),
        (make_folder, "is not a zarr group and is left alone"),
        (make_broken_group, "is not a zarr group and is left alone"),
        (make_array, "is not a zarr group and is left alone"),
        (make_array_of_format_2, "is not a zarr group and is left alone"),
    ],
)
def test_F18_what_is_no_group_is_refused_and_left_alone(folder, make, what, overwrite):
    make(folder / "out.zarr")
    refuses(
        FileExistsError,
        "write_to: ",
        what,
        "give a new path",
        image=IMAGE,
        folder=folder.parent,
        write_to="out.zarr",
        overwrite=overwrite,
        **TILES,
    )


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("component", "what"),
    [
        ("tables", "tables exists and is not a zarr array"),
        ("notes.txt", "notes.txt exists and is not a zarr array"),
        ("raw/labels", "raw is not a zarr group"),
        ("tables/areas/labels", "areas is not a zarr group"),
        ("notes.txt/labels", "notes.txt is not a zarr group"),
    ],
)
def test_F18_a_component_that_is_or_lies_in_something_else_is_refused(
    folder, zarr_format, component, what, overwrite
):
    others_group(zarr_format)
    refuses(
        FileExistsError,
        what,
        "choose another output_component",
        image=IMAGE,
        folder=folder.parent,
        write_to="out.zarr",
        output_component=component,
        overwrite=overwrite,
        **TILES,
    )


def test_F18_two_components_of_one_store_do_not_disturb_each_other():
    tile_process(IMAGE, components, write_to="out.zarr", output_component="a/b", **TILES)
    before = snapshot("out.zarr")
    tile_process(1 - IMAGE, components, write_to="out.zarr", output_component="a.b", **TILES)
    assert before.items() <= snapshot("out.zarr").items()
    assert_same_objects(read("a/b"), EXPECTED)
    assert_same_objects(read("a.b"), label(1 - IMAGE))


def test_the_same_run_again_stores_the_same_bytes():
    tile_process(IMAGE, components, write_to="one.zarr", **TILES)
    tile_process(IMAGE, components, write_to="two.zarr", **TILES)
    tile_process(IMAGE, components, write_to="two.zarr", overwrite=True, **TILES)
    one, two = snapshot("one.zarr"), snapshot("two.zarr")
    report = "labels/blockbuster-report.json"
    assert report in one
    assert {k: v for k, v in one.items() if k != report} == {k: v for k, v in two.items() if k != report}


def test_F18_overwrite_without_an_old_array_is_no_fault():
    fn = Counted()
    tile_process(IMAGE, fn, write_to="out.zarr", overwrite=True, **TILES)
    assert fn.calls == 12
    assert_same_objects(read(), EXPECTED)


def test_a_kept_stage_lies_beside_the_output_and_does_not_hinder_an_overwriting_run():
    for _ in range(2):
        tile_process(IMAGE, components, write_to="out.zarr", keep_stage=True, overwrite=True, **TILES)
        assert sorted(os.listdir()) == ["out.zarr", "out.zarr.labels.blockbuster-stage"]
    tile_process(IMAGE, components, write_to="out.zarr", overwrite=True, **TILES)
    assert os.listdir() == ["out.zarr"]
