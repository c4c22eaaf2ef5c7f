"""The options of ``blockbuster segment``, named like the arguments of `tile_process`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from blockbuster.cli.fn_names import read_fn_name
from blockbuster.cli.parsing import read_at_least_one, read_channel, read_tile_shape, read_voxels

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all of them, in groups."""
    parser.add_argument("image", metavar="IMAGE", help="path or URL of an OME-Zarr image or a zarr array")
    _add_job_options(parser.add_argument_group("what to do").add_argument)
    _add_image_options(parser.add_argument_group("the image").add_argument)
    _add_tile_options(parser.add_argument_group("tiles").add_argument)
    _add_label_options(parser.add_argument_group("labels").add_argument)
    _add_run_options(parser.add_argument_group("the run").add_argument)


def _add_job_options(add: Callable[..., Any]) -> None:
    add(
        "--fn",
        required=True,
        type=read_fn_name,
        help="what labels a tile; watershed splits blobs that touch (DIAMETER in voxels: 20)",
    )
    add("--write-to", required=True, metavar="OUT", help="zarr group that takes the labels, new or not")
    add("--output-component", metavar="NAME", help="name of the labels in OUT; in an image labels/NAME (labels)")
    add("--overwrite", action="store_true", help="replace existing labels once the new ones are complete")
    add("--dry-run", action="store_true", default=False, help="print the plan, write nothing")
    add("--json", action="store_true", default=False, help="print the report, or the plan, as JSON")


def _add_image_options(add: Callable[..., Any]) -> None:
    add("--channel", type=read_channel, metavar="N", help="channel (0), or none: the function sees all channels")
    add("--level", type=int, metavar="N", help="pyramid level, 0 is the finest (0)")
    add("--axes", help="one letter per axis, e.g. tzyx (from the metadata)")


def _add_tile_options(add: Callable[..., Any]) -> None:
    add("--tile-shape", type=read_tile_shape, metavar="N,N", help="voxels per axis, or auto (the image's chunks)")
    add(
        "--overlap",
        type=read_voxels,
        metavar="N",
        help="margin that the function sees too, in voxels, or per axis: 0,16 (0; watershed: DIAMETER)",
    )
    add("--skip-empty", action="store_true", help="do not call the function for tiles of background alone")
    add(
        "--empty-threshold",
        type=float,
        metavar="VALUE",
        help="a tile not above it is empty (chosen from a sample)",
    )
    add("--use-gpu", action="store_true", help="size auto tiles by GPU memory and run one tile at a time")
    add("--tiles-per-task", type=int, metavar="N", help="tiles read and stored together (chosen)")


def _add_label_options(add: Callable[..., Any]) -> None:
    add(
        "--merge",
        metavar="HOW",
        help="what is one object: touch, agree (in the margin too), none (touch; watershed: agree)",
    )
    add("--min-agreement", type=float, metavar="IOU", help="for agree: least intersection over union (0.3)")
    add("--connectivity", type=int, metavar="N", help="1 = faces ... ndim = corners too (1; ndim for agree)")
    add("--merge-axes", metavar="AXES", help="axes along which labels are joined, e.g. yx (all but t and c)")
    add("--sequential-labels", action="store_true", help="number the objects 1..N without gaps")


def _add_run_options(add: Callable[..., Any]) -> None:
    kinds = ("threads", "processes", "synchronous")
    add("--scheduler", choices=kinds, default=None, metavar="NAME", help=f"{', '.join(kinds)} (threads)")
    add(
        "--workers",
        type=read_at_least_one,
        default=None,
        metavar="N",
        help="tasks that run at once (one per CPU)",
    )
    add("--stage-dir", metavar="FOLDER", help="folder for the temporary stage (beside OUT)")
    add("--keep-stage", action="store_true", help="keep the temporary stage after success")
    add("--resume", action="store_true", help="continue an interrupted run, or begin where there is none")
    add("--fn-version", metavar="TEXT", help="stands for a function whose code cannot be read")
    add("--retries", type=int, metavar="N", help="how often a failed tile is tried again (0)")
    add(
        "--on-error", metavar="HOW", help="raise: stop at the first failed tile; skip: make it background (raise)"
    )
    add("--progress", action=argparse.BooleanOptionalAction, help="progress bars (on a terminal)")
    add("--verbose", action="store_true", help="log each tile")
