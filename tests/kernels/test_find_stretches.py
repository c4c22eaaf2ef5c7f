import itertools

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stretches import flat, stretches_of

from blockbuster.kernels.find_stretches import fill_boxes, find_stretches

# `as_run` is the same for all examples.
for_all = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])

seeds = st.integers(0, 2**32 - 1)
volumes = st.tuples(*[st.integers(1, 5)] * 3)
layouts = st.sampled_from(["C", "F", "reversed", "read-only"])
KEYS_PER_HASH = [1, 2**31, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1]
SPARSE = np.array([0, *KEYS_PER_HASH, *range(2**40, 2**44, 2**40)], np.uint64)


def laid_out(array, layout):
    """The same voxels, differently in memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1].copy()[::-1]
    array.flags.writeable = layout != "read-only"
    return array


def random_labels(data, shape, largest, dtype):
    labels = np.random.default_rng(data.draw(seeds)).integers(0, largest, shape, endpoint=True)
    return labels.astype(dtype)


def room_for(labels, n_places=64, n_stretches=None):
    """What `find_stretches` fills: its hash table, scratch, rows and stretches."""
    table, changes = np.zeros((n_places, 2), np.uint64), np.empty(labels.shape[-1], np.int32)
    rows = np.zeros(labels.size // labels.shape[-1] + 1, np.int64)
    return table, changes, rows, np.empty((labels.size if n_stretches is None else n_stretches, 3), np.int32)


def ids_by_label(table):
    return {label: number for label, number in table.tolist() if label}


@for_all
@given(st.data(), volumes, layouts, st.sampled_from([np.uint32, np.uint64, "sparse"]))
def test_stretches_are_found_and_numbered_by_first_appearance(as_run, data, shape, layout, dtype):
    if dtype == "sparse":
        labels = SPARSE[random_labels(data, shape, len(SPARSE) - 1, np.int64)]
    else:
        labels = random_labels(data, shape, data.draw(st.integers(0, 12)), dtype)
    labels = laid_out(labels, layout)
    table, changes, rows, stretches = room_for(labels)
    expected, count = naive.number_by_appearance(labels)
    n_rows = shape[0] * shape[1]
    assert as_run(find_stretches)(labels, 0, table, 0, changes, rows, stretches) == (n_rows, count)
    expected_rows, expected_stretches = stretches_of(flat(expected))
    assert rows.tolist() == expected_rows.tolist()
    assert stretches[: rows[-1]].tolist() == expected_stretches.tolist()
    known = dict(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert ids_by_label(table) == {label: number for label, number in known.items() if label}


def test_numbering_goes_on_from_volume_to_volume(as_run):
    labels = np.array([3, 1, 3, 0, 2, 1, 4, 3], np.uint64).reshape(2, 1, 1, 4)
    table, changes, rows, stretches = room_for(labels)
    count = 0
    for i, part in enumerate(labels):
        row, count = as_run(find_stretches)(part, 0, table, count, changes, rows[i : i + 2], stretches)
        assert row == 1
    assert count == 4
    assert rows.tolist() == [0, 3, 7]
    assert stretches[:7, 2].tolist() == [1, 2, 1, 3, 2, 4, 1]


ROWS = np.array([[[7, 7], [8, 7]], [[9, 8], [10, 0]]], np.uint64)
ROWS_FOUND = [[0, 2, 1], [0, 1, 2], [1, 2, 1], [0, 1, 3], [1, 2, 2], [0, 1, 4]]


def test_search_stops_before_its_table_is_more_than_half_full(as_run):
    table, changes, rows, stretches = room_for(ROWS, n_places=4)
    assert as_run(find_stretches)(ROWS, 0, table, 0, changes, rows, stretches) == (2, 2)
    assert rows[:3].tolist() == [0, 1, 3]
    assert stretches[:3].tolist() == ROWS_FOUND[:3]
    assert sorted(table.tolist()) == [[0, 0], [0, 0], [7, 1], [8, 2]]


@pytest.mark.parametrize(("room", "row"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 4)])
def test_search_stops_before_a_row_for_which_there_may_be_no_room(as_run, room, row):
    """Background counts as well, until the row has been looked at."""
    table, changes, rows, stretches = room_for(ROWS, n_stretches=room)
    found, count = as_run(find_stretches)(ROWS, 0, table, 0, changes, rows, stretches)
    assert (found, count) == (row, [0, 1, 2, 3, 4][row])
    assert stretches[: rows[row]].tolist() == ROWS_FOUND[: rows[row]]


@for_all
@given(st.data(), volumes, st.sampled_from([2, 4]), st.integers(0, 3))
def test_search_that_stops_often_finds_the_same(as_run, data, shape, n_places, n_stretches):
    labels = random_labels(data, shape, data.draw(st.integers(1, 60)), np.uint32)
    table, changes, rows, stretches = room_for(labels, n_places, n_stretches)
    row, count, n_rows = 0, 0, shape[0] * shape[1]
    while True:
        before = row
        row, count = as_run(find_stretches)(labels, row, table, count, changes, rows, stretches)
        if row == n_rows:
            break
        assert row >= before
        if 2 * count == len(table):
            table, row, count = np.zeros((2 * len(table), 2), np.uint64), 0, 0
        else:
            assert len(stretches) < rows[row] + shape[2]
            stretches = np.concatenate([stretches, np.empty((shape[2], 3), np.int32)])
    expected, n_labels = naive.number_by_appearance(labels)
    expected_rows, expected_stretches = stretches_of(flat(expected))
    assert count == n_labels
    assert rows.tolist() == expected_rows.tolist()
    assert stretches[: rows[-1]].tolist() == expected_stretches.tolist()


@st.composite
def boxes_to_fill(draw):
    """Ids of several tiles, parts of them, and for each part where it comes in a larger array."""
    ndim = draw(st.integers(1, 4))
    axes = st.tuples(*[st.integers(1, {1: 9, 2: 5, 3: 4, 4: 3}[ndim])] * ndim)
    random = np.random.default_rng(draw(seeds))
    tiles = [random.integers(0, 4, shape) for shape in draw(st.lists(axes, min_size=1, max_size=3))]
    out_shape = [max(tile.shape[axis] for tile in tiles) + draw(st.integers(0, 2)) for axis in range(ndim)]
    parts = []
    for which in draw(st.lists(st.integers(0, len(tiles) - 1), max_size=4)):
        shape = tiles[which].shape
        start = [draw(st.integers(0, n - 1)) for n in shape]
        # Empty ones too, along any axis, where stop may lie before start.
        stop = [draw(st.integers(max(0, i - 1), n)) for i, n in zip(start, shape, strict=True)]
        ends = zip(start, stop, out_shape, strict=True)
        parts.append((which, start, stop, [draw(st.integers(0, n - max(0, j - i))) for i, j, n in ends]))
    return tiles, parts, tuple(out_shape)


@for_all
@given(boxes_to_fill(), st.sampled_from([np.int32, np.int64, np.uint16]), st.data())
def test_boxes_are_filled_as_if_voxel_by_voxel(as_run, drawn, dtype, data):
    tiles, parts, out_shape = drawn
    table = random_labels(data, 4 + 10 * len(parts), np.iinfo(dtype).max, dtype)
    rows, stretches = stretches_of([row for tile in tiles for row in flat(tile)])
    first_rows = np.cumsum([0, *(tile.size // tile.shape[-1] for tile in tiles)])
    firsts = np.array([data.draw(st.integers(0, 10 * len(parts))) for _ in tiles])
    out, expected = np.full(out_shape, 99, dtype), np.full(out_shape, 99, dtype)
    for which, start, stop, place in parts:
        for voxel in itertools.product(*map(range, start, stop)):
            if number := tiles[which][voxel]:
                there = tuple(p + x - i for p, x, i in zip(place, voxel, start, strict=True))
                expected[there] = table[firsts[which] + number]
    ndim = len(out_shape)
    origins = np.array([data.draw(st.tuples(*[st.integers(-5, 5)] * ndim)) for _ in tiles])
    boxes = np.stack([origins, origins + [tile.shape for tile in tiles]], axis=2)
    which = np.array([which for which, *_ in parts], np.int64)
    ends = np.array([part[1:3] for part in parts], np.int64).reshape(-1, 2, ndim)
    cut = np.ascontiguousarray(ends.swapaxes(1, 2) + origins[which][:, :, None])
    as_run(fill_boxes)(
        boxes,
        first_rows,
        firsts,
        rows,
        stretches,
        which,
        cut,
        np.array([place for *_, place in parts], np.int64).reshape(-1, ndim),
        table,
        out.reshape(-1),
        np.array(out.strides) // out.itemsize,
    )
    assert np.array_equal(out, expected)
