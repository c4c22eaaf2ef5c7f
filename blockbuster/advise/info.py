"""What lies at a path: an image with its levels and labels, or a group that holds images."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import zarr

from blockbuster.report import read_report
from blockbuster.run.plan import plan_run
from blockbuster.source.collection import find_images
from blockbuster.source.geometry import Geometry, open_level, read_geometry
from blockbuster.source.location import Location, locate, open_node
from blockbuster.source.ome_zarr import inner_path, ome_attributes, read_ome_image

MAX_IMAGES = 24


@dataclass(frozen=True)
class LevelInfo:
    """An array of a pyramid.

    Parameters
    ----------
    path : str
        Inside the image; empty for an array by itself.
    shape, chunks : tuple of int
        In voxels, all axes.
    shards : tuple of int or None
        In voxels; ``None``: each chunk is stored by itself.
    n_bytes : int
        Of all voxels, uncompressed.
    voxel_size : tuple of float or None
        Per axis in the axes' units; ``None`` where it is not stated.
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    n_bytes: int
    voxel_size: tuple[float, ...] | None


@dataclass(frozen=True)
class Entry:
    """Labels of an image, or an image in a collection.

    Parameters
    ----------
    path : str
        To give to `tile_process`.
    what : str
        Its type and shape, or the summary of its run; may be empty.
    """

    path: str
    what: str


@dataclass(frozen=True)
class AutoTile:
    """What ``tile_shape="auto"`` chooses here and now.

    Parameters
    ----------
    tile_shape, grid_shape : tuple of int
        Voxels per tile, and tiles, along the axes that are segmented.
    n_tiles : int
        Tiles in all.
    """

    tile_shape: tuple[int, ...]
    grid_shape: tuple[int, ...]
    n_tiles: int


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """An image, or an array by itself.

    Parameters
    ----------
    path : str
        Absolute path, or URL.
    kind : str
        ``"OME-Zarr image"``, ``"OME-Zarr label image"`` or ``"zarr array"``.
    version : str
        Of OME-NGFF; empty where there is none.
    zarr_format : int
        2 or 3.
    axes : str or None
        One letter per stored axis; ``None``: unknown.
    units : tuple of str
        Of each axis; empty where it is not stated.
    dtype : str
        Of the voxels.
    channels : tuple of str
        Names, as far as they are given.
    levels : tuple of LevelInfo
        The finest first.
    labels : tuple of Entry
        Label images of this image.
    report : str
        Summary of the run that wrote these labels; empty for an image that no run wrote.
    auto : AutoTile
        For the level and channel that were asked for.
    """

    path: str
    kind: str
    version: str = ""
    zarr_format: int
    axes: str | None
    units: tuple[str, ...] = ()
    dtype: str
    channels: tuple[str, ...] = ()
    levels: tuple[LevelInfo, ...]
    labels: tuple[Entry, ...] = ()
    report: str
    auto: AutoTile


@dataclass(frozen=True)
class CollectionInfo:
    """A group that is not an image.

    Parameters
    ----------
    path : str
        Absolute path, or URL.
    kind : str
        What it is, with an article.
    images : tuple of Entry
        Images and arrays inside.
    is_complete : bool
        Whether these are all.
    """

    path: str
    kind: str
    images: tuple[Entry, ...]
    is_complete: bool


