"""Measure what it costs that nothing is lost: ``python -m benchmarks.durability``.

Two things are judged. The journal: microseconds for each task at 100,000 finished tasks against those at
1,000. The whole: blockbuster as it is against itself without journal, checksums, fingerprint, locks,
flushing and atomic files, which are switched off here and nowhere else. Every comparison takes turns, and
the first call of each is not counted.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import numpy as np
from numcodecs import Zstd
from zarr.codecs import ZstdCodec

from benchmarks.command_line import begin, data_folder, measuring_parser
from benchmarks.runs import N_THREADS, run_engine, seconds_of
from benchmarks.settings import Setting, settings
from benchmarks.table import format_table, limit, pair_ratio, verdict
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.identity.function import FunctionIdentity
from blockbuster.identity.growth import Growth
from blockbuster.output import publishing
from blockbuster.rundir.journal import JOURNAL, Journal
from blockbuster.stage.finished import read_task_records
from blockbuster.stage.tally import Tally
from blockbuster.stage.task import BrickResult

__all__ = ["PARTS", "Comparison", "FilledJournal", "compare", "journal_seconds", "main", "without"]

JOURNAL_BOUND, ENGINE_BOUND = 1.3, 1.10
TILES_PER_TASK = (4, 4)
BRICKS_PER_ROW = 50
JOURNAL_TITLES = [
    "for each task",
    "tasks",
    "microseconds",
    "tasks",
    "microseconds",
    "ratio",
    "at most",
    "verdict",
]
ENGINE_TITLES = ["setting", "as it is s", "without s", "ratio", "by pairs", "at most", "verdict"]
SHARE_TITLES = ["setting", "without", "seconds", "ratio", "by pairs"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: finished tasks, tasks that are timed, and counted repeats."""

    few: int = 1_000
    many: int = 100_000
    timed: int = 1_000
    journal_repeats: int = 9
    engine_repeats: int = 7
    share_repeats: int = 3


SMALLEST = Sizes(few=50, many=500, timed=50, journal_repeats=1, engine_repeats=1, share_repeats=1)


@contextlib.contextmanager
def visible_outputs(outputs: Any, *, run: str, on_complete: Any) -> Iterator[list[str]]:
    """Build the output where it will stay, and flush it, unless that is switched off as well."""
    (output,) = outputs
    output.create(output.place.store)
    yield [output.place.path]
    publishing.flush_folder(output.place.store)


def write_plainly(path: str, data: bytes) -> None:
    """Write a file of which a reader can see half."""
    Path(path).write_bytes(data)


@contextlib.contextmanager
def plain_file(path: str, n_bytes: int, *, folder: str) -> Iterator[IO[bytes]]:
    """Give a file of which a reader can see half."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        yield file


def unchecked_zstd(level: int, checksum: bool) -> ZstdCodec:
    """Make the codec without its checksum."""
    return ZstdCodec(level=level, checksum=False)


def _nothing(*arguments: Any, **options: Any) -> Any:
    return ""


def _no_lock(*arguments: Any, **options: Any) -> Any:
    class Lock:
        check = _nothing

    return contextlib.nullcontext(Lock())


PARTS: dict[str, dict[str, Any]] = {
    "journal": {
        "blockbuster.rundir.journal.Journal.append": _nothing,
        "blockbuster.rundir.journal.Journal.flush": _nothing,
        "blockbuster.stage.staging.keep_probe": _nothing,
    },
    "checksums": {
        "blockbuster.rundir.staged.StagedLabels.checksum": _nothing,
        "blockbuster.output.targets.ZarrTarget.checksum": _nothing,
        "blockbuster.rundir.arrays.ArrayFolder.checksum": _nothing,
        "blockbuster.rundir.sections.crc32": lambda data: 0,
        "blockbuster.output.layout.ZstdCodec": unchecked_zstd,
        "blockbuster.output.targets.CODEC": Zstd(level=1),
    },
    "looking for staged files": {"blockbuster.rundir.staged._wait_for": _nothing},
    "fingerprint": {
        "blockbuster.source.zarr_source.ZarrSource.identity": lambda source: {},
        "blockbuster.run.claim.identify_function": lambda fn, version: FunctionIdentity({}),
    },
    "locks": {
        "blockbuster.run.claim.hold_lock": _no_lock,
        "blockbuster.output.publishing.hold_lock": _no_lock,
    },
    "flushing": {"blockbuster.output.publishing.flush_folder": _nothing},
    "atomic files": {
        "blockbuster.run.finish.partial_outputs": visible_outputs,
        "blockbuster.rundir.staged.write_atomically": write_plainly,
        "blockbuster.rundir.staged.replaced_file": plain_file,
        "blockbuster.output.targets.replaced_file": plain_file,
        "blockbuster.run.finish.write_atomically": write_plainly,
    },
}


@contextlib.contextmanager
def without(*parts: str) -> Iterator[None]:
    """Switch parts of the durability off, by their names in `PARTS`."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            for target, replacement in PARTS[part].items():
                stack.enter_context(patch(target, replacement))
        yield


