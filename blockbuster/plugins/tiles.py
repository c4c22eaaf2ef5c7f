"""From a tile to the array that a model takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def planes_and_channels(tile: np.ndarray, n_spatial: int, channel_axis: int | None, remedy: str) -> np.ndarray:
    """Drop the axes that a model does not have, and put channels last.

    Parameters
    ----------
    tile : ndarray
        As blockbuster cuts it: z, y and x in this order, anything else anywhere.
    n_spatial : int
        2 for planes, 3 for volumes.
    channel_axis : int or None
        Where in the tile channels are; ``None``: it has none.
    remedy : str
        What to do about a tile with more planes than a model takes.

    Returns
    -------
    (..., y, x, channels) ndarray
        A view of `tile` with `n_spatial` axes and one for channels, 1 long where there are none.

    Raises
    ------
    ValueError
        If another axis is longer than 1, or there are too few.

    Examples
    --------
    >>> planes_and_channels(np.zeros((2, 1, 40, 30)), 2, 0, "").shape
    (40, 30, 2)
    """
    if channel_axis is not None and not -tile.ndim <= channel_axis < tile.ndim:
        raise ValueError(f"channel axis {channel_axis} is none of a tile of shape {tile.shape}.")
    moved = tile[..., None] if channel_axis is None else np.moveaxis(tile, channel_axis, -1)
    others, kept = moved.shape[: -n_spatial - 1], moved.shape[-n_spatial - 1 :]
    if len(kept) <= n_spatial:
        raise ValueError(f"the tile has shape {tile.shape}; the model takes {n_spatial} axes and channels.")
    if math.prod(others) != 1:
        raise ValueError(
            f"the tile has shape {tile.shape}, which is {math.prod(others)} "
            f"{'planes' if n_spatial == 2 else 'volumes'}; the model takes one. {remedy}"
        )
    return moved.reshape(kept)


def label_shape(shape: Sequence[int], channel_axis: int | None) -> tuple[int, ...]:
    """Return the shape of a tile's labels, which have no channels.

    Examples
    --------
    >>> label_shape((2, 1, 40, 30), 0)
    (1, 40, 30)
    """
    axis = None if channel_axis is None else channel_axis % len(shape)
    return tuple(length for i, length in enumerate(shape) if i != axis)


def is_uniform(tile: np.ndarray) -> bool:
    """Return whether a tile holds one value only, or only NaN: there is no range to normalise by.

    Examples
    --------
    >>> is_uniform(np.full((3, 3), 7)), is_uniform(np.eye(3))
    (True, False)
    """
    return tile.size == 0 or bool(tile.min() == tile.max()) or _is_nan_alone(tile)


def _is_nan_alone(tile: np.ndarray) -> bool:
    return tile.dtype.kind == "f" and bool(np.isnan(tile).all())


def check_finite(tile: np.ndarray) -> None:
    """Refuse NaN and infinities, which normalisation would spread, unless the tile is only NaN.

    Raises
    ------
    ValueError
        If there are any; the message has their number.
    """
    if tile.dtype.kind != "f" or _is_nan_alone(tile):
        return
    n_bad = tile.size - int(np.count_nonzero(np.isfinite(tile)))
    if n_bad:
        raise ValueError(
            f"the tile has {n_bad} voxels that are NaN or infinite, and a model would see nothing else; "
            "replace them before, e.g. numpy.nan_to_num(tile)."
        )
