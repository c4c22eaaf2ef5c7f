"""What can be measured of objects, by the names of scikit-image's ``regionprops_table``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from blockbuster.source import Source

# What every table has.
ALWAYS = (
    "label",
    "area",
    "bbox",
    "centroid",
    "equivalent_diameter_area",
    "axis_major_length",
    "axis_minor_length",
    "inertia_tensor",
    "touches_border",
    "n_tiles",
    "agreement_min",
)
SHAPES = ("extent", "eccentricity", "orientation")
INTENSITIES = ("intensity_mean", "intensity_min", "intensity_max", "intensity_sum", "intensity_std")
# Of objects in a plane, or in a plane or a volume.
FLAT = ("eccentricity", "orientation")


@dataclass(frozen=True)
class Channel:
    """Where the values of a channel come from.

    Parameters
    ----------
    name : str
        What the names of its columns end in; empty where the image has no channels.
    index : int or None
        Its place along the axis of channels that fn sees; ``None``: all that fn sees is of it.
    source : Source or None
        Reads it, where fn does not see it.
    """

    name: str = ""
    index: int | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Measures:
    """What is measured of every object.

    Parameters
    ----------
    names : tuple of str
        What was asked for besides what every table has, fit to be asked for again.
    axes : tuple of int
        Axes of the label image along which an object may lie: its moments are taken along them.
    channels : tuple of Channel
        Whose values are measured.
    values : tuple of (str, int)
        What is measured of values: a name, and the number of the channel.
    dtype : dtype
        Of the values.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...]
    channels: tuple[Channel, ...] = ()
    values: tuple[tuple[str, int], ...] = ()
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype("uint8"))

    @cached_property
    def pairs(self) -> np.ndarray:
        """Pairs of axes of the second moments, (m, 2)."""
        return np.array(list(itertools.combinations_with_replacement(self.axes, 2)), np.int64).reshape(-1, 2)

    @property
    def sum_dtype(self) -> np.dtype:
        """Of sums of values: int64, or float64 where those could exceed it or are no integers."""
        return np.dtype("int64" if self.dtype.kind in "biu" and self.dtype.itemsize <= 4 else "float64")

    @property
    def square_dtype(self) -> np.dtype:
        """Of sums of squares of values: exact where they are small."""
        return np.dtype("int64" if self.dtype.kind in "biu" and self.dtype.itemsize <= 2 else "float64")

    @property
    def spreads(self) -> bool:
        """Whether the deviations of values from their mean are wanted."""
        return any(name == "intensity_std" for name, _ in self.values)

    def without_axis(self, axis: int | None) -> Measures:
        """Return the measures of labels that lack an axis of the image, or none of them: each voxel
        of labels that have the axis of channels has one value.
        """
        if axis is not None:
            return dataclasses.replace(self, axes=tuple([i - (i > axis) for i in self.axes]))
        if all(channel.index is None for channel in self.channels):
            return self
        values = tuple(dict.fromkeys((name, 0) for name, _ in self.values))
        return dataclasses.replace(self, channels=(Channel(),), values=values)

    def __str__(self) -> str:
        values = dict.fromkeys(name for name, _ in self.values)
        names = ["shapes", *(name for name in self.names if name in SHAPES), *values]
        channels = len(self.channels)
        of = f" of {channels} channel{'s' * (channels > 1)}" if values else ""
        return f"{', '.join(names)}{of}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def parse_measure(value: Any, name: str) -> tuple[str, ...] | None:
    """Check `measure`: ``None``, True, or a list of names.

    Returns
    -------
    tuple of str or None
        What is to be measured besides what every table has; ``None``: nothing at all.

    Examples
    --------
    >>> parse_measure(["intensity_mean", "area", "intensity_max-DAPI"], "measure")
    ('intensity_mean', 'intensity_max-DAPI')
    """
    if value is None or value is False:
        return None
    if value is True:
        return ()
    rule = (
        f"it is True, or a list of names: {', '.join((*SHAPES, *INTENSITIES))}, those of values also with a "
        "channel, such as 'intensity_mean-DAPI' or 'intensity_mean-0'; what True measures is always there"
    )
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(n, str) for n in value):
        raise TypeError(f"{name} is {value!r}; {rule}.")
    known = (*ALWAYS, *SHAPES, *INTENSITIES)
    unknown = [n for n in value if n not in known and not values_among([n])]
    if unknown:
        raise ValueError(f"{name} names {', '.join(map(repr, unknown))}; {rule}.")
    order = [*SHAPES, *INTENSITIES]
    wanted = {n for n in value if n not in ALWAYS}
    return tuple(sorted(wanted, key=lambda n: (order.index(n.partition("-")[0]), n)))


def resolve_measures(
    names: tuple[str, ...], source: Source, merge_axes: tuple[int, ...], channels: Sequence[Channel]
) -> Measures:
    """Find out of what the image is measured.

    Parameters
    ----------
    names : tuple of str
        What `measure` adds, as `parse_measure` gives it.
    source : Source
        The image.
    merge_axes : tuple of int
        Axes along which an object may lie.
    channels : sequence of Channel
        Those of the image.

    Raises
    ------
    TypeError, ValueError
        If the image has no such channel, or its values cannot be ordered.
    """
    flat = [name for name in names if name in FLAT]
    if flat and len(merge_axes) != 2:
        raise ValueError(
            f"measure names {', '.join(flat)}, of objects in a plane; labels are joined along {len(merge_axes)} "
            "axes."
        )
    asked = values_among(names)
    if not asked:
        return Measures(names, merge_axes)
    if source.dtype.kind == "c":
        raise TypeError(
            f"measure names {asked[0]}, which needs an image of real numbers; this one is {source.dtype}."
        )
    found: set[tuple[int, int]] = set()
    for kind, _, suffix in (name.partition("-") for name in asked):
        fits = [i for i, channel in enumerate(channels) if suffix in ("", channel.name, str(i))]
        if not fits or (suffix and not channels[0].name):
            listed = ", ".join(f"{i} {c.name}" if c.name != str(i) else c.name for i, c in enumerate(channels))
            what = f"its channels are {listed}" if channels[0].name else "it has none"
            raise ValueError(f"measure names a channel {suffix!r} of image {source.name}; {what}.")
        found |= {(INTENSITIES.index(kind), i) for i in fits}
    kept = sorted({i for _, i in found})
    values = tuple([(INTENSITIES[kind], kept.index(i)) for kind, i in sorted(found)])
    return Measures(names, merge_axes, tuple([channels[i] for i in kept]), values, source.dtype)


def values_among(names: Sequence[str]) -> list[str]:
    """Return those names that are of values."""
    return [name for name in names if name.partition("-")[0] in INTENSITIES]


def find_channels(source: Source, channel_axis: int | None) -> list[Channel]:
    """Return the channels of an image, and where their values come from; one without a name where
    there are none.

    Names are those of the metadata where all channels have one of their own, else numbers.
    """
    if channel_axis is not None:
        names = _names(source.channel_names, source.shape[channel_axis])
        return [Channel(name, index) for index, name in enumerate(names)]
    if source.channel is None:
        return [Channel()]
    others = source.open_channels()
    names = _names(source.channel_names, len(others))
    return [
        Channel(name, source=None if i == source.channel else other)
        for i, (name, other) in enumerate(zip(names, others, strict=True))
    ]


def _names(stated: Sequence[str], n: int) -> list[str]:
    is_named = len(stated) == n == len(set(stated)) and all(stated)
    return list(stated) if is_named else [str(i) for i in range(n)]
