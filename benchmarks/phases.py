"""Show where the time of a run goes, and the least that each part could take: ``python -m benchmarks.phases``.

Each part is timed in the threads that run it, without what it calls of another part, and the seconds are those
of the threads together, divided by their number: so the parts and what is left, waiting and scheduling, add up
to the time of the run. Beside each part stands the least: the bytes that it has to move and the work of others
that it has to call, alone on as many threads. Medians of some runs, after one that is not counted.
"""

from __future__ import annotations

import functools
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch
from zlib import crc32

import numpy as np
import zarr
from numcodecs import Zstd

from benchmarks.command_line import begin, data_folder, measuring_parser
from benchmarks.runs import N_THREADS, fn_seconds, on_threads, read_seconds, run_engine, seconds_of
from benchmarks.settings import Setting, boxes, settings
from benchmarks.table import format_table

__all__ = ["PARTS", "Clock", "least_of_parts", "main", "measure"]

DEFAULT_REPEATS = 5
STAGE = "*.blockbuster-stage"
TITLES = ["setting", "part", "seconds", "share", "least s", "the least is"]
PARTS = {
    "read": ["blockbuster.source.zarr_source.ZarrSource.read"],
    "fn": ["blockbuster.stage.tile_call.TileCall.label"],
    "number and encode": [
        "blockbuster.stage.brick_labels.BrickLabels.add",
        "blockbuster.stage.brick_labels.BrickLabels.sections",
    ],
    "stage file": ["blockbuster.rundir.staged.StagedLabels.write"],
    "match seams": ["blockbuster.merge.merging.match_bricks", "blockbuster.merge.merging.join_pairs"],
    "fill": [
        "blockbuster.rundir.staged.StagedLabels.open_brick",
        "blockbuster.merge.remap._layers",
        "blockbuster.merge.remap._Layer.fill",
    ],
    "encode and write": ["blockbuster.output.targets.ZarrTarget.write"],
    "checksum": ["blockbuster.output.targets.ZarrTarget.checksum"],
}
LEAST = {
    "read": "every chunk once",
    "fn": "fn on tiles in memory",
    "number and encode": "one look at each voxel",
    "stage file": "the same bytes in as many files",
    "match seams": "reading those files",
    "fill": "reading those files, copying the labels",
    "encode and write": "the codec alone, and the same bytes in as many files",
    "checksum": "CRC-32 of those",
}


class Clock:
    """Adds up the seconds that threads spend in parts of a run, each without the parts it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._under_way = threading.local()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function, whose calls are timed as this part."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            inner = self._under_way.__dict__.setdefault("inner", [0.0])
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                taken = time.perf_counter() - start
                of_others = inner.pop()
                inner[-1] += taken
                with self._lock:
                    self.seconds[part] += taken - of_others

        return call

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the parts of the runs in this block."""
        with ExitStack() as stack:
            for part, names in PARTS.items():
                for name in names:
                    stack.enter_context(patch(name, self.timed(part, resolve_name(name))))
            yield


def measure(path: Path, setting: Setting, folder: Path, repeats: int) -> dict[str, float]:
    """Give the median seconds of each part, of what is left, and of the whole, on average of the threads."""
    found: list[dict[str, float]] = []
    for _ in range(1 + repeats):
        for left in (folder / "labels.zarr", *folder.glob(STAGE)):
            shutil.rmtree(left, ignore_errors=True)
        clock = Clock()
        with clock.running():
            whole = seconds_of(lambda: run_engine(path, setting, folder, keep_stage=True))
        parts = {part: clock.seconds[part] / N_THREADS for part in PARTS}
        found.append({**parts, "waiting": whole - sum(parts.values()), "whole": whole})
    return {part: statistics.median(one[part] for one in found[1:]) for part in found[0]}


def least_of_parts(path: Path, setting: Setting, folder: Path) -> dict[str, float]:
    """Time what each part cannot do without, alone on as many threads.

    Parameters
    ----------
    path : Path
        The image.
    setting : Setting
        Its tiles.
    folder : Path
        Holds what a run left, its stage as well.
    """
    array = zarr.open_array(folder / "labels.zarr" / "labels", mode="r")
    labels = np.asarray(array[...])
    chunks = list(boxes(labels.shape, array.chunks))
    staged = _files(folder, f"{STAGE}/**/*.tiles")
    written = _files(folder / "labels.zarr", "c/**/*")
    encode = Zstd(level=1, checksum=True).encode
    copied = seconds_of(lambda: on_threads(lambda box: labels[box].copy(), chunks))
    encoded = seconds_of(lambda: on_threads(lambda box: encode(np.ascontiguousarray(labels[box])), chunks))
    reading = seconds_of(lambda: on_threads(Path.read_bytes, staged))
    return {
        "read": read_seconds(path, 1),
        "fn": fn_seconds(path, setting, 1),
        "number and encode": seconds_of(
            lambda: on_threads(lambda region: labels[region].max(), setting.regions())
        ),
        "stage file": _write_seconds(staged, folder / "copies"),
        "match seams": reading,
        "fill": reading + copied,
        "encode and write": encoded + _write_seconds(written, folder / "copies"),
        "checksum": seconds_of(lambda: on_threads(lambda file: crc32(file.read_bytes()), written)),
    }


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.rglob(pattern) if path.is_file()]


def _write_seconds(files: list[Path], folder: Path) -> float:
    data = dict(enumerate(path.read_bytes() for path in files))
    folder.mkdir()
    seconds = seconds_of(lambda: on_threads(lambda n: (folder / str(n)).write_bytes(data[n]), data))
    shutil.rmtree(folder)
    return seconds


def rows_of(setting: Setting, found: dict[str, float], least: dict[str, float]) -> list[list[str]]:
    """Lay out the parts of a setting."""
    rows = []
    for part, seconds in found.items():
        bound = [f"{least[part]:.3f}", LEAST[part]] if part in least else ["-", "-"]
        rows.append([setting.name, part, f"{seconds:.3f}", f"{seconds / found['whole']:.0%}", *bound])
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = begin(measuring_parser("phases", __doc__, str(DEFAULT_REPEATS)), arguments, DEFAULT_REPEATS)
    rows = []
    with data_folder(options.data) as data:
        for setting in settings(small=options.small):
            if options.only in setting.name:
                path = setting.image.stored_in(data)
                with tempfile.TemporaryDirectory() as name:
                    found = measure(path, setting, Path(name), options.repeats)
                    rows += rows_of(setting, found, least_of_parts(path, setting, Path(name)))
    print(f"\nSeconds on {N_THREADS} threads, medians of {options.repeats}:\n\n{format_table(TITLES, rows)}")


if __name__ == "__main__":
    main()
