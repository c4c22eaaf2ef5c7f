"""What a table of objects costs: ``measure=`` against none: ``python -m benchmarks.judged.measuring``.

Both run on the engine's images, turn about, after one call each that is not counted; values are those of two
channels, of which fn sees one, and reading the other once is measured besides. fn takes next to no time: with
one that works, as networks do, ratios are nearer to 1. ``--memory`` weighs a run of 10 million objects instead,
in processes of its own, with and without a table.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
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
from benchmarks.runs import N_THREADS, peak_memory_bytes, read_seconds, seconds_in_turn, segment
from benchmarks.table import comparison_cells, format_table

__all__ = ["Case", "cases", "main", "measure", "peak_of"]

VALUES = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
DEFAULT_REPEATS = 5
TITLES = ["setting", "objects", "none s", "measured s", "ratio", "by pairs", "at most", "verdict"]
MEMORY_TITLES = ["objects", "of several parts", "none MB", "measured MB", "more MB", "bytes an object"]
SHAPE_BOUND, VALUE_BOUND = 1.03, 1.15
# Objects of 8 voxels on a side, one in each cell of 10.
CELL, SIDE = 10, 8


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Parameters
    ----------
    image : Image
        What is segmented.
    tile, overlap : int
        Side of a tile, and its halo, in voxels.
    is_judged : bool
        Whether there are bounds.
    """

    image: Image
    tile: int
    overlap: int
    is_judged: bool = True

    @property
    def name(self) -> str:
        """What the row is called."""
        image = self.image
        return f"{image.kind} {image.length}^{image.ndim} tile {self.tile}"

    def stored_in(self, folder: Path) -> tuple[Path, Path]:
        """Give the paths of the image, and of one with two channels that are the same."""
        path = self.image.stored_in(folder)
        both = path.with_name(f"{path.stem}-two{path.suffix}")
        if not both.exists():
            one = zarr.open_array(path, mode="r")
            chunks = (1, *one.chunks)
            names = ["c", *"zyx"[-one.ndim :]]
            array = zarr.create_array(
                both, shape=(2, *one.shape), chunks=chunks, dtype=one.dtype, dimension_names=names
            )
            for start in range(0, one.shape[0], one.chunks[0]):
                rows = slice(start, start + one.chunks[0])
                array[0, rows] = array[1, rows] = one[rows]
        return path, both

    def run(self, path: Path, measure: Any, folder: Path) -> blockbuster.RunReport:
        """Segment the image into ``folder/labels.zarr``, anew."""
        tile = (self.tile,) * self.image.ndim
        return segment(path, tile, folder / "labels.zarr", overlap=self.overlap, measure=measure)


def cases(*, small: bool) -> list[Case]:
    """Give the rows of the table; small ones end in seconds and are not judged."""
    if small:
        return [Case(Image("discs", 512, 128), 64, 16, False), Case(Image("blobs", 64, 32), 16, 4, False)]
    return [
        Case(Image("discs", 16384, 1024), 1024, 32),
        Case(Image("discs", 16384, 1024), 256, 16),
        Case(Image("blobs", 512, 128), 64, 8),
        Case(Image("blobs", 1024, 128, sigma=6.5), 128, 8),
    ]


def measure(case: Case, paths: tuple[Path, Path], repeats: int) -> list[list[str]]:
    """Time runs with and without a table in turn; give the rows, of shapes and of values."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for path, asked, bound, what in (
            (paths[0], True, SHAPE_BOUND, "shapes"),
            (paths[1], list(VALUES), VALUE_BOUND, "and 4 values of 2 channels"),
        ):
            calls = {str(m): functools.partial(case.run, path, m, Path(name)) for m in (None, asked)}
            none, measured = seconds_in_turn(calls, repeats, clear=Path(name, "labels.zarr")).values()
            report = blockbuster.read_report(Path(name, "labels.zarr"))
            cells = comparison_cells(none, measured, bound if case.is_judged else None)
            rows.append([f"{case.name}, {what}", f"{report.n_objects:,}", *cells])
            if what != "shapes":
                # One of the two channels, as an array of its own.
                seconds = read_seconds(paths[0], min(repeats, 3))
                more = statistics.median(measured) - statistics.median(none) - seconds
                rows.append(
                    [f"{case.name}, without reading {seconds:.2f} s", "", "", f"{more:+.2f}", "", "", "", ""]
                )
    return rows


def cells_of(tile: np.ndarray) -> np.ndarray:
    """Find a cell every 10 pixels, whatever the tile looks like."""
    places = [np.arange(n) for n in tile.shape]
    numbers = np.add.outer(places[0] // CELL * (1 + tile.shape[1] // CELL), places[1] // CELL) + 1
    inside = np.logical_and.outer(places[0] % CELL < SIDE, places[1] % CELL < SIDE)
    return (numbers * inside).astype(np.int32)


def peak_of(length: int, asked: Any) -> list[int]:
    """Run on an empty plane in this process; give its peak, the objects, and those of several parts."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "image.zarr")
        zarr.create_array(path, shape=(length, length), chunks=(1024, 1024), dtype="uint8")
        report = segment(path, (1024, 1024), Path(name, "labels.zarr"), cells_of, measure=asked)
        return [peak_memory_bytes(), report.n_objects, report.seams.n_crossing]


def weigh(length: int) -> list[str]:
    """Compare peak memory with and without a table; give the row of the table."""
    (none, *_), (measured, n_objects, n_crossing) = (
        call_in_own_process("judged.measuring.peak_of", length, asked) for asked in (None, True)
    )
    more = measured - none
    sizes = (f"{n / 1e6:.0f}" for n in (none, measured, more))
    return [f"{n_objects:,}", f"{n_crossing:,}", *sizes, f"{more / max(1, n_objects):.0f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    parser = measuring_parser("judged.measuring", __doc__, str(DEFAULT_REPEATS))
    parser.add_argument("--memory", action="store_true", help="weigh runs of many objects instead")
    options = begin(parser, arguments, DEFAULT_REPEATS)
    if options.memory:
        lengths = (2048,) if options.small else (10240, 32768)
        print(format_table(MEMORY_TITLES, [weigh(length) for length in lengths]))
        return
    chosen = [case for case in cases(small=options.small) if options.only in case.name]
    with data_folder(options.data) as data:
        paths = [case.stored_in(data) for case in chosen]
        rows = [
            row for case, pair in zip(chosen, paths, strict=True) for row in measure(case, pair, options.repeats)
        ]
    print(f"\nTime on {N_THREADS} threads, medians of {options.repeats}; ratio is measured / none:\n")
    print(format_table(TITLES, rows))
    sys.exit(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    main()
