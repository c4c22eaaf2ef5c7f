"""What an output consists of: a label array, or the arrays of a label image's levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from blockbuster.output.downsample import Coarsening
from blockbuster.source.geometry import Geometry, LevelGeometry

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
    path : str
        Where it lies in the folder of the labels.
    """

    shape: Index
    dtype: np.dtype
    chunk: Index
    shard: Index
    names: tuple[str, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    path: str = ""


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

    def create(self, group: zarr.Group, component: str) -> None:
        """Create the labels, all background, inside a group."""
        if self.attributes:
            group.require_group(component).attrs.update(self.attributes)
        for array in self.arrays:
            options: dict[str, Any] = {"chunks": array.chunk, "attributes": array.attributes}
            if group.metadata.zarr_format == 3:
                options["compressors"] = ZstdCodec(level=1, checksum=True)
                options["shards"] = array.shard if array.shard != array.chunk else None
                options["dimension_names"] = array.names
            else:
                # As OME-NGFF has it; a folder of a million files is slow on many file systems.
                options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
                if array.names:
                    options["attributes"] = {**array.attributes, "_ARRAY_DIMENSIONS": list(array.names)}
            name = f"{component}/{array.path}".rstrip("/")
            group.create_array(name, shape=array.shape, dtype=array.dtype, **options)


def image_attributes(geometry: Geometry, name: str) -> dict[str, Any]:
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
    """Give a level its scale, which it must have; from the finest one where none is stated."""
    if level.scale is not None:
        return list(level.transformations)
    sizes = finest.scale or (1.0,) * len(level.shape)
    lengths = zip(sizes, finest.shape, level.shape, strict=True)
    scale = [size * n / m if m else size for size, n, m in lengths]
    return [{"type": "scale", "scale": scale}, *level.transformations]
