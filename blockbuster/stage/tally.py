"""Add up what tasks report."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from blockbuster.errors import format_slices
from blockbuster.failpoints import reach
from blockbuster.grid import BrickGrid
from blockbuster.identity import Growth
from blockbuster.rundir.journal import Journal
from blockbuster.stage.finished import read_task, task_record
from blockbuster.stage.task import BrickResult

__all__ = ["Tally"]

logger = logging.getLogger("blockbuster")

Index = tuple[int, ...]
# Things that fn appends to, of which the names go into each record.
MAX_REPEATED = 8


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

    def __init__(
        self,
        bricks: BrickGrid,
        journal: Journal,
        verbose: bool,
        on_tiles: Callable[[int], Any],
        growth: Growth,
    ) -> None:
        self.bricks = bricks
        self.journal = journal
        self.verbose = verbose
        self.on_tiles = on_tiles
        self.growth = growth
        self.counts = np.zeros(bricks.grid.grid_shape, np.int64)
        self.n_finished = 0
        self.n_skipped = 0
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
        self._count(result, record)
        self.on_tiles(len(result.counts))

    def add_record(self, record: dict[str, Any]) -> None:
        """Take a brick that an earlier run finished."""
        self._count(read_task(record), record)

    def _count(self, result: BrickResult, record: dict[str, Any]) -> None:
        index = self.bricks.index(result.number)
        tiles = self.bricks.tiles(index)
        self.counts[tiles] = result.counts.reshape(self.counts[tiles].shape)
        self.n_finished += 1
        self.n_skipped += len(result.maxima)
        # A list would take four times as much.
        self._maxima.append(np.array(result.maxima))
        self.n_retried += result.n_retried
        self.fn_seconds += result.fn_seconds
        if result.counts.any():
            has_two_ids = self.in_pieces is None or result.in_pieces is None
            self.in_pieces = None if has_two_ids else self.in_pieces or result.in_pieces
        self.failed += record.get("failed", [])
        if self.verbose:
            self._log(index)

    def _log(self, index: Index) -> None:
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
