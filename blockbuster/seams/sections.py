"""Stretches of tiles as sections of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from blockbuster.seams.stretches import COLUMNS, StretchGroup

__all__ = ["read_group", "read_numbers", "write_group"]


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


def read_numbers(source: SectionSource, name: str) -> np.ndarray:
    """Read which tiles were written, (n,) int64."""
    return source.read(f"{name}-tiles")


def read_group(
    source: SectionSource, name: str, boxes: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, StretchGroup]:
    """Read what `write_group` wrote; `boxes` gives where tiles of some numbers lie, as a group has it."""
    numbers = read_numbers(source, name)
    columns = {column: source.read(f"{name}-{column}") for column in COLUMNS}
    return numbers, StretchGroup.from_columns(boxes(numbers), columns)
