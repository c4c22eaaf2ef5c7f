"""Two runs at once, and locks that others left (F16, F28): both right, or one refused; never mixed."""

import json
import os
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from interrupted import (
    EXPECTED,
    IMAGE,
    N_TILES,
    OPTIONS,
    Labeller,
    contents,
    dead_pid,
    interrupt,
    segment,
)
from outcomes import consolidate, refused, write_image

from blockbuster import plan_run, tile_process
from blockbuster.rundir.lock import RunLock

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_at_a_time")]

REFUSED = {"RuntimeError": "is locked by process", "FileExistsError": "exists; pass overwrite=True"}


def run_at_once(meeting, fn, image, options):
    """Be one of two runs that begin together."""
    Path(meeting, str(os.getpid())).touch()
    while len(os.listdir(meeting)) < 2:
        time.sleep(0.0002)
    with dask.config.set(scheduler="synchronous"):
        return np.asarray(tile_process(image, fn, **OPTIONS, **options))


def run_both(zygote, folder, fns, first, second, images=(IMAGE, IMAGE)):
    """Outcomes of two runs at once."""
    meeting = folder / "meeting"
    meeting.mkdir()
    parts = zip(fns, images, (first, second), strict=True)
    children = [zygote.start(run_at_once, str(meeting), fn, image, options) for fn, image, options in parts]
    outcomes = [child.wait() for child in children]
    for path in meeting.iterdir():
        path.unlink()
    meeting.rmdir()
    return outcomes


def assert_done_or_refused(outcomes):
    """At least one run ended well, and each other was told who was in the way. Give the number of the first."""
    done = [outcome for outcome in outcomes if not outcome.error]
    assert done, outcomes
    for outcome in outcomes:
        if outcome.error:
            assert REFUSED[outcome.error] in outcome.message
        else:
            np.testing.assert_array_equal(outcome.result(), EXPECTED)
    return len(done)


@pytest.mark.parametrize("attempt", range(6))
def test_F16_of_two_runs_for_one_output_one_makes_it_and_the_other_is_told(attempt, zygote, tmp_path, clean):
    fns = [Labeller(tmp_path / name) for name in "ab"]
    place = {"write_to": str(tmp_path / "out.zarr")}
    outcomes = run_both(zygote, tmp_path, fns, place, place)
    assert assert_done_or_refused(outcomes) == 1
    assert sorted(sum(fn.calls.values()) for fn in fns) == [0, N_TILES]
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "out.zarr"]


@pytest.mark.parametrize("attempt", range(3))
def test_F16_of_two_runs_with_other_stages_for_one_output_one_makes_it(attempt, zygote, tmp_path, clean):
    fns = [Labeller(tmp_path / name) for name in "ab"]
    places = [
        {"write_to": str(tmp_path / "out.zarr"), "stage_dir": str(tmp_path / f"{name} stage")} for name in "ab"
    ]
    outcomes = run_both(zygote, tmp_path, fns, *places)
    assert assert_done_or_refused(outcomes) == 1
    assert sorted(sum(fn.calls.values()) for fn in fns) == [0, N_TILES]
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "out.zarr"]


@pytest.mark.parametrize("attempt", range(4))
def test_F16_the_same_resume_twice_calls_fn_once_for_each_unfinished_tile(attempt, zygote, tmp_path, clean):
    fn = Labeller(tmp_path / "labeller")
    interrupt(fn, 5, write_to=tmp_path / "out.zarr")
    place = {"write_to": str(tmp_path / "out.zarr"), "resume": True}
    outcomes = run_both(zygote, tmp_path, [fn, fn], place, place)
    # The later one may find the output finished.
    assert_done_or_refused(outcomes)
    assert sum(fn.calls.values()) == N_TILES - 5
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["labeller", "out.zarr"]


@pytest.mark.parametrize("place", [True, False])
def test_F16_two_runs_over_one_image_with_the_default_stage_are_both_right(place, zygote, tmp_path, clean):
    image = str(write_image(tmp_path / "image.zarr", IMAGE))
    fns = [Labeller(tmp_path / name) for name in "ab"]
    places = [{"write_to": str(tmp_path / f"{name}.zarr")} if place else {} for name in "ab"]
    outcomes = run_both(zygote, tmp_path, fns, *places, images=(image, image))
    assert assert_done_or_refused(outcomes) == 2
    assert [sum(fn.calls.values()) for fn in fns] == [N_TILES] * 2
    made = ["a.zarr", "b.zarr"] if place else []
    assert sorted(os.listdir(tmp_path)) == sorted(["a", "b", "image.zarr", *made])
    for name in made:
        assert contents(tmp_path / name) == clean


def test_F16_two_runs_of_one_name_share_a_folder_for_their_stages(zygote, tmp_path, clean):
    fns = [Labeller(tmp_path / name) for name in "ab"]
    stage_dir = str(tmp_path / "stages")
    places = [
        {"write_to": str(tmp_path / f"{name} out" / "labels.zarr"), "stage_dir": stage_dir} for name in "ab"
    ]
    outcomes = run_both(zygote, tmp_path, fns, *places)
    assert assert_done_or_refused(outcomes) == 2
    for name in "ab":
        assert contents(tmp_path / f"{name} out" / "labels.zarr") == clean


