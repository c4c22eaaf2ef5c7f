"""What two tiles show to each other, and how far they agree on it, piece by piece."""

import itertools
from fractions import Fraction

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Unsteady
from stretches import dense_of, near_borders, stretches_of

from blockbuster.grid import TileGrid
from blockbuster.kernels.agreement import (
    Agreements,
    TilePairs,
    compare_pieces,
    neighbour_steps,
    row_positions,
    rows_before,
)
from blockbuster.kernels.stretches import TileStretches

# Per number of axes: the longest tile, and the most tiles along an axis.
EXTENTS = {1: (9, 4), 2: (6, 3), 3: (4, 2), 4: (3, 2)}


@st.composite
def tissues(draw):
    """An image of labels, a function that finds them more or less, a grid, and how voxels are neighbours."""
    ndim = draw(st.integers(1, 4))
    longest, most = EXTENTS[ndim]
    parts = st.lists(st.integers(1, longest), min_size=2, max_size=most)
    lengths = [tuple(draw(parts)) for _ in range(ndim)]
    if draw(st.booleans()):
        lengths[draw(st.integers(0, ndim - 1))] = (draw(st.integers(1, longest)),)
    grid = TileGrid(tuple(lengths), draw(st.tuples(*[st.integers(0, 3)] * ndim)))
    axes = sorted(draw(st.sets(st.sampled_from(range(ndim)), min_size=1)))
    noise = draw(st.sampled_from([0.3, 0.6, 0.1, 0.0]))
    fn = Unsteady(draw(st.integers(0, 99)), noise, 0, draw(st.booleans()), largest=draw(names))
    return draw(images(grid.shape)), fn, grid, axes, draw(st.integers(1, ndim))


names = st.sampled_from([100, 2**62])


@st.composite
def images(draw, shape):
    """Blocks of voxels with one label, or background; or all of one label."""
    n_labels = draw(st.integers(0, 3))
    if not n_labels:
        return np.ones(shape, np.uint8)
    block = draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blocks = random.integers(0, n_labels, shape, np.uint8, endpoint=True)
    return blocks.repeat(block, -1)[..., : shape[-1]]


def stretches_of_tile(image, fn, grid, axes, tile):
    depths = [
        [int(axis in axes and grid.has_neighbour(tile, axis, side)) * max(1, grid.halo[axis]) for side in (0, 1)]
        for axis in range(grid.ndim)
    ]
    region = grid.region(tile)
    return near_borders(fn(image[region].copy()), region, grid.core(tile), depths)


def neighbours(grid, pairs):
    """Each two tiles that are neighbours, once, and the step from one to the other."""
    for tile in grid.indices():
        for step in pairs.steps:
            other = tuple(i + d for i, d in zip(tile, step, strict=True))
            if all(0 <= i < n for i, n in zip(other, grid.grid_shape, strict=True)):
                yield tile, other, step


@settings(max_examples=examples(80))
@given(tissues())
def test_pieces_that_touch_are_found_and_measured_as_voxel_by_voxel(tissue):
    image, fn, grid, axes, connectivity = tissue
    pairs = TilePairs(grid, axes, connectivity)
    seen = naive.look(image, fn, grid.lengths, grid.halo)
    offsets = np.cumsum([0, *(len(np.unique(t.within(t.core)[t.within(t.core) > 0])) for t in seen)])
    contacts = naive.run_contacts(seen, grid.shape, connectivity, axes)
    for tile, other, step in neighbours(grid, pairs):
        i, j = grid.number(tile), grid.number(other)
        stretches = [stretches_of_tile(image, fn, grid, axes, t) for t in (tile, other)]
        found, _ = compare_pieces(pairs.of(tile, step), *stretches, pairs.strides)
        found[:, :2] += offsets[[i, j]]
        check_pieces(found, contacts.pop((i, j), []), (seen[i], seen[j]), grid, connectivity)
    assert not contacts, "tiles touch that are no neighbours"


