"""Compare two label images object by object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# 0.5 or more: above that an object matches one object at most, so that the matching is the best
# one.
THRESHOLDS = (0.5, 0.9)


@dataclass(frozen=True)
class LabelScore:
    """How a label image differs from the expected one.

    Parameters
    ----------
    n_expected, n_found : int
        Objects in either image.
    matched : dict of float to int
        Pairs of objects, one to one, with an intersection over union of more than the key.
    near : dict of float to float
        F1 of the objects with a voxel in the place that was asked for.
    n_split : int
        Expected objects that two found objects or more lie in, each with more than half of itself.
    n_merged : int
        Found objects that two expected objects or more lie in, each with more than half of itself.
    """

    n_expected: int
    n_found: int
    matched: dict[float, int]
    near: dict[float, float]
    n_split: int
    n_merged: int

    def f1(self, threshold: float = 0.5) -> float:
        """Return the harmonic mean of recall and precision; 1 where both images are empty."""
        total = self.n_expected + self.n_found
        return 2 * self.matched[threshold] / total if total else 1.0


@dataclass(frozen=True)
class ObjectOverlaps:
    """Which objects of two label images share voxels.

    Parameters
    ----------
    sizes, found_sizes : ndarray of int64
        Voxels of each object of either image, addressed by its id; 0 for background and ids that do
        not occur.
    expected, found, shared : (n,) ndarray of int64
        Ids of each two objects that share voxels, and how many.
    """

    sizes: np.ndarray
    found_sizes: np.ndarray
    expected: np.ndarray
    found: np.ndarray
    shared: np.ndarray

    @classmethod
    def of(cls, expected: np.ndarray, found: np.ndarray) -> ObjectOverlaps:
        """Count; time and memory grow with the largest label."""
        sizes, found_sizes = (np.bincount(labels.ravel()) for labels in (expected, found))
        sizes[0] = found_sizes[0] = 0
        both = (expected > 0) & (found > 0)
        codes = expected[both].astype(np.int64) * len(found_sizes) + found[both]
        codes, shared = np.unique(codes, return_counts=True)
        return cls(sizes, found_sizes, *np.divmod(codes, len(found_sizes)), shared)

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair."""
        ratios: np.ndarray = self.shared / (
            self.sizes[self.expected] + self.found_sizes[self.found] - self.shared
        )
        return ratios


def score_labels(expected: np.ndarray, found: np.ndarray, near: np.ndarray | None = None) -> LabelScore:
    """Match the objects of two label images.

    Parameters
    ----------
    expected, found : ndarray of int, of one shape
        0 is background. Time and memory grow with the largest label.
    near : ndarray of bool, of that shape, optional
        A place whose objects are scored by themselves too: found ones there count for precision,
        expected ones for recall. ``None``: all of the image.

    Examples
    --------
    >>> expected, found = np.array([[1, 1, 2, 2]]), np.array([[5, 5, 5, 5]])
    >>> score = score_labels(expected, found, expected == 2)
    >>> score.f1(), score.near[0.5], score.n_split, score.n_merged
    (0.0, 0.0, 0, 1)
    """
    pairs = ObjectOverlaps.of(expected, found)
    place = np.ones(expected.shape, bool) if near is None else near
    there = labels_in(expected, place), labels_in(found, place)
    matching = {least: pairs.iou > least for least in THRESHOLDS}
    return LabelScore(
        n_expected=int(np.count_nonzero(pairs.sizes)),
        n_found=int(np.count_nonzero(pairs.found_sizes)),
        matched={least: int(np.count_nonzero(good)) for least, good in matching.items()},
        near={
            least: _f1_among(*there, pairs.expected[good], pairs.found[good]) for least, good in matching.items()
        },
        n_split=_n_repeated(pairs.expected[2 * pairs.shared > pairs.found_sizes[pairs.found]]),
        n_merged=_n_repeated(pairs.found[2 * pairs.shared > pairs.sizes[pairs.expected]]),
    )


def labels_in(labels: np.ndarray, place: np.ndarray) -> np.ndarray:
    """List the labels that have a voxel in a place, without background."""
    there = np.unique(labels[place])
    return there[there > 0]


def _f1_among(expected: np.ndarray, found: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return F1 of some of the objects, where the pairs `a`, `b` match."""
    if not expected.size or not found.size:
        return float(expected.size == found.size)
    recall, precision = np.isin(expected, a).mean(), np.isin(found, b).mean()
    return float(2 * recall * precision / (recall + precision)) if recall and precision else 0.0


def _n_repeated(numbers: np.ndarray) -> int:
    return int(np.count_nonzero(np.unique(numbers, return_counts=True)[1] > 1))
