"""Tiles on the grid of a network: where they begin, how long they are, how far they see."""

from __future__ import annotations

import dataclasses

from blockbuster.errors import warn_user
from blockbuster.grid import TileGrid
from blockbuster.predict import Predictor
from blockbuster.predict.device import MAX_WAITING_BYTES


def aligned_tiles(grid: TileGrid, predictor: Predictor | None) -> TileGrid:
    """Return tiles whose halo grows to multiples of the stride of a network.

    Parameters
    ----------
    grid : TileGrid
        The tiles.
    predictor : Predictor or None
        The network; without a stride tiles stay as they are.

    Raises
    ------
    ValueError
        If tiles begin off the grid of the network, with the nearest that do not.

    Examples
    --------
    >>> grid = TileGrid.regular((100, 100), (32, 32), (5, 5))
    >>> aligned_tiles(grid, Predictor(abs, abs, stride=8)).halo
    (8, 8)
    """
    steps = _steps(grid, predictor and predictor.stride, "stride")
    halo = list(grid.halo)
    for axis, step in steps.items():
        lengths = grid.lengths[axis]
        if any(length % step for length in lengths[:-1]):
            nearest = tuple(_aligned(n, steps.get(i, 1)) for i, n in enumerate(grid.tile_shape))
            raise ValueError(
                f"tiles are {_by(grid.tile_shape)} voxels, and the network of fn has a stride of {step} along "
                f"axis {axis}: they are multiples of it, e.g. tile_shape={nearest}."
            )
        if len(lengths) > 1:
            halo[axis] = _aligned(halo[axis], step)
    return dataclasses.replace(grid, halo=tuple(halo))


def describe_network(grid: TileGrid, predictor: Predictor) -> str:
    """Say how tiles are fitted to a network, and how much waits for it."""
    waits = f"up to {MAX_WAITING_BYTES / 1e6:.0f} MB of tiles and predictions wait in a process"
    steps = _steps(grid, predictor.stride, "stride")
    if not steps:
        return f"batches of {predictor.batch_size}, {waits}"
    missing = [-grid.shape[axis] % step for axis, step in steps.items()]
    padding = f"padded by {_by(missing)} at the far border, " if any(missing) else ""
    return f"batches of {predictor.batch_size}, stride {_by(steps.values())}, {padding}{waits}"


def warn_of_thin_halo(grid: TileGrid, predictor: Predictor | None) -> None:
    """Warn where a network sees farther than tiles do."""
    fields = _steps(grid, predictor and predictor.receptive_field, "receptive_field")
    needed = {axis: n // 2 for axis, n in fields.items() if len(grid.lengths[axis]) > 1}
    if any(grid.halo[axis] < n for axis, n in needed.items()):
        overlap = tuple(max(n, needed.get(axis, 0)) for axis, n in enumerate(grid.halo))
        warn_user(
            f"The halo is {_by(grid.halo)} voxels, and the network of fn sees {_by(needed.values())} to each "
            f"side: near seams tiles see another image than the whole one is. Pass overlap={overlap}."
        )


def _steps(grid: TileGrid, steps: object, name: str) -> dict[int, int]:
    """Return the axes that numbers for the last ones are for."""
    found = steps if isinstance(steps, tuple) else ()
    if len(found) > grid.ndim:
        raise ValueError(f"{name} of fn has {len(found)} numbers, and the image {grid.ndim} axes.")
    return dict(zip(range(grid.ndim - len(found), grid.ndim), found, strict=True))


def _aligned(length: int, step: int) -> int:
    return max(1, -(-length // step)) * step if length else 0


def _by(numbers: object) -> str:
    return " x ".join(map(str, numbers))  # type: ignore[call-overload]
