"""The stage directory is made with its manifest, known by it, and removed without a file of others (F14, F15)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from outcomes import refused, snapshot

from blockbuster.rundir.folder import (
    FORMAT,
    MANIFEST,
    clear_abandoned,
    create_stage,
    has_finished_work,
    is_abandoned,
    is_stage,
    make_marked_folder,
    read_manifest,
    remove_stage,
)
from blockbuster.rundir.journal import JOURNAL, Journal


@pytest.fixture
def stage(tmp_path):
    """A stage with everything that a run puts into one."""
    path = tmp_path / "out.zarr.labels.blockbuster-stage"
    create_stage(path, {"run": "1"})
    with Journal(str(path)) as journal:
        journal.append({"task": 1})
    for name in (
        "layout.json",
        "stop",
        "counts.npy",
        "probe-0.npy",
        "image.npy",
        "tasks-0123.pickle",
        ".writing-x",
        "part-1/0.tiles",
        "part-1/17.tiles",
        "part-1/.writing-y",
        # As earlier versions had it.
        "part-0/labels/uint16/zarr.json",
        "part-0/labels/uint16/c/0/1",
        "part-0/labels/uint16/c/0/1.3f2a.partial",
        "part-0/sidecars/17.npz",
        "part-0/sidecars/.writing-y",
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return path


def test_a_stage_has_a_manifest_from_the_first_moment(tmp_path):
    path = tmp_path / "new" / "stage"
    create_stage(path, {"run": "7"})
    assert is_stage(path)
    assert os.listdir(path) == [MANIFEST]
    assert os.listdir(tmp_path / "new") == ["stage"]
    assert read_manifest(path)["run"] == "7"
    assert read_manifest(path)["format"] == FORMAT
    assert not has_finished_work(path)


UNFINISHED = ".writing-" + "0a" * 16


@pytest.mark.parametrize("left", [[], [UNFINISHED]])
def test_F30_what_a_process_left_that_was_killed_while_it_made_or_removed_a_stage_is_no_obstacle(left, tmp_path):
    (tmp_path / "stage").mkdir()
    for name in left:
        (tmp_path / "stage" / name).write_text("{")
    assert is_abandoned(tmp_path / "stage")
    create_stage(tmp_path / "stage", {})
    assert os.listdir(tmp_path / "stage") == [MANIFEST]
    assert os.listdir(tmp_path) == ["stage"]


def fill_with_notes(path):
    path.mkdir()
    (path / UNFINISHED).touch()
    (path / "notes.txt").write_text("mine")


def fill_with_a_folder(path):
    (path / UNFINISHED).mkdir(parents=True)


MAKERS = [fill_with_notes, fill_with_a_folder, Path.touch, lambda path: path.symlink_to("nowhere")]


@pytest.mark.parametrize("make", MAKERS)
def test_F14_nothing_is_made_over_what_is_there(make, tmp_path):
    make(tmp_path / "stage")
    assert not is_abandoned(tmp_path / "stage")
    with refused(FileExistsError, "stage", "in the way", "move it elsewhere", folder=tmp_path):
        create_stage(tmp_path / "stage", {})
    clear_abandoned(tmp_path / "stage")
    with refused(FileExistsError, "stage", "in the way", folder=tmp_path):
        create_stage(tmp_path / "stage", {})


def test_F30_an_empty_folder_behind_a_link_is_left_alone(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "stage").symlink_to(tmp_path / "theirs")
    with refused(FileExistsError, "stage", "in the way", folder=tmp_path):
        create_stage(tmp_path / "stage", {})


def test_F30_the_mark_of_a_stage_is_the_last_that_is_removed(stage, monkeypatch):
    removed, unlink = [], os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: (removed.append(Path(path).name), unlink(path)))
    remove_stage(stage)
    assert (removed[0], removed[-1]) == (JOURNAL, MANIFEST)


def test_a_folder_that_cannot_be_marked_is_removed_again(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no renames today")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no renames today"):
        make_marked_folder(tmp_path / "x", "mark", "text", 0o700)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"kind": "other"}', "\ud800"])
def test_F14_a_folder_without_our_manifest_is_no_stage(text, tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert not is_stage(tmp_path / "stage")
    with refused(OSError, MANIFEST, "damaged or missing", folder=tmp_path):
        read_manifest(tmp_path / "stage")
    with refused(ValueError, "is not a stage of blockbuster and is left alone", folder=tmp_path):
        remove_stage(tmp_path / "stage")


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch])
def test_F14_what_is_no_stage_at_all_is_left_alone(make, tmp_path):
    make(tmp_path / "stage")
    with refused(ValueError, "left alone", folder=tmp_path):
        remove_stage(tmp_path / "stage")


def test_a_stage_is_removed_with_everything_that_a_run_puts_into_it(stage):
    assert has_finished_work(stage)
    remove_stage(stage)
    assert os.listdir(stage.parent) == []


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "labels.tif",
        "17.tiles",
        "part-1/notes.txt",
        "part-1/my.tiles",
        "part-1/17.tiles.bak",
        "part-1/deep/my.tif",
        "part-0/labels/uint16/my.tif",
        "part-2x/a.txt",
        "deep/x",
    ],
)
def test_F14_files_of_others_in_a_stage_stay_with_their_folders_and_a_warning_says_so(name, stage):
    path = stage / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.warns(UserWarning, match="holds what blockbuster did not make: " + name.split("/")[0]):
        remove_stage(stage)
    left = snapshot(stage)
    assert {found for found, what in left.items() if what != "folder"} == {name, MANIFEST}
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["notes.txt", "part-1/.nfs0000000000a1", "part-0/labels/uint16/.nfs0000000000a1"]
)
def test_F30_a_stage_that_could_not_be_removed_as_a_whole_is_ours_until_it_is(name, stage):
    """As on NFS, where a file that somebody has open stays under another name until it is closed."""
    (stage / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match="is left"):
        remove_stage(stage)
    assert is_stage(stage)
    assert not has_finished_work(stage)
    (stage / name).unlink()
    remove_stage(stage)
    assert os.listdir(stage.parent) == []


def test_F15_links_in_a_stage_are_not_followed(stage, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "0").write_text("mine")
    (tmp_path / "theirs" / "17.tiles").write_text("mine")
    before = snapshot(tmp_path / "theirs")
    shutil.rmtree(stage / "part-0" / "sidecars")
    (stage / "part-0" / "sidecars").symlink_to(tmp_path / "theirs")
    (stage / "part-1" / "0.tiles").unlink()
    (stage / "part-1" / "0.tiles").symlink_to(tmp_path / "theirs" / "17.tiles")
    (stage / "part-2").symlink_to(tmp_path / "theirs")
    (stage / "roots.npy").symlink_to(tmp_path / "theirs" / "0")
    with pytest.warns(UserWarning, match="holds what blockbuster did not make"):
        remove_stage(stage)
    assert snapshot(tmp_path / "theirs") == before


def test_F15_a_link_to_a_stage_is_none(stage, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(stage)
    with refused(ValueError, "left alone", folder=tmp_path):
        remove_stage(link)


@pytest.mark.parametrize("what", ["working directory", "home folder", "input"])
def test_F15_a_stage_is_not_removed_with_what_must_stay(what, stage, monkeypatch):
    inside = stage / "part-1"
    if what == "working directory":
        monkeypatch.chdir(inside)
    if what == "home folder":
        monkeypatch.setenv("HOME", str(inside))
    with refused(ValueError, what, "left alone", folder=stage):
        remove_stage(stage, keep=[str(inside / "image.zarr")] if what == "input" else [])
    assert has_finished_work(stage)


MOUNTED = """
import os, sys
from blockbuster.rundir.folder import MANIFEST, create_stage, is_stage, remove_stage
create_stage("other", {})
with open("other/" + MANIFEST) as manifest, open("stage/" + MANIFEST, "x") as copy:
    copy.write(manifest.read())
