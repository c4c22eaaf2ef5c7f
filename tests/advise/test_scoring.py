"""Scores of label images, against all pairs of masks."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockbuster.advise.scoring import score_labels


@st.composite
def label_pairs(draw):
    shape = draw(hnp.array_shapes(max_dims=3, max_side=5))
    labels = hnp.arrays(np.int32, shape, elements=st.integers(0, 4))
    return draw(labels), draw(labels)


@given(label_pairs())
def test_objects_are_matched_split_and_merged_as_their_masks_say(pair):
    expected, found = pair
    ours = [expected == i for i in np.unique(expected) if i]
    theirs = [found == i for i in np.unique(found) if i]
    score = score_labels(expected, found)
    assert (score.n_expected, score.n_found) == (len(ours), len(theirs))
    for least in (0.5, 0.9):
        good = [(a & b).sum() / (a | b).sum() > least for a, b in itertools.product(ours, theirs)]
        assert score.matched[least] == sum(good)
        total = len(ours) + len(theirs)
        assert score.f1(least) == (2 * sum(good) / total if total else 1)
    inside = [[2 * (a & b).sum() > b.sum() for b in theirs] for a in ours]
    assert score.n_split == sum(sum(row) > 1 for row in inside)
    inside = [[2 * (a & b).sum() > a.sum() for a in ours] for b in theirs]
    assert score.n_merged == sum(sum(row) > 1 for row in inside)


@given(label_pairs(), st.randoms(use_true_random=False))
def test_objects_in_a_place_are_scored_by_themselves(pair, random):
    expected, found = pair
    near = np.array([random.random() < 0.3 for _ in range(expected.size)]).reshape(expected.shape)
    ours, theirs = ({i: labels == i for i in np.unique(labels) if i} for labels in pair)
    near_ours, near_theirs = ([i for i in masks if (masks[i] & near).any()] for masks in (ours, theirs))
    score = score_labels(expected, found, near)
    for least in (0.5, 0.9):
        good = [
            (i, j)
            for i, j in itertools.product(ours, theirs)
            if (ours[i] & theirs[j]).sum() / (ours[i] | theirs[j]).sum() > least
        ]
        recalled = sum(i in near_ours for i, _ in good) / max(1, len(near_ours))
        precise = sum(j in near_theirs for _, j in good) / max(1, len(near_theirs))
        f1 = 2 * recalled * precise / (recalled + precise) if recalled + precise else 0
        assert np.isclose(score.near[least], f1 if near_ours or near_theirs else 1)


def test_score_counts_an_object_in_pieces_and_two_objects_in_one():
    whole, parts = np.array([[1, 1, 1, 1, 0, 2, 2, 5]]), np.array([[3, 3, 4, 4, 0, 6, 6, 7]])
    score, reverse = (score_labels(*pair) for pair in [(whole, parts), (parts, whole)])
    assert (score.n_split, score.n_merged, score.matched[0.5]) == (1, 0, 2)
    assert (reverse.n_split, reverse.n_merged, reverse.matched[0.5]) == (0, 1, 2)
    assert score.f1() == reverse.f1() == 4 / 7
