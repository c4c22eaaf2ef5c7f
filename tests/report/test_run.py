"""What a run says about itself."""

import json
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from outcomes import Counted, blobs, write_image
from scipy import ndimage

from blockbuster import RunReport, read_report, tile_process
from blockbuster.grid import TileGrid
from blockbuster.report import installed_versions


def run(image, fn=None, **options):
    fn = fn or Counted()
    _, report = tile_process(image, fn, tile_shape=(10, 10), return_report=True, **options)
    return report


def test_report_counts_tiles_labels_pairs_and_objects():
    image = np.zeros((20, 30), "uint8")
    image[5:15, 2:28] = 1
    image[0, 0] = image[19, 29] = 1
    report = run(image)
    assert (report.n_tiles, report.n_run, report.n_skipped) == (6, 6, 0)
    assert report.n_provisional == 8
    assert report.n_objects == 3
    assert report.n_pairs == 7
    assert report.empty_threshold is None


def test_report_counts_objects_as_they_are_in_the_labels():
    image = blobs((45, 52))
    for sequential in (False, True):
        assert run(image, sequential_labels=sequential).n_objects == ndimage.label(image)[1]


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4, 1000])
def test_report_of_skipped_tiles_does_not_depend_on_tasks(tiles_per_task):
    image = np.zeros((40, 40), "uint8")
    image[12:18, 12:28] = 9
    report = run(image, skip_empty=True, empty_threshold=3, tiles_per_task=tiles_per_task)
    assert (report.n_tiles, report.n_run, report.n_skipped, report.empty_threshold) == (16, 2, 14, 3)
    assert "16 tiles: 2 run, 14 empty (maximum <= 3); 1 objects" in str(report)


def test_seconds_are_those_of_the_phases():
    def slow(tile):
        time.sleep(0.02)
        return ndimage.label(tile)[0]

    start = time.perf_counter()
    report = run(np.ones((20, 30), "uint8"), slow)
    assert set(report.seconds) == {"stage", "fn", "seams", "write"}
    assert report.seconds["fn"] >= 6 * 0.02
    assert sum(report.seconds[phase] for phase in ("stage", "seams", "write")) <= time.perf_counter() - start
    assert str(report).endswith(" s")


def test_report_lies_beside_the_labels_and_says_the_same(tmp_path):
    image = write_image(tmp_path / "image.zarr", blobs((2, 25, 33)), "cyx")
    report = run(
        image, channel=1, overlap=(2, 3), connectivity=2, write_to=tmp_path / "out.zarr", merge_axes="yx"
    )
    kept = json.loads(Path(tmp_path, "out.zarr", "labels", "blockbuster-report.json").read_text())
    assert kept["settings"] == {
        "level": 0,
        "channel": 1,
        "merge": "touch",
        "skip_empty": False,
        "sequential_labels": False,
        "tile_shape": [10, 10],
        "halo": [2, 3],
        "image": f"{tmp_path}/image.zarr/0, channel 1",
        "axes": "yx",
        "empty_threshold": None,
        "connectivity": 2,
        "merge_axes": [0, 1],
    }
    assert kept["n_objects"] == report.n_objects > 0
    assert kept["versions"] == installed_versions()
    assert kept["seconds"].keys() == report.seconds.keys()


@pytest.mark.parametrize(
    "options",
    [
        {"channel": object(), "level": "any"},
        {"channel": np.int64(3), "level": np.uint8(2)},
        {"skip_empty": np.True_, "empty_threshold": np.float32(0.5)},
        {"sequential_labels": np.bool_(True), "connectivity": np.int8(2), "overlap": np.array([1, 2])},
    ],
)
def test_every_report_can_be_written_whatever_numbers_were_given(options):
    report = run(blobs((25, 33)), **options)
    assert json.loads(report.to_json())["n_tiles"] == 12


def test_phases_are_timed_even_if_they_fail():
    report = RunReport()
    with pytest.raises(ValueError), report.timed("stage"):
        raise ValueError
    with report.timed("stage"):
        time.sleep(0.01)
    assert report.seconds["stage"] >= 0.01


def test_reports_do_not_share_what_they_hold():
    one, two = RunReport(), RunReport()
    one.seconds["stage"] = 1.0
    one.settings["level"] = 0
    assert two.seconds == two.settings == {}


def test_versions_are_those_of_the_packages_that_take_part():
    versions = installed_versions()
    assert versions["numpy"] == np.__version__
    assert {"python", "dask", "numba", "zarr"} <= versions.keys()


def test_report_of_a_run_is_logged(caplog):
    with caplog.at_level("INFO", "blockbuster"):
        report = run(blobs((25, 33)))
    assert str(report) in caplog.text


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.filterwarnings("ignore:this run will not be resumable")
def test_a_report_knows_the_tiles_irregular_ones_and_without_the_channels(tmp_path):
    chunks = ((3,), (10, 7, 13), (9, 9, 2))
    image = da.from_array(np.ones((3, 30, 20), "uint8"), chunks=chunks)
    options = {"axes": "cyx", "channel": None, "overlap": 2, "return_report": True}
    tile_process(image, lambda tile: tile[0].astype(int), write_to=tmp_path / "out.zarr", **options)
    report = read_report(tmp_path / "out.zarr")
    assert report.grid_of((30, 20)) == TileGrid(chunks[1:], (2, 2))
    assert report.grid_of((3, 30, 20)) == TileGrid(chunks, (0, 2, 2))
    assert report.grid_of((30, 21)) is None
    assert RunReport().grid_of((30, 20)) is None


def test_a_report_from_before_it_kept_the_tiles_knows_them_from_its_fingerprint():
    report = RunReport(settings={"halo": [1]}, fingerprint={"settings": {"tiles": [[[4, 2], [1, 1]]]}})
    assert report.grid_of((9,)) == TileGrid(((4, 4, 1),), (1,))
