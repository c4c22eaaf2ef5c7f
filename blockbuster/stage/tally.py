"""Add up what tasks report."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.errors import format_slices
from blockbuster.grid import BrickGrid
from blockbuster.identity.growth import Growth
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.journal import Journal
from blockbuster.stage.finished import task_record
from blockbuster.stage.task import BrickResult

logger = logging.getLogger("blockbuster")

# Things that fn appends to, of which the names go into each record.
MAX_REPEATED = 8


@dataclass
class Tally:
    """Journal the results of bricks as they arrive, and add them up.

    Parameters
    ----------
    bricks : BrickGrid
        Bricks of the image.
    journal : Journal
        Takes a record for each brick.
    verbose : bool
        Log every tile.
    on_tiles : callable
        Called with a number of tiles as they are finished.
    growth : Growth
        What fn may append to.
    """

    bricks: BrickGrid
    journal: Journal
    verbose: bool
    on_tiles: Callable[[int], Any]
    growth: Growth

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.bricks.grid.grid_shape, np.int64)
        self.n_finished = 0
        self.n_skipped = 0
        self.n_outside = 0
        self.n_resumed = 0
        self._maxima: list[np.ndarray] = []
        self.n_retried = 0
        self.fn_seconds = 0.0
        self.in_pieces: bool | None = False
        self.failed: list[list[Any]] = []

    @property
    def maxima(self) -> Iterator[float]:
        """The maxima of all tiles that were skipped, integers exactly."""
        return itertools.chain.from_iterable(maxima.tolist() for maxima in self._maxima)

    def add(self, result: BrickResult) -> None:
        """Take the result of a brick; a failed one is raised."""
        if result.interrupted:
            raise KeyboardInterrupt
        if result.error is not None:
            raise result.error
        if result.stopped:
            return
        reach("task finished")
        record, grown = task_record(result), self.growth.look()
        if len(self.growth.grown) <= MAX_REPEATED:
            # In every record, or one that is damaged later would make fn another function.
            grown = self.growth.grown
        self.journal.append({**record, "grown": grown} if grown else record)
        reach("task journalled")
        self.add_record({**record, "counts": result.counts, "fn": result.fn_seconds})
        self.on_tiles(len(result.counts))

    def add_record(self, record: dict[str, Any]) -> None:
        """Count what the record of a finished brick says, the counts of its tiles as an array."""
        index, counts = self.bricks.index(record["task"]), record["counts"]
        tiles = self.bricks.tiles(index)
        self.counts[tiles] = counts.reshape(self.counts[tiles].shape)
        self.n_finished += 1
        self.n_outside += record.get("outside", 0)
        self.n_skipped += len(record["maxima"]) + record.get("outside", 0)
        if record["maxima"]:
            # A list would take four times as much.
            self._maxima.append(np.array(record["maxima"]))
        self.n_retried += record.get("retried", 0)
        self.fn_seconds += record["fn"]
        if counts.any():
            in_pieces = record.get("in_pieces")
            has_two_ids = self.in_pieces is None or in_pieces is None
            self.in_pieces = None if has_two_ids else self.in_pieces or in_pieces
        self.failed += record.get("failed", [])
        if self.verbose:
            grid = self.bricks.grid
            for tile in self.bricks.tile_indices(index):
                region = grid.region(tile)
                logger.info(
                    "tile %s %s, seen by fn as %s: %d labels",
                    tile,
                    format_slices(grid.core(tile)),
                    tuple(part.stop - part.start for part in region),
                    self.counts[tile],
                )
