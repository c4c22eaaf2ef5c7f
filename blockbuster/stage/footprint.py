"""How much memory a run takes: a bound in plain integers, before anything runs."""

from __future__ import annotations

__all__ = ["peak_bytes"]

# The interpreter with numpy, numba, zarr and dask imported and every kernel loaded: 110 MB of its own, and 150
# where xarray and pandas are installed, which dask imports; and 100 to 160 MB of libraries' files, of which the
# system maps as much as it likes, measured with Python 3.11 and 3.13 on 64-bit Linux.
BASE_BYTES = 345_000_000
# Stretches of a group of tiles, planes at the seams, and what is stored; less than this but in noise.
STAGE_BYTES_PER_VOXEL = 6
# Final labels, stretches of a group of tiles, and the chunks between them and the disk.
REMAP_BYTES_PER_VOXEL = 9
# Stretches of a tile that waits for its neighbours: 12 bytes for each, and eight for each row. Dense tissue with
# cells of 12 voxels has one in eight voxels.
WAITING_BYTES_PER_VOXEL = 2
# Labels of a tile with an id for each position, beside those that fn returned, widened, and where they are.
APART_BYTES_PER_VOXEL = 9
# dask's graph and its bookkeeping: 3.1 kB measured with 10,000 tasks.
BYTES_PER_TASK = 5_000
# How many labels a tile has, the maximum of one that was skipped, copies of both as they are saved and looked at,
# and a piece of its task's record: 50 measured with a million tiles.
BYTES_PER_TILE = 64
# A key of the graph by which the chunks of a dask image come to a task: what makes it, and the same bookkeeping.
BYTES_PER_KEY = 5_000


def peak_bytes(
    *,
    region_voxels: int,
    core_voxels: int,
    box_voxels: int,
    itemsize: int,
    n_at_once: int,
    waiting_voxels: int = 0,
    apart_voxels: int = 0,
    n_tasks: int = 0,
    n_tiles: int = 0,
    n_keys: int = 0,
    sampled_voxels: int = 0,
    held_bytes: int = 0,
) -> int:
    """Bound the resident memory of a process that runs tasks on threads.

    Parameters
    ----------
    region_voxels, core_voxels : int
        Voxels of the largest brick, with and without halo.
    box_voxels : int
        Voxels of the largest box that is written at once: whole shards of the output.
    itemsize : int
        Bytes of a pixel.
    n_at_once : int
        How many tasks run at once: no more than there are workers, or tasks. 0 for a process that only
        drives others.
    waiting_voxels : int
        Voxels of the tiles that wait in a brick for neighbours to be compared with, halo included.
    apart_voxels : int
        Voxels of a tile whose ids count for each position by itself along some axes, halo included.
    n_tasks : int
        How many tasks the larger phase has, where this process drives the run; 0 where it does not.
    n_tiles : int
        How many tiles there are, where this process drives the run; 0 where it does not.
    n_keys : int
        How many keys of a dask image's graph are known at once.
    sampled_voxels : int
        How many voxels the empty threshold is found in, before any task; 0 where it is given.
    held_bytes : int
        What lies in memory for the whole run: an image given as an array, a NumPy result.

    Returns
    -------
    int
        Bytes.

    Notes
    -----
    What fn allocates comes on top, once for each task at a time. So do tables that grow with the labels:
    they count from about one object in 50 voxels on. Memory that is free again, but not given back to
    the system, counts as one task more.

    Where tasks run in processes of their own, each is a process with one task at once, and this one has none.

    Examples
    --------
    >>> brick = {"region_voxels": 4100 * 2056, "core_voxels": 4096 * 2048, "box_voxels": 4096 * 2048}
    >>> round(peak_bytes(**brick, itemsize=2, n_at_once=2) / 1e6)
    571
    >>> driver, worker = (peak_bytes(**brick, itemsize=2, n_at_once=n) for n in (0, 1))
    >>> round((driver + 4 * worker) / 1e6)
    2329
    """
    stage = itemsize * region_voxels + STAGE_BYTES_PER_VOXEL * core_voxels
    stage += WAITING_BYTES_PER_VOXEL * waiting_voxels + APART_BYTES_PER_VOXEL * apart_voxels
    task = max(stage, REMAP_BYTES_PER_VOXEL * box_voxels)
    tasks = (n_at_once + 1) * task if n_at_once else 0
    # Otsu's threshold of a sample: copies, in float64 where pixels are of no small integer.
    tasks = max(tasks, (6 + 5 * itemsize) * sampled_voxels)
    known = BYTES_PER_TASK * n_tasks + BYTES_PER_TILE * n_tiles + BYTES_PER_KEY * n_keys
    return BASE_BYTES + tasks + known + held_bytes
