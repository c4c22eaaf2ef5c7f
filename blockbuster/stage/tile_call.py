"""How fn is applied to one tile: read, look whether it is empty, call, check, try again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.compat import OWN_REFERENCES
from blockbuster.errors import TileError, ends_process, error_text
from blockbuster.grid import Box, Index, TileGrid
from blockbuster.kernels.positions import keep_positions_apart
from blockbuster.stage.empty_threshold import Background
from blockbuster.stage.results import check_labels, name_results
from blockbuster.stage.saved import read_tile

DAEMONIC = (
    ". The workers of a dask cluster may not start processes: call "
    'dask.config.set({"distributed.worker.daemon": False}) before it is made, run on threads, or start none in fn'
)
NO_CHANNEL = (
    " fn leaves out an axis: where that is the one of channels, as in an RGB image, name it c in axes, "
    'e.g. axes="yxc", and pass channel=None.'
)
CHANNEL_RULE = " With channel=None, labels have the channel axis for all tiles or for none."


@dataclass(frozen=True)
class TileCall:
    """How fn is applied to one tile.

    Parameters
    ----------
    grid : TileGrid
        The tiles of the image as fn sees it.
    fn : callable
        ``(ndarray) -> ndarray``.
    empty_threshold : float or None
        A tile whose maximum is not above it is not shown to fn; ``None``: every tile is.
    background : Background or None
        What the threshold was chosen by; ``None`` where the user gave it.
    channel_axis : int or None
        The axis that fn may drop from its labels.
    drops_channels : bool or None
        Whether it does; ``None``: either, as long as nobody knows.
    apart_axes : tuple of int
        Axes of the image that are not merged: fn may begin its ids anew at each position along
        them.
    retries : int
        How often a tile that failed is tried again.
    skip_errors : bool
        Take a tile that failed for background, instead of ending the run.
    inside : ndarray of bool or None
        In the shape of the tile grid, the tiles that fn is called for; ``None``: all. Of others
        nothing is read, and they are background.
    one_at_a_time : bool
        Call fn in one thread of a process at a time, for a device that cannot be shared; other
        tasks read and write meanwhile.
    names : tuple of str or None
        Names of the results that fn returns in a dict, which ascend; ``("",)``: one array;
        ``None``: either, as long as nobody knows.
    decode_turns : threading.Semaphore or None
        What threads of this process hold while they decode what a predictor predicted.
    """

    grid: TileGrid
    fn: Callable[[np.ndarray], Any]
    empty_threshold: float | None = None
    background: Background | None = None
    channel_axis: int | None = None
    drops_channels: bool | None = None
    apart_axes: Index = ()
    retries: int = 0
    skip_errors: bool = False
    inside: np.ndarray | None = None
    one_at_a_time: bool = False
    names: tuple[str, ...] | None = None
    decode_turns: threading.Semaphore | None = None

    def maximum_if_empty(self, pixels: np.ndarray) -> float | None:
        """Return the maximum of an empty tile, else None; a tile with NaN is never empty."""
        if self.empty_threshold is None:
            return None
        # A number of Python is compared exactly, an integer of 64 bits with a float too.
        maximum = np.max(pixels).item()
        if not maximum <= self.empty_threshold:
            return None
        return maximum if isinstance(maximum, int) else float(maximum)

    def label(
        self, tile: Index, pixels: np.ndarray, fn: Callable[[np.ndarray], Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Call fn on a copy of a tile's region, check its labels, keep apart what is not merged.

        What it returns has the names of its results, which ascend.

        Parameters
        ----------
        tile : tuple of int
            Index of the tile.
        pixels : ndarray
            Its region.
        fn : callable, optional
            What gives the labels instead of fn, and does not change the pixels.
        """
        if fn is None:
            fn, pixels = self.fn, pixels.copy(order="C")
        shapes: tuple[Index, ...] = (pixels.shape,)
        if self.channel_axis is not None:
            whole = pixels.shape
            dropped = whole[: self.channel_axis] + whole[self.channel_axis + 1 :]
            shapes = {None: (dropped, whole), True: (dropped,), False: (whole,)}[self.drops_channels]
        try:
            result = fn(pixels)
        except BaseException as error:
            if ends_process(error):
                raise
            is_daemon = isinstance(error, AssertionError) and "daemonic processes" in error_text(error)
            advice = DAEMONIC if is_daemon else ""
            raise TileError.from_exception("fn", error, tile, self.grid.core(tile), advice=advice) from error
        # fn may keep what it returned, in an array that it uses again, and change it while we work.
        is_own = isinstance(result, np.ndarray) and result.flags.owndata
        is_shared = not is_own or sys.getrefcount(result) > OWN_REFERENCES
        found, name, one = {}, "", result
        try:
            for name, one in name_results(result, self.names).items():
                labels = check_labels(one, shapes, copy=is_shared)
                # All of them have the axis of channels, or none.
                shapes = (labels.shape,)
                dropped_axis = self.channel_axis if labels.ndim < self.grid.ndim else None
                found[name] = keep_positions_apart(labels, label_axes(self.apart_axes, dropped_axis))
        except ValueError as error:
            rule = CHANNEL_RULE
            if self.channel_axis is None:
                leaves_one_out = isinstance(one, np.ndarray) and one.ndim == pixels.ndim - 1
                rule = NO_CHANNEL if leaves_one_out and pixels.ndim > 1 else ""
            which = f"result {name!r}: " if name else ""
            raise TileError(f"{which}{error}{rule}", tile, self.grid.core(tile)) from None
        return found


def label_axes(axes: Index, dropped: int | None) -> Index:
    """Turn axes of the image into those of its labels, from which fn dropped one, or none."""
    if dropped is None:
        return axes
    return tuple([axis - (axis > dropped) for axis in axes if axis != dropped])


@dataclass
class TileOutcome:
    """What became of one tile.

    Parameters
    ----------
    labels : dict of str to ndarray, or None
        Labels of its region, by the names of the results; ``None`` for an empty tile and for one
        that failed.
    maximum : float or None
        Of an empty tile.
    seconds : float
        Time in fn, in the call that worked.
    n_retried : int
        How often it was tried again.
    error : TileError or None
        The last fault.
    """

    labels: dict[str, np.ndarray] | None = None
    maximum: float | None = None
    seconds: float = 0.0
    n_retried: int = 0
    error: TileError | None = None


def try_tile(call: TileCall, tile: Index, read: Callable[[Box], np.ndarray]) -> TileOutcome:
    """Read and label one tile unless it is empty, and again if that fails, as often as `call` says.

    Parameters
    ----------
    call : TileCall
        How fn is applied.
    tile : tuple of int
        Index of the tile.
    read : callable
        Gives the pixels of a region.
    """
    outcome = TileOutcome()
    for outcome.n_retried in range(call.retries + 1):
        try:
            pixels = read_tile(read, call.grid, tile)
            outcome.maximum = call.maximum_if_empty(pixels)
            if outcome.maximum is None:
                start = time.perf_counter()
                outcome.labels = call.label(tile, pixels)
                outcome.seconds = time.perf_counter() - start
            outcome.error = None
            break
        except TileError as error:
            outcome.error = error
    return outcome
