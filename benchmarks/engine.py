"""Compare blockbuster with the plain loop: ``python -m benchmarks.engine``.

The plain loop reads each tile's region with zarr's default pipeline, calls fn and drops the result.
blockbuster does the whole job: the merged labels of the whole image end on the disk, with checksums. Both
run ``scipy.ndimage.label(tile > 0)[0]`` on two threads, on an image in the system's file cache, turn about
and after one call each that is not counted.

Images are generated: discs of 10 to 24 pixels on a 24-pixel grid, or blobs of smooth noise. Objects have
one constant grey value, and the background is 0.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import SMALL_NOTE, begin, data_folder, measuring_parser
from benchmarks.own_process import call_in_own_process
from benchmarks.runs import N_THREADS, least_seconds, peak_memory_bytes, plain_loop, run_engine, seconds_in_turn
from benchmarks.settings import Setting, settings
from benchmarks.table import comparison_cells, format_table, limit, pair_ratio, verdict

__all__ = ["Row", "main", "measure", "peak_bytes"]

TITLES = ["setting", "objects", "loop s", "blockbuster s", "ratio", "by pairs", "at most", "verdict"]
MEMORY_TITLES = ["setting", "peak memory MB", "at most", "verdict"]
MIN_TITLES = ["setting", "read s", "fn s", "write s", "sum s", "blockbuster s"]
DEFAULT_REPEATS = 5
MAX_MIN_REPEATS = 3


@dataclass(frozen=True)
class Row:
    """What one setting came to: seconds of every call, in the order in which they ran."""

    setting: Setting
    loop_seconds: list[float]
    engine_seconds: list[float]
    least_seconds: dict[str, float]
    peak_memory_bytes: int
    report: dict[str, Any]

    @property
    def engine(self) -> float:
        """Median time of blockbuster."""
        return statistics.median(self.engine_seconds)

    @property
    def ratio(self) -> float:
        """Ratio of the medians, which is what is judged."""
        return self.engine / statistics.median(self.loop_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Give everything, for JSON."""
        by_pairs = pair_ratio(self.loop_seconds, self.engine_seconds)
        own = {"name": self.setting.name, "ratio": self.ratio, "pair_ratio": by_pairs}
        return own | {"verdict": verdict(self.ratio, self.setting.ratio_bound)} | asdict(self)


def measure(number: int, setting: Setting, data: Path, *, small: bool, repeats: int) -> Row:
    """Measure one setting on the image kept in, or generated into, the folder `data`."""
    path = setting.image.stored_in(data)
    reports: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls: dict[str, Callable[[], Any]] = {
            "loop": lambda: plain_loop(path, setting),
            "engine": lambda: reports.append(run_engine(path, setting, folder)),
        }
        loop, engine = seconds_in_turn(calls, repeats, clear=folder / "labels.zarr").values()
        least = least_seconds(path, setting, folder, min(repeats, MAX_MIN_REPEATS))
    peak = call_in_own_process("engine.peak_bytes", path, number, small)
    return Row(setting, loop, engine, least, peak, asdict(reports[-1]))


def peak_bytes(path: str, number: int, small: bool) -> int:
    """Run a setting in this process, and give the peak of its resident memory."""
    with tempfile.TemporaryDirectory() as folder:
        run_engine(Path(path), settings(small=small)[number], Path(folder))
    return peak_memory_bytes()


def ratio_table(rows: list[Row]) -> str:
    """Lay out times and ratios."""
    return format_table(TITLES, [_ratio_cells(row) for row in rows])


def _ratio_cells(row: Row) -> list[str]:
    cells = comparison_cells(row.loop_seconds, row.engine_seconds, row.setting.ratio_bound)
    return [row.setting.name, f"{row.report['n_objects']:,}", *cells]


def memory_table(rows: list[Row]) -> str:
    """Lay out peak memory."""
    return format_table(MEMORY_TITLES, [_memory_cells(row) for row in rows])


def _memory_cells(row: Row) -> list[str]:
    peak, bound = row.peak_memory_bytes, row.setting.memory_bound_bytes
    return [row.setting.name, f"{peak / 1e6:.0f}", limit(bound and bound / 1e6), verdict(peak, bound)]


def least_table(rows: list[Row]) -> str:
    """Lay out the parts that cannot be left out."""
    return format_table(MIN_TITLES, [_least_cells(row) for row in rows])


def _least_cells(row: Row) -> list[str]:
    parts = [row.least_seconds[part] for part in ("read", "fn", "write")]
    return [row.setting.name, *(f"{seconds:.3f}" for seconds in [*parts, sum(parts), row.engine])]


def report_text(rows: list[Row], repeats: int) -> str:
    """Put the tables and what they mean into one text."""
    return "\n\n".join(
        [
            f"Time on {N_THREADS} threads, medians of {repeats}; ratio is blockbuster / loop:",
            ratio_table(rows),
            "Peak memory of one blockbuster run in a process of its own:",
            memory_table(rows),
            "What cannot be left out, each part alone: every chunk read once, fn on tiles in memory, "
            "labels written once:",
            least_table(rows),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write JSON if asked."""
    parser = measuring_parser("engine", __doc__, str(DEFAULT_REPEATS))
    types = ["uint8", "uint16"]
    parser.add_argument("--dtype", choices=types, default="uint16", help="of pixels (default: uint16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    options = begin(parser, arguments, DEFAULT_REPEATS)
    small, repeats = options.small, options.repeats
    rows = []
    with data_folder(options.data) as data:
        for number, setting in enumerate(settings(small=small, dtype=options.dtype)):
            if options.only in setting.name:
                print(f"measuring {setting.name}", file=sys.stderr, flush=True)
                rows.append(measure(number, setting, data, small=small, repeats=repeats))
    print(f"{'pixels':20}{options.dtype}\n\n{report_text(rows, repeats)}")
    if small:
        print(SMALL_NOTE)
    if options.json:
        content = {"machine": options.facts, "rows": [row.as_dict() for row in rows]}
        options.json.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
