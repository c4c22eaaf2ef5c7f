"""Measure what the chunks and layers of a dask image cost: ``python -m benchmarks.dask_chunks``.

The chunks are tiny and 64 of them make a tile, so that nearly all of the time goes to graphs. Each run is a
process of its own, on two threads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import dask
import dask.array as da
import numpy as np

from benchmarks.command_line import begin, plain_parser
from benchmarks.own_process import call_in_own_process
from benchmarks.runs import THREADS, label_tile, peak_memory_bytes
from benchmarks.table import format_table
from blockbuster import plan_run, tile_process

__all__ = ["image_of_chunks", "main"]

TITLES = ("chunks", "layers", "seconds", "ms a chunk", "cpu ms a chunk", "peak MB", "bound MB", "verdict")
CHUNK, TILE = 16, 128
MAX_CPU_MS = 0.5
# Chunks along each axis, and layers, each of its own array; 0: one layer of one array.
SIZES = ((100, 0), (320, 0), (1000, 0), (32, 1024), (64, 4096), (128, 16384))
SMALLEST = ((8, 0), (8, 64))


def image_of_chunks(n_side: int, n_layers: int) -> da.Array:
    """Make an image of ``n_side ** 2`` chunks, in one layer or in as many layers as it has chunks."""
    if not n_layers:
        return da.zeros((n_side * CHUNK,) * 2, chunks=CHUNK, dtype="uint8")
    chunk = np.zeros((CHUNK, CHUNK), "uint8")
    return da.block([[da.from_array(chunk, name=False) for _ in range(n_side)] for _ in range(n_side)])


def run_one(n_side: int, n_layers: int) -> list[str]:
    """Segment an image of chunks, and give the row of the table."""
    image = image_of_chunks(n_side, n_layers)
    with dask.config.set(THREADS), tempfile.TemporaryDirectory() as folder:
        options = {"tile_shape": (TILE, TILE), "write_to": Path(folder) / "labels.zarr"}
        bound = plan_run(image, **options).memory_bytes
        start, cpu = time.perf_counter(), time.process_time()
        tile_process(image, label_tile, **options)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    n_chunks, peak = n_side**2, peak_memory_bytes()
    per_chunk = [f"{1e3 * each / n_chunks:.3f}" for each in (seconds, cpu)]
    layers = f"{n_layers:,}" if n_layers else "1"
    holds = peak <= bound and (n_chunks < 10**6 or 1e3 * cpu / n_chunks <= MAX_CPU_MS)
    return [
        f"{n_chunks:,}",
        layers,
        f"{seconds:.1f}",
        *per_chunk,
        f"{peak / 1e6:.0f}",
        f"{bound / 1e6:.0f}",
        "pass" if holds else "FAIL",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = begin(plain_parser("dask_chunks", __doc__, "the smallest sizes"), arguments)
    # The first process may have to compile the kernels, which takes memory.
    sizes = (SMALLEST[0], *(SMALLEST if given.small else SIZES))
    rows = [call_in_own_process("dask_chunks.run_one", *size) for size in sizes]
    print(format_table(TITLES, rows[1:]))


if __name__ == "__main__":
    main()