def check_pieces(found, met, tiles, grid, connectivity):
    if naive.boxes_seen_by_both(*tiles, grid.halo) is None:
        tile, other = tiles
        touching = {(tile.ids[naive.at(p, tile.region)], other.ids[naive.at(q, other.region)]) for p, q in met}
        assert {tuple(pair) for pair in found[:, :2].tolist()} == touching
        assert not found[:, 2].any()
        return
    expected = naive.run_pieces(*tiles, met, grid.shape, grid.halo, connectivity)
    assert sorted(map(tuple, found[:, :5].tolist())) == sorted(entry[:5] for entry in expected)
    places = {}
    for *entry, voxels in expected:
        places.setdefault(tuple(entry), set()).update(int(np.ravel_multi_index(p, grid.shape)) for p in voxels)
    assert all(row[5] in places[tuple(row[:5])] for row in found.tolist())


@settings(max_examples=examples(80))
@given(tissues())
def test_labels_whose_ends_the_other_tile_did_not_see_are_found_as_voxel_by_voxel(tissue):
    image, fn, grid, axes, connectivity = tissue
    pairs = TilePairs(grid, axes, connectivity)
    for tile, other, step in neighbours(grid, pairs):
        pair = pairs.of(tile, step)
        both = [stretches_of_tile(image, fn, grid, axes, t) for t in (tile, other)]
        _, unseen = compare_pieces(pair, *both, pairs.strides)
        if not all(halo for halo, d in zip(grid.halo, step, strict=True) if d):
            assert [labels.tolist() for labels in unseen] == [[], []]
            continue
        boxes = [stretches.clipped(box) for stretches, box in zip(both, pair.boxes, strict=True)]
        dense = [dense_of(cut.rows, cut.stretches, (len(cut.rows) - 1, cut.shape[-1])) for cut in boxes]
        dense = [labels.reshape(pair.shape) for labels in dense]
        seen = [naive.Seen(t, grid.core(t), grid.region(t), None) for t in (tile, other)]
        for k, labels in enumerate(unseen):
            mine, its, here, there = dense[k], dense[1 - k], seen[k], seen[1 - k]
            beyond = [naive.overlap(*p) for p in zip(pair.boxes[0], there.core, strict=True)]
            for axis, (i, j) in enumerate(zip(here.index, there.index, strict=True)):
                if i != j:
                    at = beyond[axis].start if j > i else beyond[axis].stop - 1
                    beyond[axis] = slice(at, at + 1)
            place = naive.move(beyond, pair.boxes[0])
            ends = naive.sight_ends(here, there, pair.boxes[0], grid.shape, grid.halo)
            expected = []
            for number in np.unique(mine[place][mine[place] > 0]).tolist():
                met = mine[place] == number
                unseen = met & (its[place] == 0)
                if unseen.any() and 2 * unseen.sum() >= met.sum() and not (mine[ends] == number).any():
                    expected.append(number)
            assert labels.tolist() == expected


@pytest.mark.parametrize("n", [1, 63, 300, 3000])
def test_all_pieces_are_found_however_many_they_are(n):
    """A comb: one label of the first tile is in as many pieces as it has teeth."""
    image = np.zeros((4, 2 * n), np.uint8)
    image[1:3, ::2] = 1
    image[0] = 1
    grid = TileGrid.regular(image.shape, (2, 2 * n), (1, 0))
    pairs = TilePairs(grid, (0, 1), 1)
    stretches = [stretches_of_tile(image, lambda tile: tile.astype(int), grid, (0, 1), (i, 0)) for i in (0, 1)]
    found, _ = compare_pieces(pairs.of((0, 0), (1, 0)), *stretches, pairs.strides)
    assert found.tolist() == [[1, 1, 2, 2, 2, 2 * n + 2 * i] for i in range(n)]


def test_one_piece_may_touch_many_and_many_one():
    """Both tiles see four rows; one takes them for a bar, the other for three columns."""
    grid = TileGrid.regular((6, 5), (3, 5), (2, 0))
    pairs = TilePairs(grid, (0,), 1)
    bar, columns = np.full((5, 5), 9), np.tile([1, 0, 2, 0, 3], (5, 1))
    for mine, theirs in (bar, columns), (columns, bar):
        regions = grid.region((0, 0)), grid.region((1, 0))
        tiles = [
            TileStretches(region, *stretches_of(labels))
            for region, labels in zip(regions, (mine, theirs), strict=True)
        ]
        found, _ = compare_pieces(pairs.of((0, 0), (1, 0)), *tiles, pairs.strides)
        assert found.tolist() == [[mine[0, x], theirs[0, x], 4, 4, 20, 10 + x] for x in (0, 2, 4)]


