"""Which tasks an earlier run finished, and whether what they left is still whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from blockbuster.errors import format_slices
from blockbuster.execution import Execution, run_tasks
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.rundir.journal import read_journal
from blockbuster.rundir.staged import StagedLabels, read_layout
from blockbuster.source import Source, pixel_digest
from blockbuster.stage.results import UNNAMED
from blockbuster.stage.task import BrickResult, StageJob

Record = dict[str, Any]
# Start and stop of a region along each axis, and the digest of its pixels: [[[0, 4], [8, 9]],
# "5d1e9c20"].
Sample = list[Any]


def task_record(result: BrickResult) -> Record:
    """Return the journal's record of a finished task."""
    is_one = result.names in (None, UNNAMED)
    record: Record = {
        "task": result.number,
        "counts": result.counts[0].tolist() if is_one else result.counts.tolist(),
        "maxima": result.maxima,
        "fn": round(result.fn_seconds, 6),
        "crc": result.checksum,
    }
    if result.n_outside:
        record["outside"] = result.n_outside
    if result.n_retried:
        record["retried"] = result.n_retried
    if result.pixels:
        record["pixels"] = result.pixels
    if result.pixels_box is not None:
        record["pixels_box"] = [[part.start, part.stop] for part in result.pixels_box]
    if result.pixels_tile is not None:
        record["pixels_tile"] = result.pixels_tile
    if not is_one:
        record |= {"names": result.names, "in_pieces": result.in_pieces}
    elif result.in_pieces[0] is not None and result.counts.any():
        record["in_pieces"] = result.in_pieces[0]
    if result.failed:
        record["failed"] = [[list(error.tile), error.what] for error in result.failed]
    return record


def read_task_records(directory: str) -> dict[int, Record]:
    """Read the last record of each task from the journal, ``counts`` as an array of int64 of
    (n_results, n_tiles), ``maxima`` and ``names`` as tuples, the latter None where there are none.

    Notes
    -----
    Lists of numbers would take three times the memory, and the garbage collector's time with it:
    with 100,000 tasks a fifth of all. What fn was seen to append to, which each record repeats, is
    left out.
    """
    records = {}
    for record in read_journal(directory):
        if "task" in record:
            record.pop("grown", None)
            counts = np.atleast_2d(np.array(record["counts"], np.int64))
            record |= {"counts": counts, "maxima": tuple(record["maxima"]), "names": _names_in(record, counts)}
            records[record["task"]] = record
    return records


def _names_in(record: Record, counts: np.ndarray) -> tuple[str, ...] | None:
    if "names" in record:
        return tuple(record["names"])
    return UNNAMED if counts.any() else None


def read_names(directory: str) -> tuple[str, ...] | None:
    """Return the names of the results of fn as far as finished work of a stage tells."""
    for record in read_journal(directory):
        if "task" in record and (names := _names_in(record, np.array(record["counts"]))):
            return names
        if "probe" in record:
            return tuple(record.get("names", UNNAMED))
    return None


def failed_tiles(failed: Iterable[Sequence[Any]], grid: TileGrid, dropped_axis: int | None) -> np.ndarray:
    """Return the numbers of tiles that failed, in the grid of the labels.

    Parameters
    ----------
    failed : iterable of (tile, text)
        As records have them, tiles by their indices in the image.
    grid : TileGrid
        Of the labels.
    dropped_axis : int or None
        The axis of the image that the labels do not have.
    """
    tiles = [tile for tile, _ in failed]
    if dropped_axis is not None:
        tiles = [tile[:dropped_axis] + tile[dropped_axis + 1 :] for tile in tiles]
    return np.array(sorted({grid.number(tuple(tile)) for tile in tiles}), np.int64)


def verify_brick(job: tuple[StagedLabels, dict[int, str]], number: int) -> tuple[int, bool]:
    """Return whether the files of a brick that has labels are there and have the checksums of the
    journal.
    """
    staged, expected = job
    index = staged.bricks.index(number)
    pairs = enumerate(expected[number].split(","))
    return number, all(not crc or staged.of_result(k).checksum(index) == crc for k, crc in pairs)


def find_finished_tasks(job: StageJob, execution: Execution, on_tiles: Callable[[int], Any]) -> dict[int, Record]:
    """Find the tasks that need not run again.

    Parameters
    ----------
    job : StageJob
        What the tasks share.
    execution : Execution
        Where to verify what they left.
    on_tiles : callable
        Called with the number of tiles of each task that is whole.

    Returns
    -------
    dict
        Number of a task to its record. Left out are tasks whose files are missing or damaged, and,
        where failed tiles end a run, tasks with failed tiles.

    Notes
    -----
    Reads every staged file once, as it is stored.
    """
    records = read_task_records(job.staged.path)
    if not job.call.skip_errors:
        records = {number: record for number, record in records.items() if "failed" not in record}
    whole: dict[int, Record] = {}

    def take(verified: tuple[int, bool]) -> None:
        number, is_whole = verified
        if is_whole:
            whole[number] = records[number]
            on_tiles(job.bricks.n_tiles(job.bricks.index(number)))

    verify = job.staged, {number: record["crc"] for number, record in records.items()}
    run_tasks(execution, verify_brick, verify, sorted(records), directory=job.staged.path, on_result=take)
    return whole


def read_samples(directory: str, grid: TileGrid) -> list[Sample]:
    """Return samples of finished tasks of a stage that could read pixels, or else of the tiles that
    were probed.

    Parameters
    ----------
    directory : str
        The stage directory.
    grid : TileGrid
        Its tiles.

    Returns
    -------
    list of Sample
        Of the first and the last finished brick, and of the two with most labels: the corners of a
        mosaic are often padding, which is the same in every image.
    """
    records = {number: record for number, record in read_task_records(directory).items() if record.get("pixels")}
    if records:
        bricks = BrickGrid(grid, tuple(read_layout(directory)["image"]["tiles_per_brick"]))
        numbers = sorted(records)
        fullest = sorted(numbers, key=lambda number: -int(records[number]["counts"].sum()))
        chosen = dict.fromkeys([*numbers[:1], *fullest[:2], *numbers[-1:]])
        found = []
        for record in map(records.__getitem__, chosen):
            index, tile = bricks.index(record["task"]), record.get("pixels_tile")
            region = bricks.region(index)
            if "pixels_box" in record:
                region = tuple(slice(*ends) for ends in record["pixels_box"])
            if tile is not None:
                # The brick could not be read whole.
                region = grid.region(next(itertools.islice(bricks.tile_indices(index), tile, None)))
            found.append((region, record["pixels"]))
    else:
        probes = read_journal(directory, "probe")
        found = [(grid.region(grid.index(probe["probe"])), probe["pixels"]) for probe in probes]
    return [[[[part.start, part.stop] for part in region], digest] for region, digest in found]


def find_changed_pixels(source: Source, samples: Sequence[Sample]) -> list[str]:
    """Read what an earlier run sampled again, and say where the image is another one; empty where
    it is not.

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
        return []
    if not samples:
        return [f"image {source.name}: nothing is known of its pixels, so that a change could not be noticed"]
    for box, digest in samples:
        region = tuple(slice(*part) for part in box)
        if pixel_digest(source.read(region)) != digest:
            where = f"image {source.name}: its pixels in {format_slices(region)}"
            return [f"{where} are not those that the earlier run read"]
    return []
