"""Functions that write to a file or change a list that is a part of them, and go on all the same (F13, F33)."""

import collections
import functools
import importlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import dask
import interrupted
import naive
import numpy as np
import pytest
from interrupted import IMAGE, N_TILES, Labeller, contents, interrupt_at, segment
from outcomes import refused, snapshot

from blockbuster import plan_run, read_report
from blockbuster.rundir.failpoints import VARIABLE
from blockbuster.rundir.journal import read_journal
from blockbuster.stage.finished import read_task_records

OPTIONS = {"fn_version": None, "resume": True}
WAY_OUT = "pass fn_version, any text that stands for it"


@pytest.fixture(autouse=True)
def one_at_a_time():
    with dask.config.set(scheduler="synchronous", num_workers=2):
        yield


@pytest.fixture
def labeller(tmp_path):
    return Labeller(tmp_path / "labeller")


def stop(labeller, fn, after, **options):
    """Run until so many tiles are labelled."""
    labeller.stop_after(after)
    with pytest.raises(Exception, match="the power is off"):
        segment(fn, **OPTIONS, **options)
    labeller.go_on()


def goes_on(labeller, make, place, clean, expected=N_TILES - 5):
    """Resume a run that was stopped after five tiles, and ask for the finished output again."""
    segment(make(), **OPTIONS, **place)
    assert sum(labeller.calls.values()) == expected
    assert contents(place["write_to"]) == clean
    labeller.go_on()
    before = snapshot(place["write_to"])
    segment(make(), **OPTIONS, **place)
    assert labeller.calls == {}
    assert snapshot(place["write_to"]) == before


def appends_to(path, label):
    def label_and_log(pixels):
        with open(path, "a") as file:
            file.write("a tile\n")
        return label(pixels)

    return label_and_log


def makes(path, label):
    """Write a file at the first call, and read it in the others."""

    def label_with_range(pixels):
        if not os.path.exists(path):
            np.save(path, pixels.max())
        return label(pixels * (np.load(path) > 0))

    return label_with_range


@pytest.mark.parametrize(("kind", "before"), [(str, None), (Path, ""), (str, "an older run\n")])
def test_F33_fn_that_appends_to_a_log_is_resumed(kind, before, labeller, tmp_path, clean):
    path, place = tmp_path / "k0.log", {"write_to": tmp_path / "out.zarr"}
    if before is not None:
        path.write_text(before)
    stop(labeller, appends_to(kind(path), labeller), 5, **place)
    assert len(path.read_text()) > len(before or "")
    assert not any(
        "grown" in record for record in read_task_records(plan_run(IMAGE, **place).stage_path).values()
    )
    goes_on(labeller, lambda: appends_to(kind(path), labeller), place, clean)
    assert read_report(place["write_to"]).grown == {f"file {path}": -1 if before is None else len(before)}


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_F33_fn_that_appends_to_a_log_on_other_workers_is_resumed(scheduler, pool, labeller, tmp_path, clean):
    path, place = tmp_path / "k0.log", {"write_to": tmp_path / "out.zarr"}
    with dask.config.set(scheduler=scheduler, **({"pool": pool} if scheduler == "processes" else {})):
        stop(labeller, appends_to(str(path), labeller), 5, **place)
        segment(appends_to(str(path), labeller), **OPTIONS, **place)
    assert contents(place["write_to"]) == clean


def test_F33_fn_that_makes_a_file_is_resumed(labeller, tmp_path, clean):
    path, place = str(tmp_path / "range.npy"), {"write_to": tmp_path / "out.zarr"}
    stop(labeller, makes(path, labeller), 5, **place)
    goes_on(labeller, lambda: makes(path, labeller), place, clean)


def test_F33_a_log_that_fn_appends_to_again_and_again_is_no_part_of_it(labeller, tmp_path, clean):
    path, place = tmp_path / "k0.log", {"write_to": tmp_path / "out.zarr"}
    for after in (3, 1, 4):
        stop(labeller, appends_to(str(path), labeller), after, **place)
    segment(appends_to(str(path), labeller), **OPTIONS, **place)
    assert sum(labeller.calls.values()) == N_TILES - 8
    assert contents(place["write_to"]) == clean


