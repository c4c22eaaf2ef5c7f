"""Global intensities, so that fn can normalise every tile alike."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from blockbuster.source import Source, open_source
from blockbuster.stage.empty import sample_pixels

__all__ = ["intensity_percentiles"]


def intensity_percentiles(image: Any, q: Any = (1, 99.8), *, channel: int | None = 0, level: int = 0) -> Any:
    """Give percentiles of the intensities of a whole image.

    A function that stretches each tile to its own range sees the same cell differently in two tiles, which is
    the main reason why they disagree at seams. Compute the range once, and give it to fn.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    q : float or sequence of float
        Percentiles, 0 to 100.
    channel : int or None
        Channel when `image` is a path; ``None``: every channel by itself.
    level : int
        Pyramid level when `image` is a path.

    Returns
    -------
    float or tuple
        A float for a number `q`, a tuple of floats for a sequence; with ``channel=None``, and where the image
        has channels, a tuple with one of these for each channel.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If `q` is something else, the image has no finite pixel, or as `tile_process` for the same arguments.

    Notes
    -----
    Reads at most about 16 million voxels: all of a smaller image, else 64 pieces that are spread evenly over
    it, the same at every call. NaN and infinities are left out. Memory is bounded: about 250 MB.

    Not from a coarse level of the pyramid, although it would see all of the image: averaging shrinks the
    extremes. In a fluorescence image of 512 x 672 pixels the percentile 99.8 is 5 % lower at level 1, 12 % at
    level 2 and 30 % at level 3.

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
    axes = source.axes or ""
    if channel is None and "c" in axes and source.path is not None:
        n_channels = source.shape[axes.index("c")]
        sources = [open_source(image, channel=number, level=level) for number in range(n_channels)]
        return tuple(_percentiles(each, q, wanted) for each in sources)
    return _percentiles(source, q, wanted)


def _percentiles(source: Source, q: Any, wanted: list[float]) -> Any:
    pixels = sample_pixels(source)
    if pixels.dtype.kind == "c":
        raise TypeError(f"image {source.name} holds {pixels.dtype}; percentiles need real numbers.")
    if not pixels.size:
        raise ValueError(f"image {source.name} has no finite pixel, so that there are no percentiles.")
    found = tuple(float(value) for value in np.percentile(pixels, wanted))
    return found[0] if np.ndim(q) == 0 else found


def _check_percentiles(q: Any) -> list[float]:
    rule = "one percentile or several, numbers from 0 to 100, e.g. (1, 99.8)"
    values = list(q) if np.ndim(q) == 1 and not isinstance(q, str) else [q]
    for value in values:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise TypeError(f"q is {q!r}; it is {rule}.")
        if not 0 <= float(value) <= 100:
            raise ValueError(f"q is {q!r}; it is {rule}.")
    if not values:
        raise ValueError(f"q is {q!r}; it is {rule}.")
    return [float(value) for value in values]
