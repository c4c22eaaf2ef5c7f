"""Chunk files of local arrays: read without zarr where that can be, and damage to them."""

import functools
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zarr

from blockbuster.compat import chunk_boxes, chunk_keys, ends_with_blosc, plain_decoder
from blockbuster.grid import common_box, relative_box
from blockbuster.source.kept_chunks import KeptChunks

# A blosc header ends with the number of bytes that the file should have.
BLOSC_HEADER_BYTES = 16


def read_chunk_files(
    array: zarr.Array[Any], folder: str, selection: Sequence[slice | int], kept: KeptChunks | None = None
) -> np.ndarray | None:
    """Read a part of an array in the calling thread, chunk by chunk.

    Parameters
    ----------
    array : zarr.Array
        The array.
    folder : str
        Where its files lie.
    selection : sequence of slice or int
        What is read, one entry per axis, each step 1.

    Returns
    -------
    ndarray or None
        The voxels, an array of the caller's own; ``None`` where it takes zarr to decode them:
        shards, filters, checksums, and compressors other than blosc, gzip and zstd.

    Raises
    ------
    OSError
        If a file was cut or cannot be decoded; it is named.

    Notes
    -----
    zarr has one event loop, on which threads wait for each other: two of them read in half to three
    quarters of its time. One chunk at a time is in memory beside the result.
    """
    decode = plain_decoder(array)
    if decode is None:
        return None
    is_blosc = ends_with_blosc(array)
    slices = [part if isinstance(part, slice) else slice(part, part + 1) for part in selection]
    whole = [slice(*part.indices(n)[:2]) for part, n in zip(slices, array.shape, strict=True)]
    pixels = np.empty([part.stop - part.start for part in whole], array.dtype)
    for box, key in chunk_boxes(array, whole):
        common = common_box(box, whole)
        read = functools.partial(_decode_file, os.path.join(folder, key), decode, is_blosc)
        try:
            part = kept.read(key, box, tuple(whole), read) if kept else read()[relative_box(common, box)]
        except FileNotFoundError:
            part = array.fill_value
        pixels[relative_box(common, whole)] = part
    return pixels[tuple([slice(None) if isinstance(part, slice) else 0 for part in selection])]


def _decode_file(path: str, decode: Callable[[bytes], np.ndarray], is_blosc: bool) -> np.ndarray:
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    _refuse_cut(path, len(data), data if is_blosc else None)
    try:
        return decode(data)
    except Exception as error:
        raise undecodable(path, error) from None


def check_chunk_files(array: zarr.Array[Any], folder: str, selection: Sequence[slice | int]) -> None:
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
        If a file is empty, which zarr 3.1 reads as background in a sharded array, or is shorter
        than its blosc header says, for which numcodecs reads memory that is not its own.

    Notes
    -----
    One look at the file system for each chunk or shard, and 16 bytes read for each blosc chunk. A
    file that is not there is background, as zarr defines it.
    """
    is_blosc = ends_with_blosc(array)
    for key in chunk_keys(array, selection):
        path = os.path.join(folder, key)
        try:
            size = os.path.getsize(path)
        except OSError:
            continue
        header = None
        if is_blosc:
            with open(path, "rb") as file:
                header = file.read(BLOSC_HEADER_BYTES)
        _refuse_cut(path, size, header)


def find_unreadable_chunk(array: zarr.Array[Any], folder: str, selection: Sequence[slice | int]) -> str:
    """Return the file of the first chunk or shard that cannot be decoded, or nothing."""
    for box, key in chunk_boxes(array, selection):
        try:
            array[box]
        except Exception:
            return os.path.join(folder, key)
    return ""


def _refuse_cut(path: str, n_bytes: int, blosc_header: bytes | None) -> None:
    """Refuse a file that is empty, or shorter than its blosc header says, or than such a header."""
    least = 1
    if blosc_header is not None:
        is_whole = len(blosc_header) >= BLOSC_HEADER_BYTES
        least = max(1, struct.unpack_from("<I", blosc_header, 12)[0]) if is_whole else BLOSC_HEADER_BYTES
    if n_bytes < least:
        raise OSError(f"the chunk file {path} was cut: it has {n_bytes} bytes")


def undecodable(path: str, error: Exception) -> OSError:
    """Name a chunk file that could not be decoded."""
    return OSError(f"the chunk file {path} cannot be decoded: {type(error).__name__}: {error}")
