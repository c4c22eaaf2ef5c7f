"""What other packages offer, where they offer it in a way of their own: zarr's chunk keys, NumPy's headers."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Literal

import numpy as np
import zarr

__all__ = ["chunk_boxes", "chunk_keys", "load_npy", "open_labels", "write_npy"]


def open_labels(path: str | os.PathLike[str]) -> zarr.Array[Any]:
    """Open a stored array of labels for reading.

    Raises
    ------
    TypeError
        If it holds anything but integers. Objects, which somebody who can write there might put in their place,
        can be decoded from pickles.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"{folder}/a", shape=(4,), dtype="int32")
    ...     open_labels(f"{folder}/a").shape
    (4,)
    """
    # Not text, in which zarr would take # and ? for parts of a URL.
    labels = zarr.open_array(Path(path), mode="r")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{os.fspath(path)} holds {labels.dtype}; labels are integers.")
    return labels


def chunk_keys(array: zarr.Array[Any], box: Sequence[slice | int]) -> Iterator[str]:
    """Iterate over the keys of what is stored as one piece: shards where there are some, else chunks.

    Parameters
    ----------
    array : zarr.Array
        Of format 2 or 3.
    box : sequence of slice or int
        One entry per axis, each step 1.

    Yields
    ------
    str
        Key below the array's own; on a local path the name of a file, which need not exist.

    Examples
    --------
    >>> array = zarr.create_array({}, shape=(10, 10), chunks=(4, 4), dtype="uint8")
    >>> list(chunk_keys(array, (slice(3, 8), 9)))
    ['c/0/2', 'c/1/2']
    """
    return (key for _, key in chunk_boxes(array, box))


def chunk_boxes(array: zarr.Array[Any], box: Sequence[slice | int]) -> Iterator[tuple[tuple[slice, ...], str]]:
    """Iterate over the boxes and keys of what is stored as one piece, as `chunk_keys` does.

    >>> array = zarr.create_array({}, shape=(10, 10), chunks=(4, 4), dtype="uint8")
    >>> next(chunk_boxes(array, (slice(3, 8), 9)))
    ((slice(0, 4, None), slice(8, 12, None)), 'c/0/2')
    """
    units = array.shards or array.chunks
    ranges = []
    for part, unit, length in zip(box, units, array.shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // max(1, unit), -(-stop // max(1, unit))))
    for index in itertools.product(*ranges):
        boxed = tuple(slice(i * unit, (i + 1) * unit) for i, unit in zip(index, units, strict=True))
        yield boxed, array.metadata.encode_chunk_key(index)


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
