"""Staged labels: one file for each brick, with checksums."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blockbuster.grid import BrickGrid, Index, TileGrid
from blockbuster.identity.sealed import seal, unseal
from blockbuster.rundir.durable import checksum_files, checksum_parts, replaced_file, write_atomically
from blockbuster.rundir.folder import has_finished_work
from blockbuster.rundir.sections import SectionFile, SectionWriter

__all__ = ["BrickFile", "StagedLabels", "read_layout"]

LAYOUT = "layout.json"
SUFFIX = ".tiles"
# On a network file system a file that another machine wrote can be invisible for a while.
PATIENCE_SECONDS = 60.0
REPAIR = "run again with resume=True, which repeats the task that wrote it."
ANEW = "damaged or missing, without which nothing of the stage can be read; pass overwrite=True to start anew."


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
    min_agreement : float or None
        How far two tiles must agree on labels that touch across their seam; ``None``: not at all, labels that
        touch are joined.
    part : str
        Folder inside the directory that holds the labels.
    joins_all : bool
        Whether labels that touch are joined however little the tiles agree, though that was measured.
    """

    path: str
    bricks: BrickGrid
    merge_axes: tuple[int, ...]
    connectivity: int
    min_agreement: float | None = None
    part: str = field(default_factory=lambda: f"part-{uuid.uuid4().hex[:12]}")
    joins_all: bool = False

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
            "merge_axes": self.merge_axes,
            "connectivity": self.connectivity,
            "min_agreement": self.min_agreement,
            "part": self.part,
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
        return cls(
            os.fspath(path),
            bricks,
            tuple(layout["merge_axes"]),
            layout["connectivity"],
            layout["min_agreement"],
            layout["part"],
        )

    @property
    def merge_rule(self) -> str:
        """What is one object: labels that "touch" or "agree", or "none"."""
        if self.joins_all or self.min_agreement is None:
            return "touch" if self.merge_axes else "none"
        return "agree"

    def with_rule(self, merge: str, min_agreement: float | None) -> StagedLabels:
        """Return the same labels, to be joined by another rule; a stage for "agree" can be joined by any.

        >>> bricks = BrickGrid(TileGrid.regular((40,), (10,), (2,)), (2,))
        >>> staged = StagedLabels("run", bricks, (0,), connectivity=1, min_agreement=0.3)
        >>> [staged.with_rule(rule, None).merge_rule for rule in ("agree", "touch", "none")]
        ['agree', 'touch', 'none']
        """
        if merge == "none":
            return dataclasses.replace(self, merge_axes=(), min_agreement=None)
        if self.min_agreement is None:
            return self
        if merge == "touch":
            return dataclasses.replace(self, min_agreement=0.0, joins_all=True)
        return self if min_agreement is None else dataclasses.replace(self, min_agreement=min_agreement)

    def _file(self, index: Index) -> str:
        return os.path.join(self.path, self.part, f"{self.bricks.number(index)}{SUFFIX}")

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
