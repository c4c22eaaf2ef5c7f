"""What lies about after a run: its output and nothing else, or the stage and the partial output that it names."""

import os
import tempfile

import dask
import dask.array as da
import dask.multiprocessing
import numpy as np
import pytest
from interrupted import EXPECTED, IMAGE, OPTIONS, PARTIAL, STAGE, Labeller, interrupt, interrupt_at, segment
from outcomes import refused, snapshot, write_image

from blockbuster import tile_process

pytestmark = [
    pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed"),
    pytest.mark.usefixtures("one_at_a_time"),
]


@pytest.fixture
def fn(tmp_path):
    return Labeller(tmp_path / "labeller")


def dask_image(_):
    return da.from_array(IMAGE, chunks=(19, 16))


def zarr_image(folder):
    (folder / "images").mkdir()
    return str(write_image(folder / "images" / "image.zarr", IMAGE))


IMAGES = {"NumPy": lambda _: IMAGE, "dask": dask_image, "zarr": zarr_image}
# What is given, what success leaves, and the folder that has the stage after a failure.
PLACES = {
    "write_to": ({"write_to": "out.zarr"}, ["out.zarr"], ""),
    "write_to in a new folder": ({"write_to": "new/out.zarr"}, ["new", "new/out.zarr"], "new"),
    "stage_dir": ({"stage_dir": "stages"}, [], "stages"),
    "both": ({"write_to": "out.zarr", "stage_dir": "stages"}, ["out.zarr"], "stages"),
    "neither": ({}, [], None),
}
CASES = [(place, kind, "threads") for place in PLACES for kind in IMAGES]
CASES += [("write_to", kind, "processes") for kind in IMAGES] + [("neither", "NumPy", "processes")]
every_case = pytest.mark.parametrize(("place", "kind", "scheduler"), CASES)
WHOLE = (".zarr", ".blockbuster-stage", ".blockbuster-partial")


def listed(folder):
    """What a folder holds, stores, stages and partial outputs as wholes."""
    return sorted(
        path for path in snapshot(folder) if not any(part.endswith(WHOLE) for part in path.split("/")[:-1])
    )


@every_case
def test_F26_success_leaves_the_output_and_nothing_else(place, kind, scheduler, fn, folder, temporary, workers):
    options, made, _ = PLACES[place]
    image = IMAGES[kind](folder)
    before, files = listed(folder), snapshot(folder)
    with workers(scheduler):
        labels = segment(fn, image, tiles_per_task=None, **options)
    np.testing.assert_array_equal(labels, EXPECTED)
    assert listed(folder) == sorted(before + made)
    assert files.items() <= snapshot(folder).items()
    assert os.listdir(temporary) == []


@every_case
def test_F26_failure_leaves_the_stage_that_it_names_and_the_next_run_removes_it(
    place, kind, scheduler, fn, folder, temporary, workers
):
    options, made, parent = PLACES[place]
    image = IMAGES[kind](folder)
    before, files = listed(folder), snapshot(folder)
    # Tasks of a failed run go on for a moment on a pool that is not its own.
    with dask.config.set(scheduler=scheduler) if parent is None else workers(scheduler):
        error = interrupt(fn, 5, image, **options)
        left = sorted(set(listed(folder)) - set(before))
        assert files.items() <= snapshot(folder).items()
        assert os.listdir(temporary) == []
        if parent is None:
            assert left == []
            assert not hasattr(error, "__notes__")
            return
        *folders, stage = left
        assert folders == [parent] * bool(parent)
        assert stage.endswith(".blockbuster-stage")
        assert os.path.dirname(stage) == parent
        assert f"The stage is kept in {folder / stage}; call again with resume=True" in error.__notes__[0]
        segment(fn, image, resume=True, **options)
    assert set(listed(folder)) == {*before, *made, *folders}
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("options", [{"write_to": "out.zarr"}, {"stage_dir": "stages"}, {}])
def test_F26_a_stage_that_is_to_be_kept_is_all_that_is_left_besides(options, fn, folder, temporary):
    segment(fn, keep_stage=True, **options)
    left = [path for root in (folder, temporary) for path in listed(root)]
    (stage,) = (path for path in left if path.endswith(".blockbuster-stage"))
    assert set(left) <= {stage, "out.zarr", "stages"}
    assert len(left) == 1 + len(options)


def test_F26_a_failure_in_the_merge_leaves_the_stage_and_the_partial_output(fn, folder, temporary):
    interrupt_at("box journalled", fn, write_to="out.zarr")
    assert sorted(os.listdir(folder)) == [PARTIAL, STAGE]
    segment(fn, write_to="out.zarr", resume=True)
    assert os.listdir(folder) == ["out.zarr"]
    assert os.listdir(temporary) == []


def run_and_die(fn, folder, temporary, **options):
    os.chdir(folder)
    tempfile.tempdir = temporary
    with dask.config.set(scheduler="synchronous"):
        tile_process(IMAGE, fn, **OPTIONS, **options)


KILLS = [
    (point, ["write_to"]) for point in ("stage made:1", "task journalled:3", "box written:1", "output in place:1")
]
KILLS += [("task journalled:3", ["stage_dir"]), ("box written:1", ["write_to", "stage_dir"])]


@pytest.mark.parametrize(("point", "given"), KILLS)
def test_F26_what_a_killed_run_left_is_removed_by_the_one_that_goes_on(
    point, given, fn, folder, temporary, zygote
):
    options = {name: {"write_to": "out.zarr", "stage_dir": "stages"}[name] for name in given}
    environment = {"BLOCKBUSTER_FAIL_POINT": point}
    child = zygote.start(run_and_die, fn, str(folder), str(temporary), environment=environment, **options)
    assert child.wait().killed
    labels = segment(fn, resume=True, **options)
    np.testing.assert_array_equal(labels, EXPECTED)
    assert set(os.listdir(folder)) <= {"out.zarr", "stages"}
    if os.path.exists("stages"):
        assert os.listdir("stages") == []
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(("point", "kept"), [("stage finished", STAGE), ("box journalled", PARTIAL)])
def test_F26_a_file_of_others_in_a_folder_of_ours_stays_and_a_warning_says_so(
    point, kept, fn, folder, monkeypatch
):
    def put_notes(passed):
        if passed == point:
            (folder / kept / "notes.txt").write_text("mine")

    with monkeypatch.context() as patch:
        patch.setattr("blockbuster.stage.staging.reach", put_notes)
        patch.setattr("blockbuster.run.finish.reach", put_notes)
        with pytest.warns(UserWarning, match=r"notes\.txt") as caught:
            labels = segment(fn, write_to="out.zarr")
    assert len(caught) == 1
    assert kept in str(caught[0].message)
    np.testing.assert_array_equal(labels, EXPECTED)
    assert sorted(os.listdir(folder)) == sorted(["out.zarr", kept])
    assert len(os.listdir(folder / kept)) == 2
    with (
        refused(FileExistsError, kept, "move it elsewhere", folder=folder),
        pytest.warns(UserWarning, match=r"notes\.txt"),
    ):
        segment(fn, write_to="out.zarr", overwrite=True)
    (folder / kept / "notes.txt").unlink()
    segment(fn, write_to="out.zarr", overwrite=True)
    assert os.listdir(folder) == ["out.zarr"]
