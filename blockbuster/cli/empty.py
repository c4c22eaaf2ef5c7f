"""``blockbuster estimate-empty``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from blockbuster.cli.messages import (
    DONE,
    FAILED,
    WRONG_ARGUMENTS,
    complain,
    print_json,
    refuse_existing,
    say,
    write_new,
)
from blockbuster.cli.parsing import make_parser, read_channel, read_real, read_tile_shape, read_voxels

if TYPE_CHECKING:
    from blockbuster.stage.empty_threshold import EmptyTiles

EXAMPLES = (
    "blockbuster estimate-empty image.zarr --tile-shape 256,256",
    "blockbuster estimate-empty image.zarr --tile-shape 256,256 --overlap 16 --threshold 100 --picture empty.png",
    "blockbuster estimate-empty image.zarr --tile-shape auto --json",
)
# A larger grid is not printed as text: rows and columns.
MAX_TEXT = (60, 110)
# In pixels: of a picture's longer side at least, and of a tile at most.
MIN_SIDE, MAX_TILE = 640, 64
EMPTY, FULL, LINE = (235, 235, 240), (62, 41, 120), (255, 255, 255)


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "count the tiles that --skip-empty would skip"
    description = f"{summary}, and say at which threshold; this reads the image as such a run does"
    add = make_parser(commands, "estimate-empty", summary, _run, EXAMPLES, description=description).add_argument
    add("image", metavar="PATH", help="path or URL of an OME-Zarr image or a zarr array")
    add("--tile-shape", type=read_tile_shape, metavar="N,N", help="voxels per axis, or auto (the image's chunks)")
    add(
        "--overlap",
        type=read_voxels,
        default=0,
        metavar="N",
        help="margin that counts too, in voxels, or per axis: 0,16,16 (0)",
    )
    add(
        "--threshold", type=read_real, metavar="VALUE", help="a tile not above it is empty (chosen from a sample)"
    )
    add("--channel", type=read_channel, default=0, metavar="N", help="channel (0), or none: all of them")
    add("--level", type=int, default=0, metavar="N", help="pyramid level, 0 is the finest (0)")
    add("--mask", metavar="PATH", help="array or labels: tiles that do not meet it are skipped")
    add("--picture", metavar="FILE", help="also draw the empty tiles to a new PNG file")
    add("--progress", action=argparse.BooleanOptionalAction, help="a progress bar (on a terminal)")
    add("--json", action="store_true", help="print what is found as JSON")


def _run(args: argparse.Namespace) -> int:
    from blockbuster.advise import estimate_empty_tiles
    from blockbuster.errors import TileError
    from blockbuster.run.plan import plan_run

    options = {name: getattr(args, name) for name in ("tile_shape", "overlap", "channel", "level", "mask")}
    try:
        # Faults of the arguments are found before the image is read.
        plan_run(args.image, **options, skip_empty=True, empty_threshold=args.threshold)
        refuse_existing(args.picture)
    except (TypeError, ValueError, OSError, ImportError, RuntimeError) as error:
        return complain(error, WRONG_ARGUMENTS)
    try:
        progress = sys.stderr.isatty() if args.progress is None else args.progress
        found = estimate_empty_tiles(args.image, threshold=args.threshold, progress=progress, **options)
        _print(found, as_json=args.json)
        if args.picture is not None:
            _draw(found, args.picture)
    except TileError as error:
        # No function of the user's has run that it would lead to.
        error.cause_traceback = ""
        return complain(error, FAILED)
    except Exception as error:
        return complain(error, FAILED, f"{type(error).__name__}: ")
    return DONE


def _print(found: EmptyTiles, *, as_json: bool) -> None:
    if as_json:
        counts = {"threshold": found.threshold, "n_tiles": found.n_tiles, "n_empty": found.n_empty}
        print_json(counts | {"grid": list(found.empty.shape), "empty": found.empty.tolist()})
        return
    rows, columns = found.plane().shape
    if rows <= MAX_TEXT[0] and columns <= MAX_TEXT[1]:
        say(found)
    else:
        say(str(found).partition("\n")[0])
        say(f"The grid of {rows} x {columns} tiles is too large to print; --picture FILE draws it.")


def _draw(found: EmptyTiles, file: str) -> None:
    """Draw a square for each tile, the paler the more of those behind it are empty."""
    import numpy as np

    from blockbuster.report.colours import enlarge
    from blockbuster.report.picture import encode_png

    plane = found.plane()
    side = max(1, min(MAX_TILE, MIN_SIDE // max(plane.shape)))
    fraction = enlarge(plane, side)[..., np.newaxis]
    picture = np.round(fraction * EMPTY + (1 - fraction) * FULL).astype(np.uint8)
    if side > 3:
        picture[::side] = LINE
        picture[:, ::side] = LINE
    write_new(file, encode_png(picture))
