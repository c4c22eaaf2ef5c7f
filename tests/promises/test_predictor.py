"""A network in two steps gives what a function of one step gives, whatever is predicted together."""

import functools
import os
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import dask
import dask.array as da
import naive
import numpy as np
import predicted
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import contents
from outcomes import refused, snapshot
from scipy import ndimage
from strategies import small_tile_shapes, wide_shapes

import blockbuster
from blockbuster import BlockbusterWarning, Predictor, TileError, plan_run, tile_process
from blockbuster.predict import Device, Lane, Request
from blockbuster.predict.device import MAX_WAITING_BYTES
from blockbuster.report import DEVICE_PHASES, REPORT

IMAGE = (ndimage.gaussian_filter(np.random.default_rng(7).random((61, 83)), 1.2) * 2000).astype("uint16")
TILES = {"tile_shape": (16, 15), "overlap": 3, "fn_version": "1"}
# Of one tile alone, and in no halo of another.
MARK = 40_000
MARKED = IMAGE.copy()
MARKED[40, 37] = MARK


def grey(tiles):
    return tiles.astype("float32") / 1000


def find(probability):
    return ndimage.label(probability > 1)[0]


def two_maps(tiles):
    return tiles.astype("float32") / 1000, tiles > 1100


def find_in_two(maps):
    return {"all": ndimage.label(maps[0] > 0.9)[0], "bright": ndimage.label(maps[1])[0]}


def segment(tile):
    return find(grey(tile))


class Seen:
    """Predicts, and keeps the shapes of the batches that it got."""

    def __init__(self, predict=grey):
        self.predict = predict
        self.batches = []

    def __call__(self, tiles):
        self.batches.append(tiles.shape)
        return self.predict(tiles)


@pytest.mark.filterwarnings("ignore::blockbuster.BlockbusterWarning")
@settings(max_examples=examples(60))
@given(st.data())
def test_labels_are_those_of_one_tile_after_the_other(data):
    shape = data.draw(wide_shapes((1, 2, 3)))
    image = (np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).random(shape) * 2000).astype("uint16")
    options = {
        "tile_shape": data.draw(small_tile_shapes(shape)),
        "overlap": data.draw(st.integers(0, 3)),
        "merge": data.draw(st.sampled_from(["touch", "agree"])),
        "tiles_per_task": data.draw(st.sampled_from([None, 1, 3])),
        "skip_empty": data.draw(st.booleans()),
        "empty_threshold": 1200,
    }
    predict = Seen()
    fn = Predictor(predict, find, batch_size=data.draw(st.sampled_from([1, 2, 7])))
    with dask.config.set(scheduler=data.draw(st.sampled_from(["synchronous", "threads"])), num_workers=2):
        labels = tile_process(image, fn, **options)
        assert np.array_equal(labels, tile_process(image, segment, **options))
    if fn.batch_size > 1:
        assert all(batch[0] <= fn.batch_size for batch in predict.batches)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_same_bytes_from_every_scheduler(batch_size, workers, folder):
    fn = Predictor(two_maps, find_in_two, batch_size=batch_size)
    options = {**TILES, "output_component": "{}", "measure": ["intensity_sum"], "parents": "bright:all"}
    found = []
    for scheduler in ("synchronous", "threads", "processes"):
        with workers(scheduler):
            tile_process(IMAGE, fn, write_to=f"{scheduler}.zarr", **options)
        found.append({name: what for name, what in snapshot(f"{scheduler}.zarr").items() if REPORT not in name})
    assert found[0] == found[1] == found[2]
    assert {"all/objects.parquet", "bright/objects.parquet"} <= set(found[0])


