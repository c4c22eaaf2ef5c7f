"""Add up what tasks report."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.errors import format_slices
from blockbuster.grid import BrickGrid, Index
from blockbuster.identity.growth import Growth
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.journal import Journal
from blockbuster.stage.finished import task_record
from blockbuster.stage.results import UNNAMED
from blockbuster.stage.task import BrickResult, refuse_other_names

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
    names : tuple of str or None
        Names of the results of fn; ``None`` as long as nobody knows.
    on_names : callable
        Called with them once they are known.
    """

    bricks: BrickGrid
    journal: Journal
    verbose: bool
    on_tiles: Callable[[int], Any]
    growth: Growth
    names: tuple[str, ...] | None = None
    on_names: Callable[[tuple[str, ...]], Any] = bool

    def __post_init__(self) -> None:
        self._make_room()
        self.n_finished = 0
        self.n_skipped = 0
        self.n_outside = 0
        self.n_resumed = 0
        self._maxima: list[np.ndarray] = []
        self.n_retried = 0
        self.fn_seconds = 0.0
        self.failed: list[list[Any]] = []
        # Seconds that devices were busy, waited for tiles, and for threads that decoded.
        self.device: np.ndarray | None = None

    def _make_room(self) -> None:
        # Labels of each result in each tile.
        self.counts = np.zeros((len(self.names or UNNAMED), *self.bricks.grid.grid_shape), np.int64)
        self.in_pieces: list[bool | None] = [False] * len(self.counts)

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
        self.meet(result.names, result.named_by)
        if result.device:
            self.device = np.array(result.device) + (0 if self.device is None else self.device)
        reach("task finished")
        record, grown = task_record(result), self.growth.look()
        if len(self.growth.grown) <= MAX_REPEATED:
            # In every record, or one that is damaged later would make fn another function.
            grown = self.growth.grown
        self.journal.append({**record, "grown": grown} if grown else record)
        reach("task journalled")
        self.add_record({**record, "counts": result.counts, "names": result.names, "fn": result.fn_seconds})
        self.on_tiles(result.counts.shape[1])

    def meet(self, names: tuple[str, ...] | None, tile: Index | None = None) -> None:
        """Take note of the names of the first results, and refuse others."""
        if names is None:
            return
        if self.names is None:
            self.names = names
            self._make_room()
            self.on_names(names)
        refuse_other_names(names, tile or (0,) * self.bricks.grid.ndim, self.names, self.bricks.grid)

    def add_record(self, record: dict[str, Any]) -> None:
        """Count what the record of a finished brick says, the counts of its tiles as an array."""
        index, counts = self.bricks.index(record["task"]), record["counts"]
        tiles = self.bricks.tiles(index)
        for whole, own in zip(self.counts, counts, strict=False):
            whole[tiles] = own.reshape(whole[tiles].shape)
        self.n_finished += 1
        self.n_outside += record.get("outside", 0)
        self.n_skipped += len(record["maxima"]) + record.get("outside", 0)
        if record["maxima"]:
            # A list would take four times as much.
            self._maxima.append(np.array(record["maxima"]))
        self.n_retried += record.get("retried", 0)
        self.fn_seconds += record["fn"]
        found = record.get("in_pieces")
        pairs = zip(self.in_pieces, found if isinstance(found, list) else [found], counts, strict=False)
        for k, (before, in_pieces, own) in enumerate(pairs):
            if own.any():
                has_two_ids = before is None or in_pieces is None
                self.in_pieces[k] = None if has_two_ids else before or in_pieces
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
                    sum(int(own[tile]) for own in self.counts),
                )
