"""Load and write ``.npy`` files from several threads."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import IO, Literal

import numpy as np

__all__ = ["load_npy", "write_npy"]

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


def write_npy(file: IO[bytes], array: np.ndarray) -> None:
    """Write a ``.npy`` file, or raise.

    `numpy.save` writes to a file of the system's own, and does not look whether its last block found room.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> write_npy(file, np.arange(3))
    >>> np.load(io.BytesIO(file.getvalue())).tolist()
    [0, 1, 2]
    """
    # Something that can only write keeps numpy from writing to the file by itself.
    np.lib.format.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)
