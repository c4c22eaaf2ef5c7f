import time

import dask
import dask.array as da
import naive
import numpy as np
import pytest
import zarr
from brick_files import staged_labels

from blockbuster import TileError, tile_process
from blockbuster.execution import find_execution
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.merge.rules import Touch
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.source import open_source
from blockbuster.stage import TileCall, stage_labels

META = np.empty((0, 0), "u1")
GRID = TileGrid.regular((8, 12), (2, 3), (1, 1))


def stage(fn, folder, image=None, tiles_per_brick=(4, 4), threshold=None, **options):
    """Run the stage alone; give what its tasks shared, and what they reported."""
    image = np.ones((8, 12), np.uint8) if image is None else image
    return stage_labels(
        open_source(image),
        TileCall(GRID, fn, threshold),
        BrickGrid(GRID, tiles_per_brick),
        str(folder),
        find_execution(),
        merge_axes=(0, 1),
        connectivity=1,
        rule=Touch(),
        **options,
    )


def test_slow_function_gets_small_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr("blockbuster.stage.staging.MAX_FN_SECONDS_PER_TASK", 0.1)

    def slow(tile):
        time.sleep(0.025)
        return naive.label(tile)

    job, tally = stage(slow, tmp_path)
    assert job.bricks.tiles_per_brick in {(2, 1), (1, 2), (1, 1)}
    assert job.staged.bricks == job.bricks
    assert tally.fn_seconds >= 16 * 0.025


@pytest.mark.parametrize("fixed", [True, False])
def test_quick_or_fixed_tasks_stay_as_planned(fixed, tmp_path, monkeypatch):
    if fixed:
        monkeypatch.setattr("blockbuster.stage.staging.MAX_FN_SECONDS_PER_TASK", 0.0)
    job, _ = stage(naive.label, tmp_path, fixed_bricks=fixed)
    assert job.bricks.tiles_per_brick == (4, 4)


def test_first_call_that_loads_something_does_not_make_tasks_small(tmp_path, monkeypatch):
    # By the time of the first call 16 tiles would be too many; others may take a second on a busy machine.
    monkeypatch.setattr("blockbuster.stage.staging.SLOW_FN_SECONDS", 1.0)
    monkeypatch.setattr("blockbuster.stage.staging.MAX_FN_SECONDS_PER_TASK", 16.0)
    calls = []

    def slow_once(tile):
        calls.append(tile.shape)
        time.sleep(0 if len(calls) > 1 else 1.2)
        return naive.label(tile)

    job, _ = stage(slow_once, tmp_path)
    assert job.bricks.tiles_per_brick == (4, 4)
    assert len(calls) == GRID.n_tiles


def test_tiles_and_labels_are_counted(tmp_path):
    image = np.zeros((8, 12), np.uint8)
    image[0, 0] = image[0, 2] = image[7, 11] = 1
    finished = []
    options = {"tiles_per_brick": (2, 3), "threshold": 0, "on_tiles": finished.append}
    _, tally = stage(naive.label, tmp_path, image, **options)
    # The halo shows the voxel at (0, 2) to the tile beside it.
    assert (tally.n_skipped, tally.counts.sum()) == (13, 3)
    assert sum(finished) == GRID.n_tiles
    counts = ArrayFolder(tmp_path).load("counts")
    assert counts.shape == GRID.grid_shape
    assert {tuple(map(int, i)): int(counts[tuple(i)]) for i in np.argwhere(counts)} == {(0, 0): 2, (3, 3): 1}


