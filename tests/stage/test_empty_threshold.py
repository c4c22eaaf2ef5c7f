"""The threshold of empty tiles, and what is said of tiles that were skipped."""

import warnings

import dask
import numpy as np
import pytest
from outcomes import assert_same_objects
from scipy import ndimage
from skimage.filters import threshold_otsu
from traced import traced

from blockbuster import TileError, estimate_empty_tiles, tile_process
from blockbuster.source import open_source
from blockbuster.stage.empty_threshold import EmptyTiles, choose_empty_threshold, otsu_threshold


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "float16", "float32", "float64"])
def test_threshold_of_a_small_image_is_otsus(dtype):
    random = np.random.default_rng(0)
    image = np.where(random.random((60, 50)) < 0.3, 80, 20) + random.integers(0, 20, (60, 50))
    expected = threshold_otsu(image.astype("float32" if dtype == "float16" else dtype))
    assert otsu_threshold(open_source(image.astype(dtype))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("image", "threshold"),
    [
        (np.full((4, 4), 7, np.uint8), 7),
        (np.full((4, 4), -2.5), -2.5),
        (np.full((4, 4), np.nan), 0),
        (np.zeros((0, 4)), 0),
        (np.array([[True, False]]), 0),
    ],
    ids=["constant", "negative", "nan alone", "no voxels", "boolean"],
)
def test_threshold_of_an_image_without_two_classes(image, threshold):
    assert otsu_threshold(open_source(image)) == threshold


def test_what_is_not_finite_does_not_move_the_threshold():
    image = np.concatenate([np.full(50, 10.0), np.full(50, 90.0)])
    dirty = np.concatenate([image, [np.nan, np.inf, -np.inf]])
    assert otsu_threshold(open_source(dirty)) == otsu_threshold(open_source(image))


def test_picture_shows_empty_tiles_from_above():
    empty = np.array([[[1, 1, 0], [1, 0, 1]], [[1, 0, 0], [1, 1, 1]]], bool)
    tiles = EmptyTiles(3.0, empty)
    assert tiles.picture() == "#..\n#.#"
    assert tiles.plane().tolist() == [[1, 0.5, 0], [1, 0.5, 1]]
    assert str(tiles) == "8 of 12 tiles are empty (maximum <= 3)\n#..\n#.#"
    assert EmptyTiles(3.0, np.array([True, False])).picture() == "#."


NOISE = np.random.default_rng(5).normal(500, 20, (512, 512))


def discs(n, radius, seed, shape=NOISE.shape):
    """Discs with their centres anywhere, as a mask."""
    centres = np.ones(shape, bool)
    rows, columns = np.random.default_rng(seed).integers(0, shape, (n, 2)).T
    centres[rows, columns] = False
    return ndimage.distance_transform_edt(centres) <= radius


