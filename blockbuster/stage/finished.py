"""Which tasks an earlier run finished, and whether what they left is still whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.cluster import Execution, run_tasks
from blockbuster.grid import BrickGrid
from blockbuster.rundir.journal import read_journal
from blockbuster.rundir.staged import StagedLabels
from blockbuster.source import Source, pixel_digest
from blockbuster.stage.task import BrickResult, StageJob

__all__ = ["check_sample", "find_finished_tasks", "read_task", "read_task_records", "task_record"]

Record = dict[str, Any]


def task_record(result: BrickResult) -> Record:
    """Give the journal's record of a finished task."""
    record: Record = {
        "task": result.number,
        "counts": result.counts.tolist(),
        "skipped": result.n_skipped,
        "fn": round(result.fn_seconds, 6),
        "crc": result.checksum,
    }
    if result.n_retried:
        record["retried"] = result.n_retried
    if result.pixels:
        record["pixels"] = result.pixels
    if result.failed:
        record["failed"] = [[list(error.tile), error.what] for error in result.failed]
    return record


def read_task(record: Record) -> BrickResult:
    """Give a finished task back from its record, without the errors of its tiles."""
    return BrickResult(
        record["task"],
        np.asarray(record["counts"], np.int64),
        n_skipped=record["skipped"],
        n_retried=record.get("retried", 0),
        fn_seconds=record["fn"],
        checksum=record["crc"],
        pixels=record.get("pixels", ""),
    )


def read_task_records(directory: str) -> dict[int, Record]:
    """Read the last record of each task from the journal, ``counts`` as an array of int64.

    Notes
    -----
    Lists of numbers would take three times the memory, and the garbage collector's time with it: with 100,000
    tasks a fifth of all.
    """
    records = {}
    for record in read_journal(directory):
        if "task" in record:
            records[record["task"]] = {**record, "counts": np.array(record["counts"], np.int64)}
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


def check_sample(source: Source, bricks: BrickGrid, finished: dict[int, Record]) -> None:
    """Read the first and the last finished brick again, to see whether the image is still the same.

    Raises
    ------
    ValueError
        If its pixels differ from those that the earlier run read.
    """
    sampled = sorted(number for number, record in finished.items() if record.get("pixels"))
    for number in dict.fromkeys(sampled[:1] + sampled[-1:]):
        region = bricks.region(bricks.index(number))
        if pixel_digest(source.read(region)) != finished[number]["pixels"]:
            raise ValueError(
                f"image {source.name}: its pixels in {region} are not those that the earlier run read, which is "
                "not continued. Give the same image, or pass overwrite=True instead of resume=True to start anew."
            )