class FilledJournal:
    """The driver's side of a run with so many finished tasks.

    Parameters
    ----------
    folder : Path
        An existing, empty folder.
    n_finished : int
        Tasks of 16 tiles that are finished.
    n_timed : int
        How many more are timed.
    """

    def __init__(self, folder: Path, n_finished: int, n_timed: int) -> None:
        folder.mkdir()
        self.folder, self.n_finished, self.n_timed = folder, n_finished, n_timed
        n_rows = -(-(n_finished + n_timed) // BRICKS_PER_ROW)
        shape = tuple(10 * tiles * n for tiles, n in zip(TILES_PER_TASK, (n_rows, BRICKS_PER_ROW), strict=True))
        self.bricks = BrickGrid(TileGrid.regular(shape, (10, 10), (1, 1)), TILES_PER_TASK)
        self.journal = Journal(str(folder))
        self.tally = self._tally(self.journal)
        for result in self._results(range(n_finished)):
            self.tally.add(result)
        self.size = os.path.getsize(folder / JOURNAL)

    def _tally(self, journal: Journal) -> Tally:
        return Tally(self.bricks, journal, False, bool, Growth())

    def _results(self, numbers: Sequence[int]) -> Iterator[BrickResult]:
        rng = np.random.default_rng(numbers[0])
        for number in numbers:
            counts = rng.integers(0, 500, (1, 16))
            crc = f"{rng.integers(2**32):08x}"
            yield BrickResult(number, counts, maxima=[12.0], fn_seconds=float(rng.random()), checksum=crc)

    def add(self) -> float:
        """Add tasks and forget them again; give the microseconds for each."""
        results = list(self._results(range(self.n_finished, self.n_finished + self.n_timed)))
        start = time.perf_counter()
        for result in results:
            self.tally.add(result)
        seconds = time.perf_counter() - start
        os.truncate(self.folder / JOURNAL, self.size)
        return 1e6 * seconds / self.n_timed

    def read(self) -> float:
        """Read all finished tasks back, as a run that is resumed does; give the microseconds for each."""
        n_times = -(-self.n_timed // self.n_finished)
        gc.collect()
        start = time.perf_counter()
        for _ in range(n_times):
            tally = self._tally(self.journal)
            for record in read_task_records(str(self.folder)).values():
                tally.add_record(record)
        seconds = time.perf_counter() - start
        assert tally.n_finished == self.n_finished, "the journal lost records"
        return 1e6 * seconds / self.n_finished / n_times


def journal_seconds(folder: Path, sizes: Sizes) -> dict[str, list[tuple[float, float]]]:
    """Time both sizes in turn: microseconds at few and at many finished tasks."""
    few = FilledJournal(folder / "few", sizes.few, sizes.timed)
    many = FilledJournal(folder / "many", sizes.many, sizes.timed)
    with few.journal, many.journal:
        calls = {"journal and add up": FilledJournal.add, "read back": FilledJournal.read}
        return {
            name: [(call(few), call(many)) for _ in range(1 + sizes.journal_repeats)][1:]
            for name, call in calls.items()
        }


@dataclass(frozen=True)
class Comparison:
    """Seconds of neighbouring calls: of blockbuster as it is, and with something switched off."""

    setting: Setting
    off: tuple[str, ...]
    whole: list[float]
    reduced: list[float]

    @property
    def ratio(self) -> float:
        """Ratio of the medians."""
        return statistics.median(self.whole) / statistics.median(self.reduced)

    @property
    def pair_ratio(self) -> float:
        """Median of the ratios of neighbouring calls."""
        return pair_ratio(self.reduced, self.whole)


def compare(data: Path, setting: Setting, choices: Sequence[tuple[str, ...]], repeats: int) -> list[Comparison]:
    """Time blockbuster as it is and with each choice of parts switched off, turn about.

    Parameters
    ----------
    data : Path
        Folder of the generated images.
    setting : Setting
        What is segmented, and how.
    choices : sequence of tuple of str
        Names of parts that are switched off together.
    repeats : int
        Counted calls of each.
    """
    path = setting.image.stored_in(data)
    seconds: list[list[float]] = [[] for _ in range(1 + len(choices))]
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(1 + repeats):
            # Backwards every other time, so that no choice always follows the same one.
            order = list(enumerate([(), *choices]))[:: -1 if repeat % 2 else 1]
            for number, off in order:
                shutil.rmtree(Path(name, "labels.zarr"), ignore_errors=True)
                with without(*off):
                    seconds[number].append(seconds_of(functools.partial(run_engine, path, setting, Path(name))))
    whole, *reduced = [values[1:] for values in seconds]
    return [Comparison(setting, off, whole, values) for off, values in zip(choices, reduced, strict=True)]


def _journal_cells(name: str, pairs: list[tuple[float, float]], sizes: Sizes, bound: float | None) -> list[str]:
    few, many = (statistics.median(values) for values in zip(*pairs, strict=True))
    times = [f"{sizes.few:,}", f"{few:.1f}", f"{sizes.many:,}", f"{many:.1f}"]
    return [name, *times, f"{many / few:.3f}", limit(bound), verdict(many / few, bound)]


def _engine_cells(row: Comparison, bound: float | None) -> list[str]:
    whole, reduced = statistics.median(row.whole), statistics.median(row.reduced)
    numbers = [f"{value:.3f}" for value in (whole, reduced, row.ratio, row.pair_ratio)]
    return [row.setting.name, *numbers, limit(bound), verdict(row.ratio, bound)]


def _share_cells(row: Comparison) -> list[str]:
    seconds = statistics.median(row.reduced)
    name = ", ".join(row.off) if len(row.off) < len(PARTS) else "all of these"
    return [row.setting.name, name, f"{seconds:.3f}", f"{row.ratio:.3f}", f"{row.pair_ratio:.3f}"]


def measure_journal(sizes: Sizes, bound: float | None) -> bool:
    """Measure and print the journal's table; say whether it is within the bound."""
    with tempfile.TemporaryDirectory() as name:
        found = journal_seconds(Path(name), sizes)
    cells = [_journal_cells(what, pairs, sizes, bound) for what, pairs in found.items()]
    print(f"\nJournal, tasks of 16 tiles, medians of {sizes.journal_repeats}:\n")
    print(format_table(JOURNAL_TITLES, cells), flush=True)
    return _is_within(cells)


def measure_engine(data: Path, sizes: Sizes, bound: float | None, *, small: bool, only: str) -> bool:
    """Measure and print the tables of the engine; say whether it is within the bound."""
    chosen = [setting for setting in settings(small=small)[:2] if only in setting.name]
    everything = tuple(PARTS)
    rows = [compare(data, setting, [everything], sizes.engine_repeats)[0] for setting in chosen]
    cells = [_engine_cells(row, bound) for row in rows]
    print(
        f"\nThe whole on {N_THREADS} threads, medians of {sizes.engine_repeats}; ratio is as it is / without:\n"
    )
    print(format_table(ENGINE_TITLES, cells), flush=True)
    choices = [*((part,) for part in PARTS), everything]
    shares = [row for setting in chosen for row in compare(data, setting, choices, sizes.share_repeats)]
    print(f"\nOne part switched off at a time, medians of {sizes.share_repeats}; nothing is judged:\n")
    print(format_table(SHARE_TITLES, [_share_cells(row) for row in shares]), flush=True)
    return _is_within(cells)


def _is_within(cells: list[list[str]]) -> bool:
    return all(row[-1] != "FAIL" for row in cells)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    options = begin(measuring_parser("durability", __doc__, "9, 7 and 3"), arguments, 0)
    small = options.small
    sizes = SMALLEST if small else Sizes()
    if options.repeats:
        sizes = Sizes(sizes.few, sizes.many, sizes.timed, options.repeats, options.repeats, options.repeats)
    is_good = measure_journal(sizes, None if small else JOURNAL_BOUND)
    with data_folder(options.data) as data:
        is_good &= measure_engine(data, sizes, None if small else ENGINE_BOUND, small=small, only=options.only)
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
