"""Files of a run that hold anything: each reader notices, names the file and says what to do.

Deterministic damages of every file of a stage, a partial output, a lock and a report. What follows is either the
very result of a clean run, or an error of a documented class that names the file or its folder, and its remedy.
"""

import json
import os
import shutil
from dataclasses import asdict

import dask
import pytest
from interrupted import (
    IMAGE,
    OPTIONS,
    PARTIAL,
    STAGE,
    TABLES,
    Labeller,
    contents,
    leave_stopped,
    segment,
    stage_in_small_pieces,
)
from outcomes import snapshot

from blockbuster import read_report, tile_process, zarr_native_merge
from blockbuster.cli import main
from blockbuster.execution.attempts import dead_attempts
from blockbuster.report import REPORT
from blockbuster.rundir.folder import MANIFEST
from blockbuster.rundir.lock import KIND, RunLock

LOCK = "out.zarr.labels.blockbuster-lock"
DEEP = 100_000
HUGE = 10**18


def with_object(change):
    """Damage a JSON object."""
    return lambda data: json.dumps(change(json.loads(data))).encode()


def replaced_values(value):
    return with_object(lambda found: dict.fromkeys(found, value))


def inside(kinds, value):
    """Replace every value of a kind, however deep it lies."""

    def change(found):
        if isinstance(found, dict):
            return {name: change(part) for name, part in found.items()}
        if isinstance(found, list):
            return [change(part) for part in found]
        return value if type(found) in kinds else found

    return with_object(change)


