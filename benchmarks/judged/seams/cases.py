"""What rules are compared on: an image, fn, tiles, and the labels that are right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from benchmarks.judged.seams.drawings import disc_image, fibre_image
from benchmarks.judged.seams.functions import Components, DepthWatershed, Noisy, RandomMarkers, whole_components
from benchmarks.seam_accuracy import diameter_of
from benchmarks.seam_cases import NOISE, random_tissue, real_cases
from benchmarks.tissue import sparse_image
from benchmarks.watersheds import DenseWatershed, NucleusWatershed, Unstable

__all__ = ["HALVES", "Case", "cases"]

# Seeds of images: what a rule is tuned on, and what it is shown on. Those of seam_accuracy are others.
HALVES = {"tuned": (22, 24, 26), "held back": (21, 23, 25)}
CELL = 8
N_PLANES = 24
FIBRE = 4
SHADE = 0.15
MAX_REAL_LENGTH = 1024
# None is a whole number of cells long, so that walls lie at seams as often as elsewhere.
TILES = {2: (61, 75), 3: (32, 35, 38)}


@dataclass(frozen=True)
class Case:
    """An image, what segments it, and what is right.

    Parameters
    ----------
    name : str
        What the row is called; images of one name are averaged.
    image : ndarray
        What fn is given tiles of.
    fn : callable
        Gives the labels of a tile.
    tile, halo : tuple of int
        Shape of a tile, and depth of its halo.
    truth : ndarray of int
        The labels that are right: those of fn for the whole image, or what the image was drawn from.
    """

    name: str
    image: np.ndarray
    fn: Callable[[np.ndarray], np.ndarray]
    tile: tuple[int, ...]
    halo: tuple[int, ...]
    truth: np.ndarray


def cases(*, small: bool, half: str = "both") -> Iterator[Case]:
    """Yield the cases of a half, by name in `HALVES`, or of both; small ones take seconds.

    Micrographs, which have no second half, are held back.
    """
    kinds = _columns, _stack_of_nuclei, _tissues, _fibres, _mixed_sizes, _whole_objects
    for seeds in HALVES.values() if half == "both" else [HALVES[half]]:
        for seed, kind in itertools.product(seeds[:1] if small else seeds, kinds):
            yield from kind(seed, small)
    if not small and half != "tuned":
        yield from _micrographs()


def _columns(seed: int, small: bool) -> Iterator[Case]:
    """Touching cells through a stack; in a plane a cell is fused with the next with a probability p."""
    n = 5 if small else 12
    numbers = np.arange(1, n * n + 1).reshape(n, n)
    plane = np.kron(numbers, np.ones((CELL, CELL), np.int64))
    truth = np.broadcast_to(plane, (N_PLANES, *plane.shape))
    for p in (0, 0.05) if small else (0, 0.01, 0.02, 0.05):
        rng, stack = np.random.default_rng(seed), truth.copy()
        for fused in stack:
            for left in numbers[:, :-1].ravel()[rng.random(n * (n - 1)) < p]:
                fused[fused == fused[plane == left + 1][0]] = fused[plane == left][0]
        yield Case(f"columns p {p:g}", stack, lambda tile: tile, (1, *plane.shape), (0, 0, 0), truth)


def _stack_of_nuclei(seed: int, small: bool) -> Iterator[Case]:
    """Nuclei that lie apart, segmented plane by plane."""
    image = sparse_image((12, 60, 60) if small else (40, 200, 200), 16, seed)
    yield Case("stack of nuclei", image, Components(), (1, *image.shape[1:]), (0, 0, 0), Components()(image))


def _tissues(seed: int, small: bool) -> Iterator[Case]:
    """Cells without gaps, with functions that see the same in each tile, or do not."""
    for ndim in (2,) if small else (2, 3):
        tissue = random_tissue(ndim, seed, small=small)
        image, stable = tissue.load(), cast(DenseWatershed, tissue.fn)
        tile = tissue.tiles[0] if small else TILES[ndim]
        unstable, stretched = Unstable(stable, NOISE), Unstable(NucleusWatershed(stable.diameter, 0.3), 0)
        shaded = (image * np.linspace(1 - SHADE, 1 + SHADE, image.shape[-1])).astype(image.dtype)
        truth = stable(image)
        for kind, seen, fn, right in [
            ("stable", image, stable, truth),
            ("unstable", image, unstable, unstable(image)),
            ("stretched", shaded, stretched, stretched(image)),
            ("noise", image, Noisy(stable, NOISE / 2), truth),
            ("markers", image, RandomMarkers(stable.diameter), truth),
        ]:
            yield from _at_halos(f"dense {ndim}-D {kind}", seen, fn, tile, right)


def _fibres(seed: int, small: bool) -> Iterator[Case]:
    """Curved fibres through many tiles, a few voxels thick."""
    for tile in ((30, 34),) if small else ((56, 72), (22, 25, 26)):
        image = fibre_image(tuple((2 if small else 3) * n + n // 2 for n in tile), FIBRE, seed)
        name, truth = f"fibres {len(tile)}-D", Components()(image)
        yield from _at_halos(name, image, Components(), tile, truth, 2 * FIBRE)


def _mixed_sizes(seed: int, small: bool) -> Iterator[Case]:
    """Crowded discs, the largest ten times as wide as the smallest."""
    length, fn = 150 if small else 450, DepthWatershed()
    image = disc_image((length, length), (6, 30 if small else 60), seed)
    yield from _at_halos("mixed sizes", image, fn, (70, 60) if small else (110, 130), fn(image))


def _whole_objects(seed: int, small: bool) -> Iterator[Case]:
    """Nuclei that lie apart, and a function that drops what touches the border of its tile."""
    for shape in ((90, 100),) if small else ((300, 310), (64, 70, 76)):
        image, tile = sparse_image(shape, 12, seed), (40, 56) if small else TILES[len(shape)]
        name = f"whole objects {len(shape)}-D"
        yield from _at_halos(name, image, whole_components, tile, whole_components(image))


def _micrographs() -> Iterator[Case]:
    for case in real_cases():
        image = case.load()[(slice(MAX_REAL_LENGTH),) * case.ndim]
        yield from _at_halos(case.name, image, case.fn, case.tiles[0], case.fn(image))


def _at_halos(
    name: str,
    image: np.ndarray,
    fn: Callable[[np.ndarray], np.ndarray],
    tile: tuple[int, ...],
    truth: np.ndarray,
    diameter: float | None = None,
) -> Iterator[Case]:
    """Yield the case with a halo of half a diameter, and of one; that of the objects if it is not given."""
    diameter = diameter or diameter_of(truth)
    for halo in (0.5, 1.0):
        depth = max(1, round(halo * diameter))
        yield Case(f"{name} halo {halo:g}", image, fn, tile, (depth,) * image.ndim, truth)