def test_workers_of_a_cluster_predict_batches(folder):
    client, cluster = blockbuster.make_local_cluster(n_workers=1, threads_per_worker=2, memory_limit=None)
    with cluster, client:
        far = tile_process(IMAGE, Predictor(grey, find, batch_size=4), **TILES)
    assert np.array_equal(far, tile_process(IMAGE, segment, **TILES))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_tiles_of_one_shape_are_predicted_together_one_batch_at_a_time(scheduler):
    running, most = [], []

    def predict(tiles):
        running.append(1)
        most.append(len(running))
        time.sleep(0.001)
        running.pop()
        return grey(tiles)

    seen = Seen(predict)
    with dask.config.set(scheduler=scheduler, num_workers=3):
        tile_process(np.zeros((160, 160)), Predictor(seen, find, batch_size=4), tile_shape=(10, 10))
    assert max(most) == 1
    sizes = Counter(shape[0] for shape in seen.batches)
    # How many are full is a matter of time.
    assert set(sizes) <= {1, 2, 3, 4}
    assert sum(n * times for n, times in sizes.items()) == 256


def test_border_tiles_of_other_shapes_have_batches_of_their_own():
    seen = Seen()
    with dask.config.set(scheduler="synchronous"):
        tile_process(
            np.ones((25, 25)), Predictor(seen, find, batch_size=3), tile_shape=(10, 10), tiles_per_task=9
        )
    count = Counter()
    for n, *shape in seen.batches:
        count[tuple(shape)] += n
    assert count == {(10, 10): 4, (10, 5): 2, (5, 10): 2, (5, 5): 1}


def test_a_function_may_change_its_tile_and_the_image_stays():
    image = IMAGE.copy()

    def predict(tile):
        tile[...] = 0
        return tile

    tile_process(image, Predictor(predict, np.zeros_like), **{**TILES, "fn_version": None})
    assert np.array_equal(image, IMAGE)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("step", ["predict", "decode"])
def test_F1_an_error_is_that_of_its_tile(step, batch_size):
    def fail_at(function):
        def run(given):
            if (given == MARK).any():
                raise OSError("no such weights")
            return function(given)

        return run

    predict = fail_at(lambda tiles: tiles) if step == "predict" else lambda tiles: tiles
    decode = fail_at(segment) if step == "decode" else segment
    fn = Predictor(predict, decode, batch_size=batch_size)
    plain = fail_at(segment)
    with pytest.raises(TileError, match="no such weights") as caught:
        tile_process(MARKED, fn, **TILES)
    assert caught.value.tile == (2, 2)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        labels, report = tile_process(MARKED, fn, **TILES, on_error="skip", return_report=True)
        expected, _ = tile_process(MARKED, plain, **TILES, on_error="skip", return_report=True)
    assert np.array_equal(labels, expected)
    assert [tuple(tile) for tile, _ in report.failed] == [(2, 2)]


def test_a_tile_that_failed_is_tried_again_by_itself():
    failed = []

    def predict(tiles):
        if len(failed) < 2 and (tiles == MARK).any():
            failed.append(len(tiles))
            raise OSError("a glitch")
        return grey(tiles)

    with dask.config.set(scheduler="synchronous"):
        fn = Predictor(predict, find, batch_size=4)
        labels, report = tile_process(MARKED, fn, **TILES, retries=2, return_report=True)
    assert np.array_equal(labels, tile_process(MARKED, segment, **TILES))
    # Once or twice, as it happens to have been predicted with others, or by itself, at first.
    assert len(failed) == 2
    assert (report.n_failed, report.n_retried) in {(0, 1), (0, 2)}


def test_a_batch_that_does_not_fit_the_device_is_halved_for_good(caplog):
    tried, gate, device = [], threading.Event(), Device()

    def predict(tiles):
        gate.wait()
        tried.append(len(tiles))
        if len(tiles) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return tiles

    fn = Predictor(predict, np.copy, batch_size=8)
    requests = [Request(fn, np.full((2, 2), n), Lane()) for n in range(16)]
    with device.used():
        for request in requests:
            device.submit(request)
        gate.set()
        found = [int(request.prediction.result()[0, 0]) for request in requests]
    assert found == list(range(16))
    # Batches are twice as large each time; four do not fit, and two do.
    first = tried.index(4)
    assert set(tried[first + 1 :]) == {1, 2} or set(tried[first + 1 :]) == {2}
    assert sum(tried) == 16 + 4
    assert "out of memory with a batch of 4: 2 from now on" in caplog.text


