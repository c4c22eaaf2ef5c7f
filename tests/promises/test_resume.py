"""What is finished is not done again: tries, skipped tiles, and runs that go on (F2, F5, F13)."""

import collections
import functools
import itertools
import json
import os
import shutil
import warnings

import dask
import dask.array as da
import dask.multiprocessing
import interrupted
import naive
import numpy as np
import pytest
import zarr
from interrupted import (
    CORES,
    EXPECTED,
    HALO,
    IMAGE,
    LENGTHS,
    N_TILES,
    OPTIONS,
    REGIONS,
    SHAPE,
    STAGE,
    TILE,
    Labeller,
    clean_contents,
    contents,
    interrupt,
    interrupt_at,
    name_of,
    segment,
    store_in_small_pieces,
)
from outcomes import assert_same_objects, refused, snapshot, write_image
from zarr.storage import FsspecStore, LocalStore, WrapperStore, ZipStore

from blockbuster import TileError, plan_run, read_report, tile_process
from blockbuster.report import REPORT
from blockbuster.rundir.folder import FORMAT, MANIFEST

SCHEDULERS = ["synchronous", "threads", "processes"]
ONCE = dict.fromkeys(REGIONS, 1)


@pytest.fixture(autouse=True)
def one_at_a_time():
    with dask.config.set(scheduler="synchronous", num_workers=2):
        yield


@pytest.fixture
def fn(tmp_path):
    return Labeller(tmp_path / "labeller")


def test_what_all_runs_are_compared_with_is_the_untiled_result():
    assert_same_objects(EXPECTED, naive.label(IMAGE))


# -- tries


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_F2_a_tile_that_fails_twice_works_with_two_retries_and_is_alone_repeated(
    scheduler, tiles_per_task, fn, workers
):
    bad = [(0, 0), (1, 2)]
    for tile in bad:
        fn.fail(tile, 2)
    with workers(scheduler):
        labels, report = segment(fn, retries=2, return_report=True, tiles_per_task=tiles_per_task)
    np.testing.assert_array_equal(labels, EXPECTED)
    assert fn.calls == ONCE | dict.fromkeys(bad, 3)
    assert (report.n_retried, report.n_failed, report.n_run) == (4, 0, N_TILES)


@pytest.mark.parametrize("tile", [(0, 0), (1, 2)])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_F2_a_tile_that_fails_twice_ends_the_run_with_one_retry(scheduler, tile, fn, tmp_path, workers):
    fn.fail(tile, 2)
    with workers(scheduler), pytest.raises(TileError, match="no luck yet") as caught:
        segment(fn, retries=1, tiles_per_task=None, write_to=tmp_path / "out.zarr")
    assert (caught.value.tile, caught.value.slices) == (tile, CORES[tile])
    assert fn.calls[tile] == 2


def test_F2_a_run_tries_a_tile_no_more_often_than_it_was_asked_to(fn):
    fn.fail((2, 1), 99)
    with pytest.raises(TileError):
        segment(fn, retries=3)
    assert fn.calls[2, 1] == 4


class ShakyStore(LocalStore):
    """Files of which some cannot be read the first times, as on a network file system."""

    def __init__(self, root, read_only=False, n_faults=0, log=""):
        super().__init__(root, read_only=read_only)
        self.n_faults, self.log = n_faults, log

    def with_read_only(self, read_only=False):
        return ShakyStore(self.root, read_only, self.n_faults, self.log)

    async def get(self, key, prototype=None, byte_range=None):
        if "c/1/" in key:
            name = key.replace("/", "-")
            for attempt in range(self.n_faults):
                try:
                    os.close(os.open(f"{self.log}/{name}-{attempt}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                raise OSError("the server does not answer")
        return await super().get(key, prototype, byte_range)


def shaky_image(folder, n_faults):
    (folder / "log").mkdir()
    zarr.create_array(folder / "image.zarr", data=IMAGE, chunks=TILE)
    return zarr.open_array(ShakyStore(folder / "image.zarr", True, n_faults, str(folder / "log")), mode="r")


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4])
@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_F2_storage_that_fails_twice_works_with_retries(scheduler, tiles_per_task, fn, tmp_path, workers):
    # Without a halo a tile is one chunk.
    image = shaky_image(tmp_path, n_faults=2)
    with workers(scheduler):
        labels, report = segment(
            fn, image, overlap=0, retries=2, tiles_per_task=tiles_per_task, return_report=True
        )
    np.testing.assert_array_equal(labels, naive.stitch(IMAGE, naive.label, LENGTHS, (0, 0)))
    assert len(os.listdir(f"{fn.folder}/calls")) == N_TILES
    assert 0 < report.n_retried <= 6
    assert len(os.listdir(tmp_path / "log")) == 6


def test_F2_storage_that_goes_on_failing_ends_the_run_after_as_many_retries(fn, tmp_path):
    image = shaky_image(tmp_path, n_faults=99)
    with pytest.raises(
        TileError, match=r"reading the image raised OSError: the server does not answer"
    ) as caught:
        segment(fn, image, overlap=0, retries=2)
    assert caught.value.tile[0] == 1
    # The task as a whole, its tile, and that twice again.
    assert len(os.listdir(tmp_path / "log")) == 4


@pytest.mark.parametrize("n_faults", [1, 2])
def test_F2_chunks_of_a_dask_image_that_fail_are_computed_again(n_faults, fn, tmp_path):
    def shaky(block, block_info=None):
        for attempt in range(n_faults):
            path = tmp_path / f"{block_info[0]['chunk-location']}-{attempt}"
            if block_info[0]["chunk-location"] in {(0, 0), (2, 1)} and not path.exists():
                path.touch()
                raise OSError("the server does not answer")
        return block

    image = da.from_array(IMAGE, chunks=TILE).map_blocks(shaky, dtype=IMAGE.dtype, meta=IMAGE[:0, :0])
    labels = segment(fn, image, overlap=0, retries=2)
    np.testing.assert_array_equal(labels, naive.stitch(IMAGE, naive.label, LENGTHS, (0, 0)))


