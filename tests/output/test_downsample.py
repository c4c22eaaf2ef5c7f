"""A coarse voxel has the label that most of its voxels have."""

import itertools

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockbuster.kernels.downsample import mode_of_blocks, mode_of_pairs
from blockbuster.output import downsample
from blockbuster.output.downsample import Coarsening, vote


@st.composite
def votes(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=7))
    dtype = draw(st.sampled_from(["int32", "int64"]))
    labels = draw(hnp.arrays(dtype, shape, elements=st.integers(0, 3)))
    blocks = tuple(draw(st.integers(1, 5)) for _ in shape)
    starts = [np.sort(np.array(draw(st.lists(st.integers(0, n - 1), max_size=4)), np.int64)) for n in shape]
    return labels, starts, blocks


@given(votes(), st.sampled_from([1, 30, downsample.COPIED_VOXELS]))
def test_B27_each_block_gives_the_label_of_most_of_its_voxels(given_votes, n_copied):
    labels, starts, blocks = given_votes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downsample, "COPIED_VOXELS", n_copied)
        voted = vote(labels, starts, blocks)
    np.testing.assert_array_equal(voted, naive.vote(labels, starts, blocks))


@st.composite
def levels(draw):
    """Labels, and a level that is 2 to 5 times as coarse along each axis, rounded up or down."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=11))
    labels = draw(hnp.arrays("int32", shape, elements=st.integers(0, 3), fill=st.nothing()))
    factors = tuple(draw(st.integers(2, 5)) for _ in shape)
    sizes = [draw(st.sampled_from([-(-n // f), max(1, n // f)])) for n, f in zip(shape, factors, strict=True)]
    return labels, tuple(sizes), factors


@given(levels())
@example((np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 2]], np.int32), (1, 2), (3, 3)))
def test_B27_voxels_at_the_edge_of_a_coarser_level_vote_once(given_levels):
    labels, shape, factors = given_levels
    step = Coarsening(labels.shape, shape, tuple(map(float, factors)))
    box = tuple(slice(0, n) for n in shape)
    starts = [np.arange(n) * factor for n, factor in zip(shape, factors, strict=True)]
    coarse = step.coarsen(labels[step.fine_box(box)], box)
    np.testing.assert_array_equal(coarse, naive.vote(labels, starts, factors))


def test_the_kernel_gives_the_same_compiled_and_as_python(as_run):
    labels = np.random.default_rng(0).integers(0, 3, 600).astype(np.int32)
    rows, columns, offsets = np.array([0, 150, 290]), np.arange(0, 290, 7), np.array([0, 1, 4, 9])
    out = np.full((len(rows), len(columns)), -1, np.int32)
    as_run(mode_of_blocks)(labels, *(part.astype(np.uint64) for part in (rows, columns, offsets)), out)
    starts = rows[:, None] + columns
    expected = [naive.most_frequent(labels[start + offsets].tolist()) for start in starts.ravel()]
    assert out.ravel().tolist() == expected


@st.composite
def halved_labels(draw):
    """Labels of which two axes, or three, are halved, with any width."""
    ndim = draw(st.integers(2, 4))
    blocks = (1,) * (ndim - 2) + (2, 2) if ndim == 2 or draw(st.booleans()) else (1,) * (ndim - 3) + (2, 2, 2)
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    labels = draw(hnp.arrays("int32", shape, elements=st.sampled_from([0, 0, 1, 2, 2**31 - 1])))
    return labels, blocks


@given(halved_labels())
def test_halved_labels_are_those_of_most_voxels(given_labels):
    labels, blocks = given_labels
    starts = [np.arange(0, n, block) for n, block in zip(labels.shape, blocks, strict=True)]
    np.testing.assert_array_equal(vote(labels, starts, blocks), naive.vote(labels, starts, blocks))


@pytest.mark.parametrize("n_rows", [2, 4])
def test_the_kernel_of_pairs_gives_the_same_compiled_and_as_python(n_rows, as_run):
    labels = np.random.default_rng(n_rows).choice([0, 1, 2, 2**31 - 1], (3 * n_rows, 20)).astype(np.int32)
    rows, offsets = np.arange(0, 3 * n_rows * 10, n_rows * 10), np.arange(n_rows) * 10
    out = np.full((3, 10), -1, np.int32)
    pairs = labels.reshape(-1).view(np.uint64)
    as_run(mode_of_pairs)(pairs, rows.astype(np.uint64), offsets.astype(np.uint64), out)
    blocks = labels.reshape(3, n_rows, 10, 2).swapaxes(1, 2).reshape(30, 2 * n_rows)
    assert out.ravel().tolist() == [naive.most_frequent(block) for block in blocks.tolist()]


def test_labels_in_any_memory_order_are_read_alike():
    labels = np.random.default_rng(1).integers(0, 3, (6, 8, 4)).astype(np.int64)
    starts = [np.arange(0, n, 2) for n in labels.shape]
    expected = vote(labels, starts, (2, 2, 2))
    np.testing.assert_array_equal(vote(np.asfortranarray(labels), starts, (2, 2, 2)), expected)
    np.testing.assert_array_equal(vote(np.repeat(labels, 2, axis=0)[::2], starts, (2, 2, 2)), expected)


SIZES = [
    # fine, coarse, ratio
    (16, 8, 2.0),
    (17, 8, 2.0),
    (17, 9, 2.0),
    (61, 30, 61 / 30),
    (61, 25, 61 / 25),
    (100, 33, 100 / 33),
    (100, 30, 10 / 3),
    (5, 5, 1.0),
    (7, 2, 4.0),
    (9, 4, 2.0027),
    (1, 1, 2.0),
    (20, 7, 2.5),
]


@pytest.mark.parametrize(("fine", "coarse", "ratio"), SIZES)
def test_any_box_of_a_level_is_made_of_its_fine_box_alone(fine, coarse, ratio):
    step = Coarsening((fine,), (coarse,), (ratio,))
    labels = np.random.default_rng(fine).integers(0, 4, fine).astype(np.int32)
    whole = step.coarsen(labels[step.fine_box((slice(0, coarse),))], (slice(0, coarse),))
    for start, stop in itertools.combinations(range(coarse + 1), 2):
        box = (slice(start, stop),)
        np.testing.assert_array_equal(step.coarsen(labels[step.fine_box(box)], box), whole[start:stop])


@pytest.mark.parametrize(("fine", "coarse", "ratio"), SIZES)
def test_a_coarse_voxel_stands_for_what_lies_in_the_middle_of_it(fine, coarse, ratio):
    step = Coarsening((fine,), (coarse,), (ratio,))
    block = round(ratio)
    # Blocks side by side may leave, or lack, less than one block at the end.
    allowed = max(0.5, abs(fine - coarse * ratio), abs(fine - coarse * block) if step.is_even else 0)
    for number in range(coarse):
        (part,) = step.fine_box((slice(number, number + 1),))
        assert 0 <= part.start < part.stop <= fine
        assert part.stop - part.start == min(block, fine - part.start)
        if part.stop - part.start == block:
            assert abs((part.start + part.stop) / 2 - (number + 0.5) * ratio) <= allowed


@pytest.mark.parametrize(("fine", "coarse"), [(16, 8), (17, 8), (17, 9), (18, 9)])
@pytest.mark.parametrize("unit", [2, 4, 6])
def test_even_boxes_share_out_the_coarse_level_without_gap_or_overlap(fine, coarse, unit):
    step = Coarsening((fine,), (coarse,), (2.0,))
    assert step.is_even
    parts = [step.coarse_box((slice(start, min(start + unit, fine)),))[0] for start in range(0, fine, unit)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(coarse))


def test_levels_of_another_length_than_a_part_of_the_finer_one_are_uneven():
    assert Coarsening((61, 7), (30, 7), (61 / 30, 1.0)).is_even
    assert not Coarsening((61, 7), (29, 7), (61 / 29, 1.0)).is_even