def test_a_single_tile_that_does_not_fit_says_what_to_do():
    def predict(tiles):
        raise RuntimeError("CUDA out of memory.")

    with pytest.raises(TileError, match="choose smaller tiles"):
        tile_process(IMAGE, Predictor(predict, find, batch_size=4), **TILES)


def test_a_run_goes_on_with_another_batch_size_and_predicts_no_finished_tile_again(folder):
    class Failing(Seen):
        fatal = True

        def __call__(self, tiles):
            if self.fatal and (tiles == MARK).any():
                raise OSError("the power is off")
            return super().__call__(tiles)

    predict = Failing()
    options = {**TILES, "write_to": "x.zarr", "tiles_per_task": 4}
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(TileError, match="the power is off"):
            tile_process(MARKED, Predictor(predict, find, batch_size=4), **options)
        # Another one: what is under way as a run fails ends some time later.
        predict = Failing()
        predict.fatal = False
        labels, report = tile_process(
            MARKED, Predictor(predict, find, batch_size=7), **options, resume=True, return_report=True
        )
    assert report.n_resumed > 0
    assert sum(n for n, *_ in predict.batches) == report.n_tiles - report.n_resumed
    assert np.array_equal(np.asarray(labels), tile_process(MARKED, segment, **TILES))


def test_F13_a_finished_run_is_that_of_another_batch_size_and_not_of_another_network(folder):
    options = {"tile_shape": (16, 16), "write_to": "x.zarr"}
    tile_process(IMAGE, Predictor(grey, find, batch_size=4), **options)
    tile_process(IMAGE, Predictor(grey, find, batch_size=9), **options, resume=True)
    for other in (Predictor(grey, above_mean, batch_size=4), Predictor(grey, find, batch_size=4, stride=2)):
        with refused(FileExistsError, "is not what this call would make"):
            tile_process(IMAGE, other, **options, resume=True)


@pytest.mark.parametrize("fatal", [1, 2, 8, 13, 23])
def test_F5_a_run_that_is_killed_in_a_batch_goes_on_where_it_was(fatal, zygote, tmp_path):
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    killed.mkdir()
    clean.mkdir()
    assert zygote.run(predicted.run_until_killed, killed, fatal).killed
    before = predicted.predicted(killed)
    assert len(before) == fatal
    report = predicted.run(killed, resume=True)
    predicted.run(clean)
    assert contents(killed / "x.zarr") == contents(clean / "x.zarr")
    again = predicted.predicted(killed)[fatal:]
    # Nothing of a finished task is predicted again, and a task has six tiles.
    assert len(set(before) & set(again)) < 6
    assert set(before) | set(again) == set(predicted.predicted(clean))
    assert len(again) == len(set(again)) == predicted.N_TILES - report.n_resumed


def test_what_waits_is_bounded_however_slow_decoding_is(monkeypatch):
    """Of each task one tile is let through, and what is predicted together before sizes are known."""
    tile_bytes = 40 * 40 * 8
    monkeypatch.setattr("blockbuster.predict.device.MAX_WAITING_BYTES", 6 * tile_bytes)
    lock, held, most = threading.Lock(), [0], [0]

    def predict(tiles):
        with lock:
            held[0] += len(tiles)
            most[0] = max(most[0], held[0])
        return tiles

    def decode(tile):
        time.sleep(0.002)
        with lock:
            held[0] -= 1
        return np.zeros(tile.shape, int)

    with dask.config.set(scheduler="threads", num_workers=2):
        tile_process(np.ones((800, 400)), Predictor(predict, decode, batch_size=2), tile_shape=(40, 40))
    # Four tasks at once, which may each have asked whether there is room before the others took it.
    assert most[0] <= 6 + 4