@pytest.mark.parametrize(
    "ids", [np.arange(1, 97), np.full(96, 3), np.arange(96) // 5 * 2**40], ids=["every voxel", "one", "sparse"]
)
def test_labels_of_a_brick_count_from_one_tile_after_tile(ids, tmp_path):
    image = ids.reshape(8, 12)
    job, _ = stage(np.copy, tmp_path, image, tiles_per_brick=(4, 2))
    for number in range(job.bricks.n_bricks):
        index = job.bricks.index(number)
        expected = np.zeros((8, 6), int)
        n_labels = 0
        for tile in job.bricks.tile_indices(index):
            y, x = GRID.core(tile)
            x = slice(x.start - 6 * index[1], x.stop - 6 * index[1])
            expected[y, x], count = naive.number_by_appearance(image[GRID.core(tile)], n_labels)
            n_labels += count
        assert np.array_equal(staged_labels(job.staged, index), expected)


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_tile_whose_function_fails_is_named_with_the_cause(scheduler, tiles_per_task):
    image = np.arange(96).reshape(8, 12)

    def fails_at_50(tile):
        if tile[0, 0] == 50:
            raise ZeroDivisionError("of all things")
        return np.zeros(tile.shape, int)

    with dask.config.set(scheduler=scheduler), pytest.raises(TileError) as caught:
        tile_process(image, fails_at_50, tile_shape=(4, 2), tiles_per_task=tiles_per_task)
    error = caught.value
    assert (error.tile, error.slices) == ((1, 1), (slice(4, 8), slice(2, 4)))
    assert (error.cause_type, error.cause_text) == ("ZeroDivisionError", "of all things")
    assert "fails_at_50" in error.cause_traceback
    assert "tile (1, 1) [4:8, 2:4]: fn raised ZeroDivisionError: of all things" in str(error)


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4])
def test_tile_that_cannot_be_read_is_named(tiles_per_task, tmp_path):
    image = zarr.create_array(tmp_path / "image.zarr", data=np.ones((8, 12), np.uint8), chunks=(4, 4))
    (chunk,) = tmp_path.glob("image.zarr/c/1/2")
    chunk.write_bytes(b"not what zstd writes")
    with pytest.raises(TileError) as caught:
        tile_process(image, naive.label, tile_shape=(4, 2), tiles_per_task=tiles_per_task)
    assert caught.value.tile in {(1, 4), (1, 5)}  # the tiles on the broken chunk
    assert caught.value.what.startswith("reading the image raised")


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("tiles_per_task", [None, 1])
def test_channels_are_seen_together_and_may_be_dropped(keeps, tiles_per_task, tmp_path):
    image = (np.random.default_rng(3).random((3, 20, 21)) < 0.3).astype(np.uint8)
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
    multiscales = [{"axes": axes, "datasets": [{"path": "0"}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    group.create_array("0", data=image, chunks=(1, 8, 8))

    def per_channel(tile):
        labels = np.stack([naive.label(plane) for plane in tile])
        return labels + 1000 * np.arange(3).reshape(3, 1, 1) * (labels > 0)

    def any_channel(tile):
        assert tile.shape[0] == 3
        return naive.label(tile.max(0))

    labels = tile_process(
        tmp_path / "image.zarr",
        per_channel if keeps else any_channel,
        channel=None,
        tile_shape=(6, 7),
        overlap=2,
        tiles_per_task=tiles_per_task,
    )
    whole = np.stack([naive.label(plane) + 1000 * c * (plane > 0) for c, plane in enumerate(image)])
    assert naive.partition_fault(labels, whole if keeps else naive.label(image.max(0))) == ""


def test_channels_that_are_dropped_for_some_tiles_only_are_refused(tmp_path):
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    group.create_array("0", data=np.arange(32).reshape(2, 4, 4))

    def fickle(tile):
        return np.zeros(tile.shape if tile.min() else tile.shape[1:], int)

    with pytest.raises(TileError, match="for all tiles or for none"):
        tile_process(tmp_path / "image.zarr", fickle, channel=None, tile_shape=(2, 2))


def test_F12_error_of_the_graph_of_a_dask_image_names_the_tile():
    def broken(block, block_info=None):
        if block_info[0]["chunk-location"] == (1, 0):
            raise OSError("the microscope is off")
        return block

    image = da.ones((8, 8), chunks=4, dtype="uint8").map_blocks(broken, dtype="uint8", meta=META)
    with pytest.raises(TileError, match="the microscope is off") as caught:
        tile_process(image, naive.label, tile_shape=(4, 4), tiles_per_task=2)
    assert caught.value.tile == (1, 0)


def test_tiles_of_a_dask_image_that_cannot_be_computed_are_skipped_where_that_is_asked_for():
    def broken(block, block_info=None):
        if block_info[0]["chunk-location"] in {(0, 0), (1, 2)}:
            raise OSError("the microscope is off")
        return block

    image = da.ones((8, 12), chunks=4, dtype="uint8").map_blocks(broken, dtype="uint8", meta=META)
    for tiles_per_task in (1, 2, None):
        with pytest.warns(UserWarning, match="2 tiles failed"):
            labels, report = tile_process(
                image,
                naive.label,
                tile_shape=(4, 4),
                tiles_per_task=tiles_per_task,
                on_error="skip",
                return_report=True,
            )
        assert [tile for tile, _ in report.failed] == [[0, 0], [1, 2]]
        expected = np.ones((8, 12), bool)
        expected[:4, :4] = expected[4:, 8:] = False
        np.testing.assert_array_equal(labels > 0, expected)
        assert report.n_objects == 1


def test_chunk_of_a_dask_image_that_fails_twice_is_computed_again_with_retries(tmp_path):
    def shaky(block, block_info=None):
        for attempt in range(2):
            path = tmp_path / f"{block_info[0]['chunk-location']}-{attempt}"
            if not path.exists():
                path.touch()
                raise OSError("the network is slow")
        return block

    image = da.ones((8, 8), chunks=4, dtype="uint8").map_blocks(shaky, dtype="uint8", meta=META)
    for tiles_per_task in (None, 1):
        for path in tmp_path.iterdir():
            path.unlink()
        labels = tile_process(image, naive.label, tile_shape=(4, 4), tiles_per_task=tiles_per_task, retries=9)
        assert (labels == 1).all()