def keeps(log, label):
    """A function that notes each tile in a list, a dictionary or the like."""

    def label_and_keep(pixels):
        labels = label(pixels)
        if isinstance(log, dict):
            log[len(log)] = labels.max()
        else:
            log.append(labels.max())
        return labels

    return label_and_keep


GROWING = {
    "list": list,
    "dictionary": dict,
    "default": lambda: collections.defaultdict(list),
    "queue": collections.deque,
    "list with older entries": lambda: ["an older run"],
    "dictionary with older entries": lambda: {"an older": "run"},
}


@pytest.mark.parametrize("what", GROWING)
def test_F33_fn_that_appends_to_what_it_holds_is_resumed(what, labeller, tmp_path, clean):
    log, place = GROWING[what](), {"write_to": tmp_path / "out.zarr"}
    stop(labeller, keeps(log, labeller), 5, **place)
    assert len(log) >= 5
    goes_on(labeller, lambda: keeps(log, labeller), place, clean)
    # In another process it is as it was at first.
    segment(keeps(GROWING[what](), labeller), **OPTIONS, **place)
    assert labeller.calls == {}


def test_F33_a_list_deep_inside_an_object_may_grow(labeller, tmp_path, clean):
    class Model:
        def __init__(self):
            self.state = {"times": [], "sizes": {"large": [1]}}

        def __call__(self, pixels):
            self.state["sizes"]["large"].append(2)
            return labeller(pixels)

    model, place = Model(), {"write_to": tmp_path / "out.zarr"}
    stop(labeller, model, 5, **place)
    goes_on(labeller, lambda: model, place, clean)


SCRIPT = """
import sys
sys.path[:0] = {tests!r}
import dask
from test_fn_that_changes import appends_to, segment, Labeller
labeller = Labeller.__new__(Labeller)
labeller.folder = {calls!r}
with dask.config.set(scheduler="synchronous"):
    segment(appends_to({log!r}, labeller), fn_version=None, resume=True, write_to={out!r})
"""


