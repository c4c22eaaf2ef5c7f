"""Axes, units, scales and translations of the levels of an OME-NGFF image."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import zarr

from blockbuster.source.location import UNREADABLE, locate, name_of_group, open_node
from blockbuster.source.ome_zarr import axis_letters, ome_attributes, read_ome_image
from blockbuster.source.zarr_source import check_form

Transformations = tuple[dict[str, Any], ...]
# What has one number per axis.
BY_AXIS = ("scale", "translation")
MAX_NAME_LETTERS = 40
# How many micrometres a unit of OME-NGFF is.
MICROMETRES = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
}
REMEDY = "Mend the metadata, or give the path of one level, of which no scale is known."


@dataclass(frozen=True)
class LevelGeometry:
    """A level of a pyramid.

    Parameters
    ----------
    shape : tuple of int
        In voxels.
    transformations : tuple of dict
        From voxels to the world, as OME-NGFF has them; may be empty.
    """

    shape: tuple[int, ...]
    transformations: Transformations = ()

    @property
    def scale(self) -> tuple[float, ...] | None:
        """Size of a voxel per axis, in the axes' units; ``None`` where it is not stated."""
        found = [part["scale"] for part in self.transformations if "scale" in part]
        return tuple(float(number) for number in found[0]) if found else None


@dataclass(frozen=True)
class Geometry:
    """The axes and levels of an image.

    Parameters
    ----------
    version : str
        Of OME-NGFF, e.g. ``"0.4"``.
    axes : tuple of dict
        Name, type and unit of each stored axis; empty where they are not stated.
    levels : tuple of LevelGeometry
        The finest first.
    transformations : tuple of dict
        What is applied to all levels after their own.
    left_out : tuple of str
        Kinds of transformations that are stated besides, and cannot be carried over to labels.

    Examples
    --------
    >>> space = {"name": "x", "type": "space", "unit": "micrometer"}
    >>> axes = ({"name": "c", "type": "channel"}, space)
    >>> level = LevelGeometry((3, 100), ({"type": "scale", "scale": [1.0, 0.5]},))
    >>> Geometry("0.4", axes, (level,)).without_channel().levels[0].scale
    (0.5,)
    """

    version: str
    axes: tuple[dict[str, Any], ...]
    levels: tuple[LevelGeometry, ...]
    transformations: Transformations = ()
    left_out: tuple[str, ...] = ()

    @property
    def letters(self) -> str:
        """One letter per axis."""
        return axis_letters(list(self.axes))

    def from_level(self, number: int) -> Geometry:
        """Leave out the levels that are finer."""
        return replace(self, levels=self.levels[number:])

    def with_levels(self, number: int) -> Geometry:
        """Add coarser levels by the ratio of the last two, until there are so many."""
        levels = list(self.levels)
        while 1 < len(levels) < number:
            levels.append(_next_level(*levels[-2:]))
        return replace(self, levels=tuple(levels))

    def without_channel(self) -> Geometry:
        """Leave out the channel axis, if there is one."""
        channel = self.letters.find("c")
        if channel < 0:
            return self
        levels = [
            LevelGeometry(_without(level.shape, channel), _without_axis(level.transformations, channel))
            for level in self.levels
        ]
        shared = _without_axis(self.transformations, channel)
        return replace(self, axes=_without(self.axes, channel), levels=tuple(levels), transformations=shared)

    def placement(self, number: int = 0) -> tuple[list[float], list[float]]:
        """Return per axis the length of a voxel of a level, and where the centre of the first one
        lies, in the axes' units; 1 and 0 where the metadata say nothing.

        Examples
        --------
        >>> parts = ({"scale": [0.5]}, {"translation": [3.0]})
        >>> Geometry("0.4", ({"name": "x"},), (LevelGeometry((9,), parts),)).placement()
        ([0.5], [3.0])
        """
        steps, shifts = [1.0] * len(self.axes), [0.0] * len(self.axes)
        for part in (*self.levels[number].transformations, *self.transformations):
            if "scale" in part:
                steps = [step * factor for step, factor in zip(steps, part["scale"], strict=True)]
                shifts = [shift * factor for shift, factor in zip(shifts, part["scale"], strict=True)]
            else:
                shifts = [shift + more for shift, more in zip(shifts, part["translation"], strict=True)]
        return steps, shifts

    def for_labels(self, ndim: int) -> Geometry:
        """Leave out the channel axis where labels with `ndim` axes have none."""
        return self if len(self.axes) == ndim else self.without_channel()

    def ratio(self, number: int) -> tuple[float, ...]:
        """Per axis how many voxels of a level one of the next is long."""
        fine, coarse = self.levels[number : number + 2]
        by_shape = tuple(n / max(1, m) for n, m in zip(fine.shape, coarse.shape, strict=True))
        if fine.scale is None or coarse.scale is None:
            return by_shape
        by_scale = tuple(b / a if a else 0.0 for a, b in zip(fine.scale, coarse.scale, strict=True))
        # A scale that contradicts the shapes is not believed.
        fits = [abs(n - m * r) < max(1.0, r) for n, m, r in zip(fine.shape, coarse.shape, by_scale, strict=True)]
        return tuple(s if fit else n for s, n, fit in zip(by_scale, by_shape, fits, strict=True))


