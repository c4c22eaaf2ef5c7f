"""A stage that was kept: look at the labels of its tiles, before anything is joined."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from blockbuster.rundir.folder import FORMAT, is_stage, read_manifest
from blockbuster.rundir.staged import StagedLabels, read_layout
from blockbuster.stage.finished import failed_tiles, read_names, read_task_records
from blockbuster.stage.results import UNNAMED, list_names

if TYPE_CHECKING:
    import dask.array as da

Path = str | os.PathLike[str]


def open_stage(path: Path, name: str = "") -> da.Array:
    """Return the labels of a stage that `tile_process` kept as a lazy array, tile by tile as fn
    returned them.

    Parameters
    ----------
    path : path
        The stage: a folder ``*.blockbuster-stage``, of a run with ``keep_stage=True``.
    name : str
        Of the result, where fn returned several.

    Returns
    -------
    dask.array.Array of int32
        Of the shape of the label image, one chunk per tile. Ids count from 1 in each tile, in the
        order in which they appear, and are not joined; 0 is background.

    Raises
    ------
    ValueError, OSError
        If it is no stage, of a run that did not finish, of another version, or damaged.

    Notes
    -----
    To compute a tile reads the file of its task.

    Examples
    --------
    >>> import tempfile
    >>> import blockbuster
    >>> image = np.array([[0, 1, 1, 1], [1, 0, 0, 1]], "uint8")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"tile_shape": (2, 2), "stage_dir": folder, "keep_stage": True}
    ...     _ = blockbuster.tile_process(image, np.copy, **options)
    ...     (stage,) = os.listdir(folder)
    ...     labels = open_stage(f"{folder}/{stage}").compute()
    >>> labels.tolist()
    [[0, 1, 1, 1], [1, 0, 0, 1]]
    """
    import dask.array as da

    staged, counts, _ = open_kept(path, name)
    options: dict[str, Any] = {"chunks": staged.bricks.grid.lengths, "dtype": np.int32}
    meta = np.empty((0,) * counts.ndim, np.int32)
    labels: da.Array = da.map_blocks(_read_tile, staged=staged, counts=counts, meta=meta, **options)
    return labels


def _read_tile(*, staged: StagedLabels, counts: np.ndarray, block_info: Any = None) -> np.ndarray:
    tile = block_info[None]["chunk-location"]
    grid = staged.bricks.grid
    core = grid.core(tile)
    labels = np.zeros([part.stop - part.start for part in core], np.int32)
    if counts[tile]:
        file = staged.open_brick(tuple(i // n for i, n in zip(tile, staged.bricks.tiles_per_brick, strict=True)))
        table = np.arange(counts[tile] + 1, dtype=np.int32)
        for numbers, group in file.read_groups(grid.cores, core):
            group.fill(np.zeros_like(numbers), core, table, labels)
    return labels


def open_kept(path: Path, result: str = "") -> tuple[StagedLabels, np.ndarray, np.ndarray]:
    """Open one of the results in the stage of a run that finished; give how many labels its tiles
    have, in the shape of their grid, and the numbers of those that failed.

    Raises
    ------
    ValueError, OSError
        If there is none.
    """
    name = os.fspath(path)
    if not is_stage(path):
        raise ValueError(f"{name} is not a stage of blockbuster; give a folder *.blockbuster-stage.")
    version = read_manifest(path).get("format")
    if version != FORMAT:
        raise ValueError(
            f"{name} is a stage of another version of blockbuster (format {version}; this one reads {FORMAT}); "
            "segment again."
        )
    layout = read_layout(path)
    staged = StagedLabels.open(path) if layout else None
    records = read_task_records(name)
    if staged is None or len(records) < staged.bricks.n_bricks:
        raise ValueError(
            f"{name} is the stage of a run that did not finish; finish it first, with "
            "tile_process(..., resume=True)."
        )
    names = read_names(name) or UNNAMED
    # What one array is called nobody need know.
    if names != UNNAMED and result not in names:
        raise ValueError(f"{name} holds several results of fn; name one of {list_names(names)}, not {result!r}.")
    which = 0 if names == UNNAMED else names.index(result)
    counts = np.zeros(staged.bricks.grid.grid_shape, np.int64)
    for number, record in records.items():
        if record["names"] is not None:
            tiles = staged.bricks.tiles(staged.bricks.index(number))
            counts[tiles] = record["counts"][which].reshape(counts[tiles].shape)
    failed = itertools.chain.from_iterable(record.get("failed", []) for record in records.values())
    return (
        staged.of_result(which),
        counts,
        failed_tiles(failed, staged.bricks.grid, layout["image"]["dropped_axis"]),
    )
