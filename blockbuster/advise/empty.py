"""Advice before a run: what skip_empty would skip."""

from __future__ import annotations

from typing import Any

from blockbuster.plan import plan_run
from blockbuster.stage.empty import EmptyTiles, find_empty_tiles, otsu_threshold

__all__ = ["estimate_empty_tiles"]


def estimate_empty_tiles(
    image: Any,
    tile_shape: Any,
    *,
    overlap: Any = 0,
    threshold: float | None = None,
    channel: int | None = 0,
    level: int = 0,
) -> EmptyTiles:
    """Say exactly which tiles ``skip_empty`` would skip, and at which threshold.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    tile_shape : None, tuple of int, ``"auto"`` or callable
        As in `tile_process`.
    overlap : int or tuple of int
        Halo in voxels; it counts for whether a tile is empty.
    threshold : float, optional
        A tile whose maximum is not above it is empty. ``None``: Otsu's threshold of a bounded
        sample, as ``empty_threshold=None`` in `tile_process`.
    channel, level : int
        As in `tile_process`.

    Returns
    -------
    EmptyTiles
        ``threshold``, ``n_empty``, ``n_tiles``, a boolean array ``empty`` over the tile grid, and
        a picture of it: printed, or as an image with ``plane()``.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `tile_process` for the same arguments.

    Notes
    -----
    Reads the image once, tile by tile.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((40, 60), "uint8")
    >>> image[5, 5] = 200
    >>> print(estimate_empty_tiles(image, (20, 20), threshold=10))
    5 of 6 tiles are empty (maximum <= 10)
    .##
    ###
    """
    plan = plan_run(
        image,
        tile_shape=tile_shape,
        overlap=overlap,
        channel=channel,
        level=level,
        skip_empty=True,
        empty_threshold=threshold,
    )
    given = plan.empty_threshold
    return find_empty_tiles(plan.source, plan.grid, otsu_threshold(plan.source) if given is None else given)