def read_geometry(image: Any) -> Geometry | None:
    """Read the geometry of an OME-NGFF image.

    Parameters
    ----------
    image : object
        A path or URL; anything else has none.

    Returns
    -------
    Geometry or None
        ``None`` for what is no OME-NGFF image, or one whose metadata name no axes.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing at the path, or nothing that zarr can read.
    """
    if not isinstance(image, str | os.PathLike):
        return None
    group = open_node(locate(image))
    if isinstance(group, zarr.Array):
        return None
    described = read_ome_image(group)
    if described is None or described.axes is None:
        return None
    found = ome_attributes(group)["multiscales"][0]
    places = [found, *found["datasets"]]
    try:
        parts = [_transformations(place, len(described.axes)) for place in places]
        transformed = (place.get("coordinateTransformations") or () for place in places)
        left_out = []
        for part in itertools.chain.from_iterable(transformed):
            kind = part.get("type")
            if kind in BY_AXIS and kind not in part:
                left_out.append(f"{kind!r} in a file of its own")
            elif kind not in (*BY_AXIS, "identity"):
                left_out.append(f"{str(kind)[:MAX_NAME_LETTERS]!r}")
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{name_of_group(group)}: its coordinateTransformations are broken: {type(error).__name__}: {error}. "
            f"{REMEDY}"
        ) from error
    levels = [
        LevelGeometry(open_level(group, path).shape, part)
        for path, part in zip(described.levels, parts[1:], strict=True)
    ]
    axes = tuple(dict(axis) if isinstance(axis, dict) else {"name": str(axis)} for axis in found["axes"])
    return Geometry(described.version, axes, tuple(levels), parts[0], tuple(dict.fromkeys(left_out)))


def geometry_of_level(image: Any, level: int) -> Geometry | None:
    """Read the geometry of an image from a level on; None where that is not known."""
    found = read_geometry(image)
    return None if found is None or level >= len(found.levels) else found.from_level(level)


def open_level(group: zarr.Group, path: str) -> zarr.Array[Any]:
    """Open the array of a level of an image.

    Raises
    ------
    ValueError
        If there is none, or one that cannot be read.
    """
    fault = "which is no array"
    try:
        array = group[path]
    except KeyError:
        array = None
    except UNREADABLE as error:
        array, fault = None, f"which cannot be read: {type(error).__name__}: {error}"
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{name_of_group(group)}: its metadata name a level {path!r}, {fault}. {REMEDY}")
    check_form(array, f"{name_of_group(group)}, {path!r}")
    return array


def _transformations(stated: dict[str, Any], n_axes: int) -> Transformations:
    """Take what has one number per axis, except what lies in a file of its own."""
    found = [
        (part["type"], [float(number) for number in part[part["type"]]])
        for part in stated.get("coordinateTransformations") or ()
        if part.get("type") in BY_AXIS and part["type"] in part
    ]
    for kind, numbers in found:
        if len(numbers) != n_axes:
            raise ValueError(f"a {kind} of {len(numbers)} numbers for {n_axes} axes")
    return tuple({"type": kind, kind: numbers} for kind, numbers in found)


def _next_level(before: LevelGeometry, last: LevelGeometry) -> LevelGeometry:
    """Make the next level by the ratio of the last two; an axis of one voxel stays as it is."""
    ratios = [max(1.0, n / m) if m > 1 else 1.0 for n, m in zip(before.shape, last.shape, strict=True)]
    shape = tuple(max(1, round(m / ratio)) for m, ratio in zip(last.shape, ratios, strict=True))
    if before.scale is None or last.scale is None:
        return LevelGeometry(shape)
    shrinks = [m > 1 for m in last.shape]
    steps = [b / a if a and keep else 1.0 for a, b, keep in zip(before.scale, last.scale, shrinks, strict=True)]
    earlier = {part["type"]: part[part["type"]] for part in before.transformations}
    parts: list[dict[str, Any]] = []
    for part in last.transformations:
        kind, now = part["type"], part[part["type"]]
        # Writers leave out the shift of the first level, which is none.
        was = earlier.get(kind, [0.0] * len(now))
        if kind == "scale":
            following = [value * step for value, step in zip(now, steps, strict=True)]
        else:
            # The next shift is to the last voxel what the last one was to the voxel before.
            shifts = zip(was, now, steps, shrinks, strict=True)
            following = [b + (b - a) * step if keep else b for a, b, step, keep in shifts]
        parts.append({"type": kind, kind: following})
    return LevelGeometry(shape, tuple(parts))


def _without(items: Sequence[Any], number: int) -> tuple[Any, ...]:
    return (*items[:number], *items[number + 1 :])


def _without_axis(transformations: Transformations, axis: int) -> Transformations:
    return tuple({**part, part["type"]: list(_without(part[part["type"]], axis))} for part in transformations)
