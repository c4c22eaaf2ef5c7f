"""suggest_overlap: functions of which it is known how far they look."""

import dataclasses
import re
from functools import partial

import dask.array as da
import numpy as np
import pytest
import tifffile
from outcomes import Counted, assert_same_objects, refused, write_image
from scipy import ndimage

from blockbuster import TileError, plan_run, suggest_overlap, tile_process
from blockbuster.advise import OverlapAdvice
from blockbuster.advise.crop import Crop, choose_crop

SPOTS = np.zeros((120, 150), np.uint8)
SPOTS[5::10, 5::10] = 255


def label_wide(tile, radius):
    """Components of what has a bright pixel within `radius` along y: it must see that far."""
    wide = ndimage.maximum_filter(tile, (2 * radius + 1, 1), mode="constant")
    return ndimage.label(wide > 0)[0]


@pytest.mark.parametrize(("radius", "expected"), [(1, 2), (2, 2), (3, 4), (4, 4)])
def test_the_smallest_candidate_that_shows_fn_all_it_looks_at_is_found(radius, expected):
    advice = suggest_overlap(
        SPOTS, partial(label_wide, radius=radius), (23, 150), candidates=(8, 0, 4, 2), target=1.0
    )
    assert advice.overlap == expected
    assert [row.overlap for row in advice.rows] == [halo for halo in (0, 2, 4, 8) if halo <= expected]
    assert advice.rows[-1].f1_strict == 1


def test_a_local_function_needs_no_overlap():
    wide = ndimage.maximum_filter(SPOTS, 7)
    advice = suggest_overlap(wide, lambda tile: ndimage.label(tile)[0], (23, 30))
    assert (advice.overlap, len(advice.rows)) == (0, 1)
    assert advice.n_at_seams > 0


def test_nothing_is_advised_where_no_object_lies_at_a_seam():
    advice = suggest_overlap(SPOTS, lambda tile: ndimage.label(tile)[0], (20, 20))
    assert (advice.overlap, advice.rows, advice.n_at_seams) == (None, (), 0)
    assert "No object lies at a seam" in str(advice)


def test_one_tile_needs_no_overlap():
    advice = suggest_overlap(SPOTS, lambda tile: ndimage.label(tile)[0], (200, 200))
    assert (advice.overlap, advice.rows) == (0, ())
    assert "no seams" in str(advice)


def test_few_objects_at_seams_are_not_outvoted_by_the_many_inside():
    fn = partial(label_wide, radius=2)
    image = np.zeros((400, 200), np.uint8)
    image[5::10, 5::10] = 255
    advice = suggest_overlap(image, fn, (196, 200), candidates=(0, 2, 4))
    assert advice.rows[0].f1_strict > 0.95 > 0.9 > advice.rows[0].f1_seams
    assert advice.overlap == 2


def test_a_halo_with_which_tiles_see_all_of_the_part_tells_nothing():
    """Unless the part is all of the image: then it is what tile_process would do."""
    part = Crop((slice(0, 46), slice(0, 150)), (23, 150), (0,), is_whole=False)
    assert part.tells_of(22)
    assert not part.tells_of(23)
    assert dataclasses.replace(part, is_whole=True).tells_of(23)
    advice = OverlapAdvice(None, (), part.box, part.tile_shape, 5, 1, 0.99, left_out=(23, 64))
    assert "Left out: 23, 64" in str(advice)


def test_what_is_measured_is_the_tiled_run_on_the_crop():
    fn = partial(label_wide, radius=3)
    advice = suggest_overlap(SPOTS, fn, (23, 30), candidates=(0, 1), target=1.0)
    assert advice.overlap is None
    crop = SPOTS[advice.crop]
    assert advice.n_expected == fn(crop).max()
    for row in advice.rows:
        tiled = tile_process(crop, fn, tile_shape=(23, 30), overlap=row.overlap, sequential_labels=True)
        assert row.n_objects == tiled.max()
    assert "No overlap reached F1@0.9 of 1, at seams too; the best is" in str(advice)
    assert all(hint in str(advice) for hint in ("merge='agree'", "intensity_percentiles"))


