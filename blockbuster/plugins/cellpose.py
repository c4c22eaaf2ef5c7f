"""Cellpose 3 and 4 as a tile function."""

from __future__ import annotations

import copy
import importlib
import math
import numbers
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from blockbuster.errors import warn_user
from blockbuster.execution.memory import give_back_freed_memory
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
    "Cut planes with tile_shape=(1, ..., y, x), or pass do_3D=True to cellpose_fn for volumes; "
    "if that axis holds channels, pass channel=None to tile_process and channel_axis to cellpose_fn."
)
SMALLER = (
    "choose smaller tiles, e.g. tile_shape=functools.partial(auto_tile_shape_cellpose, use_gpu=True), "
    "or end other programs on the device."
)
# Without masks there are no labels; and Cellpose 4 takes these without a word and ignores them.
NO_LABELS = {"compute_masks"}
IGNORED_BY_4 = {"channels", "rescale"}
# Channels that a network has: Cellpose 3's two, the cells' and the nuclei's, must both be there.
N_CHANNELS = {3: 2, 4: 3}


@dataclass(frozen=True)
class CellposeFn:
    """A Cellpose model that labels tiles; made by `cellpose_fn`.

    Parameters
    ----------
    model : str
        The name of a built-in model, or the path of a file of weights.
    gpu : bool
        Whether to evaluate on a GPU.
    diameter : float or None
        Of a cell, in pixels.
    eval_kwargs : dict
        Further keywords for Cellpose's `eval`.
    version : str
        Cellpose's. Tiles are evaluated by no other version.
    """

    model: str
    gpu: bool
    diameter: float | None
    eval_kwargs: dict[str, Any] = field(default_factory=dict)
    version: str = ""

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Label a tile: integers of its shape, without channels."""
        axis = self.eval_kwargs.get("channel_axis")
        image = planes_and_channels(tile, 3 if self.is_volume else 2, axis, PLANES)
        # z is before y and x, as blockbuster takes it to be.
        z_axis = self.eval_kwargs.get("z_axis")
        spatial = [i for i in range(tile.ndim) if axis is None or i != axis % tile.ndim]
        if z_axis is not None and (len(spatial) < 3 or z_axis % tile.ndim != spatial[-3]):
            raise ValueError(
                f"z_axis is {z_axis}, but the tile has {tile.ndim} axes, and z is the one before y and x. "
                "Leave z_axis out, and give the image its axes in the order z, y, x."
            )
        image = self._select_channels(image)
        check_finite(image)
        shape = label_shape(tile.shape, axis)
        if is_uniform(image):
            return np.zeros(shape, np.int32)
        model = self.loaded_model()
        wanted = int(self.eval_kwargs.get("batch_size", 8))
        sizes = [wanted, *(wanted >> halvings for halvings in range(1, wanted.bit_length()))]
        with evaluation_turn(str(model.device)):
            masks = evaluate_within_memory(partial(self._evaluate, model, image), sizes, SMALLER)
            give_back_freed_memory()
        return np.reshape(masks, shape)

    @property
    def is_volume(self) -> bool:
        """Whether a tile is a stack of planes."""
        stitched = (self.eval_kwargs.get("stitch_threshold") or 0) > 0
        return bool(self.eval_kwargs.get("do_3D")) or stitched

    @property
    def major(self) -> int:
        """The major version: 3, or 4 for all later ones."""
        return _major(self.version)

    def _select_channels(self, image: np.ndarray) -> np.ndarray:
        """Return the channels that the network uses: Cellpose takes the shortest axis for them."""
        if self.major == 3 and self.eval_kwargs.get("channels") is not None:
            first, second = np.ravel(self.eval_kwargs["channels"]).tolist()
            if first == 0:
                return np.asarray(image.mean(axis=-1, keepdims=True, dtype=np.float32))
            if max(first, second) > image.shape[-1]:
                raise ValueError(f"channels is {[first, second]}, but the tile has {image.shape[-1]}.")
            return image[..., [first - 1, second - 1] if second else [first - 1]]
        most = N_CHANNELS[self.major]
        if image.shape[-1] > most:
            choose = " or pass channels=[cells, nuclei], counted from 1," if self.major == 3 else ""
            raise ValueError(
                f"the tile has {image.shape[-1]} channels, and Cellpose {self.version} looks at {most} alone; "
                f"give an image with these channels,{choose} or correct channel_axis."
            )
        return image

    def loaded_model(self) -> Any:
        """Return Cellpose's model, which this process loads once."""
        stamp = file_stamp([self.model]) if os.path.isabs(self.model) else None
        return load_once(("cellpose", self.model, self.gpu), self._load, stamp)

    def _load(self) -> Any:
        check_same_version("Cellpose", self.version, _installed_version())
        models = _import_models(self.version)
        if os.path.isabs(self.model) or self.major > 3:
            chosen: dict[str, Any] = {"pretrained_model": self.model}
        else:
            chosen = {"model_type": self.model}
            if "transformer" in self.model:
                chosen["backbone"] = "transformer"
        model = models.CellposeModel(gpu=self.gpu, **chosen)
        if self.gpu and model.device.type == "cpu":
            warn_user(
                "gpu=True, but PyTorch finds no usable GPU, and Cellpose runs on the processor; on a machine "
                "with a GPU and its driver, install the build of PyTorch for it (pytorch.org/get-started)."
            )
        return model

    def _evaluate(self, model: Any, image: np.ndarray, batch_size: int) -> np.ndarray:
        spatial = image.shape[:-1]
        missing = [max(0, n - length) for length, n in zip(spatial, self._least_sides(model), strict=True)]
        # A new array at each call: Cellpose normalises in place.
        x = np.pad(image.astype(np.float32), [*((0, n) for n in missing), (0, 0)], mode="edge")
        if self.major == 3 and x.shape[-1] == 1:
            x = np.concatenate([x, np.zeros_like(x)], axis=-1)
        axes = {"channel_axis": x.ndim - 1, "z_axis": 0 if self.is_volume else None}
        options = copy.deepcopy(self.eval_kwargs) | axes | {"batch_size": batch_size, "diameter": self.diameter}
        options.pop("channels", None)
        masks = np.asarray(model.eval(x, **options)[0]).reshape(x.shape[:-1])
        return masks[tuple(slice(length) for length in spatial)]

    def _least_sides(self, model: Any) -> list[int]:
        """Return the least length per axis: Cellpose fails where it scales an image to nothing."""
        scale = 30 / self.diameter if self.diameter else 1.0
        if self.major == 3:
            untold = self.eval_kwargs.get("rescale") or model.diam_mean / model.diam_labels
            scale = model.diam_mean / self.diameter if self.diameter else untold
        in_plane = math.ceil(2 / scale)
        if not self.is_volume:
            return [in_plane, in_plane]
        do_3d = bool(self.eval_kwargs.get("do_3D"))
        along_z = math.ceil(2 / scale / (self.eval_kwargs.get("anisotropy") or 1)) if do_3d else 2
        return [along_z, in_plane, in_plane]


