import dask.array as da
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from strategies import cases

from blockbuster.grid import TileGrid
from blockbuster.source import open_source
from blockbuster.stage.empty import SAMPLE_PIECES, EmptyTiles, find_empty_tiles, otsu_threshold, sample_pixels


class Counting:
    """A source that counts what is read."""

    def __init__(self, image):
        self.source = open_source(image)
        self.shape, self.dtype = self.source.shape, self.source.dtype
        self.n_read = 0

    def read(self, region):
        pixels = self.source.read(region)
        self.n_read += pixels.size
        return pixels


@settings(max_examples=40)
@given(cases(kinds=("numpy",)), st.integers(0, 200))
def test_empty_tiles_are_those_whose_maximum_with_the_halo_is_not_above_the_threshold(case, threshold):
    image = np.random.default_rng(case.seed).integers(0, 256, case.shape) * case.mask
    found = find_empty_tiles(open_source(image), TileGrid(case.lengths, case.halo), threshold)
    for index, _, region in naive.tiles(case.lengths, case.halo):
        assert found.empty[index] == (max(image[region].ravel().tolist()) <= threshold)
    assert (found.n_tiles, found.n_empty) == (found.empty.size, np.count_nonzero(found.empty))


def test_tile_with_nan_is_not_empty():
    image = np.array([[0, 0, np.nan, 0]])
    found = find_empty_tiles(open_source(image), TileGrid(((1,), (2, 2)), (0, 0)), 5.0)
    assert found.empty.tolist() == [[True, False]]


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


@pytest.mark.parametrize("shape", [(100_003,), (331, 317), (7, 127, 113), (2, 3, 131, 137)])
def test_sample_is_bounded_spread_and_the_same_at_every_call(shape):
    most = 4096
    # The pixels are their own coordinates along the longest axis.
    axis = int(np.argmax(shape))
    along = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    image = Counting(np.broadcast_to(along, shape))
    pixels = sample_pixels(image, most)
    assert most / 8 <= pixels.size <= most
    assert image.n_read == pixels.size
    quarters = np.bincount(4 * pixels // shape[axis], minlength=4)
    assert quarters.min() >= pixels.size / 4 / 3
    assert np.array_equal(pixels, sample_pixels(image, most))


def test_sample_of_a_large_image_finds_otsus_threshold():
    random = np.random.default_rng(1)
    image = np.where(random.random((1000, 1000)) < 0.3, 800, 200) + random.integers(0, 200, (1000, 1000))
    sample = sample_pixels(open_source(image), 2**16)
    assert sample.size <= 2**16
    assert threshold_otsu(sample) == pytest.approx(threshold_otsu(image), abs=20)


def test_sample_reads_few_pieces_of_a_dask_image():
    seen = []

    def load(block):
        seen.append(block.shape)
        return block

    image = da.zeros((3000, 3000), chunks=(100, 100), dtype="uint8").map_blocks(load, meta=np.empty((0, 0), "u1"))
    sample_pixels(open_source(image), 2**14)
    assert len(seen) <= 4 * SAMPLE_PIECES


def test_picture_shows_empty_tiles_from_above():
    empty = np.array([[[1, 1, 0], [1, 0, 1]], [[1, 0, 0], [1, 1, 1]]], bool)
    tiles = EmptyTiles(3.0, empty)
    assert tiles.picture() == "#..\n#.#"
    assert tiles.plane().tolist() == [[1, 0.5, 0], [1, 0.5, 1]]
    assert str(tiles) == "8 of 12 tiles are empty (maximum <= 3)\n#..\n#.#"
    assert EmptyTiles(3.0, np.array([True, False])).picture() == "#."
