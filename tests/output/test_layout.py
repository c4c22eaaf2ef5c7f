import math

import naive
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import shapes, tile_shapes

from blockbuster.grid import TileGrid
from blockbuster.output.layout import CHUNK_VOXELS, SHARD_VOXELS, SMALL_FACTORS, label_chunks


@st.composite
def grids(draw):
    """Grids of images of any size."""
    ndim = draw(st.integers(1, 4))
    shape = draw(st.tuples(*[st.one_of(st.integers(1, 64), st.integers(1, 5000)) for _ in range(ndim)]))
    tile = draw(st.tuples(*(st.integers(1, n) for n in shape)))
    # Tiles so small that there are millions would only take time to count.
    tile = tuple(max(t, -(-n // 64)) for n, t in zip(shape, tile, strict=True))
    return TileGrid.regular(shape, tile, (0,) * ndim)


def cannot_be_divided(box):
    return all(length % factor for length in box for factor in SMALL_FACTORS)


@given(grids())
@example(TileGrid.regular((4999, 4999), (4999, 4999), (0, 0)))
@example(TileGrid.regular((1, 1, 1), (1, 1, 1), (0, 0, 0)))
def test_chunks_divide_shards(grid):
    chunk, shard = label_chunks(grid)
    assert all(1 <= n <= whole and whole % n == 0 for n, whole in zip(chunk, shard, strict=True))


@given(grids())
def test_chunks_and_shards_are_bounded(grid):
    chunk, shard = label_chunks(grid)
    assert math.prod(chunk) <= CHUNK_VOXELS or cannot_be_divided(chunk)
    assert math.prod(shard) <= 4 * SHARD_VOXELS or cannot_be_divided(shard)


@given(grids())
def test_shard_is_not_needlessly_longer_than_the_image(grid):
    """Twice the length at most: it is doubled while it is shorter than the image."""
    _, shard = label_chunks(grid)
    assert all(n < 2 * whole for n, whole in zip(shard, grid.shape, strict=True))


@given(shapes(), st.data())
def test_layout_depends_on_the_lengths_of_the_tiles_alone(shape, data):
    lengths = naive.cut(shape, data.draw(tile_shapes(shape)))
    halo = data.draw(st.tuples(*(st.integers(0, n) for n in shape)))
    assert label_chunks(TileGrid(lengths, halo)) == label_chunks(TileGrid(lengths, (0,) * len(shape)))


@pytest.mark.parametrize("tile", [128, 256, 512, 1024, 2048])
def test_chunks_of_a_plane_are_near_a_megabyte_and_shards_near_sixteen(tile):
    chunk, shard = label_chunks(TileGrid.regular((16384, 16384), (tile, tile), (0, 0)))
    assert CHUNK_VOXELS / 4 <= math.prod(chunk) <= CHUNK_VOXELS
    assert SHARD_VOXELS <= math.prod(shard) <= 4 * SHARD_VOXELS


def test_planes_of_a_stack_stay_planes():
    chunk, shard = label_chunks(TileGrid.regular((50, 8192, 8192), (1, 1024, 1024), (0, 0, 0)))
    assert (chunk[0], shard[0]) == (1, 1)
