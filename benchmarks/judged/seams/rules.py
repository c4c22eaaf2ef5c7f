"""Rules of merging, one class each: from what tiles predict to which of their labels are one object."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.judged.seams.predictions import Predictions, Unseen

__all__ = ["Agree", "BestPartner", "MutualBest", "Pieces", "Rule", "Touch", "WholeLabels", "merge"]

Pairs = Iterable[tuple[int, int]]


class Rule:
    """A rule; a new one is a class with a name that says which nodes are joined."""

    name: str

    def joins(self, found: Predictions) -> Pairs:
        """Return pairs of nodes that are one object."""
        raise NotImplementedError

    def completes(self, found: Predictions) -> list[Unseen]:
        """Return what is filled in where a tile found background."""
        return []


def merge(found: Predictions, joins: Pairs, completed: Iterable[Unseen] = ()) -> np.ndarray:
    """Return the label image of nodes that are joined and, the largest ends first, completed."""
    core = found.core.copy()
    for end in sorted(completed, key=lambda end: (-np.count_nonzero(end.voxels), end.node)):
        within = core[end.box]
        within[end.voxels & (within == 0)] = end.node
    pairs = np.array(list(joins), np.int64).reshape(-1, 2)
    shape = (found.n_nodes,) * 2
    _, objects = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape), directed=False)
    objects = np.where(np.arange(found.n_nodes) > 0, objects + 1, 0)
    _, labels = np.unique(objects[core], return_inverse=True)
    return labels.reshape(core.shape) + (core.min() > 0)


class Touch(Rule):
    """What touches across a face is one object."""

    name = "touch"

    def joins(self, found: Predictions) -> Pairs:
        return found.faces


@dataclass(frozen=True)
class WholeLabels(Rule):
    """Labels whose intersection over union, in what both tiles saw, is large enough."""

    threshold: float

    @property
    def name(self) -> str:
        return f"label IoU {self.threshold:g}"

    def joins(self, found: Predictions) -> Pairs:
        for one in found.evidence:
            yield from map(tuple, one.nodes[one.label_iou >= self.threshold].tolist())


@dataclass(frozen=True)
class BestPartner(Rule):
    """Each label is joined with the one that it shares most with, if that is mutual."""

    threshold: float = 0.3
    name = "one to one"

    def joins(self, found: Predictions) -> Pairs:
        for one in found.evidence:
            good = one.label_iou >= self.threshold
            yield from _mutual(one.nodes[good], one.nodes[good], one.label_iou[good], one.label_shared[good])


@dataclass(frozen=True)
class Pieces(Rule):
    """Labels that touch, and of which two pieces have an intersection over union that is large enough."""

    threshold: float = 0.3
    name = "pieces"

    def joins(self, found: Predictions) -> Pairs:
        for one in found.evidence:
            yield from map(tuple, one.nodes[one.touching & (one.iou >= self.threshold)].tolist())


@dataclass(frozen=True)
class MutualBest(Rule):
    """As pieces, but only those that are each the best for the other."""

    threshold: float = 0.3
    name = "mutual"

    def joins(self, found: Predictions) -> Pairs:
        for one in found.evidence:
            good = one.iou >= self.threshold
            best = _mutual(one.pieces[good], one.nodes[good], one.iou[good], one.shared[good])
            touching = set(map(tuple, one.nodes[one.touching].tolist()))
            yield from (pair for pair in best if pair in touching)


@dataclass(frozen=True)
class Agree(Rule):
    """Labels that touch, and of which two pieces agree: what the package does.

    Joins are made one by one, the best first. One that would make an object of labels that touch each other
    inside tiles is made if at least as many joins are for it, and if none of its labels has one as good.
    """

    threshold: float = 0.4
    name = "agree"

    def joins(self, found: Predictions) -> Pairs:
        best: dict[tuple[int, int], tuple[float, float]] = {}
        for one in found.evidence:
            good = one.touching & (one.agreement >= self.threshold)
            ranks = np.stack([one.agreement, one.iou.astype(np.float32)], axis=1)
            for (a, b), rank in zip(one.nodes[good].tolist(), ranks[good].tolist(), strict=True):
                pair = min(a, b), max(a, b)
                best[pair] = max(best.get(pair, (0.0, 0.0)), tuple(rank))
        ranked = {pair: iou for pair, (_, iou) in best.items()}
        return _without_contradictions(ranked, found.told_apart, found.n_nodes)

    def completes(self, found: Predictions) -> list[Unseen]:
        return found.unseen


def _without_contradictions(
    ranks: dict[tuple[int, int], float], apart: set[tuple[int, int]], n_nodes: int
) -> Iterator[tuple[int, int]]:
    objects, last = np.arange(n_nodes), np.zeros(n_nodes)
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for pairs, vote in ((apart, -1), (ranks, 1)):
        for a, b in pairs:
            votes[a][b] += vote
            votes[b][a] += vote
    for a, b in sorted(ranks, key=lambda pair: (-ranks[pair], pair)):
        one, other = (int(objects[node]) for node in (a, b))
        vote, is_tied = votes[one][other], ranks[a, b] in (last[a], last[b])
        if one == other or vote < 0 or (vote == 0 and is_tied):
            continue
        last[a] = last[b] = ranks[a, b]
        objects[objects == other] = one
        for third, n in votes.pop(other).items():
            del votes[third][other]
            if third != one:
                votes[one][third] += n
                votes[third][one] += n
        yield a, b


def _mutual(ends: np.ndarray, nodes: np.ndarray, iou: np.ndarray, shared: np.ndarray) -> list[tuple[int, int]]:
    """Return the nodes of ends that are each the best for the other: by agreement, then size, then order."""
    order = np.lexsort((*nodes.T[::-1], -shared, -iou))
    best: list[dict[int, int]] = [{}, {}]
    for row in order.tolist():
        for side in (0, 1):
            best[side].setdefault(int(ends[row, side]), row)
    return [
        (int(nodes[row, 0]), int(nodes[row, 1]))
        for row in order.tolist()
        if all(best[side][int(ends[row, side])] == row for side in (0, 1))
    ]
