"""A plan as a script reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockbuster.plan import RunPlan

__all__ = ["plan_as_dict"]


def plan_as_dict(plan: RunPlan) -> dict[str, Any]:
    """Give what a run would read, hold and write: voxels and bytes, fit for JSON."""
    grid, bricks, source = plan.grid, plan.bricks, plan.source
    levels = plan.geometry.levels if plan.geometry is not None else ()
    is_pyramid = plan.place is not None and plan.place.is_label_image
    return {
        "image": {
            "name": source.name,
            "shape": list(grid.shape),
            "dtype": str(source.dtype),
            "axes": source.axes,
            "bytes": math.prod(int(n) for n in grid.shape) * source.dtype.itemsize,
        },
        "tiles": {"n": grid.n_tiles, "shape": list(grid.tile_shape), "grid": list(grid.grid_shape)},
        "halo": list(grid.halo),
        "tasks": {"n": bricks.n_bricks, "tiles": list(bricks.tiles_per_brick)},
        "memory_bytes": plan.memory_bytes,
        "stage": {"path": plan.stage_path, "bytes": plan.label_bytes},
        "output": {
            "path": None if plan.place is None else plan.place.path,
            "bytes": plan.label_bytes,
            "levels": len(levels) if is_pyramid else 1,
        },
        "settings": plan.settings,
    }
