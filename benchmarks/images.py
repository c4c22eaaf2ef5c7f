"""Generated images: discs in 2-D, blobs in 3-D, the same on every machine.

Objects have one constant grey value and the background is 0. That is a choice: such images compress
well, so reading is as cheap as it gets, for the plain loop too, which reads many chunks more than once.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import zarr
from scipy import ndimage

__all__ = ["GREY", "SPARSE_SIGMA", "Image", "blob_planes", "disc_rows"]

GREY = 200
SEED = 20
CELL = 24
DIAMETERS = range(10, 25)
BLOB_SIGMA = 1.86
# About 17,000 blobs in 1024 pixels cubed.
SPARSE_SIGMA = 6.5
BLOB_FRACTION = 0.06


@dataclass(frozen=True)
class Image:
    """A generated image of equal sides, stored as a zarr array with zarr's default settings.

    Parameters
    ----------
    kind : {"discs", "blobs"}
        ``"discs"`` is 2-D, ``"blobs"`` is 3-D.
    length : int
        Side in pixels.
    chunk : int
        Side of a chunk in pixels.
    dtype : str
        Of the pixels; microscopes write uint16.
    sigma : float
        How smooth the noise of blobs is, in pixels.
    """

    kind: str
    length: int
    chunk: int
    dtype: str = "uint16"
    sigma: float = BLOB_SIGMA

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 2 if self.kind == "discs" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels along each axis."""
        return (self.length,) * self.ndim

    def stored_in(self, folder: Path) -> Path:
        """Give the path of the image in a folder; generate it there unless it is there already."""
        sigma = "" if self.sigma == BLOB_SIGMA else f"-sigma{self.sigma}"
        path = folder / f"{self.kind}-{self.length}-chunk{self.chunk}-{self.dtype}{sigma}.zarr"
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            self._write(unfinished)
            os.replace(unfinished, path)
        return path

    def _write(self, path: Path) -> None:
        """Write the image slab by slab, so that memory does not grow with it."""
        slab = disc_rows if self.kind == "discs" else functools.partial(blob_planes, sigma=self.sigma)
        chunks = (self.chunk,) * self.ndim
        array = zarr.create_array(path, shape=self.shape, dtype=self.dtype, chunks=chunks)
        for start in range(0, self.length, self.chunk):
            stop = min(self.length, start + self.chunk)
            array[start:stop] = slab(self.length, start, stop).astype(self.dtype) * array.dtype.type(GREY)


def disc_rows(length: int, start: int, stop: int) -> np.ndarray:
    """Draw rows of a plane of discs, one in each cell of a 24-pixel grid.

    Parameters
    ----------
    length : int
        Side of the plane in pixels.
    start, stop : int
        First row, and the one after the last.

    Returns
    -------
    ndarray of bool, shape (stop - start, length)
    """
    n_cells = -(-length // CELL)
    choice = np.random.default_rng(SEED).integers(len(DIAMETERS), size=(n_cells, n_cells))
    first, last = start // CELL, -(-stop // CELL)
    cells = np.stack([_disc(diameter) for diameter in DIAMETERS])[choice[first:last]]
    rows = cells.transpose(0, 2, 1, 3).reshape((last - first) * CELL, n_cells * CELL)
    return rows[start - first * CELL : stop - first * CELL, :length]


def _disc(diameter: int) -> np.ndarray:
    centre = (CELL - 1 - diameter % 2) / 2
    offset2 = (np.arange(CELL) - centre) ** 2
    return np.add.outer(offset2, offset2) <= (diameter / 2) ** 2


def blob_planes(length: int, start: int, stop: int, sigma: float = BLOB_SIGMA) -> np.ndarray:
    """Draw planes of a volume of blobs: smooth noise above a threshold.

    Parameters
    ----------
    length : int
        Side of the volume in pixels.
    start, stop : int
        First plane, and the one after the last.
    sigma : float
        How smooth the noise is, in pixels.

    Returns
    -------
    ndarray of bool, shape (stop - start, length, length)

    Notes
    -----
    The default sigma and the threshold give about 90,000 blobs in 512 pixels cubed. The threshold comes from
    theory, not from the volume, so that slabs can be drawn one by one.
    """
    margin = math.ceil(4 * sigma)
    planes = range(start, stop + 2 * margin)
    noise = np.stack([_noise(z, length) for z in planes])
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=4)[margin:-margin]
    spread = (2 * sigma * math.sqrt(math.pi)) ** -1.5
    return smooth > spread * NormalDist().inv_cdf(1 - BLOB_FRACTION)


def _noise(z: int, length: int) -> np.ndarray:
    return np.random.default_rng((SEED, z)).standard_normal((length, length), np.float32)
