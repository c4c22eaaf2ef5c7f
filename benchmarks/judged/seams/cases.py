"""What rules are compared on: an image, fn, tiles, and the labels that are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from benchmarks.seam_accuracy import diameter_of
from benchmarks.seam_cases import random_tissues
from benchmarks.tissue import sparse_image
from benchmarks.watersheds import Unstable

__all__ = ["Case", "cases"]

CELL = 8
N_PLANES = 24


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


def cases(*, small: bool) -> list[Case]:
    """Return all cases; small ones take seconds."""
    n_cells = 5 if small else 12
    found = [_columns(n_cells, p) for p in ((0, 0.05) if small else (0, 0.01, 0.02, 0.05))]
    found.append(_stack_of_nuclei((12, 60, 60) if small else (40, 200, 200)))
    for case in random_tissues(small=small):
        image, kind = case.load(), "unstable" if isinstance(case.fn, Unstable) else "stable"
        truth = case.fn(image)
        for halo in (0.5, 1.0):
            depth = max(1, round(halo * diameter_of(truth)))
            name = f"dense {case.ndim}-D {kind} halo {halo:g}"
            found.append(Case(name, image, case.fn, case.tiles[0], (depth,) * case.ndim, truth))
    return found


def _columns(n: int, p: float) -> Case:
    """Touching cells through a stack; in a plane a cell is fused with the next with a probability `p`."""
    rng = np.random.default_rng(0)
    plane = np.kron(np.arange(1, n * n + 1).reshape(n, n), np.ones((CELL, CELL), np.int64))
    planes = []
    for _ in range(N_PLANES):
        fused = plane.copy()
        for left in np.arange(1, n * n + 1).reshape(n, n)[:, :-1].ravel()[rng.random(n * (n - 1)) < p]:
            fused[fused == fused[plane == left + 1][0]] = fused[plane == left][0]
        planes.append(fused)
    truth = np.broadcast_to(plane, (N_PLANES, *plane.shape))
    return Case(f"columns p {p:g}", np.stack(planes), lambda tile: tile, (1, *plane.shape), (0, 0, 0), truth)


def _stack_of_nuclei(shape: tuple[int, ...]) -> Case:
    """Nuclei that lie apart, segmented plane by plane."""
    image = sparse_image(shape, 16, 1) > 0.5
    truth = ndimage.label(image)[0]
    return Case("stack of nuclei", image, lambda tile: ndimage.label(tile)[0], (1, *shape[1:]), (0, 0, 0), truth)
