"""Functions whose tiles disagree, and the steady ones that the images of the laboratory need."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.morphology import h_maxima
from skimage.segmentation import clear_border, watershed

__all__ = ["Components", "DepthWatershed", "Noisy", "RandomMarkers", "whole_components"]


@dataclass(frozen=True)
class Components:
    """What lies above a threshold and is connected through faces: each voxel depends on its neighbours alone."""

    threshold: float = 0.5

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        return ndimage.label(tile > self.threshold)[0]


def whole_components(tile: np.ndarray) -> np.ndarray:
    """Segment one tile and drop what touches its border, as is done where only whole objects are measured."""
    return clear_border(Components()(tile))


@dataclass(frozen=True)
class DepthWatershed:
    """Round objects of any size: flood the distance to the outline from its summits.

    Parameters
    ----------
    height : float
        How far a summit rises above the way to a higher one, in voxels.
    """

    height: float = 1

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        inside = ndimage.gaussian_filter(tile, 1) > 0.5
        depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1)
        markers, _ = ndimage.label(h_maxima(depth, self.height))
        return watershed(-depth, markers, mask=inside)


@dataclass(frozen=True)
class Noisy:
    """A function that gets other noise in each tile.

    Parameters
    ----------
    fn : callable
        What segments the result.
    noise : float
        Standard deviation.
    """

    fn: Callable[[np.ndarray], np.ndarray]
    noise: float

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        return self.fn(tile + self.noise * _generator_of(tile).standard_normal(tile.shape))


@dataclass(frozen=True)
class RandomMarkers:
    """A watershed of dense cells that begins elsewhere in each tile.

    Parameters
    ----------
    diameter : float
        Of a cell, in voxels: markers lie up to an eighth of it from a peak, along each axis.
    lost : float
        Share of the peaks that get no marker.
    """

    diameter: float
    lost: float = 0.1

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Segment one tile."""
        rng = _generator_of(tile)
        smooth = ndimage.gaussian_filter(tile.astype(np.float64), self.diameter / 8)
        peaks = peak_local_max(smooth, min_distance=round(self.diameter / 4), exclude_border=False)
        peaks = peaks[rng.random(len(peaks)) >= self.lost]
        reach = round(self.diameter / 8)
        moved = np.clip(peaks + rng.integers(-reach, reach + 1, peaks.shape), 0, np.subtract(tile.shape, 1))
        markers = np.zeros(tile.shape, np.int32)
        markers[tuple(moved.T)] = np.arange(1, len(moved) + 1)
        return watershed(-smooth, markers)


def _generator_of(tile: np.ndarray) -> np.random.Generator:
    """Return a generator that is the same for the same voxels."""
    return np.random.default_rng(zlib.crc32(np.ascontiguousarray(tile).tobytes()))
