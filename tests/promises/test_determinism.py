"""The same bytes from any scheduler, number of workers, order of completion and grouping into tasks."""

import functools
import time

import dask
import dask.array as da
import naive
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from blockbuster import tile_process

# Tiles that cut through the chunks of a dask image are allowed, and warned of.
pytestmark = pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
REPORT = "blockbuster-report.json"


def stored_bytes(folder, image, fn, **options):
    """Every byte that a run leaves in its output; the report, which has times in it, excepted."""
    target = folder / "labels.zarr"
    tile_process(image, fn, write_to=target, **options)
    assert [path.name for path in folder.iterdir()] == ["labels.zarr"]
    files = naive.files_in(target)
    return {path: content for path, content in files.items() if not path.endswith(REPORT)}


@pytest.fixture(scope="module")
def nuclei():
    """Blobs on background, more than one shard of labels wide, of no round size."""
    random = np.random.default_rng(0)
    image = np.zeros((2501, 2203), np.uint8)
    for y, x in random.integers(0, (2490, 2190), (6000, 2)):
        image[y : y + random.integers(3, 20), x : x + random.integers(3, 20)] = random.integers(1, 255)
    return image


SETTINGS = {"tile_shape": (500, 300), "overlap": 9, "connectivity": 2}


@pytest.fixture(scope="module")
def reference(nuclei, tmp_path_factory):
    """What the synchronous scheduler writes, tile by tile."""
    fn = functools.partial(naive.label, connectivity=2)
    with dask.config.set(scheduler="synchronous"):
        files = stored_bytes(tmp_path_factory.mktemp("reference"), nuclei, fn, tiles_per_task=1, **SETTINGS)
    chunks = [path for path in files if not path.endswith("zarr.json")]
    assert len(chunks) > 1
    return files


@pytest.mark.parametrize(
    "scheduler",
    [
        {"scheduler": "synchronous"},
        {"scheduler": "threads", "num_workers": 1},
        {"scheduler": "threads", "num_workers": 2},
        {"scheduler": "threads", "num_workers": 4},
        {"scheduler": "processes", "num_workers": 2},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_every_scheduler_writes_the_same_bytes(scheduler, nuclei, reference, tmp_path):
    fn = functools.partial(naive.label, connectivity=2)
    with dask.config.set(scheduler):
        assert stored_bytes(tmp_path, nuclei, fn, **SETTINGS) == reference


@pytest.mark.parametrize("tiles_per_task", [2, 7, 40])
def test_every_grouping_into_tasks_writes_the_same_bytes(tiles_per_task, nuclei, reference, tmp_path):
    fn = functools.partial(naive.label, connectivity=2)
    assert stored_bytes(tmp_path, nuclei, fn, tiles_per_task=tiles_per_task, **SETTINGS) == reference


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_every_form_of_the_image_writes_the_same_bytes(kind, nuclei, reference, tmp_path):
    fn = functools.partial(naive.label, connectivity=2)
    image = da.from_array(nuclei, chunks=(700, 511))
    if kind == "zarr":
        image = zarr.create_array(zarr.storage.MemoryStore(), data=nuclei, chunks=(512, 512))
    (tmp_path / "out").mkdir()
    assert stored_bytes(tmp_path / "out", image, fn, **SETTINGS) == reference


def test_order_in_which_tasks_end_changes_nothing(tmp_path):
    image = (np.random.default_rng(4).random((60, 60)) < 0.5).astype(np.uint8)
    written = []
    for run in range(3):
        delays = np.random.default_rng(run)

        def late(tile, delays=delays):
            time.sleep(delays.random() / 100)
            return naive.label(tile)

        (tmp_path / str(run)).mkdir()
        with dask.config.set(scheduler="threads", num_workers=8):
            written.append(stored_bytes(tmp_path / str(run), image, late, tile_shape=(10, 10), tiles_per_task=1))
    assert written[0] == written[1] == written[2]


@settings(max_examples=examples(25))
@given(cases(), st.sampled_from(["synchronous", "threads"]))
def test_any_case_gives_the_same_labels_from_any_scheduler(case, scheduler):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    with dask.config.set(scheduler=scheduler, num_workers=3):
        labels = case.run(fn)
    expected = naive.stitch(case.mask, fn, case.lengths, case.halo, case.connectivity)
    assert np.array_equal(labels, expected)


def test_processes_give_a_numpy_result_of_a_dask_image_too(workers):
    image = (np.random.default_rng(6).random((50, 60)) < 0.5).astype(np.uint8)
    with workers("processes"):
        labels = tile_process(da.from_array(image, chunks=(25, 25)), naive.label, tile_shape=(20, 20), overlap=3)
    assert np.array_equal(labels, naive.stitch(image, naive.label, naive.cut(image.shape, (20, 20)), (3, 3)))


@pytest.mark.usefixtures("forked_workers")
def test_workers_of_a_distributed_client_write_the_same_bytes(nuclei, reference, tmp_path):
    from distributed import Client, LocalCluster

    fn = functools.partial(naive.label, connectivity=2)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0")
    with cluster, Client(cluster):
        assert stored_bytes(tmp_path, nuclei, fn, **SETTINGS) == reference
        small = nuclei[:100, :90]
        labels = tile_process(da.from_array(small, chunks=(40, 40)), naive.label, tile_shape=(30, 30))
    assert np.array_equal(labels, naive.stitch(small, naive.label, naive.cut(small.shape, (30, 30)), (0, 0)))


def test_F20_client_with_workers_in_this_process_is_refused_before_any_work(tmp_path):
    from distributed import Client, LocalCluster

    calls = []
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster), pytest.raises(RuntimeError, match=r"processes=False.*make_local_cluster"):
        tile_process(np.ones((8, 8)), calls.append, tile_shape=(4, 4), write_to=tmp_path / "labels.zarr")
    assert calls == []
    assert list(tmp_path.iterdir()) == []