# -- tiles that are skipped

BAD = [(0, 0), (2, 1)]


def label_but_bad(pixels):
    return naive.label(pixels) * (name_of(pixels) not in {name_of(IMAGE[REGIONS[tile]]) for tile in BAD})


@pytest.fixture
def failing(fn):
    for tile in BAD:
        fn.fail(tile, 99)
    return fn


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_failed_tiles_are_background_where_they_are_to_be_skipped(scheduler, tiles_per_task, failing, workers):
    with workers(scheduler), pytest.warns(UserWarning, match="2 tiles failed") as caught:
        labels, report = segment(
            failing, on_error="skip", retries=1, return_report=True, tiles_per_task=tiles_per_task
        )
    np.testing.assert_array_equal(labels, naive.stitch(IMAGE, label_but_bad, LENGTHS, HALO))
    assert [tile for tile, _ in report.failed] == [list(tile) for tile in BAD]
    assert all("ArithmeticError: no luck yet" in what for _, what in report.failed)
    assert (report.n_failed, report.n_retried) == (2, 2)
    assert failing.calls == ONCE | dict.fromkeys(BAD, 2)
    assert len(caught) == 1
    assert "(0, 0)" in str(caught[0].message)


@pytest.mark.filterwarnings("ignore:2 tiles failed")
def test_the_rest_of_an_image_is_labelled_as_if_the_skipped_tiles_were_background(failing):
    labels = segment(failing, on_error="skip", overlap=0)
    without = IMAGE.copy()
    for tile in BAD:
        without[CORES[tile]] = 0
    assert_same_objects(labels, naive.label(without))


@pytest.mark.filterwarnings("ignore:.* tiles failed")
def test_a_run_with_skipped_tiles_that_goes_on_repeats_them_where_errors_count(failing, tmp_path, clean):
    place = {"write_to": tmp_path / "out.zarr"}
    interrupt_at("stage finished", failing, on_error="skip", **place)
    for tile in BAD:
        failing.fail(tile, 0)
    segment(failing, resume=True, **place)
    assert failing.calls == dict.fromkeys(BAD, 1)
    assert contents(tmp_path / "out.zarr") == clean
    report = read_report(tmp_path / "out.zarr")
    assert (report.n_failed, report.failed, report.n_resumed) == (0, [], N_TILES - 2)


