"""Which chunks of a zarr array a box of voxels touches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import zarr

__all__ = ["chunk_keys"]


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
