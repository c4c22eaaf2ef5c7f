"""How large a tile may be: planning in integers, and asking how much memory is free."""

from __future__ import annotations

import bisect
import functools
import logging
import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from blockbuster.execution.memory import ram_limits, vram_bytes_or_warn
from blockbuster.tiling.network import NETWORK_SIDE, TileFit, network_memory

logger = logging.getLogger("blockbuster")

Shape = tuple[int, ...]

# 4096 x 4096 or 256 x 256 x 256. Larger tiles save next to no halo, while progress, load balance
# and what a crash loses get coarser.
MAX_TILE_VOXELS = 2**24
# 1024 x 1024. Only to occupy more CPUs, nothing is cut smaller: halo and calls would eat the gain.
MIN_BALANCED_VOXELS = 2**20
TILES_PER_WORKER = 2
# With next to nothing free, smaller tiles than this would cost time and save nothing.
MIN_BUDGET_BYTES = 2**20
# Lengths in voxels down to which z, and y and x, are kept while other axes can still give way:
# thinner tiles would be mostly halo to a 3-D function.
MINIMUM_Z, MINIMUM_YX = 32, 256
ASSUMED_HALO = 32


def auto_tile_shape(
    shape: Iterable[int],
    dtype: DTypeLike,
    *,
    target_bytes: int | None = None,
    use_gpu: bool = False,
    verbose: bool = False,
) -> Shape:
    """Choose a tile such that all tiles running at once fit half the memory this process has.

    Parameters
    ----------
    shape : iterable of int
        Shape of the image in voxels, slowest axis first, e.g. ``(t, c, z, y, x)``. An axis of
        length 0 gets a tile of 1.
    dtype : dtype-like
        Type of the image's voxels: boolean, integer, float or complex.
    target_bytes : int, optional
        Bytes for one tile, everything included. ``None``: half the free memory, shared by the
        tiles that run at once, and at most 2**24 voxels (4096 x 4096, 256 x 256 x 256).
    use_gpu : bool
        Size by free VRAM too, and for one tile at a time. Without a usable GPU: a
        BlockbusterWarning, and only RAM counts.
    verbose : bool
        Log the choice and what led to it to the logger ``"blockbuster"``, at level INFO.

    Returns
    -------
    tuple of int
        Tile shape without halo, at least 1 and at most the image along each axis.

    Raises
    ------
    TypeError
        If `shape`, `dtype` or `target_bytes` has the wrong type.
    ValueError
        If `shape` is empty or negative, or `target_bytes` does not hold a single voxel.

    Notes
    -----
    *Which axes.* Leading axes are reduced first: t, then c, and so on down to 1, then z down to 32,
    then y and x, evenly, down to 256; only when that does not suffice, z to 1, then y and x
    further. A cut axis is cut into nearly equal pieces, rounded up to a multiple of 256 (of less
    for shorter tiles): tiles align with storage, and where they are few the last one is no sliver.

    *Memory of a tile.* `bytes_per_voxel` times the tile's voxels with a halo on both sides of
    ``min(32, length / 4)`` voxels per axis, clamped to the image, none where the tile is 1 long.
    A function that needs more per voxel, or a wider halo, wants a smaller `target_bytes`.

    *On a GPU.* With `use_gpu`, and where there is one, a tile is sized such that Cellpose 4,
    network and all, takes seven eighths of the free memory at most. `auto_tile_shape_cellpose` also
    asks for the cells' diameter.

    *Tiles at once.* ``dask.config["num_workers"]`` or else the CPUs this process may use; 1
    with `use_gpu`. When `target_bytes` is not given, the tile is also small enough for two tiles
    per worker, as far as it keeps 2**20 voxels, z of 32 and y and x of 256.

    The result depends on this machine's memory at this moment unless `target_bytes` is given.
    The cost is that of reading some ten small files.

    Examples
    --------
    >>> auto_tile_shape((3, 64, 9000, 9000), "uint16", target_bytes=2**30)
    (1, 32, 832, 832)
    >>> auto_tile_shape((512, 512), "uint8", target_bytes=2**30)
    (512, 512)
    """
    image = check_shape(shape)
    voxel_bytes = bytes_per_voxel(check_dtype(dtype))
    if target_bytes is not None:
        voxels, most = _check_target_bytes(target_bytes, voxel_bytes) // voxel_bytes, math.inf
        reason = f"target_bytes={target_bytes}"
    else:
        budget = measure_budget(use_gpu=use_gpu)
        voxels = budget.tile_bytes // voxel_bytes
        most = voxels_for_balance(image, budget.n_running, MAX_TILE_VOXELS)
        if "VRAM" in budget.limits:
            # A tile for which a GPU holds what the newest Cellpose does.
            minimum = least_lengths((1, 1, *image), (MINIMUM_Z, MINIMUM_YX))
            fit = TileFit(minimum if minimum[0] > 1 else minimum[1:], voxel_bytes)
            memory = network_memory(len(fit.least), on_gpu=True, version="4")
            # Below the side of the network's squares, a smaller tile saves nothing.
            voxels = max(NETWORK_SIDE**2, memory.most_voxels(budget.network_bytes - memory.model, fit))
        reason = f"{budget}; at most {most} voxels a tile"
    tile = plan_tile_shape(image, voxels, max_voxels=most)
    if verbose:
        needed = _format_bytes(region_voxels(tile, tuple(max(1, n) for n in image)) * voxel_bytes)
        message = "tile %s for an image of %s: %s with its halo, at %d bytes per voxel (%s)"
        logger.info(message, tile, image, needed, voxel_bytes, reason)
    return tile


