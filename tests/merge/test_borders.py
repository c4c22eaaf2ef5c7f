"""Stretches of a tile near its borders, and the strips that neighbours in other bricks get."""

import itertools
import tempfile
from pathlib import Path

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stretches import grouped, near_borders, painted

from blockbuster.grid import TileGrid, relative_box
from blockbuster.kernels.agreement import TilePairs, compare_pieces
from blockbuster.merge.borders import cut_strip, strip_box, strip_boxes
from blockbuster.rundir.sections import SectionWriter
from blockbuster.rundir.staged import BrickFile

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
    """Labels that fn may have returned for a tile."""
    rng = np.random.default_rng([seed, grid.number(tile)])
    labels = rng.integers(0, 4, [part.stop - part.start for part in grid.region(tile)])
    return SPARSE[labels] if sparse else labels


def border_stretches(grid, axes, tile, seed, sparse):
    depths = [
        tuple(
            max(1, grid.halo[axis]) if axis in axes and grid.has_neighbour(tile, axis, side) else 0
            for side in (0, 1)
        )
        for axis in range(grid.ndim)
    ]
    return near_borders(predict(grid, tile, seed, sparse), grid.region(tile), grid.core(tile), depths)


def shown(grid, axes, tile, seed, sparse):
    """The ids of labels that touch a border with a neighbour, wherever fn saw them; others have none."""
    labels = predict(grid, tile, seed, sparse)
    inner = relative_box(grid.core(tile), grid.region(tile))
    ids, _ = naive.number_by_appearance(labels[inner])
    id_of = dict(zip(labels[inner].ravel().tolist(), ids.ravel().tolist(), strict=True))
    touching = {0}
    for axis in axes:
        for side in (0, 1):
            if grid.has_neighbour(tile, axis, side):
                touching |= set(labels[inner].take(-side, axis).ravel().tolist())
    return np.vectorize(lambda label: id_of.get(label, 0) if label in touching else 0, otypes=[int])(labels)


@settings(max_examples=examples(80))
@given(grids())
def test_stretches_are_what_a_neighbour_can_see_of_labels_that_touch_a_border(drawn):
    grid, axes, connectivity, seed, sparse = drawn
    pairs = TilePairs(grid, axes, connectivity)
    for tile in grid.indices():
        stretches = border_stretches(grid, axes, tile, seed, sparse)
        expected = shown(grid, axes, tile, seed, sparse)
        assert np.isin(painted(stretches), [0, *expected.ravel()]).all()
        for step in [*pairs.steps, *(tuple(-d for d in step) for step in pairs.steps)]:
            other = tuple(i + d for i, d in zip(tile, step, strict=True))
            if all(0 <= i < n for i, n in zip(other, grid.grid_shape, strict=True)):
                box = pairs.of(tile, step).boxes[0]
                seen = relative_box(box, grid.region(tile))
                assert np.array_equal(painted(stretches.clipped(box)), expected[seen])


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
            whole = [border_stretches(grid, axes, t, seed, sparse) for t in (tile, other)]
            expected, _ = compare_pieces(pair, *whole, pairs.strides)
            for axis in np.flatnonzero(step):
                sides = [int(step[axis] > 0), int(step[axis] < 0)]
                strips = [
                    cut_strip(stretches, grid, t, axis, side)
                    for stretches, t, side in zip(whole, (tile, other), sides, strict=True)
                ]
                found, _ = compare_pieces(pair, *strips, pairs.strides)
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
@given(grids(), st.integers(0, 1))
def test_strips_that_were_written_come_back(drawn, side):
    grid, axes, _, seed, sparse = drawn
    axis = axes[0]
    strips = {
        grid.number(tile): cut_strip(border_stretches(grid, axes, tile, seed, sparse), grid, tile, axis, side)
        for tile in grid.indices()
        if grid.has_neighbour(tile, axis, side)
    }
    assume(strips)
    writer = SectionWriter()
    writer.add_group("border", np.array(list(strips)), grouped(*strips.values()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(writer.to_bytes())
        file = BrickFile(path, "a strip")
        numbers, back = file.read_group("border", lambda n: strip_boxes(grid, n, axis, side))
        assert file.read("border-tiles").tolist() == numbers.tolist() == list(strips)
    for strip, found in zip(strips.values(), back.tiles(), strict=True):
        assert found.box == strip.box
        assert np.array_equal(found.rows, strip.rows)
        assert np.array_equal(found.stretches, strip.stretches)


@settings(max_examples=examples(50))
@given(grids(), st.integers(0, 1))
def test_strip_holds_the_labels_that_touch_its_seam_and_no_others(drawn, side):
    grid, axes, _, seed, sparse = drawn
    for axis, tile in itertools.product(axes, grid.indices()):
        if not grid.has_neighbour(tile, axis, side):
            continue
        expected = shown(grid, axes, tile, seed, sparse)
        face = expected[relative_box(grid.core(tile), grid.region(tile))].take(-side, axis)
        box = strip_box(grid, tile, axis, side)
        seen = expected[relative_box(box, grid.region(tile))]
        strip = cut_strip(border_stretches(grid, axes, tile, seed, sparse), grid, tile, axis, side)
        assert strip.box == box
        assert np.array_equal(painted(strip), np.where(np.isin(seen, face), seen, 0))


@given(grids(), st.integers(0, 1), st.data())
def test_boxes_of_strips_are_those_of_each_tile(drawn, side, data):
    grid, axes, *_ = drawn
    numbers = data.draw(st.lists(st.integers(0, grid.n_tiles - 1), min_size=1))
    boxes = strip_boxes(grid, np.array(numbers), axes[0], side)
    expected = [strip_box(grid, grid.index(number), axes[0], side) for number in numbers]
    assert [tuple(slice(*ends) for ends in box) for box in boxes.tolist()] == expected
    assert boxes.dtype == np.int64


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
        near_borders(labels, grid.region((i, 0)), grid.core((i, 0)), depths)
        for i, depths in enumerate(([(0, 1), (0, 0)], [(1, 0), (0, 0)]))
    ]
    found, _ = compare_pieces(pairs.of((0, 0), (1, 0)), *tiles, pairs.strides)
    assert found.tolist() == [[i + 1, i + 1, 2, 2, 2, 2 * i] for i in range(n)]
