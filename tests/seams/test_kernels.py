import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockbuster.seams.kernels import collect_pairs, copy_table, number_dense, number_sparse, remap_volume

# `as_run` is the same for all examples.
for_all = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])

volumes = st.tuples(*[st.integers(1, 5)] * 3)
layouts = st.sampled_from(["C", "F", "reversed", "read-only"])
KEYS_PER_HASH = [1, 2**31, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1]


def laid_out(array, layout):
    """The same voxels, differently in memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1].copy()[::-1]
    array.flags.writeable = layout != "read-only"
    return array


def random_labels(data, shape, largest, dtype):
    seed = data.draw(st.integers(0, 2**32 - 1))
    labels = np.random.default_rng(seed).integers(0, largest, shape, endpoint=True)
    return labels.astype(dtype)


@for_all
@given(st.data(), volumes, layouts, st.sampled_from([np.uint16, np.uint32]))
def test_dense_numbering_is_by_first_appearance(as_run, data, shape, layout, out_dtype):
    labels = laid_out(random_labels(data, shape, data.draw(st.integers(0, 12)), np.uint32), layout)
    first = data.draw(st.integers(0, 40_000))
    out = np.full(shape, 99, out_dtype)
    last = as_run(number_dense)(labels, np.zeros(int(labels.max()) + 1, np.uint32), first, out)
    expected, count = naive.number_by_appearance(labels, first)
    assert last == first + count
    assert np.array_equal(out, expected)


def test_dense_numbering_goes_on_from_volume_to_volume(as_run):
    labels = np.array([3, 1, 3, 0, 2, 1, 4, 3], np.uint64).reshape(2, 1, 1, 4)
    table, out, count = np.zeros(5, np.uint32), np.zeros((2, 1, 1, 4), np.uint32), 0
    for part, new in zip(labels, out, strict=True):
        count = as_run(number_dense)(part, table, count, new)
    assert count == 4
    assert out.ravel().tolist() == [1, 2, 1, 0, 3, 2, 4, 1]


def test_dense_numbering_counts_right_where_the_ids_do_not_fit(as_run):
    labels = np.arange(1, 11, dtype=np.uint32).reshape(1, 1, 10)
    out = np.zeros(labels.shape, np.uint16)
    assert as_run(number_dense)(labels, np.zeros(11, np.uint32), 65_530, out) == 65_540
    assert out.ravel().tolist() == [*range(65_531, 65_536), *range(5)]


@for_all
@given(st.data(), volumes, layouts, st.integers(0, 5), st.sampled_from([np.uint16, np.uint32]))
def test_sparse_numbering_is_by_first_appearance(as_run, data, shape, layout, first, out_dtype):
    ids = np.array([0, *KEYS_PER_HASH, *range(2**40, 2**44, 2**40)], np.uint64)
    labels = laid_out(ids[random_labels(data, shape, len(ids) - 1, np.int64)], layout)
    table, out = np.zeros((64, 2), np.uint64), np.zeros(shape, out_dtype)
    expected, count = naive.number_by_appearance(labels.ravel())
    expected = (expected + first * (expected > 0)).reshape(shape)
    n_rows = shape[0] * shape[1]
    assert as_run(number_sparse)(labels, 0, table, first, first, out) == (n_rows, first + count)
    assert np.array_equal(out, expected)
    known = dict(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert {key: new for key, new in table.tolist() if key} == {key: new for key, new in known.items() if key}


ROWS = np.array([[[7, 7], [8, 7]], [[9, 8], [10, 0]]], np.uint64)


def test_sparse_numbering_stops_before_its_table_is_more_than_half_full(as_run):
    table, out = np.zeros((4, 2), np.uint64), np.zeros((2, 2, 2), np.uint32)
    assert as_run(number_sparse)(ROWS, 0, table, 5, 5, out) == (2, 7)
    assert out[0].tolist() == [[6, 6], [7, 6]]
    assert sorted(table.tolist()) == [[0, 0], [0, 0], [7, 6], [8, 7]]


def test_sparse_numbering_goes_on_where_it_stopped_in_a_larger_table(as_run):
    table, wider = np.zeros((4, 2), np.uint64), np.zeros((16, 2), np.uint64)
    out = np.zeros((2, 2, 2), np.uint32)
    assert as_run(number_sparse)(ROWS, 0, table, 0, 0, out) == (2, 2)
    as_run(copy_table)(table, wider)
    assert sorted(wider.tolist())[-2:] == [[7, 1], [8, 2]]
    assert as_run(number_sparse)(ROWS, 2, wider, 0, 2, out) == (4, 4)
    assert out.tolist() == [[[1, 1], [2, 1]], [[3, 2], [4, 0]]]


@for_all
@given(st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=30))
def test_a_copied_hash_table_finds_the_same_ids(as_run, keys):
    table, wider = np.zeros((64, 2), np.uint64), np.zeros((256, 2), np.uint64)
    labels = np.array(keys, np.uint64).reshape(1, 1, -1)
    out, again = np.zeros(labels.shape, np.uint32), np.zeros(labels.shape, np.uint32)
    as_run(number_sparse)(labels, 0, table, 0, 0, out)
    as_run(copy_table)(table, wider)
    assert as_run(number_sparse)(labels, 0, wider, 0, len(keys), again) == (1, len(keys))
    assert np.array_equal(again, out)


@for_all
@given(st.data(), st.integers(0, 40))
def test_pairs_are_collected_without_repeated_runs(as_run, data, n):
    a, b = random_labels(data, n, 3, np.uint16), random_labels(data, n, 3, np.uint16)
    pairs = np.zeros((n, 2), np.int64)
    count = as_run(collect_pairs)(a, b, pairs)
    assert [tuple(pair) for pair in pairs[:count].tolist()] == naive.collect_pairs(a, b)


@pytest.mark.parametrize("dtypes", [(np.uint16, np.uint32), (np.uint32, np.uint16), (np.uint32, np.uint32)])
def test_pairs_of_labels_of_different_dtypes_are_collected(as_run, dtypes):
    a, b = np.array([4464, 0, 2, 2], dtypes[0]), np.array([1, 1, 65_535, 65_535], dtypes[1])
    pairs = np.zeros((4, 2), np.int64)
    assert as_run(collect_pairs)(a, b, pairs) == 2
    assert pairs[:2].tolist() == [[4464, 1], [2, 65_535]]


@for_all
@given(
    st.data(), volumes, layouts, st.sampled_from([np.uint16, np.uint32]), st.sampled_from([np.int32, np.int64])
)
def test_remapping_looks_every_label_up(as_run, data, shape, layout, dtype, out_dtype):
    labels = laid_out(random_labels(data, shape, 9, dtype), layout)
    table = random_labels(data, 10, 2**31 - 1, out_dtype)
    out = np.full(shape, -1, out_dtype)
    as_run(remap_volume)(labels, table, out)
    assert np.array_equal(out, naive.remap(labels, table))


def test_remapping_fills_a_part_of_a_larger_array(as_run):
    out = np.full((2, 4, 6), -1, np.int64)
    labels = np.arange(6, dtype=np.uint32).reshape(1, 2, 3)
    as_run(remap_volume)(labels, np.arange(6) * 2**40, out[1:, 1:3, ::2])
    assert out[1, 1:3, ::2].ravel().tolist() == [n * 2**40 for n in range(6)]
    assert np.count_nonzero(out == -1) == out.size - 6
