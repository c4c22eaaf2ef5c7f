"""Fit and judge what a run can say of its own errors: ``python -m benchmarks.judged.seams.self_error``.

Images are segmented whole and by tiles, with functions that see the same in every tile, or do not, a little or
much. `blockbuster.report.expected` then says from the seams alone how many objects are wrong. Its coefficients
are fitted on the even cases; the odd ones judge those that the package has. The last rows are what it cannot
know: tiles without a halo, which it says nothing of, a function that is wrong in all tiles in the same way, since
it takes the size of its cells from that of the tile, and one that is wrong in specks, which rarely lie at a seam.

Micrographs take part where the variable BLOCKBUSTER_DATA names the folder that has them.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from benchmarks.command_line import begin, plain_parser
from benchmarks.judged.seams.cases import Case, cases
from benchmarks.judged.seams.functions import RandomMarkers
from benchmarks.judged.seams.predictions import Predictions
from benchmarks.judged.seams.rules import Agree, merge
from benchmarks.seam_accuracy import diameter_of
from benchmarks.seam_cases import real_cases
from benchmarks.table import format_table
from benchmarks.tissue import dense_image, sparse_image
from benchmarks.watersheds import DenseWatershed, NucleusWatershed, Unstable
from blockbuster.advise.scoring import ObjectOverlaps
from blockbuster.report.expected import FITTED, Coefficients, ExpectedErrors, Range, SeamCounts, expect_errors
from blockbuster.report.seams import MAX_DOUBTFUL, MIN_DOUBTFUL

__all__ = ["Measured", "fit", "main", "measure"]

N_CASES, N_SMALL_CASES = 360, 6
MIN_COVERED = 0.95
# Diameters along the sides of an image, and of a tile.
SIDES = {"dense 2-D": 36, "sparse 2-D": 70, "dense 3-D": 7, "sparse 3-D": 11}
TILES = {2: (3, 9), 3: (2.5, 4.5)}
OFTEN = {"dense 2-D": 5, "sparse 2-D": 2, "dense 3-D": 2, "sparse 3-D": 1, "micrograph": 1}
# A micrograph is cut to this, in voxels.
MAX_LENGTHS = {2: 420, 3: 80}
HALOS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
NOISES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
PROBABILITIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
SPREADS = tuple(n / 20 for n in range(41))
BANDS = (0.999, 0.99, 0.98, 0.95, 0.9, 0.8, 0.0)


@dataclass(frozen=True)
class Disturbed:
    """A function that loses each object of a tile with a probability, or fuses it with one beside it."""

    fn: Any
    p: float
    fuses: bool

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        labels: np.ndarray = self.fn(tile)
        becomes = np.zeros(labels.max() + 1, labels.dtype)
        if self.fuses:
            becomes = np.arange(len(becomes))
            for axis in range(labels.ndim):
                along = np.moveaxis(labels, axis, 0)
                here = (along[:-1] > 0) & (along[1:] > 0)
                becomes[along[:-1][here]] = along[1:][here]
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(tile).tobytes()))
        is_disturbed = rng.random(len(becomes)) < self.p
        return np.where(is_disturbed, becomes, np.arange(len(becomes)))[labels]


@dataclass(frozen=True)
class WithoutSpecks:
    """A function whose objects are as large as a third of a diameter at least, as scripts see to."""

    fn: RandomMarkers

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        labels: np.ndarray = self.fn(tile)
        is_kept = np.bincount(labels.ravel()) >= (self.fn.diameter / 3) ** tile.ndim
        return labels * is_kept[labels]


@dataclass(frozen=True)
class Measured:
    """What the seams of a run came to, and how many objects were wrong.

    Parameters
    ----------
    seams : SeamCounts
        All that the estimate may know.
    wrong_at_seams, wrong : float
        Objects that match none, the mean of those found and those expected.
    f1 : float
        Of the whole run.
    """

    seams: SeamCounts
    wrong_at_seams: float
    wrong: float
    f1: float

    def expected(self, fitted: Coefficients) -> ExpectedErrors:
        """Return what is expected of it."""
        found = expect_errors(self.seams, fitted)
        assert found is not None
        return found


def random_case(seed: int) -> Case:
    """Draw an image, a function, tiles and a halo."""
    rng = np.random.default_rng((1, seed))
    kind = rng.choice([kind for kind, n in OFTEN.items() for _ in range(n)])
    image, fn = _micrograph(rng) if kind == "micrograph" else (None, None)
    if image is None or fn is None:
        kind = "dense 2-D" if kind == "micrograph" else kind
        image, fn = _drawn(kind, seed, rng)
    shape = rng.uniform(*TILES[image.ndim], image.ndim) * fn.diameter * (1.5 if kind.startswith("sparse") else 1)
    disturbed = _disturbed(fn, rng)
    truth = disturbed(image)
    # Boxes that two tiles of a volume saw are large.
    depth = max(1, round(rng.choice(HALOS[: 9 - image.ndim]) * diameter_of(truth)))
    return Case(str(kind), image, disturbed, tuple(shape.astype(int).tolist()), (depth,) * image.ndim, truth)


def _drawn(kind: str, seed: int, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
    ndim = int(kind[-3])
    diameter = int(rng.integers(7, 12) if ndim == 2 else rng.integers(6, 9))
    shape = (SIDES[kind] * diameter,) * ndim
    if kind.startswith("dense"):
        return dense_image(shape, diameter, seed), DenseWatershed(diameter)
    return sparse_image(shape, diameter, seed), NucleusWatershed(diameter, 0.5)


@cache
def _micrographs() -> list[tuple[np.ndarray, Any]]:
    return [(case.load(), case.fn) for case in real_cases()]


def _micrograph(rng: np.random.Generator) -> tuple[np.ndarray | None, Any]:
    """Cut a piece out of a micrograph, stretched to 0..1 as `Unstable` does it."""
    if not _micrographs():
        return None, None
    image, fn = _micrographs()[rng.integers(len(_micrographs()))]
    length = MAX_LENGTHS[image.ndim]
    starts = [int(rng.integers(0, max(1, n - length))) for n in image.shape]
    image = image[tuple(slice(start, start + length) for start in starts)].astype(np.float32)
    low, high = np.percentile(image, (1, 99.8))
    if isinstance(fn, NucleusWatershed):
        fn = replace(fn, threshold=(fn.threshold - low) / (high - low))
    return (image - low) / (high - low), fn


def _disturbed(fn: Any, rng: np.random.Generator) -> Any:
    kind = rng.choice(["stable", "unstable", "unstable", "markers", "lost", "fused"])
    p = float(rng.choice(PROBABILITIES))
    if kind == "unstable":
        return Unstable(fn, float(rng.choice(NOISES)))
    if kind == "markers" and isinstance(fn, DenseWatershed):
        return WithoutSpecks(RandomMarkers(fn.diameter, p))
    return fn if kind == "stable" else Disturbed(fn, p, fuses=kind == "fused")


def measure(case: Case) -> Measured:
    """Return what the seams came to, and what was wrong."""
    found, rule = Predictions(case.image, case.fn, case.tile, case.halo), Agree()
    labels = merge(found, rule.joins(found), rule.completes(found))
    overlaps = ObjectOverlaps.of(case.truth.astype(np.int64), labels)
    good, planes = overlaps.iou > 0.5, _seam_planes(labels.shape, case.tile)
    wrong, wrong_at_seams = 0, 0
    for image, sizes, matched in (
        (case.truth, overlaps.sizes, overlaps.expected[good]),
        (labels, overlaps.found_sizes, overlaps.found[good]),
    ):
        unmatched = np.setdiff1d(np.flatnonzero(sizes), matched)
        wrong += len(unmatched)
        wrong_at_seams += len(np.intersect1d(unmatched, image[planes]))
    n = np.count_nonzero(overlaps.sizes) + np.count_nonzero(overlaps.found_sizes)
    seams = _seam_counts(found, labels, min(case.halo))
    return Measured(seams, wrong_at_seams / 2, wrong / 2, float(2 * np.count_nonzero(good) / n))


def _seam_planes(shape: Sequence[int], tile: Sequence[int]) -> np.ndarray:
    planes = np.zeros(shape, bool)
    for axis, (n, length) in enumerate(zip(shape, tile, strict=True)):
        for start in range(length, n, length):
            np.moveaxis(planes, axis, 0)[start - 1 : start + 1] = True
    return planes


def _seam_counts(found: Predictions, labels: np.ndarray, halo: int) -> SeamCounts:
    best: dict[tuple[int, ...], tuple[float, float]] = {}
    for one in found.evidence:
        ranks = np.stack([one.agreement, one.iou], axis=1)[one.touching].tolist()
        for pair, rank in zip(map(tuple, np.sort(one.nodes[one.touching]).tolist()), ranks, strict=True):
            best[pair] = max(best.get(pair, (0.0, 0.0)), tuple(rank))
    iou = np.array([iou for _, iou in best.values()])
    nodes, first = np.unique(found.core, return_index=True)
    n_labels = np.bincount(labels.ravel()[first[nodes > 0]])
    return SeamCounts(
        n_objects=int(np.count_nonzero(n_labels)),
        n_crossing=int(np.count_nonzero(n_labels > 1)),
        same=int(np.count_nonzero(iou >= MAX_DOUBTFUL)),
        doubtful=int(np.count_nonzero((iou >= MIN_DOUBTFUL) & (iou < MAX_DOUBTFUL))),
        completed=len(found.unseen),
        halo=halo,
    )


def fit(runs: Sequence[Measured]) -> Coefficients:
    """Return coefficients, with the least spread with which intervals hold for `MIN_COVERED` of the runs.

    The shares of wrong objects are medians over the runs in which enough was wrong to be measured.
    """
    many = [one for one in runs if one.seams.doubtful + one.seams.completed >= 5]
    everywhere, at_seams = (
        float(np.median([wrong / (n * one.seams.disagreement) for one, wrong, n in of]))
        for of in (
            [(one, one.wrong, one.seams.n_objects) for one in many],
            [(one, one.wrong_at_seams, one.seams.n_crossing) for one in many if one.seams.n_crossing],
        )
    )
    for spread in SPREADS:
        found = Coefficients(round(everywhere, 2), round(at_seams, 2), spread)
        if np.mean([_holds(run, run.expected(found)) for run in runs]) >= MIN_COVERED:
            break
    return found


def _width(found: Range) -> float:
    return found.high - found.low


def _holds(run: Measured, expected: ExpectedErrors) -> bool:
    return expected.wrong.low <= run.wrong <= expected.wrong.high


def _row(name: str, runs: Sequence[Measured]) -> list[str]:
    found = [one.expected(FITTED) for one in runs]
    if not found:
        return [name, "0", *["-"] * 6]
    error = np.array([expected.f1.mid - one.f1 for one, expected in zip(runs, found, strict=True)])
    seams = [
        expected.wrong_at_seams.low <= one.wrong_at_seams <= expected.wrong_at_seams.high
        for one, expected in zip(runs, found, strict=True)
    ]
    return [
        name,
        str(len(runs)),
        f"{np.mean([expected.f1.mid for expected in found]):.3f}",
        f"{np.mean([one.f1 for one in runs]):.3f}",
        f"{np.mean(np.abs(error) <= 0.01):.3f}",
        f"{np.mean([_holds(*pair) for pair in zip(runs, found, strict=True)]):.3f}",
        f"{np.mean(seams):.3f}",
        f"{np.mean([_width(expected.f1) for expected in found]):.3f}",
    ]


def judged_rows(runs: Sequence[Measured]) -> list[list[str]]:
    """Return a row for all runs, for those that are sure or not, and for each band of F1 that was predicted."""
    f1 = [one.expected(FITTED).f1.mid for one in runs]
    rows = [_row("all", runs)]
    for name, is_sure in (("sure", True), ("not sure", False)):
        rows.append(_row(name, [one for one in runs if one.expected(FITTED).is_sure == is_sure]))
    for low, high in itertools.pairwise(reversed((1.001, *BANDS))):
        band = [one for one, predicted in zip(runs, f1, strict=True) if low <= predicted < high]
        rows.append(_row(f"predicted {low:g} to {min(high, 1):g}", band))
    return rows


def unknown_rows() -> list[list[str]]:
    """Return rows of runs of which the seams say nothing, or nothing of what is wrong."""
    image = dense_image((240, 240), 12, 0)
    others = [
        Case(name, image, fn, (60, 60), (18, 18), fn(image))
        for name, fn in (("wrong alike", _scaled_cells), ("specks", RandomMarkers(12, 0)))
    ]
    rows = []
    for case in (*(one for one in cases(small=True, half="tuned") if not any(one.halo)), *others):
        run = measure(case)
        expected = expect_errors(run.seams)
        predicted = "none" if expected is None else "{1:.3f} ({0:.3f} to {2:.3f})".format(*expected.f1)
        rows.append([case.name, predicted, f"{run.f1:.3f}"])
    return rows


def _scaled_cells(tile: np.ndarray) -> np.ndarray:
    return DenseWatershed(min(tile.shape) / 6)(tile)


def main(arguments: list[str] | None = None) -> None:
    """Measure, fit and print."""
    options = begin(plain_parser("judged.seams.self_error", __doc__), arguments)
    runs: dict[int, Measured] = {}
    for seed in range(N_SMALL_CASES if options.small else N_CASES):
        run = measure(random_case(seed))
        if seed % 50 == 0:
            print(f"measured {seed}", file=sys.stderr, flush=True)
        if expect_errors(run.seams):
            runs[seed] = run
    print(f"\nFitted on even cases: {fit([run for seed, run in runs.items() if seed % 2 == 0])}")
    print(f"The package has:      {FITTED}")
    titles = ["predicted", "true F1", "within 0.01", "F1 in interval", "seams in interval", "width"]
    print("\nOdd cases, by what the package has:\n")
    print(format_table(["runs", "n", *titles], judged_rows([run for seed, run in runs.items() if seed % 2])))
    print("\nWhat cannot be known:\n")
    print(format_table(["run", "predicted F1", "true F1"], unknown_rows()))


# asv imports every module below benchmarks.
if __name__ == "__main__":
    main()