def run(image, limit, dark=False, **options):
    """Run on tiles of 64 with a fixed threshold; give labels, labels without skipping, report, and warnings."""

    def fn(tile):
        return ndimage.label(tile < limit if dark else tile > limit)[0]

    settings = {"tile_shape": (64, 64), "return_report": True, **options}
    expected, _ = tile_process(image, fn, **settings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        labels, report = tile_process(image, fn, skip_empty=True, **settings)
    return labels, expected, report, [str(warning.message) for warning in said]


def with_specks(image, value):
    """Put in two hot voxels."""
    image = image.copy()
    image[10, 20] = image[400, 300] = value
    return image


DISCS = NOISE + 3000 * discs(60, 2, seed=1)
RAMP = np.linspace(0, 300, 512)
# Half a mosaic is brighter, so that background seems to spread far; dim discs stay below what it seems to reach.
DIM_AND_UNEVEN = (
    np.random.default_rng(8)
    .poisson(np.where(np.arange(512) < 256, 30, 5) + 900 * discs(12, 6, seed=9) + 60 * discs(12, 4, seed=10))
    .astype("uint16")
)
# Image, what fn takes for an object, and least and most tiles of 64 that are right to skip.
NOTHING_LOST = {
    "sparse": (DISCS.astype("uint16"), 1500, 20, 40),
    "specks": (with_specks(DISCS, 60_000).astype("uint16"), 1500, 15, 40),
    "specks of 32 bits": (with_specks(DISCS, 4e9).astype("uint32"), 1500, 15, 40),
    "dim and bright": ((DISCS + 300 * discs(40, 4, seed=2)).astype("uint16"), 650, 5, 40),
    "background of zeros": ((5 * discs(20, 4, seed=3)).astype("uint8"), 2, 40, 63),
    "zeros and a speck": (with_specks(5 * discs(20, 4, seed=3), 60_000).astype("uint16"), 2, 40, 63),
    "black padding": (np.where(np.arange(512) < 180, 0, DISCS).astype("uint16"), 1500, 16, 40),
    "mostly black padding": (np.where(np.arange(512) < 330, 0, DISCS).astype("uint16"), 1500, 40, 60),
    "padding of NaN": (np.where(np.arange(512) < 192, np.nan, DISCS).astype("float32"), 1500, 10, 30),
    "low contrast": ((NOISE + 250 * discs(60, 3, seed=1)).astype("uint16"), 625, 0, 40),
    "two backgrounds": ((DISCS + 600 * (np.arange(512) > 300)).astype("uint16"), 2200, 10, 40),
    "ramp": ((DISCS + RAMP).astype("uint16"), 1500, 10, 40),
    "integers far from 0": (DISCS.astype("uint64") + 2**60, 2**60 + 1500, 20, 40),
    "negative integers": (DISCS.astype("int32") - 2_000_000_000, 1500 - 2_000_000_000, 20, 40),
    "tiny floats": ((DISCS * 1e-9).astype("float32"), 1.5e-6, 15, 40),
    "floats of 80 bits": (DISCS.astype("longdouble"), 1500, 15, 40),
    "huge floats": (DISCS * 1e300, 1.5e303, 15, 40),
    "mostly saturated": (np.minimum(NOISE - 440 * discs(60, 30, seed=4), 255).astype("uint8"), 200, 0, 0),
}


@pytest.mark.parametrize("name", NOTHING_LOST)
def test_B23_the_chosen_threshold_loses_no_object_and_warns_of_none(name):
    image, limit, least, most = NOTHING_LOST[name]
    labels, expected, report, said = run(image, limit)
    assert expected.max() > 5
    assert_same_objects(labels, expected)
    assert said == []
    assert least <= report.n_skipped <= most
    assert report.empty_threshold <= otsu_threshold(open_source(image))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shade", [0, 60])
def test_B23_no_tile_of_a_bright_field_image_is_skipped_but_padding(shade, padded):
    light = 200 + NOISE / 10 - 50 + shade * np.linspace(-1, 0, 512)
    # The large one holds a tile of 64.
    large = np.hypot(*np.ogrid[-288:224, -352:160]) < 55
    image = np.clip(light - 100 * (large | discs(20, 15, seed=6)), 1, 255).astype("uint8")
    if padded:
        image[:, :128] = 0
    labels, expected, report, said = run(image, 130, dark=True)
    inside = image.reshape(8, 64, 8, 64).max((1, 3)) < 130
    assert inside[:, 2:].any(), "no tile lies inside an object"
    assert report.n_skipped == (16 if padded else 0)
    assert_same_objects(np.asarray(labels)[:, 128:], np.asarray(expected)[:, 128:])
    assert said == []


def test_B23_specks_do_not_raise_the_threshold_above_objects():
    """Discs of one voxel weigh less than two specks: Otsu's threshold lies above them."""
    image = with_specks(NOISE + 3000 * discs(30, 0, seed=1), 60_000).astype("uint16")
    assert otsu_threshold(open_source(image)) >= np.sort(image, axis=None)[-3]
    labels, expected, report, said = run(image, 1500)
    assert_same_objects(labels, expected)
    assert said == []
    assert report.n_skipped >= 15
    assert report.empty_threshold == pytest.approx(500 + 6 * 20, abs=5)


def test_B23_skipped_tiles_far_above_the_background_are_told_of_with_numbers_and_a_way_to_look():
    image = DIM_AND_UNEVEN
    labels, expected, report, said = run(image, 65)
    assert np.max(labels) < expected.max(), "nothing was lost"
    assert len(said) == 1
    found = estimate_empty_tiles(image, (64, 64))
    assert found.threshold == report.empty_threshold
    assert found.n_empty == report.n_skipped
    for part in (
        f"{report.n_skipped} of 64 tiles were skipped as empty (maximum <= {report.empty_threshold:g})",
        f"up to {found.maxima[found.empty].max():g}",
        "estimate_empty_tiles",
        "empty_threshold",
    ):
        assert part in said[0]


def test_B23_a_run_that_was_continued_tells_of_tiles_that_it_skipped_before(tmp_path):
    failing = {"now": True}

    def fn(tile):
        if failing["now"] and tile.max() > 500:
            raise RuntimeError("not yet")
        return ndimage.label(tile > 65)[0]

    options = {"tile_shape": (64, 64), "skip_empty": True, "stage_dir": tmp_path, "fn_version": "1"}
    options |= {"tiles_per_task": 1, "return_report": True}
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(TileError):
            tile_process(DIM_AND_UNEVEN, fn, **options)
        failing["now"] = False
        with pytest.warns(UserWarning, match="estimate_empty_tiles") as said:
            _, report = tile_process(DIM_AND_UNEVEN, fn, resume=True, **options)
    _, _, expected, once = run(DIM_AND_UNEVEN, 65)
    assert report.n_resumed > 0
    assert report.n_skipped == expected.n_skipped
    assert [str(warning.message) for warning in said] == once


def test_B23_a_threshold_that_was_given_is_the_users_own():
    _, _, report, said = run(DISCS.astype("uint16"), 1500, empty_threshold=3000)
    assert 0 < report.n_skipped < 64
    assert said == []


@pytest.mark.parametrize(
    ("offset", "dtype"),
    [
        (2**60, "uint64"),
        (2**64 - 2**14, "uint64"),
        (2**62, "int64"),
        (-(2**63), "int64"),
        (2_000_000_000, "int32"),
        (-(2**31), "int32"),
        (-(2**15), "int16"),
        (0, "uint16"),
    ],
)
def test_B23_threshold_of_integers_far_from_0_is_that_of_their_differences(offset, dtype):
    plain = DISCS.astype(np.int64)
    plain -= plain.min()
    image = (plain.astype(object) + offset).astype(dtype)
    threshold, _ = choose_empty_threshold(open_source(image))
    assert otsu_threshold(open_source(image)) - offset == threshold_otsu(plain)
    assert threshold - offset == choose_empty_threshold(open_source(plain.astype("uint16")))[0]
    assert isinstance(threshold, int)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_B23_a_tile_that_exceeds_the_threshold_by_one_near_2_60_is_run(dtype):
    image = np.full((64, 64), 2**60, dtype)
    image[3, 3] += 1
    calls = []

    def fn(tile):
        calls.append(tile)
        return np.zeros(tile.shape, int)

    for threshold in (None, 2**60, float(2**60)):
        calls.clear()
        tile_process(image, fn, tile_shape=(8, 8), skip_empty=True, empty_threshold=threshold)
        assert [tile.max() for tile in calls] == [2**60 + 1]
        assert estimate_empty_tiles(image, (8, 8), threshold=threshold).n_empty == 63


def test_B23_the_memory_of_a_threshold_does_not_grow_with_the_largest_value():
    image = np.random.default_rng(0).integers(0, 100, (64, 64)).astype("int32") + 2_000_000_000
    assert traced(lambda: choose_empty_threshold(open_source(image))).peak < 2**22
