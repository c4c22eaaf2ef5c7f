"""What fn may return, and what is said when it returned something else."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_labels(result: Any, shapes: tuple[tuple[int, ...], ...], *, copy: bool = False) -> np.ndarray:
    """Check that fn returned integer labels of the right shape.

    Parameters
    ----------
    result : object
        What fn returned.
    shapes : tuple of tuple of int
        The accepted shapes.
    copy : bool
        Whether somebody else may hold the array, and change it after it was checked.

    Returns
    -------
    ndarray
        The same labels as a plain array; nothing is cast.

    Raises
    ------
    ValueError
        With what came back, the rule and the remedy.

    Examples
    --------
    >>> check_labels(np.zeros((4, 4), bool), shapes=((4, 4),))
    Traceback (most recent call last):
        ...
    ValueError: fn returned a boolean mask; label it, e.g. skimage.measure.label(mask).
    """
    if not isinstance(result, np.ndarray) or isinstance(result, np.ma.MaskedArray):
        raise ValueError(f"fn returned {_describe(result)}; it must return {_expected(shapes)}.")
    # A subclass may be anything.
    labels = np.array(result, subok=False, copy=copy or None)
    if labels.dtype.kind == "b":
        raise ValueError("fn returned a boolean mask; label it, e.g. skimage.measure.label(mask).")
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"fn returned {labels.dtype}; it must return integer labels, e.g. labels.astype('int32')."
        )
    if labels.shape not in shapes:
        raise ValueError(f"fn returned shape {labels.shape}; it must return {_expected(shapes)}.")
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise ValueError(
            f"fn returned negative labels (least {labels.min()}); 0 is background, objects count from 1."
        )
    return labels


def _expected(shapes: tuple[tuple[int, ...], ...]) -> str:
    listed = " or ".join(str(shape) for shape in shapes)
    return f"an integer array of shape {listed}, halo included"


def _describe(result: Any) -> str:
    """Describe what came back, with the remedy where there is a common one."""
    if isinstance(result, np.ma.MaskedArray):
        return "a masked array (use labels.filled(0))"
    if isinstance(result, tuple):
        return f"a tuple of {len(result)} (return only the labels, e.g. labels, n = ...; return labels)"
    if _is_on_gpu(result):
        return f"a {type(result).__name__} on the GPU (copy it back, e.g. labels.get())"
    if result is None:
        return "None"
    kind = f"{type(result).__module__}.{type(result).__name__}".removeprefix("builtins.")
    return f"an object of type {kind} (a NumPy array is wanted, e.g. numpy.asarray(labels))"


def _is_on_gpu(result: Any) -> bool:
    try:
        return hasattr(result, "__cuda_array_interface__")
    except Exception:  # PyTorch's, of a tensor that requires its gradient.
        return True
