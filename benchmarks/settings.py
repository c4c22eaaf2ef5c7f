"""What is measured, and the bounds that it is judged by."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.images import Image

__all__ = ["ROOT", "Setting", "boxes", "is_small", "settings"]

ROOT = Path(__file__).resolve().parent.parent
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Parameters
    ----------
    image : Image
        What is segmented.
    tile, overlap : int
        Side of a tile, and its halo, in pixels.
    ratio_bound : float or None
        Largest allowed time of blockbuster over that of the plain loop; ``None``: not judged.
    memory_bound_bytes : float or None
        Largest allowed peak memory of the process; ``None``: not judged.
    """

    image: Image
    tile: int
    overlap: int
    ratio_bound: float | None = None
    memory_bound_bytes: float | None = None

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.image.length}^{self.image.ndim} tile {self.tile} overlap {self.overlap}"

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """Pixels of a tile along each axis."""
        return (self.tile,) * self.image.ndim

    def regions(self) -> Iterator[Box]:
        """Iterate over what fn sees: every tile with its halo, clamped to the image."""
        return boxes(self.image.shape, self.tile_shape, self.overlap)


def boxes(shape: tuple[int, ...], lengths: tuple[int, ...], margin: int = 0) -> Iterator[Box]:
    """Cut an array into boxes that start at the origin, each grown by a margin inside the array."""
    axes = [
        [slice(max(0, start - margin), min(n, start + step + margin)) for start in range(0, n, step)]
        for n, step in zip(shape, lengths, strict=True)
    ]
    return itertools.product(*axes)


def is_small() -> bool:
    """Say whether the environment asks for the smallest sizes: ``BLOCKBUSTER_BENCH=small``."""
    return os.environ.get("BLOCKBUSTER_BENCH") == "small"


def settings(*, small: bool, dtype: str = "uint16") -> list[Setting]:
    """Give the rows of the table; small ones end in seconds and are not judged."""
    if small:
        plane, volume = Image("discs", 512, 128, dtype), Image("blobs", 64, 32, dtype)
        return [Setting(plane, 128, 32), Setting(plane, 64, 16), Setting(plane, 32, 16), Setting(volume, 16, 4)]
    wide = Image("discs", 16384, 1024, dtype)
    return [
        Setting(wide, 1024, 32, ratio_bound=0.8),
        Setting(wide, 256, 16, ratio_bound=0.24, memory_bound_bytes=1e9),
        Setting(Image("discs", 8192, 1024, dtype), 128, 16, ratio_bound=0.1),
        Setting(Image("blobs", 512, 128, dtype), 64, 8, ratio_bound=0.5),
        Setting(Image("blobs", 512, 128, dtype), 32, 8, ratio_bound=0.18),
    ]