def test_a_run_with_skipped_tiles_that_goes_on_skipping_does_not_repeat_them(failing, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    interrupt_at("stage finished", failing, on_error="skip", **place)
    with pytest.warns(UserWarning, match="2 tiles failed"):
        labels, report = segment(failing, on_error="skip", resume=True, return_report=True, **place)
    assert failing.calls == {}
    np.testing.assert_array_equal(labels, naive.stitch(IMAGE, label_but_bad, LENGTHS, HALO))
    assert report.n_failed == 2


@pytest.mark.filterwarnings("ignore:2 tiles failed")
def test_an_output_with_skipped_tiles_is_not_what_a_run_gives_where_errors_count(failing, tmp_path, clean):
    place = {"write_to": tmp_path / "out.zarr"}
    segment(failing, on_error="skip", keep_stage=True, **place)
    failing.go_on()
    for tile in BAD:
        failing.fail(tile, 0)
    with refused(FileExistsError, "2 tiles failed and were skipped", "overwrite=True", folder=tmp_path):
        segment(failing, resume=True, **place)
    # Skipping is what the caller asks for here, and this output has it already.
    before = snapshot(tmp_path)
    segment(failing, resume=True, on_error="skip", keep_stage=True, **place)
    assert snapshot(tmp_path) == before
    segment(failing, resume=True, overwrite=True, **place)
    assert failing.calls == dict.fromkeys(BAD, 1)
    assert contents(tmp_path / "out.zarr") == clean


# -- runs that go on


@pytest.mark.parametrize("after", range(N_TILES))
def test_F5_a_run_goes_on_after_any_number_of_tasks_and_ends_with_the_same_bytes(after, fn, tmp_path, clean):
    error = interrupt(fn, after, write_to=tmp_path / "out.zarr")
    (note,) = error.__notes__
    assert str(tmp_path / STAGE) in note
    assert ("resume=True" in note) == (after > 0)
    assert sorted(os.listdir(tmp_path)) == ["labeller", STAGE]
    _, report = segment(fn, write_to=tmp_path / "out.zarr", resume=True, return_report=True)
    assert sum(fn.calls.values()) == N_TILES - after
    assert set(fn.calls.values()) == {1}
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["labeller", "out.zarr"]
    assert (report.n_tiles, report.n_run, report.n_resumed) == (N_TILES, N_TILES, after)
    assert report.resumed_from == ("stage" if after else "")


POINTS = [
    ("stage made", 1, 0),
    ("stage begun", 1, 0),
    ("stage laid out", 1, 0),
    *[("task finished", n, n - 1) for n in (1, 5)],
    *[("task journalled", n, n) for n in (5, N_TILES)],
    *[(point, 1, N_TILES) for point in ("stage finished", "seams matched", "partial made")],
    *[(point, n, N_TILES) for point in ("box written", "box journalled") for n in (1, 4)],
    *[(point, 1, N_TILES) for point in ("output complete", "output flushed", "output in place")],
    *[(point, 1, N_TILES) for point in ("locked", "stage removed")],
]


@pytest.mark.parametrize(("point", "nth", "n_finished"), POINTS)
def test_F5_a_run_that_is_stopped_anywhere_goes_on_and_ends_with_the_same_bytes(
    point, nth, n_finished, fn, tmp_path, monkeypatch
):
    store_in_small_pieces(monkeypatch)
    expected = clean_contents(tmp_path)
    interrupt_at(point, fn, nth, write_to=tmp_path / "out.zarr")
    segment(fn, write_to=tmp_path / "out.zarr", resume=True)
    if point != "locked":
        assert sum(fn.calls.values()) == N_TILES - n_finished
    assert contents(tmp_path / "out.zarr") == expected
    assert sorted(os.listdir(tmp_path)) == ["clean.zarr", "labeller", "out.zarr"]


def test_F5_a_run_that_is_stopped_again_and_again_calls_fn_once_per_tile(fn, tmp_path, clean):
    n_calls = 0
    for after in (3, 1, 4):
        fn.stop_after(after)
        with pytest.raises(TileError, match="the power is off"):
            segment(fn, write_to=tmp_path / "out.zarr", resume=True)
        n_calls += sum(fn.calls.values())
        fn.go_on()
    segment(fn, write_to=tmp_path / "out.zarr", resume=True)
    assert n_calls + sum(fn.calls.values()) == N_TILES
    assert contents(tmp_path / "out.zarr") == clean


def test_a_box_that_was_written_is_not_written_again(fn, tmp_path, monkeypatch):
    store_in_small_pieces(monkeypatch)
    interrupt_at("box journalled", fn, 3, write_to=tmp_path / "out.zarr")
    pattern = "out.zarr.labels.blockbuster-partial/store-*/labels/c/*/*"
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(pattern)}
    before = {path.relative_to(tmp_path).parts[-2:]: path.stat().st_mtime_ns for path in tmp_path.glob(pattern)}
    assert len(before) == 3
    assert written
    report = segment(fn, write_to=tmp_path / "out.zarr", resume=True, return_report=True)[1]
    after = {path.parts[-2:]: path.stat().st_mtime_ns for path in tmp_path.glob("out.zarr/labels/c/*/*")}
    assert len(after) > 3
    assert {box: after[box] for box in before} == before
    assert report.resumed_from == "write"


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("threads", {"tiles_per_task": None}),
        ("processes", {"tiles_per_task": 4}),
        ("synchronous", {"tiles_per_task": 1000}),
    ],
)
def test_a_run_goes_on_with_other_workers_and_keeps_its_tasks(scheduler, options, fn, tmp_path, clean, workers):
    interrupt(fn, 5, write_to=tmp_path / "out.zarr")
    with workers(scheduler):
        segment(fn, write_to=tmp_path / "out.zarr", resume=True, **options)
    assert sum(fn.calls.values()) == N_TILES - 5
    assert contents(tmp_path / "out.zarr") == clean


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_run_of_several_workers_goes_on_with_one(scheduler, fn, tmp_path, clean):
    # Not on the pool of all tests, on which tasks of a failed run may go on for a moment.
    with dask.config.set(scheduler=scheduler):
        interrupt(fn, 5, write_to=tmp_path / "out.zarr")
    segment(fn, write_to=tmp_path / "out.zarr", resume=True)
    # The other worker may have gone on until the driver heard of the one that failed.
    assert 1 <= sum(fn.calls.values()) <= N_TILES - 3
    assert set(fn.calls.values()) == {1}
    assert contents(tmp_path / "out.zarr") == clean


def test_tasks_of_several_tiles_go_on_and_tiles_of_a_finished_task_are_not_repeated(fn, tmp_path):
    options = {"write_to": tmp_path / "out.zarr", "tiles_per_task": 4}
    assert 1 < plan_run(IMAGE, **{**OPTIONS, **options}).bricks.n_bricks < N_TILES
    interrupt_at("task journalled", fn, 2, **options)
    n_resumed = segment(fn, resume=True, return_report=True, **options)[1].n_resumed
    assert 0 < n_resumed < N_TILES
    assert sum(fn.calls.values()) == N_TILES - n_resumed
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr" / "labels")[...], EXPECTED)


def test_the_tile_that_was_probed_is_not_shown_again(fn, tmp_path):
    options = {"write_to": tmp_path / "out.zarr", "tiles_per_task": None}
    interrupt_at("stage laid out", fn, **options)
    labels = segment(fn, resume=True, **options)
    assert fn.calls == {tile: 1 for tile in ONCE if tile != (0, 0)}
    np.testing.assert_array_equal(labels, EXPECTED)
    interrupt_at("task journalled", fn, write_to=tmp_path / "other.zarr", tiles_per_task=None)
    segment(fn, resume=True, write_to=tmp_path / "other.zarr", tiles_per_task=None)
    assert (0, 0) not in fn.calls


@pytest.mark.parametrize("chooser", ["auto", "callable"])
def test_a_run_that_goes_on_keeps_the_tiles_that_were_chosen(chooser, fn, tmp_path, clean, monkeypatch):
    tiles = [(19, 7), TILE]

    def choose(shape, dtype, **_):
        return tiles[-1]

    monkeypatch.setattr("blockbuster.run.plan.auto_tile_shape", choose)
    options = {"write_to": tmp_path / "out.zarr", "tile_shape": "auto" if chooser == "auto" else choose}
    interrupt(fn, 5, **options)
    tiles.pop()
    assert plan_run(IMAGE, **{**OPTIONS, **options}).grid.tile_shape == (19, 7)
    _, report = segment(fn, resume=True, return_report=True, **options)
    assert report.grid_of(IMAGE.shape).tile_shape == tuple(report.settings["tile_shape"]) == TILE
    assert sum(fn.calls.values()) == N_TILES - 5
    assert contents(tmp_path / "out.zarr") == clean
    # An output that is finished is known by its own tiles as well.
    segment(fn, resume=True, **options)
    assert sum(fn.calls.values()) == N_TILES - 5


