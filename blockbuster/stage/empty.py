"""Which tiles are empty: the threshold from a bounded sample, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockbuster.source import Source
from blockbuster.stage.sample import sample_pixels

__all__ = ["EmptyTiles", "otsu_threshold"]

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
    maxima : ndarray, shape of the tile grid, optional
        The greatest value of each tile, halo included, as the image has it.

    Examples
    --------
    >>> print(EmptyTiles(7.0, np.array([[True, True], [False, True]])))
    3 of 4 tiles are empty (maximum <= 7)
    ##
    .#
    """

    threshold: float
    empty: np.ndarray
    maxima: np.ndarray | None = None

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
