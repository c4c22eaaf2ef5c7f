import math
import tracemalloc

import naive
import numba
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockbuster.seams.labels import FIRST_HASH_SIZE, compact_labels, keep_positions_apart, remap_labels

# Numba wraps silently; plain Python, which runs with NUMBA_DISABLE_JIT=1, says so.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)
DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@st.composite
def labels_of_any_kind(draw):
    """Labels of any shape, dtype, byte order and memory order; dense, sparse, or near the dtype's end."""
    shape, dtype = draw(shapes), np.dtype(draw(st.sampled_from(DTYPES)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([1, 5, 100, np.iinfo(dtype).max]))
    ids = random.integers(0, min(largest, np.iinfo(dtype).max), 20, dtype, endpoint=True)
    labels = ids[random.integers(0, 20, shape)] * random.integers(0, 2, shape).astype(dtype)
    labels = labels.astype(dtype.newbyteorder(draw(st.sampled_from("<>"))))
    return labels.transpose(draw(st.permutations(range(len(shape)))))


@settings(max_examples=examples(150))
@given(labels_of_any_kind(), st.integers(0, 60_000), st.sampled_from([np.uint16, np.uint32]))
def test_labels_are_numbered_by_first_appearance(labels, first, out_dtype):
    before = labels.copy()
    out = np.full(labels.shape, 99, out_dtype)
    expected, count = naive.number_by_appearance(labels, first)
    assert compact_labels(labels, out, first) == count
    assert np.array_equal(out, expected)
    assert np.array_equal(labels, before)


@settings(max_examples=examples(150))
@given(labels_of_any_kind(), st.data())
def test_B21_ids_count_for_each_position_along_axes_that_are_kept_apart(labels, data):
    axes = data.draw(st.sets(st.sampled_from(range(labels.ndim))))
    before = labels.copy()
    apart = keep_positions_apart(labels, tuple(axes))
    merged = [axis for axis in range(labels.ndim) if axis not in axes]
    expected = naive.keep_apart(labels, merged)
    assert np.array_equal(naive.number_by_appearance(apart)[0], naive.number_by_appearance(expected)[0])
    assert np.array_equal(labels, before)


def test_labels_of_one_position_are_handed_on_as_they_are():
    labels = np.arange(12, dtype=np.int16).reshape(1, 4, 3)
    assert keep_positions_apart(labels, (0,)) is labels
    assert keep_positions_apart(labels, ()) is labels


def test_B21_ids_and_positions_whose_product_needs_more_than_32_bits_stay_apart():
    labels = np.full(2**16, 2**17)
    assert len(np.unique(keep_positions_apart(labels, (0,)))) == labels.size


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 4)])
def test_no_voxels_have_no_labels(shape):
    assert keep_positions_apart(np.zeros(shape, np.int64), (0,)).shape == shape
    assert compact_labels(np.zeros(shape, np.int64), np.zeros(shape, np.uint32), 5) == 0


def test_background_overwrites_what_was_there():
    out = np.full((2, 3), 9, np.uint32)
    assert compact_labels(np.zeros((2, 3), np.uint64), out, 5) == 0
    assert not out.any()


def test_part_of_a_larger_array_is_filled():
    whole = np.full((4, 6), 99, np.uint16)
    assert compact_labels(np.array([[2**40, 0], [5, 2**40]]), whole[1:3, 2:4], 7) == 2
    assert whole[1:3, 2:4].tolist() == [[8, 0], [9, 8]]
    assert np.count_nonzero(whole == 99) == 20


@pytest.mark.parametrize("n", [1, FIRST_HASH_SIZE // 2, FIRST_HASH_SIZE // 2 + 1, FIRST_HASH_SIZE, 5000])
def test_hash_table_grows_and_keeps_its_ids(n):
    random = np.random.default_rng(n)
    ids = random.choice(2**62, n, replace=False).astype(np.uint64) + np.uint64(2**63)
    labels = ids[np.concatenate([random.permutation(n), random.integers(0, n, 500)])]
    out = np.zeros(labels.shape, np.uint32)
    assert compact_labels(labels, out) == n
    assert np.array_equal(out, naive.number_by_appearance(labels)[0])


@pytest.mark.parametrize("spread", [1, 2, 3, 2**32, 2**40])
def test_ids_that_follow_a_pattern_are_all_found(spread):
    """Every one of them ends in the same bits."""
    labels = np.arange(1, 20_001, dtype=np.uint64) * np.uint64(spread)
    out = np.zeros(labels.shape, np.uint32)
    assert compact_labels(labels, out) == 20_000
    assert np.array_equal(out, np.arange(1, 20_001))


@pytest.mark.parametrize("out_dtype", [np.uint16, np.uint32])
def test_more_labels_than_uint16_holds_are_counted(out_dtype):
    labels = np.arange(1, 70_001).reshape(7, 10_000)
    out = np.zeros(labels.shape, out_dtype)
    assert compact_labels(labels, out) == 70_000
    assert compact_labels(labels * 2**40, out) == 70_000
    assert out_dtype == np.uint16 or np.array_equal(out, labels)


def peak_bytes(labels):
    out = np.zeros(labels.shape, np.uint32)
    compact_labels(labels, out)
    tracemalloc.start()
    compact_labels(labels, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("largest", [98_340_797, 2**31, 2**63 - 1])
def test_memory_does_not_go_by_the_largest_id(largest):
    labels = np.zeros((256, 256), np.int64)
    labels[3, 5] = 1
    small = peak_bytes(labels)
    labels[200, 7] = largest
    per_voxel, table = 3 * 8, 12 * FIRST_HASH_SIZE
    assert peak_bytes(labels) <= small + per_voxel * labels.size + 2 * table


def test_memory_of_a_million_sparse_ids_goes_by_their_number():
    """A table is at least an eighth full after it grew fourfold, and the one before it is still there."""
    n = 20_000 if numba.config.DISABLE_JIT else 1_000_000
    labels = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(2**63 // n)
    per_place, per_voxel = 8 + 4, 2 * 4
    places = 2 ** math.ceil(math.log2(8 * labels.size))
    assert peak_bytes(labels) <= per_place * places * 5 // 4 + (per_voxel + 2 * 16) * labels.size


@settings(max_examples=examples(60))
@given(shapes, st.sampled_from([np.uint16, np.uint32]), st.sampled_from([np.int32, np.int64]), st.data())
def test_labels_of_any_number_of_axes_are_remapped(shape, dtype, out_dtype, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    order = data.draw(st.permutations(range(len(shape))))
    labels = random.integers(0, 30, shape).astype(dtype).transpose(order)
    table = random.integers(0, np.iinfo(out_dtype).max, 30).astype(out_dtype)
    out = np.zeros(labels.shape, out_dtype)
    remap_labels(labels, table, out)
    assert np.array_equal(out, naive.remap(labels, table))
