"""What seams say of errors: how many objects are probably not those of fn on the whole image.

Near a seam two tiles see the same objects. As often as they disagree there on an object, a tile and
the whole image disagree on one anywhere: this is what the estimate rests on. So it knows nothing of
errors that both tiles make alike, of objects that fn loses wherever it sees the end of a tile, or
that one tile loses where the halo is shorter than they are, and of specks too small to lie at a
seam often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

# Standard deviations on both sides of an estimate.
N_DEVIATIONS = 2
# Variance of the number of disagreements over that of independent ones: an object lies at several
# seams, and one that is wrong makes its neighbour wrong.
DISPERSION = 3
# Of fewer there is nothing to tell.
MIN_SEEN_TWICE = 20
# Of an interval of F1; where it is wider, the estimate in its middle says little.
MAX_SURE_WIDTH = 0.02


@dataclass(frozen=True)
class Coefficients:
    """How errors follow from disagreement.

    Parameters
    ----------
    everywhere, at_seams : float
        Share of wrong objects for each share of disagreement: of all objects, and at seams, of
        those that cross one.
    spread : float
        Relative standard deviation of these shares, from one fn and halo to others.
    """

    everywhere: float
    at_seams: float
    spread: float


# Fitted by ``python -m benchmarks.judged.seams.self_error`` when a little more was completed. Since
# then a fit gives 0.88, 1.1 and 0.3, and the intervals of these hold as often as before.
FITTED = Coefficients(everywhere=0.84, at_seams=1.1, spread=0.35)


@dataclass(frozen=True)
class SeamCounts:
    """What is counted at the seams of a run.

    Parameters
    ----------
    n_objects, n_crossing : int
        Objects of the run, and those of labels of several tiles.
    same, doubtful : int
        Pairs of labels that touch across a seam, by the intersection over union of their best
        pieces: ``MAX_DOUBTFUL`` or more, and less, but ``MIN_DOUBTFUL`` or more.
    completed : int
        Ends of objects that were filled in where the other tile saw nothing.
    halo : int
        In voxels; the smallest one across any seam.
    """

    n_objects: int
    n_crossing: int
    same: int
    doubtful: int
    completed: int
    halo: int

    @property
    def seen_twice(self) -> int:
        """Labels at seams that were compared: of a doubtful pair the one that has no other."""
        return 2 * self.same + self.doubtful + self.completed

    @property
    def disagreement(self) -> float:
        """Share of them that the other tile has not: 1 - F1 of the tiles against each other."""
        return (self.doubtful + self.completed) / self.seen_twice


class Range(NamedTuple):
    """An estimate between its bounds.

    Parameters
    ----------
    low, mid, high : float
        The bounds hold in nine of ten runs or more.
    """

    low: float
    mid: float
    high: float


@dataclass(frozen=True)
class ExpectedErrors:
    """What `expect_errors` found.

    Parameters
    ----------
    wrong_at_seams, wrong : Range
        Objects at a seam, and all, that match none of fn on the whole image, with an
        intersection over union of more than 0.5; the mean of those found and those expected.
    f1 : Range
        At that threshold, of the whole run.
    """

    wrong_at_seams: Range
    wrong: Range
    f1: Range

    @property
    def is_sure(self) -> bool:
        """Whether the interval of F1 is so narrow that its middle can be relied on."""
        return self.f1.high - self.f1.low <= MAX_SURE_WIDTH


def expect_errors(seams: SeamCounts, fitted: Coefficients = FITTED) -> ExpectedErrors | None:
    """Return how many objects are probably wrong; ``None`` where next to nothing was seen twice.

    Parameters
    ----------
    seams : SeamCounts
        Without a halo there is no estimate.
    fitted : Coefficients, optional

    Examples
    --------
    >>> seams = SeamCounts(1000, 300, same=495, doubtful=8, completed=2, halo=20)
    >>> expected = expect_errors(seams)
    >>> round(expected.wrong.mid, 1), round(expected.f1.mid, 3)
    (8.4, 0.992)
    """
    if seams.halo <= 0 or seams.seen_twice < MIN_SEEN_TWICE or not seams.n_objects:
        return None
    wrong_at_seams, wrong = (
        _range(seams, share, n, fitted)
        for share, n in ((fitted.at_seams, seams.n_crossing), (fitted.everywhere, seams.n_objects))
    )
    low, mid, high = (1 - n / seams.n_objects for n in reversed(wrong))
    return ExpectedErrors(wrong_at_seams, wrong, Range(low, mid, high))


def _range(seams: SeamCounts, share: float, n: int, fitted: Coefficients) -> Range:
    """Return how many of n objects are wrong, if `share` of them is with each disagreement."""
    mid = min(n, share * n * seams.disagreement)
    of_each = share * n / seams.seen_twice
    # One more than were seen: that there was none is chance too.
    counted = DISPERSION * of_each**2 * (seams.doubtful + seams.completed + 1)
    deviation = math.sqrt(counted + mid + (fitted.spread * mid) ** 2)
    return Range(max(0.0, mid - N_DEVIATIONS * deviation), mid, min(float(n), mid + N_DEVIATIONS * deviation))
