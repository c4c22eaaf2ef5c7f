"""Compare two worker processes of a dask cluster with two threads: ``python -m benchmarks.workers``.

With an fn that lets go of the GIL threads are as good as it gets, and what the processes take more is the price
of sending tasks. With an fn in plain Python threads wait for each other, and processes do not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import blockbuster
from benchmarks.command_line import SMALL_NOTE, begin, data_folder, measuring_parser
from benchmarks.images import Image
from benchmarks.runs import N_THREADS, THREADS, label_tile, seconds_in_turn, segment
from benchmarks.table import comparison_cells, format_table

__all__ = ["Case", "label_in_python", "main", "measure"]

FREE_BOUND = 1.3
HELD_BOUND = 1 / 1.6
DEFAULT_REPEATS = 5


def label_in_python(tile: np.ndarray) -> np.ndarray:
    """Number the connected components of what is not background in Python alone, which holds the GIL."""
    labels = np.zeros(tile.shape, "int32")
    foreground = {tuple(pixel) for pixel in np.argwhere(tile > 0).tolist()}
    n_objects = 0
    while foreground:
        n_objects += 1
        found = [foreground.pop()]
        while found:
            y, x = found.pop()
            labels[y, x] = n_objects
            for pixel in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if pixel in foreground:
                    foreground.remove(pixel)
                    found.append(pixel)
    return labels


@dataclass(frozen=True)
class Case:
    """One row: an image, and the function that segments it.

    Parameters
    ----------
    name : str
        What the function does with the GIL.
    fn : callable
        The function.
    length : int
        Side of the image of discs.
    bound : float or None
        Largest allowed time of processes over that of threads.
    tile, overlap : int
        Side of a tile, and its halo, in pixels.
    """

    name: str
    fn: Callable[[np.ndarray], np.ndarray]
    length: int
    bound: float | None = None
    tile: int = 256
    overlap: int = 16

    @property
    def image(self) -> Image:
        """What is segmented."""
        return Image("discs", self.length, min(1024, self.length // 2))

    def run(self, image: Path, folder: Path, on: Mapping[str, Any]) -> None:
        """Segment the image anew, `on` what dask is told."""
        shutil.rmtree(folder / "labels.zarr", ignore_errors=True)
        segment(image, (self.tile, self.tile), folder / "labels.zarr", self.fn, on, overlap=self.overlap)


def cases(*, small: bool) -> list[Case]:
    """Give the rows of the table."""
    if small:
        return [Case("free", label_tile, 512), Case("held", label_in_python, 512)]
    return [
        Case("free", label_tile, 16384, FREE_BOUND),
        Case("free", label_tile, 8192),
        Case("held", label_in_python, 4096, HELD_BOUND),
    ]


def measure(case: Case, image: Path, client: object, repeats: int) -> list[str]:
    """Time threads and the workers of the active client in turn; give the row of the table."""
    with tempfile.TemporaryDirectory() as name:
        calls = {
            "threads": lambda: case.run(image, Path(name), THREADS),
            "processes": lambda: case.run(image, Path(name), {"scheduler": client}),
        }
        threads, processes = seconds_in_turn(calls, repeats).values()
    name = f"{case.name}, {case.length}^2 tile {case.tile} overlap {case.overlap}"
    return [name, *comparison_cells(threads, processes, case.bound)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    options = begin(measuring_parser("workers", __doc__, str(DEFAULT_REPEATS)), arguments, DEFAULT_REPEATS)
    client, cluster = blockbuster.make_local_cluster(n_workers=N_THREADS)
    with cluster, client, data_folder(options.data) as data:
        rows = [
            measure(case, case.image.stored_in(data), client, options.repeats)
            for case in cases(small=options.small)
            if options.only in case.name
        ]
    print(f"\nTwo worker processes against two threads, medians of {options.repeats}; free or held is the GIL:\n")
    titles = ["fn and image", "threads s", "processes s", "ratio", "by pairs", "at most", "verdict"]
    print(format_table(titles, rows))
    if options.small:
        print(SMALL_NOTE)
    sys.exit(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    main()
