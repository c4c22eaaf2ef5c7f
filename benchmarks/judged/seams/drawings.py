"""Images of objects that are not of one size: fibres and discs."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from benchmarks.tissue import NOISE, warped_positions

__all__ = ["disc_image", "fibre_image"]

# As many times as the walls of cells; fibres are cut to pieces at 4.
BEND = 2


def fibre_image(shape: tuple[int, ...], thickness: float, seed: int) -> np.ndarray:
    """Draw curved fibres side by side, three times as far apart as they are thick.

    Returns
    -------
    ndarray of float32, shape `shape`
        About 1 in fibres, 0 between them.
    """
    rng = np.random.default_rng(seed)
    across = np.linalg.qr(rng.standard_normal((len(shape),) * 2))[0][:, 1:]
    straight = np.stack(np.indices(shape), axis=-1).reshape(-1, len(shape))
    places = straight + BEND * (warped_positions(shape, 25 * thickness, rng) - straight)
    inside = (places @ across % (3 * thickness) < thickness).all(axis=1).reshape(shape)
    return _blurred(inside, rng)


def disc_image(shape: tuple[int, int], diameters: tuple[float, float], seed: int) -> np.ndarray:
    """Draw crowded discs of very mixed diameters, the large ones first; they touch, or overlap a little.

    Returns
    -------
    ndarray of float32, shape `shape`
        About 1 in discs, 0 between them.
    """
    rng = np.random.default_rng(seed)
    room = np.full(shape, np.inf)
    for radius in np.geomspace(diameters[1], diameters[0], 60**2) / 2:
        place = rng.integers(0, shape)
        if room[tuple(place)] >= 0.9 * radius:
            offsets = [np.arange(n) - at for n, at in zip(shape, place, strict=True)]
            room = np.minimum(room, np.hypot(*np.ix_(*offsets)) - radius)
    return _blurred(room <= 0, rng)


def _blurred(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    return (blurred + NOISE * rng.standard_normal(inside.shape)).astype(np.float32)
