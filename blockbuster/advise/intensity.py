"""Global intensities, so that fn can normalise every tile alike."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from blockbuster.source import Source, open_source
from blockbuster.stage.sample import sample_pixels


def intensity_percentiles(image: Any, q: Any = (1, 99.8), *, channel: int | None = 0, level: int = 0) -> Any:
    """Return percentiles of the intensities of a whole image.

    A function that stretches each tile to its own range sees the same cell differently in two
    tiles, which is the main reason why they disagree at seams. Compute the range once, and give it
    to fn.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    q : float or sequence of float
        Percentiles, 0 to 100.
    channel : int or None
        Channel when `image` is a path; ``None``: every channel by itself, where a path or a
        `zarr.Array` names its channel axis.
    level : int
        Pyramid level when `image` is a path.

    Returns
    -------
    float or tuple
        A float for a number `q`, a tuple of floats for a sequence; for every channel by itself, a
        tuple with one of these for each.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If `q` is something else, the image has no finite pixel, or as `tile_process` for the same
        arguments.

    Notes
    -----
    Reads at most about 16 million voxels of a channel: all of a smaller image, else 64 pieces that
    are spread evenly over it, the same at every call. NaN and infinities are left out. Memory is
    bounded: about 110 MB for uint16, 420 MB for float64.

    A sample can miss what is rare. In a mosaic of 256 photographs that differ much in brightness, a
    sixteenth of all voxels gave the percentile 99.8 within 1 %, 99 within 7 % and 50 within 9 %.

    Not from a coarse level of the pyramid, although it would see all of the image: averaging
    shrinks the extremes. In a fluorescence image of 512 x 672 pixels the percentile 99.8 is 5 %
    lower at level 1, 12 % at level 2 and 30 % at level 3; in a stack of nuclei of 31 x 61 x 57
    voxels the percentile 1 is 5 % higher at level 1, 9 % at level 2.

    Examples
    --------
    >>> image = np.arange(1001, dtype="uint16").reshape(7, 143)
    >>> intensity_percentiles(image)
    (10.0, 998.0)
    >>> intensity_percentiles(image, 50)
    500.0
    """
    wanted = _check_percentiles(q)
    source = open_source(image, channel=channel, level=level)
    channels = source.open_channels() if channel is None else []
    if channels:
        return tuple(_percentiles(each, q, wanted) for each in channels)
    return _percentiles(source, q, wanted)


def _percentiles(source: Source, q: Any, wanted: list[float]) -> Any:
    if source.dtype.kind == "c":
        raise TypeError(f"image {source.name} holds {source.dtype}; percentiles need real numbers.")
    pixels = sample_pixels(source)
    if not pixels.size:
        raise ValueError(f"image {source.name} has no finite pixel, so that there are no percentiles.")
    values = pixels.view(np.uint8) if pixels.dtype.kind == "b" else pixels
    found = tuple(float(value) for value in np.percentile(values, wanted))
    return found[0] if np.ndim(q) == 0 else found


def _check_percentiles(q: Any) -> list[float]:
    rule = "one percentile or several, numbers from 0 to 100, e.g. (1, 99.8)"
    q = q[()] if isinstance(q, np.ndarray) else q
    values = list(q) if isinstance(q, Sequence | np.ndarray) and not isinstance(q, str) else [q]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"q is {q!r}; it is {rule}.")
        if not 0 <= float(value) <= 100:
            raise ValueError(f"q is {q!r}; it is {rule}.")
    if not values:
        raise ValueError(f"q is {q!r}; it is {rule}.")
    return [float(value) for value in values]
