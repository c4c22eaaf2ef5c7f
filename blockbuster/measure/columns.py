"""Columns of the table of objects, by the names and definitions of scikit-image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blockbuster.measure.names import Measures
from blockbuster.measure.sums import Parts
from blockbuster.source.geometry import MICROMETRES, Geometry

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scale:
    """From voxels to micrometres.

    Parameters
    ----------
    steps, shifts : tuple of float or None
        Per axis the length of a voxel and where the centre of the first one is, in micrometres;
        ``None`` along axes that are not of space, or of which no unit is known.
    """

    steps: tuple[float | None, ...]
    shifts: tuple[float | None, ...]


def scale_of(geometry: Geometry | None, ndim: int) -> Scale | None:
    """Return the scale of labels with `ndim` axes; None where no axis has one in a unit of length.

    Examples
    --------
    >>> from blockbuster.source.geometry import LevelGeometry
    >>> level = LevelGeometry((9,), ({"type": "scale", "scale": [500.0]},))
    >>> axes = ({"name": "x", "type": "space", "unit": "nanometer"},)
    >>> scale_of(Geometry("0.4", axes, (level,)), 1)
    Scale(steps=(0.5,), shifts=(0.0,))
    """
    found = None if geometry is None else geometry.for_labels(ndim)
    if found is None or len(found.axes) != ndim:
        return None
    if not any("scale" in part for part in (*found.levels[0].transformations, *found.transformations)):
        return None
    units = [
        MICROMETRES.get(str(axis.get("unit"))) if axis.get("type") == "space" else None for axis in found.axes
    ]
    if not any(units):
        return None
    in_units = (zip(values, units, strict=True) for values in found.placement())
    return Scale(*(tuple([value * unit if unit else None for value, unit in pairs]) for pairs in in_units))


@dataclass(frozen=True)
class ObjectColumns:
    """Derives the columns of a table from the sums of objects.

    Parameters
    ----------
    measures : Measures
        What is measured.
    shape : tuple of int
        Of the label image.
    dtype : dtype
        Of its labels.
    scale : Scale or None
        What a voxel is in micrometres.
    has_agreement : bool
        Whether it is known how far tiles agree.
    is_of_run : bool
        Whether it is known which tiles objects lie in.
    """

    measures: Measures
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: Scale | None = None
    has_agreement: bool = False
    is_of_run: bool = True

    @cached_property
    def dtypes(self) -> dict[str, np.dtype]:
        """The columns, in their order, and their dtypes."""
        nothing = np.zeros(0, np.int64)
        found = self.of(nothing, nothing, np.zeros(0, np.float32), Parts.zeros(0, len(self.shape), self.measures))
        return {name: column.dtype for name, column in found.items()}

    def of(self, labels: np.ndarray, n_tiles: np.ndarray, agreement: np.ndarray, objects: Parts) -> Columns:
        """Derive the columns of some objects.

        Parameters
        ----------
        labels : (n,) ndarray of int
            Their labels.
        n_tiles : (n,) ndarray of int
            How many tiles they have voxels in.
        agreement : (n,) ndarray of float32
            How far tiles agree at their weakest seam; NaN where none was joined.
        objects : Parts
            Their sums.
        """
        axes = list(self.measures.axes)
        found: Columns = {"label": labels.astype(self.dtype), "area": objects.counts}
        for axis in range(len(self.shape)):
            found[f"bbox-{axis}"] = objects.starts[:, axis]
        for axis in range(len(self.shape)):
            found[f"bbox-{axis + len(self.shape)}"] = objects.stops[:, axis]
        for axis in range(len(self.shape)):
            found[f"centroid-{axis}"] = objects.firsts[:, axis] / objects.counts
        found["equivalent_diameter_area"] = (2 * len(axes) * objects.counts / math.pi) ** (1 / max(1, len(axes)))
        if len(axes) in (2, 3):
            found |= self._moments(objects)
        if "extent" in self.measures.names:
            sides = objects.stops[:, axes] - objects.starts[:, axes]
            found["extent"] = objects.counts / sides.prod(axis=1)
        at_border = (objects.starts[:, axes] == 0) | (objects.stops[:, axes] == np.array(self.shape)[axes])
        found["touches_border"] = at_border.any(axis=1)
        if self.is_of_run:
            found["n_tiles"] = n_tiles.astype(np.int32)
        if self.has_agreement:
            found["agreement_min"] = agreement
        found |= self._in_micrometres(objects)
        found |= dict(self._values(objects))
        return found

    def _moments(self, objects: Parts) -> Columns:
        """Derive what scikit-image takes from the inertia tensor."""
        axes = list(self.measures.axes)
        n, ndim = len(objects), len(axes)
        moments = np.zeros((n, ndim, ndim))
        for (one, other), column in zip(self.measures.pairs.tolist(), objects.seconds.T, strict=True):
            i, j = axes.index(one), axes.index(other)
            moments[:, i, j] = moments[:, j, i] = column / objects.counts
        squares = np.einsum("nii->ni", moments)
        tensor = -moments
        np.einsum("nii->ni", tensor)[...] = squares.sum(axis=1, keepdims=True) - squares
        values = np.clip(_eigenvalues(tensor), 0, None)
        if ndim == 2:
            found = {
                "axis_major_length": 4 * np.sqrt(values[:, 0]),
                "axis_minor_length": 4 * np.sqrt(values[:, 1]),
            }
        else:
            signs = {"axis_major_length": (1, 1, -1), "axis_minor_length": (-1, 1, 1)}
            squared = {name: 10 * (values * sign).sum(axis=1) for name, sign in signs.items()}
            found = {name: np.sqrt(np.maximum(0, square)) for name, square in squared.items()}
        for i in range(ndim):
            for j in range(ndim):
                found[f"inertia_tensor-{i}-{j}"] = tensor[:, i, j]
        if "eccentricity" in self.measures.names:
            ratio = np.divide(values[:, 1], values[:, 0], where=values[:, 0] > 0, out=np.ones(n))
            found["eccentricity"] = np.sqrt(1 - ratio)
        if "orientation" in self.measures.names:
            a, b, c = tensor[:, 0, 0], tensor[:, 0, 1], tensor[:, 1, 1]
            level = np.where(b < 0, math.pi / 4, -math.pi / 4)
            found["orientation"] = np.where(a == c, level, 0.5 * np.arctan2(-2 * b, c - a))
        return found

    def _in_micrometres(self, objects: Parts) -> Columns:
        """Derive places and sizes in the image's units."""
        if self.scale is None:
            return {}
        found: Columns = {}
        for axis, (step, shift) in enumerate(zip(self.scale.steps, self.scale.shifts, strict=True)):
            if step is not None and shift is not None:
                found[f"centroid_um-{axis}"] = objects.firsts[:, axis] / objects.counts * step + shift
        sides = [self.scale.steps[axis] for axis in self.measures.axes]
        name = {2: "area_um2", 3: "volume_um3"}.get(len(sides))
        if name and None not in sides:
            found[name] = objects.counts * math.prod(abs(side) for side in sides if side is not None)
        return found

    def _values(self, objects: Parts) -> Iterator[tuple[str, np.ndarray]]:
        """Derive what is measured of values."""
        for name, number in self.measures.values:
            channel = self.measures.channels[number].name
            kind, (total, low, high) = name.partition("_")[2], objects.values[:, :, number].T
            if kind == "mean":
                column = total / objects.counts
            elif kind == "std":
                column = np.sqrt(objects.deviations[:, number] / objects.counts)
            else:
                column = {"sum": total, "min": low, "max": high}[kind]
            yield f"{name}-{channel}" if channel else name, column


def _eigenvalues(tensors: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of symmetric matrices, the largest first."""
    if tensors.shape[1] == 3:
        return np.linalg.eigvalsh(tensors)[:, ::-1]
    mean = (tensors[:, 0, 0] + tensors[:, 1, 1]) / 2
    half = np.hypot((tensors[:, 0, 0] - tensors[:, 1, 1]) / 2, tensors[:, 0, 1])
    # The smaller one by the determinant, without a difference of what is nearly equal.
    larger = mean + half
    determinant = tensors[:, 0, 0] * tensors[:, 1, 1] - tensors[:, 0, 1] ** 2
    smaller = np.divide(determinant, larger, where=larger > 0, out=np.zeros(len(larger)))
    return np.stack([larger, smaller], axis=1)