def cellpose_fn(
    model: str | os.PathLike[str], *, gpu: bool = False, diameter: float | None = None, **eval_kwargs: Any
) -> CellposeFn:
    """Make a tile function of a Cellpose model.

    Parameters
    ----------
    model : str or path
        The name of a model of the installed Cellpose, e.g. ``"cyto3"`` (Cellpose 3) or ``"cpsam"``
        (4), or the path of a file of trained weights, which must lie there on all machines that run
        tiles.
    gpu : bool
        Evaluate on a GPU, the first one that the process sees; without one, a warning where the
        model is loaded, and the processor.
    diameter : float, optional
        Diameter of a cell in pixels, to which Cellpose scales the tile. ``None``: that on which the
        model was trained; it is never estimated, since two tiles would be scaled differently.
    **eval_kwargs
        Any keyword of Cellpose's ``CellposeModel.eval``, e.g. ``flow_threshold``, ``do_3D``,
        ``batch_size``. ``channel_axis``: which axis of a tile holds channels, with ``channel=None``
        in `tile_process`. ``normalize={"lowhigh": intensity_percentiles(image)}``: normalise all
        tiles alike.

    Returns
    -------
    CellposeFn
        ``(tile) -> labels``. Its pickle holds names and numbers, no weights.

    Raises
    ------
    ImportError
        If Cellpose is not installed.
    ValueError, TypeError, FileNotFoundError
        If the installed Cellpose does not know `model` or a keyword, or `diameter` is no positive
        number.

    Notes
    -----
    The model is loaded once per process, when the first tile comes, and its threads share it; they
    evaluate one tile at a time. A tile of one value, or of NaN alone, is all background, and not
    evaluated. Axes other than y and x (z, y and x with ``do_3D``) must be 1 long in a tile. When a
    GPU runs out of memory, the tile is evaluated again with half the batch size, down to 1, and
    then fails.

    Examples
    --------
    >>> fn = cellpose_fn("cpsam", diameter=25, flow_threshold=0.6)  # doctest: +SKIP
    >>> tile_process("image.zarr", fn, tile_shape=(1, 2048, 2048), overlap=50)  # doctest: +SKIP
    """
    if not isinstance(gpu, bool):
        raise TypeError(f"gpu is {gpu!r}; it is True or False. CUDA_VISIBLE_DEVICES says which GPU.")
    version = _installed_version()
    _check_diameter(diameter)
    models = _import_models(version)
    ignored = IGNORED_BY_4 if _major(version) > 3 else set()
    check_keywords(eval_kwargs, models.CellposeModel.eval, f"Cellpose {version}", NO_LABELS | ignored)
    channels: Any = eval_kwargs.get("channels")
    found = np.ravel(channels).tolist()
    if channels is not None and (len(found) != 2 or not all(isinstance(i, int) and i >= 0 for i in found)):
        raise ValueError(f"channels is {channels!r}; it is [cells, nuclei], counted from 1; 0 is all, or none.")
    return CellposeFn(_find_model(model, models, version), gpu, diameter, dict(eval_kwargs), version)


