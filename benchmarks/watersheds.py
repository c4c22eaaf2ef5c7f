"""Functions that segment a tile, as a user would write them: watersheds, deterministic or not."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

__all__ = ["DenseWatershed", "NucleusWatershed", "Unstable"]


@dataclass(frozen=True)
class DenseWatershed:
    """Cells without gaps: flood the smoothed intensity from its peaks.

    Parameters
    ----------
    diameter : float
        Of a cell, in voxels: peaks closer than a quarter of it are one cell's.
    """

    diameter: float

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        smooth = ndimage.gaussian_filter(tile.astype(np.float64), self.diameter / 8)
        return _flood(smooth, self.diameter / 4, None)


@dataclass(frozen=True)
class NucleusWatershed:
    """Nuclei on a background: threshold, distance to the outline, smoothed, flooded from its peaks.

    Parameters
    ----------
    diameter : float
        Of a nucleus, in voxels.
    threshold : float
        Intensity above which a voxel is nucleus: one for all tiles.
    """

    diameter: float
    threshold: float

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        inside = ndimage.gaussian_filter(tile.astype(np.float64), 1) > self.threshold
        depth = ndimage.distance_transform_edt(inside)
        return _flood(ndimage.gaussian_filter(depth, self.diameter / 8), self.diameter / 3, inside)


def _flood(height: np.ndarray, distance: float, inside: np.ndarray | None) -> np.ndarray:
    shown = height if inside is None else np.where(inside, height, 0)
    peaks = peak_local_max(shown, min_distance=max(1, round(distance)), exclude_border=False)
    markers = np.zeros(height.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-height, markers, mask=inside)


@dataclass(frozen=True)
class Unstable:
    """A function that sees the same pixels differently in another tile.

    Each tile is stretched to its own range, as many scripts do, and gets noise that depends on its pixels.

    Parameters
    ----------
    fn : callable
        What segments the result.
    noise : float
        Standard deviation, as a share of the tile's range.
    """

    fn: DenseWatershed | NucleusWatershed
    noise: float

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        low, high = np.percentile(tile, (1, 99.8))
        stretched = (tile - low) / max(high - low, 1e-6)
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(tile).tobytes()))
        return self.fn(stretched + self.noise * rng.standard_normal(tile.shape))
