"""Staged files that are damaged are noticed, and only what wrote them is done again (F9, F10, F11)."""

import os
import re
import shutil
import threading
from pathlib import Path

import dask
import numpy as np
import pytest
from brick_files import places_in
from interrupted import (
    EXPECTED,
    N_TILES,
    PARTIAL,
    STAGE,
    TABLES,
    Labeller,
    clean_contents,
    contents,
    interrupt_at,
    leave_stopped,
    segment,
    stage_in_small_pieces,
)
from outcomes import refused, snapshot

from blockbuster import zarr_native_merge
from blockbuster.grid import BrickGrid
from blockbuster.kernels.stretches import COLUMNS
from blockbuster.rundir.journal import JOURNAL, read_journal
from blockbuster.rundir.staged import StagedLabels

pytestmark = pytest.mark.usefixtures("one_at_a_time")


def staged_file(folder, name):
    """A file of the labels in the stage, which lie in a folder with a name of its own."""
    (path,) = (folder / STAGE).glob(f"part-*/{name}")
    return path


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "F9 truncated": truncate,
    "F9 zero bytes": empty,
    "F10 one bit": flip_a_bit,
    "F11 deleted": Path.unlink,
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    clean = leave_stopped(folder)
    shutil.rmtree(folder / "clean.zarr")
    return folder, clean


@pytest.fixture
def clean(stopped, tmp_path, monkeypatch):
    """Contents of a clean output; the folder of the test has what a stopped run left."""
    stage_in_small_pieces(monkeypatch)
    shutil.copytree(stopped[0], tmp_path, dirs_exist_ok=True)
    return stopped[1]


def go_on(folder, **options):
    """Continue, and give the calls that it took; fn counts them where it is."""
    fn = Labeller.at(folder / "labeller")
    segment(fn, resume=True, write_to=folder / "out.zarr", **options)
    return fn.calls


STAGED = {
    "brick": ("4.tiles", (1, 1)),
    "brick at the edge": ("11.tiles", (3, 2)),
}


@every_damage
@pytest.mark.parametrize("what", STAGED)
def test_F9_F10_F11_only_the_task_whose_files_are_damaged_runs_again(what, damage, tmp_path, clean):
    name, tile = STAGED[what]
    damage(staged_file(tmp_path, name))
    assert go_on(tmp_path) == {tile: 1}
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["labeller", "out.zarr"]


@every_damage
@pytest.mark.parametrize("table", TABLES)
def test_F9_F10_F11_damaged_tables_of_the_merge_are_made_again_without_fn(table, damage, tmp_path, clean):
    damage(tmp_path / STAGE / table)
    assert go_on(tmp_path) == {}
    assert contents(tmp_path / "out.zarr") == clean


@every_damage
@pytest.mark.parametrize("box", [0, 2])
def test_F9_F10_F11_damaged_pieces_of_the_partial_output_are_written_again(box, damage, tmp_path, clean):
    pieces = sorted((tmp_path / PARTIAL).glob("store-*/labels/c/*/*"))
    assert len(pieces) == 3
    before = {path.parts[-2:]: path.stat().st_mtime_ns for path in pieces}
    damage(pieces[box])
    assert go_on(tmp_path) == {}
    assert contents(tmp_path / "out.zarr") == clean
    after = {path.parts[-2:]: path.stat().st_mtime_ns for path in tmp_path.glob("out.zarr/labels/c/*/*")}
    assert [box for box in before if after[box] != before[box]] == [pieces[box].parts[-2:]]


@every_damage
def test_F9_F10_F11_a_damaged_journal_costs_the_tasks_that_it_no_longer_tells_of(damage, tmp_path, clean):
    journal = tmp_path / STAGE / JOURNAL
    damage(journal)
    left = {record["task"] for record in read_journal(tmp_path / STAGE) if "task" in record}
    calls = go_on(tmp_path)
    assert sum(calls.values()) == N_TILES - len(left)
    assert set(calls.values()) <= {1}
    assert contents(tmp_path / "out.zarr") == clean


@pytest.mark.parametrize("line", range(0, N_TILES + 4, 3))
def test_F10_a_line_of_the_journal_that_is_damaged_or_missing_is_as_if_never_written(line, tmp_path, clean):
    journal = tmp_path / STAGE / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == N_TILES + 1 + 3  # tasks, seams, boxes
    if line % 2:
        del lines[line]
    else:
        lines[line] = lines[line].replace(b":", b";", 1)
    journal.write_bytes(b"".join(lines))
    assert sum(go_on(tmp_path).values()) == (line < N_TILES)
    assert contents(tmp_path / "out.zarr") == clean


