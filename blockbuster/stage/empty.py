"""Which tiles are empty: the threshold from a bounded sample, and the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import TileGrid
from blockbuster.source import Source

__all__ = ["EmptyTiles", "find_empty_tiles", "otsu_threshold", "sample_pixels"]

SAMPLE_VOXELS = 2**24
SAMPLE_PIECES = 64
MOST_GRAY_LEVELS = 2**16


@dataclass(frozen=True)
class EmptyTiles:
    """Which tiles ``skip_empty`` would skip.

    Parameters
    ----------
    threshold : float
        A tile whose maximum, halo included, is not above it is empty.
    empty : ndarray of bool, shape of the tile grid
        Which tiles are empty.

    Examples
    --------
    >>> print(EmptyTiles(7.0, np.array([[True, True], [False, True]])))
    3 of 4 tiles are empty (maximum <= 7)
    ##
    .#
    """

    threshold: float
    empty: np.ndarray

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return int(self.empty.size)

    @property
    def n_empty(self) -> int:
        """Number of empty tiles."""
        return int(self.empty.sum())

    def __str__(self) -> str:
        summary = f"{self.n_empty} of {self.n_tiles} tiles are empty (maximum <= {self.threshold:g})"
        return f"{summary}\n{self.picture()}".rstrip()

    def picture(self) -> str:
        """Draw the grid, ``#`` for empty tiles; all axes but the last two seen from above."""
        plane = np.atleast_2d(self.empty)
        seen = np.asarray(plane.all(axis=tuple(range(plane.ndim - 2))))
        return "\n".join("".join("#" if empty else "." for empty in row) for row in seen)

    def plane(self) -> np.ndarray:
        """Give the fraction of empty tiles above each place of the last two axes, as an image."""
        plane = np.atleast_2d(self.empty)
        return np.asarray(plane.mean(axis=tuple(range(plane.ndim - 2))))


def sample_pixels(source: Source, most_voxels: int = SAMPLE_VOXELS) -> np.ndarray:
    """Read pieces spread evenly over an image.

    Parameters
    ----------
    source : Source
        The image.
    most_voxels : int
        At most about so many are read.

    Returns
    -------
    (n,) ndarray
        Finite pixels; the whole image where it is small. The same at every call.
    """
    n_voxels = int(np.prod(source.shape, dtype=np.int64))
    if n_voxels <= most_voxels:
        pixels = source.read(tuple(slice(0, n) for n in source.shape)).ravel()
    else:
        pieces = _pieces(source, most_voxels // SAMPLE_PIECES)
        pixels = np.concatenate([source.read(piece).ravel() for piece in pieces])
    return pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels


def _pieces(source: Source, voxels: int) -> Iterator[tuple[slice, ...]]:
    """Cut boxes of about so many voxels, the last axes long, at evenly spread positions."""
    box = [1] * len(source.shape)
    room = voxels
    side = int(np.sqrt(voxels))
    for axis in range(len(box) - 1, -1, -1):
        box[axis] = max(1, min(source.shape[axis], side, room))
        room //= box[axis]
    n_places = [-(-n // length) for n, length in zip(source.shape, box, strict=True)]
    total = int(np.prod(n_places, dtype=np.int64))
    # A step that is odd and near the golden section does not fall into the grid's rhythm.
    for k in range(min(total, SAMPLE_PIECES)):
        place = np.unravel_index(int((k + 0.5) * 0.6180339887 % 1 * total), n_places)
        starts = [int(i) * length for i, length in zip(place, box, strict=True)]
        yield tuple(
            slice(start, min(start + length, n))
            for start, length, n in zip(starts, box, source.shape, strict=True)
        )


def otsu_threshold(source: Source) -> float:
    """Otsu's threshold of a bounded sample of an image; the value itself where it is constant.

    References
    ----------
    N. Otsu (1979), A threshold selection method from gray-level histograms. IEEE Transactions on
    Systems, Man, and Cybernetics 9(1): 62-66.
    """
    from skimage.filters import threshold_otsu

    pixels = sample_pixels(source)
    if pixels.dtype.kind == "b":
        return 0.0
    if not pixels.size or pixels.min() == pixels.max():
        return float(pixels[0]) if pixels.size else 0.0
    if pixels.dtype.kind != "f" and int(pixels.max()) - int(pixels.min()) < MOST_GRAY_LEVELS:
        return float(threshold_otsu(pixels))
    # scikit-image gives integers a bin for every value between the extremes, and squares all values: a
    # single outlier would exhaust the memory, or overflow. Scaling by a power of two is exact.
    pixels = pixels.astype(np.float64)
    exponent = int(np.frexp(np.abs(pixels).max())[1])
    return float(np.ldexp(threshold_otsu(np.ldexp(pixels, -exponent)), exponent))


def find_empty_tiles(source: Source, grid: TileGrid, threshold: float) -> EmptyTiles:
    """Read every tile and say which are empty."""
    empty = np.zeros(grid.grid_shape, bool)
    for tile in grid.indices():
        empty[tile] = bool(np.max(source.read(grid.region(tile))).item() <= threshold)
    return EmptyTiles(threshold, empty)
