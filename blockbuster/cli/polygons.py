"""``blockbuster polygons``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from blockbuster.cli.messages import DONE, FAILED, WRONG_ARGUMENTS, complain, print_json, say
from blockbuster.cli.parsing import make_parser, read_at_least_one, read_real

EXAMPLES = (
    "blockbuster polygons image.zarr/labels/nuclei nuclei.geojson",
    "blockbuster polygons labels.zarr/labels cells.geojson --simplify 1",
    "blockbuster polygons image.zarr/labels/nuclei nuclei.parquet --coordinates units",
)


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "write the outlines of all objects to a file, for QuPath, geopandas or SpatialData"
    add = make_parser(commands, "polygons", summary, _run, EXAMPLES).add_argument
    add("labels", metavar="LABELS", help="path or URL of an OME-Zarr label image, or a zarr array of labels")
    add("path", metavar="PATH", help="the file: .geojson, .json; .parquet, .geoparquet")
    add("--format", metavar="FORMAT", help="geojson or geoparquet (by the end of PATH, else geojson)")
    add(
        "--simplify",
        type=read_real,
        metavar="VOXELS",
        help="how far outlines may be from those of the voxels (0)",
    )
    add("--level", type=int, default=0, metavar="N", help="pyramid level (0)")
    add("--coordinates", default="pixels", metavar="WHICH", help="pixels, or units: those of the image (pixels)")
    add(
        "--measurements",
        nargs="?",
        const=True,
        metavar="FILE",
        help="take measurements from the table of the labels, or from a Parquet file",
    )
    add("--overwrite", action="store_true", help="replace an existing file once the new one is complete")
    add("--workers", type=read_at_least_one, metavar="N", help="tasks that run at once (one per CPU)")
    add("--progress", action=argparse.BooleanOptionalAction, help="progress bars (on a terminal)")
    add("--json", action="store_true", help="print the number of objects as JSON")


def _run(args: argparse.Namespace) -> int:
    from blockbuster.execution import with_workers
    from blockbuster.objects.polygons import SUFFIXES, export_polygons

    suffix = os.path.splitext(args.path)[1].lower()
    try:
        with with_workers(args.workers):
            n_objects = export_polygons(
                args.labels,
                args.path,
                format=args.format or SUFFIXES.get(suffix, "geojson"),
                simplify=args.simplify,
                level=args.level,
                coordinates=args.coordinates,
                measurements=args.measurements,
                overwrite=args.overwrite,
                progress=sys.stderr.isatty() if args.progress is None else args.progress,
            )
    except (TypeError, ValueError, OSError, ImportError) as error:
        return complain(error, WRONG_ARGUMENTS)
    except Exception as error:
        return complain(error, FAILED, f"{type(error).__name__}: ")
    if args.json:
        print_json({"n_objects": n_objects})
    else:
        say(f"{n_objects:,} object{'s' * (n_objects != 1)} in {args.path}")
    return DONE
