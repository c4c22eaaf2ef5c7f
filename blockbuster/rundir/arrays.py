"""Arrays that the tasks of a run share, in a folder that every worker can map into memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from blockbuster.compat import load_npy, write_npy
from blockbuster.rundir.durable import checksum_files, replaced_file


@dataclass(frozen=True)
class ArrayFolder:
    """A folder of ``.npy`` files.

    Parameters
    ----------
    path : str
        An existing folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = ArrayFolder(folder)
    ...     arrays.save("counts", np.array([3, 4]))
    ...     arrays.load("counts").tolist()
    [3, 4]
    """

    path: str

    @classmethod
    def of_result(cls, directory: str, number: int) -> ArrayFolder:
        """Return the folder of one of the results of fn in a stage directory, which is made for all
        but the first.
        """
        if not number:
            return cls(directory)
        path = os.path.join(directory, f"result-{number}")
        os.makedirs(path, exist_ok=True)
        return cls(path)

    def file(self, name: str) -> str:
        """Return the path of an array."""
        return os.path.join(self.path, name + ".npy")

    def save(self, name: str, array: np.ndarray) -> None:
        """Keep an array, complete or not at all."""
        with replaced_file(self.file(name), array.nbytes) as file:
            write_npy(file, array)

    def checksum(self, *names: str) -> str:
        """CRC-32 over some arrays; empty if one is not there."""
        return checksum_files(map(self.file, names))

    def load(self, name: str) -> np.ndarray:
        """Map a kept array into memory, read-only."""
        # numpy cannot map an array of size 0.
        empty = os.path.getsize(self.file(name)) <= 128
        return np.asarray(load_npy(self.file(name), None if empty else "r"))
