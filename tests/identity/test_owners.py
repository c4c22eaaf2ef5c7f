"""Who may enter what a run keeps on disk: its user alone, unless a group is asked in (F34)."""

import json
import os
import pickle
import stat

import dask
import numpy as np
import pytest
from scipy import ndimage
from users import Planted

from blockbuster import tile_process, zarr_native_merge
from blockbuster.compat import open_labels
from blockbuster.execution.task_folder import Batch, TaskFolder
from blockbuster.identity.owners import refuse_foreign, refuse_links
from blockbuster.output.layout import ArrayLayout
from blockbuster.output.places import ArrayPlace
from blockbuster.output.publishing import partial_output
from blockbuster.rundir.folder import create_stage

IMAGE = np.zeros((8, 16), "uint8")
IMAGE[1::2, 2:14] = 1
TILES = {"tile_shape": (8, 4), "tiles_per_task": 1}
SHARED = ("BLOCKBUSTER_SHARE_STAGE", "group")


@pytest.fixture(params=[0o000, 0o002, 0o022], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def bars(tile):
    return ndimage.label(tile)[0]


def modes_of(folder, **options):
    """The modes of the folders of ours that fn finds in a folder, by what they are for."""
    seen = {}

    def look(tile):
        found = [path for path in folder.iterdir() if path.is_dir() and "blockbuster" in path.name]
        seen.update({path.name.rpartition("blockbuster-")[2]: mode(path) for path in found})
        return bars(tile)

    tile_process(IMAGE, look, fn_version="1", **TILES, **options)
    return seen


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("shared", [False, True])
def test_F34_a_stage_in_the_systems_temporary_folder_is_for_its_user_alone(temporary, monkeypatch, shared):
    if shared:
        monkeypatch.setenv(*SHARED)
    assert modes_of(temporary) == {"stage": 0o700}
    assert list(temporary.iterdir()) == []


def test_F34_a_stage_is_for_its_user_alone_and_the_labels_for_whom_the_umask_lets(folder, umask):
    assert modes_of(folder, write_to=folder / "out.zarr", keep_stage=True) == {"stage": 0o700}
    assert mode(folder / "out.zarr.labels.blockbuster-stage") == 0o700
    for path in (folder / "out.zarr").rglob("*"):
        assert mode(path) == (0o777 if path.is_dir() else 0o666) & ~umask


def test_F34_a_group_is_asked_in_by_the_environment(folder, umask, monkeypatch):
    monkeypatch.setenv(*SHARED)
    assert modes_of(folder, write_to=folder / "out.zarr") == {"stage": 0o770 & ~umask}
    tasks = TaskFolder.create(Batch(print, None), str(folder))
    assert mode(folder / tasks.path) == 0o770 & ~umask


@pytest.mark.usefixtures("umask")
def test_F34_tasks_are_for_their_user_alone(folder):
    tasks = TaskFolder.create(Batch(print, None), str(folder))
    assert mode(folder / tasks.path) == 0o700


def test_F34_unfinished_labels_are_for_their_user_alone(folder):
    place = ArrayPlace(str(folder / "out.zarr"), "labels")
    layout = place.layout(ArrayLayout((8, 16), np.dtype("int32"), (8, 16), (8, 16)), None)
    with partial_output(place, lambda store: place.create(store, layout)):
        assert mode(folder / "out.zarr.labels.blockbuster-partial") == 0o700


def test_F34_an_environment_that_asks_in_somebody_else_is_an_error_before_any_work(folder, monkeypatch):
    monkeypatch.setenv("BLOCKBUSTER_SHARE_STAGE", "everybody")
    with pytest.raises(ValueError, match="BLOCKBUSTER_SHARE_STAGE is 'everybody'.*it is 'group', or not set"):
        modes_of(folder, write_to=folder / "out.zarr")
    assert list(folder.iterdir()) == []


@pytest.fixture
def unfinished(folder):
    """A stage that a run left after two of its four tiles, and how to call again."""
    calls = []

    def fn(tile):
        calls.append(tile.shape)
        if len(calls) == 3:
            raise RuntimeError("not now")
        return bars(tile)

    def run(**options):
        return tile_process(IMAGE, fn, stage_dir=folder, fn_version="1", **TILES, **options)

    with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="not now"):
        run()
    (stage,) = folder.glob("*.blockbuster-stage")
    yield stage, run
    assert len(calls) == 5


