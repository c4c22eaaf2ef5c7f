"""Tile shapes for Cellpose: several cells wide, with its network's memory counted."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterable

from numpy.typing import DTypeLike

from blockbuster.execution.execution import Execution, find_execution
from blockbuster.tiling.heuristics import (
    MemoryBudget,
    check_dtype,
    check_shape,
    least_lengths,
    measure_budget,
    plan_tile_shape,
    region_voxels,
    voxels_for_balance,
)
from blockbuster.tiling.network import NETWORK_DIAMETER, NETWORK_SIDE, NetworkMemory, TileFit, network_memory

logger = logging.getLogger("blockbuster")

Shape = tuple[int, ...]

# Least width and depth in diameters; the first that fits into memory counts.
MIN_DIAMETERS = ((8, 4), (6, 3), (4, 2))
# A cell at the seam lies whole in both tiles.
HALO_DIAMETERS = 2
# Larger tiles save next to no halo, while a crash loses more; a processor takes minutes for one of
# 2048 x 2048.
MAX_VOXELS = 2**24
MAX_ON_PROCESSOR_2D = 2**22
# What a run holds in each process: compiled kernels and tables, which took 73 MiB, and for each
# thread a brick of the image and of labels.
RUN_BYTES = 100 * 2**20
MAX_BRICK_VOXELS = 2**24
# What a process of its own holds before the model is loaded: with PyTorch and Cellpose it was 366
# to 574 MiB.
PROCESS_BYTES = 600 * 2**20
# Share of a worker's limit, above which dask gives it no work.
WORKER_SHARE = 0.8


def auto_tile_shape_cellpose(
    shape: Iterable[int],
    dtype: DTypeLike,
    *,
    diameter: float | None = NETWORK_DIAMETER,
    use_gpu: bool = False,
    do_3D: bool = False,
    batch_size: int = 8,
) -> Shape:
    """Choose a tile for Cellpose: several cells wide at least, and as large as memory allows.

    Parameters
    ----------
    shape : iterable of int
        Shape of the image in voxels, slowest axis first; y and x are the last two axes, with
        `do_3D` z is the one before them.
    dtype : dtype-like
        Type of the image's voxels: boolean, integer, float or complex.
    diameter : float, optional
        Diameter of a cell in pixels. ``None``: 30, the one Cellpose is trained on.
    use_gpu : bool
        Size by free VRAM too, and for one tile at a time. Without a usable GPU: a
        BlockbusterWarning, and only RAM counts.
    do_3D : bool
        Tiles for a model that segments volumes. Otherwise every axis before y and x gets tiles of
        1.
    batch_size : int
        As given to Cellpose: how many squares of 256 pixels its network gets at once.

    Returns
    -------
    tuple of int
        Tile shape without halo, at least 1 and at most the image along each axis. Where the image
        does, y and x span 8 diameters at least, and with `do_3D` z spans 4; with little memory only
        6 and 3, or 4 and 2. Planes never span less than 256 pixels.

    Raises
    ------
    TypeError
        If `shape`, `dtype`, `diameter` or `batch_size` has the wrong type.
    ValueError
        If `shape` is negative or has too few axes, `diameter` is not positive and finite, or
        `batch_size` is less than 1.

    Notes
    -----
    *What is counted.* Seven eighths of the free memory hold the model of the installed Cellpose
    (without one: of Cellpose 4), and for the tile that is evaluated, its halo of two diameters
    included, the larger of what the network takes (squares of 256 pixels, a batch of them at once,
    and its answer for the image resampled to cells of 30 pixels and, for volumes, padded to 256)
    and of what making masks takes (in planes 410 bytes a pixel with Cellpose 4 or on a GPU, 110
    with Cellpose 3; in volumes 120 bytes a voxel). These numbers lie above all peaks that were
    measured, on a processor, with ``python -m benchmarks.models_memory``; see docs/benchmarks.md
    for them. No GPU was measured.

    *What else runs.* Threads of a process share one model and take turns to evaluate, as those of
    `plugins.cellpose.cellpose_fn` do; a function of your own does with `plugins.evaluation_turn`.
    Left out of the free memory are 100 MiB for the run, and for each thread the image and the
    labels of up to 2**24 voxels. Processes of dask's configured scheduler share the memory, each
    for 600 MiB of its own, all this, a model and a tile. A worker of the active client has 0.8 of
    its limit, if there is one, whatever is free here.

    *Largest tile.* 2**24 voxels; on a processor, which takes minutes for a plane of 2048 x 2048,
    2**22 pixels.

    Where memory does not suffice for 4 diameters, the tile is that wide nonetheless, and a warning
    is logged: smaller ones would be mostly halo, and hardly take less.

    Examples
    --------
    >>> auto_tile_shape_cellpose((5, 40, 250, 200), "uint16", diameter=25)
    (1, 1, 250, 200)
    """
    image = check_shape(shape)
    itemsize = check_dtype(dtype).itemsize
    cell = _check_diameter(diameter)
    _check_axes(image, do_3D)
    n_spatial = 3 if do_3D else 2
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral):
        raise TypeError(f"batch_size is {batch_size!r}; it must be an integer, as given to Cellpose, e.g. 8.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more, as given to Cellpose.")
    stack = (1,) * (len(image) - n_spatial) + tuple(max(1, length) for length in image[-n_spatial:])
    # A cell is at least a pixel wide, and one wider than the image needs no more than the image.
    cell = min(max(1.0, cell), max(NETWORK_DIAMETER, *stack))
    execution = find_execution(one_at_a_time=use_gpu)
    brick_bytes = min(MAX_BRICK_VOXELS, math.prod(image)) * (itemsize + 4)
    budget = _budget_of_process(measure_budget(use_gpu=use_gpu), execution, brick_bytes)
    # Besides what Cellpose sees: the image, and labels in int32 as fn returns them and as written.
    voxel_bytes = itemsize + 2 * 4
    halo = math.ceil(HALO_DIAMETERS * cell)
    most = MAX_VOXELS if use_gpu or do_3D else MAX_ON_PROCESSOR_2D
    memory = network_memory(n_spatial, on_gpu=use_gpu)
    tile_bytes = budget.network_bytes - memory.model
    for wide, deep in MIN_DIAMETERS:
        z, yx = math.ceil(deep * cell), math.ceil(wide * cell)
        # Planes are padded to the side of the network's squares; masks hardly take more than those.
        minimum = (z, yx) if do_3D else (1, max(NETWORK_SIDE, yx))
        least = least_lengths(stack[-n_spatial:], minimum)
        with_halo = tuple(map(min, stack[-n_spatial:], (length + 2 * halo for length in least)))
        fit = TileFit(with_halo, voxel_bytes, cell, batch_size)
        voxels = memory.most_voxels(tile_bytes, fit)
        balanced = voxels_for_balance(stack, execution.n_processes or 1, most, minimum)
        tile = plan_tile_shape(stack, voxels, max_voxels=balanced, halo=halo, minimum=minimum)
        tile = (*tile[:-n_spatial], *map(max, tile[-n_spatial:], least))
        needed = memory.tile_bytes(region_voxels(tile, stack, halo), fit)
        if needed <= tile_bytes:
            break
    if needed > tile_bytes or memory.loading > budget.free_bytes:
        _warn_of_memory(tile, needed, memory, budget, execution)
    return tile


def _budget_of_process(budget: MemoryBudget, execution: Execution, brick_bytes: int) -> MemoryBudget:
    """Return what each process that evaluates tiles has for Cellpose."""
    n_processes = execution.n_processes or 1
    held = RUN_BYTES + max(2, math.ceil(execution.n_workers / n_processes)) * brick_bytes
    if execution.n_processes is not None:
        held += PROCESS_BYTES
    limits = dict(budget.limits)
    vram = {"VRAM": limits.pop("VRAM")} if "VRAM" in limits else {}
    if execution.worker_bytes is not None:
        limits = {"worker": int(WORKER_SHARE * execution.worker_bytes)}
    limits = {name: n // (1 if name == "worker" else n_processes) - held for name, n in limits.items()}
    return MemoryBudget(limits | vram, 1)


def _warn_of_memory(
    tile: Shape, needed: int, memory: NetworkMemory, budget: MemoryBudget, execution: Execution
) -> None:
    remedy = "a smaller batch_size"
    if execution.n_processes is not None:
        remedy = f"fewer workers with more memory, or {remedy}"
    logger.warning(
        "memory may not suffice for Cellpose: a tile of %s, the least that is of use, takes %.1f GiB with a halo "
        "of %d diameters, beside a network of %.1f GiB, and loading that %.1f GiB, in each of %d processes (free "
        "for each: %s). Use %s.",
        tile,
        needed / 2**30,
        HALO_DIAMETERS,
        memory.model / 2**30,
        memory.loading / 2**30,
        execution.n_processes or 1,
        budget.sources,
        remedy,
    )


def _check_diameter(diameter: float | None) -> float:
    if diameter is None:
        return NETWORK_DIAMETER
    if isinstance(diameter, bool) or not isinstance(diameter, numbers.Real):
        raise TypeError(f"diameter is {diameter!r}; it must be a number of pixels, e.g. 30, or None for 30.")
    if not (math.isfinite(diameter) and diameter > 0):
        raise ValueError(f"diameter is {diameter}; it must be a positive, finite number of pixels, e.g. 30.")
    return float(diameter)


def _check_axes(image: Shape, volume: bool) -> None:
    if volume and len(image) < 3:
        raise ValueError(f"shape is {image}; do_3D=True needs z, y and x. Use do_3D=False for a plane.")
    if len(image) < 2:
        raise ValueError(f"shape is {image}; Cellpose needs y and x. Give an image of two axes or more.")
