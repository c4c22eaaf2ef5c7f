"""Read the regions of tiles, and those of a dask image that were computed ahead of their tasks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from blockbuster.compat import load_npy, write_npy
from blockbuster.errors import TileError
from blockbuster.grid import Box, Index, TileGrid, relative_box
from blockbuster.rundir.durable import replaced_file


class RegionReader(Protocol):
    """Something that can read a region."""

    def read(self, region: Box) -> np.ndarray:
        """Read a region."""


def read_tile(read: Callable[[Box], np.ndarray], grid: TileGrid, tile: Index) -> np.ndarray:
    """Read a tile with its halo; what is raised names the tile."""
    try:
        return read(grid.region(tile))
    except TileError:
        raise
    except Exception as error:
        raise unreadable(error, grid, tile) from None


def unreadable(error: BaseException, grid: TileGrid, tile: Index) -> TileError:
    """Name the tile whose pixels could not be read."""
    return TileError.from_exception("reading the image", error, tile, grid.core(tile), whole=False)


@dataclass(frozen=True)
class SavedRegions:
    """Pixels in files that every worker can map into memory, so that no chunk is computed again.

    Parameters
    ----------
    files : tuple of (tuple of slice, str)
        What was computed, in voxels of the image, and the ``.npy`` file that holds it.
    errors : tuple of (tuple of slice, TileError)
        What could not be computed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = SavedRegions().added((slice(10, 20),), np.arange(10, 20), folder)
    ...     saved.read((slice(12, 15),)).tolist(), saved.covers((slice(5, 15),))
    ([12, 13, 14], False)
    """

    files: tuple[tuple[Box, str], ...] = ()
    errors: tuple[tuple[Box, TileError], ...] = ()

    def added(self, region: Box, pixels: np.ndarray, directory: str) -> SavedRegions:
        """Save one more region."""
        name = "-".join(f"{part.start}_{part.stop}" for part in region)
        path = os.path.join(directory, f"region-{name}.npy")
        with replaced_file(path, pixels.nbytes) as file:
            write_npy(file, pixels)
        return SavedRegions((*self.files, (region, path)), self.errors)

    def failed(self, region: Box, error: TileError) -> SavedRegions:
        """Keep the error of a region that cannot be computed."""
        return SavedRegions(self.files, (*self.errors, (region, error)))

    def covers(self, region: Box) -> bool:
        """Return whether a region lies in a saved one."""
        return self._find(region) is not None

    def read(self, region: Box) -> np.ndarray:
        """Read a region that is covered; raise the error of one that could not be computed."""
        for box, error in self.errors:
            if box == region:
                raise error
        found = self._find(region)
        if found is None:
            raise LookupError(f"{region} was not computed as a whole")
        whole, path = found
        return np.array(load_npy(path)[relative_box(region, whole)])

    def _find(self, region: Box) -> tuple[Box, str] | None:
        for whole, path in self.files:
            if all(a.start <= b.start and b.stop <= a.stop for a, b in zip(whole, region, strict=True)):
                return whole, path
        return None
