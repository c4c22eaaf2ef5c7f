"""Neighbours that are fused at the seams, one after the other, are told from objects that are merely large."""

import warnings

import naive
import numpy as np
import pytest
import tifffile
from scipy import ndimage
from shapes import Renamed, components, rake, tissue, vessels
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import find_boundaries, watershed

from blockbuster import BlockbusterWarning, read_report, tile_process


def run(image, fn, tile_shape, overlap, **options):
    """What a run said: its warnings, its report, its labels."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels, report = tile_process(
            image, fn, tile_shape=tile_shape, overlap=overlap, return_report=True, **options
        )
    return caught, report, labels


def stays_silent(image, fn, tile_shape, overlap, **options):
    """Assert that nothing is said of a run, and give its number of objects."""
    caught, report, _ = run(image, fn, tile_shape, overlap, **options)
    assert [str(warning.message) for warning in caught] == []
    assert report.seams.runaway == ""
    assert "runaway" not in str(report.seams)
    return report.n_objects


def warns(image, fn, tile_shape, overlap, **options):
    """Assert that the caller is told what happened and what to do, and give the report."""
    caught, report, _ = run(image, fn, tile_shape, overlap, **options)
    assert [warning.category for warning in caught] == [BlockbusterWarning]
    message = str(caught[0].message)
    assert message.startswith("runaway merging: ")
    assert 'merge="agree"' in message
    assert "overlap of about one object diameter" in message
    assert caught[0].filename == __file__
    assert report.seams.runaway == message
    assert message in str(report.seams)
    return report


def segment_cells(image):
    """Flood the image from its peaks, as one would segment cells that fill space."""
    peaks = peak_local_max(image, min_distance=2, exclude_border=False)
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-image, markers)


@pytest.mark.parametrize("n_side", [15, 20, 30])
def test_cells_that_fill_a_volume_are_told_to_be_fused_by_touching_alone(n_side):
    cells = tissue((60, 60, 60), 400)
    report = warns(cells, Renamed(), (n_side,) * 3, 5)
    assert report.n_objects < 200
    assert stays_silent(cells, Renamed(), (n_side,) * 3, 5, merge="agree") == 400
    assert stays_silent(cells, Renamed(), (n_side,) * 3, 5, merge="none") == report.n_provisional


def test_cells_of_a_watershed_in_a_volume_are_told_to_be_fused_by_touching_alone():
    cells = tissue((45, 45, 45), 150)
    image = ndimage.gaussian_filter(ndimage.distance_transform_edt(~find_boundaries(cells)), 1)
    n_whole = segment_cells(image).max()
    assert warns(image, segment_cells, (15, 15, 15), 10).n_objects < n_whole / 5
    assert abs(stays_silent(image, segment_cells, (15, 15, 15), 10, merge="agree") - n_whole) <= 0.05 * n_whole


def test_warning_is_kept_with_the_labels(tmp_path):
    place = {"write_to": tmp_path / "labels.zarr", "fn_version": "1"}
    report = warns(tissue((40, 40, 40), 120), Renamed(), (20, 20, 20), 2, **place)
    assert read_report(tmp_path / "labels.zarr").seams.runaway == report.seams.runaway


@pytest.mark.parametrize("tile_shape", [(300, 300), (100, 131)])
def test_nuclei_of_a_mosaic_are_not_told_to_be_fused(real_images, tile_shape):
    image = tifffile.imread(real_images / "dsb2018_mosaic" / "mosaic_image.tif")[:2048, :2048]
    threshold = threshold_otsu(image)
    for merge in ("touch", "agree"):
        assert stays_silent(image, lambda tile: naive.label(tile > threshold), tile_shape, 8, merge=merge) > 1000


def test_labels_of_a_mosaic_are_not_told_to_be_fused(real_images):
    labels = tifffile.imread(real_images / "dsb2018_mosaic" / "mosaic_mask.tif")
    assert stays_silent(labels, Renamed(), (300, 300), 8) > 7500


@pytest.mark.parametrize(("ndim", "tile"), [(2, 7), (2, 30), (3, 6), (3, 9)])
def test_object_that_fills_the_image_is_not_told_to_be_fused(ndim, tile):
    image = np.ones((90, 90) if ndim == 2 else (25, 25, 25), np.uint8)
    for merge in ("touch", "agree"):
        assert stays_silent(image, components, (tile,) * ndim, 1, merge=merge) == 1


@pytest.mark.parametrize(
    ("shape", "tile"), [((300, 300), 15), ((300, 300), 60), ((96, 80, 80), 12), ((96, 80, 80), 40)]
)
def test_vessel_tree_is_not_told_to_be_fused(shape, tile):
    mask = vessels(shape, n_levels=7)
    assert stays_silent(mask, components, (tile,) * mask.ndim, 1, connectivity=mask.ndim) == 1


def test_rake_is_not_told_to_be_fused():
    """Its teeth are many labels of few tiles, but not so many."""
    assert stays_silent(rake(2, 0, 20, 10), components, (20, 40), 1, connectivity=2) == 1
