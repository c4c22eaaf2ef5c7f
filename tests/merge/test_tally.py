"""What the seams came to, pair by pair."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.merge.table import BrickIds
from blockbuster.merge.tally import SeamTally, TouchingPairs

GRID = TileGrid.regular((30, 40), (10, 20), (2, 2))
BRICKS = BrickGrid(GRID, (1, 1))
IDS = BrickIds.from_counts(BRICKS, np.array([[3, 0], [2, 4], [0, 5]]))
# The tile of each provisional id, and where two tiles meet.
TILE_OF = dict(enumerate([(0, 0)] * 3 + [(1, 0)] * 2 + [(1, 1)] * 4 + [(2, 1)] * 5, start=1))


def kind(a, b):
    apart = [i for i in (0, 1) if TILE_OF[a][i] != TILE_OF[b][i]]
    return apart[0] if len(apart) == 1 else 2


@st.composite
def pairs(draw):
    every = [pair for pair in itertools.combinations(TILE_OF, 2) if TILE_OF[pair[0]] != TILE_OF[pair[1]]]
    chosen = draw(st.lists(st.sampled_from(every), unique=True, max_size=30))
    values = draw(st.lists(st.sampled_from([0, 0.05, 0.1, 0.29, 0.3, 0.5, 0.61, 1]), min_size=30, max_size=30))
    return chosen, values[: len(chosen)]


def tally(chosen, values, min_agreement):
    voxels = np.array([a * 40 + b for a, b in chosen], np.int64)
    found = TouchingPairs(np.array(chosen, np.int64).reshape(-1, 2), np.array(values, float), None, voxels)
    return SeamTally.of(found, found.agreement >= min_agreement, IDS, min_agreement)


@given(pairs(), st.sampled_from([0.0, 0.3, 1.0]))
def test_pairs_are_counted_by_the_seam_they_touch_at(drawn, least):
    chosen, values = drawn
    found = tally(chosen, values, least)
    for k in range(3):
        of_kind = [value for pair, value in zip(chosen, values, strict=True) if kind(*pair) == k]
        assert found.touching[k] == len(of_kind)
        assert found.joined[k] == sum(value >= least for value in of_kind)
        bins = [min(19, round(100 * value) // 5) for value in of_kind]
        assert found.histogram[k].tolist() == [bins.count(place) for place in range(20)]


@given(pairs(), st.data())
def test_it_does_not_matter_how_the_pairs_are_shared_out(drawn, data):
    """All pairs of two tiles are found by one task."""
    chosen, values = drawn
    seams = sorted({(TILE_OF[a], TILE_OF[b]) for a, b in chosen})
    order = data.draw(st.permutations(seams))
    total = SeamTally.empty(2)
    for seam in order:
        which = [i for i, (a, b) in enumerate(chosen) if (TILE_OF[a], TILE_OF[b]) == seam]
        total.add(tally([chosen[i] for i in which], [values[i] for i in which], 0.3))
    expected = tally(chosen, values, 0.3)
    assert total.touching.tolist() == expected.touching.tolist()
    assert total.joined.tolist() == expected.joined.tolist()
    assert total.histogram.tolist() == expected.histogram.tolist()
    assert total.worst == expected.worst


@given(pairs())
def test_the_worst_seams_are_those_with_most_doubt(drawn):
    chosen, values = drawn
    doubt = {}
    for (a, b), value in zip(chosen, values, strict=True):
        if 0.1 <= value < 0.6:
            doubt.setdefault((TILE_OF[a], TILE_OF[b]), []).append(value)
    worst = tally(chosen, values, 0.3).worst
    assert len(worst) == min(4, len(doubt))
    counts = sorted(map(len, doubt.values()), reverse=True)
    assert [seam.doubtful for seam in worst] == counts[:4]
    for seam in worst:
        inside = doubt[tuple(map(tuple, seam.tiles))]
        assert abs(seam.agreement - 0.3) == min(abs(value - 0.3) for value in inside)


ratios = st.integers(1, 200).flatmap(lambda either: st.tuples(st.integers(0, either), st.just(either)))


@given(st.lists(ratios, max_size=40))
def test_bins_are_closed_below_and_the_last_one_above(pieces):
    """Both tables count the same pairs as doubtful, by bins and by agreement."""
    found = TouchingPairs(
        np.full((len(pieces), 2), (1, 4)),
        np.array([common / either for common, either in pieces], float),
        voxels=np.zeros(len(pieces), np.int64),
    )
    tally = SeamTally.of(found, found.agreement >= 0.3, IDS, 0.3)
    bins = [min(19, 20 * common // either) for common, either in pieces]
    assert tally.histogram[0].tolist() == [bins.count(place) for place in range(20)]
    n_doubtful = sum(1 * either <= 10 * common < 6 * either for common, either in pieces)
    assert sum(axis.doubtful for axis in tally.named("yx")[0]) == n_doubtful
    assert sum(seam.doubtful for seam in tally.worst) == n_doubtful


@given(st.data())
def test_equal_seams_are_named_in_the_order_of_their_tiles(data):
    """Five seams with one doubtful pair each; at one of them, one more pair is joined."""
    values = {(4, 6): 0.3, (1, 6): 0.3, (1, 4): 0.4, (5, 10): 0.5, (6, 10): 0.1, (6, 11): 0.9, (7, 12): 0.6}
    seams = [[(4, 6)], [(1, 6)], [(1, 4)], [(5, 10)], [(6, 10), (6, 11), (7, 12)]]
    total = SeamTally.empty(2)
    for chosen in data.draw(st.permutations(seams)):
        total.add(tally(chosen, [values[pair] for pair in chosen], 0.3))
    together = tally(list(values), list(values.values()), 0.3)
    assert [(seam.tiles, seam.joined) for seam in total.worst] == [
        ([[1, 1], [2, 1]], 2),
        ([[0, 0], [1, 0]], 1),
        ([[0, 0], [1, 1]], 1),
        ([[1, 0], [1, 1]], 1),
    ]
    assert together.worst == total.worst


def test_where_nothing_was_measured_the_most_pairs_come_first_at_the_middle_of_the_seam():
    found = TouchingPairs(np.array([[6, 10], [4, 6], [5, 6], [4, 7], [1, 4]]))
    worst = SeamTally.of(found, np.ones(5, bool), IDS).worst
    assert [(seam.tiles, seam.joined, seam.at) for seam in worst] == [
        ([[1, 0], [1, 1]], 3, [15, 19]),
        ([[0, 0], [1, 0]], 1, [9, 10]),
        ([[1, 1], [2, 1]], 1, [19, 30]),
    ]


def test_names_are_those_of_the_axes():
    axes, worst = tally([(1, 4), (4, 6), (1, 6)], [0.2, 1, 1], 0.3).named("yx")
    assert [(axis.name, axis.touching, axis.joined, axis.refused) for axis in axes] == [
        ("y", 1, 0, 1),
        ("x", 1, 1, 0),
        ("edges and corners", 1, 1, 0),
    ]
    assert [(seam.name, seam.at) for seam in worst] == [("y", [1, 4])]


def test_joins_that_are_refused_later_are_not_joined_at_the_seams_to_look_at():
    found = tally([(1, 4), (2, 4), (4, 6)], [0.5, 0.5, 0.5], 0.3)
    found.refuse(np.array([[2, 4]]), IDS)
    counted, worst = found.named("yx")
    assert [(axis.name, axis.joined, axis.refused) for axis in counted] == [("y", 1, 1), ("x", 1, 0)]
    assert [(seam.name, seam.joined, seam.refused) for seam in worst] == [("y", 1, 1), ("x", 1, 0)]
    assert found.contradictions == 1


@given(pairs())
def test_the_most_doubtful_pairs_are_those_nearest_to_the_threshold(drawn):
    chosen, values = drawn
    doubt = sorted(
        (abs(value - 0.3), a * 40 + b, a, b, value)
        for (a, b), value in zip(chosen, values, strict=True)
        if 0.1 <= value < 0.6
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.merge.tally.MAX_PAIRS", 3)
        assert tally(chosen, values, 0.3).doubtful == doubt[:3]
        total = SeamTally.empty(2)
        for pair, value in zip(chosen, values, strict=True):
            total.add(tally([pair], [value], 0.3))
    assert total.doubtful == doubt[:3]
