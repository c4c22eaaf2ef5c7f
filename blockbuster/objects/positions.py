"""Where the corners of voxels are, in pixels or in the units of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from blockbuster.source.geometry import Geometry

# Parts of a voxel that are written.
DECIMALS = 6
CHOICES = ("pixels", "units")


@dataclass(frozen=True)
class Line:
    """Positions along an axis: that of the corner with number i is ``scale * i + offset``.

    Parameters
    ----------
    scale : float
        Length of a voxel.
    offset : float
        Where the first voxel begins.
    """

    scale: float = 1.0
    offset: float = 0.0

    def positions(self, first: int, last: int) -> np.ndarray:
        """Return the positions of the corners from `first` to `last`, whole ones as integers.

        Examples
        --------
        >>> Line(0.5, -0.25).positions(0, 3).tolist()
        [-0.25, 0.25, 0.75, 1.25]
        """
        corners = np.arange(first, last + 1)
        if self == Line():
            return corners
        digits = DECIMALS + max(0, math.ceil(-math.log10(abs(self.scale))))
        # Not -0.0, which is written with its sign.
        return np.round(corners * self.scale + self.offset, digits) + 0.0


@dataclass(frozen=True)
class Positions:
    """Positions along both axes.

    Parameters
    ----------
    x, y : Line
        Along the last axis, and the one before.
    unit : str
        What they are in, e.g. ``"micrometer"`` or ``"pixel"``; empty where it is not known.
    """

    x: Line = Line()
    y: Line = Line()
    unit: str = "pixel"


def choose_positions(coordinates: str, geometry: Geometry | None, level: int, name: str) -> Positions:
    """Find where the corners of the voxels of a level are.

    Parameters
    ----------
    coordinates : {"pixels", "units"}
        In pixels of the finest level, or in the units of the metadata.
    geometry : Geometry or None
        Of the image; ``None``: it has no metadata.
    level : int
        The level whose voxels are meant.
    name : str
        What messages call the labels.

    Raises
    ------
    ValueError
        If units are wanted and no scale is known.

    Notes
    -----
    The metadata say where centres are: that of the first voxel is at the translation. A voxel
    reaches from half of its length before to half of it after that. In pixels the first voxel
    of the finest level begins at 0.
    """
    found = geometry.levels[level] if geometry is not None else None
    if geometry is None or found is None:
        if coordinates == "units":
            raise ValueError(
                f'coordinates is "units", but no scale of {name} is known; give the path of an OME-Zarr label '
                'image, or coordinates="pixels".'
            )
        return Positions()
    if coordinates == "units":
        if found.scale is None or not all(found.scale[-2:]):
            raise ValueError(
                f'coordinates is "units", but the metadata of {name} give no scale; add one, or pass '
                'coordinates="pixels".'
            )
        x, y = (_corners(geometry, level, axis) for axis in (-1, -2))
        return Positions(x, y, str(geometry.axes[-1].get("unit", "")))
    if level == 0:
        return Positions()
    x, y = (_in_pixels(geometry, level, axis) for axis in (-1, -2))
    return Positions(x, y)


def _corners(geometry: Geometry, level: int, axis: int) -> Line:
    """Return where corners of voxels are in units."""
    steps, shifts = geometry.placement(level)
    return Line(steps[axis], shifts[axis] - steps[axis] / 2)


def _in_pixels(geometry: Geometry, level: int, axis: int) -> Line:
    """Return where corners of voxels are in pixels of the finest level."""
    finest, own = geometry.levels[0], geometry.levels[level]
    if finest.scale is None or own.scale is None or not finest.scale[axis]:
        return Line(finest.shape[axis] / own.shape[axis])
    fine, coarse = _corners(geometry, 0, axis), _corners(geometry, level, axis)
    return Line(coarse.scale / fine.scale, (coarse.offset - fine.offset) / fine.scale)
