"""Whether tiles have one id alone, and whether it falls into pieces."""

import itertools

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockbuster.stage.masks import MaskWatch, describe_mask


@st.composite
def tiles(draw):
    """Labels of a few voxels, mostly with one id, and axes along which positions are apart."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    ids = draw(st.sampled_from([[0, 0, 1], [0, 1, 1], [0, 255], [0, 0, 0, 1, 2]]))
    labels = draw(hnp.arrays("uint8", shape, elements=st.sampled_from(ids), fill=st.nothing()))
    labels.flat[draw(st.integers(0, labels.size - 1))] = ids[-1]
    return labels, tuple(draw(st.sets(st.sampled_from(range(len(shape))))))


def planes(labels, apart_axes):
    """The labels at each position along some axes."""
    lengths = [range(n) if axis in apart_axes else [slice(None)] for axis, n in enumerate(labels.shape)]
    return [labels[place] for place in itertools.product(*lengths)]


def n_pieces(plane):
    """Pieces of what is labelled, of which none touch by a corner; a voxel alone is one."""
    if not np.ndim(plane):
        return int(plane > 0)
    voxels = [tuple(voxel) for voxel in np.argwhere(plane).tolist()]
    near = [
        (i, j)
        for (i, p), (j, q) in itertools.combinations(enumerate(voxels), 2)
        if all(abs(a - b) <= 1 for a, b in zip(p, q, strict=True))
    ]
    return len(set(naive.join(len(voxels), near)))


@settings(max_examples=examples(200))
@given(tiles())
@example((np.array([[1, 0], [0, 1]]), ()))
@example((np.array([[1, 0], [0, 1]]), (0,)))
@example((np.array([[1, 0, 1], [0, 1, 0]]), (0,)))
@example((np.array([[1, 0, 2], [0, 1, 0]]), (0,)))
def test_B24_one_id_in_pieces_is_told_from_one_object_and_from_two_ids(tile):
    labels, apart_axes = tile
    watch = MaskWatch(apart_axes)
    watch.look(labels, len(np.unique(naive.keep_apart(labels, set(range(labels.ndim)) - set(apart_axes)))) - 1)
    parts = planes(labels, apart_axes)
    if any(len(np.unique(part[part > 0])) > 1 for part in parts):
        assert watch.in_pieces is None
    else:
        assert watch.in_pieces == any(n_pieces(part) > 1 for part in parts)


def test_B24_one_tile_with_two_ids_settles_it():
    one, pieces, two = np.array([[1, 1, 0]]), np.array([[1, 0, 1]]), np.array([[1, 0, 2]])
    for order in itertools.permutations([one, pieces, two]):
        watch = MaskWatch(())
        for labels in order:
            watch.look(labels, len(np.unique(labels)) - 1)
        assert watch.in_pieces is None


def test_B24_after_four_tiles_in_one_piece_two_ids_alone_are_looked_for():
    watch = MaskWatch(())
    for labels in [[1, 1, 0]] * 4 + [[1, 0, 1]]:
        watch.look(np.array(labels), 1)
        assert watch.in_pieces is False
    watch.look(np.array([1, 2, 0]), 1)
    assert watch.in_pieces is None


def test_B24_the_halo_counts():
    """Of what lies in a tile's core alone, one object may be two pieces, and two objects one."""
    bow = np.array([[1, 0, 1], [1, 1, 1]])
    watch = MaskWatch(())
    watch.look(bow, 1)
    assert watch.in_pieces is False
    watch.look(np.array([[1, 0, 1], [0, 0, 2]]), 1)
    assert watch.in_pieces is None


@pytest.mark.parametrize(("n", "text"), [(1, "everything becomes"), (12, "each of the 12 tiles with")])
def test_what_is_said_counts_the_tiles(n, text):
    assert text in describe_mask(n)
    assert ("tiles" in describe_mask(n)) == (n > 1)