def _installed_version() -> str:
    version = installed_version("cellpose", ["cellpose", "torch"])
    if int(version.partition(".")[0]) < 3:
        raise ImportError(f"Cellpose {version} is too old; python -m pip install 'blockbuster-tiles[cellpose]'")
    return version


def _import_models(version: str) -> Any:
    try:
        return importlib.import_module("cellpose.models")
    except ImportError:
        raise
    except Exception as error:
        # torchvision's operators do not exist beside a PyTorch of another build.
        raise ImportError(
            f"importing Cellpose {version} raised {type(error).__name__}: {error}. Install torch and torchvision "
            "of one build, from the same index (pytorch.org/get-started)."
        ) from error


def _major(version: str) -> int:
    return min(4, int(version.partition(".")[0]))


def _find_model(model: Any, models: Any, version: str) -> str:
    """Return the path of a file, or a name that Cellpose knows: for others it loads its default."""
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model is {model!r}; it is a name or the path of a file, e.g. 'cpsam'.")
    text = os.fspath(model)
    if os.path.isfile(text):
        return os.path.abspath(text)
    if os.path.exists(text):
        raise ValueError(f"model is {text!r}, a folder here; Cellpose needs a file of weights, or a name.")
    # A model that was trained, or added, in Cellpose's window.
    own = os.path.join(models.MODEL_DIR, text)
    if text in models.get_user_models() and os.path.isfile(own):
        return os.path.abspath(own)
    if text in models.MODEL_NAMES:
        return text
    known = dict.fromkeys([*models.MODEL_NAMES, *models.get_user_models()])
    if os.path.dirname(text):
        raise FileNotFoundError(f"model is {text!r}; there is no such file.")
    other = "cellpose<4" if _major(version) > 3 else "cellpose>=4"
    raise ValueError(
        f"model is {text!r}, which Cellpose {version} does not know; it knows {', '.join(known)}, and paths of "
        f"trained models. Use one of these, or install the version that has it: python -m pip install '{other}'"
    )


def _check_diameter(diameter: Any) -> None:
    if diameter is None:
        return
    if isinstance(diameter, bool) or not isinstance(diameter, numbers.Real):
        raise TypeError(f"diameter is {diameter!r}; it is a number of pixels, or None for the model's own.")
    if not (math.isfinite(diameter) and float(diameter) > 0):
        raise ValueError(f"diameter is {diameter!r}; it is positive, or None for the model's own.")
