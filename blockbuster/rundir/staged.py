"""Staged labels: one file for each brick, with checksums."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blockbuster.grid import Box, BrickGrid, Index, TileGrid
from blockbuster.identity.sealed import seal, unseal
from blockbuster.kernels.stretches import COLUMNS, StretchGroup
from blockbuster.rundir.durable import checksum_files, checksum_parts, replaced_file, write_atomically
from blockbuster.rundir.folder import has_finished_work
from blockbuster.rundir.sections import SectionFile, SectionWriter

LAYOUT = "layout.json"
SUFFIX = ".tiles"
# The fields of a stage that its layout states as they are.
STATED = ("merge_axes", "connectivity", "rule", "rule_parameters", "part")
# On a network file system a file that another machine wrote can be invisible for a while.
PATIENCE_SECONDS = 60.0
REPAIR = "run again with resume=True, which repeats the task that wrote it."
ANEW = "damaged or missing, without which nothing of the stage can be read; pass overwrite=True to start anew."
# Where tiles of some numbers lie, as a group has it.
Boxes = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class StagedLabels:
    """Labels before the merge, brick by brick, in a directory of their own.

    Picklable: any process that sees the directory can write and read bricks.

    Parameters
    ----------
    path : str
        The stage directory.
    bricks : BrickGrid
        Tiles and bricks of the label image.
    merge_axes : tuple of int
        Axes along which labels are joined.
    connectivity : int
        Which neighbours across a seam touch.
    rule : str
        Name of the rule by which labels become one object.
    rule_parameters : dict
        What the rule takes; fit for JSON.
    part : str
        Folder inside the directory that holds the labels.
    number : int
        Which of the results of fn they are, where it returns several.
    """

    path: str
    bricks: BrickGrid
    merge_axes: tuple[int, ...]
    connectivity: int
    rule: str
    rule_parameters: dict[str, Any] = field(default_factory=dict)
    part: str = field(default_factory=lambda: f"part-{uuid.uuid4().hex[:12]}")
    number: int = 0

    def create(self, image: dict[str, Any]) -> None:
        """Write the layout into an existing, empty directory.

        Parameters
        ----------
        image : dict
            What to keep besides of how the image was tiled; fit for JSON.
        """
        os.mkdir(os.path.join(self.path, self.part))
        layout = {
            "tile_lengths": self.bricks.grid.lengths,
            "halo": self.bricks.grid.halo,
            "tiles_per_brick": self.bricks.tiles_per_brick,
            **{name: getattr(self, name) for name in STATED},
            "image": image,
        }
        write_atomically(os.path.join(self.path, LAYOUT), json.dumps(seal(layout)).encode())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StagedLabels:
        """Open a stage by its layout.

        Raises
        ------
        OSError
            If the layout is damaged.
        """
        layout = read_layout(path)
        grid = TileGrid(tuple(tuple(axis) for axis in layout["tile_lengths"]), tuple(layout["halo"]))
        bricks = BrickGrid(grid, tuple(layout["tiles_per_brick"]))
        layout["merge_axes"] = tuple(layout["merge_axes"])
        return cls(os.fspath(path), bricks, **{name: layout[name] for name in STATED})

    def of_result(self, number: int) -> StagedLabels:
        """Return where the labels of one of several results of fn are."""
        return dataclasses.replace(self, number=number) if number else self

    def _file(self, index: Index) -> str:
        which = f"-{self.number}" if self.number else ""
        return os.path.join(self.path, self.part, f"{self.bricks.number(index)}{which}{SUFFIX}")

    def write(self, index: Index, sections: SectionWriter) -> str:
        """Write what is known of a brick.

        Returns
        -------
        str
            The checksum of what was written.
        """
        path = self._file(index)
        data = sections.to_bytes()
        with replaced_file(path, len(data), folder=self.path) as file:
            file.write(data)
        return checksum_parts([data])

    def checksum(self, index: Index) -> str:
        """CRC-32 over the file of a brick; empty if it is not there."""
        return checksum_files([self._file(index)])

    def open_brick(self, index: Index) -> BrickFile:
        """Open the file of a brick, as soon as it is visible here.

        Raises
        ------
        OSError
            If it is missing or damaged.
        """
        path = self._file(index)
        _wait_for(path)
        return BrickFile(path, f"brick {index} of the stage {self.path}")


class BrickFile:
    """What a task left of a brick.

    Parameters
    ----------
    path : str
        The file.
    name : str
        What is said to be damaged.

    Raises
    ------
    OSError
        If it is.
    """

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        with self._damage_explained():
            self._file = SectionFile(path)

    def __contains__(self, section: str) -> bool:
        return section in self._file

    def read(self, section: str) -> np.ndarray:
        """Read a section."""
        with self._damage_explained():
            return self._file.read(section)

    def read_group(self, name: str, boxes: Boxes) -> tuple[np.ndarray, StretchGroup]:
        """Read stretches and the numbers of their tiles; `boxes` gives where tiles lie, as a group
        has it.
        """
        numbers = self.read(f"{name}-tiles")
        return numbers, self._read_stretches(name, boxes(numbers))

    def read_groups(self, cores: Boxes, box: Box) -> Iterator[tuple[np.ndarray, StretchGroup]]:
        """Read the groups of which a tile overlaps a box, and the numbers of their tiles."""
        for k in range(int(self.read("groups"))):
            numbers = self.read(f"group-{k}-tiles")
            boxes = cores(numbers)
            ends = zip(box, boxes.transpose(1, 2, 0), strict=True)
            overlaps = [(part.start < stop) & (start < part.stop) for part, (start, stop) in ends]
            if np.any(np.all(overlaps, axis=0)):
                yield numbers, self._read_stretches(f"group-{k}", boxes)

    def _read_stretches(self, name: str, boxes: np.ndarray) -> StretchGroup:
        return StretchGroup.from_columns(boxes, {column: self.read(f"{name}-{column}") for column in COLUMNS})

    @contextlib.contextmanager
    def _damage_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise OSError(f"{self.name} cannot be read ({type(error).__name__}: {error}); {REPAIR}") from error


def read_layout(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the layout of a stage; empty where the stage did not come that far.

    Raises
    ------
    OSError
        If it is damaged, or missing although tasks are finished.
    """
    file = Path(path) / LAYOUT
    if not file.exists() and not has_finished_work(path):
        return {}
    try:
        return unseal(file.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise OSError(f"{file} is {ANEW}") from error


def _wait_for(path: str) -> None:
    """Wait until a file is there and holds something."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not _size(path):
        if time.monotonic() > end:
            raise OSError(f"{path}, a part of the stage, is missing or empty; {REPAIR}")
        time.sleep(0.05)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
