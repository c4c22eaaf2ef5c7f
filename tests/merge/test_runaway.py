"""When a merge is said to run away."""

import warnings
import zlib

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traced import traced

from blockbuster import tile_process
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.kernels.components import join_pairs
from blockbuster.merge import runaway
from blockbuster.merge.rules import Agree, Touch
from blockbuster.merge.runaway import ObjectSizes, describe_runaway, object_sizes
from blockbuster.merge.table import BrickIds


@given(st.data(), st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 6))
def test_labels_and_tiles_of_each_object_are_counted(data, counts, n_parts):
    n = sum(counts)
    pair = st.tuples(st.integers(1, max(1, n)), st.integers(1, max(1, n)))
    pairs = np.array(data.draw(st.lists(pair, max_size=8)) if n else [], np.int64).reshape(-1, 2)
    grid = TileGrid.regular((len(counts),), (1,), (0,))
    ids = BrickIds.from_counts(BrickGrid(grid, (1,)), np.array(counts))
    border, roots = join_pairs(pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runaway, "N_PARTS", n_parts)
        sizes = object_sizes(border, roots, ids)
    tile_of = np.repeat(np.arange(len(counts)), counts)
    for number, root in enumerate(root for root in np.unique(roots) if (roots == root).sum() > 1):
        members = border[roots == root]
        assert sizes.ids[number] == root
        assert sizes.n_labels[number] == len(members)
        assert sizes.n_tiles[number] == len({tile_of[member - 1] for member in members})


def said(n_labels, n_tiles, n_objects, cure=Touch.runaway_cure):
    return describe_runaway(
        ObjectSizes(np.array(n_labels), np.array(n_tiles), np.arange(len(n_labels)) + 1),
        n_objects,
        cure,
    )


@given(st.lists(st.integers(2, 9), max_size=9), st.integers(0, 12), st.integers(0, 9), st.integers(90, 120))
def test_the_median_is_that_of_all_other_objects(others, n_single, place, largest):
    """Objects that cross no seam have one label; the lower of two values in the middle is taken."""
    n_labels = [*others[:place], largest, *others[place:]]
    every = sorted([1] * n_single + others)
    median = every[(len(every) - 1) // 2] if every else 1
    text = said(n_labels, [2] * len(n_labels), len(n_labels) + n_single)
    assert (
        f"one object was joined from {largest} labels of 2 tiles, the median of the others is {median};" in text
    )


@pytest.mark.parametrize(("n_tiles", "others"), [(8, []), (20, []), (8, [7, 7, 7])])
def test_it_is_named_from_the_least_number_of_labels_on(n_tiles, others):
    """Fifty, three for each tile, and ten times the median."""
    least = max(50, 3 * n_tiles, 10 * max(others, default=1))
    for n_labels, is_named in [(least - 1, False), (least, True)]:
        text = said([*others, n_labels], [2] * len(others) + [n_tiles], len(others) + 1)
        assert bool(text) == is_named


@pytest.mark.parametrize(
    ("n_labels", "n_tiles", "n_objects", "median"),
    [
        ([300, 2, 3], [27, 2, 2], 50, 1),  # most objects cross no seam
        ([2, 300, 3, 3], [2, 27, 2, 2], 4, 3),
        ([300], [8], 1, 1),  # there is nothing else
        ([50], [8], 2, 1),
    ],
)
def test_one_object_of_many_labels_in_few_tiles_is_named(n_labels, n_tiles, n_objects, median):
    text = said(n_labels, n_tiles, n_objects)
    most = max(n_labels)
    assert (
        f"{most} labels of {n_tiles[n_labels.index(most)]} tiles, the median of the others is {median};" in text
    )
    assert 'use merge="agree"' in text
    assert "raise min_agreement or overlap" in said(n_labels, n_tiles, n_objects, Agree.runaway_cure)


@pytest.mark.parametrize(
    ("n_labels", "n_tiles", "n_objects"),
    [
        ([], [], 7),
        ([49, 2], [4, 2], 9),  # few enough to look at
        ([300, 2], [110, 2], 9),  # a long object with two or three branches in each tile
        ([300, 40, 40, 31], [20, 9, 9, 9], 4),  # as all the others
    ],
)
def test_objects_that_may_be_as_they_are_are_not_named(n_labels, n_tiles, n_objects):
    assert said(n_labels, n_tiles, n_objects) == ""


@pytest.mark.parametrize(("weakest", "is_named"), [(0, True), (0.94, True), (0.95, False), (1, False)])
def test_an_object_that_two_tiles_saw_the_same_wherever_they_meet_is_not_named(weakest, is_named):
    sizes = ObjectSizes(np.array([300, 2]), np.array([27, 2]), np.array([1, 4]))
    assert bool(describe_runaway(sizes, 50, Agree.runaway_cure, weakest)) == is_named


@pytest.mark.parametrize("shift", [0, 1])
def test_a_network_that_a_threshold_finds_is_no_runaway_merging(shift):
    """A rake of thirty teeth, found by a local function; or by one that sees it a voxel aside in some tiles."""
    rake = np.zeros((120, 120), np.uint8)
    rake[::4] = rake[1::4] = rake[:, 0] = 1

    def fn(tile):
        return naive.label(np.roll(tile, shift * (zlib.crc32(tile.tobytes()) % 2), axis=0))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = tile_process(rake, fn, tile_shape=(30, 30), overlap=6, merge="agree", connectivity=1)
    found = [str(warning.message) for warning in caught if "runaway" in str(warning.message)]
    assert len(found) == shift
    assert shift or np.array_equal(labels, rake)


def test_memory_of_joining_and_counting_is_24_bytes_for_each_label_at_a_seam():
    """What grows with the image in the process that drives a run: pairs, labels, roots and counts."""
    n_tiles, n_each = 4096, 16
    ids = BrickIds.from_counts(
        BrickGrid(TileGrid.regular((n_tiles,), (1,), (0,)), (1,)), np.full(n_tiles, n_each)
    )

    def join_and_count():
        # Half of the labels of each tile continue in the next one.
        pairs = np.arange(1, 1 + n_tiles * n_each, 2, ids.dtype).reshape(-1, n_each // 2)[:-1].ravel()
        pairs = np.column_stack([pairs, pairs + ids.dtype.type(n_each + 1)])
        border, roots = join_pairs(pairs)
        return pairs, border, object_sizes(border, roots, ids)

    (pairs, border, sizes), _, peak = traced(join_and_count)
    assert sizes.n_labels.tolist() == sizes.n_tiles.tolist() == [2] * len(pairs)
    assert peak < 24 * len(border)
