import tempfile
from pathlib import Path

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.kernels.pairs import collect_touching_pairs, unique_pairs
from blockbuster.merge.rules import Touch
from blockbuster.rundir.sections import SectionFile
from blockbuster.rundir.staged import StagedLabels
from blockbuster.stage.brick_labels import BrickLabels

# Run as plain Python, the product that mixes the bits of an id wraps with a warning; it is meant to.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


@st.composite
def planes(draw):
    """Two planes of the same shape, the axes along which neighbours may be aside, and along how many."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b = random.integers(0, draw(st.integers(1, 9)), (2, *shape))
    axes = sorted(draw(st.sets(st.sampled_from(range(len(shape))))))
    dtypes = draw(st.tuples(*[st.sampled_from([np.uint16, np.uint32, np.int32])] * 2))
    return a.astype(dtypes[0]), b.astype(dtypes[1]), axes, draw(st.integers(0, len(shape)))


@settings(max_examples=examples(150))
@given(planes())
def test_touching_pairs_are_those_of_neighbouring_voxels(drawn):
    a, b, axes, max_steps = drawn
    found = collect_touching_pairs(a, b, axes, max_steps)
    assert found.dtype == np.int64
    assert [tuple(pair) for pair in found.tolist()] == naive.touching_pairs(a, b, axes, max_steps)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_neighbours_across_a_seam_are_those_of_the_connectivity(connectivity):
    """Of a voxel in the middle: a face, four edges, four corners."""
    a, b = np.zeros((1, 3, 3), np.uint32), np.arange(1, 10, dtype=np.uint32).reshape(1, 3, 3)
    a[0, 1, 1] = 1
    pairs = collect_touching_pairs(a, b, [1, 2], connectivity - 1)
    assert len(pairs) == {1: 1, 2: 5, 3: 9}[connectivity]


def inner_pairs(image, lengths, axes, connectivity, halo=None):
    """What a brick of all tiles writes of the labels that touch in it."""
    grid = TileGrid(tuple(map(tuple, lengths)), halo or (0,) * image.ndim)
    staged = StagedLabels("", BrickGrid(grid, grid.grid_shape), tuple(axes), connectivity, "touch")
    brick = BrickLabels(staged, (0,) * image.ndim, Touch())
    for tile in grid.indices():
        brick.add(tile, image[grid.region(tile)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(brick.sections().to_bytes())
        return SectionFile(path).read("pairs")


@st.composite
def bricks(draw):
    """A brick of tiles, its voxels' labels, the axes along which it is merged, and the connectivity."""
    ndim = draw(st.integers(1, 4))
    longest, most = {1: (5, 6), 2: (4, 4), 3: (3, 3), 4: (3, 2)}[ndim]
    lengths = [draw(st.lists(st.integers(1, longest), min_size=1, max_size=most)) for _ in range(ndim)]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = draw(st.sampled_from([[0, 1], [0, 1, 2], [0, 3, 2**40, 2**63 - 1]]))
    image = np.array(ids)[random.integers(0, len(ids), [sum(axis) for axis in lengths])]
    axes = sorted(draw(st.sets(st.sampled_from(range(ndim)))))
    return image, lengths, axes, draw(st.integers(1, ndim)), draw(st.tuples(*[st.integers(0, 2)] * ndim))


@settings(max_examples=examples(150))
@given(bricks())
def test_inner_pairs_are_those_of_neighbouring_voxels_of_different_tiles(brick):
    image, lengths, axes, connectivity, halo = brick
    seen = naive.look(image, np.copy, lengths, halo)
    ids, tile_of_voxel = naive.assemble(seen, image.shape)
    voxels = naive.voxels_side_by_side(ids, tile_of_voxel, connectivity, axes)
    expected = {tuple(sorted((int(ids[p]), int(ids[q])))) for p, q in voxels}
    found = inner_pairs(image, lengths, axes, connectivity, halo)
    assert [tuple(pair) for pair in found.tolist()] == sorted(expected)
    assert found.dtype == np.int64


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_unique_pairs_are_sorted_and_distinct(pairs):
    found = unique_pairs(np.array(pairs, np.int64).reshape(-1, 2))
    assert [tuple(pair) for pair in found.tolist()] == sorted(set(pairs))


@pytest.mark.parametrize("thickness", [1, 2])
def test_seams_of_tiles_that_are_thin_are_all_met(thickness):
    labels = np.arange(1, 13)
    expected = [(n, n + 1) for n in range(thickness, 12, thickness)]
    found = inner_pairs(labels, [[thickness] * (12 // thickness)], [0], 1)
    assert [tuple(pair) for pair in found.tolist()] == expected


@pytest.mark.parametrize(
    ("lengths", "axes"), [(([4], [4]), [0, 1]), (([2, 2], [2, 2]), []), (([2, 2], [4]), [1])]
)
def test_no_seam_along_the_axes_means_no_pairs(lengths, axes):
    labels = np.arange(1, 17, dtype=np.uint16).reshape(4, 4)
    assert inner_pairs(labels, lengths, axes, 2).shape == (0, 2)
