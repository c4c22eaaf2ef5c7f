"""Tiles on their way through a network: read ahead, predicted together, decoded in order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass

import numpy as np

from blockbuster.errors import TileError
from blockbuster.grid import Box, Index
from blockbuster.predict import DEVICE, Lane, Predictor, Request
from blockbuster.stage.saved import read_tile
from blockbuster.stage.tile_call import TileCall, TileOutcome

# How often a task that waits for the device looks whether the run has ended.
SECONDS_BETWEEN_LOOKS = 0.25
Read = Callable[[Box], np.ndarray]


@dataclass
class PendingTile:
    """A tile that was read, and is to be predicted or decoded.

    Parameters
    ----------
    tile : tuple of int
        Its index.
    read : callable
        Reads a region, should it have to be tried again.
    outcome : TileOutcome
        What became of it so far.
    request : Request or None
        What it waits for; ``None``: nothing, as for an empty tile.
    pixels : ndarray
        The tile as it was read.
    """

    tile: Index
    read: Read
    outcome: TileOutcome
    request: Request | None
    pixels: np.ndarray | None


class TilePipeline:
    """Labels the tiles of a task with a predictor, of which several are under way.

    Parameters
    ----------
    call : TileCall
        How it is applied.
    predictor : Predictor
        The network.
    look : callable
        Raises when the run has ended.
    """

    def __init__(self, call: TileCall, predictor: Predictor, look: Callable[[], None]) -> None:
        self._call, self._predictor, self._look = call, predictor, look
        self._requests: list[Request] = []
        self._lane = Lane()
        self._tile_bytes = 0

    @property
    def most_ahead(self) -> int:
        """How many tiles of a task are worth having under way: two batches."""
        return 2 * self._predictor.batch_size + 1

    def has_room(self) -> bool:
        """Return whether one more tile may wait besides those of all tasks of this process."""
        return DEVICE.has_room(self._predictor, self._tile_bytes)

    def begin(self, tile: Index, read: Read) -> PendingTile:
        """Read a tile, and have it predicted unless it is empty."""
        outcome = TileOutcome()
        pending = PendingTile(tile, read, outcome, None, None)
        try:
            with DEVICE.noted("read"):
                pixels = read_tile(read, self._call.grid, tile)
                outcome.maximum = self._call.maximum_if_empty(pixels)
        except TileError as error:
            outcome.error = error
            return pending
        if outcome.maximum is None:
            request = Request(self._predictor, self._predictor.padded(pixels), self._lane)
            self._tile_bytes = pixels.nbytes
            pending.request, pending.pixels = request, pixels
            self._requests.append(request)
            DEVICE.submit(request)
        return pending

    def finish(self, pending: PendingTile) -> TileOutcome:
        """Wait for the prediction of a tile and decode it, and try it again where that fails."""
        outcome = self._complete(pending)
        for n_retried in range(1, self._call.retries + 1):
            if outcome.error is None:
                break
            outcome = self._complete(self.begin(pending.tile, pending.read))
            outcome.n_retried = n_retried
        return outcome

    def _complete(self, pending: PendingTile) -> TileOutcome:
        outcome, request = pending.outcome, pending.request
        if request is not None and pending.pixels is not None:
            self._wait(request)
            try:
                with DEVICE.noted("decode"), self._call.decode_turns or contextlib.nullcontext():
                    start = time.perf_counter()
                    outcome.labels = self._call.label(pending.tile, pending.pixels, self._decoding(request))
                    outcome.seconds = request.seconds + time.perf_counter() - start
            except TileError as error:
                outcome.error = error
            finally:
                self._forget(request)
        return outcome

    def close(self) -> None:
        """Let go of tiles that nobody waits for any more."""
        for request in list(self._requests):
            self._forget(request)

    def _wait(self, request: Request) -> None:
        while True:
            try:
                request.prediction.exception(SECONDS_BETWEEN_LOOKS)
                return
            except NotYetError:
                self._look()

    def _decoding(self, request: Request) -> Callable[[np.ndarray], object]:
        """Return what gives the labels of a tile; an error of the prediction is one of fn."""

        def decode(pixels: np.ndarray) -> object:
            return self._predictor.decode_tile(request.prediction.result(), pixels.shape)

        return decode

    def _forget(self, request: Request) -> None:
        DEVICE.forget(request)
        self._requests.remove(request)
