"""Stored arrays of labels: opened as nothing else, and which chunks a box of voxels touches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import zarr

__all__ = ["chunk_keys", "open_labels"]


def open_labels(path: str | os.PathLike[str]) -> zarr.Array:
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


def chunk_keys(array: zarr.Array, box: Sequence[slice | int]) -> Iterator[str]:
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
    ranges = []
    for part, unit, length in zip(box, array.shards or array.chunks, array.shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // max(1, unit), -(-stop // max(1, unit))))
    return map(array.metadata.encode_chunk_key, itertools.product(*ranges))
