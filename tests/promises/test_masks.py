"""Masks of 0 and 1, or 0 and 255, of an integer type: every object would be the same one (B24)."""

import contextlib

import dask
import naive
import numpy as np
import pytest
from interrupted import interrupt_at, segment
from skimage.draw import disk

from blockbuster import tile_process

pytestmark = pytest.mark.usefixtures("one_at_a_time")

SAID = r"same id in {}.*skimage\.measure\.label\(mask\)"
BLOBS = np.zeros((40, 60), np.uint8)
for centre in [(6, 6), (6, 30), (7, 52), (18, 18), (30, 10), (31, 40), (32, 55)]:
    BLOBS[disk(centre, 4, shape=BLOBS.shape)] = 200
TILES = {"tile_shape": (20, 30), "overlap": 4}


def mask_of_ones(tile):
    return (tile > 100).astype("int32")


def mask_of_255(tile):
    return np.where(tile > 100, 255, 0).astype("uint8")


@contextlib.contextmanager
def warned(tiles):
    """Assert that one warning tells of the mask, and counts the tiles."""
    with pytest.warns(UserWarning, match=SAID.format(tiles)) as caught:
        yield caught
    assert len(caught) == 1


@pytest.mark.parametrize("fn", [mask_of_ones, mask_of_255])
@pytest.mark.parametrize("merge", ["touch", "agree", "none"])
@pytest.mark.parametrize("tiles_per_task", [None, 1])
def test_B24_a_mask_is_warned_of_once_with_the_remedy(fn, merge, tiles_per_task):
    with warned("each of the 4 tiles"):
        tile_process(BLOBS, fn, **TILES, merge=merge, tiles_per_task=tiles_per_task)


@pytest.mark.parametrize("fn", [mask_of_ones, mask_of_255])
def test_B24_the_only_tile_of_an_image_is_warned_of(fn):
    with warned("the only tile") as caught:
        labels = tile_process(BLOBS, fn)
    assert labels.max() == 1
    assert caught[0].filename == __file__


def test_B24_tiles_with_one_object_do_not_hide_a_mask():
    image = np.zeros((8, 64), np.uint8)
    image[2:5, 2:5] = image[2:5, 18:22] = image[2:5, 34:38] = image[2:5, 50:52] = image[2:5, 60:62] = 200
    with warned("each of the 4 tiles"):
        tile_process(image, mask_of_ones, tile_shape=(8, 16))


def test_B24_a_mask_of_other_processes_is_warned_of(pool):
    with dask.config.set(scheduler="processes", pool=pool), warned("each of the 4 tiles"):
        tile_process(BLOBS, mask_of_ones, **TILES)


def test_B24_labels_are_not_warned_of():
    labels = tile_process(BLOBS, naive.label, **TILES)
    assert labels.max() >= 7


def test_B24_an_image_without_objects_is_not_warned_of():
    tile_process(np.zeros((40, 60), np.uint8), mask_of_ones, **TILES)


@pytest.mark.parametrize("tile_shape", [(20, 20), (40, 60)])
def test_B24_one_object_in_each_tile_is_not_warned_of(tile_shape):
    """Also a ring, what touches by a corner, and what falls into pieces in the core alone."""
    image = np.zeros((40, 60), np.uint8)
    rows, columns = np.indices((20, 20)) - 9.5
    ring = np.abs(np.hypot(rows, columns) - 5) < 1.5
    boxes = [(0, 0)] if tile_shape == (40, 60) else [(y, x) for y in (0, 20) for x in (0, 20, 40)]
    for y, x in boxes:
        image[y : y + 20, x : x + 20] = 200 * ring
    image[3, 3] = image[4, 4] = image[5, 5] = 200
    tile_process(image, mask_of_ones, tile_shape=tile_shape)


def test_B24_an_object_that_is_one_with_its_halo_is_not_warned_of():
    bow = np.zeros((10, 10), np.uint8)
    bow[2:8, 2] = bow[2:8, 7] = bow[7, 2:8] = 200
    tile_process(bow, mask_of_ones, tile_shape=(5, 10), overlap=(3, 0))


def test_B24_two_ids_in_one_tile_are_labels():
    """Objects of several pieces are nobody's business then."""

    def fn(tile):
        return mask_of_ones(tile) * (1 + (np.indices(tile.shape)[1] > 36))

    tile_process(BLOBS, fn, tile_shape=(20, 60), tiles_per_task=1)


@pytest.mark.parametrize("options", [{"axes": "cyx", "channel": None}, {"axes": "tyx"}])
def test_B24_positions_that_are_not_merged_are_looked_at_one_by_one(options):
    image = np.zeros((2, 9, 30), np.uint8)
    image[0, 2:4, 2:5] = image[1, 2:4, 20:26] = 200
    tile_process(image, mask_of_ones, **options)
    image[1, 7, 2:9] = 200
    with warned("the only tile"):
        tile_process(image, mask_of_ones, **options)


def test_B24_channels_that_fn_drops_are_not_looked_for():
    image = np.stack([BLOBS, BLOBS])
    with warned("each of the 4 tiles"):
        tile_process(image, lambda tile: mask_of_ones(tile[0]), axes="cyx", channel=None, **TILES)


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_B24_a_run_that_is_continued_warns_of_what_it_did_before(n_tasks, tmp_path):
    options = {"image": BLOBS, "tile_shape": (20, 30), "overlap": 0, "write_to": tmp_path / "out.zarr"}
    interrupt_at("task journalled", mask_of_ones, n_tasks, **options)
    with warned("each of the 4 tiles"):
        segment(mask_of_ones, resume=True, **options)


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_B24_a_run_that_is_continued_knows_of_two_ids_before(n_tasks, tmp_path):
    def fn(tile):
        # Two ids in the first tile alone.
        return mask_of_ones(tile) * (1 + (tile[0, 0] == 7) * (np.indices(tile.shape)[1] > 15))

    image = BLOBS.copy()
    image[0, 0] = 7
    options = {"image": image, "tile_shape": (20, 30), "overlap": 0, "write_to": tmp_path / "out.zarr"}
    interrupt_at("task journalled", fn, n_tasks, **options)
    segment(fn, resume=True, **options)
