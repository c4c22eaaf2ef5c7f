"""tile_process: plan, stage, merge."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np

from blockbuster.run.options import Overlap, RunOptions, TileShape
from blockbuster.run.plan import make_plan
from blockbuster.run.run import open_run, refuse_in_starting_worker

if TYPE_CHECKING:
    import dask.array as da

    from blockbuster.report import RunReport

__all__ = ["tile_process"]

Function = Callable[[np.ndarray], Any]
Path = str | os.PathLike[str]


class _Others(TypedDict, total=False):
    """The arguments on which the type of the result does not depend."""

    tile_shape: TileShape
    overlap: Overlap
    channel: int | None
    level: int
    use_gpu: bool
    progress: bool
    output_component: str | Mapping[str, str]
    sequential_labels: bool
    skip_empty: bool
    empty_threshold: float | None
    stage_dir: Path | None
    keep_stage: bool
    verbose: bool
    axes: str | None
    merge: str
    min_agreement: float
    connectivity: int | None
    merge_axes: str | None
    resume: bool
    fn_version: str | None
    overwrite: bool
    retries: int
    on_error: str
    tiles_per_task: int | None
    measure: bool | Sequence[str] | None
    mask: Any
    parents: str | Sequence[str] | None


No = Literal[False]
Yes = Literal[True]


# fmt: off
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: None = None, compute: bool = ..., return_report: No = ...,
    **others: Unpack[_Others]
) -> np.ndarray: ...
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: None = None, compute: bool = ..., return_report: Yes,
    **others: Unpack[_Others]
) -> tuple[np.ndarray, RunReport]: ...
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: Path, compute: Yes, return_report: No = ...,
    **others: Unpack[_Others]
) -> np.ndarray: ...
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: Path, compute: Yes, return_report: Yes,
    **others: Unpack[_Others]
) -> tuple[np.ndarray, RunReport]: ...
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: Path, compute: No = ..., return_report: No = ...,
    **others: Unpack[_Others]
) -> da.Array: ...
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: Path, compute: No = ..., return_report: Yes,
    **others: Unpack[_Others]
) -> tuple[da.Array, RunReport]: ...
@overload
def tile_process(
    image: Any, fn: Function, *, write_to: Path | None, compute: bool = ..., return_report: bool = ...,
    **others: Unpack[_Others]
) -> Any: ...
# fmt: on
def tile_process(
    image: Any,
    fn: Function,
    *,
    tile_shape: TileShape = None,
    overlap: Overlap = 0,
    channel: int | None = 0,
    level: int = 0,
    use_gpu: bool = False,
    compute: bool = False,
    progress: bool = False,
    write_to: Path | None = None,
    output_component: str | Mapping[str, str] = "labels",
    sequential_labels: bool = False,
    skip_empty: bool = False,
    empty_threshold: float | None = None,
    stage_dir: Path | None = None,
    keep_stage: bool = False,
    verbose: bool = False,
    axes: str | None = None,
    merge: str = "touch",
    min_agreement: float = 0.4,
    connectivity: int | None = None,
    merge_axes: str | None = None,
    resume: bool = False,
    fn_version: str | None = None,
    overwrite: bool = False,
    retries: int = 0,
    on_error: str = "raise",
    tiles_per_task: int | None = None,
    return_report: bool = False,
    measure: bool | Sequence[str] | None = None,
    mask: Any = None,
    parents: str | Sequence[str] | None = None,
) -> Any:
    """Apply a segmentation function to every tile of an image and merge the labels.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray, zarr.Array or blockbuster.source.Source
        An OME-Zarr store, a plain zarr array (path or URL), or an array. It is never written to.
    fn : callable
        ``(ndarray) -> ndarray``: takes a tile with its halo, returns integer labels of the same
        shape, 0 = background; or a dict of name to such labels, of the same names for every tile.
        Pickled with cloudpickle where other processes run it.
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
        Size ``"auto"`` tiles by free GPU memory, and call fn for one tile of a process at a time.
        Without a dask client two tasks of one tile take turns, so that one reads while the other
        evaluates.
    compute : bool
        Return a NumPy array now.
    progress : bool
        Show progress bars that count tiles.
    write_to : path, optional
        A zarr group on the file system that takes the labels; made where it does not exist.
    output_component : str or dict of str to str
        Name of the label array inside `write_to`. In an OME-Zarr image ``"labels/NAME"``: an
        OME-NGFF label image with the levels, axes and scales of the image, listed among its labels.
        Where fn returns a dict: with ``{}`` in place of the name of a result, ``"labels/{}"``, or
        each result's name with its place. Each is merged, measured and kept as if fn returned it
        alone, and all become visible together.
    sequential_labels : bool
        Number the objects 1..N. Otherwise ids are unique, but there may be gaps.
    skip_empty : bool
        Do not call fn for tiles whose maximum, halo included, is not above `empty_threshold`.
    empty_threshold : float, optional
        ``None``: Otsu's threshold of a bounded sample, lowered where background does not reach it.
    stage_dir : path, optional
        Folder for the temporary stage. ``None``: beside `write_to`, else beside the input where
        that can be written to, else the system's temporary directory.
    keep_stage : bool
        Keep the stage after success. After a failure it is kept where `write_to` or `stage_dir`
        gives it a place, so that ``resume=True`` can continue.
    verbose : bool
        Log each tile's position and shape.
    axes : str, optional
        One letter per axis, e.g. ``"tzyx"``; read from the metadata of an OME-Zarr store. Axes
        ``t`` and ``c`` get no halo and labels are never joined across them: an id that fn gives
        again at another time, or in another channel, is another object, inside a tile too.
    merge : {"touch", "agree", "none"}
        Which labels are one object: ``"touch"``: those that touch across a seam, right for
        separated objects and for thresholds. ``"agree"``: those that touch and of which the two
        tiles predict the same in the halo that both have seen, unless more tiles tell the two
        objects apart, right for dense tissue; an object that one tile saw whole and the other not
        at all is completed beyond the seam. ``"none"``: no two, every tile keeps its own.
    min_agreement : float
        For ``merge="agree"``: least share, 0 to 1, of one piece that lies in the other, where
        pieces are the connected parts of two labels, inside the region that both tiles predicted,
        that contain the touching voxels: of the piece that its tile saw cut off there, else of the
        smaller one. 0 is the same as ``"touch"``. Without a halo across a seam, the two planes that
        touch are compared, laid on each other.
    connectivity : int, optional
        Which neighbours across a seam touch: 1 = faces ... ndim = corners too. ``None``: 1, and
        ndim with ``merge="agree"``.
    merge_axes : str, optional
        Axes along which labels are joined, e.g. ``"yx"``; ``None``: all but t and c. Along the
        others every position has objects of its own, whatever the length of tiles there.
    resume : bool
        Continue an interrupted run from its stage, with its tiles, threshold and tasks; a stage
        that another image, function or setting made is refused. Begins anew where there is none,
        and returns a finished output of the very same call at once. Needs `write_to` or
        `stage_dir`.
    fn_version : str, optional
        Stands for fn where its code cannot be read (compiled code, network weights): two functions
        of one name with the same string are taken to be the same. Given for the first time, it
        continues a run of a function whose code is the same, and whose files, lists and the like
        are not.
    overwrite : bool
        Replace an existing label array, once the new one is complete; start anew where an
        unfinished stage lies.
    retries : int
        How often a tile that failed, in fn or while it was read, is tried again.
    on_error : {"raise", "skip"}
        ``"raise"``: stop at the first failed tile, and keep what is finished. ``"skip"``: failed
        tiles become background, and are listed in the report and a warning.
    tiles_per_task : int, optional
        How many neighbouring tiles are read, scheduled and stored together; ``None``: chosen. It
        never changes the result.
    return_report : bool
        Return ``(labels, RunReport)``.
    measure : True or list of str, optional
        Measure every object while its tiles are in memory, and write a table of them beside the
        labels, for `read_objects`: label, voxels, bounding box, centroid, second moments, whether
        it touches the image's border, tiles it spans, and how far tiles agree at its weakest seam,
        by the names of `skimage.measure.regionprops_table`, besides in micrometres where the scale
        is known. A list adds ``"extent"``, ``"eccentricity"``, ``"orientation"``, and of the values
        of every channel ``"intensity_mean"``, ``_min``, ``_max``, ``_sum``, ``_std``, or of one:
        ``"intensity_mean-DAPI"``. Without `write_to` the table is ``report.objects``, a DataFrame.
        Needs the extra ``table``.
    mask : array or path, optional
        Booleans, or labels of which 0 is outside, at any resolution: fn is not called for tiles
        whose core does not meet it, and nothing of them is read. Where it lies its OME-Zarr
        metadata say, and those of the image; else it covers the image. Along axes that it lacks,
        such as z or channels, or has one voxel of, it holds everywhere. Labels are not clipped:
        what fn sees in a tile does not depend on the mask.
    parents : str or list of str, optional
        Where fn returns a dict and objects are measured: ``"nuclei:cells"`` adds a column
        ``parent-cells`` to the table of nuclei, the id of the object of cells that covers most
        voxels of each, 0 where none does.

    Returns
    -------
    numpy.ndarray or dask.array.Array
        Labels of the image's shape, without a channel axis that `channel` or fn took away, int32,
        or int64 for more than 2**31 - 1 objects: a dask array backed by `write_to` when that is
        given and `compute` is not, else a NumPy array. Where fn returns a dict, a dict of them.

    Raises
    ------
    TypeError, ValueError, FileExistsError, FileNotFoundError
        For the arguments, all in one message, before any work; also if `resume` finds the stage of
        another run, or finished work lies in the stage and neither `resume` nor `overwrite` was
        given.
    TileError
        If fn fails on a tile, or returns something else than labels, or results of other names than
        for another tile.
    PermissionError
        If another user made the stage, or the lock of a run that has ended and in whose folder only
        they can remove it.
    RuntimeError
        If a dask client is active whose workers live in this process, or another run makes this
        output now.
    OSError
        If the disk is full, or a staged file is missing or damaged.

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
    refuse_in_starting_worker()
    options = RunOptions(
        tile_shape=tile_shape,
        overlap=overlap,
        channel=channel,
        level=level,
        use_gpu=use_gpu,
        compute=compute,
        progress=progress,
        write_to=write_to,
        output_component=output_component,
        sequential_labels=sequential_labels,
        skip_empty=skip_empty,
        empty_threshold=empty_threshold,
        stage_dir=stage_dir,
        keep_stage=keep_stage,
        verbose=verbose,
        axes=axes,
        merge=merge,
        min_agreement=min_agreement,
        connectivity=connectivity,
        merge_axes=merge_axes,
        resume=resume,
        fn_version=fn_version,
        overwrite=overwrite,
        retries=retries,
        on_error=on_error,
        tiles_per_task=tiles_per_task,
        return_report=return_report,
        measure=measure,
        mask=mask,
        parents=parents,
    )
    plan = make_plan(image, fn, options)
    with open_run(plan, fn) as run:
        if not run.is_finished:
            run.stage()
            run.merge()
        return run.result()
