"""What the seams are judged on: images, the function for each, tile shapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tissue import dense_image, sparse_image
from benchmarks.watersheds import DenseWatershed, NucleusWatershed, Unstable

__all__ = ["Case", "generated_cases", "random_tissue", "random_tissues", "real_cases", "unstable_cases"]

# As a share of a tile's range. A tile of the mosaic without nuclei is all noise once it is stretched.
NOISE, MOSAIC_NOISE = 0.3, 0.1


@dataclass(frozen=True)
class Case:
    """An image and what segments it.

    Parameters
    ----------
    name : str
        What the row is called.
    kind : {"dense", "sparse", "crowded"}
        Cells without gaps, nuclei that lie apart but for a few, or something in between.
    load : callable
        Gives the image.
    fn : callable
        Gives the labels of a tile.
    tiles : tuple of tuple of int
        Tile shapes.
    """

    name: str
    kind: str
    load: Callable[[], np.ndarray]
    fn: Callable[[np.ndarray], np.ndarray]
    tiles: tuple[tuple[int, ...], ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.tiles[0])


def _dense(shape: tuple[int, ...], diameter: float, seed: int, *tiles: tuple[int, ...]) -> Case:
    load = partial(dense_image, shape, diameter, seed)
    return Case(f"dense {len(shape)}-D seed {seed}", "dense", load, DenseWatershed(diameter), tiles)


def _sparse(shape: tuple[int, ...], diameter: float, seed: int, *tiles: tuple[int, ...]) -> Case:
    load, fn = partial(sparse_image, shape, diameter, seed), NucleusWatershed(diameter, 0.5)
    return Case(f"sparse {len(shape)}-D seed {seed}", "sparse", load, fn, tiles)


def generated_cases(*, small: bool) -> list[Case]:
    """Give the generated images; small ones end in seconds."""
    if small:
        return [
            _dense((120, 130), 12, 1, (44, 50)),
            _dense((40, 44, 46), 10, 2, (22, 25, 24)),
            _sparse((140, 150), 12, 3, (60, 44)),
        ]
    planes, volumes = ((150, 150), (100, 220), (257, 190)), ((55, 60, 65), (40, 40, 40), (30, 64, 64))
    return [
        *(_dense((600, 620), 16, seed, *planes) for seed in (1, 2)),
        *(_dense((110, 120, 130), 12, seed, *volumes) for seed in (3, 4)),
        _sparse((1000, 1000), 16, 5, *planes),
    ]


def real_cases() -> list[Case]:
    """Give the micrographs in the folder that the variable BLOCKBUSTER_DATA names; none without it."""
    folder = _data_folder()
    if folder is None:
        return []
    volumes = ((50, 50, 50), (40, 60, 100), (100, 50, 50))
    plane, volume = ((128, 128), (100, 180), (200, 150)), ((31, 30, 30), (16, 32, 32), (20, 61, 23))
    rows = [
        ("stardist img2d", "stardist_samples/img2d.tif", NucleusWatershed(14, 44), plane),
        ("stardist img3d", "stardist_samples/img3d.tif", NucleusWatershed(7, 203), volume),
        ("plantseg 1135", "plantseg_nuclei/1135_mini.h5", NucleusWatershed(19, 39), volumes),
        # Mostly noise, so that no threshold finds nuclei: what is found are cells of smoothed noise.
        ("plantseg 1137", "plantseg_nuclei/1137_mini.h5", DenseWatershed(22), volumes),
    ]
    crowded = [Case(name, "crowded", partial(_read, folder / path), fn, tiles) for name, path, fn, tiles in rows]
    return [_mosaic(folder, NucleusWatershed(14, 32)), *crowded]


def _data_folder() -> Path | None:
    name = os.environ.get("BLOCKBUSTER_DATA")
    return Path(name) if name else None


def _mosaic(folder: Path, fn: Any) -> Case:
    # No seam at a multiple of 256 other than the origin: nuclei of the mosaic are cut there.
    tiles = ((300, 300), (400, 700), (560, 450))
    return Case("dsb2018 mosaic", "sparse", partial(_read, folder / "dsb2018_mosaic/mosaic_image.tif"), fn, tiles)


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        import tifffile

        return tifffile.imread(path)
    import h5py

    with h5py.File(path) as file:
        return file["raw"][...]


def unstable_cases(*, small: bool) -> list[Case]:
    """Give dense and sparse images with a function that sees the same pixels differently in another tile."""
    cases = [_shaken(case) for case in generated_cases(small=small)]
    folder = _data_folder()
    if folder is not None and not small:
        cases.append(_mosaic(folder, Unstable(NucleusWatershed(14, 0.3), MOSAIC_NOISE)))
    return cases


def random_tissue(ndim: int, seed: int, *, small: bool) -> Case:
    """Give a dense tissue with a stable function; a small one is flat."""
    if small:
        return _dense((90, 100), 12, seed, (40, 56))
    if ndim == 2:
        return _dense((300, 310), 14, seed, (56, 72))
    return _dense((64, 70, 76), 12, seed, (32, 35, 38))


def random_tissues(*, small: bool) -> list[Case]:
    """Give the tissues that settle the default of min_agreement, each with a stable and an unstable function."""
    seeds = [(2, 11)] if small else [(2 if seed < 16 else 3, seed) for seed in range(11, 21)]
    stable = [random_tissue(ndim, seed, small=small) for ndim, seed in seeds]
    return [*stable, *map(_shaken, stable)]


def _shaken(case: Case) -> Case:
    fn: Any = case.fn
    return Case(case.name, case.kind, case.load, Unstable(fn, NOISE), case.tiles)
