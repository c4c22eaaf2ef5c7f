"""Tile shapes for Cellpose: several cells wide, with its network's memory counted."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterable

from numpy.typing import DTypeLike

from blockbuster.tiling.heuristics import (
    MemoryBudget,
    check_dtype,
    check_shape,
    measure_budget,
    plan_tile_shape,
    region_voxels,
    voxels_for_balance,
)

__all__ = ["auto_tile_shape_cellpose"]

logger = logging.getLogger("blockbuster")

Shape = tuple[int, ...]

# Cellpose resamples the image until a cell has this diameter.
NETWORK_DIAMETER = 30
DIAMETERS_WIDE, DIAMETERS_DEEP = 8, 4
# Cellpose runs its network on patches of 256 x 256; a smaller tile is padded to one.
SMALLEST_SIDE = 256
# Conservative estimates; the docstring says what was measured. Weights: the 305 million parameters of
# Cellpose 4 in float32. Activations: a batch of 8 patches, whose attention matrices alone take 0.5 GiB a copy.
WEIGHTS_BYTES = 5 * 2**28
ACTIVATIONS_BYTES = 3 * 2**29
# Normalised image, flows, probabilities, their resampled copies and the pixels' trajectories. Reports
# by users: over 92 bytes a pixel of VRAM in 2-D (MouseLand/cellpose issue 918), 325 bytes a voxel of
# RAM in 3-D (fractal-client issue 108).
BYTES_PER_VOXEL_2D, BYTES_PER_VOXEL_3D = 128, 384
LARGEST_VOXELS_2D, LARGEST_VOXELS_3D = 2**22, 2**24


def auto_tile_shape_cellpose(
    shape: Iterable[int],
    dtype: DTypeLike,
    *,
    diameter: float | None = NETWORK_DIAMETER,
    use_gpu: bool = False,
    do_3D: bool = False,
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
        Size by free VRAM too, and for one tile at a time. Without a usable GPU: a RuntimeWarning,
        and RAM alone counts.
    do_3D : bool
        Tiles for a model that segments volumes. Otherwise every axis before y and x gets tiles of 1.

    Returns
    -------
    tuple of int
        Tile shape without halo, at least 1 and at most the image along each axis. y and x span 8
        diameters and 256 pixels at least, with `do_3D` z spans 4 diameters at least, where the
        image does.

    Raises
    ------
    TypeError
        If `shape`, `dtype` or `diameter` has the wrong type.
    ValueError
        If `shape` is negative or has too few axes, or `diameter` is not positive and finite.

    Notes
    -----
    The memory model is an estimate, meant to err on the large side. Half the free
    memory holds the network's weights once (1.25 GiB) and for each tile that runs: 1.5 GiB of
    activations, and per voxel, halo included, the image's own bytes, 8 for two int32 labels and 128
    for Cellpose (384 with `do_3D`); these grow by ``(30 / diameter)`` squared (cubed) for
    cells smaller than 30 pixels, because Cellpose enlarges the image to that. The halo allowed for
    is a cell's diameter per side. A tile has 2**22 pixels (2**24 voxels) at most.

    Measured on a processor alone, with Cellpose 3.1.1 and a random network (``python -m
    benchmarks.models_memory``): 97 MiB for the model; in batches of 8 patches a peak of 0.57 GiB for a tile of
    512 x 512 pixels, 0.65 GiB for 1024 x 1024 and 0.87 GiB for 2048 x 2048, 75 to 81 bytes for each further
    pixel; 0.66 GiB for 512 x 512 with a diameter of 15. No GPU was measured, and too little of volumes and of
    Cellpose 4 to fit the model to.

    Where memory does not suffice for the least width, the tile has that width nonetheless, and a
    warning is logged: Cellpose cannot see cells in less.

    References
    ----------
    Memory that users met: MouseLand/cellpose issues 918 and 1002,
    fractal-analytics-platform/fractal-client issue 108.

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
    stack = (1,) * (len(image) - n_spatial) + tuple(max(1, length) for length in image[-n_spatial:])
    # A pixel is the least cell to see, and cells wider than the image ask for no more than the image.
    cell = min(max(1.0, cell), max(NETWORK_DIAMETER, *stack))
    return _plan(stack, itemsize, cell, measure_budget(use_gpu=use_gpu), n_spatial)


def _plan(image: Shape, itemsize: int, cell: float, budget: MemoryBudget, n_spatial: int) -> Shape:
    voxel_bytes = _bytes_per_voxel(itemsize, cell, n_spatial)
    halo = math.ceil(cell)
    least_yx = max(SMALLEST_SIDE, math.ceil(DIAMETERS_WIDE * cell))
    least = (math.ceil(DIAMETERS_DEEP * cell), least_yx)
    most = LARGEST_VOXELS_2D if n_spatial == 2 else LARGEST_VOXELS_3D
    planned = plan_tile_shape(
        image,
        voxel_bytes,
        _tile_bytes(budget),
        max_voxels=voxels_for_balance(image, budget.n_running, most, least),
        halo=halo,
        minimum=least,
    )
    tile = _widen(planned, image, (*least, least_yx))
    _warn_if_too_large(tile, region_voxels(tile, image, halo) * voxel_bytes, budget)
    return tile


def _bytes_per_voxel(itemsize: int, cell: float, n_spatial: int) -> int:
    """Count what one voxel of the image costs, all that Cellpose holds for it included."""
    per_voxel = BYTES_PER_VOXEL_2D if n_spatial == 2 else BYTES_PER_VOXEL_3D
    enlarged = max(1.0, NETWORK_DIAMETER / cell) ** n_spatial
    return itemsize + 2 * 4 + math.ceil(per_voxel * enlarged)


def _tile_bytes(budget: MemoryBudget) -> int:
    """Give what the network leaves for one tile's voxels; negative where not even the network fits."""
    return (budget.usable_bytes - WEIGHTS_BYTES) // budget.n_running - ACTIVATIONS_BYTES


def _widen(tile: Shape, image: Shape, least: Shape) -> Shape:
    """Lengthen the last axes to `least`, as far as the image goes."""
    wanted = ((1,) * len(tile) + least)[-len(tile) :]
    parts = zip(tile, image, wanted, strict=True)
    return tuple(max(length, min(whole, enough)) for length, whole, enough in parts)


def _warn_if_too_large(tile: Shape, needed_bytes: int, budget: MemoryBudget) -> None:
    if needed_bytes <= _tile_bytes(budget):
        return
    logger.warning(
        "memory may not suffice for Cellpose: a tile of %s, which is %d diameters wide, is estimated at "
        "%.1f GiB beside a network of %.2f GiB and %.1f GiB a tile (%s). "
        "Run fewer tiles at once, e.g. dask.config.set(num_workers=1).",
        tile,
        DIAMETERS_WIDE,
        needed_bytes / 2**30,
        WEIGHTS_BYTES / 2**30,
        ACTIVATIONS_BYTES / 2**30,
        budget,
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