def worker_tile_bytes(dtype: DTypeLike, task_bytes: int) -> int:
    """Return the bytes for a tile on a cluster's worker: half of what it has, if that is useful.

    Parameters
    ----------
    dtype : dtype-like
        Type of the image's voxels.
    task_bytes : int
        What a worker may take in all, shared by its threads.

    Examples
    --------
    >>> for n_bytes in (2**31, 2**29):
    ...     target_bytes = worker_tile_bytes("uint16", n_bytes)
    ...     print(auto_tile_shape((10**5, 10**5), "uint16", target_bytes=target_bytes))
    (4096, 4096)
    (3072, 3072)
    """
    voxel_bytes = bytes_per_voxel(check_dtype(dtype))
    largest = region_voxels((4096, 4096), (MAX_TILE_VOXELS,) * 2) * voxel_bytes
    return max(MIN_BUDGET_BYTES, min(task_bytes // 2, largest))


def plan_tile_shape(
    shape: Shape,
    region: int,
    *,
    max_voxels: float = math.inf,
    halo: int | None = None,
    minimum: tuple[int, int] = (MINIMUM_Z, MINIMUM_YX),
) -> Shape:
    """Find the largest tile of `shape` that fits, in integers alone.

    From one voxel the tile grows: y and x together to ``minimum[1]``, z to ``minimum[0]``, y and x
    to the whole plane, then z and every axis before it to the whole image; the last step that
    fits decides. Reading it backwards: the leading axes are reduced first.

    Parameters
    ----------
    shape : tuple of int
        Shape of the image in voxels, at least one axis.
    region : int
        Most voxels of a tile with its halo.
    max_voxels : float
        Most voxels of a tile without its halo.
    halo : int, optional
        Halo per side in voxels to allow for, see `region_voxels`.
    minimum : tuple of int
        Lengths of z, and of y and x, in voxels that are reached before other axes grow on.

    Returns
    -------
    tuple of int
        Tile shape. All ones when nothing larger fits.

    Notes
    -----
    A larger `region` or `max_voxels` never makes any axis shorter.

    Examples
    --------
    >>> plan_tile_shape((10000, 10000), 2**28 // 26)
    (2560, 2560)
    >>> plan_tile_shape((60, 10000, 10000), 2**28 // 26)
    (30, 384, 384)
    """
    image = tuple(max(1, length) for length in shape)

    def too_large(tile: Shape) -> bool:
        return math.prod(tile) > max_voxels or region_voxels(tile, image, halo) > region

    tile = (1,) * len(image)
    for axes, limit in _growth_steps(image, minimum):
        grown = functools.partial(_grow, tile, image, axes)
        n_fitting = bisect.bisect_left(range(1, limit + 1), True, key=lambda side: too_large(grown(side)))
        tile = grown(n_fitting)
        if n_fitting < limit:
            break
    return tuple(_even_length(length, longest) for length, longest in zip(image, tile, strict=True))


def region_voxels(tile_shape: Shape, shape: Shape, halo: int | None = None) -> int:
    """Count the voxels of a tile with the halo that sizing allows for.

    Parameters
    ----------
    tile_shape, shape : tuple of int
        Tile without halo, and image, in voxels.
    halo : int, optional
        Voxels per side. ``None``: 32, or a quarter of the tile's length, rounded up, where that is
        less. A tile that is 1 long has none, as a number given as ``overlap`` means.

    Returns
    -------
    int
        Voxels; the halo never counts beyond the image.

    Examples
    --------
    >>> region_voxels((1, 100, 100), (50, 1000, 120), halo=16)
    15840
    """
    lengths = []
    for tile, length in zip(tile_shape, shape, strict=True):
        depth = min(ASSUMED_HALO, -(-tile // 4)) if halo is None else halo
        lengths.append(min(length, tile + 2 * depth) if tile > 1 else 1)
    return math.prod(lengths)


def bytes_per_voxel(dtype: np.dtype[Any]) -> int:
    """Estimate what one voxel costs while its tile is in work.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of the image's voxels.

    Returns
    -------
    int
        Bytes: the voxel itself, two working copies of ``fn`` in float64 (what SciPy and
        scikit-image filters promote to) or wider, and two of its label in int32 (as ``fn``
        returns it, as it is written).

    Examples
    --------
    >>> bytes_per_voxel(np.dtype("uint16"))
    26
    """
    return dtype.itemsize + 2 * max(8, dtype.itemsize) + 2 * 4


def voxels_for_balance(
    shape: Shape, n_running: int, most: int, minimum: tuple[int, int] = (MINIMUM_Z, MINIMUM_YX)
) -> int:
    """Limit a tile's voxels so that every worker gets two tiles where these stay worth a call.

    Parameters
    ----------
    shape : tuple of int
        Shape of the image in voxels.
    n_running : int
        Tiles that run at once. 1: there is nothing to balance.
    most : int
        Limit in voxels for an image of any size.
    minimum : tuple of int
        Lengths of z, and of y and x, in voxels that no tile is cut below for balance.

    Returns
    -------
    int
        Voxels, at most `most`.

    Examples
    --------
    >>> voxels_for_balance((4096, 4096), n_running=8, most=2**24) == 1024 * 1024
    True
    """
    if n_running == 1:
        return most
    share = math.prod(shape) // (TILES_PER_WORKER * n_running)
    return min(most, max(MIN_BALANCED_VOXELS, math.prod(least_lengths(shape, minimum)), share))


@dataclass(frozen=True)
class MemoryBudget:
    """Free memory and the number of tiles that share half of it.

    Parameters
    ----------
    limits : dict of str to int
        Free bytes by source; the least counts.
    n_running : int
        Tiles that run at once.

    Examples
    --------
    >>> MemoryBudget({"system": 64 * 2**20, "cgroup": 32 * 2**20}, n_running=4).tile_bytes // 2**20
    4
    """

    limits: dict[str, int]
    n_running: int

    @property
    def free_bytes(self) -> int:
        """Free bytes by the source that has least, 0 or more."""
        return max(0, min(self.limits.values()))

    @property
    def network_bytes(self) -> int:
        """Seven eighths of what is free, for a network whose memory was measured."""
        return self.free_bytes * 7 // 8

    @property
    def tile_bytes(self) -> int:
        """A tile's share of half of what is free, at least 1 MiB."""
        return max(MIN_BUDGET_BYTES, self.free_bytes // 2 // self.n_running)

    @property
    def sources(self) -> str:
        """All sources and their free bytes, as text."""
        return ", ".join(f"{name} {_format_bytes(n)}" for name, n in self.limits.items())

    def __str__(self) -> str:
        """Name all sources and their free bytes."""
        return f"free memory: {self.sources}; half of the least for {self.n_running} tiles at once"


def measure_budget(*, use_gpu: bool) -> MemoryBudget:
    """Ask how much memory is free, and for how many tiles at once.

    Parameters
    ----------
    use_gpu : bool
        Count free VRAM among the limits, and one tile at a time. Without a usable GPU: a
        warning.

    Returns
    -------
    MemoryBudget

    Notes
    -----
    A budget that falls below 1 MiB for each tile is logged as a warning.

    Examples
    --------
    >>> measure_budget(use_gpu=False).n_running >= 1
    True
    """
    from dask import config
    from dask.system import CPU_COUNT

    limits = ram_limits()
    vram = vram_bytes_or_warn() if use_gpu else None
    if vram is not None:
        limits["VRAM"] = vram
    n_workers = max(1, int(config.get("num_workers", None) or CPU_COUNT))
    budget = MemoryBudget(limits, 1 if use_gpu else n_workers)
    if budget.free_bytes < 2 * budget.n_running * MIN_BUDGET_BYTES:
        logger.warning("memory is nearly exhausted (%s); tiles are sized for 1 MiB each", budget)
    return budget


def check_shape(shape: Iterable[int]) -> Shape:
    """Return the shape of an image as a tuple of int, or raise.

    Parameters
    ----------
    shape : iterable of int
        At least one axis; lengths of 0 or more voxels.

    Returns
    -------
    tuple of int

    Raises
    ------
    TypeError
        If it is not a sequence of integers.
    ValueError
        If it is empty or a length is negative.

    Examples
    --------
    >>> check_shape([4, 5])
    (4, 5)
    """
    try:
        lengths = tuple(operator.index(length) for length in shape)
    except TypeError:
        raise TypeError(
            f"shape is {shape!r}; it must be a tuple of integers, one per axis. "
            "For a dask array with unknown chunks (nan), call compute_chunk_sizes() first."
        ) from None
    if not lengths:
        raise ValueError("shape is (); it must have at least one axis. Give the image's shape.")
    if min(lengths) < 0:
        raise ValueError(f"shape is {lengths}; every length is a number of voxels, 0 or more.")
    return lengths


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of an image as a NumPy dtype of numbers, or raise.

    Parameters
    ----------
    dtype : dtype-like
        Boolean, integer, float or complex, in any byte order.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    TypeError
        If it is ``None``, is not understood by NumPy, or does not stand for numbers.

    Examples
    --------
    >>> check_dtype(">u2").itemsize
    2
    """
    try:
        # NumPy takes None for float64, which would hide a forgotten argument.
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.kind not in "biufc":
        raise TypeError(f"dtype is {dtype!r}; it must be a NumPy dtype of numbers, e.g. 'uint16' or image.dtype.")
    return found


def least_lengths(shape: Shape, minimum: tuple[int, int]) -> Shape:
    """Return the least lengths of a tile along the last three axes, as far as the image goes."""
    minimum_z, minimum_yx = minimum
    enough = (minimum_z, minimum_yx, minimum_yx)[-len(shape) :]
    return tuple(max(1, min(length, least)) for length, least in zip(shape[-len(enough) :], enough, strict=True))


def _check_target_bytes(target_bytes: int, voxel_bytes: int) -> int:
    if isinstance(target_bytes, bool) or not hasattr(target_bytes, "__index__"):
        raise TypeError(
            f"target_bytes is {target_bytes!r}; it must be an integer number of bytes, "
            "e.g. 512 * 2**20, or None for half the free memory."
        )
    if target_bytes < voxel_bytes:
        raise ValueError(
            f"target_bytes is {target_bytes}; one voxel of this image takes {voxel_bytes} bytes "
            "with its label and working copies. Give at least that many."
        )
    return int(target_bytes)


def _growth_steps(image: Shape, minimum: tuple[int, int]) -> Iterator[tuple[range, int]]:
    """Yield the axes that grow together and the length they grow to, first step first."""
    n_leading = max(0, len(image) - 2)
    plane = range(n_leading, len(image))
    minimum_z, minimum_yx = minimum
    longest_in_plane = max(image[n_leading:])
    yield plane, min(minimum_yx, longest_in_plane)
    if n_leading:
        yield range(n_leading - 1, n_leading), min(minimum_z, image[n_leading - 1])
    yield plane, longest_in_plane
    for axis in reversed(range(n_leading)):
        yield range(axis, axis + 1), image[axis]


def _grow(tile: Shape, image: Shape, axes: range, side: int) -> Shape:
    """Lengthen these axes to `side`, as far as the image goes; none becomes shorter."""
    return tuple(
        max(length, min(side, whole)) if axis in axes else length
        for axis, (length, whole) in enumerate(zip(tile, image, strict=True))
    )


def _even_length(length: int, longest: int) -> int:
    """Return the length of nearly equal pieces of an axis, as few as `longest` allows."""
    if longest >= length:
        return length
    longest -= longest % _granule(longest)
    n_tiles = -(-length // longest)
    even = -(-length // n_tiles)
    return -(-even // _granule(even)) * _granule(even)


def _granule(length: int) -> int:
    """Return the power of two to round to: an eighth to a sixteenth of `length`, 256 at most."""
    return min(256, 1 << max(0, length.bit_length() - 4))


def _format_bytes(n_bytes: int) -> str:
    from dask.utils import format_bytes

    return str(format_bytes(n_bytes))
