"""The kernels over stretches, against the voxels that the stretches stand for."""

import itertools

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stretches import dense_of, stretches_of

from blockbuster.kernels.agreement import rows_before
from blockbuster.kernels.comparing import (
    FACE,
    INSIDE,
    MIDDLE,
    OUTSIDE,
    clip_stretches,
    collect_contacts,
    compare_tiles,
    find_pieces,
    keep_border,
    measure_overlaps,
    note_pairs,
    number_stretches,
)

# `as_run` is the same for all examples.
for_all = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
planes = st.tuples(st.integers(1, 5), st.integers(1, 7))


def random_labels(seed, shape, largest=3):
    return np.random.default_rng(seed).integers(0, largest, shape, endpoint=True)


@for_all
@given(seeds, planes, st.integers(0, 5))
def test_ids_are_numbered_anew_by_first_appearance(as_run, seed, shape, more):
    labels = random_labels(seed, shape, 9)
    rows, stretches = stretches_of(labels)
    lookup = np.zeros(10 + more, np.int32)
    expected, n_ids = naive.number_by_appearance(labels)
    assert as_run(number_stretches)(stretches, lookup) == n_ids
    assert dense_of(rows, stretches, shape).tolist() == expected.tolist()
    new_of = dict(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert lookup.tolist() == [new_of.get(old, 0) for old in range(10 + more)]


@st.composite
def bordered(draw):
    """Ids, those of the core, what rows are, the core along the last axis, seen ends, and the middle."""
    shape = draw(planes)
    labels = random_labels(draw(seeds), shape, draw(st.integers(1, 5)))
    lookup = np.array([0, *draw(st.permutations([0, 0, 1, 2, 3]))], np.int32)
    places = st.sampled_from([OUTSIDE, INSIDE, FACE])
    rows = [draw(places) | draw(st.sampled_from([0, MIDDLE])) for _ in range(shape[0])]
    start = draw(st.integers(0, shape[1] - 1))
    window = start, draw(st.integers(start + 1, shape[1]))
    sides = draw(st.tuples(st.booleans(), st.booleans()))
    return labels, lookup, rows, window, sides, sorted(draw(st.tuples(*[st.integers(0, shape[1])] * 2)))


@for_all
@given(bordered())
@example((np.array([[1, 2, 3]]), np.arange(4, dtype=np.int32), [INSIDE], (1, 2), (True, True), [0, 0]))
@example((np.array([[1, 2, 3]]), np.arange(4, dtype=np.int32), [FACE], (1, 2), (False, False), [0, 0]))
def test_labels_that_touch_a_border_are_kept_but_for_what_lies_in_the_middle(as_run, drawn):
    labels, lookup, places, (first, last), sides, middle = drawn
    ids = lookup[labels]
    touching = set()
    for row, place in zip(ids.tolist(), places, strict=True):
        if place & FACE:
            touching |= set(row[first:last])
        elif place & INSIDE:
            touching |= {row[first]} if sides[0] else set()
            touching |= {row[last - 1]} if sides[1] else set()
    expected_rows, expected = [0], []
    # Labels that are in the halo alone end a stretch as well.
    whole_rows, whole = stretches_of(labels)
    for row, place in enumerate(places):
        for start, stop, label in whole[whole_rows[row] : whole_rows[row + 1]].tolist():
            is_hidden = place & MIDDLE and all(middle[0] <= x < middle[1] for x in range(start, stop))
            if lookup[label] and lookup[label] in touching and not is_hidden:
                expected.append([start, stop, lookup[label]])
        expected_rows.append(len(expected))
    rows, stretches, is_kept = np.empty_like(whole_rows), np.empty_like(whole), np.zeros(len(lookup), bool)
    n = as_run(keep_border)(
        (whole_rows, whole),
        lookup,
        np.array(places, np.uint8),
        np.array([first, last]),
        np.array(sides),
        np.array(middle),
        is_kept,
        rows,
        stretches,
    )
    assert rows.tolist() == expected_rows
    assert stretches[:n].tolist() == expected
    assert set(np.flatnonzero(is_kept).tolist()) == touching - {0}


@for_all
@given(seeds, planes, st.data())
def test_clipped_stretches_are_those_of_the_part(as_run, seed, shape, data):
    labels = random_labels(seed, shape)
    taken = np.array(data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=4)), np.int64)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, shape[1])] * 2)))
    whole = stretches_of(labels)
    rows, stretches = np.empty(len(taken) + 1, np.int64), np.empty((len(taken) * shape[1], 3), np.int32)
    n = as_run(clip_stretches)(whole, taken, np.array([start, stop]), rows, stretches)
    expected = stretches_of(labels[taken, start:stop])
    assert rows.tolist() == expected[0].tolist()
    assert stretches[:n].tolist() == expected[1].tolist()


