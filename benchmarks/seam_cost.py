"""What agreement costs: ``merge="agree"`` against ``merge="touch"``: ``python -m benchmarks.seam_cost``.

Both run on the engine's images, turn about, after one call each that is not counted. Time is that of the whole
call; peak memory is that of one more call, in a process of its own, which also weighs what lies in the stage:
halo strips against labels. The last row is dense tissue without any background
and a function that costs nothing: the worst case, which is not judged.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import blockbuster
from benchmarks.command_line import begin, data_folder, measuring_parser
from benchmarks.images import Image
from benchmarks.own_process import call_in_own_process
from benchmarks.runs import N_THREADS, label_tile, peak_memory_bytes, seconds_in_turn, segment
from benchmarks.table import comparison_cells, format_table, limit, verdict, worst_verdict
from benchmarks.tissue import voronoi_labels
from blockbuster.rundir.sections import SectionFile

__all__ = ["Case", "cases", "main", "measure", "weigh"]

MERGES = ("touch", "agree")
STRIP_BOUND = 0.3
DEFAULT_REPEATS = 5
TITLES = ["setting", "pairs", "touch s", "agree s", "ratio", "by pairs", "at most", "verdict"]
WEIGHT_TITLES = ["setting", "touch MB", "agree MB", "ratio", "at most", "strips / labels", "at most", "verdict"]


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    Parameters
    ----------
    kind : {"discs", "blobs", "tissue"}
        What is segmented; ``"tissue"`` is a 3-D label image without background, handed on as it is.
    length, chunk : int
        Side of the image and of its chunks in voxels.
    tile, overlap : int
        Side of a tile, and its halo, in voxels.
    time_bound : float or None
        Largest allowed ratio of the times; ``None``: not judged.
    memory_bound : float or None
        Largest allowed ratio of the peaks of memory; with it, strips are judged.
    """

    kind: str
    length: int
    chunk: int
    tile: int
    overlap: int
    time_bound: float | None = None
    memory_bound: float | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 2 if self.kind == "discs" else 3

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.kind} {self.length}^{self.ndim} tile {self.tile} overlap {self.overlap}"

    def stored_in(self, folder: Path) -> Path:
        """Give the path of the image, which is generated where it is not there."""
        if self.kind != "tissue":
            return Image(self.kind, self.length, self.chunk).stored_in(folder)
        path = folder / f"tissue-{self.length}.zarr"
        if not path.exists():
            side = min(128, self.length)
            labels = voronoi_labels((side,) * 3, 12, 0).astype(np.uint16)
            array = zarr.create_array(path, shape=(self.length,) * 3, chunks=(side,) * 3, dtype="uint16")
            array[...] = np.tile(labels, (self.length // side,) * 3)
        return path

    def run(self, path: Path, merge: str, folder: Path, *, keep_stage: bool = False) -> blockbuster.RunReport:
        """Segment the image into ``folder/labels.zarr``, anew."""
        fn = hand_on if self.kind == "tissue" else label_tile
        options: dict[str, Any] = {"overlap": self.overlap, "merge": merge, "keep_stage": keep_stage}
        with warnings.catch_warnings():
            # Joining what touches does fuse the tissue.
            warnings.filterwarnings("ignore", "runaway merging")
            return segment(path, (self.tile,) * self.ndim, folder / "labels.zarr", fn, **options)


def hand_on(tile: np.ndarray) -> np.ndarray:
    """Give labels that are there already: a function that costs nothing."""
    return tile


def cases(*, small: bool) -> list[Case]:
    """Give the rows of the tables; small ones end in seconds and are not judged."""
    if small:
        return [Case("discs", 512, 128, 64, 16), Case("blobs", 64, 32, 16, 4), Case("tissue", 64, 64, 16, 4)]
    return [
        Case("discs", 16384, 1024, 256, 16, time_bound=1.35),
        Case("discs", 16384, 1024, 1024, 32, time_bound=1.35),
        Case("blobs", 512, 128, 64, 16, time_bound=1.5, memory_bound=1.5),
        Case("tissue", 384, 128, 64, 16),
    ]


def measure(case: Case, path: Path, repeats: int) -> list[str]:
    """Time both ways of merging in turn; give the row of the table."""
    with tempfile.TemporaryDirectory() as name:
        calls = {merge: functools.partial(case.run, path, merge, Path(name)) for merge in MERGES}
        touch, agree = seconds_in_turn(calls, repeats, clear=Path(name, "labels.zarr")).values()
        report = blockbuster.read_report(Path(name, "labels.zarr"))
    return [case.name, f"{report.seams.touching:,}", *comparison_cells(touch, agree, case.time_bound)]


def weigh(case: Case, path: Path) -> list[str]:
    """Compare peak memory, and what lies in the stage; give the row of the table."""
    sizes = case.kind, case.length, case.chunk, case.tile, case.overlap
    weights = {merge: call_in_own_process("seam_cost.weight_of", sizes, merge, path) for merge in MERGES}
    peaks = {merge: found["peak_bytes"] for merge, found in weights.items()}
    ratio = peaks["agree"] / peaks["touch"]
    share = weights["agree"]["strip_bytes"] / weights["agree"]["label_bytes"]
    bound = case.memory_bound
    share_bound = None if bound is None else STRIP_BOUND
    return [
        case.name,
        f"{peaks['touch'] / 1e6:.0f}",
        f"{peaks['agree'] / 1e6:.0f}",
        f"{ratio:.3f}",
        limit(bound),
        f"{share:.3f}",
        limit(share_bound),
        worst_verdict(verdict(ratio, bound), verdict(share, share_bound)),
    ]


def weight_of(case: Sequence[Any], merge: str, path: str) -> dict[str, int]:
    """Run a case, given by its kind and sizes, in this process; give its peak and what lies in its stage."""
    with tempfile.TemporaryDirectory() as name:
        Case(*case).run(Path(path), merge, Path(name), keep_stage=True)
        peak = peak_memory_bytes()
        (part,) = Path(name).glob("*.blockbuster-stage/part-*")
        sizes: Counter[str] = Counter()
        for file in part.iterdir():
            for section, size in SectionFile(file).sizes.items():
                sizes[section.partition("-")[0]] += size
    return {"peak_bytes": peak, "strip_bytes": sizes["border"], "label_bytes": sizes["group"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    options = begin(measuring_parser("seam_cost", __doc__, str(DEFAULT_REPEATS)), arguments, DEFAULT_REPEATS)
    chosen = [case for case in cases(small=options.small) if options.only in case.name]
    with data_folder(options.data) as data:
        paths = [case.stored_in(data) for case in chosen]
        rows = [measure(case, path, options.repeats) for case, path in zip(chosen, paths, strict=True)]
        print(f"\nTime on {N_THREADS} threads, medians of {options.repeats}; ratio is agree / touch:\n")
        print(format_table(TITLES, rows), flush=True)
        weights = [weigh(case, path) for case, path in zip(chosen, paths, strict=True)]
        print("\nPeak memory of one run in a process of its own, and bytes of the strips with agree:\n")
        print(format_table(WEIGHT_TITLES, weights))
    sys.exit(any(row[-1] == "FAIL" for row in [*rows, *weights]))


if __name__ == "__main__":
    main()
