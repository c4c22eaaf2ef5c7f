"""Check that small work stays quick: ``python -m benchmarks.small_work``.

Two things: the time of ``import blockbuster`` in a new interpreter, and how much longer ``tile_process``
takes for a NumPy image of 1024 x 1024 in 16 tiles than the 16 calls of fn in a plain loop.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys

import numpy as np

import blockbuster
from benchmarks.command_line import begin, plain_parser
from benchmarks.images import GREY, disc_rows
from benchmarks.runs import label_tile, seconds_in_turn
from benchmarks.settings import ROOT, boxes
from benchmarks.table import format_table, limit, verdict

__all__ = ["call_fn", "main", "small_image", "tile_small_image"]

LENGTH = 1024
TILE = (256, 256)
OVERLAP = 16
BOUNDS = {"import blockbuster": 0.5, "difference of each pair": 0.15}
INTERPRETERS = {
    "python -c pass": "pass",
    "import blockbuster": "import blockbuster",
    "first use of tile_process": "import blockbuster; blockbuster.tile_process",
}
TITLES = ["what", "median ms", "least ms", "most ms", "at most", "verdict"]


def small_image() -> np.ndarray:
    """Draw a plane of discs, uint16."""
    return disc_rows(LENGTH, 0, LENGTH).astype("uint16") * np.uint16(GREY)


def call_fn(image: np.ndarray) -> None:
    """Call fn on every tile with its halo and drop the labels."""
    for region in boxes(image.shape, TILE, OVERLAP):
        label_tile(image[region])


def tile_small_image(image: np.ndarray) -> None:
    """Do the same with blockbuster, on dask's default scheduler."""
    blockbuster.tile_process(image, label_tile, tile_shape=TILE, overlap=OVERLAP)


def interpreter_seconds(repeats: int) -> dict[str, list[float]]:
    """Time new interpreters, turn about."""
    calls = {name: functools.partial(_interpret, code) for name, code in INTERPRETERS.items()}
    return seconds_in_turn(calls, repeats)


def _interpret(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def call_seconds(repeats: int) -> dict[str, list[float]]:
    """Time both ways of segmenting a small image, turn about, and the difference of each pair."""
    image = small_image()
    calls = {
        "16 calls of fn": lambda: call_fn(image),
        "tile_process in 16 tiles": lambda: tile_small_image(image),
    }
    seconds = seconds_in_turn(calls, repeats)
    return seconds | {"difference of each pair": [b - a for a, b in zip(*seconds.values(), strict=True)]}


def _cells(name: str, seconds: list[float], bound: float | None) -> list[str]:
    median = statistics.median(seconds)
    times = [f"{1000 * value:.1f}" for value in (median, min(seconds), max(seconds))]
    return [name, *times, limit(bound and 1000 * bound), verdict(median, bound)]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = begin(plain_parser("small_work", __doc__, "fewer repeats; nothing is judged"), arguments)
    n_interpreters, n_calls = (1, 1) if options.small else (7, 15)
    bounds = {} if options.small else BOUNDS
    seconds = interpreter_seconds(n_interpreters) | call_seconds(n_calls)
    rows = [_cells(name, values, bounds.get(name)) for name, values in seconds.items()]
    print(f"\nNew interpreters: {n_interpreters}; calls of each: {n_calls}\n\n{format_table(TITLES, rows)}")


if __name__ == "__main__":
    main()
