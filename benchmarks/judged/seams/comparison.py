"""Compare rules of merging on the same predictions: ``python -m benchmarks.judged.seams``.

fn is called once for each tile; every rule then decides which labels of two tiles are one object. The seam
oracle knows the right labels, and joins what touches across a seam and lies mostly in the same object; the
oracle does so with any labels, also in one tile. What they miss is fn's doing.

Each table has a score: F1 at an intersection over union of 0.5 and 0.9, objects that were split and merged,
those found for each right one, the largest object in medians of the right ones, the variation of information in
bits, straight cuts at seams in percentage points, and the share of objects that stay the same when the tiles
are shifted by half. Images of one kind are averaged; a dash stands where a score has no meaning. Micrographs
take part where the variable BLOCKBUSTER_DATA names the folder that has them.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from skimage.metrics import variation_of_information

from benchmarks.command_line import begin, plain_parser
from benchmarks.judged.seams.cases import HALVES, Case, cases
from benchmarks.judged.seams.oracle import Oracle, SeamOracle
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
from benchmarks.judged.seams.scores import same_objects, shifted, straight_cuts
from benchmarks.table import format_table
from blockbuster.advise.scoring import score_labels

__all__ = ["RULES", "main", "measure"]

THRESHOLDS = (0.3, 0.5)
RULES: list[Rule] = [Touch(), *map(WholeLabels, THRESHOLDS), BestPartner(), Pieces(), MutualBest(), Agree()]
SCORES = [
    "F1@0.5",
    "F1@0.9",
    "split",
    "merged",
    "count",
    "largest",
    "variation",
    "straight cuts",
    "grid shift",
]


def measure(case: Case) -> dict[str, list[float]]:
    """Return the scores of each rule, in the order of `SCORES`."""
    found = Predictions(case.image, case.fn, case.tile, case.halo)
    grid = shifted(found.grid)
    other = grid and Predictions(case.image, case.fn, case.tile, case.halo, grid)
    sizes = np.bincount(case.truth.ravel())[1:]
    scores = {}
    for rule in (*RULES, SeamOracle(case.truth), Oracle(case.truth)):
        labels = _merged(rule, found)
        score = score_labels(case.truth, labels)
        scores[rule.name] = [
            score.f1(0.5),
            score.f1(0.9),
            score.n_split,
            score.n_merged,
            score.n_found / score.n_expected,
            np.bincount(labels.ravel())[1:].max() / np.median(sizes[sizes > 0]),
            sum(variation_of_information(case.truth, labels)),
            straight_cuts(labels, found.grid),
            same_objects(labels, _merged(rule, other)) if other else np.nan,
        ]
    return scores


def _merged(rule: Rule, found: Predictions) -> np.ndarray:
    return merge(found, rule.joins(found), rule.completes(found))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = plain_parser("judged.seams", __doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this text")
    parser.add_argument("--half", choices=[*HALVES, "both"], default="held back", help="of the generated images")
    options = begin(parser, arguments)
    found = defaultdict(list)
    for case in cases(small=options.small, half=options.half):
        if options.only in case.name:
            print(f"measuring {case.name}", file=sys.stderr, flush=True)
            found[case.name].append(measure(case))
    for number, score in enumerate(SCORES):
        rows = [
            [name, *(_shown(float(np.mean([one[rule][number] for one in scores]))) for rule in scores[0])]
            for name, scores in found.items()
        ]
        print(f"\n{score}, means:\n")
        print(format_table(["case", *(rule.name for rule in RULES), SeamOracle.name, Oracle.name], rows))


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
