"""Stretches of tiles as sections of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from blockbuster.grid import Box
from blockbuster.kernels.stretches import COLUMNS, StretchGroup

__all__ = ["read_group", "read_groups", "write_group"]

# Where tiles of some numbers lie, as a group has it.
Boxes = Callable[[np.ndarray], np.ndarray]


class SectionSink(Protocol):
    """Takes arrays."""

    def add(self, name: str, array: np.ndarray) -> None:
        """Take one."""


class SectionSource(Protocol):
    """Gives arrays back."""

    def read(self, section: str) -> np.ndarray:
        """Read one."""


def write_group(sink: SectionSink, name: str, numbers: np.ndarray, group: StretchGroup) -> None:
    """Write stretches of tiles, and the numbers of the tiles, as sections whose names begin with `name`."""
    sink.add(f"{name}-tiles", numbers)
    for column, array in group.columns().items():
        sink.add(f"{name}-{column}", array)


def read_group(source: SectionSource, name: str, boxes: Boxes) -> tuple[np.ndarray, StretchGroup]:
    """Read what `write_group` wrote; `boxes` gives where tiles of some numbers lie, as a group has it."""
    numbers = source.read(f"{name}-tiles")
    return numbers, _read_stretches(source, name, boxes(numbers))


def read_groups(source: SectionSource, cores: Boxes, box: Box) -> Iterator[tuple[np.ndarray, StretchGroup]]:
    """Read the groups of a brick of which a tile overlaps a box, and the numbers of their tiles."""
    for k in range(int(source.read("groups"))):
        numbers = source.read(f"group-{k}-tiles")
        boxes = cores(numbers)
        ends = zip(box, boxes.transpose(1, 2, 0), strict=True)
        if np.any(np.all([(part.start < stop) & (start < part.stop) for part, (start, stop) in ends], axis=0)):
            yield numbers, _read_stretches(source, f"group-{k}", boxes)


def _read_stretches(source: SectionSource, name: str, boxes: np.ndarray) -> StretchGroup:
    columns = {column: source.read(f"{name}-{column}") for column in COLUMNS}
    return StretchGroup.from_columns(boxes, columns)
