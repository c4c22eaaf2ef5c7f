"""Generated tissue: cells that fill space, their image, and nuclei that lie well apart.

Everything follows from shape, diameter and seed, on every machine.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, spatial
from skimage.measure import label
from skimage.segmentation import find_boundaries

__all__ = ["dense_image", "sparse_image", "voronoi_labels", "warped_positions"]

JITTER = 0.3
WARP = 0.12
MEMBRANE_DEPTH = 0.6
NOISE = 0.06


def voronoi_labels(shape: tuple[int, ...], diameter: float, seed: int) -> np.ndarray:
    """Fill space with cells that touch each other everywhere; there is no background.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each axis; one axis or more.
    diameter : float
        Mean distance of neighbouring cells, in voxels.
    seed : int
        Of positions and outlines.

    Returns
    -------
    ndarray of int32, shape `shape`
        Labels 1..N; every label is connected through faces.
    """
    rng = np.random.default_rng(seed)
    sites = _jittered_sites(shape, diameter, rng)
    nearest = spatial.cKDTree(sites).query(warped_positions(shape, diameter, rng))[1]
    return label(nearest.reshape(shape) + 1, connectivity=1).astype(np.int32)


def _jittered_sites(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Put one point into each cell of a grid, one cell more than the image on every side."""
    axes = [np.arange(-1, n / spacing + 1) + 0.5 for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    return (grid + rng.uniform(-JITTER, JITTER, grid.shape)) * spacing


def warped_positions(shape: tuple[int, ...], diameter: float, rng: np.random.Generator) -> np.ndarray:
    """Move every voxel a little, neighbours alike, so that the walls of cells of that diameter are curved."""
    positions = np.stack(np.indices(shape), axis=-1).astype(np.float64)
    for axis in range(len(shape)):
        field = ndimage.gaussian_filter(rng.standard_normal(shape), diameter / 3)
        positions[..., axis] += field * (WARP * diameter / field.std())
    return positions.reshape(-1, len(shape))


def dense_image(shape: tuple[int, ...], diameter: float, seed: int) -> np.ndarray:
    """Draw the tissue of `voronoi_labels`: bright cells, thin dim membranes, noise.

    Returns
    -------
    ndarray of float32, shape `shape`
        About 1 in cells, 0.4 in membranes.
    """
    labels = voronoi_labels(shape, diameter, seed)
    rng = np.random.default_rng((seed, 1))
    depth = ndimage.distance_transform_edt(~find_boundaries(labels, mode="thick"))
    brightness = rng.uniform(0.9, 1.1, labels.max() + 1)[labels]
    cells = brightness * (1 - MEMBRANE_DEPTH * np.exp(-depth / (0.08 * diameter)))
    return (cells + NOISE * rng.standard_normal(shape)).astype(np.float32)


def sparse_image(shape: tuple[int, ...], diameter: float, seed: int) -> np.ndarray:
    """Draw round nuclei at least a diameter apart from each other, on a dark ground with noise.

    Returns
    -------
    ndarray of float32, shape `shape`
        About 1 in nuclei, 0.05 between them.
    """
    rng = np.random.default_rng(seed)
    spacing = 2.2 * diameter
    sites = _jittered_sites(shape, spacing, rng)
    radii = rng.uniform(0.35, 0.5, len(sites)) * diameter
    inside = np.zeros(shape, bool)
    for site, radius in zip(sites, radii, strict=True):
        box = _box(site, radius, shape)
        offsets = [np.arange(s.start, s.stop) - x for s, x in zip(box, site, strict=True)]
        inside[box] |= sum(np.ix_(*(o**2 for o in offsets))) <= radius**2
    blurred = ndimage.gaussian_filter(inside.astype(np.float32), 1)
    return (0.05 + blurred + NOISE * rng.standard_normal(shape)).astype(np.float32)


def _box(site: np.ndarray, radius: float, shape: tuple[int, ...]) -> tuple[slice, ...]:
    bounds = [(max(0, int(x - radius)), min(n, int(x + radius) + 2)) for x, n in zip(site, shape, strict=True)]
    return tuple(slice(start, max(start, stop)) for start, stop in bounds)
