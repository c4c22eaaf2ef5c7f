"""What is timed: the plain loop, blockbuster, and the least that any tool has to do."""

from __future__ import annotations

import collections
import gc
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zarr
from scipy import ndimage

import blockbuster
from benchmarks.settings import Setting, boxes

__all__ = [
    "N_THREADS",
    "THREADS",
    "fn_seconds",
    "label_tile",
    "least_seconds",
    "on_threads",
    "peak_memory_bytes",
    "plain_loop",
    "read_seconds",
    "run_engine",
    "seconds_in_turn",
    "seconds_of",
    "segment",
]

N_THREADS = 2
THREADS = {"scheduler": "threads", "num_workers": N_THREADS}


def label_tile(tile: np.ndarray) -> np.ndarray:
    """Number the connected components of what is not background: the fn of every benchmark."""
    return ndimage.label(tile > 0)[0]


def seconds_of(call: Callable[[], Any]) -> float:
    """Time a call.

    Notes
    -----
    What earlier calls left to the disk is written first, so that no call pays for the one before it.
    """
    gc.collect()
    if hasattr(os, "sync"):
        os.sync()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds_in_turn(
    calls: Mapping[str, Callable[[], Any]], repeats: int, clear: Path | None = None
) -> dict[str, list[float]]:
    """Time calls turn about, after one of each that is not counted; what they write is cleared before each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            if clear is not None:
                shutil.rmtree(clear, ignore_errors=True)
            seconds[name].append(seconds_of(call))
    return {name: values[1:] for name, values in seconds.items()}


def plain_loop(path: Path, setting: Setting) -> None:
    """Read every tile's region with zarr's default pipeline, call fn, drop the result."""
    image = zarr.open_array(path, mode="r")
    on_threads(lambda region: label_tile(np.asarray(image[region])), setting.regions())


def segment(
    image: Path,
    tile_shape: tuple[int, ...],
    write_to: Path,
    fn: Callable[[np.ndarray], np.ndarray] = label_tile,
    on: Mapping[str, Any] = THREADS,
    **options: Any,
) -> blockbuster.RunReport:
    """Segment a stored image with blockbuster, `on` what dask is told, and give the report."""
    with dask.config.set(on):
        _, report = blockbuster.tile_process(
            image, fn, tile_shape=tile_shape, write_to=write_to, return_report=True, **options
        )
    return report


def run_engine(path: Path, setting: Setting, folder: Path, **options: Any) -> blockbuster.RunReport:
    """Segment the image with blockbuster into ``folder/labels.zarr``, anew; give its report."""
    return segment(path, setting.tile_shape, folder / "labels.zarr", overlap=setting.overlap, **options)


def least_seconds(path: Path, setting: Setting, folder: Path, repeats: int) -> dict[str, float]:
    """Time the parts that cannot be left out, each alone; the median of a few repeats.

    Parameters
    ----------
    path : Path
        The image.
    setting : Setting
        Its tiles.
    folder : Path
        Holds the ``labels.zarr`` of a finished run; a copy is written beside it.
    repeats : int
        How often each part is timed.

    Returns
    -------
    dict of str to float
        ``"read"``: every chunk of the image once. ``"fn"``: fn on tiles that are in memory.
        ``"write"``: the labels once, in the chunks, shards and compression of the finished run.
    """
    return {
        "read": read_seconds(path, repeats),
        "fn": fn_seconds(path, setting, repeats),
        "write": _write_seconds(folder, repeats),
    }


def read_seconds(path: Path, repeats: int) -> float:
    """Time the reading of every chunk of an image once."""
    image = zarr.open_array(path, mode="r")
    chunks = list(boxes(image.shape, image.chunks))
    return _median_seconds(lambda: on_threads(image.__getitem__, chunks), repeats)


def fn_seconds(path: Path, setting: Setting, repeats: int) -> float:
    """Time fn on tiles that are in memory."""
    pixels = np.asarray(zarr.open_array(path, mode="r")[...])
    return _median_seconds(
        lambda: on_threads(lambda region: label_tile(pixels[region]), setting.regions()), repeats
    )


def _write_seconds(folder: Path, repeats: int) -> float:
    labels = zarr.open_array(folder / "labels.zarr" / "labels", mode="r")
    values = np.asarray(labels[...])
    return _median_seconds(lambda: _write_like(labels, values, folder / "copy.zarr"), repeats)


def _write_like(labels: zarr.Array, values: np.ndarray, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    copy = zarr.create_array(
        path,
        shape=labels.shape,
        dtype=labels.dtype,
        chunks=labels.chunks,
        shards=labels.shards,
        compressors=labels.compressors,
    )
    parts = boxes(labels.shape, labels.shards or labels.chunks)
    on_threads(lambda box: copy.__setitem__(box, values[box]), parts)


def on_threads(call: Callable[[Any], Any], items: Iterable[Any]) -> None:
    """Call a function on every item and drop the results."""
    with ThreadPoolExecutor(N_THREADS) as pool:
        collections.deque(pool.map(lambda item: call(item) is None, items), maxlen=0)


def _median_seconds(call: Callable[[], Any], repeats: int) -> float:
    return statistics.median(seconds_of(call) for _ in range(repeats))


def peak_memory_bytes() -> int:
    """Give the largest resident memory of this process so far.

    Notes
    -----
    On Linux ``ru_maxrss`` of a new process starts at the peak of the process that started it, so it is
    only asked where there is nothing better.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
