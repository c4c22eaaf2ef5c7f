"""Compare two label images object by object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LabelScore", "ObjectOverlaps", "score_labels"]


@dataclass(frozen=True)
class LabelScore:
    """How a label image differs from the one that it should be.

    Parameters
    ----------
    n_expected, n_found : int
        Objects in either image.
    matched : dict of float to int
        Pairs of objects, one to one, with an intersection over union of more than the key.
    n_split : int
        Expected objects that two found objects or more lie in, each with more than half of itself.
    n_merged : int
        Found objects that two expected objects or more lie in, each with more than half of itself.
    """

    n_expected: int
    n_found: int
    matched: dict[float, int]
    n_split: int
    n_merged: int

    def f1(self, threshold: float = 0.5) -> float:
        """Harmonic mean of recall and precision; 1 where both images are empty."""
        total = self.n_expected + self.n_found
        return 2 * self.matched[threshold] / total if total else 1.0


@dataclass(frozen=True)
class ObjectOverlaps:
    """Which objects of two label images share voxels.

    Parameters
    ----------
    sizes, found_sizes : ndarray of int64
        Voxels of each object of either image, addressed by its id; 0 for background and ids that do not occur.
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
        return self.shared / (self.sizes[self.expected] + self.found_sizes[self.found] - self.shared)


def score_labels(
    expected: np.ndarray, found: np.ndarray, thresholds: tuple[float, ...] = (0.5, 0.9)
) -> LabelScore:
    """Match the objects of two label images.

    Parameters
    ----------
    expected, found : ndarray of int, of one shape
        0 is background. Time and memory grow with the largest label.
    thresholds : tuple of float
        0.5 or more: above that an object matches one object at most, so that the matching is the best one.

    Examples
    --------
    >>> expected, found = np.array([[1, 1, 2, 2]]), np.array([[5, 5, 5, 5]])
    >>> score = score_labels(expected, found)
    >>> score.f1(), score.n_split, score.n_merged
    (0.0, 0, 1)
    """
    pairs = ObjectOverlaps.of(expected, found)
    return LabelScore(
        n_expected=int(np.count_nonzero(pairs.sizes)),
        n_found=int(np.count_nonzero(pairs.found_sizes)),
        matched={least: int(np.count_nonzero(pairs.iou > least)) for least in thresholds},
        n_split=_n_repeated(pairs.expected[2 * pairs.shared > pairs.found_sizes[pairs.found]]),
        n_merged=_n_repeated(pairs.found[2 * pairs.shared > pairs.sizes[pairs.expected]]),
    )


def _n_repeated(numbers: np.ndarray) -> int:
    return int(np.count_nonzero(np.unique(numbers, return_counts=True)[1] > 1))
