import numpy as np
import pytest
from skimage.filters import threshold_otsu

from blockbuster.source import open_source
from blockbuster.stage.empty import EmptyTiles, otsu_threshold


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
