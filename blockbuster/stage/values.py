"""The values of voxels that are measured: those that fn saw, and channels that it did not see."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from blockbuster.errors import TileError
from blockbuster.grid import Box, Index, TileGrid, relative_box
from blockbuster.kernels.stretches import StretchGroup, TileStretches
from blockbuster.measure.folding import LabelledParts
from blockbuster.measure.names import Measures
from blockbuster.measure.sums import Values, sum_group
from blockbuster.merge.completion import open_completed
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels
from blockbuster.stage.saved import RegionReader, unreadable


@dataclass(frozen=True)
class Seen:
    """Where values are read from.

    Parameters
    ----------
    measures : Measures
        What is measured of the labels.
    reader : RegionReader or None
        Reads what fn sees; ``None`` where no values are measured.
    channel_axis : int or None
        The axis of channels in that.
    is_dropped : bool
        Whether labels lack it.
    """

    measures: Measures
    reader: RegionReader | None
    channel_axis: int | None = None
    is_dropped: bool = False

    def read(self, number: int, box: Box) -> np.ndarray:
        """Read a box of what fn sees where a channel is of it, or of that channel alone."""
        reader = self.measures.channels[number].source or self.reader
        assert reader is not None
        return reader.read(box)

    def values(self, number: int, pixels: np.ndarray, box: Box) -> Values:
        """Return the values of a channel, in pixels that were read of a box."""
        channel = self.measures.channels[number]
        origin = [part.start for part in box]
        if self.is_dropped and self.channel_axis is not None:
            del origin[self.channel_axis]
        place = None
        if channel.index is not None and self.channel_axis is not None:
            place = self.channel_axis, channel.index
        return Values(pixels, tuple(origin), place)


@dataclass
class BrickValues:
    """The values of a brick, each channel decoded once.

    Parameters
    ----------
    seen : Seen
        Where they are read from.
    grid : TileGrid
        Tiles of the image.
    core, region : tuple of slice
        The brick without halo and with it, in voxels of the image.
    pixels : ndarray or None
        The brick's region as fn sees it; ``None`` where it could not be read as a whole.
    retries : int
        How often reading a tile is tried again.
    is_whole : bool
        Whether all tiles of the brick are wanted; else channels are read tile by tile.
    """

    seen: Seen
    grid: TileGrid
    core: Box
    region: Box
    pixels: np.ndarray | None
    retries: int
    is_whole: bool = True
    # By the number of a channel: what cannot be read as a whole, and is read tile by tile.
    _in_pieces: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def channels(self) -> list[Values]:
        """The values of each channel."""
        found, core, pixels = [], self.core, self.pixels
        box = core if pixels is None else self.region
        for number, channel in enumerate(self.seen.measures.channels):
            if channel.source is not None:
                found.append(self.seen.values(number, self._read(number, core), core))
            else:
                pixels = self._read(number, core) if pixels is None else pixels
                found.append(self.seen.values(number, pixels, box))
        return found

    def _read(self, number: int, core: Box) -> np.ndarray:
        if self.is_whole:
            with contextlib.suppress(Exception):
                return self.seen.read(number, core)
        shape = [part.stop - part.start for part in core]
        return self._in_pieces.setdefault(number, np.zeros(shape, self.seen.measures.dtype))

    def complete(self, tile: Index) -> None:
        """Read what was not read as a whole of a tile.

        Raises
        ------
        TileError
            If it cannot be read.
        """
        if not self.channels or not self._in_pieces:
            return
        core, n_left = self.grid.core(tile), self.retries
        while True:
            try:
                for number, pixels in self._in_pieces.items():
                    pixels[relative_box(core, self.core)] = self.seen.read(number, core)
                return
            except TileError:
                raise
            except Exception as error:
                if not n_left:
                    raise unreadable(error, self.grid, tile) from None
                n_left -= 1


@dataclass(frozen=True)
class CompletedJob:
    """What the tasks share that sum what completes objects.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    arrays : ArrayFolder
        Holds what completes objects.
    seen : Seen
        Where values are read from.
    n_channels : int
        How long the axis of channels is that labels lack.
    """

    staged: StagedLabels
    arrays: ArrayFolder
    seen: Seen
    n_channels: int = 1

    def values(self, box: Box) -> list[Values]:
        """Read the values of a box of labels in each channel."""
        seen, axis = self.seen, self.seen.channel_axis
        if seen.is_dropped and axis is not None:
            box = (*box[:axis], slice(0, self.n_channels), *box[axis:])
        shared: dict[int, np.ndarray] = {}
        found = []
        for number, channel in enumerate(seen.measures.channels):
            # All that fn sees is read once.
            key = -1 if channel.source is None else number
            if key not in shared:
                shared[key] = seen.read(number, box)
            found.append(seen.values(number, shared[key], box))
        return found


def sum_completed(job: CompletedJob, number: int) -> LabelledParts:
    """Sum what completes objects in a brick; of the image the boxes around it are read again."""
    grid, measures = job.staged.bricks.grid, job.seen.measures
    file = open_completed(job.arrays, number)
    core = job.staged.bricks.core(job.staged.bricks.index(number))
    ((numbers, group),) = file.read_groups(grid.cores, core)
    ids = file.read("ids")
    found = []
    ends = zip(numbers.tolist(), group.tiles(), np.split(ids, file.read("firsts")[1:]), strict=True)
    for tile, whole, own in ends:
        around = _around(whole)
        box = np.array([[(part.start, part.stop) for part in around.box]], np.int64)
        one = StretchGroup.of([around], box)
        parts = sum_group(one, np.zeros(1, np.int64), len(own), job.values(around.box), measures)
        found.append(LabelledParts(own, np.full(len(own), tile), parts.placed(box[:, :, 0], measures.pairs)))
    return LabelledParts.concatenated(found)


def _around(tile: TileStretches) -> TileStretches:
    """Cut a tile down to the box around its stretches, of which there is one at least."""
    places = np.unravel_index(np.flatnonzero(np.diff(tile.rows)), tile.shape[:-1])
    ends = [(int(at.min()), int(at.max()) + 1) for at in places]
    ends.append((int(tile.stretches[:, 0].min()), int(tile.stretches[:, 1].max())))
    return tile.clipped(
        tuple([slice(part.start + a, part.start + b) for part, (a, b) in zip(tile.box, ends, strict=True)])
    )
