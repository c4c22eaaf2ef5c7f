"""Tiles that are processed ahead of their bricks to learn how long fn takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.errors import TileError
from blockbuster.execution import Attempt
from blockbuster.grid import Box, BrickGrid
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.journal import Journal, read_journal
from blockbuster.source import pixel_digest
from blockbuster.stage.deaths import PROBE, check_deaths
from blockbuster.stage.results import UNNAMED
from blockbuster.stage.saved import RegionReader
from blockbuster.stage.tile_call import TileCall, TileOutcome, try_tile


@dataclass(frozen=True)
class ProbeJob:
    """What probes share.

    In `directory` a probe marks that it is under way. `sampled`: a digest of the pixels has to be
    kept, since the image's identity does not notice changes.
    """

    call: TileCall
    source: RegionReader
    directory: str | None = None
    sampled: bool = False


@dataclass
class Probe:
    """One tile that was processed ahead of its brick.

    Parameters
    ----------
    number : int
        The tile, in C order.
    outcome : TileOutcome
        What became of it.
    pixels : str
        Digest of what fn was shown; empty where it is not needed.
    interrupted : bool
        fn raised KeyboardInterrupt in another process.
    """

    number: int
    outcome: TileOutcome
    pixels: str = ""
    interrupted: bool = False


def probe_tile(job: ProbeJob, number: int) -> Probe:
    """Process one tile unless it is empty, and time fn."""
    grid = job.call.grid
    tile = grid.index(number)
    digests = [""]

    def read(region: Box) -> np.ndarray:
        pixels = job.source.read(region)
        if job.sampled:
            digests.append(pixel_digest(pixels))
        return pixels

    try:
        with Attempt(job.directory, f"{PROBE}-{number}") as attempt:
            check_deaths(attempt, 0, BrickGrid(grid, (1,) * grid.ndim))
            attempt.at(0)
            outcome = try_tile(job.call, tile, read)
    except TileError as error:
        outcome = TileOutcome(error=error)
    except KeyboardInterrupt:
        if job.directory is None:
            raise
        return Probe(number, TileOutcome(), interrupted=True)
    if outcome.labels is not None:
        # A copy: fn may hand out the same array for every tile.
        outcome.labels = {name: labels.copy() for name, labels in outcome.labels.items()}
    return Probe(number, outcome, digests[-1])


def keep_probe(probe: Probe, directory: str, journal: Journal) -> None:
    """Keep the labels of a probe, so that a run that is resumed need not call fn for it again."""
    number, outcome = probe.number, probe.outcome
    if outcome.labels is None:
        return
    arrays, names = ArrayFolder(directory), tuple(outcome.labels)
    for file, labels in zip(_files(number, names), outcome.labels.values(), strict=True):
        arrays.save(file, labels)
    crc = arrays.checksum(*_files(number, names))
    record = {"probe": number, "crc": crc, "fn": outcome.seconds, "retried": outcome.n_retried}
    journal.append({**record, "pixels": probe.pixels, **({} if names == UNNAMED else {"names": names})})


def kept_probes(directory: str) -> list[Probe]:
    """Read the probes of an earlier run whose files are whole."""
    arrays, probes = ArrayFolder(directory), []
    records = {record["probe"]: record for record in read_journal(directory, "probe")}
    for number, record in records.items():
        names = record.get("names", UNNAMED)
        files = _files(number, names)
        if arrays.checksum(*files) == record["crc"]:
            labels = {name: np.array(arrays.load(file)) for name, file in zip(names, files, strict=True)}
            outcome = TileOutcome(labels, seconds=record["fn"], n_retried=record["retried"])
            probes.append(Probe(number, outcome, record["pixels"]))
    return probes


def _files(number: int, names: Sequence[str]) -> list[str]:
    return [f"probe-{number}-{k}" if k else f"probe-{number}" for k in range(len(names))]
