"""Load ``.npy`` and ``.npz`` files from several threads, and write the same ``.npz`` for the same arrays."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Mapping
from typing import IO, Literal

import numpy as np

__all__ = ["load_npy", "load_npz_array", "npz_bytes", "write_npy"]

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
    # Of a damaged file that it opened itself, NumPy would leave the handle open.
    with _parsing, open(path, "rb") as stream, np.load(stream) as file:
        return np.asarray(file[name])


class _Writer:
    """A file as something that can only write, which keeps numpy from writing to it by itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


def write_npy(file: IO[bytes], array: np.ndarray) -> None:
    """Write a ``.npy`` file, or raise.

    `numpy.save` writes to a file of the system's own, and does not look whether its last block found room.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> write_npy(file, np.arange(3))
    >>> np.load(io.BytesIO(file.getvalue())).tolist()
    [0, 1, 2]
    """
    np.lib.format.write_array(_Writer(file), array, allow_pickle=False)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Give the bytes of a ``.npz`` file; unlike those of `numpy.savez` they hold no time.

    Examples
    --------
    >>> npz_bytes({"a": np.arange(3)}) == npz_bytes({"a": np.arange(3)})
    True
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()
