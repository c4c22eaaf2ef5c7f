"""What joins by the right labels reach."""

from __future__ import annotations

import numpy as np

from benchmarks.judged.seams.predictions import Predictions
from benchmarks.judged.seams.rules import Pairs, Rule

__all__ = ["Oracle", "SeamOracle"]


class Oracle(Rule):
    """Joins what shares most of its voxels with one and the same object of the truth.

    Labels of one tile too, which no seam could join: it mends what fn has split.
    """

    name = "oracle"

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth

    def joins(self, found: Predictions) -> Pairs:
        members: dict[int, list[int]] = {}
        for node, target in enumerate(self.targets(found).tolist()):
            if target:
                members.setdefault(target, []).append(node)
        return [(nodes[0], node) for nodes in members.values() for node in nodes[1:]]

    def targets(self, found: Predictions) -> np.ndarray:
        """Return the object of the truth that each node shares most with; 0 where that is background."""
        width = self.truth.max() + 1
        pairs, shared = np.unique(found.core * width + self.truth, return_counts=True)
        nodes, owners = np.divmod(pairs, width)
        # The last one that is written stays: the largest share, and of equal ones the first.
        order = np.lexsort((-owners, shared))
        targets = np.zeros(found.n_nodes, np.int64)
        targets[nodes[order]] = owners[order]
        targets[0] = 0
        return targets


class SeamOracle(Oracle):
    """The same, of labels that touch across a seam: what is left to a rule."""

    name = "seam oracle"

    def joins(self, found: Predictions) -> Pairs:
        targets = self.targets(found)
        return [(a, b) for a, b in found.contacts if targets[a] == targets[b] > 0]
