"""The grid and its bricks cover the image once, in C order, and clamp their halos."""

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import partitions, shapes, tile_shapes

from blockbuster.grid import BrickGrid, TileGrid, relative_box


@st.composite
def grids(draw):
    """Grids with regular and irregular tiles and halos of any depth."""
    shape = draw(shapes())
    if draw(st.booleans()):
        lengths = naive.cut(shape, draw(tile_shapes(shape)))
    else:
        lengths = draw(st.tuples(*(partitions(n, most_parts=3) for n in shape)))
    return TileGrid(lengths, draw(st.tuples(*(st.integers(0, n + 2) for n in shape))))


@st.composite
def brick_grids(draw):
    grid = draw(grids())
    return BrickGrid(grid, draw(st.tuples(*(st.integers(1, n + 1) for n in grid.grid_shape))))


@given(grids())
@example(TileGrid(((3, 1), (1,), (5, 5, 2)), (9, 0, 1)))
def test_tiles_and_their_halos_are_those_of_the_slow_twin(grid):
    expected = list(naive.tiles(grid.lengths, grid.halo))
    assert list(grid.indices()) == [index for index, _, _ in expected]
    assert [grid.index(number) for number in range(grid.n_tiles)] == [index for index, _, _ in expected]
    assert [(grid.core(index), grid.region(index)) for index in grid.indices()] == [
        (core, region) for _, core, region in expected
    ]


@given(grids())
def test_every_voxel_is_in_the_core_of_one_tile(grid):
    covered = np.zeros(grid.shape, int)
    for index in grid.indices():
        covered[grid.core(index)] += 1
    assert np.all(covered == 1)


@given(shapes(), st.data())
def test_regular_grid_has_the_tiles_asked_for(shape, data):
    tile = data.draw(tile_shapes(shape))
    grid = TileGrid.regular(shape, tile, (0,) * len(shape))
    assert grid.lengths == naive.cut(shape, tile)
    assert grid.shape == shape
    assert grid.tile_shape == tuple(min(n, t) for n, t in zip(shape, tile, strict=True))


@given(brick_grids())
@example(BrickGrid(TileGrid(((3, 1, 2), (5,)), (2, 2)), (2, 3)))
def test_every_tile_is_in_one_brick(bricks):
    tiles = [tile for n in range(bricks.n_bricks) for tile in bricks.tile_indices(bricks.index(n))]
    assert len(tiles) == bricks.grid.n_tiles
    assert set(tiles) == set(bricks.grid.indices())
    assert sum(bricks.n_tiles(bricks.index(n)) for n in range(bricks.n_bricks)) == bricks.grid.n_tiles


@given(brick_grids())
def test_brick_is_the_box_around_its_tiles_and_its_region_holds_theirs(bricks):
    grid = bricks.grid
    for number in range(bricks.n_bricks):
        index = bricks.index(number)
        assert bricks.number(index) == number
        inside = np.zeros(grid.shape, int)
        for tile in bricks.tile_indices(index):
            inside[grid.core(tile)] += 1
            relative = relative_box(grid.region(tile), bricks.region(index))
            assert all(part.start >= 0 for part in relative)
        expected = np.zeros(grid.shape, int)
        expected[bricks.core(index)] = 1
        assert np.array_equal(inside, expected)
        assert bricks.region(index) == grid.grow(bricks.core(index))
        lengths = [part.stop - part.start for part in bricks.core(index)]
        assert all(n <= longest for n, longest in zip(lengths, bricks.brick_shape, strict=True))


@given(brick_grids())
def test_brick_shape_is_that_of_the_longest_brick(bricks):
    cores = [bricks.core(bricks.index(n)) for n in range(bricks.n_bricks)]
    longest = np.max([[part.stop - part.start for part in core] for core in cores], axis=0)
    assert bricks.brick_shape == tuple(longest)


@given(brick_grids())
def test_cores_of_tiles_by_their_numbers_are_those_by_their_indices(bricks):
    grid = bricks.grid
    numbers = np.arange(grid.n_tiles)[::-2]
    cores = [[(part.start, part.stop) for part in grid.core(grid.index(number))] for number in numbers.tolist()]
    assert grid.cores(numbers).tolist() == [list(map(list, core)) for core in cores]


def test_region_that_is_read_for_a_brick_is_clamped_like_that_of_its_outer_tiles():
    bricks = BrickGrid(TileGrid.regular((100, 30), (10, 30), (25, 4)), (3, 1))
    assert bricks.region((1, 0)) == (slice(5, 85), slice(0, 30))


def test_axis_that_fn_consumed_is_dropped():
    grid = TileGrid(((3, 1), (2,), (5, 5, 2)), (9, 0, 1))
    assert grid.without_axis(1) == TileGrid(((3, 1), (5, 5, 2)), (9, 1))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_grid_of_an_image_of_size_zero_has_no_tiles(shape):
    grid = TileGrid.regular(shape, (2,) * len(shape), (1,) * len(shape))
    assert grid.shape == shape
    assert grid.n_tiles == 0
    assert list(grid.indices()) == []
    assert BrickGrid(grid, (1,) * len(shape)).n_bricks == 0
