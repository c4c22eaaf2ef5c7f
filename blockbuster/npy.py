"""Load ``.npy`` and ``.npz`` files from several threads."""

from __future__ import annotations

import os
import threading
from typing import Literal

import numpy as np

__all__ = ["load_npy", "load_npz_array"]

# NumPy parses a header with `ast`, which in Python 3.11 fails now and then when a thread is
# interrupted by another that parses as well: "AST constructor recursion depth mismatch".
_parsing = threading.Lock()


def load_npy(path: str | os.PathLike[str], mode: Literal["r", "r+"] | None = "r") -> np.ndarray:
    """Map the array of a ``.npy`` file into memory, or with ``None`` read it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.arange(3))
    ...     load_npy(f"{folder}/a.npy").tolist()
    [0, 1, 2]
    """
    with _parsing:
        array: np.ndarray = np.load(path, mmap_mode=mode)
    return array


def load_npz_array(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """Read one array of a ``.npz`` file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", counts=np.arange(3))
    ...     load_npz_array(f"{folder}/a.npz", "counts").tolist()
    [0, 1, 2]
    """
    with _parsing, np.load(path) as file:
        return np.asarray(file[name])
