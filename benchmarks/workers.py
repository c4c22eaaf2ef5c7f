"""Compare two worker processes of a dask cluster with two threads: ``python -m benchmarks.workers``.

With an fn that lets go of the GIL threads are as good as it gets, and what the processes take more is the price
of sending tasks. With an fn in plain Python threads wait for each other, and processes do not.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np

import blockbuster
from benchmarks.images import Image
from benchmarks.machine import describe_machine, machine_facts
from benchmarks.runs import N_THREADS, label_tile, seconds_of
from benchmarks.table import format_table, verdict

__all__ = ["Case", "label_in_python", "main", "measure"]

FREE_BOUND = 1.3
HELD_BOUND = 1 / 1.6


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

    def run(self, image: Path, folder: Path) -> blockbuster.RunReport:
        """Segment the image anew, wherever dask runs tasks now."""
        shutil.rmtree(folder / "labels.zarr", ignore_errors=True)
        _, report = blockbuster.tile_process(
            image,
            self.fn,
            tile_shape=(self.tile, self.tile),
            overlap=self.overlap,
            write_to=folder / "labels.zarr",
            return_report=True,
        )
        return report


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
    seconds: dict[str, list[float]] = {"threads": [], "processes": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(1 + repeats):
            with dask.config.set(scheduler="threads", num_workers=N_THREADS):
                seconds["threads"].append(seconds_of(lambda: case.run(image, folder)))
            with dask.config.set(scheduler=client):
                seconds["processes"].append(seconds_of(lambda: case.run(image, folder)))
    threads, processes = (times[1:] for times in seconds.values())
    ratio = statistics.median(processes) / statistics.median(threads)
    return [
        f"{case.name}, {case.length}^2 tile {case.tile} overlap {case.overlap}",
        f"{statistics.median(threads):.3f}",
        f"{statistics.median(processes):.3f}",
        f"{ratio:.3f}",
        f"{statistics.median(b / a for a, b in zip(threads, processes, strict=True)):.3f}",
        "-" if case.bound is None else f"{case.bound:.3f}",
        verdict(ratio, case.bound),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the smallest sizes; nothing is judged")
    parser.add_argument("--repeats", type=int, help="counted runs of each")
    parser.add_argument("--case", choices=["free", "held"], help="of these alone")
    parser.add_argument("--data", type=Path, help="folder that keeps the images")
    given = parser.parse_args(arguments)
    repeats = given.repeats or (1 if given.small else 5)
    print(describe_machine(machine_facts()))
    client, cluster = blockbuster.make_local_cluster(n_workers=N_THREADS)
    with cluster, client, tempfile.TemporaryDirectory() as name:
        data = given.data or Path(name)
        rows = [
            measure(
                case, Image("discs", case.length, min(1024, case.length // 2)).stored_in(data), client, repeats
            )
            for case in cases(small=given.small)
            if given.case in (None, case.name)
        ]
    print(f"\nTwo worker processes against two threads, medians of {repeats}; free or held is the GIL:\n")
    titles = ["fn and image", "threads s", "processes s", "ratio", "by pairs", "at most", "verdict"]
    print(format_table(titles, rows))
    if given.small:
        print("\nThese are the smallest sizes: they show that the benchmark runs, and nothing is judged.")
    sys.exit(1 if any(row[-1] == "FAIL" for row in rows) else 0)


if __name__ == "__main__":
    main()
