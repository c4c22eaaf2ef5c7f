"""An output becomes visible in one step, and gives way to nothing of others."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from outcomes import refused, snapshot

from blockbuster.output.layout import ArrayLayout
from blockbuster.output.nodes import zarr_node
from blockbuster.output.partial import MARK, REPLACED
from blockbuster.output.places import KINDS, ArrayPlace
from blockbuster.output.publishing import finish_publishing, partial_output, replaced_output
from blockbuster.report.run import FINEST

SHAPE, CHUNK = (4, 6), (2, 3)
NEW = np.arange(24, dtype="int32").reshape(SHAPE)
OLD = np.arange(5)


@pytest.fixture
def place(tmp_path):
    return ArrayPlace(str(tmp_path / "out.zarr"), "labels")


def publish(place, shard=CHUNK, axes=None, meanwhile=lambda path: None):
    layout = place.layout(ArrayLayout(SHAPE, np.dtype("int32"), CHUNK, shard, axes and tuple(axes)), None)
    with partial_output(place, lambda store: place.create(store, layout)) as path:
        zarr.open_array(Path(path), mode="r+")[...] = NEW
        meanwhile(path)


def read(place):
    return zarr.open_array(Path(place.array_path), mode="r")[...]


def put_old_array(place, zarr_format=3):
    group = zarr.create_group(Path(place.store), zarr_format=zarr_format)
    group.create_array(place.component, data=OLD)


def leave_partial(place, *, aside=False):
    """Leave what a run leaves that is killed while it writes, or between its two renames."""
    partial = Path(place.sibling("partial"))

    def die(path):
        if aside:
            os.rename(place.array_path, partial / REPLACED)
        os.rename(partial, f"{partial}-saved")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(place, meanwhile=die)
    os.rename(f"{partial}-saved", partial)
    return partial


def test_paths_of_a_place(place):
    nested = ArrayPlace("/data/out.zarr", "a/b/labels")
    assert nested.array_path == "/data/out.zarr/a/b/labels"
    assert nested.sibling("partial") == "/data/out.zarr.a.b.labels.blockbuster-partial"
    assert os.path.dirname(place.sibling("stage")) == os.path.dirname(place.store)


@pytest.mark.parametrize("component", ["labels", "a/b"])
def test_new_store_appears_complete(tmp_path, component):
    place = ArrayPlace(str(tmp_path / "out.zarr"), component)
    publish(place, meanwhile=lambda path: not os.path.exists(place.store) or pytest.fail("visible too early"))
    np.testing.assert_array_equal(read(place), NEW)
    assert zarr.open_group(Path(place.store), mode="r")[component].shape == SHAPE
    assert os.listdir(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("shard", [CHUNK, (4, 6)])
def test_array_has_the_chunks_shards_names_and_checksums_that_were_asked_for(place, shard):
    publish(place, shard=shard, axes="yx")
    array = zarr.open_array(Path(place.array_path), mode="r")
    assert array.chunks == CHUNK
    assert array.shards == (None if shard == CHUNK else shard)
    assert array.metadata.dimension_names == ("y", "x")
    assert '"checksum": true' in Path(place.array_path, "zarr.json").read_text()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_old_array_stays_until_the_new_one_takes_its_place(place, zarr_format):
    put_old_array(place, zarr_format)
    before = snapshot(place.store)

    def look(_):
        assert snapshot(place.store) == before

    publish(place, meanwhile=look)
    np.testing.assert_array_equal(read(place), NEW)
    assert not os.path.lexists(place.sibling("partial"))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_everything_as_it_was(tmp_path, place, error):
    put_old_array(place)
    before = snapshot(tmp_path)

    def fail(_):
        raise error

    with pytest.raises(error):
        publish(place, meanwhile=fail)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("number", [1, 2])
def test_failed_rename_leaves_everything_as_it_was(tmp_path, place, monkeypatch, number):
    put_old_array(place)
    before = snapshot(tmp_path)
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == number:
            raise OSError("rename failed")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="rename failed"):
        publish(place)
    assert snapshot(tmp_path) == before


def test_store_that_cannot_be_renamed_leaves_nothing(tmp_path, place, monkeypatch):
    def failing(source, target):
        raise OSError("rename failed")

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="rename failed"):
        publish(place)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("old", [False, True])
def test_what_a_killed_run_left_is_cleared_away(tmp_path, place, old):
    if old:
        put_old_array(place)
    leave_partial(place)
    assert place.fault(overwrite=old) == ""
    publish(place)
    np.testing.assert_array_equal(read(place), NEW)
    assert os.listdir(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("left", [[], [".writing-" + "0a" * 16]])
def test_F30_a_folder_that_a_killed_run_had_all_but_removed_is_no_obstacle(left, tmp_path, place):
    partial = Path(place.sibling("partial"))
    for clear in (publish, lambda place: place.partial.clear(), finish_publishing):
        partial.mkdir()
        for name in left:
            (partial / name).touch()
        assert place.fault(overwrite=True) == ""
        clear(place)
        assert os.listdir(tmp_path) == ["out.zarr"]


def test_F30_an_old_array_that_was_removed_in_part_never_comes_back(tmp_path, place, monkeypatch):
    put_old_array(place)

    def die(path):
        Path(path, "zarr.json").unlink(missing_ok=True)
        raise KeyboardInterrupt

    partial = Path(place.sibling("partial"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            publish(place)
    assert os.path.isdir(partial)
    shutil.rmtree(place.path)
    assert not place.partial.waits_for_swap
    place.partial.clear()
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert not os.path.lexists(place.path)


def test_array_that_a_killed_run_put_aside_counts_as_being_there(tmp_path, place):
    put_old_array(place)
    aside = leave_partial(place, aside=True) / REPLACED
    assert not os.path.exists(place.array_path)
    assert f"was put aside as {aside} by a run that was interrupted" in place.fault(overwrite=False)
    assert place.fault(overwrite=True) == ""


def test_array_that_a_killed_run_put_aside_comes_back_before_anything_else(tmp_path, place):
    put_old_array(place)
    before = snapshot(tmp_path)
    leave_partial(place, aside=True)

    def look(_):
        np.testing.assert_array_equal(read(place), OLD)
        raise ValueError

    with pytest.raises(ValueError):
        publish(place, meanwhile=look)
    assert snapshot(tmp_path) == before


def test_array_put_aside_by_hand_to_its_old_place_ends_the_story(tmp_path, place):
    put_old_array(place)
    before = snapshot(tmp_path)
    partial = leave_partial(place, aside=True)
    os.rename(partial / REPLACED, place.array_path)
    assert "exists; pass overwrite=True" in place.fault(overwrite=False)
    assert snapshot(place.store) == {k[9:]: v for k, v in before.items() if k.startswith("out.zarr/")}


@pytest.mark.parametrize("mark", [None, "", "other.zarr/labels", "out.zarr/a.b"])
def test_folder_that_is_not_of_this_output_is_refused_and_left_alone(tmp_path, place, mark):
    partial = Path(place.sibling("partial"))
    partial.mkdir()
    (partial / "thesis.txt").write_text("text")
    if mark is not None:
        (partial / MARK).write_text(mark)
    assert "in the way and not from blockbuster" in place.fault(overwrite=True)
    with refused(FileExistsError, f"{partial} is in the way and not from blockbuster", folder=tmp_path):
        publish(place)


def test_components_whose_siblings_have_the_same_name_are_told_apart(tmp_path):
    nested, dotted = (ArrayPlace(str(tmp_path / "out.zarr"), name) for name in ("a/b", "a.b"))
    assert nested.sibling("partial") == dotted.sibling("partial")
    put_old_array(nested)
    leave_partial(nested, aside=True)
    with refused(FileExistsError, "in the way", folder=tmp_path):
        publish(dotted)
    publish(nested)
    np.testing.assert_array_equal(read(nested), NEW)


def test_moved_folder_is_still_known_as_its_own(tmp_path):
    """What was interrupted can be moved with all that lies beside it."""
    (tmp_path / "here").mkdir()
    place = ArrayPlace(str(tmp_path / "here" / "out.zarr"), "labels")
    put_old_array(place)
    leave_partial(place, aside=True)
    os.rename(tmp_path / "here", tmp_path / "there")
    moved = ArrayPlace(str(tmp_path / "there" / "out.zarr"), "labels")
    publish(moved)
    np.testing.assert_array_equal(read(moved), NEW)


def test_array_that_may_not_be_replaced_is_not_replaced_at_the_last_moment(tmp_path):
    place = ArrayPlace(str(tmp_path / "out.zarr"), "labels", replaces=False)
    with pytest.raises(FileExistsError, match="their place was taken"):
        publish(place, meanwhile=lambda _: put_old_array(place))
    np.testing.assert_array_equal(read(place), OLD)
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_output_takes_the_format_of_its_group(place):
    assert place.zarr_format == 3
    put_old_array(place, zarr_format=2)
    assert place.zarr_format == 2
    publish(place)
    assert zarr.open_array(Path(place.array_path), mode="r").metadata.zarr_format == 2
    zarr.create_group(Path(place.store).parent / "other.zarr")
    os.rename(Path(place.store).parent / "other.zarr" / "zarr.json", Path(place.store, "zarr.json"))
    assert place.zarr_format == 3


def test_nodes_are_told_by_their_metadata(tmp_path):
    for zarr_format in (2, 3):
        group = zarr.create_group(tmp_path / f"{zarr_format}", zarr_format=zarr_format)
        group.create_array("a", data=OLD)
        assert zarr_node(tmp_path / f"{zarr_format}") == "group"
        assert zarr_node(tmp_path / f"{zarr_format}" / "a") == "array"
    assert zarr_node(tmp_path / "missing") == ""
    assert zarr_node(tmp_path) == "other"
    (tmp_path / "link").symlink_to("nowhere")
    assert zarr_node(tmp_path / "link") == "other"
    for text in ("{", "[]", "3", "{}", "\udcff"):
        (tmp_path / "zarr.json").write_text(text, errors="surrogateescape")
        assert zarr_node(tmp_path) == "other"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_replaced_array_keeps_its_metadata_and_nothing_else(place, zarr_format):
    put_old_array(place, zarr_format)
    zarr.open_array(Path(place.array_path)).attrs["by"] = "hand"
    with replaced_output(place) as path:
        new = zarr.open_array(Path(path), mode="r+")
        assert not new[...].any()
        new[...] = OLD[::-1]
        np.testing.assert_array_equal(read(place), OLD)
    np.testing.assert_array_equal(read(place), OLD[::-1])
    assert zarr.open_array(Path(place.array_path), mode="r").attrs["by"] == "hand"
    assert not os.path.lexists(place.sibling("partial"))


def test_a_report_is_looked_for_where_each_kind_of_output_has_it():
    assert {kind.finest for kind in KINDS} == set(FINEST)