def contacts_by_voxel(a, b, row_pairs, windows):
    """Ids that face each other within the windows, with the stretches that they are of."""
    (start, stop), (other_start, _) = windows
    found = set()
    for row, other, slack in row_pairs:
        for x in range(start, stop):
            for step in range(-slack, slack + 1):
                y = x + step
                if start <= y < stop and a[row, x] and b[other, y - start + other_start]:
                    found.add((stretch_at(a, row, x), stretch_at(b, other, y - start + other_start)))
    return found


def stretch_at(labels, row, x):
    rows, stretches = stretches_of(labels)
    return next(i for i in range(rows[row], rows[row + 1]) if stretches[i, 0] <= x < stretches[i, 1])


@st.composite
def facing(draw):
    shape = draw(planes)
    a, b = random_labels(draw(seeds), (2, *shape), draw(st.integers(1, 3)))
    row = st.integers(0, shape[0] - 1)
    row_pairs = draw(st.lists(st.tuples(row, row, st.integers(0, 1)), max_size=5))
    length = draw(st.integers(1, shape[1]))
    starts = draw(st.tuples(*[st.integers(0, shape[1] - length)] * 2))
    windows = np.array([[start, start + length] for start in starts])
    return a, b, np.array(row_pairs, np.int64).reshape(-1, 3), windows


@for_all
@given(facing(), st.integers(0, 60))
def test_contacts_are_stretches_with_neighbouring_voxels(as_run, drawn, room):
    a, b, row_pairs, windows = drawn
    contacts = np.empty((room, 4), np.int64)
    n = as_run(collect_contacts)(stretches_of(a), stretches_of(b), row_pairs, windows, contacts)
    expected = contacts_by_voxel(a, b, row_pairs.tolist(), windows.tolist())
    if n <= room:
        assert {(i, j) for i, j, _, _ in contacts[:n].tolist()} == expected
        for i, j, row, x in contacts[:n].tolist():
            assert windows[0, 0] <= x < windows[0, 1]
            assert stretch_at(a, row, x) == i
            near = [(other, x + step) for r, other, slack in row_pairs for step in (-slack, 0, slack) if r == row]
            shift = windows[1, 0] - windows[0, 0]
            places = [(other, y + shift) for other, y in near if windows[0, 0] <= y < windows[0, 1]]
            assert any(b[place] and stretch_at(b, *place) == j for place in places)
    assert (n > 0) == bool(expected)


def test_no_rows_and_no_stretches_are_nothing_to_do(as_run):
    no_rows, none = np.zeros(0, np.int64), (np.zeros(1, np.int64), np.empty((0, 3), np.int32))
    rows, window, contacts = np.full(1, 9), np.array([0, 0]), np.empty((1, 4), np.int64)
    assert as_run(number_stretches)(none[1], np.zeros(3, np.int32)) == 0
    assert as_run(clip_stretches)(none, no_rows, window, rows, none[1]) == rows[0] == 0
    rows[0] = 9
    ends = window, np.array([True, True]), window
    core = np.zeros(1, np.int32), np.zeros(0, np.uint8), *ends, np.zeros(1, bool)
    assert as_run(keep_border)(none, *core, rows, none[1]) == rows[0] == 0
    facing = np.empty((0, 3), np.int64), np.zeros((2, 2), np.int64)
    assert as_run(collect_contacts)(none, none, *facing, contacts) == 0
    beside = np.empty((0, 2), np.int64), np.zeros(2, np.int64)
    as_run(find_pieces)(none, *beside, no_rows, no_rows, no_rows)


@for_all
@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data())
def test_pieces_are_the_connected_components_of_each_label_that_is_wanted(as_run, seed, shape, data):
    connectivity = data.draw(st.integers(1, len(shape)))
    labels = random_labels(seed, shape, 2)
    whole = stretches_of(labels.reshape(-1, shape[-1]))
    roots, sizes = np.empty((2, len(whole[1])), np.int64)
    labels_wanted = data.draw(st.sets(st.sampled_from([1, 2])))
    wanted = [i for i, label in enumerate(whole[1][:, 2].tolist()) if label in labels_wanted]
    as_run(find_pieces)(whole, *rows_before(shape, connectivity), np.array(wanted, np.int64), roots, sizes)
    assert (roots <= np.arange(len(roots))).all()
    pieces = np.zeros(shape, int)
    structure = ndimage.generate_binary_structure(len(shape), connectivity)
    for label in (1, 2):
        found = ndimage.label(labels == label, structure)[0]
        pieces[found > 0] = found[found > 0] + pieces.max()
    flat = pieces.reshape(-1, shape[-1])
    row_of = np.repeat(np.arange(len(flat)), np.diff(whole[0]))
    of_stretch = flat[row_of, whole[1][:, 0]]
    roots, of_stretch = roots[wanted], of_stretch[wanted]
    assert np.array_equal(roots[:, None] == roots, of_stretch[:, None] == of_stretch)
    for root in np.unique(roots):
        assert sizes[root] == (pieces == of_stretch[roots == root][0]).sum()


