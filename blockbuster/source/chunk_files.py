"""Damage to chunk files that zarr and numcodecs do not notice."""

import os
import struct
from collections.abc import Sequence
from typing import Any

import zarr

from blockbuster.chunks import chunk_boxes, chunk_keys

__all__ = ["check_chunk_files", "find_unreadable_chunk"]

# A blosc header ends with the number of bytes that the file should have.
BLOSC_HEADER_BYTES = 16


def check_chunk_files(array: zarr.Array, folder: str, selection: Sequence[slice | int]) -> None:
    """Refuse chunk files that were cut, where reading them would give wrong pixels or crash.

    Parameters
    ----------
    array : zarr.Array
        The array.
    folder : str
        Where its files lie.
    selection : sequence of slice or int
        What will be read, one entry per axis, each step 1.

    Raises
    ------
    OSError
        If a file is empty, which zarr 3.1 reads as background in a sharded array, or is shorter than its
        blosc header says, for which numcodecs reads memory that is not its own.

    Notes
    -----
    One look at the file system for each chunk or shard, and 16 bytes read for each blosc chunk. A file that
    is not there is background, as zarr defines it.
    """
    is_blosc = _ends_with_blosc(array.metadata)
    for key in chunk_keys(array, selection):
        path = os.path.join(folder, key)
        try:
            size = os.path.getsize(path)
        except OSError:
            continue
        if not size or (is_blosc and size < _blosc_size(path)):
            raise OSError(f"the chunk file {path} was cut: it has {size} bytes")


def find_unreadable_chunk(array: zarr.Array, folder: str, selection: Sequence[slice | int]) -> str:
    """Read chunks and shards one by one; give the file of the first that cannot be decoded, or nothing."""
    for box, key in chunk_boxes(array, selection):
        try:
            array[box]
        except Exception:
            return os.path.join(folder, key)
    return ""


def _ends_with_blosc(metadata: Any) -> bool:
    """Say whether blosc is what made the bytes of a chunk file."""
    last = metadata.codecs[-1] if hasattr(metadata, "codecs") else metadata.compressor
    return "blosc" in type(last).__name__.lower()


def _blosc_size(path: str) -> int:
    with open(path, "rb") as file:
        header = file.read(BLOSC_HEADER_BYTES)
    # Less than a header is less than any size.
    return int(struct.unpack("<I", header[12:])[0]) if len(header) == BLOSC_HEADER_BYTES else BLOSC_HEADER_BYTES
