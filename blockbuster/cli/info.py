"""``blockbuster info``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from blockbuster.cli.messages import DONE, WRONG_ARGUMENTS, complain, print_json, say
from blockbuster.cli.parsing import make_parser, read_channel

if TYPE_CHECKING:
    from blockbuster.advise.info import CollectionInfo, Entry, ImageInfo, LevelInfo

EXAMPLES = (
    "blockbuster info image.zarr",
    "blockbuster info image.zarr --level 1 --channel none",
    "blockbuster info labels.zarr",
    "blockbuster info plate.zarr --all --json",
)
WIDTH = 10


def add_command(commands: Any) -> None:
    """Describe the command."""
    summary = "show what lies at a path: axes, levels, channels, labels; the images in a plate"
    description = f"{summary};\nand which tile --tile-shape auto would choose"
    add = make_parser(commands, "info", summary, _run, EXAMPLES, description=description).add_argument
    add("path", metavar="PATH", help="path or URL of a zarr array or group")
    what = "for the tile: channel (0), or none: all of them"
    add("--channel", type=read_channel, default=0, metavar="N", help=what)
    add("--level", type=int, default=0, metavar="N", help="for the tile: pyramid level (0)")
    add("--use-gpu", action="store_true", help="choose the tile by GPU memory")
    add("--all", action="store_true", help="list all images of a plate, not the first few")
    add("--json", action="store_true", help="print what is found as JSON")


def _run(args: argparse.Namespace) -> int:
    from blockbuster.advise.info import MAX_IMAGES, CollectionInfo, inspect_path

    most = None if args.all else MAX_IMAGES
    try:
        found = inspect_path(args.path, channel=args.channel, level=args.level, use_gpu=args.use_gpu, most=most)
    except (TypeError, ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        return complain(error, WRONG_ARGUMENTS)
    if args.json:
        print_json(dataclasses.asdict(found))
    elif isinstance(found, CollectionInfo):
        _print(_collection_lines(found))
    else:
        channel = "all channels" if args.channel is None else f"channel {args.channel}"
        has_channels = "c" in (found.axes or "")
        _print(_image_lines(found, f"level {args.level}, {channel}" if has_channels else f"level {args.level}"))
    return DONE


def _print(lines: Iterable[tuple[str, str]]) -> None:
    for name, text in lines:
        # A name from the metadata must not look like another entry.
        one_line = text.replace("\n", "\\n").replace("\t", "\\t")
        say(f"{name:<{WIDTH}}{one_line}".rstrip())


def _collection_lines(found: CollectionInfo) -> Iterator[tuple[str, str]]:
    yield "path", found.path
    yield "what", found.kind
    if not found.images:
        yield "images", "none" if found.is_complete else "none among the first"
        return
    yield from _named("images", _entries(found.images))
    if not found.is_complete:
        yield "", "... (--all lists all)"


def _image_lines(found: ImageInfo, chosen_for: str) -> Iterator[tuple[str, str]]:
    yield "path", found.path
    yield "what", f"{found.kind} {found.version}".rstrip() + f", zarr format {found.zarr_format}"
    units = found.units or ("",) * len(found.axes or "")
    axes = [f"{axis} ({unit})" if unit else axis for axis, unit in zip(found.axes or "", units, strict=True)]
    yield "axes", ", ".join(axes) or "not stated; name them with --axes"
    yield "dtype", found.dtype
    if found.channels:
        yield "channels", ", ".join(f"{i} {name}".rstrip() for i, name in enumerate(found.channels))
    yield from _named("levels" if found.levels[0].path else "array", _table(found.levels))
    if found.labels:
        yield from _named("labels", _entries(found.labels))
    if found.report:
        yield "made by", f"blockbuster, {found.report}"
    auto = found.auto
    tiles = f"{auto.n_tiles} tile{'s' * (auto.n_tiles != 1)}, {_by(auto.grid_shape)}"
    yield "auto tile", f"{_by(auto.tile_shape)} for {chosen_for}: {tiles}"


def _table(levels: Sequence[LevelInfo]) -> list[str]:
    """Align what is known of each level; a column that is empty for all is left out."""
    from dask.utils import format_bytes

    head = ("", "path", "shape", "size", "voxel", "chunks", "shards")
    rows = [
        (
            str(number) if level.path else "",
            level.path,
            _by(level.shape),
            str(format_bytes(level.n_bytes)),
            _by(f"{size:.4g}" for size in level.voxel_size or ()),
            _by(level.chunks),
            _by(level.shards or ()),
        )
        for number, level in enumerate(levels)
    ]
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return ["  ".join(row) for row in zip(*padded, strict=True)]


def _entries(entries: Iterable[Entry]) -> list[str]:
    return [f"{entry.path} ({entry.what})" if entry.what else entry.path for entry in entries]


def _named(name: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Put a name before the first of some lines."""
    for number, line in enumerate(lines):
        yield ("" if number else name), line


def _by(numbers: Iterable[Any]) -> str:
    return " x ".join(map(str, numbers))