def test_what_nobody_waits_for_any_more_takes_no_room():
    device, gate = Device(), threading.Event()
    tile = np.ones((10, 10))
    fn = Predictor(lambda tiles: gate.wait() and np.repeat(tiles, 9, axis=-1), np.copy, batch_size=2)
    requests = [Request(fn, tile, Lane()) for _ in range(3)]
    with device.used():
        for request in requests:
            device.submit(request)
        for request in requests:
            device.forget(request)
        gate.set()
        last = Request(fn, tile, Lane())
        device.submit(last)
        assert last.prediction.result().shape == (10, 90)
        device.forget(last)
    predicted = 10 * 90 * 8
    assert device.has_room(fn, MAX_WAITING_BYTES - predicted)
    assert not device.has_room(fn, MAX_WAITING_BYTES - predicted + 1)


def test_a_device_is_said_to_wait_for_what_it_waits_for(folder):
    image = np.ones((100, 100))

    def slow_decode(tile):
        time.sleep(0.01)
        return np.ones(tile.shape, int)

    options = {"tile_shape": (10, 10), "return_report": True, "write_to": "x.zarr", "overwrite": True}
    with dask.config.set(scheduler="threads", num_workers=1):
        _, decoding = tile_process(image, Predictor(np.copy, slow_decode, batch_size=2), **options)
        busy = Predictor(lambda tiles: time.sleep(0.01) or tiles, lambda tile: np.ones(tile.shape, int))
        _, predicting = tile_process(image, busy, **options)
        _, none = tile_process(image, lambda tile: np.ones(tile.shape, int), **options)
    assert decoding.seconds[DEVICE_PHASES[2]] > decoding.seconds[DEVICE_PHASES[0]]
    assert "waited for decode" in str(decoding)
    # But for tiles that were tried first.
    assert predicting.seconds[DEVICE_PHASES[0]] > 0.8
    assert "busy" in predicting._repr_html_()
    assert none.device == ""
    assert "device" not in str(none)


def test_a_gpu_that_is_asked_for_takes_a_predictor_with_tasks_of_several_tiles():
    with pytest.warns(BlockbusterWarning, match="CuPy"):
        plan = plan_run(IMAGE, fn=Predictor(grey, find), **TILES, use_gpu=True)
    assert plan.bricks.n_bricks < plan.n_tiles
    assert "network   batches of 1" in str(plan)
    assert plan.memory_bytes > plan_run(IMAGE, fn=segment, **TILES).memory_bytes + 2**28


STRIDE = 8


