"""The kernels over runs, against the voxels that the runs stand for."""

import itertools

import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import dense_of, runs_of
from scipy import ndimage

from blockbuster.seams.agreement import rows_before
from blockbuster.seams.run_kernels import (
    clip_runs,
    collect_contacts,
    compare_tiles,
    count_runs,
    find_contact,
    find_runs,
    join_runs,
    locate,
    measure_overlaps,
    note_ids,
    note_pairs,
    sum_pieces,
)

# `as_run` is the same for all examples.
for_all = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
planes = st.tuples(st.integers(1, 5), st.integers(1, 7))


def random_labels(seed, shape, largest=3):
    return np.random.default_rng(seed).integers(0, largest, shape, endpoint=True)


@for_all
@given(seeds, st.integers(0, 30))
def test_ids_of_labels_are_noted_where_they_occur(as_run, seed, n):
    labels = random_labels(seed, n, 9).astype(np.uint32)
    ids = (labels * 7 + 1).astype(np.int64)
    lookup = np.zeros(10, np.int32)
    as_run(note_ids)(labels, ids, lookup)
    assert lookup.tolist() == [7 * label + 1 if label and label in labels else 0 for label in range(10)]


@for_all
@given(seeds, planes, st.sampled_from([np.uint32, np.uint64]), st.integers(0, 12), st.data())
def test_runs_are_stretches_of_one_id_outside_of_the_middle(as_run, seed, shape, dtype, room, data):
    labels = random_labels(seed, shape, 4).astype(dtype)
    lookup = np.array([0, 5, 0, 5, 9], np.int32)
    is_inner = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, shape[1])] * 2)))
    shown = lookup[labels]
    shown[is_inner, start:stop] = 0
    rows, runs = np.empty(shape[0] + 1, np.int64), np.zeros((room, 3), np.int32)
    n = as_run(find_runs)(labels, lookup, is_inner, np.array([start, stop]), rows, runs)
    expected_rows, expected = runs_of(shown, cuts=[start, stop], cut_rows=is_inner)
    assert n == len(expected)
    assert rows.tolist() == expected_rows.tolist()
    assert runs[: min(n, room)].tolist() == expected[:room].tolist()


@for_all
@given(seeds, planes, st.data())
def test_clipped_runs_are_those_of_the_part(as_run, seed, shape, data):
    labels = random_labels(seed, shape)
    taken = np.array(data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=4)), np.int64)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, shape[1])] * 2)))
    whole = runs_of(labels)
    rows, runs = np.empty(len(taken) + 1, np.int64), np.empty((len(taken) * shape[1], 3), np.int32)
    n = as_run(clip_runs)(whole, taken, np.array([start, stop]), rows, runs)
    expected = runs_of(labels[taken, start:stop])
    assert rows.tolist() == expected[0].tolist()
    assert runs[:n].tolist() == expected[1].tolist()


def contacts_by_voxel(a, b, row_pairs, windows):
    """Ids that face each other within the windows, with the runs that they are of."""
    (start, stop), (other_start, _) = windows
    found = set()
    for row, other, slack in row_pairs:
        for x in range(start, stop):
            for step in range(-slack, slack + 1):
                y = x + step
                if start <= y < stop and a[row, x] and b[other, y - start + other_start]:
                    found.add((run_at(a, row, x), run_at(b, other, y - start + other_start)))
    return found


def run_at(labels, row, x):
    rows, runs = runs_of(labels)
    return next(i for i in range(rows[row], rows[row + 1]) if runs[i, 0] <= x < runs[i, 1])


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
def test_contacts_are_runs_with_neighbouring_voxels(as_run, drawn, room):
    a, b, row_pairs, windows = drawn
    contacts = np.empty((room, 4), np.int64)
    n = as_run(collect_contacts)(runs_of(a), runs_of(b), row_pairs, windows, contacts)
    expected = contacts_by_voxel(a, b, row_pairs.tolist(), windows.tolist())
    if n <= room:
        assert {(i, j) for i, j, _, _ in contacts[:n].tolist()} == expected
        for i, j, row, x in contacts[:n].tolist():
            assert windows[0, 0] <= x < windows[0, 1]
            assert run_at(a, row, x) == i
            near = [(other, x + step) for r, other, slack in row_pairs for step in (-slack, 0, slack) if r == row]
            shift = windows[1, 0] - windows[0, 0]
            places = [(other, y + shift) for other, y in near if windows[0, 0] <= y < windows[0, 1]]
            assert any(b[place] and run_at(b, *place) == j for place in places)
    whole = np.arange(len(a)), np.array([0, a.shape[1]])
    is_touching = as_run(find_contact)((*runs_of(a), *whole), (*runs_of(b), *whole), row_pairs, windows)
    assert is_touching == (n > 0) == bool(expected)


