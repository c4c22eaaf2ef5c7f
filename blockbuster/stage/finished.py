"""Which tasks an earlier run finished, and whether what they left is still whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.cluster import Execution, run_tasks
from blockbuster.errors import format_slices
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.rundir.journal import read_journal
from blockbuster.rundir.staged import StagedLabels, read_layout
from blockbuster.source import Source, pixel_digest
from blockbuster.stage.task import BrickResult, StageJob

__all__ = [
    "Sample",
    "find_changed_pixels",
    "find_finished_tasks",
    "read_samples",
    "read_task",
    "read_task_records",
    "task_record",
]

Record = dict[str, Any]
# Start and stop of a region along each axis, and the digest of its pixels: fit for JSON.
Sample = list[Any]


def task_record(result: BrickResult) -> Record:
    """Give the journal's record of a finished task."""
    record: Record = {
        "task": result.number,
        "counts": result.counts.tolist(),
        "maxima": result.maxima,
        "fn": round(result.fn_seconds, 6),
        "crc": result.checksum,
    }
    if result.n_retried:
        record["retried"] = result.n_retried
    if result.pixels:
        record["pixels"] = result.pixels
    if result.pixels_tile is not None:
        record["pixels_tile"] = result.pixels_tile
    if result.in_pieces is not None and result.counts.any():
        record["in_pieces"] = result.in_pieces
    if result.failed:
        record["failed"] = [[list(error.tile), error.what] for error in result.failed]
    return record


def read_task(record: Record) -> BrickResult:
    """Give a finished task back from its record, without the errors of its tiles."""
    return BrickResult(
        record["task"],
        np.asarray(record["counts"], np.int64),
        maxima=list(record["maxima"]),
        n_retried=record.get("retried", 0),
        fn_seconds=record["fn"],
        checksum=record["crc"],
        pixels=record.get("pixels", ""),
        pixels_tile=record.get("pixels_tile"),
        in_pieces=record.get("in_pieces"),
    )


def read_task_records(directory: str) -> dict[int, Record]:
    """Read the last record of each task from the journal, ``counts`` as an array of int64, ``maxima`` as a tuple.

    Notes
    -----
    Lists of numbers would take three times the memory, and the garbage collector's time with it: with 100,000
    tasks a fifth of all. What fn was seen to append to, which each record repeats, is left out.
    """
    records = {}
    for record in read_journal(directory):
        if "task" in record:
            record.pop("grown", None)
            record |= {"counts": np.array(record["counts"], np.int64), "maxima": tuple(record["maxima"])}
            records[record["task"]] = record
    return records


@dataclass(frozen=True)
class VerifyJob:
    """What the tasks that verify bricks share."""

    staged: StagedLabels
    expected: dict[int, tuple[int, str]]


def verify_brick(job: VerifyJob, number: int) -> tuple[int, bool]:
    """Say whether the files of a brick are there and have the checksum of the journal."""
    n_labels, checksum = job.expected[number]
    return number, job.staged.checksum(job.staged.bricks.index(number), n_labels) == checksum


def find_finished_tasks(
    job: StageJob, directory: str, execution: Execution, on_task: Callable[[int], Any]
) -> dict[int, Record]:
    """Find the tasks that need not run again.

    Parameters
    ----------
    job : StageJob
        What the tasks share.
    directory : str
        The stage directory.
    execution : Execution
        Where to verify what they left.
    on_task : callable
        Called with the number of each task that is whole.

    Returns
    -------
    dict
        Number of a task to its record. Left out are tasks whose files are missing or damaged, and, where
        failed tiles end a run, tasks with failed tiles.

    Notes
    -----
    Reads every staged file once, as it is stored.
    """
    records = read_task_records(directory)
    if not job.call.skip_errors:
        records = {number: record for number, record in records.items() if "failed" not in record}
    whole: dict[int, Record] = {}

    def take(verified: tuple[int, bool]) -> None:
        number, is_whole = verified
        if is_whole:
            whole[number] = records[number]
            on_task(number)

    expected = {number: (int(record["counts"].sum()), record["crc"]) for number, record in records.items()}
    numbers = sorted(expected)
    verify = VerifyJob(job.staged, expected)
    run_tasks(execution, verify_brick, verify, numbers, directory=directory, on_result=take)
    return whole


def read_samples(directory: str, grid: TileGrid) -> list[Sample]:
    """Return samples of finished tasks of a stage that could read pixels, or else of the tiles that were probed.

    Parameters
    ----------
    directory : str
        The stage directory.
    grid : TileGrid
        Its tiles.
    """
    records = {number: record for number, record in read_task_records(directory).items() if record.get("pixels")}
    if records:
        return choose_samples(BrickGrid(grid, tuple(read_layout(directory)["image"]["tiles_per_brick"])), records)
    probes = read_journal(directory, "probe")
    return [region_sample(grid.region(grid.index(probe["probe"])), probe["pixels"]) for probe in probes]


def region_sample(region: tuple[slice, ...], digest: str) -> Sample:
    """Return the sample of a region.

    >>> region_sample((slice(0, 4), slice(8, 9)), "5d1e9c20")
    [[[0, 4], [8, 9]], '5d1e9c20']
    """
    return [[[part.start, part.stop] for part in region], digest]


def choose_samples(bricks: BrickGrid, records: dict[int, Record]) -> list[Sample]:
    """Return samples of the first and the last finished brick, and of the two with most labels.

    Notes
    -----
    The corners of a mosaic are often padding, which is the same in every image.
    """
    numbers = sorted(records)
    fullest = sorted(numbers, key=lambda number: -int(records[number]["counts"].sum()))
    chosen = dict.fromkeys([*numbers[:1], *fullest[:2], *numbers[-1:]])
    return [region_sample(_sampled_region(bricks, records[n]), records[n]["pixels"]) for n in chosen]


def _sampled_region(bricks: BrickGrid, record: Record) -> tuple[slice, ...]:
    """Give the region whose digest a task left: its brick, or a tile where that could not be read as a whole."""
    index, tile = bricks.index(record["task"]), record.get("pixels_tile")
    if tile is None:
        return bricks.region(index)
    return bricks.grid.region(next(itertools.islice(bricks.tile_indices(index), tile, None)))


def find_changed_pixels(source: Source, samples: Sequence[Sample]) -> str:
    """Read what an earlier run sampled again, and say where the image is another one; empty where it is not.

    Parameters
    ----------
    source : Source
        The image.
    samples : sequence of Sample
        What the run kept that is continued, or whose labels are given back.

    Notes
    -----
    Reads nothing of a source whose identity notices changed pixels.
    """
    if not source.sampled or 0 in source.shape:
        return ""
    if not samples:
        return f"image {source.name}: nothing is known of its pixels, so that a change could not be noticed"
    for box, digest in samples:
        region = tuple(slice(*part) for part in box)
        if pixel_digest(source.read(region)) != digest:
            where = f"image {source.name}: its pixels in {format_slices(region)}"
            return f"{where} are not those that the earlier run read"
    return ""
