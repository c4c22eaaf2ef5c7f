"""Every tile's maximum, read as a run reads: brick by brick, on all workers."""

import contextlib
import tempfile

import dask
import dask.array
import naive
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases, given_as

from blockbuster import TileError, estimate_empty_tiles
from blockbuster.execution import find_execution
from blockbuster.grid import TileGrid
from blockbuster.source import open_source
from blockbuster.stage import sample
from blockbuster.stage.bricks import bricks_of
from blockbuster.stage.empty_threshold import choose_empty_threshold
from blockbuster.stage.looking import find_empty_tiles


@contextlib.contextmanager
def looked(image, grid, threshold, folder, tiles_per_task=4):
    source = open_source(image)
    bricks = bricks_of(grid, source.read_unit, tiles_per_task)
    with find_execution().opened() as execution:
        yield find_empty_tiles(source, bricks, threshold, str(folder), execution)


@settings(max_examples=examples(40))
@given(cases(), st.integers(0, 200), st.integers(1, 9))
def test_empty_tiles_are_those_whose_maximum_with_the_halo_is_not_above_the_threshold(case, threshold, n):
    image = np.random.default_rng(case.seed).integers(0, 256, case.shape) * case.mask
    with (
        given_as(image, case.kind, case.chunks) as given_image,
        tempfile.TemporaryDirectory() as folder,
        looked(given_image, TileGrid(case.lengths, case.halo), threshold, folder, n) as found,
    ):
        for index, _, region in naive.tiles(case.lengths, case.halo):
            assert found.maxima[index] == max(image[region].ravel().tolist())
            assert found.empty[index] == (found.maxima[index] <= threshold)
        assert (found.n_tiles, found.n_empty) == (found.empty.size, np.count_nonzero(found.empty))


@settings(max_examples=examples(40))
@given(cases(), st.integers(1, 9), st.integers(1, 400))
def test_a_threshold_is_chosen_of_the_same_sample_as_by_a_run(case, n, most_voxels):
    image = np.random.default_rng(case.seed).integers(0, 256, case.shape) * case.mask
    with (
        pytest.MonkeyPatch.context() as patch,
        given_as(image, case.kind, case.chunks) as given_image,
        tempfile.TemporaryDirectory() as folder,
    ):
        patch.setattr(sample, "SAMPLE_VOXELS", most_voxels)
        patch.setattr(sample, "SAMPLE_PIECES", 5)
        expected, _ = choose_empty_threshold(open_source(given_image))
        with looked(given_image, TileGrid(case.lengths, case.halo), None, folder, n) as found:
            assert found.threshold == expected
            assert np.array_equal(found.empty, found.maxima <= expected)


def test_tile_with_nan_is_not_empty(tmp_path):
    image = np.array([[0, 0, np.nan, 0]])
    with looked(image, TileGrid(((1,), (2, 2)), (0, 0)), 5.0, tmp_path) as found:
        assert found.empty.tolist() == [[True, False]]


@pytest.mark.parametrize("kind", ["numpy", "zarr", "dask"])
def test_other_processes_find_the_same_and_leave_nothing(kind, temporary, pool):
    image = np.random.default_rng(0).integers(0, 256, (40, 50)).astype("uint8")
    expected = estimate_empty_tiles(image, (5, 5), overlap=1, threshold=250)
    with given_as(image, kind, (16, 16)) as given_image, dask.config.set(scheduler="processes", pool=pool):
        before = sorted(temporary.rglob("*"))
        found = estimate_empty_tiles(given_image, (5, 5), overlap=1, threshold=250)
        assert sorted(temporary.rglob("*")) == before
    assert 0 < found.n_empty < found.n_tiles
    assert np.array_equal(found.empty, expected.empty)
    assert np.array_equal(found.maxima, expected.maxima)


@pytest.mark.parametrize("threshold", [None, 5])
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_what_cannot_be_read_names_a_tile_and_leaves_nothing(scheduler, threshold, tmp_path, pool):
    path = tmp_path / "image.zarr"
    zarr.create_array(str(path), data=np.ones((40, 40), "uint8"), chunks=(10, 10))
    (path / "c/3/3").write_bytes(b"not a chunk")
    options = {"pool": pool} if scheduler == "processes" else {}
    with dask.config.set(scheduler=scheduler, **options), pytest.raises(TileError, match="reading the image"):
        estimate_empty_tiles(path, (10, 10), threshold=threshold)
    assert [entry.name for entry in tmp_path.iterdir()] == ["image.zarr"]


@pytest.mark.parametrize("threshold", [None, 5])
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_what_a_dask_graph_raises_names_the_tile_as_in_a_run(scheduler, threshold, temporary, pool):
    def fail(block, block_info=None):
        if block_info[0]["chunk-location"] == (1, 0):
            raise ZeroDivisionError("no pixels")
        return block

    image = dask.array.zeros((8, 8), chunks=4, dtype="u1")
    image = image.map_blocks(fail, dtype="u1", meta=np.empty((0, 0), "u1"))
    options = {"pool": pool} if scheduler == "processes" else {}
    before = sorted(temporary.rglob("*"))
    said = r"tile \(2, 0\) \[4:6, 0:2\]: reading the image.*ZeroDivisionError: no pixels"
    with dask.config.set(scheduler=scheduler, **options), pytest.raises(TileError, match=said):
        estimate_empty_tiles(image, (2, 2), threshold=threshold)
    assert sorted(temporary.rglob("*")) == before


def test_a_progress_bar_counts_the_tiles(capsys):
    estimate_empty_tiles(np.ones((40, 50), "uint8"), (10, 10), threshold=5, progress=True)
    assert "20/20" in capsys.readouterr().err


@pytest.mark.parametrize("progress", [1, "yes", None])
def test_progress_is_true_or_false(progress):
    with pytest.raises(TypeError, match="progress is"):
        estimate_empty_tiles(np.ones((4, 4)), (2, 2), progress=progress)
