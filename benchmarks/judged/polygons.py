"""Outlines of a million cells as GeoJSON and as GeoParquet: ``python -m benchmarks.judged.polygons``.

Cells 20 voxels wide that fill space, and discs of 22 voxels with background between them, are stored as
blockbuster stores labels, and exported on two threads after one export that is not counted. Each export reads the
labels from zarr and leaves a file that is flushed to the disk. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import zarr

import blockbuster
from benchmarks.command_line import begin, data_folder, measuring_parser
from benchmarks.own_process import call_in_own_process
from benchmarks.runs import N_THREADS, THREADS, peak_memory_bytes, seconds_of
from benchmarks.table import format_table, limit, significant, verdict
from benchmarks.tissue import voronoi_labels

__all__ = ["Case", "cases", "export", "main", "measure"]

SECONDS_BOUND = 60.0
DEFAULT_REPEATS = 3
CHUNK = 1024
TITLES = ["setting", "objects", "file MB", "seconds", "at most", "peak MB", "verdict"]


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Parameters
    ----------
    kind : {"tissue", "discs"}
        What the cells look like.
    n_blocks : int
        Side of the image in blocks, which are copies of each other with ids of their own.
    block : int
        Side of a block in voxels.
    format : str
        Of the file.
    simplify : float or None
        Tolerance in voxels.
    is_judged : bool
        Whether the time has a bound.
    """

    kind: str
    n_blocks: int
    block: int
    format: str
    simplify: float | None = None
    is_judged: bool = False

    @property
    def name(self) -> str:
        """What the row is called."""
        simplified = "" if self.simplify is None else f" simplify {self.simplify:g}"
        return f"{self.kind} {self.n_blocks * self.block}^2 {self.format}{simplified}"

    def stored_in(self, folder: Path) -> Path:
        """Give the path of the label array, made if it is not there."""
        length = self.n_blocks * self.block
        path = folder / f"{self.kind}-{length}.zarr"
        if path.exists():
            return path
        block = voronoi_labels((self.block,) * 2, 20, 1) if self.kind == "tissue" else disc_labels(self.block)
        chunk = min(CHUNK, length)
        labels = zarr.create_array(path, shape=(length, length), chunks=(chunk, chunk), dtype="int32")
        ids = np.arange(self.n_blocks) * int(block.max())
        for row in range(self.n_blocks):
            shifts = (ids + row * self.n_blocks * int(block.max())).repeat(self.block)
            wide = np.tile(block, self.n_blocks)
            start = row * self.block
            labels[start : start + self.block] = np.where(wide > 0, wide + shifts, 0)
        return path


def disc_labels(length: int) -> np.ndarray:
    """Draw discs of 22 voxels, one in each cell of a grid of 25."""
    y, x = np.indices((25, 25)) - 12
    n = length // 25
    ids = np.arange(1, n * n + 1, dtype=np.int32).reshape(n, n)
    return np.kron(ids, (y**2 + x**2 < 121).astype(np.int32))


def cases(*, small: bool) -> list[Case]:
    """Give the rows; small ones end in seconds and are not judged."""
    n_blocks, is_judged = (2, False) if small else (20, True)
    sizes = {"tissue": 200 if small else 1000, "discs": 250 if small else 1250}
    rows = [
        Case(kind, n_blocks, block, format, is_judged=is_judged)
        for kind, block in sizes.items()
        for format in ("geojson", "geoparquet")
    ]
    return [*rows, Case("tissue", n_blocks, sizes["tissue"], "geojson", 1.0, is_judged)]


def export(labels: str, path: str, format: str, simplify: float | None) -> tuple[int, int]:
    """Export outlines on two threads; give how many there are, and the peak memory of this process."""
    with dask.config.set(THREADS):
        n_objects = blockbuster.export_polygons(labels, path, format=format, simplify=simplify, overwrite=True)
    return n_objects, peak_memory_bytes()


def measure(case: Case, labels: Path, repeats: int) -> list[str]:
    """Export several times; give the row of the table."""
    with tempfile.TemporaryDirectory(dir=labels.parent) as folder:
        path = Path(folder, "cells")
        given = str(labels), str(path), case.format, case.simplify
        n_objects, peak = call_in_own_process("judged.polygons.export", *given)
        seconds = [seconds_of(lambda: export(*given)) for _ in range(1 + repeats)]
        size = path.stat().st_size
    median = statistics.median(seconds[1:])
    bound = SECONDS_BOUND if case.is_judged else None
    cells = [f"{n_objects:,}", f"{size / 1e6:.1f}", significant(median), limit(bound), f"{peak / 1e6:.0f}"]
    return [case.name, *cells, verdict(median, bound)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    options = begin(
        measuring_parser("judged.polygons", __doc__, str(DEFAULT_REPEATS)), arguments, DEFAULT_REPEATS
    )
    with data_folder(options.data) as data:
        chosen = [case for case in cases(small=options.small) if options.only in case.name]
        rows = [measure(case, case.stored_in(data), options.repeats) for case in chosen]
    print(f"\nOutlines of all objects, {N_THREADS} threads, medians of {options.repeats}:\n")
    print(format_table(TITLES, rows), flush=True)
    sys.exit(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    main()
