"""Compare rules of merging on the same predictions: ``python -m benchmarks.judged.seams``.

fn is called once for each tile; every rule then decides which labels of two tiles are one object. The oracle
knows the right labels, and joins what lies mostly in the same object, also in one tile: what it misses is fn's
doing. Each table
has a score: F1 at an intersection over union of 0.5 and 0.9, objects that were split and merged, those found for
each right one, the largest object in medians of the right ones, and the variation of information in bits.
Images of one kind are averaged.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from skimage.metrics import variation_of_information

from benchmarks.command_line import begin, plain_parser
from benchmarks.judged.seams.cases import Case, cases
from benchmarks.judged.seams.oracle import Oracle
from benchmarks.judged.seams.predictions import Predictions
from benchmarks.judged.seams.rules import (
    Agree,
    BestPartner,
    MutualBest,
    Pieces,
    Rule,
    Touch,
    WholeLabels,
    merge,
)
from benchmarks.table import format_table
from blockbuster.advise.scoring import score_labels

__all__ = ["RULES", "main", "measure"]

THRESHOLDS = (0.3, 0.5)
RULES: list[Rule] = [Touch(), *map(WholeLabels, THRESHOLDS), BestPartner(), Pieces(), MutualBest(), Agree()]
SCORES = ["F1@0.5", "F1@0.9", "split", "merged", "count", "largest", "variation"]


def measure(case: Case) -> dict[str, list[float]]:
    """Return the scores of each rule."""
    found = Predictions(case.image, case.fn, case.tile, case.halo)
    sizes = np.bincount(case.truth.ravel())[1:]
    scores = {}
    for rule in (*RULES, Oracle(case.truth)):
        labels = merge(found, rule.joins(found), rule.completes(found))
        score = score_labels(case.truth, labels)
        scores[rule.name] = [
            score.f1(0.5),
            score.f1(0.9),
            score.n_split,
            score.n_merged,
            score.n_found / score.n_expected,
            np.bincount(labels.ravel())[1:].max() / np.median(sizes[sizes > 0]),
            sum(variation_of_information(case.truth, labels)),
        ]
    return scores


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = plain_parser("judged.seams", __doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this text")
    options = begin(parser, arguments)
    found = defaultdict(list)
    for case in cases(small=options.small):
        if options.only in case.name:
            print(f"measuring {case.name}", file=sys.stderr, flush=True)
            found[case.name].append(measure(case))
    for number, score in enumerate(SCORES):
        rows = [
            [name, *(f"{np.mean([one[rule][number] for one in scores]):.3f}" for rule in scores[0])]
            for name, scores in found.items()
        ]
        print(f"\n{score}, means:\n")
        print(format_table(["case", *(rule.name for rule in RULES), Oracle.name], rows))