@pytest.mark.parametrize("open_to", [0o770, 0o703])
def test_F34_a_stage_that_others_may_write_to_is_warned_of_once(unfinished, open_to):
    stage, run = unfinished
    stage.chmod(open_to)
    with pytest.warns(UserWarning, match="other users can write to the stage .*chmod go-w") as caught:
        labels = run(resume=True)
    assert (len(caught), caught[0].filename) == (1, __file__)
    assert np.array_equal(labels, bars(IMAGE))


@pytest.mark.parametrize("name", ["stage", "with: a colon", "a:b:c"])
def test_F34_a_folder_of_somebody_else_can_be_trusted_whatever_its_name(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr("blockbuster.identity.owners._owner_of_new", lambda path: os.getuid() + 1)
    with pytest.raises(PermissionError, match=f"set BLOCKBUSTER_TRUST_STAGE={tmp_path}/{name} in the env"):
        refuse_foreign(tmp_path / name)
    monkeypatch.setenv("BLOCKBUSTER_TRUST_STAGE", f"{tmp_path}/{name}")
    refuse_foreign(tmp_path / name)
    monkeypatch.setenv("BLOCKBUSTER_TRUST_STAGE", f"{tmp_path}/{name}-other")
    with pytest.raises(PermissionError):
        refuse_foreign(tmp_path / name)


def test_F34_a_stage_that_is_shared_on_purpose_is_not_warned_of(unfinished, monkeypatch):
    stage, run = unfinished
    stage.chmod(0o770)
    monkeypatch.setenv(*SHARED)
    assert np.array_equal(run(resume=True), bars(IMAGE))


def test_F34_links_anywhere_in_a_stage_are_refused_and_stay(unfinished, folder):
    stage, run = unfinished
    (folder / "precious").write_text("somebody's")
    journal = stage / "journal.jsonl"
    journal.rename(folder / "journal")
    journal.symlink_to(folder / "precious")
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="journal.jsonl is a symbolic link, which blockbuster never puts"):
            run(**options)
    assert (folder / "precious").read_text() == "somebody's"
    journal.unlink()
    (folder / "journal").rename(journal)
    assert np.array_equal(run(resume=True), bars(IMAGE))


def test_links_are_found_at_any_depth(tmp_path):
    create_stage(tmp_path / "stage", {})
    refuse_links(tmp_path / "stage")
    (tmp_path / "stage" / "a" / "b").mkdir(parents=True)
    (tmp_path / "stage" / "a" / "b" / "c").symlink_to("/nowhere")
    with pytest.raises(ValueError, match="a/b/c is a symbolic link"):
        refuse_links(tmp_path / "stage")


def test_F34_a_stage_that_was_kept_is_merged_by_whoever_may_read_it_without_a_pickle(folder):
    tile_process(IMAGE, bars, stage_dir=folder, keep_stage=True, **TILES)
    (stage,) = folder.glob("*.blockbuster-stage")
    assert not list(stage.rglob("*.pickle"))
    stage.chmod(0o777)
    assert zarr_native_merge(stage, "", folder / "merged.zarr", "labels") == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("filters", [["vlen-utf8", "pickle"], ["vlen-bytes", "pickle"]])
def test_F34_labels_that_objects_took_the_place_of_are_not_read(folder, filters):
    stated = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "order": "C", "compressor": None}
    stated |= {"fill_value": "", "filters": [{"id": name} for name in filters]}
    (folder / "labels").mkdir()
    (folder / "labels" / ".zarray").write_text(json.dumps(stated))
    (folder / "labels" / "0").write_bytes(pickle.dumps(Planted()))
    # As strings or objects they are no labels, whatever zarr would make of them.
    with pytest.raises(TypeError, match="labels holds .*; labels are integers"):
        open_labels(folder / "labels")
    assert not (folder / "ran").exists()
