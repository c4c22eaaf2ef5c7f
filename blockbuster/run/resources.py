"""Bound what a run takes of memory and disk, and warn where that may be too much."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from blockbuster.errors import warn_user
from blockbuster.execution import max_keys
from blockbuster.merge.remap import remap_boxes
from blockbuster.output.layout import label_chunks
from blockbuster.predict.device import MAX_WAITING_BYTES
from blockbuster.rundir.durable import existing_folder, free_bytes
from blockbuster.source.kept_chunks import MAX_KEPT_BYTES
from blockbuster.stage.sample import SAMPLE_VOXELS

if TYPE_CHECKING:
    from blockbuster.run.plan import RunPlan

MAX_CHUNK_READS = 2.0
# dask pauses a worker that is fuller.
MAX_WORKER_SHARE = 0.8
# A client has at most four for each thread of its workers, and eight at least.
TASKS_ON_CLIENT_PER_WORKER = 8

# The interpreter with numpy, numba, zarr and dask imported and every kernel loaded: 110 MB of its
# own, and 150 where xarray and pandas are installed, which dask imports; and 100 to 160 MB of
# libraries' files, of which the system maps as much as it likes, measured with Python 3.11 and 3.13
# on 64-bit Linux.
BASE_BYTES = 345_000_000
# Stretches of a group of tiles, planes at the seams, and what is stored; less than this but in
# noise.
STAGE_BYTES_PER_VOXEL = 6
# Final labels, stretches of a group of tiles, and the chunks between them and the disk.
REMAP_BYTES_PER_VOXEL = 9
# Stretches of a tile that waits for its neighbours: 12 bytes for each, and eight for each row.
# Dense tissue with cells of 12 voxels has one in eight voxels.
WAITING_BYTES_PER_VOXEL = 2
# Labels of a tile with an id for each position, beside those that fn returned, widened, and where
# they are.
APART_BYTES_PER_VOXEL = 9
# dask's graph and its bookkeeping: 3.1 kB measured with 10,000 tasks.
BYTES_PER_TASK = 5_000
# How many labels a tile has, the maximum of one that was skipped, copies of both as they are saved
# and looked at, and a piece of its task's record: 50 measured with a million tiles.
BYTES_PER_TILE = 64
# A key of the graph by which the chunks of a dask image come to a task: what makes it, and the same
# bookkeeping.
BYTES_PER_KEY = 5_000


def memory_bytes(plan: RunPlan) -> int:
    """Bound the resident memory of all processes of a run; what fn allocates comes on top."""
    n_workers = plan.execution.n_workers
    if plan.execution.in_process:
        return _peak_bytes(plan, n_at_once=plan.n_tasks_at_once)
    return _peak_bytes(plan, n_at_once=0) + n_workers * worker_bytes(plan)


def worker_bytes(plan: RunPlan) -> int:
    """Bound the resident memory of a process that runs one task at a time; fn's comes on top."""
    return _peak_bytes(plan, n_at_once=1, drives=False)


def _peak_bytes(plan: RunPlan, *, n_at_once: int, drives: bool = True) -> int:
    """Bound the resident memory of a process that runs so many tasks at once, and may drive the
    run.

    Tables that grow with the labels come on top: they count from about one object in 50 voxels on.
    Memory that is free again, but not given back to the system, counts as one task more.
    """
    grid, itemsize = plan.grid, plan.source.dtype.itemsize
    lengths = zip(plan.bricks.brick_shape, grid.halo, grid.shape, strict=True)
    stage = itemsize * _product(min(n, brick + 2 * halo) for brick, halo, n in lengths)
    stage += STAGE_BYTES_PER_VOXEL * plan.n_results * _product(plan.bricks.brick_shape)
    # Channels that fn does not see are read of the brick alone.
    stage += itemsize * plan.n_others * _product(plan.bricks.brick_shape)
    seen = _seen_shape(plan)
    # Tiles that wait in a brick to be compared with their last neighbour.
    n_waiting = plan.options.rule.borders.n_waiting(plan.bricks.tiles_per_brick, plan.merge_axes)
    stage += WAITING_BYTES_PER_VOXEL * plan.n_results * n_waiting * _product(seen)
    if any(seen[axis] > 1 for axis in plan.apart_axes):
        stage += APART_BYTES_PER_VOXEL * plan.n_results * _product(seen)
    boxes = remap_boxes(plan.bricks, label_chunks(grid)[1])
    box_voxels = _product(map(min, boxes.tile_shape, grid.shape))
    if plan.coarse_shapes:
        # Levels that are written with the finest one are half of it at most.
        box_voxels = box_voxels * 3 // 2
    if plan.predictor is not None:
        # Of each task one tile is let through, however much waits.
        stage += itemsize * _product(seen)
    n_tasks = max(plan.bricks.n_bricks, boxes.n_tiles)
    n_at_once = min(n_at_once, n_tasks)
    # Other processes do not keep what several bricks read.
    kept = min(MAX_KEPT_BYTES, itemsize * _product(grid.shape)) if drives else 0
    tasks = max((n_at_once + 1) * stage + kept, (n_at_once + 1) * REMAP_BYTES_PER_VOXEL * box_voxels)
    tasks += MAX_WAITING_BYTES * (plan.predictor is not None)
    tasks *= n_at_once > 0
    if not drives:
        return BASE_BYTES + tasks
    if plan.options.skip_empty and plan.empty_threshold is None:
        # Otsu's threshold of a sample: copies, in float64 where pixels are of no small integer.
        tasks = max(tasks, (6 + 5 * itemsize) * min(SAMPLE_VOXELS, _product(grid.shape)))
    held = plan.source.held_bytes
    held += plan.label_bytes if plan.place is None or plan.options.compute else 0
    known = BYTES_PER_TASK * n_tasks + BYTES_PER_TILE * plan.n_tiles + BYTES_PER_KEY * count_keys(plan)
    return BASE_BYTES + tasks + known + held