@for_all
@given(facing(), st.sampled_from([0.1, 0.3, 0.8]), st.data())
def test_contact_is_seen_in_parts_of_larger_boxes(as_run, drawn, density, data):
    """What `compare_tiles` looks at before it cuts the parts out: few labels, that may go on outside."""
    a, b, row_pairs, windows = drawn
    random = np.random.default_rng(data.draw(seeds))
    whole = [np.where(random.random(labels.shape) < density, labels, 0) for labels in (a, b)]
    around = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    tiles, parts = [], []
    for labels, before, behind in zip(whole, around[:2], around[2:], strict=True):
        margins = random.integers(0, 3, (len(labels), before)), random.integers(0, 3, (len(labels), behind))
        wide = np.concatenate([margins[0], labels, margins[1]], axis=1)[::-1]
        taken, window = np.arange(len(labels))[::-1].copy(), np.array([before, before + labels.shape[1]])
        tiles.append((*runs_of(wide), taken, window))
        parts.append(labels)
        assert as_run(count_runs)(tiles[-1][0], taken) == len(tiles[-1][1])
    expected = contacts_by_voxel(*parts, row_pairs.tolist(), windows.tolist())
    assert as_run(find_contact)(*tiles, row_pairs, windows) == bool(expected)


@for_all
@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=4), st.data())
def test_voxels_are_located_in_an_image_of_any_number_of_axes(as_run, axes, data):
    """Per axis: the length of the box, what is before it, and what is behind."""
    shape = [length + before + behind for length, before, behind in axes]
    voxel = [data.draw(st.integers(0, length - 1)) for length, _, _ in axes]
    row = 0
    for place, (length, _, _) in zip(voxel[:-1], axes, strict=False):
        row = row * length + place
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    frame = np.array([[length for length, _, _ in axes], [before for _, before, _ in axes], strides])
    place = [x + before for x, (_, before, _) in zip(voxel, axes, strict=True)]
    assert as_run(locate)(row, voxel[-1], frame) == np.ravel_multi_index(place, shape)


def test_no_rows_and_no_runs_are_nothing_to_do(as_run):
    none, no_runs = np.zeros(1, np.int64), np.empty((0, 3), np.int32)
    rows, window, contacts = np.full(1, 9), np.array([0, 0]), np.empty((1, 4), np.int64)
    args = np.zeros((0, 4), np.uint32), np.zeros(1, np.int32), np.zeros(0, bool), window
    assert as_run(find_runs)(*args, rows, no_runs) == rows[0] == 0
    assert as_run(clip_runs)((none, no_runs), np.zeros(0, np.int64), window, rows, no_runs) == rows[0] == 0
    facing = np.empty((0, 3), np.int64), np.zeros((2, 2), np.int64)
    assert as_run(collect_contacts)((none, no_runs), (none, no_runs), *facing, contacts) == 0
    as_run(join_runs)((none, no_runs), np.empty((0, 2), np.int64), np.zeros(2, np.int64), np.empty(0, np.int64))


