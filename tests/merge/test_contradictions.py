"""Joins that tiles speak against: which are made, and which tiles do."""

import functools

import dask
import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from traced import traced

from blockbuster import tile_process
from blockbuster.kernels.stretches import StretchFinder, StretchGroup
from blockbuster.merge.contradictions import cut_contradictions, settle, touching_in_tile

labels = st.integers(1, 9)
links = st.lists(st.tuples(labels, labels).filter(lambda pair: pair[0] < pair[1]), unique=True, max_size=14)


def arrays(pairs):
    return np.array(pairs, np.int64).reshape(-1, 2)


@settings(max_examples=examples(200))
@given(links, links, st.data())
def test_joins_are_made_as_the_slow_twin_makes_them(pairs, apart, data):
    apart = [pair for pair in apart if pair not in pairs]
    ranks = data.draw(st.lists(st.sampled_from([0.3, 0.5, 0.9]), min_size=len(pairs), max_size=len(pairs)))
    expected = naive.without_contradictions(dict(zip(pairs, ranks, strict=True)), set(apart))
    is_made = settle(arrays(pairs), np.array(ranks), arrays(apart))
    assert {pair for pair, made in zip(pairs, is_made, strict=True) if made} == set(expected)


@settings(max_examples=examples(100))
@given(links.filter(bool), links, st.randoms(use_true_random=False))
def test_the_order_in_which_joins_are_found_does_not_matter(pairs, apart, random):
    apart = [pair for pair in apart if pair not in pairs]
    ranks = {pair: random.choice([0.3, 0.5, 0.9]) for pair in pairs}
    made = []
    for _ in range(2):
        random.shuffle(pairs)
        is_made = settle(arrays(pairs), np.array([ranks[pair] for pair in pairs]), arrays(apart))
        made.append({pair for pair, is_one in zip(pairs, is_made, strict=True) if is_one})
    assert made[0] == made[1]


def test_objects_without_contradictions_are_left_as_they_are():
    border, roots = np.array([1, 2, 4, 5, 7, 8]), np.array([1, 1, 1, 5, 5, 5])
    pairs, ranks = np.array([[1, 4], [2, 4], [5, 7], [7, 8]]), np.array([0.9, 0.5, 0.1, 0.1], np.float32)
    anew, is_refused = cut_contradictions(border, roots, pairs, ranks, np.array([[1, 2], [1, 2]]))
    assert anew.tolist() == [1, 2, 1, 5, 5, 5]
    assert is_refused.tolist() == [False, True, False, False]


@pytest.mark.parametrize("slab", [1, 40, 10**6])
@pytest.mark.parametrize("shape", [(17,), (9, 8), (6, 5, 4)])
def test_a_tile_is_looked_at_in_slabs_of_any_thickness(shape, slab, monkeypatch):
    monkeypatch.setattr("blockbuster.merge.contradictions.SLAB_VOXELS", slab)
    labels = np.random.default_rng(slab).integers(0, 4, shape) * (np.indices(shape).sum(axis=0) // 3 + 1)
    group, n_labels, ids = stretches_of(labels)
    found = touching_in_tile(group, 0, np.array([0]), np.arange(n_labels + 1, dtype=np.int32))
    assert set(map(tuple, (found + 1).tolist())) == naive.touching_inside_tiles(ids, np.zeros(shape, int))


def test_looking_at_a_tile_takes_little_more_memory_than_its_labels():
    group, n_labels, ids = stretches_of(np.indices((2000, 2000)).sum(axis=0) // 8 + 1)
    table = np.arange(n_labels + 1, dtype=np.int32)
    found, _, peak = traced(lambda: touching_in_tile(group, 0, np.array([0]), table))
    assert len(found) == n_labels - 1
    assert peak < 9 * ids.size


def stretches_of(labels):
    """A tile in a group of its own, and how many labels it has, and their ids."""
    box = tuple(slice(0, n) for n in labels.shape)
    tile, n_labels = StretchFinder().find(labels, box)
    group = StretchGroup.of([tile], np.array([[(0, n) for n in labels.shape]]))
    return group, n_labels, naive.number_by_appearance(labels)[0]


# Two cells side by side, and what each tile of 4 x 4 takes them for.
APART = np.repeat([[1, 1, 2, 2]], 4, axis=0)
FUSED = np.ones_like(APART)


def run_planes(planes, **options):
    """Labels of a stack whose planes are segmented one by one, and what the seams came to."""
    image = np.broadcast_to(np.arange(len(planes))[:, None, None], (len(planes), 4, 4))
    return tile_process(
        np.ascontiguousarray(image),
        lambda tile: planes[tile.flat[0]][None],
        tile_shape=(1, 4, 4),
        overlap=0,
        return_report=True,
        **{"merge": "agree", "sequential_labels": True} | options,
    )


@pytest.mark.filterwarnings('ignore:merge="agree" without a halo')
def test_a_plane_that_fuses_two_columns_does_not_fuse_their_others():
    planes = [APART, APART, FUSED, APART, APART]
    for chosen in ({}, {"tiles_per_task": 1}, {"tiles_per_task": 2}):
        labels, report = run_planes(planes, **chosen)
        below, above = labels[:2], labels[3:]
        # The fused plane is given to one of the columns; the other one is in two parts.
        assert [np.unique(part).tolist() for part in (below, labels[2], above)] == [[1, 2], [1], [1, 3]]
        seams = report.seams
        assert (seams.touching, seams.joined, seams.contradictions) == (12, 6, 2)
        assert "2 joins were refused" in str(seams)
    assert run_planes(planes, min_agreement=0)[0].max() == 1


@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("columns", [slice(None), slice(None, None, -1)])
def test_one_label_beside_two_of_the_same_size_takes_one_of_them(rows, columns):
    """Two tiles with all of the image as their halo; which of two equal joins is made, its place decides."""
    image = np.tile(np.arange(8), (2, 1))
    predictions = np.array([[1] * 8, [2] * 8]), np.ones((2, 8), int)
    chosen = iter(predictions[columns])
    with dask.config.set(scheduler="synchronous"):
        labels = tile_process(
            image, lambda tile: next(chosen)[rows], tile_shape=(2, 4), overlap=4, merge="agree", tiles_per_task=1
        )
    assert len(np.unique(labels)) == 2
    assert (labels == labels[0, 0]).sum() == 12


@settings(max_examples=examples(20))
@given(st.lists(st.integers(0, 2), min_size=2, max_size=8), st.sampled_from([None, 1, 3]))
@pytest.mark.filterwarnings('ignore:merge="agree" without a halo')
def test_stacks_of_columns_are_joined_as_the_slow_twin_joins_them(kinds, tiles_per_task):
    choices = [APART, FUSED, np.repeat([[1, 2, 2, 3]], 4, axis=0)]
    planes = [choices[kind] for kind in kinds]
    labels, _ = run_planes(planes, tiles_per_task=tiles_per_task)
    image = np.arange(len(planes))[:, None, None] * np.ones((1, 4, 4), int)
    lengths = (1,) * len(planes), (4,), (4,)
    fn = functools.partial(_plane_of, planes)
    expected = naive.stitch(image, fn, lengths, (0, 0, 0), 3, merge="agree", sequential=True)
    assert np.array_equal(labels, expected)


def _plane_of(planes, tile):
    return planes[tile.flat[0]][None]