def test_label_that_touches_in_two_pieces_is_compared_piece_by_piece():
    """A ring in one tile is two arms in what both see; its other end is not there to join them."""
    image = np.ones((6, 5), np.uint8)
    image[1:, 1:4] = 0
    grid = TileGrid.regular((6, 5), (3, 5), (2, 0))
    pairs = TilePairs(grid, (0,), 1)
    stretches = [stretches_of_tile(image, naive.label, grid, (0,), (i, 0)) for i in (0, 1)]
    found, _ = compare_pieces(pairs.of((0, 0), (1, 0)), *stretches, pairs.strides)
    assert found.tolist() == [[1, 1, 4, 4, 4, 10], [1, 2, 4, 4, 4, 14]]


@pytest.mark.parametrize("axis", [0, 1])
def test_without_labels_nothing_touches(axis):
    grid = TileGrid.regular((4, 4), (2, 2), (1, 1))
    pairs = TilePairs(grid, (0, 1), 2)
    step = tuple(int(i == axis) for i in (0, 1))
    full, empty = np.ones((3, 3), int), np.zeros((3, 3), int)
    for mine, theirs in (full, empty), (empty, full), (empty, empty):
        labelled = ((0, 0), mine), (step, theirs)
        tiles = [TileStretches(grid.region(tile), *stretches_of(labels)) for tile, labels in labelled]
        assert compare_pieces(pairs.of((0, 0), step), *tiles, pairs.strides)[0].shape == (0, 6)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_each_two_tiles_are_neighbours_once_and_the_first_comes_first(ndim):
    for connectivity in range(1, ndim + 1):
        for n_axes in range(ndim + 1):
            for axes in itertools.combinations(range(ndim), n_axes):
                steps = neighbour_steps(ndim, axes, connectivity)
                both = [*steps, *(tuple(-d for d in step) for step in steps)]
                choices = itertools.product(*[(-1, 0, 1) if axis in axes else (0,) for axis in range(ndim)])
                assert sorted(both) == [s for s in choices if 0 < sum(map(abs, s)) <= connectivity]
                # In C order a tile is before those at its steps: the last of them is the last to come.
                assert steps == sorted(steps)
                assert all(next(d for d in step if d) == 1 for step in steps)


@settings(max_examples=examples(60))
@given(tissues())
def test_tiles_show_to_each_other_what_both_have_seen(tissue):
    _, _, grid, axes, connectivity = tissue
    pairs = TilePairs(grid, axes, connectivity)
    seen = [naive.Seen(*tile, np.zeros(0)) for tile in naive.tiles(grid.lengths, grid.halo)]
    assert {(t, o) for t, o, _ in neighbours(grid, pairs)} == {
        (a.index, b.index) for a, b in itertools.combinations(seen, 2) if are_neighbours(a, b, axes, connectivity)
    }
    for tile, other, step in neighbours(grid, pairs):
        pair = pairs.of(tile, step)
        boxes = naive.boxes_seen_by_both(*(seen[grid.number(t)] for t in (tile, other)), grid.halo)
        assert (pair.n_bare < 2) == (boxes is not None)
        if boxes is not None:
            assert pair.boxes == tuple(map(tuple, boxes))
        for t, d, box, face in zip((tile, other), (1, -1), pair.boxes, pair.faces, strict=True):
            assert inside(box, grid.region(t))
            assert placed(face, box) == face_of(grid.core(t), [d * s for s in step])
        mirrored = pairs.of(other, tuple(-d for d in step))
        assert (mirrored.boxes, mirrored.faces) == (pair.boxes[::-1], pair.faces[::-1])
        assert pair.shape == tuple(part.stop - part.start for part in pair.boxes[1])


def are_neighbours(a, b, axes, connectivity):
    apart = [abs(i - j) for i, j in zip(a.index, b.index, strict=True)]
    is_free = all(d == 0 or axis in axes for axis, d in enumerate(apart))
    return is_free and max(apart) == 1 and sum(apart) <= connectivity


