import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockbuster.seams.pairs import collect_inner_pairs, collect_touching_pairs, unique_pairs


@st.composite
def planes(draw):
    """Two planes of the same shape, the axes along which neighbours may be aside, and along how many."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b = random.integers(0, draw(st.integers(1, 9)), (2, *shape))
    axes = sorted(draw(st.sets(st.sampled_from(range(len(shape))))))
    dtypes = draw(st.tuples(*[st.sampled_from([np.uint16, np.uint32])] * 2))
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


@st.composite
def bricks(draw):
    """A brick of tiles with labels that are distinct in it."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
    seams = [np.array(sorted(draw(st.sets(st.integers(1, n - 1)))) if n > 1 else [], int) for n in shape]
    tile = np.zeros(shape, int)
    for axis, cuts in enumerate(seams):
        along = np.searchsorted(cuts, np.arange(shape[axis]), side="right")
        tile = tile * (len(cuts) + 1) + along.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    local = random.integers(0, draw(st.integers(2, 4)), shape)
    labels = np.where(local > 0, 3 * tile + local, 0).astype(np.uint16)
    axes = sorted(draw(st.sets(st.sampled_from(range(len(shape))))))
    return labels, tile, seams, axes, draw(st.integers(1, len(shape)))


@settings(max_examples=examples(150))
@given(bricks())
def test_inner_pairs_are_those_of_neighbouring_voxels_of_different_tiles(brick):
    labels, tile, seams, axes, connectivity = brick
    expected = set()
    for step in naive.steps(labels.ndim, connectivity, axes):
        for (here, there), (mine, other) in zip(
            zip(*map(np.ravel, naive.shifted(labels, step)), strict=True),
            zip(*map(np.ravel, naive.shifted(tile, step)), strict=True),
            strict=True,
        ):
            if here and there and mine != other:
                expected.add(frozenset((int(here), int(there))))
    found = collect_inner_pairs(labels, seams, axes, connectivity)
    assert {frozenset(pair) for pair in found.tolist()} == expected
    assert len(unique_pairs(found)) == len(found)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_unique_pairs_are_sorted_and_distinct(pairs):
    found = unique_pairs(np.array(pairs, np.int64).reshape(-1, 2))
    assert [tuple(pair) for pair in found.tolist()] == sorted(set(pairs))


@pytest.mark.parametrize("thickness", [1, 2])
def test_seams_of_tiles_that_are_thin_are_all_met(thickness):
    labels = np.arange(1, 13, dtype=np.uint32)
    seams = [np.arange(thickness, 12, thickness)]
    expected = [(n, n + 1) for n in range(thickness, 12, thickness)]
    assert [tuple(pair) for pair in collect_inner_pairs(labels, seams, [0], 1).tolist()] == expected


@pytest.mark.parametrize(("seams", "axes"), [(([], []), [0, 1]), (([2], [2]), []), (([2], []), [1])])
def test_no_seam_along_the_axes_means_no_pairs(seams, axes):
    labels = np.arange(1, 17, dtype=np.uint16).reshape(4, 4)
    assert collect_inner_pairs(labels, [np.array(axis, int) for axis in seams], axes, 2).shape == (0, 2)
