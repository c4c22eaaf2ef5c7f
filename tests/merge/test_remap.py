import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import partitions, shapes, tile_shapes

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.merge import remap
from blockbuster.merge.remap import cut_box, remap_boxes
from blockbuster.output.layout import label_chunks


@st.composite
def brick_grids(draw):
    shape = draw(shapes())
    regular = tile_shapes(shape).map(lambda tile: naive.cut(shape, tile))
    lengths = draw(st.one_of(regular, st.tuples(*(partitions(n) for n in shape))))
    grid = TileGrid(lengths, (0,) * len(shape))
    return BrickGrid(grid, draw(st.tuples(*(st.integers(1, n) for n in grid.grid_shape))))


@given(brick_grids(), st.data())
@example(BrickGrid(TileGrid(((3, 11, 1, 5),), (0,)), (2,)), None)
def test_every_shard_of_the_output_is_in_one_box(bricks, data):
    shape = bricks.grid.shape
    shard = data.draw(st.tuples(*(st.integers(1, n + 3) for n in shape))) if data else (4,)
    box_of_voxel = np.full(shape, -1)
    boxes = remap_boxes(bricks, shard)
    for number, box in enumerate(boxes.indices()):
        assert np.all(box_of_voxel[boxes.core(box)] == -1)
        box_of_voxel[boxes.core(box)] = number
    for _, core, _ in naive.tiles(naive.cut(shape, shard), (0,) * len(shape)):
        assert len(np.unique(box_of_voxel[core])) == 1
        assert box_of_voxel[core].min() >= 0


@given(brick_grids())
def test_boxes_of_the_layout_that_is_used_have_no_halo_and_cover_the_image(bricks):
    boxes = remap_boxes(bricks, label_chunks(bricks.grid)[1])
    assert boxes.shape == bricks.grid.shape
    assert boxes.halo == (0,) * boxes.ndim


def test_box_is_about_as_large_as_a_brick():
    bricks = BrickGrid(TileGrid.regular((16384, 16384), (256, 256), (0, 0)), (16, 16))
    assert remap_boxes(bricks, (2048, 2048)).tile_shape == (4096, 4096)
    assert remap_boxes(bricks, (8192, 8192)).tile_shape == (8192, 8192)


@given(brick_grids(), st.integers(1, 2000), st.data())
def test_strips_of_a_box_cover_it_and_no_shard_is_in_two(bricks, most, data):
    shape = bricks.grid.shape
    shard = data.draw(st.tuples(*(st.integers(1, n + 3) for n in shape)))
    strip_of_voxel = np.full(shape, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remap, "STRIP_VOXELS", most)
        boxes = remap_boxes(bricks, shard)
        strips = [strip for box in boxes.indices() for strip in cut_box(boxes.core(box), shard)]
    for number, strip in enumerate(strips):
        assert np.all(strip_of_voxel[strip] == -1)
        strip_of_voxel[strip] = number
        assert strip_of_voxel[strip].size <= most or strip[0].stop - strip[0].start <= shard[0]
    for _, core, _ in naive.tiles(naive.cut(shape, shard), (0,) * len(shape)):
        assert len(np.unique(strip_of_voxel[core])) == 1
        assert strip_of_voxel[core].min() >= 0
