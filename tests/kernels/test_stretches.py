"""Labels as stretches, of whole tiles and of what is kept near their borders, against the voxels."""

import itertools
import math

import naive
import numba
import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stretches import flat, grouped, labels_of_any_kind, near_borders, painted, stretches_of, tile_of
from traced import traced

from blockbuster.grid import TileGrid, relative_box
from blockbuster.kernels.stretches import FIRST_HASH_SIZE, StretchFinder, StretchGroup, row_numbers

DTYPES = ["int8", "uint8", "int16", ">i4", "uint32", "int64", "uint64"]
SPARSE = np.array([0, 2**41, 5, 2**62 + 1, 2**40], np.int64)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def box_of(ends):
    return tuple(slice(start, stop) for start, stop in ends)


def parts_of(length):
    return st.tuples(st.integers(0, length - 1), st.integers(1, length)).map(
        lambda ends: (min(ends[0], ends[1] - 1), max(ends[0] + 1, ends[1]))
    )


def boxes_in(shape):
    return st.tuples(*map(parts_of, shape)).map(box_of)


def moved(box, origin):
    return tuple(slice(part.start + o, part.stop + o) for part, o in zip(box, origin, strict=True))


def whole_box(labels):
    return tuple(slice(0, n) for n in labels.shape)


def find(labels, finder=None):
    return (finder or StretchFinder()).find(labels, whole_box(labels))


def check_found(labels, tile, count):
    expected, n_labels = naive.number_by_appearance(labels)
    rows, stretches = stretches_of(flat(expected))
    assert count == n_labels
    assert (tile.rows.tolist(), tile.stretches.tolist()) == (rows.tolist(), stretches.tolist())
    assert (tile.box, tile.rows.dtype, tile.stretches.dtype) == (whole_box(labels), np.int64, np.int32)


@settings(max_examples=examples(150))
@given(labels_of_any_kind())
@example(np.array([[2**63 - 1, 2**63 - 2, 0, 2**63 - 1]]))
@example(np.array([2**64 - 1, 2**63, 2**64 - 1, 0, 1], np.uint64))
@example(np.array([127, -128, 0, 1], np.int8).view(np.uint8).astype(">u2"))
def test_labels_are_numbered_by_first_appearance(labels):
    before = labels.copy()
    check_found(labels, *find(labels))
    assert np.array_equal(labels, before)


