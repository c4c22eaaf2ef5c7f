"""What is kept of a tile near its borders, against the voxels that it stands for."""

import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runs import dense_of, runs_of

from blockbuster.grid import relative_box
from blockbuster.seams.labels import compact_labels
from blockbuster.seams.runs import FIRST_RUNS_PER_ROW, LabelRuns, find_border_runs, row_numbers

# Run as plain Python, the product that mixes the bits of a sparse id wraps with a warning; it is meant to.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")

FIRST = 1000
DTYPES = ["int8", "uint8", "int16", ">i4", "uint32", "int64", "uint64"]
SPARSE = np.array([0, 2**41, 5, 2**62 + 1, 2**40], np.int64)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def box_of(ends):
    return tuple(slice(start, stop) for start, stop in ends)


def parts_of(length):
    return st.tuples(st.integers(0, length - 1), st.integers(1, length)).map(
        lambda ends: (min(ends[0], ends[1] - 1), max(ends[0] + 1, ends[1]))
    )


def boxes_in(shape):
    return st.tuples(*map(parts_of, shape)).map(box_of)


@st.composite
def tiles(draw):
    """What fn returned for a tile somewhere in an image, where its core is, and how deep others look into it."""
    shape = draw(shapes)
    inner = draw(boxes_in(shape))
    origin = draw(st.tuples(*[st.integers(0, 2**33)] * len(shape)))
    depths = draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=len(shape), max_size=len(shape)))
    dtype = draw(st.sampled_from(["sparse", *DTYPES]))
    labels = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, draw(st.integers(1, 5)), shape)
    labels = SPARSE[labels] if dtype == "sparse" else labels.astype(dtype)
    labels = draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray]))(labels)
    return labels, inner, origin, depths


def moved(box, origin):
    return tuple(slice(part.start + o, part.stop + o) for part, o in zip(box, origin, strict=True))


def border_runs(labels, inner, origin, depths, dtype=np.uint16):
    region = moved(tuple(slice(0, n) for n in labels.shape), origin)
    ids = np.empty(labels[inner].shape, dtype)
    compact_labels(labels[inner], ids, FIRST)
    return find_border_runs(labels, ids, FIRST, region, moved(inner, origin), depths)


def expected_near_borders(labels, inner, depths):
    """Ids, by appearance in the core, of labels that touch a border, where some neighbour sees them."""
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
    return np.where(is_seen, np.reshape(ids, labels.shape), 0)


def flat(labels):
    return labels.reshape(-1, labels.shape[-1])


def painted(runs):
    """The voxels of the box, with their ids."""
    return dense_of(runs.rows, runs.runs, (len(runs.rows) - 1, runs.shape[-1])).reshape(runs.shape)


def label_runs(labels, origin):
    box = tuple(slice(o, o + n) for o, n in zip(origin, labels.shape, strict=True))
    return LabelRuns(box, *runs_of(flat(labels)))


@settings(max_examples=examples(150))
@given(tiles(), st.sampled_from([np.uint16, np.uint32]))
@example((np.ones((3, 3), np.uint8), (slice(0, 3),) * 2, (0, 0), [(1, 1), (1, 1)]), np.uint16)
@example((np.zeros((2, 3), np.uint8), (slice(0, 2), slice(0, 3)), (0, 0), [(1, 1), (0, 0)]), np.uint16)
@example((np.ones((7,), np.uint8), (slice(1, 6),), (9,), [(0, 0)]), np.uint16)
def test_labels_at_borders_are_kept_as_far_as_a_neighbour_sees_and_no_farther(tile, dtype):
    labels, inner, origin, depths = tile
    found = border_runs(*tile, dtype)
    expected = expected_near_borders(labels, inner, depths)
    rows, runs = runs_of(flat(expected))
    assert found.shape == labels.shape
    assert tuple(part.start for part in found.box) == origin
    assert found.rows.tolist() == rows.tolist()
    assert found.runs.tolist() == runs.tolist()
    assert found.runs.dtype == np.int32


@pytest.mark.parametrize("width", [FIRST_RUNS_PER_ROW - 1, FIRST_RUNS_PER_ROW, FIRST_RUNS_PER_ROW + 1, 50])
def test_rows_of_more_runs_than_there_is_room_for_at_first_are_whole(width):
    labels = np.tile(np.arange(1, width + 1), (3, 1))
    found = border_runs(labels, (slice(0, 3), slice(0, width)), (0, 0), [(2, 1), (0, 0)], np.uint32)
    assert np.array_equal(painted(found), labels)
    assert len(found.runs) == 3 * width


def test_room_that_was_not_needed_is_given_back():
    found = border_runs(np.ones((40, 1), int), (slice(0, 40), slice(0, 1)), (0, 0), [(20, 20), (0, 0)])
    assert (found.runs.base is None, found.runs.nbytes) == (True, 40 * 12)


def test_ids_that_fill_their_dtype_are_counted_from_one():
    labels = np.array([3, 0, 3, 9])
    ids = np.array([2**16 - 2, 0, 2**16 - 2, 2**16 - 1], np.uint16)
    found = find_border_runs(labels, ids, 2**16 - 3, (slice(0, 4),), (slice(0, 4),), [(1, 1)])
    assert found.runs.tolist() == [[0, 1, 1], [3, 4, 2]]


@settings(max_examples=examples(100))
@given(st.data(), shapes)
def test_a_part_of_the_runs_stands_for_a_part_of_the_voxels(data, shape):
    labels = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, 4, shape)
    origin = data.draw(st.tuples(*[st.integers(0, 2**33)] * len(shape)))
    part = data.draw(boxes_in(shape))
    found = label_runs(labels, origin).clipped(moved(part, origin))
    rows, runs = runs_of(flat(labels[part]))
    assert found.box == moved(part, origin)
    assert (found.rows.tolist(), found.runs.tolist()) == (rows.tolist(), runs.tolist())


@settings(max_examples=examples(50))
@given(st.data(), shapes)
def test_a_part_of_a_part_is_the_same_as_the_part_at_once(data, shape):
    labels = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, 3, shape)
    outer = data.draw(boxes_in(shape))
    inner = data.draw(boxes_in([part.stop - part.start for part in outer]))
    part = moved(inner, [cut.start for cut in outer])
    whole = label_runs(labels, (0,) * len(shape))
    assert painted(whole.clipped(outer).clipped(part)).tolist() == painted(whole.clipped(part)).tolist()
    assert relative_box(part, outer) == inner


@settings(max_examples=examples(50))
@given(st.integers(0, 2**32), shapes, st.lists(st.booleans(), min_size=4, max_size=4))
def test_labels_that_are_not_kept_become_background(seed, shape, is_kept):
    labels = np.random.default_rng(seed).integers(0, 4, shape)
    found = label_runs(labels, (0,) * len(shape)).filtered(np.array(is_kept))
    rows, runs = runs_of(flat(np.where(np.array(is_kept)[labels], labels, 0)))
    assert (found.rows.tolist(), found.runs.tolist()) == (rows.tolist(), runs.tolist())


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