def count_keys(plan: RunPlan) -> int:
    """Count the keys of a dask image's graph that dask knows at once."""
    n_bricks = plan.bricks.n_bricks
    if not n_bricks:
        return 0
    n_keys = plan.source.n_keys(plan.bricks.region(plan.bricks.index(n_bricks // 2)))
    if plan.execution.client is not None:
        return n_keys * min(n_bricks, TASKS_ON_CLIENT_PER_WORKER * plan.execution.n_workers)
    return max_keys(n_keys, n_bricks, plan.execution.n_workers)


def _seen_shape(plan: RunPlan) -> tuple[int, ...]:
    """Return the shape of the largest tile with its halo."""
    lengths = zip(plan.grid.tile_shape, plan.grid.halo, plan.grid.shape, strict=True)
    return tuple(min(n, tile + 2 * halo) for tile, halo, n in lengths)


def warn_of_repeated_chunks(plan: RunPlan) -> None:
    """Warn where tasks compute the chunks of a dask image several times."""
    if plan.chunk_reads > MAX_CHUNK_READS:
        warn_user(
            f"every chunk of the dask image is computed {plan.chunk_reads:.1f} times on average, once for each "
            "task that touches it; choose tiles that are multiples of the chunks, rechunk the image, or store it "
            "as zarr first.",
        )


def warn_of_small_workers(plan: RunPlan) -> None:
    """Warn where a task takes more than a worker of the cluster has for it."""
    limit, task = plan.execution.task_bytes, worker_bytes(plan)
    if limit and task > MAX_WORKER_SHARE * limit:
        warn_user(
            f"a task takes up to {format_bytes(task)} besides what fn allocates, and the workers of the dask "
            f"cluster have {format_bytes(limit)} for each of their threads: dask pauses a worker at 0.8 of its "
            "limit and restarts it at 0.95. Pass a smaller tiles_per_task, smaller tiles, or give the workers "
            "more memory or fewer threads.",
        )


def warn_of_little_room(plan: RunPlan) -> None:
    """Refuse a run that certainly does not fit on the disk, and warn of one that may not.

    Raises
    ------
    OSError
        If files that are not compressed need more room than there is.

    Notes
    -----
    Labels are compressed as they are stored, as a rule to less than a tenth; how well is not known
    before.
    """
    for folder, (certain, possible) in _needs(plan).items():
        free = free_bytes(folder)
        if certain > free:
            raise OSError(
                f"{folder} has {free:,} bytes free, and the run stores {certain:,} there uncompressed; make "
                "room, or give another stage_dir."
            )
        if possible > free:
            warn_user(
                f"{folder} has {free:,} bytes free, and the labels of this run take up to {possible:,} before "
                "compression: they may not fit. A run that finds the disk full can be continued.",
            )


def _needs(plan: RunPlan) -> dict[str, tuple[int, int]]:
    """Return the bytes stored for certain, and at most, on each file system a run writes to."""
    n_voxels = int(np.prod(plan.grid.shape, dtype=np.int64))
    certain = 0
    if not plan.execution.in_process:
        certain += n_voxels * plan.source.dtype.itemsize if plan.source.in_memory else 0
        certain += plan.label_bytes if plan.place is None else 0
    needs = [(plan.stage_parent, certain, certain + 2 * plan.n_results * n_voxels)]
    if plan.place is not None:
        needs.append((os.path.dirname(plan.place.store), 0, plan.output_bytes))
    totals: dict[str, tuple[int, int]] = {}
    for folder, least, most in needs:
        device = existing_folder(folder).stat().st_dev
        same = next((other for other in totals if existing_folder(other).stat().st_dev == device), folder)
        before = totals.get(same, (0, 0))
        totals[same] = before[0] + least, before[1] + most
    return totals


def _product(numbers: Iterable[int]) -> int:
    return math.prod(int(n) for n in numbers)


def format_bytes(n: float) -> str:
    """Write a number of bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
