"""Sums per label of a tile, as a task keeps them beside the labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.kernels.jit import in_native_order
from blockbuster.kernels.measuring import sum_shapes, sum_values
from blockbuster.kernels.stretches import StretchGroup
from blockbuster.measure.names import Measures
from blockbuster.rundir.sections import SectionWriter
from blockbuster.rundir.staged import BrickFile

PREFIX = "sums"


@dataclass(frozen=True)
class Parts:
    """Sums of some parts of objects: of one label of a tile each, or of objects as far as they are
    known.

    Parameters
    ----------
    shapes : (n, 1 + 3 * ndim) ndarray of int64
        Voxels; where the box around them starts and stops along each axis; sums of positions.
    seconds : (n, m) ndarray of int64 or float64
        Second moments of the pairs of axes: in a tile, of positions in the box; else about the
        centroid.
    values : (n, 3, n_channels) ndarray of int64 or float64
        Sums of values, the least and the greatest.
    deviations : (n, n_channels) ndarray of float64
        Sums of squared deviations from the mean.
    """

    shapes: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    deviations: np.ndarray

    @classmethod
    def zeros(cls, n: int, ndim: int, measures: Measures) -> Parts:
        """Make room for some parts, without voxels."""
        n_channels = len(measures.channels)
        shapes, seconds = np.zeros((n, 1 + 3 * ndim), np.int64), np.zeros((n, len(measures.pairs)))
        values = np.zeros((n, 3, n_channels), measures.sum_dtype)
        return cls(shapes, seconds, values, np.zeros((n, n_channels)))

    @classmethod
    def concatenated(cls, parts: Sequence[Parts]) -> Parts:
        """Put some after others."""
        return cls(*map(np.concatenate, zip(*(part.arrays for part in parts), strict=True)))

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All of it, as the kernels take it."""
        return self.shapes, self.seconds, self.values, self.deviations

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def counts(self) -> np.ndarray:
        """Voxels, (n,)."""
        return self.shapes[:, 0]

    @property
    def starts(self) -> np.ndarray:
        """Start of the box, (n, ndim)."""
        return self._by_axis(0)

    @property
    def stops(self) -> np.ndarray:
        """Stop of the box, (n, ndim)."""
        return self._by_axis(1)

    @property
    def firsts(self) -> np.ndarray:
        """Sums of positions, (n, ndim)."""
        return self._by_axis(2)

    def _by_axis(self, number: int) -> np.ndarray:
        ndim = self.shapes.shape[1] // 3
        return self.shapes[:, 1 + number * ndim : 1 + (number + 1) * ndim]

    def take(self, chosen: np.ndarray | slice) -> Parts:
        """Choose some parts, by their places or a mask."""
        return Parts(*(array[chosen] for array in self.arrays))

    def put(self, places: np.ndarray | slice, parts: Parts) -> None:
        """Write some parts to places."""
        for array, values in zip(self.arrays, parts.arrays, strict=True):
            array[places] = values

    def placed(self, origins: np.ndarray, pairs: np.ndarray) -> Parts:
        """Turn positions in tiles into positions in the image, and moments into those about the
        centroid; `origins` (n, ndim) is where the tiles begin.
        """
        counts = self.counts[:, None]
        # In the box all numbers are small, so that nothing is lost.
        means = self.firsts / counts
        moments = self.seconds - means[:, pairs[:, 0]] * self.firsts[:, pairs[:, 1]]
        starts = self.starts + origins
        shapes = np.hstack([counts, starts, self.stops + origins, self.firsts + counts * starts])
        return dataclasses.replace(self, shapes=shapes, seconds=moments)


@dataclass(frozen=True)
class Values:
    """Values of a box of voxels in one channel.

    Parameters
    ----------
    pixels : ndarray
        Contiguous, of real numbers; may have an axis of channels besides.
    origin : tuple of int
        The first voxel, in the label image.
    channel : (int, int) or None
        The axis of channels, and the place along it.
    """

    pixels: np.ndarray
    origin: tuple[int, ...]
    channel: tuple[int, int] | None = None

    def arguments(self, dtype: np.dtype) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Return what kernels take: values to add up in a dtype, offset, origin, strides."""
        pixels, offset = self.pixels, 0
        strides = [stride // pixels.itemsize for stride in pixels.strides]
        if self.channel is not None:
            axis, place = self.channel
            if axis == pixels.ndim - 1:
                pixels = pixels.take(place, axis)
                strides = [stride // pixels.itemsize for stride in pixels.strides]
            else:
                offset = place * strides.pop(axis)
        flat = _in_known_dtype(pixels, dtype).reshape(-1)
        return flat, offset, np.array(self.origin, np.int64), np.array(strides, np.int64)


def _in_known_dtype(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values in a dtype of which kernels make sums of another one."""
    kind, itemsize = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b":
        return pixels.view(np.uint8)
    if kind == "f" and itemsize not in (4, 8):
        return pixels.astype(np.float32 if itemsize == 2 else np.float64)
    if kind in "iu" and itemsize == 8:
        return pixels.astype(dtype)
    return in_native_order(pixels)