@for_all
@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data())
def test_pieces_are_the_connected_components_of_each_label(as_run, seed, shape, data):
    connectivity = data.draw(st.integers(1, len(shape)))
    labels = random_labels(seed, shape, 2)
    whole = runs_of(labels.reshape(-1, shape[-1]))
    roots, sizes = np.empty(len(whole[1]), np.int64), np.zeros(len(whole[1]), np.int64)
    as_run(join_runs)(whole, *rows_before(shape, connectivity), roots)
    assert (roots <= np.arange(len(roots))).all()
    as_run(sum_pieces)(whole[1], roots, sizes)
    pieces = np.zeros(shape, int)
    structure = ndimage.generate_binary_structure(len(shape), connectivity)
    for label in (1, 2):
        found = ndimage.label(labels == label, structure)[0]
        pieces[found > 0] = found[found > 0] + pieces.max()
    flat = pieces.reshape(-1, shape[-1])
    row_of = np.repeat(np.arange(len(flat)), np.diff(whole[0]))
    of_run = flat[row_of, whole[1][:, 0]]
    assert np.array_equal(roots[:, None] == roots, of_run[:, None] == of_run)
    for root in np.unique(roots):
        assert sizes[root] == (pieces == of_run[root]).sum()


@for_all
@given(seeds, planes)
def test_overlaps_are_the_voxels_in_both_pieces(as_run, seed, shape):
    a, b = random_labels(seed, (2, *shape), 2)
    mine, theirs = runs_of(a), runs_of(b)
    rng = np.random.default_rng(seed)
    roots = tuple(np.sort(rng.integers(0, max(1, len(runs)), len(runs))) for _, runs in (mine, theirs))
    every = np.array(list(itertools.product(range(len(mine[1])), range(len(theirs[1])))), np.int64).reshape(-1, 2)
    contacts = np.column_stack([rng.permutation(np.repeat(every, 2, axis=0))] * 2)
    heads, pairs = np.empty(len(mine[1]), np.int64), np.empty((len(contacts), 5), np.int64)
    n = as_run(note_pairs)(contacts, roots, heads, pairs)
    met = [(roots[0][i], roots[1][j]) for i, j, *_ in contacts]
    assert [tuple(pair) for pair in pairs[:n, :2].tolist()] == list(dict.fromkeys(met))
    assert all(met[contact] == (p, q) for p, q, _, _, contact in pairs[:n].tolist())
    as_run(measure_overlaps)(mine, theirs, roots, heads, pairs)
    painted = [
        dense_of(rows, np.column_stack([runs[:, :2], of_run + 1]), shape)
        for (rows, runs), of_run in zip((mine, theirs), roots, strict=True)
    ]
    for p, q, _, common, _ in pairs[:n].tolist():
        assert common == ((painted[0] == p + 1) & (painted[1] == q + 1)).sum()


def test_two_tiles_are_compared_in_one_call(as_run):
    a = np.array([[1, 1, 1, 0, 2], [1, 0, 1, 0, 2]])
    b = np.array([[4, 4, 0, 0, 5], [4, 0, 6, 0, 5]])
    rows = np.arange(2), np.array([0, 5])
    sides = [np.array([[0, 0, 0], [1, 1, 0]]), np.array([[0, 5], [0, 5]])]
    frame = np.array([[2, 5], [10, 20], [100, 1]])
    found = np.empty((8, 5), np.int64)
    tiles = ((*runs_of(labels), *rows) for labels in (a, b))
    n = as_run(compare_tiles)(*tiles, tuple(sides), rows_before((2, 5), 1), frame, found)
    # Of the five voxels of label 1, three are those of label 4 and one is that of label 6.
    assert found[:n].tolist() == [[1, 4, 3, 5, 1020], [2, 5, 2, 2, 1024], [1, 6, 1, 5, 1122]]


@pytest.mark.parametrize("room", [0, 1, 2])
def test_it_is_said_when_there_is_no_room_for_all_pieces(as_run, room):
    a, b = np.arange(1, 6)[None], np.arange(6, 11)[None]
    rows = np.arange(1), np.array([0, 5])
    tiles = ((*runs_of(labels), *rows) for labels in (a, b))
    sides = (np.array([[0, 0, 0]]), np.array([[0, 5], [0, 5]]))
    found = np.empty((room, 5), np.int64)
    assert as_run(compare_tiles)(*tiles, sides, rows_before((1, 5), 1), np.ones((3, 2), np.int64), found) == 5
    assert found[:, 0].tolist() == [1, 2][:room]
