"""Tasks that trace the outlines in a brick of a label image, and leave them in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blockbuster.compat import Raised
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.kernels.jit import in_native_order
from blockbuster.objects.outlines import Chains, brick_file, trace_chains
from blockbuster.rundir.failpoints import reach
from blockbuster.source.base import Source
from blockbuster.stage.bricks import choose_bricks, limit_bricks

# Bricks of at most 2**22 voxels: in noise, an outline takes 32 bytes for each.
TILE_LENGTH, BRICK_TILES = 512, 16
# Between two labels that a task tells.
SAMPLED_VERTICES = 2**14


@dataclass(frozen=True)
class TraceJob:
    """What the tasks share that trace outlines.

    Parameters
    ----------
    source : Source or None
        The labels; ``None`` if they come through dask's graph.
    bricks : BrickGrid
        With a halo of one voxel along the last two axes.
    folder : str
        Takes a file for each brick.
    with_nodes : bool
        Whether vertices are wanted where a border between two labels ends.
    """

    source: Source | None
    bricks: BrickGrid
    folder: str
    with_nodes: bool


@dataclass(frozen=True)
class Traced:
    """What the process that drives knows of a brick.

    Parameters
    ----------
    number : int
        The brick.
    labels : (n,) ndarray of int64
        Some of its labels, sorted, the least and the largest among them.
    weights : (n,) ndarray of int64
        How many vertices there are of the labels after the one before, up to each.
    """

    number: int
    labels: np.ndarray
    weights: np.ndarray


def choose_outline_bricks(source: Source, n_workers: int) -> BrickGrid:
    """Choose bricks that are cheap to read with a voxel around them."""
    units = [min(max(1, unit), n) for unit, n in zip(source.read_unit, source.shape, strict=True)]
    tile = [unit * max(1, TILE_LENGTH // unit) if unit <= 2 * TILE_LENGTH else TILE_LENGTH for unit in units]
    leading = len(source.shape) - 2
    grid = TileGrid.regular(source.shape, tuple(tile), (0,) * leading + (1, 1))
    return limit_bricks(
        choose_bricks(grid, source.read_unit, n_workers, most_units=source.max_chunks_per_task), BRICK_TILES
    )


def trace_brick(job: TraceJob, number: int, pixels: Any = None) -> Traced:
    """Trace the outlines in a brick, and leave them in a file."""
    if isinstance(pixels, Raised):
        raise RuntimeError(f"labels could not be computed: {pixels.text}")
    index = job.bricks.index(number)
    region, core = job.bricks.region(index)[-2:], job.bricks.core(index)[-2:]
    if pixels is None:
        assert job.source is not None
        pixels = job.source.read(job.bricks.region(index))
    found = _as_labels(pixels.reshape([part.stop - part.start for part in region]))
    if not found.any():
        return Traced(number, np.empty(0, np.int64), np.empty(0, np.int64))
    # The last line of the image belongs to the last brick, as if another voxel came after it.
    shape = job.bricks.grid.shape[-2:]
    origin = core[0].start, core[1].start
    stops = [part.stop + (part.stop == n) for part, n in zip(core, shape, strict=True)]
    padded = np.zeros([stop - start + 2 for start, stop in zip(origin, stops, strict=True)], found.dtype)
    place = [part.start - start + 1 for part, start in zip(region, origin, strict=True)]
    padded[place[0] : place[0] + found.shape[0], place[1] : place[1] + found.shape[1]] = found
    chains = trace_chains(padded, origin, with_nodes=job.with_nodes)
    if not len(chains.labels):
        return Traced(number, np.empty(0, np.int64), np.empty(0, np.int64))
    chains.save(brick_file(job.folder, number))
    reach("brick traced")
    return Traced(number, *_sample(chains))


def _as_labels(pixels: np.ndarray) -> np.ndarray:
    """Return labels as kernels have them, int32 or int64; refuse negative ones."""
    pixels = in_native_order(pixels)
    if pixels.dtype.kind == "b" or np.can_cast(pixels.dtype, np.int32):
        found = pixels.astype(np.int32, copy=False)
    else:
        found = pixels.astype(np.int64, copy=False)
    if pixels.dtype.kind == "b" or not found.size:
        return found
    least = int(found.min())
    if least < 0:
        shown = int(pixels.max()) if pixels.dtype.kind == "u" else least
        raise ValueError(f"labels hold {shown}; ids are from 1 to 2**63 - 1, and 0 is background.")
    return found


def _sample(chains: Chains) -> tuple[np.ndarray, np.ndarray]:
    """Return some labels of a brick, and how many vertices there are up to each."""
    is_last = np.append(chains.labels[1:] != chains.labels[:-1], True)
    labels, totals = chains.labels[is_last], chains.starts[1:][is_last]
    steps = totals // SAMPLED_VERTICES
    is_taken = np.append(True, steps[1:] != steps[:-1])
    is_taken[-1] = True
    return labels[is_taken], np.diff(totals[is_taken], prepend=0)