def test_a_run_that_goes_on_keeps_its_threshold_of_empty_tiles(fn, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(100, 5, SHAPE)
    # The upper half holds background alone.
    image = (noise + 1000.0 * IMAGE * (np.arange(SHAPE[0]) >= SHAPE[0] // 2)[:, None]).astype("uint16")
    options = {"skip_empty": True, "write_to": tmp_path / "out.zarr"}
    whole, expected = segment(naive.label, image, skip_empty=True, return_report=True)
    assert 0 < expected.n_skipped < N_TILES
    interrupt(fn, 3, image, **options)
    monkeypatch.setattr(
        "blockbuster.run.run.choose_empty_threshold", lambda *image, **options: pytest.fail("computed again")
    )
    labels, report = segment(fn, image, resume=True, return_report=True, **options)
    np.testing.assert_array_equal(labels, whole)
    assert report.empty_threshold == expected.empty_threshold > 0
    assert (report.n_skipped, report.n_run) == (expected.n_skipped, expected.n_run)
    assert len(os.listdir(f"{fn.folder}/calls")) == expected.n_run - 3


@pytest.mark.parametrize("drops", [True, False])
def test_a_run_over_all_channels_goes_on(drops, tmp_path):
    data = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]])
    image = write_image(tmp_path / "image.zarr", data, "cyx")
    options = {"channel": None, "write_to": tmp_path / "out.zarr", "tiles_per_task": None}

    def any_channel(pixels):
        labels = naive.label(pixels.max(0))
        return labels if drops else np.stack([labels] * 3)

    whole = segment(any_channel, image, channel=None)
    interrupt_at("task journalled", any_channel, 2, image=image, **options)
    labels, report = segment(any_channel, image, resume=True, return_report=True, **options)
    assert whole.ndim == (2 if drops else 3)
    np.testing.assert_array_equal(labels, whole)
    assert N_TILES > report.n_resumed > 0


def test_a_run_over_a_dask_image_goes_on(fn, tmp_path, clean):
    image = da.from_array(IMAGE, chunks=(16, 16))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "every chunk of the dask image")
        interrupt(fn, 5, image, write_to=tmp_path / "out.zarr")
        segment(fn, da.from_array(IMAGE, chunks=(16, 16)), write_to=tmp_path / "out.zarr", resume=True)
    assert sum(fn.calls.values()) == N_TILES - 5
    assert contents(tmp_path / "out.zarr") == clean


def test_a_numpy_result_goes_on_from_a_stage_in_a_folder_of_the_callers(fn, tmp_path, workers):
    for scheduler in ("synchronous", "processes"):
        options = {"stage_dir": tmp_path / "stages"}
        interrupt(fn, 5, **options)
        assert len(os.listdir(tmp_path / "stages")) == 1
        with workers(scheduler):
            labels = segment(fn, resume=True, **options)
        assert isinstance(labels, np.ndarray)
        np.testing.assert_array_equal(labels, EXPECTED)
        assert sum(fn.calls.values()) == N_TILES - 5
        assert os.listdir(tmp_path / "stages") == []
        fn.go_on()


# -- outputs that are finished


