"""Measure what more tiles, tasks and labels cost: ``python -m benchmarks.scaling``.

Every run is a process of its own, that has segmented a small image before it is timed. fn is a threshold and a
labelling, and its image is one block of pixels over and over, so that a tile costs the same however many there
are. Runs that are compared take turns. Memory is the peak of the process above what it had before the run; with
a cluster that is the driver's, with threads the driver and its workers are one process.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

import blockbuster
from benchmarks.command_line import SMALL_NOTE, begin, data_folder, plain_parser
from benchmarks.images import GREY, disc_rows
from benchmarks.own_process import call_in_own_process
from benchmarks.runs import N_THREADS, THREADS, peak_memory_bytes, segment
from benchmarks.table import format_table, limit, significant, verdict, worst_verdict

__all__ = ["Load", "Outcome", "main", "measure"]

BLOCK = 1024
TILE_RATIO = TASK_RATIO = 1.2
TILE_BYTES = 600.0
MAX_SECONDS = 300.0
SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Load:
    """What one run has to do.

    Parameters
    ----------
    rows, columns : int
        Tiles along each axis.
    tile : int
        Side of a tile in pixels.
    tiles_per_task : int
        0 leaves the choice to blockbuster.
    scheduler : {"threads", "cluster"}
        Two threads, or two worker processes.
    pattern : {"discs", "blocks", "nothing"}
        ``"blocks"``: objects of 2 x 2 pixels, about a hundred in a tile of 32 x 32.
    """

    rows: int
    columns: int
    tile: int = 32
    tiles_per_task: int = 0
    scheduler: str = "threads"
    pattern: str = "discs"

    @property
    def n_tiles(self) -> int:
        """Tiles of the image."""
        return self.rows * self.columns

    def stored_in(self, folder: Path) -> Path:
        """Give the path of the image in a folder; write it there unless it is there already."""
        shape = (self.rows * self.tile, self.columns * self.tile)
        path = folder / f"{self.pattern}-{shape[0]}x{shape[1]}.zarr"
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _write(unfinished, shape, _block(self.pattern))
            os.replace(unfinished, path)
        return path

    def run(self, image: Path, folder: Path) -> blockbuster.RunReport:
        """Segment the image anew."""
        shutil.rmtree(folder / "labels.zarr", ignore_errors=True)
        return segment(
            image,
            (self.tile, self.tile),
            folder / "labels.zarr",
            on=THREADS if self.scheduler == "threads" else {},
            tiles_per_task=self.tiles_per_task or None,
        )


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Parameters
    ----------
    seconds, cpu_seconds : float
        Of the whole run; what the process itself computed, which on a cluster is the driver with its scheduler.
    peak_bytes : int
        Above what the process had before.
    n_objects, n_labels : int
        Objects, and labels of all tiles before the merge.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    n_objects: int
    n_labels: int


def _block(pattern: str) -> np.ndarray:
    if pattern == "discs":
        return disc_rows(BLOCK, 0, BLOCK).astype("uint8") * np.uint8(GREY)
    block = np.zeros((BLOCK, BLOCK), "uint8")
    if pattern == "blocks":
        lines = np.arange(BLOCK) % 3 < 2
        block[np.ix_(lines, lines)] = GREY
    return block


def _write(path: Path, shape: tuple[int, ...], block: np.ndarray) -> None:
    array = zarr.create_array(path, shape=shape, dtype=block.dtype, chunks=block.shape)
    for row in range(0, shape[0], BLOCK):
        height = min(BLOCK, shape[0] - row)
        array[row : row + height] = np.tile(block[:height], (1, -(-shape[1] // BLOCK)))[:, : shape[1]]


def measure(load: Load, data: Path) -> Outcome:
    """Run a load in a process of its own."""
    load.stored_in(data)
    return Outcome(**call_in_own_process("scaling.run_one", dataclasses.asdict(load), data))


def run_one(given: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run a load, given by its fields, in this process, after a small one."""
    load, data = Load(**given), Path(folder)
    warm = dataclasses.replace(load, rows=4, columns=4, tiles_per_task=2)
    with tempfile.TemporaryDirectory() as name:
        if load.scheduler == "threads":
            return _timed(load, warm, data, Path(name))
        client, cluster = blockbuster.make_local_cluster(n_workers=N_THREADS, memory_limit=None)
        with cluster, client:
            return _timed(load, warm, data, Path(name))