@for_all
@given(seeds, planes)
def test_overlaps_are_the_voxels_in_both_pieces(as_run, seed, shape):
    a, b = random_labels(seed, (2, *shape), 2)
    mine, theirs = stretches_of(a), stretches_of(b)
    rng = np.random.default_rng(seed)
    lengths = len(mine[1]), len(theirs[1])
    roots = tuple(np.sort(rng.integers(0, max(1, n), n)) for n in lengths)
    every = np.array(list(itertools.product(*map(range, lengths))), np.int64).reshape(-1, 2)
    contacts = np.column_stack([rng.permutation(np.repeat(every, 2, axis=0))] * 2)
    heads, pairs = np.empty(len(mine[1]), np.int64), np.empty((len(contacts), 5), np.int64)
    n = as_run(note_pairs)(contacts, roots, heads, pairs)
    met = [(roots[0][i], roots[1][j]) for i, j, *_ in contacts]
    assert [tuple(pair) for pair in pairs[:n, :2].tolist()] == list(dict.fromkeys(met))
    assert all(met[contact] == (p, q) for p, q, _, _, contact in pairs[:n].tolist())
    as_run(measure_overlaps)(mine, theirs, roots, heads, pairs)
    painted = [
        dense_of(rows, np.column_stack([stretches[:, :2], of_stretch + 1]), shape)
        for (rows, stretches), of_stretch in zip((mine, theirs), roots, strict=True)
    ]
    for p, q, _, common, _ in pairs[:n].tolist():
        assert common == ((painted[0] == p + 1) & (painted[1] == q + 1)).sum()


def test_two_tiles_are_compared_in_one_call(as_run):
    a = np.array([[1, 1, 1, 0, 2], [1, 0, 1, 0, 2]])
    b = np.array([[4, 4, 0, 0, 5], [4, 0, 6, 0, 5]])
    rows = np.arange(2), np.array([0, 5])
    sides = [np.array([[0, 0, 0], [1, 1, 0]]), np.array([[0, 5], [0, 5]])]
    positions = np.array([1020, 1120])
    tiles = [(*stretches_of(labels), *rows) for labels in (a, b)]
    nowhere = np.zeros(4, bool)
    beyond = np.zeros(4, np.int64)
    whole, *unseen = as_run(compare_tiles)(
        *tiles, tuple(sides), rows_before((2, 5), 1), (nowhere, nowhere), (beyond, beyond), positions
    )
    assert [labels.tolist() for labels in unseen] == [[], []]
    # Of the five voxels of label 1, three are those of label 4 and one is that of label 6.
    assert whole.tolist() == [[1, 4, 3, 3, 5, 1020], [2, 5, 2, 2, 2, 1024], [1, 6, 1, 1, 5, 1122]]


@pytest.mark.parametrize(
    ("ends", "sizes"),
    [
        # No end, the first row, the second row, the first and the last voxel of every row.
        ([[0, 0, 0, 0], [0, 0, 0, 0]], [3, 1]),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], [5, 5]),
        ([[0, 0, 0, 1], [0, 0, 0, 0]], [3, 1]),
        ([[0, 0, 1, 0], [0, 0, 0, 0]], [5, 5]),
        ([[0, 0, 1, 0], [1, 0, 0, 0]], [3, 5]),
        ([[1, 0, 0, 0], [0, 1, 0, 0]], [3, 1]),
    ],
)
def test_a_piece_that_its_tile_saw_cut_off_is_what_agreement_is_a_share_of(as_run, ends, sizes):
    """Label 1 has five voxels, label 4 three of them and label 6 one."""
    a = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0]])
    b = np.array([[4, 4, 0, 0, 0], [4, 0, 6, 0, 0]])
    tiles = [(*stretches_of(labels), np.arange(2), np.array([0, 5])) for labels in (a, b)]
    facing = np.array([[0, 0, 0], [1, 1, 0]]), np.array([[0, 5], [0, 5]])
    at_ends, beyond = tuple(np.array(ends, bool)), np.zeros(4, np.int64)
    rest = rows_before((2, 5), 1), at_ends, (beyond, beyond), np.array([0, 5])
    found, *_ = as_run(compare_tiles)(*tiles, facing, *rest)
    assert found[:, 3].tolist() == sizes