def test_a_finished_output_is_given_back_at_once(fn, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    _, first = segment(fn, return_report=True, **place)
    fn.go_on()
    before = snapshot(tmp_path)
    lazy, report = segment(fn, resume=True, return_report=True, **place)
    array = segment(fn, resume=True, compute=True, **place)
    assert isinstance(lazy, da.Array)
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(lazy, EXPECTED)
    np.testing.assert_array_equal(array, EXPECTED)
    assert report.n_objects == first.n_objects == len(np.unique(EXPECTED)) - 1
    assert report.seconds.keys() == first.seconds.keys()
    assert fn.calls == {}
    assert snapshot(tmp_path) == before


def test_a_finished_output_of_other_settings_is_refused_with_what_differs(fn, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    segment(fn, **place)
    fn.go_on()
    with refused(FileExistsError, "connectivity was 1, is 2", "overwrite=True", folder=tmp_path):
        segment(fn, resume=True, connectivity=2, **place)
    with refused(FileExistsError, "overwrite=True", folder=tmp_path):
        segment(fn, **place)
    assert fn.calls == {}


def test_labels_of_others_are_not_taken_for_a_finished_output(fn, tmp_path):
    zarr.create_group(tmp_path / "out.zarr").create_array("labels", data=np.zeros(SHAPE, "int32"))
    with refused(FileExistsError, "was not written by blockbuster", "overwrite=True", folder=tmp_path):
        segment(fn, resume=True, write_to=tmp_path / "out.zarr")
    assert fn.calls == {}


def test_resume_begins_anew_where_there_is_nothing(fn, tmp_path, clean):
    _, report = segment(fn, resume=True, return_report=True, write_to=tmp_path / "out.zarr")
    assert fn.calls == ONCE
    assert contents(tmp_path / "out.zarr") == clean
    assert (report.resumed_from, report.n_resumed) == ("", 0)


def test_finished_work_is_not_thrown_away_unasked(fn, tmp_path, clean):
    place = {"write_to": tmp_path / "out.zarr"}
    interrupt(fn, 5, **place)
    with refused(FileExistsError, STAGE, "resume=True", "overwrite=True", folder=tmp_path):
        segment(fn, **place)
    assert fn.calls == {}
    segment(fn, overwrite=True, **place)
    assert fn.calls == ONCE
    assert contents(tmp_path / "out.zarr") == clean


def test_a_stage_without_finished_work_is_begun_anew_unasked(fn, tmp_path, clean):
    interrupt(fn, 0, write_to=tmp_path / "out.zarr")
    segment(fn, write_to=tmp_path / "out.zarr")
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["labeller", "out.zarr"]


def test_resume_without_a_place_is_refused(fn):
    with refused(ValueError, "resume=True needs write_to or stage_dir"):
        segment(fn, resume=True)
    assert fn.calls == {}


def test_a_stage_that_is_kept_gives_the_output_again_without_fn(fn, tmp_path, clean):
    options = {"write_to": tmp_path / "out.zarr", "keep_stage": True}
    segment(fn, **options)
    fn.go_on()
    shutil.rmtree(tmp_path / "out.zarr")
    with refused(FileExistsError, STAGE, "resume=True", folder=tmp_path):
        segment(fn, **options)
    segment(fn, resume=True, **options)
    assert fn.calls == {}
    assert contents(tmp_path / "out.zarr") == clean
    assert sorted(os.listdir(tmp_path)) == ["labeller", "out.zarr", STAGE]


@pytest.mark.parametrize(("point", "nth"), [("task journalled", 5), ("seams matched", 1), ("box journalled", 2)])
def test_a_stage_that_was_moved_with_its_partial_output_goes_on_elsewhere(point, nth, fn, tmp_path, monkeypatch):
    store_in_small_pieces(monkeypatch)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    interrupt_at(point, fn, nth, write_to=tmp_path / "old" / "out.zarr")
    for name in os.listdir(tmp_path / "old"):
        os.rename(tmp_path / "old" / name, tmp_path / "new" / name)
    segment(fn, resume=True, write_to=tmp_path / "new" / "out.zarr")
    assert sum(fn.calls.values()) == (N_TILES - nth if point == "task journalled" else 0)
    assert contents(tmp_path / "new" / "out.zarr") == clean_contents(tmp_path)
    assert os.listdir(tmp_path / "new") == ["out.zarr"]


def test_outputs_of_one_name_have_stages_of_their_own_in_one_folder(fn, tmp_path, clean):
    places = [{"write_to": tmp_path / name / "labels.zarr", "stage_dir": tmp_path / "stages"} for name in "ab"]
    for place in places:
        interrupt(fn, 5, **place)
    assert len(os.listdir(tmp_path / "stages")) == 2
    for place in places:
        segment(fn, resume=True, **place)
        assert sum(fn.calls.values()) == N_TILES - 5
        fn.go_on()
        assert contents(place["write_to"]) == clean


# -- stages of other runs


def write_two_channels(folder, pixels=IMAGE):
    return write_image(folder / "image.zarr", np.stack([pixels, pixels]), "cyx", levels=("0", "1"))


CHANGED_SETTINGS = {
    "channel": ({}, {"channel": 1}, "channel was 0, is 1"),
    "level": ({}, {"level": 1}, "level was 0, is 1"),
    "tile_shape": ({}, {"tile_shape": (10, 10)}, r"tile_shape was \[10, 11\], is \[10, 10\]"),
    "tile_shape of other lengths": (
        {"tile_shape": lambda *_: TILE},
        {"tile_shape": (19, 7)},
        r"tile_shape was \[10, 11\], is \[19, 7\]",
    ),
    "overlap": ({}, {"overlap": 2}, r"halo was \[1, 1\], is \[2, 2\]"),
    "connectivity": ({}, {"connectivity": 2}, "connectivity was 1, is 2"),
    "merge_axes": ({}, {"merge_axes": "y"}, r"merge_axes was \[0, 1\], is \[0\]"),
    "skip_empty": ({}, {"skip_empty": True}, "skip_empty was False, is True"),
    "empty_threshold": (
        {"skip_empty": True, "empty_threshold": 0},
        {"empty_threshold": 0.5},
        r"empty_threshold was 0(\.0)?, is 0.5",
    ),
    "empty_threshold of Otsu": (
        {"skip_empty": True, "empty_threshold": 0},
        {"empty_threshold": None},
        r"empty_threshold was 0(\.0)?, is None",
    ),
    "sequential_labels": ({}, {"sequential_labels": True}, "sequential_labels was False, is True"),
    "fn_version": ({}, {"fn_version": "2"}, "fn_version was 1, is 2"),
    "fn_version left out": ({}, {"fn_version": None}, "fn_version was 1, is None"),
}


@pytest.mark.parametrize("what", CHANGED_SETTINGS)
def test_F13_a_stage_of_other_settings_is_refused_with_the_setting(what, fn, tmp_path):
    first, changes, named = CHANGED_SETTINGS[what]
    image = write_two_channels(tmp_path)
    options = {"write_to": tmp_path / "out.zarr", **first}
    interrupt(fn, 3, image, **options)
    with refused(ValueError, named, STAGE, "overwrite=True", folder=tmp_path):
        segment(fn, image, resume=True, **{**options, **changes})
    assert fn.calls == {}
    segment(fn, image, resume=True, **options)
    assert sum(fn.calls.values()) == N_TILES - 3


def test_F13_settings_that_do_not_change_labels_do_not_matter(fn, tmp_path, clean):
    interrupt(fn, 3, write_to=tmp_path / "out.zarr")
    others = {"retries": 2, "on_error": "skip", "compute": True, "verbose": True, "empty_threshold": 9}
    segment(fn, resume=True, write_to=tmp_path / "out.zarr", tiles_per_task=7, **others)
    assert sum(fn.calls.values()) == N_TILES - 3
    assert contents(tmp_path / "out.zarr") == clean


def above(threshold):
    return lambda pixels: naive.label(pixels > threshold)


def above_or_equal(threshold):
    return lambda pixels: naive.label(pixels >= threshold)


def with_default(threshold):
    def segment_above(pixels, threshold=threshold):
        return naive.label(pixels > threshold)

    return segment_above


def label_above(pixels, threshold):
    return naive.label(pixels > threshold)


def holding(layers):
    return lambda pixels: naive.label(pixels * bool(layers))


def paints(layers):
    """Label where the pixels are above some value, in steps of which none may come before the other."""

    def paint(pixels):
        labels = naive.label(pixels)
        for name in layers:
            labels = np.where(labels > 0, 2 * labels + int(name), 0)
        return labels

    return paint


CHANGED_FUNCTIONS = {
    "code": (lambda: above(0), lambda: above_or_equal(0), "fn: (code|name)"),
    "closure": (lambda: above(0), lambda: above(1), "fn: closure threshold was 0, is 1"),
    "default": (lambda: with_default(0), lambda: with_default(1), "fn: default threshold was 0, is 1"),
    "argument of a partial": (
        lambda: functools.partial(label_above, threshold=0),
        lambda: functools.partial(label_above, threshold=1),
        "fn: .*threshold",
    ),
    "order of a dictionary": (
        lambda: holding({"1": 50, "2": 120}),
        lambda: holding({"2": 120, "1": 50}),
        "fn: closure layers differs",
    ),
    "another function": (lambda: above(0), lambda: naive.label, "fn: name was .*above.*, is label"),
}


@pytest.mark.parametrize("what", CHANGED_FUNCTIONS)
def test_F13_a_stage_of_another_function_is_refused_with_what_differs(what, tmp_path, clean):
    make, make_other, named = CHANGED_FUNCTIONS[what]
    options = {"write_to": tmp_path / "out.zarr", "fn_version": None}
    interrupt_at("task journalled", make(), 3, **options)
    with refused(ValueError, named, STAGE, folder=tmp_path):
        segment(make_other(), resume=True, **options)
    # The same function made anew is the same.
    assert segment(make(), resume=True, return_report=True, **options)[1].n_resumed == 3
    assert contents(tmp_path / "out.zarr") == clean


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_F13_a_finished_output_is_refused_after_a_dictionary_was_put_in_another_order(kind, tmp_path):
    place = {"write_to": tmp_path / "out.zarr", "fn_version": None}
    layers = kind({"1": 50, "2": 120})
    old = np.asarray(segment(paints(layers), **place))
    np.testing.assert_array_equal(segment(paints(kind(layers)), resume=True, **place), old)
    turned = kind(reversed(layers.items()))
    with refused(FileExistsError, "fn: closure layers differs", "overwrite=True", folder=tmp_path):
        segment(paints(turned), resume=True, **place)


def test_an_output_of_an_earlier_format_is_refused_with_both(fn, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    segment(fn, **place)
    report = next((tmp_path / "out.zarr").rglob(REPORT))
    kept = json.loads(report.read_text())
    # As reports were then, without a checksum.
    del kept["fingerprint"]["format"], kept["crc"]
    report.write_text(json.dumps(kept))
    with refused(FileExistsError, f"the format of its fingerprint was None, is {FORMAT}", folder=tmp_path):
        segment(fn, resume=True, **place)


def test_a_finished_output_whose_report_is_damaged_is_refused_with_the_file(fn, tmp_path):
    segment(fn, write_to=tmp_path / "out.zarr")
    report = next((tmp_path / "out.zarr").rglob(REPORT))
    report.write_text(report.read_text().replace('"n_tiles": 12', '"n_tiles": 13'))
    with refused(FileExistsError, f"{report} is damaged", "checksum", "overwrite=True", folder=tmp_path):
        segment(fn, resume=True, write_to=tmp_path / "out.zarr")


def test_F13_a_version_stands_for_any_function(tmp_path, clean):
    interrupt_at("task journalled", above(0), 3, write_to=tmp_path / "out.zarr")
    segment(above(0.5), resume=True, write_to=tmp_path / "out.zarr")
    assert contents(tmp_path / "out.zarr") == clean


def draws_from(generator):
    """A function whose state is that of a generator, which nobody can read."""

    def segment_and_draw(pixels):
        next(generator)
        return naive.label(pixels)

    return segment_and_draw


def test_F13_a_function_that_cannot_be_read_warns_at_the_start_and_its_stage_is_refused(tmp_path):
    options = {"write_to": tmp_path / "out.zarr", "fn_version": None}
    fn = draws_from(n for n in itertools.count())
    with pytest.warns(UserWarning, match="will not be resumable.*generator.*fn_version") as caught:
        interrupt_at("task journalled", fn, 3, **options)
    assert len(caught) == 1
    assert caught[0].filename == interrupted.__file__
    with (
        pytest.warns(UserWarning, match="will not be resumable"),
        refused(ValueError, "fn: it cannot be read", folder=tmp_path) as caught,
    ):
        segment(fn, resume=True, **options)
    # A text that is given only now could not tell either, and is not advised.
    assert "fn_version" not in str(caught.value)
    with refused(ValueError, "fn: it cannot be read", folder=tmp_path):
        segment(fn, resume=True, **{**options, "fn_version": "1"})


def change_a_pixel_of_a_zarr_image(folder):
    zarr.open_array(folder / "image.zarr")[20, 20] ^= 1
    return folder / "image.zarr"


def put_another_image_there(folder):
    shutil.rmtree(folder / "image.zarr")
    return write_image(folder / "image.zarr", IMAGE.astype("uint16"), chunks=(16, 16))


def change_a_pixel(_):
    changed = IMAGE.copy()
    changed[20, 20] ^= 1
    return changed


def named_dask(pixels):
    """A dask array whose name says nothing of its pixels, as of one read from files."""
    return da.from_array(pixels, chunks=TILE, name="microscope")


CHANGED_IMAGES = {
    "pixel of a zarr image": (
        lambda folder: write_image(folder / "image.zarr", IMAGE, chunks=(16, 16)),
        change_a_pixel_of_a_zarr_image,
        "image: content differs",
    ),
    "another image at the path": (
        lambda folder: write_image(folder / "image.zarr", IMAGE, chunks=(16, 16)),
        put_another_image_there,
        "image: dtype was uint8, is uint16",
    ),
    "pixel of a NumPy image": (lambda _: IMAGE, change_a_pixel, "image: content differs"),
    "kind of image": (lambda _: IMAGE, lambda _: da.from_array(IMAGE), "image: kind was numpy, is dask"),
    "graph of a dask image": (
        lambda _: da.from_array(IMAGE, chunks=TILE),
        lambda _: da.from_array(IMAGE, chunks=TILE) + 0,
        "image: graph",
    ),
    "pixels of a dask image with the same graph": (
        lambda _: named_dask(IMAGE),
        lambda _: named_dask(1 - IMAGE),
        "image dask array: its pixels .* are not those that the earlier run read",
    ),
}


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.parametrize("what", CHANGED_IMAGES)
def test_F13_a_stage_of_another_image_is_refused_with_what_differs(what, fn, tmp_path):
    make, change, named = CHANGED_IMAGES[what]
    place = {"write_to": tmp_path / "out.zarr"}
    interrupt(fn, 3, make(tmp_path), **place)
    changed = change(tmp_path)
    with refused(ValueError, named, "overwrite=True", folder=tmp_path):
        segment(fn, changed, resume=True, **place)
    assert fn.calls == {}


# -- outputs of an image that changed


def one_pixel_more():
    return change_a_pixel(None)


def all_but_the_corners():
    """The image without what the first and the last tile show, as where a mosaic is padded."""
    changed = 1 - IMAGE
    for region in (REGIONS[0, 0], REGIONS[3, 2]):
        changed[region] = IMAGE[region]
    return changed


class Pixels:
    """An image that lies nowhere."""

    def write(self, folder, pixels):
        self.pixels = pixels

    def open(self, folder):
        return self.pixels


class NamedDask(Pixels):
    def open(self, folder):
        return named_dask(self.pixels)


class MemoryMap:
    def write(self, folder, pixels):
        np.save(folder / "image.npy", pixels)

    def open(self, folder):
        return np.load(folder / "image.npy", mmap_mode="r")


class ZarrBehindDask:
    def write(self, folder, pixels):
        zarr.create_array(folder / "image.zarr", data=pixels, chunks=TILE, overwrite=True)

    def open(self, folder):
        return da.from_zarr(str(folder / "image.zarr"))


class FilesOfFsspec(ZarrBehindDask):
    def open(self, folder):
        return zarr.open_array(FsspecStore.from_url(f"file://{folder}/image.zarr"), mode="r")


class StoreOfOthers(ZarrBehindDask):
    """Files, of which only the pixels tell that they changed."""

    def open(self, folder):
        return zarr.open_array(WrapperStore(LocalStore(folder / "image.zarr")), mode="r")


class Archive:
    def write(self, folder, pixels):
        with ZipStore(folder / "image.zip", mode="w") as store:
            zarr.create_array(store, name="image", data=pixels, chunks=TILE)

    def open(self, folder):
        return zarr.open_array(ZipStore(folder / "image.zip", mode="r"), path="image", mode="r")


class ArchiveBehindDask(Archive):
    def open(self, folder):
        return da.from_array(super().open(folder), chunks=TILE, name="zip")


class Url:
    def write(self, folder, pixels):
        zarr.create_array(self.open(folder), data=pixels, chunks=TILE, overwrite=True)

    def open(self, folder):
        return f"memory://{name_of(np.array(str(folder)))}/image.zarr"


class Hdf5BehindDask:
    def write(self, folder, pixels):
        h5py = pytest.importorskip("h5py")
        (folder / "image.h5").unlink(missing_ok=True)
        with h5py.File(folder / "image.h5", "w") as file:
            file["image"] = pixels

    def open(self, folder):
        h5py = pytest.importorskip("h5py")
        return da.from_array(h5py.File(folder / "image.h5", "r")["image"], chunks=TILE, name="hdf5")


CHANGING_IMAGES = [
    (ZarrBehindDask(), one_pixel_more, "image: content differs"),
    (FilesOfFsspec(), one_pixel_more, "image: content differs"),
    (StoreOfOthers(), all_but_the_corners, "image .*: its pixels in .* are not those"),
    (Archive(), one_pixel_more, "image: mtime_ns was"),
    (ArchiveBehindDask(), one_pixel_more, "image: content differs"),
    (Url(), one_pixel_more, "image: content differs"),
    (Pixels(), one_pixel_more, "image: content differs"),
    (MemoryMap(), one_pixel_more, "image: content differs"),
    (Hdf5BehindDask(), all_but_the_corners, "image dask array: its pixels in .* are not those"),
    (NamedDask(), all_but_the_corners, "image dask array: its pixels in .* are not those"),
]
changing = pytest.mark.parametrize(
    ("kind", "change", "named"), CHANGING_IMAGES, ids=[type(kind).__name__ for kind, _, _ in CHANGING_IMAGES]
)


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@changing
def test_F32_a_finished_output_is_given_back_until_its_image_changes(kind, change, named, fn, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    kind.write(tmp_path, IMAGE)
    segment(fn, kind.open(tmp_path), **place)
    fn.go_on()
    before = snapshot(tmp_path)
    segment(fn, kind.open(tmp_path), resume=True, **place)
    assert snapshot(tmp_path) == before
    kind.write(tmp_path, change())
    with refused(FileExistsError, named, "overwrite=True", folder=tmp_path):
        segment(fn, kind.open(tmp_path), resume=True, **place)
    assert fn.calls == {}
    labels = segment(naive.label, kind.open(tmp_path), resume=True, overwrite=True, **place)
    np.testing.assert_array_equal(labels, naive.stitch(change(), naive.label, LENGTHS, HALO))


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@changing
def test_F32_a_stage_is_continued_until_its_image_changes(kind, change, named, fn, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    kind.write(tmp_path, IMAGE)
    interrupt(fn, 3, kind.open(tmp_path), **place)
    interrupt(fn, 6, kind.open(tmp_path), resume=True, **place)
    kind.write(tmp_path, change())
    with refused(ValueError, named, "overwrite=True", folder=tmp_path):
        segment(fn, kind.open(tmp_path), resume=True, **place)
    assert fn.calls == {}


def test_F32_a_tile_that_was_probed_is_not_taken_for_that_of_a_changed_image(tmp_path):
    options = {"write_to": tmp_path / "out.zarr", "tiles_per_task": None}
    interrupt_at("stage laid out", naive.label, image=named_dask(IMAGE), **options)
    labels = segment(naive.label, named_dask(1 - IMAGE), resume=True, **options)
    np.testing.assert_array_equal(labels, naive.stitch(1 - IMAGE, naive.label, LENGTHS, HALO))


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
def test_F32_a_report_without_samples_is_not_trusted_where_they_are_needed(fn, tmp_path):
    place = {"write_to": tmp_path / "out.zarr"}
    segment(fn, named_dask(IMAGE), **place)
    fn.go_on()
    report = next((tmp_path / "out.zarr").rglob(REPORT))
    kept = json.loads(report.read_text())
    report.write_text(json.dumps({name: what for name, what in kept.items() if name not in ("samples", "crc")}))
    with refused(FileExistsError, "nothing is known of its pixels", "overwrite=True", folder=tmp_path):
        segment(fn, named_dask(IMAGE), resume=True, **place)


class HolesInDask:
    """A dask image of which every other row of chunks cannot be computed: one of the two tiles of a brick."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __call__(self, *index):
        if index[0] % 2 == 0:
            raise OSError("the disk has a hole")
        return self.pixels[tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, TILE, strict=True))]

    def open(self):
        chunks = tuple((*(size,) * (n // size), n % size) for n, size in zip(SHAPE, TILE, strict=True))
        # Some versions of dask add to a name what tells functions apart, and the name shall be the same.
        graph = {("holes", *index): (self, *index) for index in np.ndindex(*map(len, chunks))}
        return da.Array(graph, "holes", chunks, IMAGE.dtype)


HOLES = {"overlap": 0, "on_error": "skip"}


@pytest.mark.filterwarnings("ignore:.* tiles failed")
@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.parametrize("tiles_per_task", [2, N_TILES])
def test_F32_a_finished_output_of_an_image_with_holes_is_given_back(tiles_per_task, fn, tmp_path):
    options = {**HOLES, "tiles_per_task": tiles_per_task, "write_to": tmp_path / "out.zarr"}
    segment(fn, HolesInDask(IMAGE).open(), **options)
    fn.go_on()
    segment(fn, HolesInDask(IMAGE).open(), resume=True, **options)
    with refused(FileExistsError, "its pixels in .* are not those", folder=tmp_path):
        segment(fn, HolesInDask(1 - IMAGE).open(), resume=True, **options)
    assert fn.calls == {}


@pytest.mark.filterwarnings("ignore:.* tiles failed")
def test_F13_a_stage_of_an_image_with_holes_is_continued_until_it_changes(fn, tmp_path):
    options = {**HOLES, "tiles_per_task": 2, "write_to": tmp_path / "out.zarr"}
    segment(naive.label, HolesInDask(IMAGE).open(), **{**options, "write_to": tmp_path / "clean.zarr"})
    interrupt_at("task journalled", fn, 2, HolesInDask(IMAGE).open(), KeyboardInterrupt, **options)
    with refused(ValueError, "its pixels in .* are not those", folder=tmp_path):
        segment(fn, HolesInDask(1 - IMAGE).open(), resume=True, **options)
    segment(fn, HolesInDask(IMAGE).open(), resume=True, **options)
    assert sum(fn.calls.values()) == 4
    assert contents(tmp_path / "out.zarr") == contents(tmp_path / "clean.zarr")


def test_F32_an_image_without_pixels_is_finished_as_it_was(tmp_path):
    image = da.zeros((0, 5), chunks=(1, 5), dtype="uint8", name="nothing")
    for resume in (False, True):
        labels = tile_process(image, naive.label, write_to=tmp_path / "out.zarr", resume=resume)
        assert labels.shape == (0, 5)


def test_F13_a_stage_of_another_format_is_refused_with_both(fn, tmp_path):
    interrupt(fn, 3, write_to=tmp_path / "out.zarr")
    manifest = tmp_path / STAGE / MANIFEST
    text = manifest.read_text()
    assert f'"format": {FORMAT}' in text
    manifest.write_text(text.replace(f'"format": {FORMAT}', '"format": 1'))
    with refused(ValueError, f"the format of the stage was 1, is {FORMAT}", "overwrite=True", folder=tmp_path):
        segment(fn, resume=True, write_to=tmp_path / "out.zarr")
    assert fn.calls == {}
    segment(fn, overwrite=True, write_to=tmp_path / "out.zarr")
    assert fn.calls == ONCE
