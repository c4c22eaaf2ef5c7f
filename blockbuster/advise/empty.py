"""Advice before a run: what skip_empty would skip."""

from __future__ import annotations

from typing import Any

from blockbuster.run.claim import throwaway_stage
from blockbuster.run.finish import progress_bar
from blockbuster.run.options import resolve_flag
from blockbuster.run.plan import plan_run
from blockbuster.run.run import refuse_in_starting_worker
from blockbuster.stage.empty_threshold import EmptyTiles
from blockbuster.stage.looking import find_empty_tiles
from blockbuster.stage.sample import hold_small


def estimate_empty_tiles(
    image: Any,
    tile_shape: Any,
    *,
    overlap: Any = 0,
    threshold: float | None = None,
    channel: int | None = 0,
    level: int = 0,
    progress: bool = False,
    mask: Any = None,
) -> EmptyTiles:
    """Return exactly which tiles ``skip_empty`` would skip, and at which threshold.

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
        sample, lowered where background does not reach it, as ``empty_threshold=None`` in
        `tile_process`.
    channel, level : int
        As in `tile_process`.
    progress : bool
        Show a progress bar that counts tiles.
    mask : array or path, optional
        As in `tile_process`: tiles that do not meet it are skipped whatever they hold, and are not
        read.

    Returns
    -------
    EmptyTiles
        ``threshold``, ``n_empty``, ``n_tiles``, a boolean array ``empty`` over the tile grid, the
        greatest value of each tile as ``maxima``, and a picture: printed, or as an image with
        ``plane()``.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `tile_process` for the same arguments.
    TileError
        If pixels cannot be read. It names the first tile that was to be read with them.

    Notes
    -----
    Reads what a run reads, the same bricks of neighbouring tiles, on dask's configured scheduler or
    the active client's workers, and takes the sample for a threshold out of them; without a
    threshold an image of at most 16 million voxels is read once in all. Nothing is kept on disk;
    while other processes take part, a temporary folder lies where a run's stage would.

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
    refuse_in_starting_worker()
    resolve_flag(progress, "progress")
    plan = plan_run(
        image,
        tile_shape=tile_shape,
        overlap=overlap,
        channel=channel,
        level=level,
        skip_empty=True,
        empty_threshold=threshold,
        mask=mask,
    )
    is_read_whole = plan.empty_threshold is None and mask is None
    source = hold_small(plan.source) if is_read_whole else plan.source
    with (
        progress_bar(progress, "look", plan.n_tiles) as advance,
        throwaway_stage(plan) as claim,
        plan.execution.opened() as execution,
    ):
        return find_empty_tiles(
            source, plan.bricks, plan.empty_threshold, claim.directory, execution, advance, plan.inside
        )