def test_cells_that_touch_are_told_apart_by_agreement():
    cells = np.arange(1, 26).reshape(5, 5).repeat(10, axis=0).repeat(11, axis=1)
    cells = cells[:, 3:]
    touch, agree = (
        suggest_overlap(cells, np.copy, (15, 16), merge=merge, candidates=(0, 2)) for merge in ("touch", "agree")
    )
    assert touch.overlap is None
    assert agree.overlap == 2


def test_the_part_is_a_few_tiles_where_there_is_something_to_see():
    image = np.zeros((600, 600), np.uint8)
    image[400:, 420:] = np.random.default_rng(3).integers(0, 255, (200, 180))
    advice = suggest_overlap(image, lambda tile: ndimage.label(tile > 128)[0], (40, 40))
    lengths = [part.stop - part.start for part in advice.crop]
    assert all(80 <= length <= 240 for length in lengths)
    assert image[advice.crop].any()
    assert all(part.start % 40 == 0 for part in advice.crop)


def test_fn_runs_once_on_the_part_and_once_on_each_of_its_tiles():
    fn = Counted()
    advice = suggest_overlap(SPOTS, fn, (60, 75), candidates=(0, 5), target=1.0)
    assert advice.overlap == 0
    assert sorted(fn.seen) == [(60, 75)] * 4 + [(120, 150)]


def test_the_same_part_for_a_stored_image(tmp_path):
    path = write_image(tmp_path / "image.zarr", SPOTS)
    fn = partial(label_wide, radius=2)
    stored, given = (suggest_overlap(image, fn, (23, 30), candidates=(0, 2)) for image in (path, SPOTS))
    assert (stored.overlap, stored.crop, stored.n_expected) == (given.overlap, given.crop, given.n_expected)


def test_the_table_marks_the_answer_in_text_and_html():
    advice = suggest_overlap(SPOTS, partial(label_wide, radius=3), (23, 150), candidates=(0, 4), target=1.0)
    lines = str(advice).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("<-")] == ["4"]
    assert re.findall(r"<td[^>]*>(\d+)</td>", advice._repr_html_())[0] == "0"
    assert advice._repr_html_().count("font-weight:bold") == len(advice.rows[-1].cells)


def test_time_points_are_not_tiled_together():
    movie = np.stack([SPOTS, SPOTS, SPOTS])
    advice = suggest_overlap(movie, partial(label_each, radius=2), (1, 23, 150), axes="tyx", candidates=(0, 2))
    assert advice.overlap == 2
    assert advice.crop[0].stop - advice.crop[0].start == 1


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "dropped"])
def test_a_function_of_all_channels_is_measured(keeps):
    image = np.stack([np.zeros_like(SPOTS), SPOTS])

    def fn(tile):
        labels = label_wide(tile[1], 2)
        return np.stack([labels, labels]) if keeps else labels

    options = {"tile_shape": (23, 150), "candidates": (0, 2, 4)}
    advice = suggest_overlap(image, fn, axes="cyx", channel=None, **options)
    plane = suggest_overlap(SPOTS, partial(label_wide, radius=2), **options)
    assert advice.overlap == plane.overlap == 2
    # Labels that keep the channels have objects of their own in each of them.
    times = 2 if keeps else 1
    assert (advice.n_expected, advice.n_at_seams) == (times * plane.n_expected, times * plane.n_at_seams)


def test_planes_stay_planes_for_a_function_of_planes():
    seen = Counted(partial(label_each, radius=2))
    advice = suggest_overlap(np.stack([SPOTS] * 3), seen, (1, 23, 150), candidates=(0, 2))
    assert advice.overlap == 2
    assert {shape[0] for shape in seen.seen} == {1}


