"""tile_process: plan, stage, merge."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from blockbuster.cluster import Execution
from blockbuster.finish import FinishedStage, progress_bar
from blockbuster.plan import RunPlan, make_plan, warn_of_repeated_chunks
from blockbuster.report import RunReport, installed_versions
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import is_stage, remove_stage
from blockbuster.stage.empty import otsu_threshold
from blockbuster.stage.staging import StageOutcome, stage_labels
from blockbuster.stage.task import TileCall

__all__ = ["tile_process"]

logger = logging.getLogger("blockbuster")


def tile_process(
    image: Any,
    fn: Callable[[np.ndarray], Any],
    *,
    tile_shape: Any = None,
    overlap: Any = 0,
    channel: int | None = 0,
    level: int = 0,
    use_gpu: bool = False,
    compute: bool = False,
    progress: bool = False,
    write_to: str | os.PathLike[str] | None = None,
    output_component: str = "labels",
    sequential_labels: bool = False,
    skip_empty: bool = False,
    empty_threshold: float | None = None,
    stage_dir: str | os.PathLike[str] | None = None,
    keep_stage: bool = False,
    verbose: bool = False,
    axes: str | None = None,
    merge: str = "touch",
    min_agreement: float = 0.3,
    connectivity: int | None = None,
    merge_axes: str | None = None,
    resume: bool = False,
    fn_version: str | None = None,
    overwrite: bool = False,
    retries: int = 0,
    on_error: str = "raise",
    tiles_per_task: int | None = None,
    return_report: bool = False,
) -> Any:
    """Apply a segmentation function to every tile of an image and merge the labels.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        An OME-Zarr store, a plain zarr array (path or URL), or an array. It is never written to.
    fn : callable
        ``(ndarray) -> ndarray``: takes a tile with its halo, returns integer labels of the same
        shape, 0 = background. Pickled with cloudpickle where other processes run it.
    tile_shape : None, tuple of int, ``"auto"`` or callable
        Voxels per axis of a tile without halo. ``None``: the image's own chunks (NumPy: one tile).
        A tuple shorter than the axes applies to the last ones, the others get 1. ``"auto"``:
        `auto_tile_shape`. A callable gets ``(shape, dtype)`` and returns a tuple.
    overlap : int or tuple of int
        Halo in voxels, truncated at the image border. A number applies to every axis whose tiles
        are longer than 1; a tuple gives one depth per axis, a shorter one for the last axes.
    channel : int or None
        Channel when `image` is a path; ``None`` keeps the channel axis and never cuts it: fn sees
        all channels and returns labels with or without that axis.
    level : int
        Pyramid level when `image` is a path.
    use_gpu : bool
        Size ``"auto"`` tiles by free GPU memory and, without a dask client, run one tile at a time.
    compute : bool
        Return a NumPy array now.
    progress : bool
        Show progress bars that count tiles.
    write_to : path, optional
        A zarr group on the file system that takes the labels; made where it does not exist.
    output_component : str
        Name of the label array inside `write_to`.
    sequential_labels : bool
        Number the objects 1..N. Otherwise ids are unique, but there may be gaps.
    skip_empty : bool
        Do not call fn for tiles whose maximum, halo included, is not above `empty_threshold`.
    empty_threshold : float, optional
        ``None``: Otsu's threshold of a bounded sample.
    stage_dir : path, optional
        Folder for the temporary stage. ``None``: beside `write_to`, else beside the input, else
        the system's temporary directory.
    keep_stage : bool
        Keep the stage after success. After a failure it is kept where `write_to` or `stage_dir`
        gives it a place.
    verbose : bool
        Log each tile's position and shape.
    axes : str, optional
        One letter per axis, e.g. ``"tzyx"``; read from the metadata of an OME-Zarr store. Axes
        ``t`` and ``c`` get no halo and labels are never joined across them.
    merge : {"touch", "agree", "none"}
        ``"touch"``: labels that touch across a seam are one object. The others are not
        implemented yet.
    min_agreement : float
        For ``merge="agree"``.
    connectivity : int, optional
        Which neighbours across a seam touch: 1 = faces ... ndim = corners too. ``None``: 1.
    merge_axes : str, optional
        Axes along which labels are joined, e.g. ``"yx"``; ``None``: all but t and c.
    resume : bool
        Not implemented yet.
    fn_version : str, optional
        Stands for fn where its code cannot be read.
    overwrite : bool
        Replace an existing label array, once the new one is complete.
    retries : int
        Only 0 is implemented yet.
    on_error : {"raise", "skip"}
        Only ``"raise"`` is implemented yet: stop at the first failed tile.
    tiles_per_task : int, optional
        How many neighbouring tiles are read, scheduled and stored together; ``None``: chosen. It
        never changes the result.
    return_report : bool
        Return ``(labels, RunReport)``.

    Returns
    -------
    numpy.ndarray or dask.array.Array
        Labels of the image's shape, int32, or int64 for more than 2**31 - 1 objects: a dask array
        backed by `write_to` when that is given and `compute` is not, else a NumPy array.

    Raises
    ------
    TypeError, ValueError, FileExistsError, FileNotFoundError
        For the arguments, all in one message, before any work.
    NotImplementedError
        For what is not built yet.
    TileError
        If fn fails on a tile, or returns something else than labels.
    RuntimeError
        If a dask client is active whose workers live in this process.

    Notes
    -----
    fn runs once per non-empty tile, on dask's configured scheduler or on the active client's
    workers. Peak memory depends on tile, halo and number of workers, not on the image (a NumPy
    result apart). Each label voxel is written twice and read once.

    Examples
    --------
    >>> from scipy import ndimage
    >>> image = np.zeros((64, 64), "uint8")
    >>> image[10:50, 20:30] = 1
    >>> labels = tile_process(image, lambda tile: ndimage.label(tile)[0], tile_shape=(16, 16))
    >>> labels.shape, np.unique(labels).tolist()
    ((64, 64), [0, 1])
    """
    options = dict(locals())
    plan = make_plan(options.pop("image"), options.pop("fn"), options)
    warn_of_repeated_chunks(plan)
    run = _Run(plan, fn, RunReport(settings=plan.settings, versions=installed_versions()))
    with (
        _logged(plan),
        _made_folders_removed(plan),
        _stage_directory(plan) as directory,
        plan.execution.opened() as execution,
    ):
        outcome = run.stage(directory, execution)
        labels = run.merge(outcome, execution)
    logger.info("%s", run.report)
    return (labels, run.report) if return_report else labels


@dataclass(frozen=True)
class _Run:
    """A plan on its way to labels."""

    plan: RunPlan
    fn: Callable[[np.ndarray], Any]
    report: RunReport

    def stage(self, directory: str, execution: Execution) -> StageOutcome:
        """Run fn on every tile."""
        plan, options = self.plan, self.plan.options
        with self.report.timed("stage"), progress_bar(bool(options.progress), "segment", plan.n_tiles) as advance:
            outcome = stage_labels(
                plan.source,
                TileCall(plan.grid, self.fn, self._threshold(), plan.channel_axis),
                plan.bricks,
                directory,
                execution,
                merge_axes=plan.merge_axes,
                connectivity=plan.connectivity,
                settings=plan.settings,
                fixed_bricks=options.tiles_per_task is not None,
                verbose=bool(options.verbose),
                on_tiles=advance,
            )
        report = self.report
        report.n_tiles, report.n_run, report.n_skipped = plan.n_tiles, outcome.n_run, outcome.n_skipped
        report.n_provisional = outcome.n_labels
        report.seconds["fn"] = outcome.fn_seconds
        if outcome.n_skipped and not outcome.n_run:
            warnings.warn(
                f"All {plan.n_tiles} tiles were skipped as empty (maximum <= {report.empty_threshold:g}); "
                "lower empty_threshold or pass skip_empty=False if the image is not empty.",
                stacklevel=3,
            )
        return outcome

    def _threshold(self) -> float | None:
        plan = self.plan
        if plan.options.skip_empty:
            given = plan.empty_threshold
            self.report.empty_threshold = otsu_threshold(plan.source) if given is None else given
        return self.report.empty_threshold

    def merge(self, outcome: StageOutcome, execution: Execution) -> Any:
        """Join labels across seams and write the final ones."""
        staged, options, place = outcome.staged, self.plan.options, self.plan.place
        arrays = ArrayFolder(staged.path)
        finished = FinishedStage(staged, arrays, execution, self.report, bool(options.progress))
        table = finished.match(sequential=bool(options.sequential_labels))
        if place is None:
            return finished.to_numpy(table)
        finished.publish(table, place, self._label_axes(staged.bricks.grid.ndim))
        labels = zarr.open_array(Path(place.array_path), mode="r")
        if options.compute:
            return np.asarray(labels[...])
        return da.from_array(labels, chunks=labels.shards or labels.chunks)

    def _label_axes(self, ndim: int) -> str | None:
        axes = self.plan.source.axes
        if axes is None or len(axes) == ndim:
            return axes
        return axes.replace("c", "")


@contextlib.contextmanager
def _logged(plan: RunPlan) -> Iterator[None]:
    """Show the log of a verbose run where the user has not configured logging."""
    if not plan.options.verbose or logger.hasHandlers():
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        logger.info("%s", plan)
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def _made_folders_removed(plan: RunPlan) -> Iterator[None]:
    """Remove those folders for stage and output in the end that the run made and that hold nothing."""
    folders = [plan.stage_parent] + ([os.path.dirname(plan.place.store)] if plan.place else [])
    missing = [path for folder in folders for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def _stage_directory(plan: RunPlan) -> Iterator[str]:
    """Make the stage directory; keep it after a failure where it has a place of its own."""
    path = os.path.join(plan.stage_parent, plan.stage_name)
    _clear_old_stage(path, overwrite=bool(plan.options.overwrite))
    os.makedirs(path)
    logger.info("staging in %s", path)
    has_place = plan.place is not None or plan.options.stage_dir is not None
    try:
        yield path
    except BaseException as error:
        if has_place and is_stage(path):
            anew = "; overwrite=True starts anew." if plan.place is not None else "."
            error.add_note(f"The stage is kept at {path}{anew}")
        else:
            shutil.rmtree(path)
        raise
    if plan.options.keep_stage:
        logger.info("the stage is kept at %s", path)
    else:
        remove_stage(path)


def _clear_old_stage(path: str, *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not is_stage(path):
        raise FileExistsError(f"{path} is in the way and not from blockbuster; move it elsewhere.")
    if not overwrite:
        raise FileExistsError(
            f"{path} holds the stage of an earlier run that did not finish; overwrite=True starts anew."
        )
    remove_stage(path)
