"""Values of options, as they are written on the command line."""

from __future__ import annotations

import argparse
import math
from typing import Any

__all__ = ["read_at_least_one", "read_channel", "read_number", "read_tile_shape", "read_voxels"]


def read_channel(text: str) -> int | None:
    """Read the index of a channel, or ``none`` for all of them."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none.") from None


def read_tile_shape(text: str) -> str | tuple[int, ...] | int:
    """Read voxels per axis, or ``auto``."""
    return text if text == "auto" else read_voxels(text, "voxels per axis, e.g. 256,256, or auto")


def read_voxels(text: str, rule: str = "a number of voxels, e.g. 16, or one per axis, e.g. 0,16,16") -> Any:
    """Read ``16`` as a number, and ``0,16,16`` or ``16,`` as a tuple."""
    try:
        numbers = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule}.") from None
    return numbers if "," in text else numbers[0]


def read_at_least_one(text: str) -> int:
    """Read a whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more.")
    return int(text)


def read_number(text: str, rule: str) -> float:
    """Read a number that is neither infinite nor NaN."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(rule)
    return number
