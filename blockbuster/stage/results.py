"""What fn may return, and what is said when it returned something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# The name of the one array that fn returns, where it does not return several by their names.
UNNAMED = ("",)
SEVERAL = "output_component='labels/{}', which puts each into a place of its own, or a dict of name to place"


def name_results(result: Any, names: tuple[str, ...] | None) -> dict[str, Any]:
    """Return what fn returned by its names, which ascend; what is no dict has the empty name.

    Parameters
    ----------
    result : object
        What fn returned.
    names : tuple of str or None
        The names that it must have; ``None``: any.

    Raises
    ------
    ValueError
        If they are others, or no names.

    Examples
    --------
    >>> name_results({"nuclei": 1, "cells": 2}, None)
    {'cells': 2, 'nuclei': 1}
    """
    # To ask for an array first takes a fifth of the time.
    if isinstance(result, np.ndarray) or not isinstance(result, Mapping):
        if names is not None and names != UNNAMED:
            raise ValueError(f"fn returned {_describe(result)}; it must return a dict of {list_names(names)}.")
        return {"": result}
    wrong = [name for name in result if not isinstance(name, str) or not name]
    if wrong or not result:
        raise ValueError(
            f"fn returned a dict with {f'the name {wrong[0]!r}' if wrong else 'nothing in it'}; it must return "
            "labels, or a dict of name to labels, whose names are text."
        )
    found = tuple(sorted(result))
    if names == UNNAMED:
        raise ValueError(f"fn returned a dict of {list_names(found)}; pass {SEVERAL}.")
    if names is not None and found != names:
        raise ValueError(f"fn returned a dict of {list_names(found)}; it must return one of {list_names(names)}.")
    return {name: result[name] for name in found}


def list_names(names: Iterable[str] | None) -> str:
    """List the names of results in a message."""
    return ", ".join(map(repr, names or ())) if names != UNNAMED else "one array"


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
