"""Where final labels go: an array in memory, a mapped file, or a zarr array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from blockbuster.npy import load_npy

__all__ = ["ArrayTarget", "NpyTarget", "ZarrTarget"]

Box = tuple[slice, ...]


@dataclass(frozen=True)
class ArrayTarget:
    """An array in the memory of this process.

    Parameters
    ----------
    array : ndarray of int
        All zeros; takes the labels.
    """

    array: np.ndarray

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box."""
        self.array[box] = labels


@dataclass(frozen=True)
class NpyTarget:
    """A ``.npy`` file that any process can map.

    Parameters
    ----------
    path : str
        An existing file.
    """

    path: str

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box."""
        mapped: Any = load_npy(self.path, "r+")
        mapped[box] = labels
        mapped.flush()


@dataclass(frozen=True)
class ZarrTarget:
    """A zarr array on disk.

    Parameters
    ----------
    path : str
        Folder of the array.
    """

    path: str

    @cached_property
    def _array(self) -> zarr.Array:
        # zarr looks for zeros slowly, and a box of background is not written at all. In a path given as
        # text it would take # and ? for parts of a URL.
        return zarr.open_array(Path(self.path), mode="r+").with_config({"write_empty_chunks": True})

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def write(self, box: Box, labels: np.ndarray) -> None:
        """Write the labels of a box."""
        self._array[box] = labels
