"""Compare tiled with untiled labels in dense tissue: ``python -m benchmarks.seam_accuracy``.

The same function segments the whole image at once, and tile by tile with ``merge="touch"`` and with
``merge="agree"``; objects are matched one to one. A halo of 1 is a diameter: the 95th percentile of the
objects' equivalent diameters, in voxels. Four tables: a function that sees the same in every tile; one that
does not; thresholds of agreement; and what is judged.

Micrographs take part where the variable BLOCKBUSTER_DATA names the folder that has them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from skimage.measure import regionprops_table

import blockbuster
from benchmarks.command_line import begin, plain_parser
from benchmarks.runs import THREADS
from benchmarks.scoring import compare_interior
from benchmarks.seam_cases import Case, generated_cases, random_tissues, real_cases, unstable_cases
from benchmarks.table import format_table, limit
from benchmarks.watersheds import Unstable
from blockbuster.advise.scoring import LabelScore, score_labels

__all__ = ["Judgement", "Row", "judge", "main", "measure_case"]

MERGES = ("touch", "agree")
HALOS = (0.25, 0.5, 1.0, 2.0)
SMALL_HALOS = (0.5, 1.0)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
MIN_STABLE = 0.9995
NAMES = ["image", "tile", "halo", "voxels", "objects", "stable"]
SCORES = ["F1@0.5", "F1@0.9", "split", "merged", "runaway"]
TITLES = NAMES + [f"{merge} {score}" for merge in MERGES for score in SCORES]
THRESHOLD_TITLES = ["tissue", "fn", "halo", "touch", *map(str, THRESHOLDS)]
# F1 of touch and of each threshold, per "2-D" or "3-D", "stable" or "unstable", and halo.
Thresholds = dict[tuple[str, str, float], np.ndarray]
JUDGED_TITLES = ["what is judged", "rows", "worst", "bound", "verdict"]


class Remembered:
    """A function whose results are kept, so that each way to merge gets the same labels without a second call."""

    def __init__(self, fn: Callable[[np.ndarray], np.ndarray]) -> None:
        self.fn = fn
        self.known: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment a tile, or recall it."""
        key = tile.shape, hashlib.blake2b(tile.tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.fn(tile)
        return self.known[key]


@dataclass(frozen=True)
class Row:
    """What one image, tile shape and halo came to.

    Parameters
    ----------
    name, kind, ndim
        As of `Case`.
    tile : tuple of int
        Its shape.
    halo : float
        In diameters.
    halo_voxels : int
        What was asked of ``overlap``.
    stable : bool
        Whether fn finds the interior objects of shifted crops again.
    scores : dict of str to LabelScore
        Per ``merge``.
    runaway : dict of str to str
        What the seam report says, per ``merge``.
    """

    name: str
    kind: str
    ndim: int
    tile: tuple[int, ...]
    halo: float
    halo_voxels: int
    stable: bool
    scores: dict[str, LabelScore]
    runaway: dict[str, str]

    @property
    def gain(self) -> float:
        """How far agree is above touch."""
        return self.scores["agree"].f1() - self.scores["touch"].f1()


def tile_image(
    image: np.ndarray, fn: Any, tile: tuple[int, ...], overlap: int, **options: Any
) -> tuple[np.ndarray, Any]:
    """Segment with blockbuster; give labels 1..N and the report."""
    with dask.config.set(THREADS), warnings.catch_warnings():
        # It is in the report too.
        warnings.filterwarnings("ignore", message="runaway merging")
        return blockbuster.tile_process(
            image, fn, tile_shape=tile, overlap=overlap, sequential_labels=True, return_report=True, **options
        )


def diameter_of(labels: np.ndarray) -> float:
    """Give the 95th percentile of the objects' equivalent diameters, in voxels."""
    [diameters] = regionprops_table(labels, properties=["equivalent_diameter_area"]).values()
    return float(np.percentile(diameters, 95))


def measure_case(case: Case, halos: tuple[float, ...]) -> Iterator[Row]:
    """Segment one image at every tile shape and halo."""
    image = case.load()
    whole = case.fn(image)
    diameter = diameter_of(whole)
    for tile in case.tiles:
        stable = stability(image, case.fn, whole, tile, round(diameter)) >= MIN_STABLE
        for halo in halos:
            overlap = max(1, round(halo * diameter))
            fn = Remembered(case.fn)
            found = {merge: tile_image(image, fn, tile, overlap, merge=merge) for merge in MERGES}
            scores = {merge: score_labels(whole, labels) for merge, (labels, _) in found.items()}
            runaway = {merge: report.seams.runaway for merge, (_, report) in found.items()}
            yield Row(case.name, case.kind, case.ndim, tile, halo, overlap, stable, scores, runaway)


def stability(image: np.ndarray, fn: Any, whole: np.ndarray, tile: tuple[int, ...], overlap: int) -> float:
    """Say how well fn finds the objects again in crops of a tile and its halo, shifted by half a tile.

    Returns
    -------
    float
        F1 at an intersection over union of 0.5 against the whole image, over the interior objects of all
        crops: those that do not touch the border of their crop, the image's own border aside.
    """
    n_matched = n_objects = 0
    axes = [_shifted(n, step, overlap) for n, step in zip(image.shape, tile, strict=True)]
    for crop in itertools.product(*axes):
        inner = tuple(map(_inside, crop, image.shape))
        matched, objects = compare_interior(whole[crop], fn(image[crop]), inner)
        n_matched, n_objects = n_matched + matched, n_objects + objects
    return n_matched / n_objects if n_objects else 0.0


def _shifted(n: int, step: int, margin: int) -> list[slice]:
    cuts = [0, *range(step // 2, n, step), n]
    return [slice(max(0, start - margin), min(n, stop + margin)) for start, stop in itertools.pairwise(cuts)]


def _inside(crop: slice, n: int) -> slice:
    """Leave the outermost voxels of a crop out, but not those of the image."""
    return slice(int(crop.start > 0), crop.stop - crop.start - int(crop.stop < n))


def measure_thresholds(cases: list[Case], halos: tuple[float, ...]) -> Thresholds:
    """Give mean F1 at 0.5 of touch and of each threshold, per number of axes, function and halo."""
    found = defaultdict(list)
    options: list[dict[str, Any]] = [
        {"merge": "touch"},
        *({"merge": "agree", "min_agreement": least} for least in THRESHOLDS),
    ]
    for case in cases:
        image = case.load()
        whole = case.fn(image)
        diameter = diameter_of(whole)
        for halo in halos:
            fn, overlap = Remembered(case.fn), max(1, round(halo * diameter))
            runs = [tile_image(image, fn, case.tiles[0], overlap, **choice)[0] for choice in options]
            kind = "unstable" if isinstance(case.fn, Unstable) else "stable"
            found[f"{case.ndim}-D", kind, halo].append([score_labels(whole, labels).f1() for labels in runs])
    return {key: np.mean(values, axis=0) for key, values in sorted(found.items())}


@dataclass(frozen=True)
class Judgement:
    """A bound and what came closest to breaking it.

    Parameters
    ----------
    what : str
        In words.
    n_rows : int
        How many rows take part.
    worst : float
        The least value of them; not a number without rows.
    bound : float or None
        The least that is allowed; ``None``: not judged.
    """

    what: str
    n_rows: int
    worst: float
    bound: float | None

    @property
    def verdict(self) -> str:
        """``"pass"``, ``"FAIL"``, or ``"not judged"``: without a bound, or a row that takes part."""
        if self.bound is None or not self.n_rows:
            return "not judged"
        return "pass" if self.worst >= self.bound else "FAIL"


def judge(stable: list[Row], unstable: list[Row], *, judged: bool = True) -> list[Judgement]:
    """Compare the rows of a stable and an unstable function with what was promised."""
    at_one = [row for row in stable if row.halo == 1]
    volumes = [row for row in stable if row.kind == "dense" and row.ndim == 3]
    separate = [row for row in stable if row.kind == "sparse"]
    found: list[tuple[str, float | None, list[float]]] = [
        ("agree, 1 diameter, stable: F1@0.5", 0.999, [_f1(row) for row in at_one if row.stable]),
        ("agree, 1 diameter, stable or not: F1@0.5", None, [_f1(row) for row in at_one]),
        ("agree, 1 diameter: objects above touch", -1, [_objects_gained(row) for row in at_one]),
        ("agree, half a diameter, dense 3-D: F1@0.5", 0.985, [_f1(row) for row in volumes if row.halo == 0.5]),
        ("unstable fn, sparse: agree - touch", -0.002, [row.gain for row in unstable if row.kind == "sparse"]),
        ("unstable fn, dense: agree - touch", 0.02, [row.gain for row in unstable if row.kind == "dense"]),
        ("runaway guard speaks: touch, dense 3-D", 1, [bool(row.runaway["touch"]) for row in volumes]),
        ("runaway guard is silent: touch, separate nuclei", 1, [not row.runaway["touch"] for row in separate]),
        ("runaway guard is silent: agree", 1, [not row.runaway["agree"] for row in stable]),
    ]
    return [
        Judgement(what, len(values), float(min(values, default=np.nan)), bound if judged else None)
        for what, bound, values in found
    ]


def _f1(row: Row) -> float:
    return row.scores["agree"].f1()


def _objects_gained(row: Row) -> float:
    """Say by how many objects agree is above touch, an error being an object that is not matched."""
    return row.gain * row.scores["touch"].n_expected


def accuracy_table(rows: list[Row]) -> str:
    """Lay out the rows."""
    return format_table(TITLES, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    tile = "x".join(map(str, row.tile))
    start = [row.name, tile, f"{row.halo:g}", str(row.halo_voxels), f"{row.scores['touch'].n_expected:,}"]
    scores = [cell for merge in MERGES for cell in _score_cells(row.scores[merge], row.runaway[merge])]
    return [*start, "yes" if row.stable else "no", *scores]


def _score_cells(score: LabelScore, runaway: str) -> list[str]:
    f1 = [f"{score.f1(least):.4f}" for least in (0.5, 0.9)]
    return [*f1, str(score.n_split), str(score.n_merged), "yes" if runaway else "no"]


def threshold_table(found: Thresholds) -> str:
    """Lay out the means."""
    rows = [[*key[:2], f"{key[2]:g}", *(f"{value:.4f}" for value in values)] for key, values in found.items()]
    return format_table(THRESHOLD_TITLES, rows)


def judgement_table(found: list[Judgement]) -> str:
    """Lay out the bounds."""
    return format_table(JUDGED_TITLES, [_judgement_cells(judgement) for judgement in found])


def _judgement_cells(found: Judgement) -> list[str]:
    return [found.what, str(found.n_rows), f"{found.worst:.4f}", limit(found.bound), found.verdict]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write JSON if asked; exit with 1 where something is below its bound."""
    parser = plain_parser("seam_accuracy", __doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="images whose name has this text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    options = begin(parser, arguments)
    small = options.small
    halos = SMALL_HALOS if small else HALOS
    micrographs = [] if small else real_cases()
    cases = _chosen([*generated_cases(small=small), *micrographs], options.only)
    stable = _measure("A function that sees the same in every tile, against itself untiled", cases, halos)
    cases = _chosen(unstable_cases(small=small), options.only)
    unstable = _measure("A function that stretches each tile to its own range and adds noise", cases, halos)
    tissues = _chosen(random_tissues(small=small), options.only)
    thresholds = measure_thresholds(tissues, tuple(halo for halo in halos if halo <= 1))
    print(f"\nMean F1@0.5 at each min_agreement, {len(tissues) // 2} tissues:\n\n{threshold_table(thresholds)}")
    found = judge(stable, unstable, judged=not small)
    print(f"\n{judgement_table(found)}")
    if not micrographs:
        print(f"\nNo micrographs: {'too large for --small.' if small else 'BLOCKBUSTER_DATA is not set.'}")
    if options.json:
        content = _content(options.facts, stable, unstable, thresholds, found)
        options.json.write_text(json.dumps(content, indent=2))
    sys.exit(any(judgement.verdict == "FAIL" for judgement in found))


def _chosen(cases: list[Case], text: str) -> list[Case]:
    return [case for case in cases if text in case.name]


def _measure(title: str, cases: list[Case], halos: tuple[float, ...]) -> list[Row]:
    rows: list[Row] = []
    for case in cases:
        print(f"measuring {case.name}", file=sys.stderr, flush=True)
        rows += measure_case(case, halos)
    print(f"\n{title}:\n\n{accuracy_table(rows)}", flush=True)
    return rows


def _content(
    facts: Any, stable: list[Row], unstable: list[Row], thresholds: Thresholds, found: list[Judgement]
) -> dict[str, Any]:
    means = [
        {"ndim": ndim, "fn": kind, "halo": halo}
        | dict(zip(["touch", *map(str, THRESHOLDS)], values, strict=True))
        for (ndim, kind, halo), values in thresholds.items()
    ]
    return {
        "machine": facts,
        "stable": [asdict(row) for row in stable],
        "unstable": [asdict(row) for row in unstable],
        "thresholds": means,
        "judged": [asdict(judgement) | {"verdict": judgement.verdict} for judgement in found],
    }


if __name__ == "__main__":
    main()
