"""Runs of a tile near its borders, and the strips that neighbours in other bricks get."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import dense_of

from blockbuster.grid import TileGrid, relative_box
from blockbuster.seams.agreement import TilePairs, compare_pieces
from blockbuster.seams.labels import compact_labels
from blockbuster.seams.runs import find_border_runs
from blockbuster.seams.strips import cut_strip, pack_strips, strip_box, unpack_strips

# Run as plain Python, the product that mixes the bits of a sparse id wraps with a warning; it is meant to.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")

SPARSE = np.array([0, 2**40, 7, 2**63 + 5, 1, 2**32], np.uint64)


@st.composite
def grids(draw):
    ndim = draw(st.integers(1, 3))
    lengths = tuple(tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))) for _ in range(ndim))
    grid = TileGrid(lengths, tuple(draw(st.integers(0, 4)) for _ in range(ndim)))
    axes = sorted(draw(st.sets(st.sampled_from(range(ndim)), min_size=1)))
    return grid, axes, draw(st.integers(1, ndim)), draw(st.integers(0, 2**32 - 1)), draw(st.booleans())


def predict(grid, tile, seed, sparse):
    """Labels that fn may have returned for a tile, and the ids of its core."""
    region, core = grid.region(tile), grid.core(tile)
    rng = np.random.default_rng([seed, grid.number(tile)])
    labels = rng.integers(0, 4, [part.stop - part.start for part in region])
    labels = SPARSE[labels] if sparse else labels
    inner = relative_box(core, region)
    ids = np.empty([part.stop - part.start for part in core], np.uint32)
    compact_labels(labels[inner], ids, 10)
    return labels, ids


def border_runs(grid, axes, tile, seed, sparse):
    depths = [
        tuple(
            max(1, grid.halo[axis]) if axis in axes and grid.has_neighbour(tile, axis, side) else 0
            for side in (0, 1)
        )
        for axis in range(grid.ndim)
    ]
    labels, ids = predict(grid, tile, seed, sparse)
    return find_border_runs(labels, ids, 10, grid.region(tile), grid.core(tile), depths)


def painted(runs):
    flat = dense_of(runs.rows, runs.runs, (len(runs.rows) - 1, runs.shape[-1]))
    return flat.reshape(runs.shape)


def shown(grid, axes, tile, seed, sparse):
    """The ids of labels that touch a border with a neighbour, wherever fn saw them; others have none."""
    labels, ids = predict(grid, tile, seed, sparse)
    inner = relative_box(grid.core(tile), grid.region(tile))
    id_of = {0: 0} | dict(
        zip(labels[inner].ravel().tolist(), (ids - np.uint32(10)).ravel().tolist(), strict=True)
    )
    id_of[0] = 0
    touching = {0}
    for axis in axes:
        for side in (0, 1):
            if grid.has_neighbour(tile, axis, side):
                touching |= set(labels[inner].take(-side, axis).ravel().tolist())
    return np.vectorize(lambda label: id_of.get(label, 0) if label in touching else 0, otypes=[int])(labels)


@settings(max_examples=examples(80))
@given(grids())
def test_runs_are_what_a_neighbour_can_see_of_labels_that_touch_a_border(drawn):
    grid, axes, connectivity, seed, sparse = drawn
    pairs = TilePairs(grid, axes, connectivity)
    for tile in grid.indices():
        runs = border_runs(grid, axes, tile, seed, sparse)
        expected = shown(grid, axes, tile, seed, sparse)
        assert np.isin(painted(runs), [0, *expected.ravel()]).all()
        for step in [*pairs.steps, *(tuple(-d for d in step) for step in pairs.steps)]:
            other = tuple(i + d for i, d in zip(tile, step, strict=True))
            if all(0 <= i < n for i, n in zip(other, grid.grid_shape, strict=True)):
                box = pairs.of(tile, step).boxes[0]
                seen = relative_box(box, grid.region(tile))
                assert np.array_equal(painted(runs.clipped(box)), expected[seen])


@settings(max_examples=examples(80))
@given(grids())
def test_strips_are_enough_to_compare_two_tiles(drawn):
    """Across each axis a strip holds what faces, edges and corners need."""
    grid, axes, connectivity, seed, sparse = drawn
    pairs = TilePairs(grid, axes, connectivity)
    for tile in grid.indices():
        for step in pairs.steps:
            other = tuple(i + d for i, d in zip(tile, step, strict=True))
            if not all(0 <= i < n for i, n in zip(other, grid.grid_shape, strict=True)):
                continue
            pair = pairs.of(tile, step)
            whole = [border_runs(grid, axes, t, seed, sparse) for t in (tile, other)]
            expected = compare_pieces(pair, *whole, pairs.strides)
            for axis in np.flatnonzero(step):
                sides = [int(step[axis] > 0), int(step[axis] < 0)]
                strips = [
                    cut_strip(runs, grid, t, axis, side)
                    for runs, t, side in zip(whole, (tile, other), sides, strict=True)
                ]
                found = compare_pieces(pair, *strips, pairs.strides)
                assert sorted(found.tolist()) == sorted(expected.tolist())


@settings(max_examples=examples(80))
@given(grids())
def test_strip_covers_what_a_tile_shows_to_each_neighbour_across_the_seam(drawn):
    grid, axes, connectivity, *_ = drawn
    pairs = TilePairs(grid, axes, connectivity)
    for tile in grid.indices():
        for step in [*pairs.steps, *(tuple(-d for d in step) for step in pairs.steps)]:
            if not all(0 <= i + d < n for i, d, n in zip(tile, step, grid.grid_shape, strict=True)):
                continue
            shown = pairs.of(tile, step).boxes[0]
            for axis in np.flatnonzero(step).tolist():
                strip = strip_box(grid, tile, axis, int(step[axis] > 0))
                # No more along the axis than that, and no more than fn saw along the others.
                assert strip[axis] == shown[axis]
                assert tuple(strip[:axis] + strip[axis + 1 :]) == tuple(
                    part for other, part in enumerate(grid.region(tile)) if other != axis
                )
                for whole, part in zip(strip, shown, strict=True):
                    assert whole.start <= part.start < part.stop <= whole.stop


@settings(max_examples=examples(50))
@given(grids())
def test_packed_strips_come_back(drawn):
    grid, axes, _, seed, sparse = drawn
    axis = axes[0]
    strips = {
        grid.number(tile): cut_strip(border_runs(grid, axes, tile, seed, sparse), grid, tile, axis, 1)
        for tile in grid.indices()
        if grid.has_neighbour(tile, axis, 1)
    }
    packed = pack_strips(strips)
    assert packed.dtype == np.uint8
    back = unpack_strips(packed, lambda number: strip_box(grid, grid.index(number), axis, 1))
    assert back.keys() == strips.keys()
    for number, strip in strips.items():
        assert back[number].box == strip.box
        assert np.array_equal(back[number].rows, strip.rows)
        assert np.array_equal(back[number].runs, strip.runs)


def test_no_strips_are_packed_as_well():
    assert unpack_strips(pack_strips({}), lambda number: ()) == {}


@pytest.mark.parametrize(("halo", "side", "expected"), [(3, 1, (7, 13)), (3, 0, (0, 3)), (0, 1, (9, 10))])
def test_strip_is_as_thick_as_the_halo_on_both_sides(halo, side, expected):
    grid = TileGrid.regular((20,), (10,), (halo,))
    (part,) = strip_box(grid, (0,), 0, side)
    assert (part.start, part.stop) == expected


def test_pieces_that_touch_in_many_places_are_listed_once():
    """More pairs of pieces than there is room for at first."""
    n = 150
    grid = TileGrid.regular((2, 2 * n), (1, 2 * n), (1, 0))
    pairs = TilePairs(grid, (0, 1), 2)
    labels = np.zeros((2, 2 * n), np.uint32)
    labels[:, ::2] = np.arange(1, n + 1)
    tiles = [
        find_border_runs(labels, labels[i : i + 1], 0, grid.region((i, 0)), grid.core((i, 0)), depths)
        for i, depths in enumerate(([(0, 1), (0, 0)], [(1, 0), (0, 0)]))
    ]
    found = compare_pieces(pairs.of((0, 0), (1, 0)), *tiles, pairs.strides)
    assert found.tolist() == [[i + 1, i + 1, 2, 2, 2 * i] for i in range(n)]
