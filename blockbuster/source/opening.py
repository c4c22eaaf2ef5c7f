"""Opening an image of any kind."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from blockbuster.errors import escape_controls, show_url
from blockbuster.source.advice import advise_on_object
from blockbuster.source.base import Source
from blockbuster.source.checks import check_axes, check_index
from blockbuster.source.collection import describe_contents
from blockbuster.source.dask_source import DaskSource
from blockbuster.source.location import Location, locate, open_node
from blockbuster.source.numpy_source import NumpySource
from blockbuster.source.ome_zarr import read_ome_image
from blockbuster.source.zarr_source import ZarrSource, locate_array

if TYPE_CHECKING:
    import dask.array as da


def open_source(image: Any, *, channel: int | None = 0, level: int = 0, axes: str | None = None) -> Source:
    """Open an image, so that regions of it can be read.

    Parameters
    ----------
    image : str, path-like, zarr.Array, dask.array.Array, numpy.ndarray or Source
        A path or URL is that of an OME-Zarr image (0.1 to 0.5) or of a zarr array. A source is
        taken as it is.
    channel : int or None, default 0
        For a path whose axes are known to have a channel axis ``c`` (from the metadata or `axes`):
        the index to read; that axis is dropped. None keeps the axis. The default is ignored where
        there is no such axis. Ignored for arrays and sources.
    level : int, default 0
        For the path of an OME-Zarr image: the level of its pyramid, 0 is the finest. Ignored for
        arrays and sources.
    axes : str, optional
        One lower-case letter per axis as stored, before channel selection, e.g. ``"tczyx"``. None:
        read from the metadata (OME-Zarr axes, or dimension names of a zarr array), else unknown.

    Returns
    -------
    Source
        Nothing is read yet but metadata, and nothing is ever written.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    TypeError
        If `image`, its dtype, or an argument is of a kind that is not accepted.
    ValueError
        If the path is no image or array, `channel` or `level` do not exist, or `axes` do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> source = open_source(np.zeros((30, 40), "uint8"), axes="yx")
    >>> source.kind, source.shape, source.axes
    ('numpy', (30, 40), 'yx')
    """
    if isinstance(image, Source):
        if axes not in (None, image.axes):
            raise ValueError(f"axes is {axes!r}, but image ({image.name}) says {image.axes!r}. Leave axes out.")
        return image
    if isinstance(image, str | os.PathLike):
        return open_zarr_path(image, channel=channel, level=level, axes=axes)
    if isinstance(image, zarr.Array):
        location = locate_array(image)
        # Opened again, since the store of `image` may be writable, or relative to the current
        # folder.
        array = image if location is None else _open_array(location)
        name = show_url(str(location or array.store_path))
        letters = _reconcile_axes(axes, _dimension_letters(array), array, name)
        return ZarrSource(array, location=location, path=location.local_path if location else None, axes=letters)
    # Who has such an array has imported it, which takes a second; another thread may be about to.
    dask_array: Any = getattr(sys.modules.get("dask.array"), "Array", ())
    if isinstance(image, dask_array):
        return DaskSource(image, axes=axes)
    if isinstance(image, np.ndarray):
        return NumpySource(image, axes=axes)
    raise TypeError(
        f"image is of type {type(image).__module__}.{type(image).__qualname__}; accepted are a path or URL of "
        "an OME-Zarr image or zarr array, a zarr.Array, a dask array and a NumPy array. "
        f"{advise_on_object(image)}."
    )


def load_ome_zarr(
    path: str | os.PathLike[str], *, channel: int | None = 0, level: int = 0, chunks: Any = None
) -> da.Array:
    """Return an OME-Zarr image as a lazy dask array.

    Parameters
    ----------
    path : str or path-like
        Path or URL of an OME-Zarr image, 0.1 to 0.5, on zarr format 2 or 3 (or of a zarr array).
    channel : int or None, default 0
        Index on the channel axis, which is dropped; None keeps that axis. The default is ignored
        where there is none.
    level : int, default 0
        Level of the pyramid; 0 is the finest.
    chunks : int, tuple, dict or str, optional
        As in `dask.array.from_array`, for the axes that remain. None: one chunk per shard, or per
        chunk of an array without shards, so that computing a chunk of the result reads one file or
        object.

    Returns
    -------
    dask.array.Array
        In the stored dtype, native byte order. No pixel is read before it is computed.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    TypeError
        If an argument is of a kind that is not accepted.
    ValueError
        If `path` is no image or array, or has no such `channel` or `level`.

    Examples
    --------
    >>> import tempfile, zarr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(folder, shape=(64, 64), chunks=(32, 64), dtype="uint8")
    ...     load_ome_zarr(folder).chunks
    ((32, 32), (64,))
    """
    return open_zarr_path(path, channel=channel, level=level).to_dask(chunks)


def open_zarr_path(
    path: str | os.PathLike[str], *, channel: int | None = 0, level: int = 0, axes: str | None = None
) -> ZarrSource:
    """Open what lies at a path or URL; arguments and errors as for `open_source`."""
    channel = None if channel is None else check_index("channel", channel)
    level = check_index("level", level)
    root = locate(path)
    node = open_node(root)
    if isinstance(node, zarr.Group):
        location, array, stated, channels = _open_level(node, root, level)
    elif level:
        raise ValueError(
            f"level is {level}; {root} is a zarr array, which has no levels. Leave level at 0, or give the "
            "path of the OME-Zarr image."
        )
    else:
        location, array, stated, channels = root, node, _dimension_letters(node), ()
    letters = _reconcile_axes(axes, stated, array, str(root))
    selected = _select_channel(array, letters, channel, channels, str(root))
    return ZarrSource(
        array,
        location=location,
        path=root.local_path,
        axes=letters,
        channel=selected,
        channel_names=channels,
    )


def _open_level(
    group: zarr.Group, root: Location, level: int
) -> tuple[Location, zarr.Array[Any], str | None, tuple[str, ...]]:
    """Open a level of an OME-Zarr image, with the axes and channels that its metadata name."""
    ome = read_ome_image(group)
    if ome is None:
        raise ValueError(f"image {root} is {describe_contents(group, root)}")
    if level >= len(ome.levels):
        shapes = (f"{i} ({path!r}, shape {_open_array(root / path).shape})" for i, path in enumerate(ome.levels))
        raise ValueError(f"level is {level}; {root} has {len(ome.levels)}: {', '.join(shapes)}.")
    location = root / ome.levels[level]
    array = _open_array(location)
    stated = ome.axes_of(array.shape)
    if stated is not None and len(stated) != array.ndim:
        raise ValueError(
            f"image {root}: its metadata give axes {stated!r}, but {ome.levels[level]!r} has shape "
            f"{array.shape}. Correct them, or pass dask.array.from_zarr({str(location)!r})."
        )
    return location, array, stated, ome.channels


def _open_array(location: Location) -> zarr.Array[Any]:
    match open_node(location):
        case zarr.Array() as array:
            return array
    raise ValueError(f"image {location} is a zarr group, not the array that should be there.")


def _dimension_letters(array: zarr.Array[Any]) -> str | None:
    """Return the dimension names of a zarr v3 array if they are those of OME-Zarr."""
    names = getattr(array.metadata, "dimension_names", None)
    if not names or len(set(names)) != len(names) or not all(name in tuple("tczyx") for name in names):
        return None
    return "".join(names)


def _reconcile_axes(given: str | None, stated: str | None, array: zarr.Array[Any], name: str) -> str | None:
    """Return the user's letters or the metadata's, which must not contradict each other."""
    check_axes(given, array.shape, name)
    if given is not None and stated is not None and given != stated:
        raise ValueError(
            f"axes is {given!r}, but the metadata of image {name} say {stated!r}. Leave axes out, or, if the "
            "metadata are wrong, pass the array as dask.array.from_zarr(...) with axes."
        )
    return given or stated


def _select_channel(
    array: zarr.Array[Any], axes: str | None, channel: int | None, names: tuple[str, ...], name: str
) -> tuple[int, int] | None:
    """Return the channel axis and the index on it, or None if no axis is to be dropped."""
    if not axes or "c" not in axes:
        if channel:
            known = f"axes {axes!r}" if axes else 'unknown axes: name them, e.g. axes="czyx"'
            raise ValueError(
                f"channel is {channel}; image {name} has no channel axis (shape {array.shape}, {known}). "
                "Leave channel at 0."
            )
        return None
    if channel is None:
        return None
    axis = axes.index("c")
    n_channels = array.shape[axis]
    if channel >= n_channels:
        listed = ", ".join(
            f"{i} ({escape_controls(label)})" for i, label in enumerate(names[:n_channels]) if label
        )
        raise ValueError(
            f"channel is {channel}; image {name} has {n_channels} channels, counted from 0"
            f"{': ' + listed if listed else ''}."
        )
    return axis, channel
