"""Apply any segmentation function to every tile of a large image, and merge the labels.

The public names are loaded when they are first used, so that the import itself is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockbuster.advise import estimate_empty_tiles, intensity_percentiles, suggest_overlap
    from blockbuster.errors import BlockbusterWarning, TileError
    from blockbuster.execution.local_cluster import make_local_cluster
    from blockbuster.native import relabel_sequential_zarr, zarr_native_merge
    from blockbuster.objects.measuring import measure_labels
    from blockbuster.objects.polygons import export_polygons
    from blockbuster.objects.reading import read_objects
    from blockbuster.predict import Predictor
    from blockbuster.process import tile_process
    from blockbuster.report import RunReport, read_report
    from blockbuster.run.plan import RunPlan, plan_run
    from blockbuster.source import load_ome_zarr
    from blockbuster.tiling import auto_tile_shape, auto_tile_shape_cellpose

__all__ = [
    "BlockbusterWarning",
    "Predictor",
    "RunPlan",
    "RunReport",
    "TileError",
    "auto_tile_shape",
    "auto_tile_shape_cellpose",
    "estimate_empty_tiles",
    "export_polygons",
    "intensity_percentiles",
    "load_ome_zarr",
    "make_local_cluster",
    "measure_labels",
    "plan_run",
    "read_objects",
    "read_report",
    "relabel_sequential_zarr",
    "suggest_overlap",
    "tile_process",
    "zarr_native_merge",
]

__version__ = "0.1.0"

_HOMES = {
    "BlockbusterWarning": "errors",
    "Predictor": "predict",
    "RunPlan": "run.plan",
    "RunReport": "report",
    "TileError": "errors",
    "auto_tile_shape": "tiling",
    "auto_tile_shape_cellpose": "tiling",
    "estimate_empty_tiles": "advise",
    "export_polygons": "objects.polygons",
    "intensity_percentiles": "advise",
    "load_ome_zarr": "source",
    "make_local_cluster": "execution.local_cluster",
    "measure_labels": "objects.measuring",
    "plan_run": "run.plan",
    "read_objects": "objects.reading",
    "read_report": "report",
    "relabel_sequential_zarr": "native",
    "suggest_overlap": "advise",
    "tile_process": "process",
    "zarr_native_merge": "native",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blockbuster' has no attribute {name!r}")
    return getattr(importlib.import_module(f"blockbuster.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
