"""Memory of a network that labels a tile, as it was measured with Cellpose."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import math
from dataclasses import dataclass

# Cellpose resamples the image until a cell has this diameter, and gives the network squares of this
# side, to which it pads what is smaller.
NETWORK_DIAMETER = 30
NETWORK_SIDE = 256
MIB = 2**20
# Left for the libraries of a GPU, which take theirs when the model is loaded. Not measured.
CUDA_BYTES = 512 * MIB


@dataclass(frozen=True)
class NetworkMemory:
    """Memory of one version of Cellpose for planes, or volumes; measured in docs/benchmarks.md.

    Parameters
    ----------
    loading, model : int
        Bytes while the model is loaded, and from then on.
    square : int
        Bytes for each square of a batch while the network runs.
    flows : int
        Bytes per pixel that the network sees, resampled and padded, while it runs.
    kept : int
        Bytes that are kept of this while masks are made of flows, for tiles of any size.
    masks : int
        Bytes per pixel of the tile meanwhile.
    """

    loading: int
    model: int
    square: int
    flows: int
    kept: int
    masks: int

    def tile_bytes(self, voxels: int, fit: TileFit) -> int:
        """Estimate the bytes for a tile of so many voxels, halo included, besides the model."""
        running = fit.batch_size * self.square + voxels * self._flows(fit)
        return max(running, self.kept + voxels * (fit.voxel_bytes + self.masks))

    def most_voxels(self, n_bytes: int, fit: TileFit) -> int:
        """Count the voxels of the largest tile, halo included, that fits besides the model."""
        running = (n_bytes - fit.batch_size * self.square) // self._flows(fit)
        return max(0, min(running, (n_bytes - self.kept) // (fit.voxel_bytes + self.masks)))

    def _flows(self, fit: TileFit) -> int:
        return fit.voxel_bytes + math.ceil(self.flows * fit.enlargement())


@dataclass(frozen=True)
class TileFit:
    """What a tile's memory depends on besides its number of voxels.

    Parameters
    ----------
    least : tuple of int
        Least lengths that the tile may have, halo included, y and x or z, y and x, in voxels.
    voxel_bytes : int
        Bytes of a voxel that Cellpose does not see: of the image itself, and of the labels to be
        written.
    diameter : float
        Diameter of a cell, in voxels.
    batch_size : int
        Squares that the network gets at once.
    """

    least: tuple[int, ...]
    voxel_bytes: int
    diameter: float = NETWORK_DIAMETER
    batch_size: int = 8

    def enlargement(self) -> float:
        """Divide the voxels that the network sees by those of the tile.

        Examples
        --------
        >>> TileFit((512, 512), 10, diameter=15).enlargement()
        4.0
        >>> TileFit((64, 256, 256), 10).enlargement()
        4.0
        """
        scaled = [max(1.0, length * NETWORK_DIAMETER / self.diameter) for length in self.least]
        # A volume is seen three times, as a stack of planes along each axis.
        padded = (
            math.prod(max(NETWORK_SIDE, length) / length for length in plane)
            for plane in itertools.combinations(scaled, 2)
        )
        return max(padded) * math.prod(scaled) / math.prod(self.least)


# By major version and number of axes. Estimates lie above everything that was measured.
MEASURED = {
    (3, 2): NetworkMemory(64 * MIB, 64 * MIB, 80 * MIB, 92, 0, 110),
    (3, 3): NetworkMemory(64 * MIB, 64 * MIB, 80 * MIB, 30, 150 * MIB, 120),
    (4, 2): NetworkMemory(2048 * MIB, 768 * MIB, 145 * MIB, 92, 440 * MIB, 410),
    (4, 3): NetworkMemory(2048 * MIB, 768 * MIB, 145 * MIB, 30, 250 * MIB, 120),
}


def network_memory(n_spatial: int, *, on_gpu: bool, version: str | None = None) -> NetworkMemory:
    """Return the memory of the installed Cellpose; without one, of Cellpose 4.

    Parameters
    ----------
    n_spatial : int
        2 for planes, 3 for volumes.
    on_gpu : bool
        Whether it runs on a GPU. Cellpose 3 checks the masks of planes there as Cellpose 4 does
        everywhere, which takes more memory.
    version : str, optional
        Of Cellpose. ``None``: the one that is installed here.

    Examples
    --------
    >>> network_memory(2, on_gpu=True, version="4.0.1").square // 2**20
    145
    """
    if version is None:
        try:
            version = importlib.metadata.version("cellpose")
        except importlib.metadata.PackageNotFoundError:
            version = "4"
    major = min(4, max(3, int(version.partition(".")[0])))
    found, newest = MEASURED[major, n_spatial], MEASURED[4, n_spatial]
    if not on_gpu:
        return found
    return dataclasses.replace(found, model=found.model + CUDA_BYTES, kept=newest.kept, masks=newest.masks)