def inside(box, whole):
    return all(own.start <= part.start < part.stop <= own.stop for part, own in zip(box, whole, strict=True))


def placed(face, box):
    return [(start + part.start, stop + part.start) for (start, stop), part in zip(face, box, strict=True)]


def face_of(core, step):
    """The voxels of a core that lie farthest in the direction of a step."""
    ends = {
        0: lambda c: (c.start, c.stop),
        1: lambda c: (c.stop - 1, c.stop),
        -1: lambda c: (c.start, c.start + 1),
    }
    return [ends[d](part) for part, d in zip(core, step, strict=True)]


def test_strides_are_those_of_the_image():
    grid = TileGrid.regular((5, 7, 3), (2, 2, 2), (0, 0, 0))
    assert TilePairs(grid, (0,), 1).strides == tuple([s // 8 for s in np.zeros((5, 7, 3)).strides])


@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=4), st.data())
def test_rows_have_their_positions_in_an_image_of_any_number_of_axes(axes, data):
    """Per axis: the length of the box, what is before it, and what is behind."""
    lengths = tuple(length for length, _, _ in axes)
    grid = TileGrid.regular(tuple(map(sum, axes)), (1,) * len(axes), (0,) * len(axes))
    strides = TilePairs(grid, (), 1).strides
    origin = np.ravel_multi_index([before for _, before, _ in axes], grid.shape)
    voxel = [data.draw(st.integers(0, length - 1)) for length in lengths]
    row = np.ravel_multi_index(voxel[:-1], lengths[:-1]) if voxel[:-1] else 0
    place = [x + before for x, (_, before, _) in zip(voxel, axes, strict=True)]
    assert origin + row_positions(lengths, strides)[row] + voxel[-1] == np.ravel_multi_index(place, grid.shape)


ids = st.sampled_from([1, 2, 3, 2**40])
# In common, of one piece, in either.
sizes = st.tuples(*[st.integers(1, 4)] * 3).map(lambda n: (n[0] - 1, n[0] + n[1] - 2 or 1, sum(n) - 2))
pieces = st.lists(
    st.tuples(ids, ids, sizes, st.integers(0, 2**50)).map(lambda p: (*p[:2], *p[2], p[3])), max_size=12
)


@settings(max_examples=examples(150))
@given(st.lists(pieces, max_size=3))
def test_labels_agree_as_far_as_their_best_pieces(parts):
    best = {}
    for a, b, common, size, either, voxel in itertools.chain(*parts):
        best.setdefault((a, b), []).append((Fraction(common, size), np.float32(common / either), voxel))
    found = Agreements.of_pieces([np.array(part, np.int64).reshape(-1, 6) for part in parts])
    assert [tuple(pair) for pair in found.pairs.tolist()] == sorted(best)
    columns = found.pairs.tolist(), found.values, found.ranks, found.voxels.tolist()
    for pair, value, rank, voxel in zip(*columns, strict=True):
        highest = max(ends[:2] for ends in best[tuple(pair)])
        assert (value, rank) == (highest[0].numerator / highest[0].denominator, highest[1])
        assert (*highest, voxel) in best[tuple(pair)]
    assert (found.pairs.shape, found.voxels.dtype, found.values.dtype) == ((len(best), 2), np.int64, np.float64)


@settings(max_examples=examples(60))
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data())
def test_rows_before_are_the_neighbours_that_come_first(shape, data):
    connectivity = data.draw(st.integers(1, len(shape)))
    before, slack = rows_before(shape, connectivity)
    numbers = {place: number for number, place in enumerate(np.ndindex(shape[:-1]))}
    for place, number in numbers.items():
        expected = {}
        for step in itertools.product((-1, 0, 1), repeat=len(shape) - 1):
            other = numbers.get(tuple(i + d for i, d in zip(place, step, strict=True)), -1)
            n_steps = sum(map(abs, step))
            if 0 <= other < number and n_steps <= connectivity:
                expected[other] = int(n_steps < connectivity)
        found = [(int(row), int(s)) for row, s in zip(before[number], slack, strict=True) if row >= 0]
        assert (dict(found), len(found)) == (expected, len(expected))
