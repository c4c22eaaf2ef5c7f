"""A file is as it was, or complete, whenever the process that writes it is killed; the next call clears up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from outlined import draw, left_behind, read_features

from blockbuster import export_polygons
from blockbuster.objects.published import COMPLETE, published_file
from blockbuster.rundir.failpoints import VARIABLE

LABELS = np.kron(np.random.default_rng(2).integers(0, 9, (12, 10)), np.ones((2, 2), int))
CODE = """
import sys
import dask
import numpy as np
from blockbuster import export_polygons
labels = np.load("labels.npy")
with dask.config.set(scheduler="synchronous"):
    export_polygons(labels, "out.geojson", overwrite=sys.argv[1] == "overwrite")
"""


def export_killed(folder, point, *words):
    """Export in a process that is killed at a point."""
    np.save(folder / "labels.npy", LABELS)
    environment = os.environ | {VARIABLE: f"{point}:1"}
    command = [sys.executable, "-c", CODE, *(words or ["new"])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", ["export begun", "brick traced", "part written", "export flushed"])
@pytest.mark.parametrize("old", [None, "old"])
def test_killed_export_shows_nothing_and_the_next_one_works(point, old, folder):
    if old:
        Path("out.geojson").write_text(old)
    export_killed(folder, point, "overwrite" if old else "new")
    assert (Path("out.geojson").read_text() if Path("out.geojson").exists() else None) == old
    assert left_behind(folder)
    export_polygons(LABELS, "out.geojson", overwrite=bool(old))
    np.testing.assert_array_equal(draw(read_features("out.geojson"), LABELS.shape), LABELS)
    assert sorted(os.listdir()) == ["labels.npy", "out.geojson"]


def test_export_killed_when_it_is_done_leaves_a_whole_file(folder):
    export_killed(folder, "export in place")
    np.testing.assert_array_equal(draw(read_features("out.geojson"), LABELS.shape), LABELS)
    export_polygons(LABELS, "out.geojson", overwrite=True)
    assert sorted(os.listdir()) == ["labels.npy", "out.geojson"]


def test_file_that_appeared_meanwhile_is_left_alone(folder):
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(published_file(str(folder / "out"), replaces=False))
        Path(made, COMPLETE).write_text("new")
        Path("out").write_text("theirs")
        with pytest.raises(FileExistsError, match="out exists"):
            stack.close()
    assert os.listdir() == ["out"]
    assert Path("out").read_text() == "theirs"


def test_folder_of_others_in_the_way_is_left_alone(folder):
    Path("out.geojson.blockbuster-partial").mkdir()
    Path("out.geojson.blockbuster-partial/mine").write_text("mine")
    with pytest.raises(FileExistsError, match="not from blockbuster"):
        export_polygons(LABELS, "out.geojson")
    assert Path("out.geojson.blockbuster-partial/mine").read_text() == "mine"


def test_two_exports_of_one_file_exclude_each_other(folder):
    with published_file(str(folder / "out.geojson"), replaces=False) as made:
        with pytest.raises(RuntimeError, match=r"the file .*out\.geojson is locked by process"):
            export_polygons(LABELS, "out.geojson")
        Path(made, COMPLETE).write_text(json.dumps("mine"))
    assert Path("out.geojson").read_text() == '"mine"'
    assert os.listdir() == ["out.geojson"]


def test_folders_above_are_made_and_go_again_when_it_fails(folder):
    with pytest.raises(ValueError, match="labels hold -"):
        export_polygons(-LABELS, "a/b/out.geojson")
    assert os.listdir() == []
    export_polygons(LABELS, "a/b/out.geojson")
    assert os.listdir("a/b") == ["out.geojson"]


def test_full_disk_is_explained_and_leaves_nothing(folder, monkeypatch):
    def fail(parts, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blockbuster.objects.geojson.finish", fail)
    with pytest.raises(OSError, match=r"there is no room for .*out\.geojson"):
        export_polygons(LABELS, "out.geojson")
    assert os.listdir() == []


def test_interrupt_leaves_nothing(folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("blockbuster.objects.geojson.finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_polygons(LABELS, "out.geojson")
    assert os.listdir() == []