def assert_both_arrays(store, names):
    group = zarr.open_group(store, mode="r")
    assert sorted(name for name, _ in group.arrays()) == sorted(names)
    for name in "ab":
        np.testing.assert_array_equal(group[name][...], EXPECTED)


@pytest.mark.parametrize("kind", ["new", "empty folder", "group", "consolidated", "consolidated, format 2"])
def test_F16_labels_of_two_names_are_written_into_one_store_at_once(kind, zygote, tmp_path):
    store = tmp_path / "out.zarr"
    old = ["old"] if kind not in ("new", "empty folder") else []
    if kind == "empty folder":
        store.mkdir()
    if old:
        zarr.create_group(store, zarr_format=2 if "2" in kind else 3).create_array("old", data=np.arange(3))
    if "consolidated" in kind:
        consolidate(store)
    fns = [Labeller(tmp_path / name) for name in "ab"]
    places = [{"write_to": str(store), "output_component": name} for name in "ab"]
    outcomes = run_both(zygote, tmp_path, fns, *places)
    assert assert_done_or_refused(outcomes) == 2
    assert_both_arrays(store, ["a", "b", *old])
    assert (zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None) == (
        "consolidated" in kind
    )
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "out.zarr"]


# -- locks that others left


def put_lock(path, age=0.0, **changes):
    """Write the lock of another process, whose last heartbeat was so many seconds ago."""
    fields = json.loads(RunLock(path, "the output of another").content)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(json.dumps({**fields, **changes}).encode() + b"\n")
    os.utime(path, (time.time() - age,) * 2)


def lock_paths(folder):
    """Where the locks of a run are: of its output, and of its stage in another folder."""
    plan = plan_run(IMAGE, **OPTIONS, write_to=folder / "out.zarr", stage_dir=folder / "stages")
    stage = Path(plan.stage_path)
    locks = {"output": Path(plan.place.sibling("lock")), "stage": stage.with_suffix(".blockbuster-lock")}
    return {**locks, "store": Path(f"{plan.place.store}.blockbuster-lock")}


ELSEWHERE = {"host": "elsewhere", "boot_id": "another", "namespace": "pid:[1]"}
GONE = {
    "dead process of this host": lambda: {"pid": dead_pid()},
    "another host, long ago": lambda: {**ELSEWHERE, "age": 301},
    "this host before it was booted": lambda: {"boot_id": "another", "age": 10**8},
}
ALIVE = {
    "process of this host": lambda: {},
    "process of this host that stands still": lambda: {"age": 10**6},
    "another host": lambda: {**ELSEWHERE, "age": 200},
}


@pytest.mark.parametrize("which", ["output", "stage", "store"])
@pytest.mark.parametrize("whose", GONE)
def test_F28_the_lock_of_a_run_that_is_gone_is_taken_over(whose, which, tmp_path, clean):
    fn = Labeller(tmp_path / "labeller")
    put_lock(lock_paths(tmp_path)[which], **GONE[whose]())
    segment(fn, write_to=tmp_path / "out.zarr", stage_dir=tmp_path / "stages")
    assert contents(tmp_path / "out.zarr") == clean
    assert set(os.listdir(tmp_path)) - {"stages"} == {"labeller", "out.zarr"}


@pytest.mark.parametrize("which", ["output", "stage"])
@pytest.mark.parametrize("whose", ALIVE)
def test_F28_the_lock_of_a_run_that_may_live_is_respected_and_named(whose, which, tmp_path):
    fn = Labeller(tmp_path / "labeller")
    interrupt(fn, 3, write_to=tmp_path / "out.zarr", stage_dir=tmp_path / "stages")
    path = lock_paths(tmp_path)[which]
    put_lock(path, **ALIVE[whose]())
    with refused(
        RuntimeError, "is locked by process", str(path), "Wait for that run or stop it", folder=tmp_path
    ):
        segment(fn, write_to=tmp_path / "out.zarr", stage_dir=tmp_path / "stages", resume=True)
    assert fn.calls == {}
    path.unlink()
    segment(fn, write_to=tmp_path / "out.zarr", stage_dir=tmp_path / "stages", resume=True)
    assert sum(fn.calls.values()) == N_TILES - 3


def test_F28_something_else_at_the_place_of_a_lock_is_left_alone(tmp_path):
    fn = Labeller(tmp_path / "labeller")
    path = lock_paths(tmp_path)["output"]
    path.write_text("my notes")
    with refused(RuntimeError, str(path), "not a complete lock file of blockbuster", folder=tmp_path):
        segment(fn, write_to=tmp_path / "out.zarr")
    assert fn.calls == {}


def test_F16_a_run_whose_lock_is_taken_away_publishes_nothing(tmp_path, monkeypatch):
    fn = Labeller(tmp_path / "labeller")
    lock = Path(plan_run(IMAGE, **OPTIONS, write_to=tmp_path / "out.zarr").place.sibling("lock"))

    def take_away(point):
        if point == "seams matched":
            lock.unlink()

    with monkeypatch.context() as patch:
        patch.setattr("blockbuster.run.finish.reach", take_away)
        with pytest.raises(RuntimeError, match="was lost") as caught:
            segment(fn, write_to=tmp_path / "out.zarr")
    assert str(lock) in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()
    fn.go_on()
    np.testing.assert_array_equal(segment(fn, write_to=tmp_path / "out.zarr", resume=True), EXPECTED)
    assert fn.calls == {}
