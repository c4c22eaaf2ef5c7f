"""What an output consists of: a label array, or the arrays of a label image's levels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from blockbuster.output.downsample import Coarsening
from blockbuster.output.storage import coarse_chunks
from blockbuster.source.geometry import Geometry, LevelGeometry

__all__ = ["ArrayLayout", "OutputLayout", "label_array", "label_image"]

Index = tuple[int, ...]


@dataclass(frozen=True)
class ArrayLayout:
    """A zarr array.

    Parameters
    ----------
    shape : tuple of int
        In voxels.
    dtype : dtype
        Of the labels.
    chunk, shard : tuple of int
        In voxels; where they are equal, or the format knows no shards, there are none.
    names : tuple of str or None
        Of the axes.
    attributes : dict
        Ready for JSON.
    """

    shape: Index
    dtype: np.dtype
    chunk: Index
    shard: Index
    names: tuple[str, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputLayout:
    """An output as it is stored.

    Parameters
    ----------
    arrays : tuple of ArrayLayout
        The label array, or each level of a label image, the finest first.
    attributes : dict
        Of the group of a label image.
    steps : tuple of Coarsening
        How each level but the first is made of the one before.
    """

    arrays: tuple[ArrayLayout, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Coarsening, ...] = ()


def label_array(array: ArrayLayout, geometry: Geometry | None) -> OutputLayout:
    """Describe a label array of its own; what is known of its place in the world goes into its attributes.

    Parameters
    ----------
    array : ArrayLayout
        The array.
    geometry : Geometry or None
        Of the image, its first level being the one that was segmented.

    Examples
    --------
    >>> array = ArrayLayout((8, 9), np.dtype("int32"), (8, 9), (8, 9), ("y", "x"))
    >>> label_array(array, None).arrays[0].attributes
    {}
    """
    found = None if geometry is None else geometry.for_labels(len(array.shape))
    if found is None or len(found.axes) != len(array.shape):
        return OutputLayout((array,))
    transformations = [*found.levels[0].transformations, *found.transformations]
    attributes: dict[str, Any] = {"axes": list(found.axes)}
    if transformations:
        attributes["coordinateTransformations"] = transformations
    return OutputLayout((replace(array, attributes=attributes),))


def label_image(array: ArrayLayout, geometry: Geometry, name: str) -> OutputLayout:
    """Describe an OME-NGFF label image with the levels of its image.

    Parameters
    ----------
    array : ArrayLayout
        Its finest level.
    geometry : Geometry
        Of the image, its first level being the one that was segmented.
    name : str
        Of the label image.

    References
    ----------
    J. Moore et al. (2021), OME-NGFF: a next-generation file format for expanding bioimaging data-access
    strategies. Nature Methods 18: 1496-1498; specification 0.4 and 0.5, section "labels".
    """
    found = geometry.for_labels(len(array.shape))
    first = replace(array, names=tuple(str(axis["name"]) for axis in found.axes))
    arrays, steps = [first], []
    for number, level in enumerate(found.levels[1:]):
        step = Coarsening(found.levels[number].shape, level.shape, found.ratio(number))
        chunk, shard = coarse_chunks(level.shape, arrays[-1].shard, step.blocks)
        arrays.append(replace(first, shape=level.shape, chunk=chunk, shard=shard))
        steps.append(step)
    return OutputLayout(tuple(arrays), _attributes(found, name), tuple(steps))


def _attributes(geometry: Geometry, name: str) -> dict[str, Any]:
    """Write the metadata of a label image, which lies two groups below its image."""
    multiscale: dict[str, Any] = {
        "name": name,
        "type": "mode",
        "metadata": {
            "description": "a voxel has the label of most voxels of the level before",
            "method": "blockbuster",
        },
        "axes": list(geometry.axes),
        "datasets": [
            {"path": str(number), "coordinateTransformations": _stated(level, geometry.levels[0])}
            for number, level in enumerate(geometry.levels)
        ],
    }
    if geometry.transformations:
        multiscale["coordinateTransformations"] = list(geometry.transformations)
    label = {"version": geometry.version, "source": {"image": "../../"}}
    if geometry.version == "0.4":
        return {"multiscales": [{"version": "0.4", **multiscale}], "image-label": label}
    return {"ome": {"version": geometry.version, "multiscales": [multiscale], "image-label": label}}


def _stated(level: LevelGeometry, finest: LevelGeometry) -> list[dict[str, Any]]:
    """Every level must have a scale; where the image states none, that of the finest and the shapes give it."""
    if level.scale is not None:
        return list(level.transformations)
    sizes = finest.scale or (1.0,) * len(level.shape)
    lengths = zip(sizes, finest.shape, level.shape, strict=True)
    scale = [size * n / m if m else size for size, n, m in lengths]
    return [{"type": "scale", "scale": scale}, *level.transformations]
