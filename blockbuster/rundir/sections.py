"""The file of a task: named arrays, each compressed where that pays, with a checksum, and readable
alone.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any
from zlib import crc32

import numpy as np
from numcodecs import Zstd

from blockbuster.kernels.stretches import StretchGroup

# Magic and version; then the length and the CRC-32 of the header, eight bytes each, and the header:
# a JSON object of name to offset behind the header, stored bytes, CRC-32 of those, dtype as stored,
# dtype, shape. An array that fills its stored bytes is not compressed.
MAGIC = b"BBTILES\x05"
NUMBER_BYTES = 8
BEGIN = len(MAGIC) + 2 * NUMBER_BYTES
CODEC = Zstd(level=1)
# Most files are smaller than a block of the disk, or nearly all of them is in a few large sections:
# what is short costs more to compress than it takes. And every call makes other threads wait: so
# much is read in one.
MAX_PLAIN_BYTES = 1024
HEAD_BYTES = 2**16


class SectionWriter:
    """Takes arrays one by one; what it holds of them is compressed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> writer = SectionWriter()
    >>> writer.add("counts", np.array([3, 4]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     n = pathlib.Path(folder, "a").write_bytes(writer.to_bytes())
    ...     SectionFile(f"{folder}/a").read("counts").tolist()
    [3, 4]
    """

    def __init__(self) -> None:
        self._header: dict[str, Any] = {}
        self._stored: list[bytes] = []
        self._length = 0

    def add(self, name: str, array: np.ndarray, *, signed: bool = False) -> None:
        """Take an array of floats, or of integers, which may be negative where `signed` says so."""
        dtype = array.dtype if array.dtype.kind == "f" else np.min_scalar_type(int(array.max(initial=0)))
        if signed and dtype.kind != "f":
            dtype = np.result_type(dtype, np.min_scalar_type(int(array.min(initial=0))))
        narrow = array.astype(dtype, copy=False)
        data = narrow.tobytes()
        if len(data) > MAX_PLAIN_BYTES:
            data = min(data, CODEC.encode(data), key=len)
        dtypes = narrow.dtype.str, array.dtype.str
        self._header[name] = [self._length, len(data), crc32(data), *dtypes, array.shape]
        self._stored.append(data)
        self._length += len(data)

    def add_group(self, name: str, numbers: np.ndarray, group: StretchGroup) -> None:
        """Take stretches of tiles, and the numbers of the tiles, as sections whose names begin with
        `name`.
        """
        self.add(f"{name}-tiles", numbers)
        for column, array in group.columns().items():
            self.add(f"{name}-{column}", array)

    def to_bytes(self) -> bytes:
        """Return the file."""
        header = json.dumps(self._header).encode()
        numbers = [n.to_bytes(NUMBER_BYTES, "little") for n in (len(header), crc32(header))]
        return b"".join([MAGIC, *numbers, header, *self._stored])


class SectionFile:
    """Reads what a `SectionWriter` gave.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    OSError, ValueError
        If it is not such a file, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._head = self._read(0, HEAD_BYTES)
        if not self._head.startswith(MAGIC):
            raise ValueError("it does not begin as a file of a task does")
        numbers = self._head[len(MAGIC) : BEGIN]
        length, checksum = (int.from_bytes(n, "little") for n in (numbers[:NUMBER_BYTES], numbers[NUMBER_BYTES:]))
        self._begin = BEGIN + length
        header = self._take(BEGIN, length)
        if crc32(header) != checksum:
            raise ValueError("the header has another checksum")
        self._header: dict[str, Any] = json.loads(header)

    def _take(self, offset: int, length: int) -> bytes:
        """Return a part of the file, of which the beginning was read before."""
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        file = os.open(self.path, os.O_RDONLY)
        try:
            # No more than there is, where a damaged number says how much.
            length = length if length <= HEAD_BYTES else min(length, os.fstat(file).st_size)
            return os.pread(file, length, offset)
        finally:
            os.close(file)

    def __contains__(self, name: str) -> bool:
        return name in self._header

    @property
    def sizes(self) -> dict[str, int]:
        """Stored bytes of each section."""
        return {name: entry[1] for name, entry in self._header.items()}

    def read(self, name: str) -> np.ndarray:
        """Read an array.

        Raises
        ------
        OSError, ValueError, KeyError
            If it is damaged, or not there.
        """
        offset, length, checksum, narrow, dtype, shape = self._header[name]
        data = self._take(self._begin + offset, length)
        if len(data) != length or crc32(data) != checksum:
            raise ValueError(f"section {name} has another checksum")
        if length != math.prod(shape) * np.dtype(narrow).itemsize:
            data = CODEC.decode(data)
        return np.frombuffer(data, narrow).reshape(shape).astype(dtype, copy=False)
