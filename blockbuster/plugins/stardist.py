"""StarDist in 2-D and 3-D as a tile function."""

from __future__ import annotations

import contextlib
import copy
import json
import numbers
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blockbuster.plugins.loading import (
    check_keywords,
    check_same_version,
    evaluation_turn,
    file_stamp,
    installed_version,
    load_once,
)
from blockbuster.plugins.memory import evaluate_within_memory
from blockbuster.plugins.tiles import check_finite, is_uniform, label_shape, planes_and_channels

PLANES = (
    "Cut planes with tile_shape=(1, ..., y, x) for a 2-D model; if that axis holds channels, pass channel=None "
    "to tile_process and axes, e.g. axes='CYX', to stardist_fn."
)
SMALLER = "choose smaller tiles, or end other programs on the device."
# Keywords with which it returns no labels, or more than labels.
NO_LABELS = {"return_labels", "return_predict"}
CONFIG, THRESHOLDS, WEIGHTS = "config.json", "thresholds.json", (".h5", ".hdf5")
MAX_PARTS = 16


@dataclass(frozen=True)
class StarDistFn:
    """A StarDist model that labels tiles; made by `stardist_fn`.

    Parameters
    ----------
    model : str
        The name of a registered model, or the path of a model's folder.
    n_dim : int
        2 for planes, 3 for volumes.
    normalize : tuple or None
        ``("percentiles", low, high)`` of each tile, ``("lowhigh", pairs)``, or ``None``.
    predict_kwargs : dict
        Further keywords for StarDist's `predict_instances`.
    version : str
        StarDist's. Tiles are evaluated by no other version.
    files : tuple of str
        What lies in the model's folder: what the model is.
    """

    model: str
    n_dim: int
    normalize: tuple[Any, ...] | None
    predict_kwargs: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    files: tuple[str, ...] = ()

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Label a tile: integers of its shape, without channels."""
        axes = self.predict_kwargs.get("axes")
        if axes is not None and len(axes) != tile.ndim:
            raise ValueError(f"axes is {axes!r}, but the tile has shape {tile.shape}; name each of its axes.")
        axis = None if axes is None or "C" not in axes else axes.index("C")
        image = planes_and_channels(tile, self.n_dim, axis, PLANES)
        check_finite(image)
        shape = label_shape(tile.shape, axis)
        if is_uniform(image):
            return np.zeros(shape, np.int32)
        model = load_once(("stardist", self.model), self._load, file_stamp(self.files))
        wanted = model.config.n_channel_in
        if image.shape[-1] != wanted:
            raise ValueError(
                f"the tile has {image.shape[-1]} channels, and the model takes {wanted}; pass channel=None to "
                "tile_process and axes, e.g. axes='CYX', to stardist_fn for an image with channels."
            )
        image = _normalize(image, self.normalize)
        import tensorflow  # the model has loaded it, or said how to install it

        with evaluation_turn("cuda:0" if tensorflow.config.list_physical_devices("GPU") else "cpu"):
            labels = evaluate_within_memory(partial(self._evaluate, model, image), self._parts(), SMALLER)
        return np.reshape(labels, shape)

    def _load(self) -> Any:
        check_same_version("StarDist", self.version, _installed_version())
        kind = _classes()[self.n_dim]
        # It prints, which would go into the output of the command line.
        with contextlib.redirect_stdout(sys.stderr):
            if not self.files:
                return kind.from_pretrained(self.model)
            folder = Path(self.model)
            return kind(None, name=folder.name, basedir=str(folder.parent))

    def _parts(self) -> list[tuple[int, ...] | None]:
        """List in how many parts per axis to predict, from what is wanted to ever more."""
        first = self.predict_kwargs.get("n_tiles")
        least = [1] * self.n_dim if first is None else list(first)
        more = [(*least[:-2], least[-2] * factor, least[-1] * factor) for factor in (2, 4, 8, MAX_PARTS)]
        return [first, *more]

    def _evaluate(self, model: Any, image: np.ndarray, n_tiles: tuple[int, ...] | None) -> np.ndarray:
        # A copy, since StarDist adds to its arguments, and this function must not change.
        options = {"show_tile_progress": False} | copy.deepcopy(self.predict_kwargs)
        options["axes"] = "ZYXC"[-self.n_dim - 1 :]
        if n_tiles is not None:
            # More parts than voxels are refused.
            options["n_tiles"] = (*map(min, n_tiles, image.shape[:-1]), 1)
        if isinstance(options.get("scale"), tuple | list):
            options["scale"] = (*options["scale"], 1)
        labels, _ = model.predict_instances(image, **options)
        return np.asarray(labels)


def stardist_fn(
    model: str | os.PathLike[str], *, normalize: Any = (1, 99.8), **predict_kwargs: Any
) -> StarDistFn:
    """Make a tile function of a StarDist model.

    Parameters
    ----------
    model : str or path
        The name of a model that StarDist offers, e.g. ``"2D_versatile_fluo"``, or the path of the
        folder of a trained one (``config.json`` and weights), which must lie there on all machines
        that run tiles.
    normalize : (low, high), {"lowhigh": (low, high)} or None
        Two percentiles of each tile, which become 0 and 1, for every channel by itself. With
        ``"lowhigh"``, two intensities for all tiles, e.g. ``{"lowhigh":
        intensity_percentiles(image)}``, or a pair of them for each channel. ``None``: tiles are
        normalised already.
    **predict_kwargs
        Any keyword of StarDist's ``predict_instances``, e.g. ``prob_thresh``, ``nms_thresh``,
        ``n_tiles``, with one number for each of (z), y, x. ``axes``: a letter for each axis of a
        tile with channels, e.g. ``"CYX"`` for ``channel=None`` in `tile_process`.

    Returns
    -------
    StarDistFn
        ``(tile) -> labels``. Its pickle holds names and numbers, no weights.

    Raises
    ------
    ImportError
        If StarDist or TensorFlow is not installed.
    ValueError, TypeError, FileNotFoundError
        If StarDist does not know `model` or a keyword, or `normalize` is none of these.

    Notes
    -----
    The model is loaded once per process, when the first tile comes, and its threads share it; they
    evaluate one tile at a time, on the GPU if TensorFlow sees one. A tile of one value, or of NaN
    alone, is all background, and not evaluated; where the two percentiles are one value, the least
    and the greatest intensity take their place. When a GPU runs out of memory, the tile is
    predicted again in 2 x 2 parts, up to 16 x 16, and then fails.

    Examples
    --------
    >>> fn = stardist_fn("2D_versatile_fluo", prob_thresh=0.6)  # doctest: +SKIP
    >>> tile_process("image.zarr", fn, tile_shape=(1, 2048, 2048), overlap=50)  # doctest: +SKIP
    """
    version = _installed_version()
    rule = _read_normalize(normalize)
    classes = _classes()
    check_keywords(predict_kwargs, classes[2].predict_instances, f"StarDist {version}", NO_LABELS)
    text, n_dim, files = _find_model(model, classes, version)
    _check_axes(predict_kwargs.get("axes"), n_dim)
    return StarDistFn(text, n_dim, rule, dict(predict_kwargs), version, files)


def _installed_version() -> str:
    return installed_version("stardist", ["stardist", "tensorflow"])


def _classes() -> dict[int, Any]:
    from stardist import models

    return {2: models.StarDist2D, 3: models.StarDist3D}


def _find_model(model: Any, classes: dict[int, Any], version: str) -> tuple[str, int, tuple[str, ...]]:
    """Return a name or folder, the axes of what it labels, and the files that it consists of."""
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model is {model!r}; it is a name or the path of a folder, e.g. '2D_versatile_fluo'.")
    text = os.fspath(model)
    if os.path.isdir(text):
        return _read_folder(Path(text).absolute())
    from csbdeep.models.pretrained import get_registered_models

    known: dict[str, int] = {}
    for n_dim, kind in classes.items():
        keys, aliases = get_registered_models(kind)
        known.update(dict.fromkeys([*keys, *(alias for names in aliases.values() for alias in names)], n_dim))
    if text in known:
        return text, known[text], ()
    if os.path.dirname(text):
        raise FileNotFoundError(f"model is {text!r}; there is no such folder.")
    raise ValueError(
        f"model is {text!r}, which StarDist {version} does not know; it knows {', '.join(known)}. Use one of "
        "these, or the path of the folder of a trained model."
    )


def _read_folder(folder: Path) -> tuple[str, int, tuple[str, ...]]:
    try:
        n_dim = int(json.loads((folder / CONFIG).read_text())["n_dim"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model is the folder {folder}, whose {CONFIG} says no n_dim: {error!r}.") from error
    names = sorted(path.name for path in folder.iterdir())
    weights = [name for name in names if name.endswith(WEIGHTS)]
    if not weights:
        # StarDist would go on with random ones.
        raise FileNotFoundError(f"model is the folder {folder}, which has no weights (*.h5).")
    kept = [name for name in names if name in (CONFIG, THRESHOLDS)] + weights
    return str(folder), n_dim, tuple(str(folder / name) for name in kept)


def _check_axes(axes: Any, n_dim: int) -> None:
    if axes is None:
        return
    text = axes if isinstance(axes, str) else ""
    if not text.replace("C", "").endswith("ZYX"[-n_dim:]) or len(set(text)) != len(text):
        raise ValueError(
            f"axes is {axes!r}; it names each axis of a tile once, {', '.join('ZYX'[-n_dim:])} in this order and "
            f"last among those that are not C, e.g. {'C' + 'ZYX'[-n_dim:]!r}."
        )


def _read_normalize(normalize: Any) -> tuple[Any, ...] | None:
    if normalize is None or normalize is False:
        return None
    if isinstance(normalize, Mapping) and set(normalize) == {"lowhigh"}:
        pairs = np.atleast_2d(np.asarray(normalize["lowhigh"], float))
        if pairs.shape[1:] == (2,) and np.isfinite(pairs).all() and (pairs[:, 0] < pairs[:, 1]).all():
            return ("lowhigh", tuple(map(tuple, pairs.tolist())))
        raise ValueError(f"normalize is {normalize!r}; lowhigh is (low, high) with low < high, or such pairs.")
    if isinstance(normalize, tuple | list) and len(normalize) == 2:
        low, high = normalize
        are_numbers = all(isinstance(q, numbers.Real) and not isinstance(q, bool) for q in normalize)
        if are_numbers and 0 <= low < high <= 100:
            return ("percentiles", float(low), float(high))
    raise ValueError(
        f"normalize is {normalize!r}; it is two percentiles of each tile with 0 <= low < high <= 100, e.g. "
        '(1, 99.8), or {"lowhigh": (low, high)} with two intensities for all tiles, or None.'
    )


def _normalize(image: np.ndarray, rule: tuple[Any, ...] | None) -> np.ndarray:
    """Scale each channel, the last axis, so that low is 0 and high is 1."""
    scaled = image.astype(np.float32)
    if rule is None:
        return scaled
    if rule[0] == "lowhigh" and len(rule[1]) not in (1, image.shape[-1]):
        raise ValueError(f"normalize has {len(rule[1])} pairs, but the tile has {image.shape[-1]} channels.")
    for i in range(image.shape[-1]):
        channel = image[..., i]
        if rule[0] == "lowhigh":
            low, high = rule[1][i % len(rule[1])]
        else:
            low, high = map(float, np.percentile(channel, rule[1:]))
            if low == high:
                low, high = float(channel.min()), float(channel.max())
        scaled[..., i] = (channel.astype(np.float64) - low) / (high - low) if low < high else 0
    return scaled