@pytest.mark.parametrize("rubbish", [b"\n\n", b"\0" * 100, b"00000000 {}\n", b'{"task":3}\n', b"torn"])
def test_F9_a_journal_with_rubbish_at_its_end_goes_on(rubbish, tmp_path, clean):
    with open(tmp_path / STAGE / JOURNAL, "ab") as journal:
        journal.write(rubbish)
    assert go_on(tmp_path) == {}
    assert contents(tmp_path / "out.zarr") == clean


def test_F11_a_stage_that_lost_all_of_its_labels_is_made_again(tmp_path, clean):
    bricks = list((tmp_path / STAGE).glob("part-*/*.tiles"))
    assert len(bricks) == N_TILES
    for path in bricks:
        path.unlink()
    assert sum(go_on(tmp_path).values()) == N_TILES
    assert contents(tmp_path / "out.zarr") == clean


def test_F11_a_partial_output_that_is_gone_is_written_again(tmp_path, clean):
    shutil.rmtree(tmp_path / PARTIAL)
    assert go_on(tmp_path) == {}
    assert contents(tmp_path / "out.zarr") == clean


@every_damage
@pytest.mark.parametrize("name", ["labels/zarr.json", "zarr.json"])
def test_F9_F10_F11_damaged_metadata_of_the_partial_output_never_become_visible(name, damage, tmp_path, clean):
    (path,) = (tmp_path / PARTIAL).glob(f"store-*/{name}")
    damage(path)
    assert go_on(tmp_path) == {}
    assert contents(tmp_path / "out.zarr") == clean


def go_on_anew(folder, clean):
    """Follow the remedy."""
    fn = Labeller(folder / "anew")
    segment(fn, overwrite=True, write_to=folder / "out.zarr")
    assert sum(fn.calls.values()) == N_TILES
    assert contents(folder / "out.zarr") == clean


@every_damage
def test_F9_F10_F11_a_damaged_layout_is_refused_with_the_remedy(damage, tmp_path, clean):
    damage(tmp_path / STAGE / "layout.json")
    with refused(OSError, r"layout\.json", "damaged", "overwrite=True"):
        go_on(tmp_path)
    go_on_anew(tmp_path, clean)


@every_damage
def test_F9_F10_F11_a_stage_with_a_damaged_manifest_is_left_alone(damage, tmp_path, clean):
    damage(tmp_path / STAGE / "manifest.json")
    before = snapshot(tmp_path)
    with pytest.raises(OSError, match=re.escape(STAGE)) as caught:
        go_on(tmp_path)
    assert re.search(r"overwrite=True|move it elsewhere", str(caught.value))
    assert snapshot(tmp_path) == before


@every_damage
def test_F9_F10_F11_a_partial_output_with_a_damaged_mark_is_left_alone(damage, tmp_path, clean):
    mark = tmp_path / PARTIAL / "blockbuster-partial"
    name, run = mark.read_text().split("\n")
    mark.write_text(name)
    damage(mark)
    if mark.exists():
        mark.write_text(f"{mark.read_text()}\n{run}")
    with refused(FileExistsError, re.escape(PARTIAL), "move it elsewhere", folder=tmp_path):
        go_on(tmp_path)


# -- every section of a brick


@pytest.fixture(scope="module", params=["touch", "agree"])
def kept(request, tmp_path_factory):
    """A stage whose bricks have four tiles in a group each, options of its run, and contents of the output."""
    folder = tmp_path_factory.mktemp("kept")
    options = {"merge": request.param, "tiles_per_task": 4}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        stage_in_small_pieces(patch)
        # Columns, of which the middle one has neighbours on both sides.
        patch.setattr("blockbuster.run.plan.bricks_of", lambda grid, *_: BrickGrid(grid, (4, 1)))
        segment(Labeller(folder / "labeller"), keep_stage=True, write_to=folder / "out.zarr", **options)
    return folder / STAGE, options, contents(folder / "out.zarr")


@pytest.fixture
def stage(kept, tmp_path, monkeypatch):
    """A copy of the stage that was kept."""
    stage_in_small_pieces(monkeypatch)
    return shutil.copytree(kept[0], tmp_path / STAGE)


def sections_of(path):
    """First byte and the one behind the last of all that a file of a task consists of."""
    places = {name: ends for name, ends in places_in(path).items() if ends[0] < ends[1]}
    assert {"groups", "pairs"} <= places.keys()
    for name in ("group-0", "group-1", "group-2", "group-3", "border-1-0", "border-1-1"):
        assert name in places or {f"{name}-{column}" for column in (*COLUMNS, "tiles")} <= places.keys()
    return places


