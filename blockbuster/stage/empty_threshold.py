"""Which tiles are empty: a threshold from a bounded sample, and a warning about skipped tiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from blockbuster.grid import Box, TileGrid
from blockbuster.source import Source
from blockbuster.stage.sample import choose_pieces, finite_pixels, read_boxes_by_tiles, sample_pixels

MAX_GRAY_LEVELS = 2**16
FLOAT_BINS = 256
BLOCK_VALUES = 2**18
# Background reaches so many spreads above its level: in a tile of 10^8 voxels of noise, one in ten
# times higher.
REACH_SPREADS = 6.0
# A skipped tile that is higher than this, and than so many times the usual height, is reported.
HIGH_SPREADS = 4.0
USUAL_HEIGHTS = 2.0
# Values farther than this from the level are left out, until all that are left are nearer.
CLIP_SPREADS = 2.5
MAX_CLIPS = 20
# The spread of normal noise for its median absolute deviation.
SPREAD_PER_DEVIATION = 1.4826
MAX_VALUES_FOR_SPREAD = 2**20


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
    outside : ndarray of bool, shape of the tile grid, optional
        Which of the empty ones are outside of the mask; of them nothing was read, and their maximum
        is 0.

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
    outside: np.ndarray | None = None

    @property
    def n_outside(self) -> int:
        """Number of tiles outside of the mask."""
        return 0 if self.outside is None else int(self.outside.sum())

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
        if self.outside is not None:
            summary += f", {self.n_outside} of them outside of the mask"
        return f"{summary}\n{self.picture()}".rstrip()

    def picture(self) -> str:
        """Draw the grid, ``#`` for empty tiles; all axes but the last two seen from above."""
        plane = np.atleast_2d(self.empty)
        seen = np.asarray(plane.all(axis=tuple(range(plane.ndim - 2))))
        return "\n".join("".join("#" if empty else "." for empty in row) for row in seen)

    def plane(self) -> np.ndarray:
        """Return the fraction of empty tiles above each place of the last two axes, as an image."""
        plane = np.atleast_2d(self.empty)
        return np.asarray(plane.mean(axis=tuple(range(plane.ndim - 2))))


class Background(NamedTuple):
    """Level and spread of most voxels without objects.

    Parameters
    ----------
    level : float
        Their median.
    spread : float
        Their standard deviation, were they normal noise; from their median absolute deviation.
    """

    level: float
    spread: float


def otsu_threshold(source: Source) -> float:
    """Return Otsu's threshold of a bounded sample of an image, or its only value.

    Returns
    -------
    float
        Of an image of integers an int: not every one of 64 bits is a float.

    References
    ----------
    N. Otsu (1979), A threshold selection method from gray-level histograms. IEEE Transactions on
    Systems, Man, and Cybernetics 9(1): 62-66.
    """
    return otsu_of_pixels(sample_pixels(source))


def otsu_of_pixels(pixels: np.ndarray) -> float:
    """Return Otsu's threshold of finite pixels of any real dtype."""
    if not pixels.size or pixels.dtype.kind == "b":
        return 0
    least, most = pixels.min(), pixels.max()
    bottom: float = least.item()
    if most == least:
        return bottom
    if pixels.dtype.kind == "f":
        return _otsu_of_floats(pixels, np.asarray, float(least), float(most))
    # Counted from the least one: scikit-image counts every value from 0 on, and floats would take
    # integers of 64 bits that are near each other for the same.
    offsets = functools.partial(_offsets, least=least)
    largest = int(offsets(most[None])[0])
    if largest >= MAX_GRAY_LEVELS:
        return bottom + int(_otsu_of_floats(pixels, offsets, 0.0, float(largest)))
    counts = np.zeros(largest + 1, np.intp)
    for some in _in_blocks(pixels):
        counts += np.bincount(offsets(some).astype(np.intp), minlength=counts.size)
    return bottom + int(_otsu_of_counts(counts, np.arange(counts.size)))


def _otsu_of_floats(
    pixels: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], least: float, most: float
) -> float:
    # scikit-image squares all values, which may overflow. Scaling by a power of two is exact.
    exponent = int(np.frexp(max(abs(least), abs(most)))[1])
    ends = (float(np.ldexp(least, -exponent)), float(np.ldexp(most, -exponent)))
    edges = np.linspace(*ends, FLOAT_BINS + 1)
    counts = np.zeros(FLOAT_BINS, np.intp)
    for some in _in_blocks(pixels):
        counts += np.histogram(np.ldexp(convert(some).astype(np.float64), -exponent), FLOAT_BINS, ends)[0]
    return float(np.ldexp(_otsu_of_counts(counts, (edges[1:] + edges[:-1]) / 2), exponent))


def _otsu_of_counts(counts: np.ndarray, values: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(hist=(counts, values)))


