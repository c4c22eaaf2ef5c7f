"""Shapes that are hard to put together again from tiles, and functions that find them without a fault."""

import itertools
import zlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

# A step below one voxel, so that a drawn line has no gap.
STEP = 0.5


@dataclass(frozen=True)
class Renamed:
    """A perfect function: the image is its labels, which get other names in every tile.

    Names are in no order, and up to `largest`; they depend on what is in the tile alone.
    """

    largest: int = 0

    def __call__(self, tile):
        n = int(tile.max(initial=0))
        random = np.random.default_rng(zlib.crc32(tile.tobytes()))
        gaps = random.integers(1, max(1, self.largest // max(1, n)) + 1, n)
        names = np.concatenate([[0], random.permutation(np.cumsum(gaps))])
        return names[tile]


def components(mask):
    """Objects of a mask, by faces, edges and corners."""
    return ndimage.label(mask, np.ones((3,) * mask.ndim))[0]


def tissue(shape, n_cells, seed=0):
    """Cells that fill space: every voxel belongs to the nearest of random points."""
    points = np.random.default_rng(seed).random((n_cells, len(shape))) * shape
    voxels = np.stack(np.indices(shape), axis=-1).reshape(-1, len(shape))
    return cKDTree(points).query(voxels)[1].reshape(shape) + 1


def draw(mask, points, thickness=1):
    """Set what a square brush passes on its way along the points, as far as it is in the mask."""
    last = np.array(mask.shape) - 1
    for offset in itertools.product(range(thickness), repeat=mask.ndim):
        mask[tuple(np.clip(np.rint(points).astype(int) + offset, 0, last).T)] = 1


def walk(start, direction, length, shape, random, wobble=0.05):
    """Points of a curved line, thrown back at the borders of the image."""
    turns = np.cumsum(random.normal(0, wobble, (int(length / STEP), len(shape))), axis=0)
    headings = direction + turns
    headings /= np.linalg.norm(headings, axis=1, keepdims=True)
    last = np.array(shape) - 1
    return last - np.abs((start + STEP * np.cumsum(headings, axis=0)) % (2 * last) - last)


def fibres(shape, length, thickness, n=1, seed=0):
    """Long curved fibres; those that cross are one object."""
    random = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for _ in range(n):
        start, direction = random.random(len(shape)) * shape, random.normal(size=len(shape))
        draw(mask, walk(start, direction / np.linalg.norm(direction), length, shape, random), thickness)
    return mask


def vessels(shape, n_levels, seed=0):
    """A tree: every branch ends in two thinner and shorter ones, the last of one voxel."""
    random = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    ends = [(np.array([0, *(n / 2 for n in shape[1:])]), np.eye(len(shape))[0])]
    for level in range(n_levels):
        grown = []
        for end, direction in ends:
            points = walk(end, direction, shape[0] / 3 * 0.75**level, shape, random)
            draw(mask, points, n_levels - level)
            headings = direction + random.normal(0, 0.7, (2, len(shape)))
            grown += [(points[-1], heading / np.linalg.norm(heading)) for heading in headings]
        ends = grown
    return mask


def rake(ndim, axis, seam, distance, n_teeth=12):
    """Teeth across a seam, held together by a spine `distance` voxels before it."""
    mask = np.zeros([2 * seam, 2 * n_teeth + 1, *[3] * (ndim - 2)], np.uint8)
    middle = (1,) * (ndim - 2)
    mask[(seam - distance, slice(1, -1), *middle)] = 1
    mask[(slice(seam - distance, -2), slice(1, -1, 2), *middle)] = 1
    return np.moveaxis(mask, range(ndim), np.roll(range(ndim), -axis))


def spiral(n_turns, pitch=3):
    """A line that winds around the middle of the image."""
    radius = n_turns * pitch
    angles = np.arange(0, 2 * np.pi * n_turns, STEP / radius / 2)
    points = radius + 1 + np.stack([np.sin(angles), np.cos(angles)], axis=1) * pitch * angles[:, None] / 2 / np.pi
    mask = np.zeros((2 * radius + 3, 2 * radius + 3), np.uint8)
    draw(mask, points)
    return mask
