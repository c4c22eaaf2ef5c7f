"""Stores of every layout that a reader meets, written small."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr


def pixels(shape, dtype="uint16"):
    """Values that all differ from their neighbours."""
    values = (np.arange(np.prod(shape), dtype="int64") * 7919) % 65521
    return values.reshape(shape).astype(dtype)


def write_array(where, data, chunks=None, **layout):
    array = zarr.create_array(where, shape=data.shape, dtype=data.dtype, chunks=chunks or data.shape, **layout)
    array[...] = data
    return array


def write_ome(where, data, axes, levels=("0", "1"), zarr_format=3, channels=(), chunks=None):
    """An image as ome-zarr-py writes it; `axes` is a string, or the metadata's own list, or None."""
    if isinstance(axes, str):
        types = {"t": "time", "c": "channel"}
        axes = [{"name": a, "type": types.get(a, "space")} for a in axes]
    image = {"datasets": [{"path": path} for path in levels]}
    if axes is not None:
        image["axes"] = axes
    metadata = {"multiscales": [image]}
    if channels:
        metadata["omero"] = {"channels": [{"label": label} for label in channels]}
    group = zarr.open_group(where, mode="w", zarr_format=zarr_format)
    group.attrs.update({"ome": {"version": "0.5", **metadata}} if zarr_format == 3 else metadata)
    step = tuple(slice(None) for _ in data.shape[:-2]) + (slice(None, None, 2),) * min(2, data.ndim)
    for path in levels:
        array = group.create_array(path, shape=data.shape, dtype=data.dtype, chunks=chunks or data.shape)
        array[...] = data
        data = data[step]
    return group


def age(folder):
    """Date every file an hour back, so that whatever is written next is newer for certain."""
    for path in folder.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime_ns - 3600 * 10**9
            os.utime(path, ns=(then, then))


def differing(one, other):
    """The names of the fields in which two identities differ."""
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def chunk_files(folder):
    metadata = ("zarr.json", ".zarray", ".zattrs")
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in metadata)


@pytest.fixture(scope="session")
def identities():
    return SimpleNamespace(age=age, differing=differing, chunk_files=chunk_files)


@pytest.fixture(scope="session")
def write():
    return SimpleNamespace(pixels=pixels, array=write_array, ome=write_ome)


@pytest.fixture(scope="session")
def third_party():
    """The folder of images that other programs wrote."""
    root = os.environ.get("BLOCKBUSTER_DATA")
    if not root:
        pytest.skip("BLOCKBUSTER_DATA is not set: no real images")
    return Path(root) / "ome_zarr_third_party"
