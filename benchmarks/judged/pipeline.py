"""How busy a device is kept: ``Predictor`` against fn in one step: ``python -m benchmarks.judged.pipeline``.

The device is pretended: a lock and a sleep of 20 ms for each tile and 5 ms for each batch. Decoding is work of a
processor that lets other threads go on, on two threads. The least that a run can take is what the device
needs, or what decoding takes on all threads, whichever is longer. Both ways run turn about.
"""

from __future__ import annotations

import functools
import hashlib
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np

import blockbuster
from benchmarks.command_line import begin, measuring_parser
from benchmarks.runs import N_THREADS, THREADS, seconds_in_turn
from benchmarks.table import format_table, limit, significant, verdict, worst_verdict

__all__ = ["Case", "cases", "main", "measure"]

TITLES = ["decode, batch", "least s", "one step s", "Predictor s", "ratio", "busy", "at most", "verdict"]
TILE_SECONDS, BATCH_SECONDS = 0.02, 0.005
RATIO_BOUND, LEAST_BUSY = 1.1, 0.9
DEFAULT_REPEATS = 3
# Voxels along a side.
TILE = 64
# What is hashed, a few hundred microseconds at a time; and how often, to find out how long that takes.
WORK = bytes(2**17)
N_CALIBRATED = 500
_device = threading.Lock()


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Parameters
    ----------
    decode_seconds : float
        For each tile.
    batch_size : int
        Of the predictor.
    n_tiles : int
        How many.
    is_judged : bool
        Whether there are bounds.
    """

    decode_seconds: float
    batch_size: int
    n_tiles: int = 200
    is_judged: bool = True

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{1e3 * self.decode_seconds:.0f} ms, {self.batch_size}"

    @property
    def device_seconds(self) -> float:
        """What the device takes for all tiles."""
        return self.n_tiles * (TILE_SECONDS + BATCH_SECONDS / self.batch_size)

    @property
    def least_seconds(self) -> float:
        """What a run takes at least."""
        return max(self.device_seconds, self.n_tiles * self.decode_seconds / N_THREADS)

    @property
    def image(self) -> np.ndarray:
        """An image of so many tiles."""
        return np.ones((10 * TILE, -(-self.n_tiles // 10) * TILE), np.uint8)


def cases(*, small: bool) -> list[Case]:
    """Give the rows of the table; small ones end in seconds and are not judged."""
    if small:
        return [Case(0.005, 4, 20, False)]
    return [Case(seconds, size) for seconds in (0.015, 0.06) for size in (1, 8)]


def predict(tiles: np.ndarray) -> np.ndarray:
    """Pretend to be a device that takes one batch at a time."""
    n_tiles = len(tiles) if tiles.ndim == 3 else 1
    with _device:
        time.sleep(n_tiles * TILE_SECONDS + BATCH_SECONDS)
    return tiles


def decode(n_times: int, tile: np.ndarray) -> np.ndarray:
    """Work for a while, without the lock of the interpreter, and label the tile."""
    _hash(n_times)
    return tile.astype(np.int32)


def _hash(n_times: int) -> None:
    for _ in range(n_times):
        hashlib.sha256(WORK).digest()


def times_of(seconds: float) -> int:
    """Find out how often the work is done in so long, where all threads do it."""
    n_times = 4 * N_CALIBRATED
    with ThreadPoolExecutor(N_THREADS) as pool:
        start = time.perf_counter()
        for done in [pool.submit(_hash, N_CALIBRATED) for _ in range(4 * N_THREADS)]:
            done.result()
        return max(1, round(n_times * seconds / (time.perf_counter() - start)))


def in_one_step(decoding: Any, tile: np.ndarray) -> np.ndarray:
    """Predict and decode one tile, as a function of one step does."""
    return np.asarray(decoding(predict(tile)))


def measure(case: Case, repeats: int) -> list[str]:
    """Time both ways in turn; give the row."""
    decoding = functools.partial(decode, times_of(case.decode_seconds))
    predictor = blockbuster.Predictor(predict, decoding, batch_size=case.batch_size)
    busy = []

    def run(fn: Any, **options: Any) -> None:
        with dask.config.set(**THREADS):
            _, report = blockbuster.tile_process(
                case.image, fn, tile_shape=(TILE, TILE), merge="none", return_report=True, **options
            )
        if fn is predictor:
            busy.append(report.seconds["predict"] / report.seconds["stage"])

    calls = {
        "one step": functools.partial(run, functools.partial(in_one_step, decoding)),
        "Predictor": functools.partial(run, predictor),
    }
    before, ours = seconds_in_turn(calls, repeats).values()
    seconds = statistics.median(ours)
    ratio, share = seconds / case.least_seconds, statistics.median(busy[1:])
    is_fed = case.device_seconds >= case.least_seconds
    verdicts = [verdict(ratio, RATIO_BOUND if case.is_judged else None)]
    if is_fed:
        verdicts.append(verdict(-share, -LEAST_BUSY if case.is_judged else None))
    times = map(significant, (case.least_seconds, statistics.median(before), seconds))
    bound = limit(RATIO_BOUND if case.is_judged else None)
    return [case.name, *times, f"{ratio:.3f}", f"{share:.0%}", bound, worst_verdict(*verdicts)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    parser = measuring_parser("judged.pipeline", __doc__, str(DEFAULT_REPEATS))
    options = begin(parser, arguments, DEFAULT_REPEATS)
    chosen = [case for case in cases(small=options.small) if options.only in case.name]
    rows = [measure(case, options.repeats) for case in chosen]
    print(
        f"\nTime on {N_THREADS} threads beside the device, medians of {options.repeats}; ratio is to the least:\n"
    )
    print(format_table(TITLES, rows))
    sys.exit(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    main()
