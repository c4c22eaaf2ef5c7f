"""Chunks and shards of a zarr array, written by tasks that may outlive it."""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, StorePath

from blockbuster.rundir.durable import full_disk_explained, replaced_file

__all__ = ["write_chunks"]


def write_chunks(
    array: zarr.Array, folder: str, box: tuple[slice, ...], labels: np.ndarray, *, unfinished: str
) -> None:
    """Write a box of whole chunks, or shards, as files that are complete or absent.

    Parameters
    ----------
    array : zarr.Array
        What they belong to; it is not read.
    folder : str
        Folder of the array. It is never made: a task that outlives its run fails, be the array removed or renamed
        by then, and nothing of its own is left.
    box : tuple of slice
        Which voxels; up to a border of chunks, or of the array, along each axis.
    labels : ndarray
        The voxels.
    unfinished : str
        Folder on the same file system, where a file lies until it is complete.

    Notes
    -----
    All encoded bytes are in memory at once. zarr would make the folders above a chunk, whoever took them away.
    """
    encoded: dict[str, Buffer] = {}
    store = StorePath(MemoryStore(encoded))
    metadata: Any = array.metadata
    # zarr looks for zeros slowly, and a box of background is not written at all.
    chunks = zarr.Array(zarr.AsyncArray(metadata, store)).with_config({"write_empty_chunks": True})
    with full_disk_explained(folder, labels.nbytes):
        chunks[box] = labels
        for key, data in encoded.items():
            with replaced_file(os.path.join(folder, key), len(data), folder=unfinished) as file:
                file.write(data.as_buffer_like())
                _make_parents(folder, key)


def _make_parents(folder: str, key: str) -> None:
    for parent in reversed(PurePosixPath(key).parents[:-1]):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(folder, parent))