OF_BYTES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte": lambda data: data[:1],
    "binary": lambda data: bytes(range(256)) * 4,
    "zeros": lambda data: bytes(len(data)),
    "not UTF-8": lambda data: data[: len(data) // 2] + b"\xff\xfe\xfa" + data[len(data) // 2 :],
    "UTF-16": lambda data: "\ufeff{}".encode("utf-16"),
    "null": lambda data: b"null",
    "list": lambda data: b'[{"kind": "blockbuster-stage"}]',
    "text": lambda data: b'"blockbuster-stage"',
    "number": lambda data: b"7",
    "long number": lambda data: b"9" * 10_000,
    "deep list": lambda data: b"[" * DEEP,
    "deep object": lambda data: b'{"a":' * DEEP,
    "no keys": lambda data: b"{}",
}
OF_OBJECTS = {
    "kind alone": with_object(lambda found: {name: found[name] for name in ("kind", "format") if name in found}),
    "kind of another": with_object(lambda found: {**found, "kind": "web-app"}),
    "older format": with_object(lambda found: {"kind": found.get("kind"), "format": 1, "fingerprint": [1]}),
    "one key less": with_object(lambda found: dict(list(found.items())[:-2] + list(found.items())[-1:])),
    "keys reversed": with_object(lambda found: dict(reversed(found.items()))),
    "values null": replaced_values(None),
    "values lists": replaced_values([[[]]]),
    "values texts": replaced_values("\ud800\x1b[2J"),
    "numbers huge": inside((int, float), HUGE),
    "numbers negative": inside((int, float), -1),
    "numbers infinite": inside((int, float), float("inf")),
    "numbers texts": inside((int, float), "7"),
    "texts numbers": inside((str,), 7),
}
DAMAGES = OF_BYTES | OF_OBJECTS
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("blockbuster.rundir.lock.SETTLE_SECONDS", 0.05)
    stage_in_small_pieces(monkeypatch)
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a run leaves that was stopped after three boxes, a clean output beside it, and contents of that."""
    folder = tmp_path_factory.mktemp("left")
    return folder, leave_stopped(folder)


def overwrite(path, damage):
    """Damage a file."""
    path.write_bytes(damage(path.read_bytes()))


def error_of(act):
    """Give the error of a documented class that an act ends with, or nothing."""
    try:
        act()
    except (OSError, ValueError, RuntimeError) as error:
        return error


def check(act, clean, output, name):
    """See that an act gives what a clean run gives, or says which file is at fault and what helps."""
    error = error_of(act)
    if error is None:
        assert contents(output) == clean
        return True
    # And not one that says how a reader failed, such as UnicodeDecodeError.
    assert type(error) in (OSError, ValueError, RuntimeError, FileExistsError, FileNotFoundError)
    assert name in str(error)
    assert any(word in str(error) for word in ("overwrite=True", "move it elsewhere", "run again", "delete it"))
    return False


OBJECTS = [MANIFEST, "layout.json"]
LABELS = "part-*/4.tiles"


def every_damage_of(*names):
    """Each file with the damages that can be done to it."""
    pairs = [(name, damage) for name in names for damage in (DAMAGES if name in OBJECTS else OF_BYTES)]
    return pytest.mark.parametrize(("name", "damage"), pairs, ids=lambda part: part)


def labeller(folder):
    return Labeller.at(folder / "labeller")


@every_damage_of(*OBJECTS, *TABLES, LABELS, "journal.jsonl", "stop")
def test_a_stage_with_a_file_that_holds_anything_is_resumed_or_refused_and_can_be_replaced(
    name, damage, left, tmp_path
):
    shutil.copytree(left[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / STAGE / "stop").touch()
    (path,) = (tmp_path / STAGE).glob(name)
    overwrite(path, DAMAGES[damage])
    output, fn = tmp_path / "out.zarr", labeller(tmp_path)
    before = snapshot(tmp_path / STAGE)
    if check(lambda: segment(fn, write_to=output, resume=True), left[1], output, str(tmp_path / STAGE)):
        return
    assert not output.exists()
    # That a run was asked to stop is forgotten as the next one begins.
    assert before.items() - snapshot(tmp_path / STAGE).items() <= {("stop", before["stop"])}
    check(lambda: segment(fn, write_to=output, overwrite=True), left[1], output, str(tmp_path / STAGE))
    # Nobody knows whose a folder is that has lost its mark.
    assert output.exists() or name == MANIFEST


@pytest.mark.parametrize("damage", OF_BYTES.values(), ids=OF_BYTES)
def test_a_mark_of_a_partial_output_that_holds_anything_is_known_or_left_alone(damage, left, tmp_path):
    shutil.copytree(left[0], tmp_path, dirs_exist_ok=True)
    overwrite(tmp_path / PARTIAL / "blockbuster-partial", damage)
    output = tmp_path / "out.zarr"
    before = snapshot(tmp_path / PARTIAL)
    for options in ({"resume": True}, {"overwrite": True}):
        check(
            lambda given=options: segment(labeller(tmp_path), write_to=output, **given),
            left[1],
            output,
            str(tmp_path / PARTIAL),
        )
    assert output.exists() or snapshot(tmp_path / PARTIAL) == before


def stale_lock():
    """What a process leaves that held a lock."""
    holder = {**asdict(RunLock("x", "the output x").holder), "pid": 2**22 + 1}
    return json.dumps({"kind": KIND, **holder}).encode() + b"\n"


@every_damage
@pytest.mark.parametrize("lock", [LOCK, "out.zarr.blockbuster-lock"])
def test_a_lock_that_holds_anything_is_taken_over_or_named(lock, damage, left, tmp_path, monkeypatch):
    monkeypatch.setattr("blockbuster.output.publishing.LOCK_SECONDS", 0.0)
    path = tmp_path / lock
    path.write_bytes(stale_lock())
    overwrite(path, damage)
    before = path.read_bytes()
    output = tmp_path / "out.zarr"
    (tmp_path / "labeller").mkdir()
    (tmp_path / "labeller/calls").mkdir()
    if not check(lambda: segment(labeller(tmp_path), write_to=output), left[1], output, str(path)):
        assert path.read_bytes() == before


@every_damage
def test_a_report_that_holds_anything_is_refused_by_all_who_read_it(damage, left, tmp_path, capsys):
    shutil.copytree(left[0] / "clean.zarr", tmp_path / "clean.zarr")
    path = tmp_path / "clean.zarr/labels" / REPORT
    whole = read_report(tmp_path / "clean.zarr")
    overwrite(path, damage)
    reports, before = [], snapshot(tmp_path)
    error = error_of(lambda: reports.append(read_report(tmp_path / "clean.zarr")))
    assert reports or (type(error) is ValueError and f"{path} is damaged" in str(error))
    # From before there were checksums; what it does not say is as in an empty one.
    for report in reports:
        said = {name: value for name, value in vars(report).items() if value and name != "seams"}
        assert said == {name: getattr(whole, name) for name in said}
        assert str(report)
        assert report._repr_html_()
        assert report.grid_of(IMAGE.shape) in (None, whole.grid_of(IMAGE.shape))
    error = error_of(
        lambda: tile_process(IMAGE, labeller(left[0]), write_to=tmp_path / "clean.zarr", resume=True, **OPTIONS)
    )
    assert error is None or "clean.zarr/labels exists" in str(error)
    assert snapshot(tmp_path) == before
    assert main(["seams", str(tmp_path / "clean.zarr")]) in (0, 1, 2)
    assert main(["info", str(tmp_path / "clean.zarr" / "labels")]) in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", OF_BYTES.values(), ids=OF_BYTES)
def test_a_mark_of_a_process_that_holds_anything_blames_nobody_or_the_dead(damage, tmp_path):
    (tmp_path / "attempts").mkdir()
    path = tmp_path / "attempts/brick-3.0.attempt"
    for data in (
        b"7           host-1-abc",
        b"7           " + os.uname().nodename.encode() + b"-" + b"9" * 30 + b"-a",
    ):
        path.write_bytes(damage(data))
        assert all(attempt.task == "brick-3" for attempt in dead_attempts(str(tmp_path)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A stage that was kept, and the objects in it."""
    folder = tmp_path_factory.mktemp("kept")
    with dask.config.set(scheduler="synchronous"):
        _, report = tile_process(
            IMAGE,
            Labeller(folder / "labeller"),
            keep_stage=True,
            write_to=folder / "out.zarr",
            return_report=True,
            **OPTIONS,
        )
    return folder / STAGE, report.n_objects


@every_damage_of(*OBJECTS, *TABLES, LABELS, "journal.jsonl")
def test_a_kept_stage_with_a_file_that_holds_anything_is_merged_alike_or_refused(
    name, damage, kept, tmp_path, monkeypatch
):
    monkeypatch.setattr("blockbuster.rundir.staged.PATIENCE_SECONDS", 0.05)
    stage = tmp_path / STAGE
    shutil.copytree(kept[0], stage)
    (path,) = stage.glob(name)
    overwrite(path, DAMAGES[damage])
    before, found = snapshot(stage), []
    merged = tmp_path / "merged.zarr"
    error = error_of(lambda: found.append(zarr_native_merge(stage, "labels", merged, "labels")))
    assert found == [kept[1]] or (str(stage) in str(error) and not merged.exists())
    assert snapshot(stage) == before