def test_connectivity_is_that_of_the_run():
    image = np.zeros((64, 64), np.uint8)
    np.fill_diagonal(image, 1)
    fn = partial(ndimage.label, structure=np.ones((3, 3)))
    overlaps = [
        suggest_overlap(image, lambda tile: fn(tile)[0], (16, 16), connectivity=c, candidates=(0, 2)).overlap
        for c in (1, 2)
    ]
    assert overlaps == [None, 0]


@pytest.mark.parametrize(
    "rubbish", [np.nan, np.inf, np.finfo("f8").max, 1j], ids=["nan", "infinite", "huge", "complex"]
)
def test_the_part_is_found_among_pixels_of_every_kind(rubbish):
    image = np.zeros((200, 200), np.result_type(type(rubbish), np.float64))
    image[::7, ::5] = rubbish
    image[:, 3::6] = 1
    advice = suggest_overlap(image, lambda tile: ndimage.label(tile == 1)[0], (20, 20))
    assert advice.overlap == 0


def test_tiles_too_large_to_be_tried_are_shortened():
    """Only the plan is looked at: nobody has this image."""
    image = da.zeros((4000, 20_000, 20_000), chunks=(500, 2000, 2000), dtype="uint8")
    crop = choose_crop(plan_run(image, tile_shape=(500, 2000, 2000)), 64)
    assert np.prod(crop.shape) <= 2**26
    assert [n // tile for n, tile in zip(crop.shape, crop.tile_shape, strict=True)] == [2, 2, 2]
    assert not crop.is_whole


def test_a_filter_on_real_nuclei_needs_no_more_than_its_radius(real_images):
    """scipy cuts the filter off at four standard deviations."""
    image = tifffile.imread(real_images / "stardist_samples" / "img2d.tif")

    def fn(tile):
        return ndimage.label(ndimage.gaussian_filter(tile.astype("f8"), 4) > 60)[0]

    advice = suggest_overlap(image, fn, (47, 47), candidates=(0, 2, 4, 8, 16), target=1.0)
    assert 0 < advice.overlap <= 16
    part = image[advice.crop]
    assert advice.n_expected == fn(part).max() > 1
    assert_same_objects(tile_process(part, fn, tile_shape=(47, 47), overlap=16), fn(part))


def test_few_objects_at_seams_are_said_to_be_few():
    few = suggest_overlap(SPOTS, partial(label_wide, radius=2), (23, 150), candidates=(0, 2))
    assert f"Only {few.n_at_seams} objects lie at seams" in str(few)
    assert "Only" not in str(dataclasses.replace(few, n_at_seams=100))


def test_an_image_without_voxels_needs_no_overlap():
    advice = suggest_overlap(np.zeros((0, 40)), lambda tile: ndimage.label(tile)[0], (10, 10))
    assert (advice.overlap, advice.rows) == (0, ())


def label_each(tile, radius):
    return np.stack([label_wide(plane, radius) for plane in tile])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"candidates": ()}, TypeError, "candidates is"),
        ({"candidates": 4}, TypeError, "candidates is 4"),
        ({"candidates": (0, -4)}, ValueError, r"candidates\[1\] is -4"),
        ({"candidates": (0, 1.5)}, TypeError, r"candidates\[1\] is 1.5"),
        ({"target": 1.2}, ValueError, "target is 1.2"),
        ({"merge": "none"}, ValueError, "merge is 'none'"),
        ({"tile_shape": (0, 3)}, ValueError, "tile_shape"),
    ],
)
def test_bad_arguments_are_refused_before_fn_runs(options, kind, message):
    fn = Counted()
    with refused(kind, message):
        suggest_overlap(SPOTS, fn, **{"tile_shape": (20, 20), **options})
    assert not fn.calls


def test_a_function_that_fails_is_named_with_its_tile():
    def fail(tile):
        raise OSError("no weights")

    with refused(TileError, "fn raised OSError: no weights"):
        suggest_overlap(SPOTS, fail, (20, 20))


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    suggest_overlap(SPOTS, partial(label_wide, radius=2), (23, 30))
    assert list(tmp_path.iterdir()) == []
    assert plan_run(SPOTS, tile_shape=(23, 30)).n_tiles == 30