def sum_group(
    group: StretchGroup, shifts: np.ndarray, n_labels: int, channels: Sequence[Values], measures: Measures
) -> Parts:
    """Sum what is measured of labels 1..n of some tiles.

    Parameters
    ----------
    group : StretchGroup
        The tiles.
    shifts : (n_tiles,) ndarray of int64
        What is added to the ids of each tile to get labels.
    n_labels : int
        How many there are.
    channels : sequence of Values
        The values of the tiles' voxels in each channel that is measured.
    measures : Measures
        What is measured.

    Returns
    -------
    Parts
        Positions count from the tile's origin, their sums from the start of the box.
    """
    n, ndim = n_labels + 1, group.boxes.shape[1]
    n_sums = 1 + 3 * ndim
    tiles = (group.boxes, group.first_rows, group.rows, group.stretches)
    sums = np.zeros((n, n_sums + len(measures.pairs)), np.int64)
    sum_shapes(tiles, shifts, measures.pairs, sums)
    found = dataclasses.replace(Parts.zeros(n, ndim, measures), shapes=sums[:, :n_sums], seconds=sums[:, n_sums:])
    squared = np.zeros(n, measures.square_dtype)
    for c, channel in enumerate(channels):
        columns = found.values[:, :, c].T
        counts, pivots = np.zeros(n, np.int64), np.zeros(n, measures.sum_dtype)
        squared[:] = 0
        sum_values(
            tiles, shifts, *channel.arguments(measures.sum_dtype), squared[0], counts, *columns, pivots, squared
        )
        # Of values about a pivot, of which none is far from the mean.
        apart = columns[0] - counts * pivots
        found.deviations[:, c] = np.maximum(squared - apart / np.maximum(counts, 1) * apart, 0)
    return found.take(slice(1, None))


class SumsCollector:
    """Takes the sums of the tiles of a brick, in C order.

    Parameters
    ----------
    measures : Measures
        What is measured.
    channels : callable
        Gives the values of the brick's voxels in each channel.
    """

    def __init__(self, measures: Measures, channels: Callable[[], Sequence[Values]]) -> None:
        self._measures, self._channels = measures, channels
        self._parts: list[Parts] = []

    def draw(self, group: StretchGroup, firsts: np.ndarray, n_labels: int) -> None:
        """Sum what is measured of some tiles; `firsts` is added to the ids of each, `n_labels` is
        the last id.
        """
        shifts, n = firsts - firsts[0], n_labels - int(firsts[0])
        self._parts.append(sum_group(group, shifts, n, self._channels(), self._measures))

    def write(self, sections: SectionWriter) -> None:
        """Write the sums, one section for each column, of numbers that are alike."""
        if not self._parts:
            return
        for name, column in _columns(Parts.concatenated(self._parts), self._measures):
            sections.add(name, column, signed=True)


def read_sums(file: BrickFile, n_labels: int, ndim: int, measures: Measures) -> Parts:
    """Read the sums of a brick's labels 1..n, as `sum_group` gives them."""
    found = Parts.zeros(n_labels, ndim, measures)
    found = dataclasses.replace(found, seconds=np.zeros(found.seconds.shape, np.int64))
    for name, column in _columns(found, measures):
        column[:] = file.read(name)
    return found


def _columns(parts: Parts, measures: Measures) -> Iterator[tuple[str, np.ndarray]]:
    for field, array in zip(dataclasses.fields(parts), parts.arrays, strict=True):
        if field.name != "deviations" or measures.spreads:
            for k, column in enumerate(array.reshape(len(array), math.prod(array.shape[1:])).T):
                yield f"{PREFIX}-{field.name}-{k}", column
