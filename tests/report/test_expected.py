"""What is expected of a run from its seams: bounds that hold, and what they depend on."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blockbuster.report.expected import FITTED, SeamCounts, expect_errors

few = st.integers(0, 500)
counts = st.builds(
    SeamCounts, st.integers(1, 10**6), few, few, few, few, st.integers(1, 100)
)  # fmt: skip


def changed(seams, **values):
    return SeamCounts(**{**vars(seams), **values})


@given(counts)
def test_bounds_lie_around_the_estimate_and_never_beyond_all_objects(seams):
    assume(seams.seen_twice >= 20 and seams.n_crossing <= seams.n_objects)
    found = expect_errors(seams)
    for n, bounds in ((seams.n_crossing, found.wrong_at_seams), (seams.n_objects, found.wrong)):
        assert 0 <= bounds.low <= bounds.mid <= bounds.high <= n
    assert 0 <= found.f1.low <= found.f1.mid <= found.f1.high <= 1
    assert found.f1.mid == pytest.approx(1 - found.wrong.mid / seams.n_objects)


@given(counts, st.sampled_from(["doubtful", "completed"]))
def test_more_disagreement_is_never_fewer_errors(seams, what):
    assume(seams.seen_twice >= 20)
    more = expect_errors(changed(seams, **{what: getattr(seams, what) + 1}))
    assert more.f1.mid <= expect_errors(seams).f1.mid
    assert more.wrong_at_seams.mid >= expect_errors(seams).wrong_at_seams.mid


@given(counts)
def test_tiles_that_agree_everywhere_expect_no_error(seams):
    seams = changed(seams, same=seams.same + 10, doubtful=0, completed=0)
    found = expect_errors(seams)
    assert found.wrong.low == found.wrong.mid == found.wrong_at_seams.mid == 0
    assert found.f1.mid == found.f1.high == 1
    # But that none was seen in few is no proof.
    assert found.wrong.high > 0


def test_more_seams_without_disagreement_make_the_bounds_narrower():
    widths = [1 - expect_errors(SeamCounts(n, n // 3, n // 2, 0, 0, halo=20)).f1.low for n in (60, 300, 3000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.005


@pytest.mark.parametrize("seams", [
    SeamCounts(900, 400, 500, 20, 3, halo=0),
    SeamCounts(900, 0, 0, 0, 0, halo=12),
    SeamCounts(0, 0, 0, 0, 0, halo=12),
    SeamCounts(40, 9, 9, 1, 0, halo=12),
])  # fmt: skip
def test_nothing_is_expected_where_next_to_nothing_was_seen_twice(seams):
    assert expect_errors(seams) is None


@pytest.mark.parametrize("p", [0.0, 0.002, 0.02, 0.2])
@pytest.mark.parametrize("n", [200, 2000])
def test_bounds_hold_where_tiles_and_image_differ_by_chance_alone(p, n):
    """Each label at a seam differs from the other tile's as often as an object does from that of the image."""
    rng, n_runs, n_crossing = np.random.default_rng(0), 400, n // 3
    hold = 0
    for _ in range(n_runs):
        doubtful = int(rng.binomial(2 * n_crossing, p))
        same = n_crossing - math.ceil(doubtful / 2)
        found = expect_errors(SeamCounts(n, n_crossing, same, doubtful, 0, halo=20))
        hold += found.wrong.low <= rng.binomial(n, p) <= found.wrong.high
    assert hold >= 0.9 * n_runs


def test_shares_are_those_of_the_means():
    seams = SeamCounts(1000, 200, 450, 60, 40, halo=20)
    found = expect_errors(seams)
    assert found.wrong.mid == pytest.approx(1000 * FITTED.everywhere * 0.1)
    assert found.wrong_at_seams.mid == pytest.approx(200 * FITTED.at_seams * 0.1)


# Runs of benchmarks.judged.seams.self_error that nothing was fitted on: what their seams came to, how many
# objects were wrong at seams and in all, and F1.
MEASURED = {
    "sparse, stable": (SeamCounts(1024, 147, 187, 0, 0, 4), 0, 0, 1.0),
    "sparse, a little noise": (SeamCounts(1024, 151, 180, 0, 4, 11), 0, 0, 1.0),
    "dense, a few lost": (SeamCounts(1366, 514, 697, 0, 2, 16), 0, 1.5, 0.999),
    "sparse, a few lost": (SeamCounts(1023, 142, 157, 0, 1, 22), 0.5, 3, 0.997),
    "dense, markers": (SeamCounts(1338, 330, 404, 5, 0, 13), 3, 15, 0.989),
    "dense, some lost": (SeamCounts(1305, 428, 552, 0, 48, 22), 18, 50.5, 0.961),
    "dense, noise": (SeamCounts(1386, 305, 349, 23, 0, 9), 8.5, 39, 0.972),
    "volume, fused": (SeamCounts(352, 196, 319, 87, 0, 8), 32, 43, 0.880),
    "sparse, much noise": (SeamCounts(1276, 250, 202, 107, 108, 12), 73, 385.5, 0.697),
    "stable, halo of a voxel": (SeamCounts(1261, 395, 525, 115, 0, 1), 62.5, 63, 0.952),
}
SURE = ["sparse, stable", "dense, a few lost", "sparse, a few lost", "dense, markers"]


@pytest.mark.parametrize("name", MEASURED)
def test_measured_runs_lie_within_their_bounds(name):
    seams, wrong_at_seams, wrong, f1 = MEASURED[name]
    found = expect_errors(seams)
    assert found.wrong_at_seams.low <= wrong_at_seams <= found.wrong_at_seams.high
    assert found.wrong.low <= wrong <= found.wrong.high
    assert found.f1.low <= f1 <= found.f1.high
    assert found.is_sure == (name in SURE)
    assert not found.is_sure or abs(found.f1.mid - f1) <= 0.01