def test_F33_fn_that_appends_to_a_log_is_resumed_after_a_kill(labeller, tmp_path, clean):
    path, place = tmp_path / "k0.log", {"write_to": tmp_path / "out.zarr"}
    names = {
        "tests": [str(folder) for folder in Path(__file__).parents[:2]],
        "log": str(path),
        "out": str(place["write_to"]),
    }
    script = SCRIPT.format(calls=labeller.folder, **names)
    environment = {**os.environ, VARIABLE: "task finished:6"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert path.read_text().count("a tile") == 6
    labeller.go_on()
    goes_on(labeller, lambda: appends_to(str(path), labeller), place, clean)


@pytest.mark.parametrize("is_lost", [False, True])
def test_F33_growth_is_not_written_into_a_stage_that_may_be_another_runs(is_lost, tmp_path, monkeypatch):
    log, place = [], {"write_to": tmp_path / "out.zarr"}
    plan = plan_run(IMAGE, **interrupted.OPTIONS, **place)

    def fn(pixels):
        return naive.label(pixels * (len(log) >= 0))

    def grow_and_stop(point):
        if point == "task journalled":
            log.append(1)
            if is_lost:
                os.unlink(plan.place.sibling("lock"))
            raise ArithmeticError("stopped")

    monkeypatch.setattr("blockbuster.stage.tally.reach", grow_and_stop)
    with pytest.raises(ArithmeticError, match="stopped"):
        segment(fn, **OPTIONS, **place)
    assert bool(list(read_journal(plan.stage_path, "grown"))) != is_lost


# -- what is not fn's doing


def reads(path, label):
    """A function that reads a table with each tile."""

    def label_by_table(pixels):
        return label(pixels * (len(Path(path).read_text()) > 0))

    return label_by_table


def test_F13_a_table_that_is_extended_between_two_runs_is_another_function(labeller, tmp_path):
    path, place = tmp_path / "table.csv", {"write_to": tmp_path / "out.zarr"}
    path.write_text("1,2\n")
    stop(labeller, reads(path, labeller), 5, **place)
    table = path.read_text()
    path.write_text(table + "3,4\n")
    with refused(ValueError, f"fn: file {path} differs", WAY_OUT, folder=tmp_path):
        segment(reads(path, labeller), **OPTIONS, **place)
    path.write_text(table)
    segment(reads(path, labeller), **OPTIONS, **place)
    path.write_text(table + "3,4\n")
    with refused(FileExistsError, f"fn: file {path} differs", WAY_OUT, folder=tmp_path):
        segment(reads(path, labeller), **OPTIONS, **place)


def test_F13_a_file_that_is_put_there_after_a_run_is_another_function(labeller, tmp_path):
    path, place = tmp_path / "weights.csv", {"write_to": tmp_path / "out.zarr"}

    def fn(pixels):
        return labeller(pixels) if not path.exists() else pixels

    stop(labeller, fn, 5, **place)
    path.write_text("1,2\n")
    with refused(ValueError, f"fn: file {path} differs", WAY_OUT, folder=tmp_path):
        segment(fn, **OPTIONS, **place)


def test_F13_a_log_whose_older_lines_were_changed_is_another_function(labeller, tmp_path):
    path, place = tmp_path / "k0.log", {"write_to": tmp_path / "out.zarr"}
    path.write_text("an older run\n")
    stop(labeller, appends_to(path, labeller), 5, **place)
    path.write_text(path.read_text().replace("older", "other"))
    with refused(ValueError, f"fn: file {path} differs", WAY_OUT, folder=tmp_path):
        segment(appends_to(path, labeller), **OPTIONS, **place)


@pytest.mark.parametrize("change", [lambda values: values.append(3), lambda values: values.reverse()])
def test_F13_a_list_that_is_changed_between_two_runs_is_another_function(change, labeller, tmp_path):
    values, place = [1, 2], {"write_to": tmp_path / "out.zarr"}

    def fn(pixels):
        return labeller(pixels * (len(values) > 0))

    stop(labeller, fn, 5, **place)
    change(values)
    with refused(ValueError, "fn: closure values differs", WAY_OUT, folder=tmp_path):
        segment(fn, **OPTIONS, **place)


# -- the way out


def rewrites(path, label):
    def label_and_say(pixels):
        Path(path).write_text(f"tile of {pixels.shape}")
        return label(pixels)

    return label_and_say


def counts(label):
    n = 0

    def label_and_count(pixels):
        nonlocal n
        n += 1
        return label(pixels)

    return label_and_count


class Counts:
    def __init__(self, label):
        self.label, self.n = label, 0

    def __call__(self, pixels):
        self.n += 1
        return self.label(pixels)


def histogram(label):
    found = np.zeros(2, int)

    def label_and_add(pixels):
        found[:] += np.bincount(pixels.ravel(), minlength=2)
        return label(pixels)

    return label_and_add


def collects(label):
    found = set()

    def label_and_collect(pixels):
        found.add(pixels.tobytes())
        return label(pixels)

    return label_and_collect


class Loads:
    """A function that loads an object at its first tile, of whose class its own code says nothing."""

    def __init__(self, label, load):
        self.label, self.load, self.net = label, load, None

    def __call__(self, pixels):
        if self.net is None:
            space = {}
            exec(self.load, space)
            self.net = space["net"]
        return self.label(pixels)


INSTALLED = "from skimage.transform import AffineTransform; net = AffineTransform(scale=2)"
OWN = """
class Net:
    def __init__(self): self.scale = 2
    def __call__(self, pixels): return pixels * self.scale
net = Net()
"""


class LoadsOnce:
    def __init__(self, label):
        self.label = label

    @functools.cached_property
    def scale(self):
        return importlib.import_module("skimage.transform").AffineTransform(scale=2).params[0, 0]

    def __call__(self, pixels):
        return self.label(pixels * (self.scale > 0))


def keeps_objects(label):
    """A function that counts, and appends to a list, which alone would not make it another one."""
    found, n = [], 0

    def label_and_keep(pixels):
        nonlocal n
        n += 1
        found.append(importlib.import_module("skimage.transform").AffineTransform(scale=n))
        return label(pixels)

    return label_and_keep


CHANGING = {
    "installed object that the first call loads": lambda label, _: Loads(label, INSTALLED),
    "object of its own that the first call loads": lambda label, _: Loads(label, OWN),
    "cached property": lambda label, _: LoadsOnce(label),
    "list of objects": lambda label, _: keeps_objects(label),
    "file that is written anew": lambda label, folder: rewrites(folder / "now.txt", label),
    "variable": lambda label, _: counts(label),
    "attribute": lambda label, _: Counts(label),
    "array": lambda label, _: histogram(label),
    "set": lambda label, _: collects(label),
}


@pytest.mark.parametrize("what", CHANGING)
def test_F33_fn_version_for_the_first_time_continues_what_fn_has_changed_itself(
    what, labeller, tmp_path, clean, caplog
):
    place = {"write_to": tmp_path / "out.zarr"}
    (tmp_path / "now.txt").write_text("an older run, and a long text")
    fn = CHANGING[what](labeller, tmp_path)
    stop(labeller, fn, 5, **place)
    with refused(ValueError, "fn: ", WAY_OUT, folder=tmp_path):
        segment(fn, **OPTIONS, **place)
    labeller.stop_after(3)
    with caplog.at_level(logging.INFO, "blockbuster"), pytest.raises(Exception, match="the power is off"):
        segment(fn, resume=True, **place)
    assert "fn_version is given for the first time" in caplog.text
    labeller.go_on()
    for version, named in ((None, "fn_version was 1, is None"), ("2", "fn_version was 1, is 2")):
        with refused(ValueError, named, folder=tmp_path) as caught:
            segment(fn, resume=True, **place, fn_version=version)
        assert WAY_OUT not in str(caught.value)
    segment(fn, resume=True, **place)
    assert sum(labeller.calls.values()) == N_TILES - 8
    assert contents(place["write_to"]) == clean
    assert read_report(place["write_to"]).fingerprint["fn"]["fn_version"] == "1"


def test_F33_fn_version_for_the_first_time_gives_a_finished_output_back(labeller, tmp_path):
    place, fn = {"write_to": tmp_path / "out.zarr"}, counts(labeller)
    segment(fn, **OPTIONS, **place)
    labeller.go_on()
    with refused(FileExistsError, "fn: closure n was 0, is 12", WAY_OUT, folder=tmp_path):
        segment(fn, **OPTIONS, **place)
    segment(fn, resume=True, **place)
    assert labeller.calls == {}


def above(threshold):
    return lambda pixels: naive.label(pixels > threshold)


def above_or_equal(threshold):
    return lambda pixels: naive.label(pixels >= threshold)


def runs(steps):
    return lambda pixels: steps[0](pixels)


OTHERS = {
    "code": (above(0), lambda: above_or_equal(0), "fn: (name|code)"),
    "value": (above(0), lambda: above(1), "fn: closure threshold was 0, is 1"),
    "code in a list": (runs([above(0)]), lambda: runs([above_or_equal(0)]), "fn: closure steps differs"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_F13_fn_version_for_the_first_time_does_not_stand_for_other_code(what, tmp_path, clean):
    fn, make_other, named = OTHERS[what]
    place = {"write_to": tmp_path / "out.zarr"}
    interrupt_at("task journalled", fn, 3, **OPTIONS, **place)
    for version in (None, "1"):
        with refused(ValueError, named, "overwrite=True", folder=tmp_path) as caught:
            segment(make_other(), resume=True, fn_version=version, **place)
        assert WAY_OUT not in str(caught.value)
    segment(fn, **OPTIONS, **place)
    assert contents(place["write_to"]) == clean