try:
    remove_stage("stage")
except ValueError as error:
    print(error, is_stage("stage"))
"""


def test_F15_a_stage_that_is_a_mount_point_is_left_alone(tmp_path):
    (tmp_path / "stage").mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs tmpfs stage"
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, mount], cwd=tmp_path, capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a file system in a namespace of their own")
    (tmp_path / "script.py").write_text(MOUNTED)
    command = [*unshare, f"{mount} && exec '{sys.executable}' script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stage is a mount point" in done.stdout
    assert done.stdout.endswith("left alone. True\n")


def test_a_stage_that_was_removed_in_part_has_no_finished_work_and_is_still_a_stage(stage):
    (stage / JOURNAL).unlink()
    assert is_stage(stage)
    assert not has_finished_work(stage)
    remove_stage(stage)
    assert not stage.exists()


def test_a_manifest_that_was_changed_is_noticed_and_the_stage_is_still_ours(stage):
    text = (stage / MANIFEST).read_text()
    (stage / MANIFEST).write_text(text.replace('"run": "1"', '"run": "2"'))
    with refused(OSError, MANIFEST, "checksum", "overwrite=True", folder=stage):
        read_manifest(stage)
    assert is_stage(stage)
    remove_stage(stage)
    assert not stage.exists()


def test_manifest_of_a_later_version_is_still_ours(tmp_path):
    create_stage(tmp_path / "stage", {})
    path = tmp_path / "stage" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1, "more": True}))
    assert is_stage(tmp_path / "stage")
    assert read_manifest(tmp_path / "stage")["format"] == FORMAT + 1