@settings(max_examples=examples(60))
@given(st.lists(labels_of_any_kind(), min_size=2, max_size=4), st.sampled_from([2, 4, FIRST_HASH_SIZE]))
def test_one_finder_takes_one_array_after_another(arrays, first_size):
    """What it found before stays as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.kernels.stretches.FIRST_HASH_SIZE", first_size)
        finder = StretchFinder()
        found = [find(labels, finder) for labels in arrays]
    for labels, (tile, count) in zip(arrays, found, strict=True):
        check_found(labels, tile, count)


@settings(max_examples=examples(100))
@given(seeds, shapes, st.sampled_from([2, 4, 8]), st.sampled_from([2, 4]), st.integers(1, 400), st.booleans())
def test_table_and_room_grow_in_the_middle_of_a_row(seed, shape, first_size, growth, largest, is_sparse):
    random = np.random.default_rng(seed)
    labels = random.integers(0, largest, shape, np.uint64, endpoint=True)
    if is_sparse:
        labels *= random.integers(1, 2**63 // largest, dtype=np.uint64, endpoint=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.kernels.stretches.FIRST_HASH_SIZE", first_size)
        patch.setattr("blockbuster.kernels.stretches.HASH_GROWTH", growth)
        found = find(labels)
    check_found(labels, *found)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 4), (2, 0, 3, 4), (2, 3, 1, 4, 0)])
def test_no_voxels_have_no_labels(shape):
    tile, count = find(np.zeros(shape, np.int64))
    assert (count, tile.stretches.shape) == (0, (0, 3))
    assert not tile.rows.any()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64"])
def test_background_alone_has_no_stretches(dtype):
    tile, count = find(np.zeros((2, 3, 4), dtype))
    assert (count, tile.stretches.shape, tile.rows.tolist()) == (0, (0, 3), [0] * 7)


@pytest.mark.parametrize("n", [1, FIRST_HASH_SIZE // 2, FIRST_HASH_SIZE // 2 + 1, FIRST_HASH_SIZE, 5000])
@pytest.mark.parametrize("width", [1, 10, 6000])
def test_hash_table_grows_and_keeps_its_ids(n, width):
    random = np.random.default_rng(n)
    ids = random.choice(2**62, n, replace=False).astype(np.uint64) + np.uint64(2**63)
    labels = ids[np.concatenate([random.permutation(n), random.integers(0, n, 500)])]
    labels.resize((-(-len(labels) // width), width))
    tile, count = find(labels)
    assert count == n
    check_found(labels, tile, count)


@pytest.mark.parametrize("spread", [1, 2, 3, 2**32, 2**40, (2**63 - 1) // 20_000])
def test_ids_that_follow_a_pattern_are_all_found(spread):
    """Every one of them ends in the same bits."""
    labels = np.arange(1, 20_001, dtype=np.uint64) * np.uint64(spread)
    tile, count = find(labels)
    assert count == 20_000
    assert np.array_equal(tile.stretches, np.arange(20_000)[:, None] + [0, 1, 1])


@pytest.mark.parametrize("factor", [1, 2**40])
def test_more_labels_than_uint16_holds_are_counted(factor):
    labels = np.arange(1, 70_001).reshape(7, 10_000)
    tile, count = find(labels * factor)
    assert count == 70_000
    assert np.array_equal(tile.stretches[:, 2], labels.ravel())
    assert tile.rows.tolist() == list(range(0, 70_001, 10_000))


@pytest.mark.parametrize("width", [FIRST_HASH_SIZE - 1, FIRST_HASH_SIZE, FIRST_HASH_SIZE + 1, 5000])
def test_rows_of_more_stretches_than_there_is_room_for_at_first_are_whole(width):
    labels = np.tile(np.arange(1, width + 1) % 200 + 1, (3, 1))
    tile, count = find(labels)
    assert count == min(width, 200)
    assert len(tile.stretches) == 3 * width
    check_found(labels, tile, count)


def test_room_that_was_not_needed_is_given_back():
    labels = np.ones((40, 1), int)
    tile, _ = find(labels)
    near = near_borders(labels, whole_box(labels), whole_box(labels), [(20, 20), (0, 0)])
    for found in (tile, near, tile.clipped((slice(0, 40), slice(0, 1)))):
        assert (found.stretches.base is None, found.stretches.nbytes) == (True, 40 * 12)


def peak_bytes(labels):
    return traced(lambda: find(labels)).peak


@pytest.mark.parametrize("largest", [98_340_797, 2**31, 2**63 - 1])
def test_memory_does_not_go_by_the_largest_id(largest):
    labels = np.zeros((256, 256), np.int64)
    labels[3, 5] = 1
    small = peak_bytes(labels)
    labels[200, 7] = largest
    assert peak_bytes(labels) <= small + 2**12


def test_memory_does_not_go_by_the_number_of_voxels():
    """A stretch for each row, in room that was twice as large."""
    labels = np.ones((2000, 64), np.uint32)
    first, per_row = (12 + 16) * FIRST_HASH_SIZE, 8 + 12 + 3 * 12
    assert peak_bytes(labels) <= first + 2000 * per_row + 2**13 < labels.nbytes / 2


def test_memory_of_a_million_sparse_ids_goes_by_their_number():
    """A table is more than an eighth full after it grew fourfold, and the one before it is still there."""
    n = 20_000 if numba.config.DISABLE_JIT else 1_000_000
    labels = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(2**63 // n)
    per_place, per_stretch, per_change = 8 + 8, 3 * 4, 4
    places = 2 ** math.floor(math.log2(8 * n))
    assert peak_bytes(labels) <= per_place * places * 5 // 4 + (2 * per_stretch + per_change) * n + 2**17


@st.composite
def tiles(draw):
    """What fn returned for a tile somewhere in an image, where its core is, and how deep others look into it."""
    shape = draw(shapes)
    inner = draw(boxes_in(shape))
    origin = draw(st.tuples(*[st.integers(0, 2**33)] * len(shape)))
    depths = draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=len(shape), max_size=len(shape)))
    dtype = draw(st.sampled_from(["sparse", *DTYPES]))
    labels = np.random.default_rng(draw(seeds)).integers(0, draw(st.integers(1, 5)), shape)
    labels = SPARSE[labels] if dtype == "sparse" else labels.astype(dtype)
    labels = draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray]))(labels)
    return labels, inner, origin, depths


def expected_near_borders(labels, inner, depths):
    """Ids, by appearance in the core, of labels that touch a border, and where some neighbour sees them."""
    names = list(dict.fromkeys(n for n in labels[inner].ravel().tolist() if n))
    touching, is_seen = set(), np.zeros(labels.shape, bool)
    places = np.indices(labels.shape)
    for axis, (low, high) in enumerate(depths):
        if low:
            touching |= set(labels[inner].take(0, axis).ravel().tolist())
            is_seen |= places[axis] < inner[axis].start + low
        if high:
            touching |= set(labels[inner].take(-1, axis).ravel().tolist())
            is_seen |= places[axis] >= inner[axis].stop - high
    ids = [names.index(n) + 1 if n and n in touching else 0 for n in labels.ravel().tolist()]
    return np.reshape(ids, labels.shape), is_seen


@settings(max_examples=examples(200))
@given(tiles())
@example((np.ones((3, 3), np.uint8), (slice(0, 3),) * 2, (0, 0), [(1, 1), (1, 1)]))
@example((np.zeros((2, 3), np.uint8), (slice(0, 2), slice(0, 3)), (0, 0), [(1, 1), (0, 0)]))
@example((np.ones((7,), np.uint8), (slice(1, 6),), (9,), [(0, 0)]))
@example((np.array([5, 5, 7, 7, 7, 5, 8]), (slice(1, 6),), (9,), [(2, 2)]))
@example((np.tile([[1, 0, 1, 2, 2, 0, 1]], (5, 1)), (slice(1, 4), slice(1, 6)), (0, 9), [(1, 1), (1, 0)]))
def test_labels_at_borders_are_kept_as_far_as_a_neighbour_sees(tile):
    """And no farther, but for the rest of a stretch of which a neighbour sees a part."""
    labels, inner, origin, depths = tile
    region = moved(whole_box(labels), origin)
    found = near_borders(labels, region, moved(inner, origin), depths)
    ids, is_seen = expected_near_borders(labels, inner, depths)
    rows, stretches = stretches_of(flat(ids))
    of_row = [
        [[a, b, n] for a, b, n in stretches[rows[r] : rows[r + 1]].tolist() if is_seen_in_row[a:b].any()]
        for r, is_seen_in_row in enumerate(flat(is_seen))
    ]
    assert found.box == region
    assert found.rows.tolist() == [0, *itertools.accumulate(map(len, of_row))]
    assert found.stretches.tolist() == list(itertools.chain(*of_row))
    assert (found.rows.dtype, found.stretches.dtype) == (np.int64, np.int32)
    assert np.array_equal(painted(found)[is_seen], ids[is_seen])


@settings(max_examples=examples(100))
@given(st.data(), shapes)
def test_a_part_of_the_stretches_stands_for_a_part_of_the_voxels(data, shape):
    labels = np.random.default_rng(data.draw(seeds)).integers(0, 4, shape)
    origin = data.draw(st.tuples(*[st.integers(0, 2**33)] * len(shape)))
    part = data.draw(boxes_in(shape))
    found = tile_of(labels, origin).clipped(moved(part, origin))
    rows, stretches = stretches_of(flat(labels[part]))
    assert found.box == moved(part, origin)
    assert (found.rows.tolist(), found.stretches.tolist()) == (rows.tolist(), stretches.tolist())


@settings(max_examples=examples(50))
@given(st.data(), shapes)
def test_a_part_of_a_part_is_the_same_as_the_part_at_once(data, shape):
    labels = np.random.default_rng(data.draw(seeds)).integers(0, 3, shape)
    outer = data.draw(boxes_in(shape))
    inner = data.draw(boxes_in([part.stop - part.start for part in outer]))
    part = moved(inner, [cut.start for cut in outer])
    whole = tile_of(labels, (0,) * len(shape))
    assert painted(whole.clipped(outer).clipped(part)).tolist() == painted(whole.clipped(part)).tolist()
    assert relative_box(part, outer) == inner


@settings(max_examples=examples(50))
@given(seeds, shapes, st.lists(st.booleans(), min_size=4, max_size=4))
def test_labels_that_are_not_kept_become_background(seed, shape, is_kept):
    labels = np.random.default_rng(seed).integers(0, 4, shape)
    found = tile_of(labels, (0,) * len(shape)).filtered(np.array(is_kept))
    rows, stretches = stretches_of(flat(np.where(np.array(is_kept)[labels], labels, 0)))
    assert (found.rows.tolist(), found.stretches.tolist()) == (rows.tolist(), stretches.tolist())


@settings(max_examples=examples(50))
@given(seeds, shapes, st.integers(0, 3))
def test_ids_of_a_part_are_numbered_anew_by_first_appearance(seed, shape, more):
    labels = np.random.default_rng(seed).integers(0, 9, shape)
    tile = tile_of(labels, (0,) * len(shape))
    lookup, count = tile.numbered(8 + more)
    expected, n_ids = naive.number_by_appearance(labels)
    assert count == n_ids
    assert painted(tile).tolist() == expected.tolist()
    new_of = dict(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert lookup.tolist() == [new_of.get(old, 0) for old in range(9 + more)]


@given(st.data(), shapes)
def test_rows_are_numbered_as_they_lie_in_memory(data, shape):
    part = data.draw(boxes_in(shape))
    numbers = np.arange(np.prod(shape[:-1], dtype=int)).reshape(shape[:-1])
    assert row_numbers(shape, part).tolist() == numbers[part[:-1]].ravel().tolist()


@pytest.mark.parametrize(
    "part", [(slice(1, 1), slice(0, 2), slice(0, 4)), (slice(0, 3), slice(2, 2), slice(0, 4))]
)
def test_a_part_without_rows_has_no_numbers(part):
    assert row_numbers((3, 2, 4), part).tolist() == []


# Per number of axes: the longest tile, and the most tiles along an axis.
EXTENTS = {1: (9, 4), 2: (5, 3), 3: (4, 2), 4: (3, 2)}


@st.composite
def groups(draw):
    """Some tiles of a grid, in any order, and the ids of their voxels; in some, all are background."""
    ndim = draw(st.integers(1, 4))
    longest, most = EXTENTS[ndim]
    lengths = st.lists(st.integers(1, longest), min_size=1, max_size=most).map(tuple)
    grid = TileGrid(draw(st.tuples(*[lengths] * ndim)), (0,) * ndim)
    origin = draw(st.tuples(*[st.sampled_from([0, 2**40])] * ndim))
    numbers = draw(
        st.lists(st.integers(0, grid.n_tiles - 1), min_size=1, max_size=min(6, grid.n_tiles), unique=True)
    )
    random = np.random.default_rng(draw(seeds))
    arrays, boxes = [], []
    for number in numbers:
        core = grid.core(grid.index(number))
        largest = int(random.choice([0, 1, 3, 2**31 - 1]))
        ids = random.integers(0, largest, 4, endpoint=True)
        arrays.append(ids[random.integers(0, 4, [part.stop - part.start for part in core])])
        boxes.append(moved(core, origin))
    return arrays, boxes


ENDS = [(0, 4), (4, 5), (9, 10)]


def group_of(arrays, boxes):
    return grouped(*(tile_of(ids, [part.start for part in box]) for ids, box in zip(arrays, boxes, strict=True)))


def check_tiles(group, arrays, boxes):
    found = list(group.tiles())
    assert [tile.box for tile in found] == list(boxes)
    for tile, ids in zip(found, arrays, strict=True):
        rows, stretches = stretches_of(flat(ids))
        assert (tile.rows.tolist(), tile.stretches.tolist()) == (rows.tolist(), stretches.tolist())


@settings(max_examples=examples(100))
@given(groups())
def test_tiles_that_were_put_together_come_apart_again(drawn):
    check_tiles(group_of(*drawn), *drawn)


@settings(max_examples=examples(150))
@given(groups(), st.sampled_from([np.uint8, np.uint16, np.int64]))
@example(([np.zeros((2, 3), int)], [box_of([(0, 2), (0, 3)])]), np.int64)
@example(([np.array(ids) for ids in ([1, 2, 0, 2], [0], [7])], [box_of([ends]) for ends in ENDS]), np.int64)
def test_a_group_comes_back_from_its_columns(drawn, narrow):
    group = group_of(*drawn)
    columns = group.columns()
    # What is written is not negative, and small: the gap is counted from the stretch before, the length is.
    assert all(column.min(initial=0) >= 0 for column in columns.values())
    for name in ("counts", "gaps", "lengths"):
        assert columns[name].max(initial=0) <= max(ids.shape[-1] for ids in drawn[0])
        columns[name] = columns[name].astype(narrow)
    back = StretchGroup.from_columns(group.boxes, columns)
    for name in ("boxes", "rows", "stretches"):
        assert np.array_equal(getattr(back, name), getattr(group, name))
    assert (back.rows.dtype, back.stretches.dtype) == (np.int64, np.int32)
    check_tiles(back, *drawn)


def test_columns_are_stretches_per_row_gap_length_and_id():
    tile = tile_of(np.array([[0, 4, 4, 0, 9, 7], [0, 0, 0, 0, 0, 0], [4, 0, 0, 7, 7, 7]]), (0, 0))
    columns = grouped(tile).columns()
    assert {name: column.tolist() for name, column in columns.items()} == {
        "counts": [3, 0, 2],
        "gaps": [1, 1, 0, 0, 2],
        "lengths": [2, 1, 1, 1, 3],
        "ids": [4, 9, 7, 4, 7],
    }


def dense_ids(arrays):
    """Ids small enough for a table, tile by tile."""
    return [naive.number_by_appearance(ids)[0] for ids in arrays]


def draw_table(data, n, dtype):
    random = np.random.default_rng(data.draw(seeds))
    return random.integers(0, np.iinfo(dtype).max, n, dtype, endpoint=True)


def paint(out, arrays, firsts, table, where):
    """Put the voxels of each tile there where `where` says, or nowhere."""
    for k, (ids, first) in enumerate(zip(arrays, firsts, strict=True)):
        for voxel in np.ndindex(ids.shape):
            there = where(k, voxel)
            if ids[voxel] and there is not None:
                out[there] = table[first + ids[voxel]]


@settings(max_examples=examples(150))
@given(groups(), st.data(), st.sampled_from([np.int32, np.int64]))
def test_a_box_is_filled_as_if_voxel_by_voxel(drawn, data, dtype):
    arrays, boxes = dense_ids(drawn[0]), drawn[1]
    firsts = data.draw(st.lists(st.integers(0, 40), min_size=len(boxes), max_size=len(boxes)))
    table = draw_table(data, 41 + max(ids.size for ids in arrays), dtype)
    hull = [
        (max(0, min(part.start for part in parts) - 1), max(part.stop for part in parts) + 1)
        for parts in zip(*boxes, strict=True)
    ]
    box = moved(data.draw(boxes_in([stop - start for start, stop in hull])), [start for start, _ in hull])
    shape = [part.stop - part.start for part in box]

    def where(k, voxel):
        place = [x + own.start - part.start for x, own, part in zip(voxel, boxes[k], box, strict=True)]
        return tuple(place) if all(0 <= x < n for x, n in zip(place, shape, strict=True)) else None

    out, expected = np.full(shape, 99, dtype), np.full(shape, 99, dtype)
    paint(expected, arrays, firsts, table, where)
    group_of(arrays, boxes).fill(np.array(firsts, np.int64), box, table, out)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("gap", [0, 1, 4])
def test_tiles_beside_a_box_are_left_out(axes, gap):
    tile = tile_of(np.full((3, 3, 3), 7), (0, 0, 0))
    box = tuple(slice(3 + gap, 6 + gap) if axis in axes else slice(0, 3) for axis in range(3))
    out = np.full((3, 3, 3), 99)
    grouped(tile).fill(np.zeros(1, np.int64), box, np.arange(8), out)
    assert (out == 99).all()


@settings(max_examples=examples(60))
@given(groups(), st.data(), st.sampled_from([np.int32, np.int64]))
def test_a_box_filled_part_by_part_is_the_same_as_at_once(drawn, data, dtype):
    arrays, boxes = dense_ids(drawn[0]), drawn[1]
    firsts = np.array(data.draw(st.lists(st.integers(0, 40), min_size=len(boxes), max_size=len(boxes))))
    table = draw_table(data, 41 + max(ids.size for ids in arrays), dtype)
    group = group_of(arrays, boxes)
    ends = group.boxes[:, :, 0].min(axis=0).tolist(), group.boxes[:, :, 1].max(axis=0).tolist()
    whole = box_of(zip(*ends, strict=True))
    at_once = np.zeros([part.stop - part.start for part in whole], dtype)
    group.fill(firsts, whole, table, at_once)
    axis = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, at_once.shape[axis]))
    parts = []
    for start, stop in ((0, cut), (cut, at_once.shape[axis])):
        inner = list(whole)
        inner[axis] = slice(whole[axis].start + start, whole[axis].start + stop)
        parts.append(np.zeros([part.stop - part.start for part in inner], dtype))
        group.fill(firsts, tuple(inner), table, parts[-1])
    assert np.array_equal(np.concatenate(parts, axis), at_once)


@settings(max_examples=examples(100))
@given(groups(), st.data(), st.sampled_from([np.int32, np.int64]))
def test_parts_of_tiles_are_placed_as_if_voxel_by_voxel(drawn, data, dtype):
    """Anywhere, and where they overlap, the last is seen; an empty part is nowhere."""
    arrays, boxes = dense_ids(drawn[0]), drawn[1]
    firsts = data.draw(st.lists(st.integers(0, 40), min_size=len(boxes), max_size=len(boxes)))
    table = draw_table(data, 41 + max(ids.size for ids in arrays), dtype)
    lengths = zip(*(ids.shape for ids in arrays), strict=True)
    shape = [max(axis) + data.draw(st.integers(0, 2)) for axis in lengths]
    cuts, places = [], []
    for ids in arrays:
        cut = data.draw(boxes_in(ids.shape))
        ends = zip(cut, shape, strict=True)
        places.append([data.draw(st.integers(0, n - (part.stop - part.start))) for part, n in ends])
        is_empty = data.draw(st.sampled_from([False, False, True]))
        cuts.append([(part.start, part.start if is_empty else part.stop) for part in cut])

    def where(k, voxel):
        if not all(start <= x < stop for x, (start, stop) in zip(voxel, cuts[k], strict=True)):
            return None
        return tuple(x - start + p for x, (start, _), p in zip(voxel, cuts[k], places[k], strict=True))

    out, expected = np.full(shape, 99, dtype), np.full(shape, 99, dtype)
    paint(expected, arrays, firsts, table, where)
    group = group_of(arrays, boxes)
    origins = group.boxes[:, :, :1]
    tiles = np.arange(len(boxes))
    group.place(np.array(firsts, np.int64), tiles, np.array(cuts) + origins, np.array(places), table, out)
    assert np.array_equal(out, expected)


@settings(max_examples=examples(60))
@given(groups(), st.data())
def test_outermost_planes_of_tiles_are_placed_beside_each_other(drawn, data):
    """As the seams of a brick need them: low and high plane of each, one after another."""
    arrays, boxes = dense_ids(drawn[0]), drawn[1]
    axis = data.draw(st.integers(0, arrays[0].ndim - 1))
    shape = np.max([ids.shape for ids in arrays], axis=0)
    shape[axis] = 2 * len(arrays)
    out, expected = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    group = group_of(arrays, boxes)
    for side in (0, 1):
        cut, places = group.boxes.copy(), np.zeros((len(arrays), len(shape)), int)
        cut[:, axis, 1 - side] = cut[:, axis, side] + (-1 if side else 1)
        places[:, axis] = 2 * np.arange(len(arrays)) + side
        tiles, table = np.arange(len(arrays)), np.arange(2**10, dtype=np.int32)
        group.place(np.zeros(len(arrays), int), tiles, cut, places, table, out)
        for k, ids in enumerate(arrays):
            plane = ids.take([-side], axis)
            there = [slice(0, n) for n in plane.shape]
            there[axis] = slice(2 * k + side, 2 * k + side + 1)
            expected[tuple(there)] = plane
    assert np.array_equal(out, expected)