def flipped(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << place % 8
    return bytes(data)


def test_F10_no_bit_of_a_brick_flips_unnoticed(stage, tmp_path):
    staged, path = StagedLabels.open(stage), staged_file(tmp_path, "1.tiles")
    names = sections_of(path).keys() - {"magic", "length", "checksum", "header"}
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(flipped(path, place))
        with pytest.raises(OSError, match=r"brick \(0, 1\) of the stage .* resume=True"):
            read_all(staged, names)
        path.write_bytes(data)
    read_all(staged, names)


def read_all(staged, names):
    file = staged.open_brick((0, 1))
    return [file.read(name) for name in names]


def test_F10_a_bit_that_flips_in_any_section_costs_its_task_alone(kept, stage, tmp_path):
    _, options, clean = kept
    for start, stop in sections_of(staged_file(tmp_path, "1.tiles")).values():
        folder = tmp_path / f"{start}"
        shutil.copytree(stage, folder / STAGE)
        path = staged_file(folder, "1.tiles")
        path.write_bytes(flipped(path, (start + stop) // 2))
        fn = Labeller(folder / "labeller")
        segment(fn, resume=True, write_to=folder / "out.zarr", **options)
        assert sorted(fn.calls.elements()) == [(y, 1) for y in range(4)]
        assert contents(folder / "out.zarr") == clean


def test_F10_a_bit_that_flips_in_any_section_ends_a_merge_that_names_the_brick(kept, stage, tmp_path):
    path, merged = staged_file(tmp_path, "1.tiles"), tmp_path / "merged.zarr"
    data = path.read_bytes()
    named = (r"brick \(0, 1\) of the stage", STAGE, "checksum|does not begin", "run again with resume=True")
    for start, stop in sections_of(path).values():
        path.write_bytes(flipped(path, (start + stop) // 2))
        with refused(OSError, *named):
            zarr_native_merge(stage, "labels", merged, "labels")
        assert not merged.exists()
        path.write_bytes(data)
    zarr_native_merge(stage, "labels", merged, "labels")
    assert contents(merged) == kept[2]


# -- tiles that were probed


@every_damage
def test_F9_F10_F11_a_tile_whose_probe_is_damaged_is_shown_again_with_its_task(damage, tmp_path):
    fn = Labeller(tmp_path / "labeller")
    options = {"write_to": tmp_path / "out.zarr", "tiles_per_task": None}
    interrupt_at("task journalled", fn, **options)
    (record,) = (record for record in read_journal(tmp_path / STAGE) if "task" in record)
    (probe,) = (tmp_path / STAGE).glob("probe-*.npy")
    damage(probe)
    labels, report = segment(fn, resume=True, return_report=True, **options)
    assert fn.calls[0, 0] == (record["task"] > 0)
    assert sum(fn.calls.values()) == N_TILES - report.n_resumed
    np.testing.assert_array_equal(labels, EXPECTED)


# -- damage in a run that goes on


@every_damage
@pytest.mark.parametrize("name", ["4.tiles", "5.tiles", "11.tiles"])
def test_F9_F10_F11_damage_in_a_run_ends_it_without_an_output_and_it_can_go_on(
    name, damage, tmp_path, monkeypatch
):
    monkeypatch.setattr("blockbuster.rundir.staged.PATIENCE_SECONDS", 0.1)
    clean = clean_contents(tmp_path)
    fn = Labeller(tmp_path / "labeller")

    def damage_once(point):
        if point == "stage finished":
            damage(staged_file(tmp_path, name))

    with monkeypatch.context() as patch:
        patch.setattr("blockbuster.stage.staging.reach", damage_once)
        with pytest.raises(OSError, match=re.escape(STAGE)) as caught:
            segment(fn, write_to=tmp_path / "out.zarr")
    assert "resume=True" in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()
    fn.go_on()
    segment(fn, write_to=tmp_path / "out.zarr", resume=True)
    assert sum(fn.calls.values()) == 1
    assert contents(tmp_path / "out.zarr") == clean


def test_F11_a_file_that_comes_late_is_waited_for(tmp_path):
    """On a network file system a file may be there a while before every machine sees it."""
    hidden = tmp_path / "hidden"

    def hide(point):
        if point == "stage finished":
            path = staged_file(tmp_path, "1.tiles")
            path.rename(hidden)
            threading.Timer(0.3, hidden.rename, [path]).start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.stage.staging.reach", hide)
        labels = segment(Labeller(tmp_path / "labeller"), write_to=tmp_path / "out.zarr")
    np.testing.assert_array_equal(labels, EXPECTED)
