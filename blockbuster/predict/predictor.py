"""Predictor: a function of tiles in two steps."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from blockbuster.predict.memory import explained, is_out_of_memory

LAST_AXES = "a whole number, for the last two axes, or one for each of the last axes, e.g. (8, 8)"


@dataclass(frozen=True)
class Predictor:
    """A network as a function of tiles: predict on a device, decode on the processor beside it.

    Accepted wherever fn is. `tile_process` keeps the device fed: it reads tiles ahead, predicts
    tiles of one shape together, one batch at a time in each process, and decodes on its threads
    meanwhile.

    Parameters
    ----------
    predict : callable
        Takes a tile with its halo, a NumPy array of its own; with ``batch_size > 1`` some of them,
        stacked along a new first axis. Returns what `decode` needs: an array, or a tuple of arrays,
        with ``batch_size > 1`` their first axis that of the tiles.
    decode : callable
        Takes what `predict` returned for one tile, and returns its labels, as fn does. Several
        threads call it at once.
    batch_size : int
        How many tiles `predict` gets at most. It is halved for good where the device runs out of
        memory. Labels do not depend on it where `predict` does not.
    stride : int or tuple of int, optional
        Of the network, in voxels: a number for the last two axes, or one for each of the last axes.
        Tiles with their halo begin at multiples of it, as the image does, and are multiples of it
        long: the halo grows where it must, and at the far border of the image tiles are padded by
        reflection, and labels cut again.
    receptive_field : int or tuple of int, optional
        How many voxels a prediction depends on, as `stride`: a halo of less than half of it is
        warned of, since tiles then see another image than the whole one is.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as it is described.

    Examples
    --------
    >>> from scipy import ndimage
    >>> def find_objects(probabilities):
    ...     return ndimage.label(probabilities > 0.5)[0]
    >>> fn = Predictor(lambda tiles: tiles / 255, find_objects, batch_size=8)
    >>> fn(np.uint8([[255, 0, 200]])).tolist()
    [[1, 0, 2]]
    """

    predict: Callable[[np.ndarray], Any]
    decode: Callable[[Any], Any]
    _: KW_ONLY
    batch_size: int = 1
    stride: int | Sequence[int] | None = None
    receptive_field: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("predict", "decode"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} is {getattr(self, name)!r}; it is a function.")
        object.__setattr__(self, "batch_size", _count(self.batch_size, "batch_size", "a whole number"))
        for name in ("stride", "receptive_field"):
            value = getattr(self, name)
            if value is not None:
                given = value if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
                found = tuple(_count(n, name, LAST_AXES) for n in given)
                if not found:
                    raise ValueError(f"{name} is {value!r}; it is {LAST_AXES}.")
                object.__setattr__(self, name, found)

    def __call__(self, tile: np.ndarray) -> Any:
        """Predict and decode one tile by itself, and return its labels."""
        try:
            (prediction,) = self.predict_tiles([self.padded(tile)])
        except Exception as error:
            if is_out_of_memory(error):
                raise explained(error) from error
            raise
        return self.decode_tile(prediction, tile.shape)

    def padded(self, tile: np.ndarray) -> np.ndarray:
        """Return a copy of a tile, padded at its end to multiples of the stride."""
        widths = [(0, 0)] * tile.ndim
        for axis, step in self._strides(tile.shape):
            widths[axis] = (0, -tile.shape[axis] % step)
        if not any(after for _, after in widths):
            return tile.copy(order="C")
        return np.pad(tile, widths, mode="reflect" if min(tile.shape) > 1 else "symmetric")

    def predict_tiles(self, tiles: Sequence[np.ndarray]) -> list[Any]:
        """Predict tiles of one shape together, as many as `batch_size` allows.

        Returns
        -------
        list
            What `decode` needs, for each of them.

        Raises
        ------
        ValueError
            If `predict` returned arrays of another length.
        """
        if self.batch_size == 1:
            return [self.predict(tile) for tile in tiles]
        found = self.predict(np.stack(tiles))
        arrays = found if isinstance(found, tuple) else (found,)
        for array in arrays:
            if not getattr(array, "shape", ()) or len(array) != len(tiles):
                shape = getattr(array, "shape", None)
                got = f"an array of shape {tuple(shape)}" if shape is not None else type(array).__name__
                raise ValueError(
                    f"predict returned {got} for {len(tiles)} tiles; the first axis of what it returns is "
                    "that of the tiles."
                )
        if not isinstance(found, tuple):
            return [found[i] for i in range(len(tiles))]
        return [tuple([array[i] for array in arrays]) for i in range(len(tiles))]

    def decode_tile(self, prediction: Any, shape: tuple[int, ...]) -> Any:
        """Decode one tile of a shape, and cut off what it was padded with."""
        labels = self.decode(prediction)
        if not any(shape[axis] % step for axis, step in self._strides(shape)):
            return labels
        n_axes = len(self.stride or ())  # type: ignore[arg-type]
        box = (..., *(slice(0, n) for n in shape[-n_axes:]))
        if isinstance(labels, Mapping):
            return {name: _cut(one, box) for name, one in labels.items()}
        return _cut(labels, box)

    def _strides(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return axes of a tile with the stride along each."""
        steps: tuple[int, ...] = self.stride or ()  # type: ignore[assignment]
        return list(zip(range(len(shape) - len(steps), len(shape)), steps, strict=True)) if steps else []


def _cut(labels: Any, box: tuple[Any, ...]) -> Any:
    return labels[box] if isinstance(labels, np.ndarray) else labels


def _count(value: Any, name: str, rule: str) -> int:
    """Check a whole number that is 1 or more."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it is {rule}, 1 or more.") from None
    if number < 1:
        raise ValueError(f"{name} is {value!r}; it is {rule}, 1 or more.")
    return number