def _timed(load: Load, warm: Load, data: Path, folder: Path) -> dict[str, Any]:
    for _ in range(2):
        warm.run(warm.stored_in(data), folder)
    time.sleep(SETTLE_SECONDS)
    before = psutil.Process().memory_info().rss
    start, cpu = time.perf_counter(), time.process_time()
    report = load.run(load.stored_in(data), folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_memory_bytes() - before
    return dataclasses.asdict(Outcome(seconds, cpu, peak, report.n_objects, report.n_provisional))


def compare(loads: Sequence[Load], data: Path, repeats: int) -> list[Outcome]:
    """Run loads in turn, and give the median of each."""
    outcomes = [[measure(load, data) for load in loads] for _ in range(repeats)]
    return [_median(of_one) for of_one in zip(*outcomes, strict=True)]


def _median(outcomes: Sequence[Outcome]) -> Outcome:
    seconds = statistics.median(outcome.seconds for outcome in outcomes)
    cpu_seconds = statistics.median(outcome.cpu_seconds for outcome in outcomes)
    peak = statistics.median(outcome.peak_bytes for outcome in outcomes)
    return Outcome(seconds, cpu_seconds, int(peak), outcomes[0].n_objects, outcomes[0].n_labels)


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Many tasks take a quarter of an hour, and are run once, between two runs of few."""

    tiles: Sequence[tuple[int, int]] = ((64, 64), (256, 256), (1024, 1024))
    tasks: Sequence[tuple[int, int]] = ((100, 100), (100, 1000))
    labels: tuple[int, int] = (320, 320)
    repeats: int = 3


SMALLEST = Sizes(tiles=((4, 4), (8, 8), (16, 16)), tasks=((5, 5), (5, 10)), labels=(8, 8), repeats=1)


def tile_rows(sizes: Sizes, scheduler: str, data: Path, *, judged: bool) -> list[list[str]]:
    """Rows of the table of tiles: each size against the one before it."""
    loads = [Load(*size, scheduler=scheduler) for size in sizes.tiles]
    outcomes = compare(loads, data, sizes.repeats)
    rows = []
    for i, (load, outcome) in enumerate(zip(loads, outcomes, strict=True)):
        cells = [f"{load.n_tiles:,} on {scheduler}", significant(outcome.seconds), _microseconds(load, outcome)]
        bound = TILE_RATIO if judged and i == len(loads) - 1 else None
        if i == 0:
            rows.append([*cells, "-", "-", f"{outcome.peak_bytes / 1e6:.0f}", "-", "-"])
            continue
        ratio = outcome.seconds / load.n_tiles / (outcomes[i - 1].seconds / loads[i - 1].n_tiles)
        growth = (outcome.peak_bytes - outcomes[i - 1].peak_bytes) / (load.n_tiles - loads[i - 1].n_tiles)
        judgement = worst_verdict(
            verdict(ratio, bound),
            verdict(growth, bound and TILE_BYTES),
            verdict(outcome.seconds, bound and MAX_SECONDS),
        )
        memory = [f"{outcome.peak_bytes / 1e6:.0f}", f"{growth:.0f}"]
        rows.append([*cells, f"{ratio:.3f}", limit(bound), *memory, judgement])
    return rows


def task_rows(sizes: Sizes, scheduler: str, data: Path, *, judged: bool) -> list[list[str]]:
    """Rows of the table of tasks: many against few, one tile each."""
    loads = [Load(*size, scheduler=scheduler, tiles_per_task=1) for size in sizes.tasks]
    first, many, last = (measure(load, data) for load in (*loads, loads[0]))
    few = _median([first, last])
    ratio = many.seconds / loads[1].n_tiles / (few.seconds / loads[0].n_tiles)
    bound = TASK_RATIO if judged else None
    growth = (many.peak_bytes - few.peak_bytes) / (loads[1].n_tiles - loads[0].n_tiles)
    return [
        [*_task_cells(loads[0], few), *"-" * 4],
        [*_task_cells(loads[1], many), f"{ratio:.3f}", limit(bound), f"{growth:.0f}", verdict(ratio, bound)],
    ]


def _task_cells(load: Load, outcome: Outcome) -> list[str]:
    own = f"{outcome.cpu_seconds / load.n_tiles * 1e6:.0f}"
    name = f"{load.n_tiles:,} on {load.scheduler}"
    return [name, significant(outcome.seconds), _microseconds(load, outcome), own]


def label_rows(sizes: Sizes, scheduler: str, data: Path) -> list[list[str]]:
    """Rows of the table of labels: a full image against an empty one with as many tiles."""
    loads = [Load(*sizes.labels, scheduler=scheduler, pattern=pattern) for pattern in ("nothing", "blocks")]
    empty, full = compare(loads, data, sizes.repeats)
    growth = (full.peak_bytes - empty.peak_bytes) / max(1, full.n_labels)
    name = f"{loads[1].n_tiles:,} on {scheduler}"
    memory = [f"{empty.peak_bytes / 1e6:.0f}", f"{full.peak_bytes / 1e6:.0f}", f"{growth:.1f}"]
    return [[name, f"{full.n_labels:,}", f"{full.n_objects:,}", significant(full.seconds), *memory]]


def _microseconds(load: Load, outcome: Outcome) -> str:
    return f"{outcome.seconds / load.n_tiles * 1e6:.0f}"


def print_tiles(sizes: Sizes, schedulers: Sequence[str], data: Path, *, judged: bool) -> bool:
    """Measure and print; say whether a bound was broken."""
    rows = [row for name in schedulers for row in tile_rows(sizes, name, data, judged=judged)]
    titles = [
        "tiles of 32 x 32",
        "seconds",
        "us a tile",
        "ratio",
        "at most",
        "peak MB",
        "bytes a tile",
        "verdict",
    ]
    print(f"\nTiles: medians of {sizes.repeats}; ratio and bytes against the row above:\n")
    print(format_table(titles, rows), flush=True)
    return any(row[-1] == "FAIL" for row in rows)


def print_tasks(sizes: Sizes, schedulers: Sequence[str], data: Path, *, judged: bool) -> bool:
    """Measure and print; say whether a bound was broken."""
    rows = [row for name in schedulers for row in task_rows(sizes, name, data, judged=judged)]
    titles = [
        "tasks of one tile",
        "seconds",
        "us a task",
        "cpu us of driver",
        "ratio",
        "at most",
        "bytes a task",
        "verdict",
    ]
    print("\nTasks: one run of many between two of few, which count with their mean:\n")
    print(format_table(titles, rows), flush=True)
    return any(row[-1] == "FAIL" for row in rows)


def print_labels(sizes: Sizes, schedulers: Sequence[str], data: Path, *, judged: bool) -> bool:
    """Measure and print; nothing is judged."""
    rows = [row for name in schedulers for row in label_rows(sizes, name, data)]
    titles = ["tiles", "labels", "objects", "seconds", "empty MB", "full MB", "bytes a label"]
    print(f"\nLabels: peak memory of an image full of small objects, medians of {sizes.repeats}:\n")
    print(format_table(titles, rows), flush=True)
    return False


TABLES = {"tiles": print_tiles, "tasks": print_tasks, "labels": print_labels}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    parser = plain_parser("scaling", __doc__)
    parser.add_argument("--repeats", type=int, help="runs of each size")
    parser.add_argument("--scheduler", choices=["threads", "cluster"], action="append", help="this one alone")
    parser.add_argument("--table", choices=TABLES, action="append", help="this one alone")
    parser.add_argument("--data", type=Path, help="folder that keeps the images")
    given = begin(parser, arguments, Sizes.repeats)
    sizes = dataclasses.replace(SMALLEST if given.small else Sizes(), repeats=given.repeats)
    with data_folder(given.data) as data:
        schedulers = given.scheduler or ["threads", "cluster"]
        failed = [
            TABLES[table](sizes, schedulers, data.absolute(), judged=not given.small)
            for table in given.table or TABLES
        ]
    if given.small:
        print(SMALL_NOTE)
    sys.exit(any(failed))


if __name__ == "__main__":
    main()
