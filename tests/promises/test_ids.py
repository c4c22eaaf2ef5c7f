"""Ids: which numbers objects get, in which dtype, whatever ids fn returned."""

import functools

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import Case, cases
from traced import traced

from blockbuster import tile_process

# Tiles that cut through the chunks of a dask image are allowed, and warned of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed"),
    # In small images few tiles have two labels.
    pytest.mark.filterwarnings("ignore:all objects have the same id"),
]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@settings(max_examples=examples(60))
@given(cases(), st.booleans())
@example(Case((7, 13, 9), (3, 4, 4), overlap=2, connectivity=3, tiles_per_task=2, density=0.35), False)
@example(Case((19, 23), (5, 5), connectivity=1, tiles_per_task=1, density=0.65), True)
def test_id_of_an_object_is_its_smallest_provisional_id_or_its_rank(case, sequential):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    expected = naive.stitch(case.mask, fn, case.lengths, case.halo, case.connectivity, None, sequential)
    assert np.array_equal(case.run(fn, sequential_labels=sequential), expected)


@settings(max_examples=examples(40))
@given(cases(), st.data())
def test_any_function_gets_the_ids_that_the_contract_says(case, data):
    """Also one whose labels in a halo, and at a seam, fit those of no other tile."""
    merged = data.draw(st.sets(st.sampled_from(range(len(case.shape))), min_size=1))
    letters = "wzyx"[-len(case.shape) :]

    def fn(tile):
        random = np.random.default_rng(tile.size + int(tile.sum()))
        return tile * random.integers(0, 4, tile.shape)

    expected = naive.stitch(case.mask, fn, case.lengths, case.halo, case.connectivity, sorted(merged))
    names = "".join(letters[axis] for axis in sorted(merged))
    assert np.array_equal(case.run(fn, axes=letters, merge_axes=names), expected)


def test_local_ids_go_by_first_appearance_in_c_order():
    labels = np.array([[0, 9, 9, 4], [7, 0, 9, 4], [7, 0, 2, 2]])
    expected = [[0, 1, 1, 2], [3, 0, 1, 2], [3, 0, 4, 4]]
    assert tile_process(labels, np.copy).tolist() == expected
    fortran = tile_process(labels, np.asfortranarray)
    assert fortran.tolist() == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_B5_labels_of_every_integer_dtype_and_byte_order_are_the_same(dtype, order):
    mask = (np.random.default_rng(1).random((24, 25)) < 0.4).astype(np.uint8)
    stored = np.dtype(dtype).newbyteorder(order)
    expected = naive.stitch(mask, naive.label, naive.cut(mask.shape, (7, 8)), (2, 2))
    labels = tile_process(mask, lambda tile: naive.label(tile).astype(stored), tile_shape=(7, 8), overlap=2)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize("tiles_per_task", [1, 2, None])
@pytest.mark.parametrize("huge", [98_340_797, 2**31, 2**32 + 5, 2**63 - 1, 2**63, 2**64 - 1])
def test_B5_huge_ids_are_worth_no_more_than_small_ones(huge, tiles_per_task):
    mask = (np.random.default_rng(2).random((30, 31)) < 0.4).astype(np.uint8)

    def from_the_top(tile):
        labels = naive.label(tile).astype(np.uint64)
        return np.where(labels > 0, np.uint64(huge) - labels + np.uint64(1), np.uint64(0))

    def run(fn):
        return tile_process(mask, fn, tile_shape=(8, 8), overlap=3, tiles_per_task=tiles_per_task)

    assert run(from_the_top).tobytes() == run(naive.label).tobytes()


def test_B5_ids_that_differ_by_multiples_of_2_to_the_32_stay_apart():
    ids = np.array([[1, 2**32 + 1, 0, 2**33 + 1, 1, 2**63 + 1]], np.uint64)
    assert tile_process(ids, np.copy).tolist() == [[1, 2, 0, 3, 1, 4]]


@pytest.mark.parametrize("spread", [1, 9_223_372_036_854])
def test_B7_a_million_ids_in_one_tile(spread):
    image = np.arange(1, 1_000_001).reshape(1000, 1000)
    labels = tile_process(image, lambda tile: tile * spread)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, image)


@pytest.mark.parametrize("largest", [98_340_797, 2**31, 2**63 - 1])
def test_B5_memory_goes_by_the_number_of_labels_not_by_the_largest(largest):
    image = np.zeros((256, 256), np.uint8)
    image[3, 3] = image[200, 200] = 1

    def peak(fn):
        return traced(lambda: tile_process(image, fn, tile_shape=(128, 128))).peak

    assert peak(lambda tile: tile * np.int64(largest)) <= peak(lambda tile: tile * np.int64(1)) + 2**20


@pytest.mark.parametrize("tiles_per_task", [1, 2, 4])
def test_B7_more_than_65535_objects_in_a_tile_and_in_a_task(tiles_per_task):
    """Tasks switch from uint16 to uint32 in their first, second, or third tile, or not at all."""
    image = np.zeros((600, 600), np.uint8)
    image[:300:2, :300:2] = 1  # 22,500 objects
    image[:300:2, 300::2] = 1
    image[300:, 300:] = 1  # every voxel is an object of its own
    image[300:, :300] = image[:300, 300:]
    lengths = naive.cut(image.shape, (300, 300))

    def fn(tile):
        if tile.all():
            return np.arange(1, tile.size + 1, dtype=np.int64).reshape(tile.shape)
        return naive.label(tile)

    labels = tile_process(image, fn, tile_shape=(300, 300), tiles_per_task=tiles_per_task)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, naive.stitch(image, fn, lengths, (0, 0)))


@pytest.mark.parametrize("n_objects", [65_534, 65_535, 65_536, 65_537])
@pytest.mark.parametrize("n_before", [0, 1, 40_000])
def test_B7_task_with_about_65535_objects_loses_none(n_objects, n_before):
    """The last id that uint16 holds, in the first tile of a task and in a later one."""
    image = np.zeros((2, 66_000), np.int32)
    image[0, :n_before] = np.arange(1, n_before + 1)
    image[1, : n_objects - n_before] = np.arange(1, n_objects - n_before + 1)
    labels = tile_process(image, np.copy, tile_shape=(1, 66_000), axes="yx", merge_axes="x", tiles_per_task=2)
    expected = image + np.array([[0], [n_before]]) * (image > 0)
    assert np.array_equal(labels, expected)