def inspect_path(
    path: str | os.PathLike[str],
    *,
    channel: int | None = 0,
    level: int = 0,
    use_gpu: bool = False,
    most: int | None = MAX_IMAGES,
) -> ImageInfo | CollectionInfo:
    """Return what lies at a path.

    Parameters
    ----------
    path : str or path-like
        Path or URL of a zarr array or group.
    channel, level
        As in `tile_process`: what the automatic tile is chosen for.
    use_gpu : bool
        Choose it by GPU memory.
    most : int or None
        How many images of a collection are listed. ``None``: all, however many have to be opened.

    Returns
    -------
    ImageInfo or CollectionInfo

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    TypeError, ValueError
        If it is no zarr array or group, is broken, or has no such `channel` or `level`.

    Notes
    -----
    Reads metadata, no voxels, and writes nothing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = zarr.create_array(folder, shape=(64, 64), chunks=(32, 64), dtype="uint8")
    ...     found = inspect_path(folder)
    >>> found.kind, found.levels[0].chunks, found.auto.n_tiles
    ('zarr array', (32, 64), 1)
    """
    root = locate(path)
    node = open_node(root)
    if isinstance(node, zarr.Group) and read_ome_image(node) is None:
        contents = find_images(node, root, most)
        images = tuple(
            Entry(str(root / path), "; ".join(filter(None, (what, _made_by(root / path)))))
            for path, what in contents.found
        )
        return CollectionInfo(str(root), contents.kind, images, contents.is_complete)
    plan = plan_run(path, tile_shape="auto", channel=channel, level=level, use_gpu=use_gpu)
    auto = AutoTile(plan.grid.tile_shape, plan.grid.grid_shape, plan.n_tiles)
    if isinstance(node, zarr.Array):
        return _inspect_array(node, root, plan.source.axes, auto)
    return _inspect_image(node, root, auto)


def _inspect_array(array: zarr.Array[Any], root: Location, axes: str | None, auto: AutoTile) -> ImageInfo:
    if axes is not None and len(axes) != array.ndim:
        # A selected channel has no axis any more.
        axes = "".join(map(str, getattr(array.metadata, "dimension_names", None) or ()))
    return ImageInfo(
        path=str(root),
        kind="zarr array",
        zarr_format=array.metadata.zarr_format,
        axes=axes,
        dtype=str(array.dtype),
        levels=(_level("", array, None),),
        report=_summary_of_run(root),
        auto=auto,
    )


def _inspect_image(group: zarr.Group, root: Location, auto: AutoTile) -> ImageInfo:
    image = read_ome_image(group)
    assert image is not None
    arrays = [open_level(group, path) for path in image.levels]
    labels = group.get("labels")
    names = ome_attributes(labels).get("labels") if isinstance(labels, zarr.Group) else None
    places = [root / "labels" / inner_path(group, name) for name in (names if isinstance(names, list) else ())]
    geometry = read_geometry(root.root)
    sizes = _voxel_sizes(geometry) if geometry is not None else [None] * len(arrays)
    return ImageInfo(
        path=str(root),
        kind="OME-Zarr label image" if "image-label" in ome_attributes(group) else "OME-Zarr image",
        version=image.version,
        zarr_format=group.metadata.zarr_format,
        axes=image.axes_of(arrays[0].shape),
        units=() if geometry is None else tuple(str(axis.get("unit") or "") for axis in geometry.axes),
        dtype=str(arrays[0].dtype),
        channels=image.channels,
        levels=tuple(map(_level, image.levels, arrays, sizes)),
        labels=tuple(Entry(str(place), _made_by(place)) for place in places),
        report=_summary_of_run(root),
        auto=auto,
    )


def _level(path: str, array: zarr.Array[Any], voxel_size: tuple[float, ...] | None) -> LevelInfo:
    n_bytes = math.prod(array.shape) * array.dtype.itemsize
    return LevelInfo(path, array.shape, array.chunks, array.shards, n_bytes, voxel_size)


def _voxel_sizes(geometry: Geometry) -> list[tuple[float, ...] | None]:
    """Return the size of a voxel at each level, scaled by what applies to all levels."""
    shared = next((part["scale"] for part in geometry.transformations if "scale" in part), None)
    sizes: list[tuple[float, ...] | None] = []
    for level in geometry.levels:
        own = level.scale
        factors = [1.0] * len(own or ()) if shared is None else shared
        sizes.append(None if own is None else tuple(a * b for a, b in zip(own, factors, strict=True)))
    return sizes


def _made_by(place: Location) -> str:
    report = _summary_of_run(place)
    return f"made by blockbuster, {report}" if report else ""


def _summary_of_run(place: Location) -> str:
    """Return a summary of the run that wrote labels; empty where there is no report."""
    if place.local_path is None:
        return ""
    store, name = os.path.split(place.local_path)
    try:
        return str(read_report(store, name)).partition("; stage ")[0]
    except FileNotFoundError:
        return ""
    except ValueError as error:
        return str(error)
