import itertools
import math

import naive
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import shapes, tile_shapes

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.stage.bricks import BRICK_VOXELS, BRICKS_PER_WORKER, bricks_of, choose_bricks, limit_bricks


@st.composite
def grids(draw):
    shape = draw(shapes())
    halo = draw(st.tuples(*(st.integers(0, n) for n in shape)))
    return TileGrid(naive.cut(shape, draw(tile_shapes(shape))), halo)


@st.composite
def grids_and_units(draw):
    grid = draw(grids())
    return grid, draw(st.tuples(*(st.integers(1, n + 1) for n in grid.shape)))


def most_tiles(bricks):
    return math.prod(
        min(n, whole) for n, whole in zip(bricks.tiles_per_brick, bricks.grid.grid_shape, strict=True)
    )


@given(grids_and_units(), st.integers(1, 8), st.integers(1, 10**4))
def test_chosen_brick_fits_the_limit_or_is_one_tile(grid_and_unit, n_workers, most_voxels):
    grid, unit = grid_and_unit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.stage.bricks.BRICK_VOXELS", most_voxels)
        bricks = choose_bricks(grid, unit, n_workers)
    assert bricks.grid == grid
    assert all(1 <= n <= whole for n, whole in zip(bricks.tiles_per_brick, grid.grid_shape, strict=True))
    assert most_tiles(bricks) == 1 or math.prod(bricks.brick_shape) <= most_voxels


@given(grids_and_units(), st.integers(1, 8))
def test_every_worker_gets_a_brick_where_there_are_tiles_enough(grid_and_unit, n_workers):
    grid, unit = grid_and_unit
    bricks = choose_bricks(grid, unit, n_workers)
    assert most_tiles(bricks) == 1 or math.prod(bricks.brick_shape) <= -(-math.prod(grid.shape) // n_workers)


@given(grids(), st.integers(1, 8))
def test_every_worker_gets_several_bricks_where_nothing_is_read_twice(grid, n_workers):
    grid = TileGrid(grid.lengths, (0,) * grid.ndim)
    bricks = choose_bricks(grid, (1,) * grid.ndim, n_workers)
    share = -(-math.prod(grid.shape) // (BRICKS_PER_WORKER[0] * n_workers))
    assert most_tiles(bricks) == 1 or math.prod(bricks.brick_shape) <= share


def test_bricks_grow_rather_than_decode_everything_several_times():
    """Chunks of 64 voxels: bricks of 16 tiles of 8 would each decode two, bricks of 32 tiles three."""
    wasteful = TileGrid.regular((1024,), (8,), (32,))
    assert choose_bricks(wasteful, (512,), 2).tiles_per_brick > choose_bricks(wasteful, (1,), 2).tiles_per_brick


def n_decoded(bricks, unit):
    """How many units all tasks decode, one after another."""
    regions = (bricks.region(bricks.index(number)) for number in range(bricks.n_bricks))
    return sum(
        math.prod(-(-part.stop // n) - part.start // n for part, n in zip(region, unit, strict=True))
        for region in regions
    )


@given(grids_and_units(), st.integers(1, 60))
def test_no_other_task_of_as_many_tiles_decodes_less(grid_and_unit, tiles_per_task):
    grid, unit = grid_and_unit
    chosen = bricks_of(grid, unit, tiles_per_task)
    least = n_decoded(chosen, unit)
    counts = [[min(2**k, n) for k in range(n.bit_length() + 1)] for n in grid.grid_shape]
    for others in itertools.product(*counts):
        assert math.prod(others) <= most_tiles(chosen) or math.prod(others) > tiles_per_task
        if math.prod(others) == most_tiles(chosen):
            assert least <= n_decoded(BrickGrid(grid, others), unit)


@pytest.mark.parametrize(("length", "tile", "halo"), [(16384, 256, 16), (16384, 1024, 32), (32768, 512, 32)])
def test_a_chunk_of_a_large_plane_is_decoded_about_twice_on_the_average(length, tile, halo):
    grid = TileGrid.regular((length,) * 2, (tile,) * 2, (halo,) * 2)
    assert n_decoded(choose_bricks(grid, (1024, 1024), 2), (1024, 1024)) <= 2.1 * (length // 1024) ** 2


@pytest.mark.parametrize("n_planes", [6, 12, 20])
def test_planes_of_one_chunk_each_are_decoded_once(n_planes):
    grid = TileGrid.regular((n_planes, 2048, 2048), (1, 256, 256), (0, 32, 32))
    bricks = choose_bricks(grid, (1, 2048, 2048), n_planes // 3)
    assert n_decoded(bricks, (1, 2048, 2048)) == n_planes


@given(grids_and_units(), st.integers(1, 60))
def test_task_has_at_most_the_tiles_asked_for_and_more_than_half_of_what_fits(grid_and_unit, tiles_per_task):
    grid, unit = grid_and_unit
    bricks = bricks_of(grid, unit, tiles_per_task)
    assert most_tiles(bricks) <= tiles_per_task
    assert 2 * most_tiles(bricks) > min(tiles_per_task, grid.n_tiles) / 2


@given(grids(), st.data(), st.integers(0, 100))
def test_limited_brick_has_at_most_so_many_tiles_and_is_nowhere_longer(grid, data, limit):
    counts = data.draw(st.tuples(*(st.integers(1, n) for n in grid.grid_shape)))
    limited = limit_bricks(BrickGrid(grid, counts), limit)
    assert math.prod(limited.tiles_per_brick) <= max(1, limit)
    assert all(1 <= n <= before for n, before in zip(limited.tiles_per_brick, counts, strict=True))


def test_limit_that_is_not_reached_changes_nothing():
    bricks = BrickGrid(TileGrid.regular((80, 80), (10, 10), (1, 1)), (4, 8))
    assert limit_bricks(bricks, 32) == bricks


def test_bricks_of_a_large_image_are_tens_of_megabytes_and_whole_chunks():
    grid = TileGrid.regular((16384, 16384), (256, 256), (16, 16))
    bricks = choose_bricks(grid, (1024, 1024), n_workers=2)
    assert all(n % 1024 == 0 for n in bricks.brick_shape)
    assert BRICK_VOXELS / 8 <= math.prod(bricks.brick_shape) <= BRICK_VOXELS


def test_brick_grows_first_along_the_axis_that_is_read_whole_anyway():
    grid = TileGrid.regular((64, 64), (4, 4), (2, 2))
    assert bricks_of(grid, (1, 64), 4).tiles_per_brick == (1, 4)
    assert bricks_of(grid, (64, 1), 4).tiles_per_brick == (4, 1)


@pytest.mark.parametrize("n_workers", [1, 2, 64])
def test_one_tile_is_one_brick(n_workers):
    assert choose_bricks(TileGrid.regular((5, 5), (8, 8), (2, 2)), (5, 5), n_workers).n_bricks == 1


def test_a_brick_covers_so_many_units_at_most_unless_one_tile_has_more():
    grid = TileGrid.regular((1000, 1000), (20, 20), (0, 0))
    assert choose_bricks(grid, (10, 10), 2).tiles_per_brick == (16, 16)
    assert choose_bricks(grid, (10, 10), 2, most_units=64).tiles_per_brick == (4, 4)
    assert choose_bricks(grid, (1, 1), 2, most_units=64).tiles_per_brick == (1, 1)
