"""What is looked at before fn runs, besides the arguments: room on the disk, and where the call comes from."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np

from blockbuster.errors import warn_user
from blockbuster.run.plan import RunPlan
from blockbuster.rundir.durable import existing_folder, free_bytes

__all__ = ["refuse_in_starting_worker", "warn_of_little_room"]


def refuse_in_starting_worker() -> None:
    """Refuse a call that comes from a script without a main guard, which a new worker process imports.

    Raises
    ------
    RuntimeError
        In such a worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "tile_process was called while a worker process imports the main script: put the call under "
            '`if __name__ == "__main__":`.'
        )


def warn_of_little_room(plan: RunPlan) -> None:
    """Refuse a run that certainly does not fit on the disk, and warn of one that may not.

    Raises
    ------
    OSError
        If files that are not compressed need more room than there is.

    Notes
    -----
    Labels are compressed as they are stored, as a rule to less than a tenth; how well is not known before.
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
    """Bytes that the run stores for certain, and at most, for each file system it writes to."""
    n_voxels = int(np.prod(plan.grid.shape, dtype=np.int64))
    certain = 0
    if not plan.execution.in_process:
        certain += n_voxels * plan.source.dtype.itemsize if plan.source.in_memory else 0
        certain += plan.label_bytes if plan.place is None else 0
    needs = [(plan.stage_parent, certain, certain + 2 * n_voxels)]
    if plan.place is not None:
        needs.append((os.path.dirname(plan.place.store), 0, plan.output_bytes))
    totals: dict[str, tuple[int, int]] = {}
    for folder, least, most in needs:
        device = existing_folder(folder).stat().st_dev
        same = next((other for other in totals if existing_folder(other).stat().st_dev == device), folder)
        before = totals.get(same, (0, 0))
        totals[same] = before[0] + least, before[1] + most
    return totals