def coarse(tiles):
    """What a network of stride 8 does: means of squares on its grid, laid out again, and a view around."""
    n, h, w = tiles.shape
    assert (h % STRIDE, w % STRIDE) == (0, 0)
    means = tiles.reshape(n, h // STRIDE, STRIDE, w // STRIDE, STRIDE).mean((2, 4))
    near = ndimage.uniform_filter(means, (0, 3, 3), mode="nearest")
    return near.repeat(STRIDE, 1).repeat(STRIDE, 2)


def above_mean(probability):
    return ndimage.label(probability > 1000)[0]


@pytest.mark.parametrize("shape", [(96, 80), (93, 85), (61, 83)])
@pytest.mark.parametrize("overlap", [0, 1, 13])
def test_tiles_on_the_grid_of_a_network_see_what_the_whole_image_shows(shape, overlap):
    image = (ndimage.gaussian_filter(np.random.default_rng(3).random(shape), 4) * 2000).astype("uint16")
    seen = []

    def predict(tiles):
        seen.append(tiles.shape)
        return coarse(tiles.astype("float64"))

    fn = Predictor(predict, above_mean, batch_size=2, stride=STRIDE)
    labels = tile_process(image, fn, tile_shape=(32, 24), overlap=overlap, connectivity=1)
    assert labels.shape == shape
    assert all(side % STRIDE == 0 for _, *sides in seen for side in sides)
    if overlap:
        # The halo has grown to what the network sees around a square.
        missing = [(0, -n % STRIDE) for n in shape]
        whole = coarse(np.pad(image, missing, mode="reflect")[None].astype("float64"))[0]
        expected = above_mean(whole[: shape[0], : shape[1]])
        assert not naive.partition_fault(labels, expected)


def test_a_halo_grows_and_tiles_off_the_grid_are_refused_with_the_nearest():
    fn = Predictor(coarse, above_mean, batch_size=2, stride=STRIDE)
    plan = plan_run(np.zeros((100, 90)), fn=fn, tile_shape=(32, 24), overlap=(5, 9))
    assert plan.grid.halo == (8, 16)
    assert "stride 8 x 8, padded by 4 x 6 at the far border" in str(plan)
    with refused(ValueError, "stride of 8 along axis 1", r"tile_shape=\(32, 32\)"):
        plan_run(np.zeros((100, 90)), fn=fn, tile_shape=(32, 25))
    # One tile along an axis begins where the image does.
    assert plan_run(np.zeros((100, 90)), fn=fn, tile_shape=(32, 90), overlap=3).grid.halo == (8, 3)
    with refused(ValueError, "3 numbers", "2 axes"):
        plan_run(np.zeros((100, 90)), fn=Predictor(coarse, find, stride=(8, 8, 8)))


def test_a_halo_that_is_thinner_than_the_network_sees_is_warned_of():
    fn = Predictor(grey, find, receptive_field=21)
    with pytest.warns(BlockbusterWarning, match=r"sees 10 x 10 to each side.*overlap=\(10, 12\)"):
        tile_process(IMAGE, fn, tile_shape=(16, 15), overlap=(9, 12))
    tile_process(IMAGE, fn, tile_shape=(16, 15), overlap=10)
    tile_process(IMAGE, fn)  # one tile


@pytest.mark.parametrize("step", ["", "predict", "decode"])
def test_a_run_that_ends_leaves_no_thread(step):
    def fail_at(name, given):
        if step == name and (given == MARK).any():
            raise OSError("no such weights")
        return given

    predict, kept = functools.partial(fail_at, "predict"), []
    try:
        fn = Predictor(predict, lambda tile: find(grey(fail_at("decode", tile))), batch_size=3)
        tile_process(MARKED, fn, **TILES, tiles_per_task=4)
    except TileError as error:
        # With its traceback, and all that lies in its frames.
        kept.append(error)
    assert len(kept) == bool(step)
    for _ in range(100):
        if "blockbuster-device" not in {thread.name for thread in threading.enumerate()}:
            break
        time.sleep(0.02)
    assert "blockbuster-device" not in {thread.name for thread in threading.enumerate()}


def test_a_dask_image_and_channels_work_as_for_any_function():
    image = da.from_array(np.stack([IMAGE, IMAGE // 2]), chunks=(1, 20, 20))
    fn = Predictor(lambda tiles: tiles[:, 0] / 1000, find, batch_size=3)
    labels = tile_process(image, fn, tile_shape=(16, 15), overlap=3, axes="cyx", channel=None)
    assert np.array_equal(labels, tile_process(IMAGE, segment, **TILES))


def test_plain_functions_are_called_as_before(folder):
    """A function that is no predictor keeps its tasks, threads and report."""
    one = plan_run(IMAGE, fn=segment, **TILES)
    assert not one.keeps_device_fed
    assert one.n_tasks_at_once == one.execution.n_workers
    assert functools.partial(segment)(IMAGE).max() > 3
    assert os.listdir() == []
    assert Path.cwd() == folder