def _in_blocks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Cut pixels into views small enough that copies of them cost little memory."""
    return (pixels[start : start + BLOCK_VALUES] for start in range(0, pixels.size, BLOCK_VALUES))


def _offsets(pixels: np.ndarray, least: np.integer) -> np.ndarray:
    """Subtract the least of integers exactly: unsigned ones of that size hold every difference."""
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    return np.asarray(pixels.view(unsigned) - least.view(unsigned))


def choose_empty_threshold(
    source: Source,
    grid: TileGrid | None = None,
    *,
    boxes: Sequence[Box] | None = None,
    skip_errors: bool = False,
) -> tuple[float, Background]:
    """Choose up to which maximum a tile is empty: Otsu's threshold, or less above low background.

    Parameters
    ----------
    source : Source
        The image.
    grid : TileGrid, optional
        Its tiles, to name one where pixels cannot be read.
    boxes : sequence of tuple of slice, optional
        What is read; ``None``: pieces spread evenly over the image.
    skip_errors : bool
        Leave out such tiles.

    Returns
    -------
    threshold : float
        Never above Otsu's. Of an image of integers an int.
    background : Background
        What it was lowered by.

    Notes
    -----
    A few specks that are much brighter than the objects draw Otsu's threshold above them.
    Background is what is left of the lower class after everything that lies far from its median, in
    median absolute deviations, was left out again and again; outliers do not move it.

    Where most voxels lie above Otsu's threshold, background may be what is bright, and a tile of
    the lower class an object. Then no tile is empty in which anything exceeds the least value of
    the sample.
    """
    boxes = choose_pieces(source) if boxes is None else boxes
    try:
        pieces = source.read_together(boxes)
    except Exception:
        if grid is None:
            raise
        pieces = read_boxes_by_tiles(source, grid, boxes, skip_errors=skip_errors)
    return threshold_of_pixels(finite_pixels(pieces))


def threshold_of_pixels(pixels: np.ndarray) -> tuple[float, Background]:
    """Choose what `choose_empty_threshold` chooses, for a sample: finite pixels."""
    otsu = otsu_of_pixels(pixels)
    if not pixels.size or pixels.dtype.kind == "b":
        return otsu, Background(otsu, 0.0)
    least = pixels.min()
    some = pixels[:: 1 + pixels.size // MAX_VALUES_FOR_SPREAD]
    if pixels.dtype.kind == "f":
        level, spread = _find_background(some.astype(np.float64), float(least), otsu)
        return min(otsu, level + REACH_SPREADS * spread), Background(level, spread)
    base = least.item()
    level, spread = _find_background(_offsets(some, least).astype(np.float64), 0.0, otsu - base)
    return min(otsu, base + int(level + REACH_SPREADS * spread)), Background(base + int(level), spread)


def _find_background(values: np.ndarray, least: float, otsu: float) -> Background:
    lower = np.sort(values[values <= otsu])
    if 2 * lower.size < values.size:
        return Background(least, 0.0)
    with np.errstate(over="ignore"):
        for _ in range(MAX_CLIPS):
            level = _middle(lower)
            spread = SPREAD_PER_DEVIATION * _middle(np.sort(np.abs(lower - level)))
            near = lower[np.abs(lower - level) <= CLIP_SPREADS * spread]
            if near.size == lower.size:
                break
            lower = near
    return Background(level, spread)


def _middle(values: np.ndarray) -> float:
    """Return the lower median of sorted values: one of them, so that it is exact."""
    return float(values[(values.size - 1) // 2])


def describe_high_skipped(maxima: Iterable[float], background: Background) -> str:
    """Describe how many skipped tiles reach much farther above the background; empty if none does.

    Parameters
    ----------
    maxima : iterable of float
        The maximum of each skipped tile.
    background : Background
        What the threshold was chosen by.

    Notes
    -----
    In tiles of noise maxima are nearly the same, four to six spreads above the background. Where
    the background is uneven its spread is larger, and maxima lie nearer. A tile that reaches more
    than four spreads, and twice as far as half of those that exceed the background at all, holds
    something else.

    Examples
    --------
    >>> describe_high_skipped([130, 131, 133, 135, 210], Background(100, 20))
    'the maxima of 1 of them are up to 210, 5.5 spreads above the background (100 +- 20), which half
    of them exceed by 1.6 at most'
    """
    level, spread = background
    # Subtracted first: integers of 64 bits may be near each other.
    heights = np.sort(np.fromiter((maximum - level for maximum in maxima if maximum > level), np.float64))
    if not heights.size or not spread:
        return ""
    usual = _middle(heights)
    n_high = np.count_nonzero(heights > max(USUAL_HEIGHTS * usual, HIGH_SPREADS * spread))
    if not n_high:
        return ""
    highest = float(heights[-1])
    return (
        f"the maxima of {n_high} of them are up to {level + highest:g}, {highest / spread:.1f} spreads above the "
        f"background ({level:g} +- {spread:.3g}), which half of them exceed by {usual / spread:.1f} at most"
    )
