"""What a run must leave behind: its labels, or an error and everything else untouched."""

import contextlib
import dataclasses
import hashlib
import os
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from naive import partition_fault
from scipy import ndimage

from blockbuster import tile_process


def snapshot(folder, but_for=None):
    """Everything below a folder: what each path is, and a hash of each file; links are not followed.

    `but_for` is a folder that is not looked into: workers of a failed run may still be writing there.
    """
    found = {}
    for parent, folders, names in os.walk(folder):
        if but_for is not None and but_for.name in folders:
            folders.remove(but_for.name)
        for name in folders + names:
            path = Path(parent, name)
            if path.is_symlink():
                what = f"link to {os.readlink(path)}"
            else:
                what = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = what
    return found


class Counted:
    """Connected components, and how often they were asked for."""

    def __init__(self, fn=lambda tile: ndimage.label(tile)[0]):
        self.fn = fn
        self.seen = []
        self._lock = threading.Lock()

    def __call__(self, tile):
        with self._lock:
            self.seen.append(tile.shape)
        return self.fn(tile)

    @property
    def calls(self):
        return len(self.seen)


@contextlib.contextmanager
def refused(kind, *parts, folder=None):
    """Assert that a block raises exactly this class, says all these parts, and leaves a folder as it was."""
    before = folder and snapshot(folder)
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.type is kind
    missing = [part for part in parts if not re.search(part, str(caught.value))]
    assert not missing, f"{missing} not in: {caught.value}"
    assert not folder or snapshot(folder) == before


def refuses(kind, *parts, image, folder=None, **options):
    """Assert that `tile_process` refuses its arguments before fn runs or anything is written."""
    fn = options.pop("fn", Counted())
    with refused(kind, *parts, folder=folder):
        tile_process(image, fn, **options)
    assert not isinstance(fn, Counted) or fn.calls == 0


def refuses_labels(kind, *parts, path, **options):
    """Assert that `tile_process` refuses to write labels into an image: its own, or those of another."""
    place = {"write_to": path, "output_component": "labels/cells"}
    refuses(kind, *parts, folder=path.parent, **{"image": path, **place, **options})


def assert_same_objects(labels, expected):
    """Assert that two label images are equal as partitions."""
    assert not partition_fault(np.asarray(labels), expected)


def write_image(path, data, axes="", chunks=None, levels=("0",), zarr_format=3, **layout):
    """Write an OME-Zarr image, or a plain zarr array where there are no axes; every level holds the same."""
    chunks = chunks or tuple(min(n, 8) or 1 for n in data.shape)
    if not axes:
        array = zarr.create_array(
            path, shape=data.shape, dtype=data.dtype, chunks=chunks, zarr_format=zarr_format, **layout
        )
        array[...] = data
        return path
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": letter, "type": kinds.get(letter, "space")} for letter in axes]
    metadata = {"multiscales": [{"axes": named, "datasets": [{"path": level} for level in levels]}]}
    group = zarr.create_group(path, zarr_format=zarr_format)
    group.attrs.update({"ome": {"version": "0.5", **metadata}} if zarr_format == 3 else metadata)
    for level in levels:
        array = group.create_array(level, shape=data.shape, dtype=data.dtype, chunks=chunks, **layout)
        array[...] = data
    return path


def consolidate(path):
    """Consolidate metadata without the warning that zarr may change them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)


def blobs(shape, seed=0, density=0.55):
    """A mask whose components cross seams of any grid."""
    return (np.random.default_rng(seed).random(shape) < density).astype("uint8")


def behind_objects(table, arrays, n_objects):
    """Shift the ids of a finished merge, as if tiles before its first one had so many objects."""
    arrays.save("offsets", arrays.load("offsets") + np.int64(n_objects))
    moved = {name: getattr(table, name) + np.int64(n_objects) for name in ("border", "roots", "n_provisional")}
    shifted = dataclasses.replace(table, **moved)
    shifted.save(arrays)
    return shifted
