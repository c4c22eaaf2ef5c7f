"""Build the output beside its target and rename it into place once it is complete."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

__all__ = ["METADATA_FILES", "OutputPlace", "partial_output", "replaced_output"]

MARK = ".blockbuster-partial"
METADATA_FILES = ("zarr.json", ".zarray", ".zattrs")
REPLACED = ".blockbuster-replaced"


@dataclass(frozen=True)
class OutputPlace:
    """Where the labels will be: an array inside a zarr group on a file system.

    Parameters
    ----------
    store : str
        Absolute path of the group.
    component : str
        Name of the array inside it.
    """

    store: str
    component: str

    @property
    def array_path(self) -> str:
        """Folder of the array."""
        return os.path.join(self.store, *self.component.split("/"))

    def sibling(self, suffix: str) -> str:
        """Path beside the store that belongs to this output."""
        return f"{self.store}.{self.component.replace('/', '.')}.blockbuster-{suffix}"

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Format of the existing group; 3 for a new one."""
        return 2 if os.path.exists(os.path.join(self.store, ".zgroup")) else 3

    def fault(self, *, overwrite: bool) -> str:
        """Say why the labels cannot be written here; empty when they can."""
        store = Path(self.store)
        if not os.path.lexists(store) or (store.is_dir() and not any(store.iterdir())):
            return ""
        if not store.is_dir():
            return f"write_to: {store} is a file; give a new path, or an existing zarr group."
        if _node(store) != "group":
            return f"write_to: {store} is not a zarr group and is left alone; give a new path."
        return self._component_fault(overwrite)

    def _component_fault(self, overwrite: bool) -> str:
        path = Path(self.store)
        for part in self.component.split("/")[:-1]:
            path = path / part
            if _node(path) not in ("group", ""):
                return f"output_component: {path} is not a zarr group; choose another output_component."
        node = _node(Path(self.array_path))
        if node in ("group", "other"):
            return f"output_component: {self.array_path} exists and is not a zarr array; choose another name."
        if node == "array" and not overwrite:
            return f"{self.array_path} exists; pass overwrite=True to replace it, or choose another name."
        return ""


def _node(path: Path) -> str:
    """Say what lies at a path: array, group, other, or nothing."""
    if not os.path.lexists(path):
        return ""
    if (path / ".zarray").is_file():
        return "array"
    if (path / ".zgroup").is_file():
        return "group"
    if (path / "zarr.json").is_file():
        return str(_read_metadata(path).get("node_type", "other"))
    return "other"


def _read_metadata(path: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((path / "zarr.json").read_text())
    return metadata


@contextlib.contextmanager
def partial_output(
    place: OutputPlace,
    shape: tuple[int, ...],
    dtype: np.dtype,
    chunk: tuple[int, ...],
    shard: tuple[int, ...],
    axes: str | None,
) -> Iterator[str]:
    """Give the folder of a new label array, and publish it when the block ends well.

    Parameters
    ----------
    place : OutputPlace
        Where it will be; an array that lies there is replaced.
    shape, dtype, chunk, shard
        Of the array.
    axes : str or None
        One letter per axis, stored as dimension names.

    Yields
    ------
    str
        The folder to write to.

    Notes
    -----
    Whatever happens inside the block, the target holds either what it held before or the complete
    new array.
    """
    with _partial_folder(place) as (partial, array_path):
        _create_array(partial, place, shape, dtype, chunk, shard, axes)
        yield array_path


@contextlib.contextmanager
def replaced_output(place: OutputPlace) -> Iterator[str]:
    """Give the folder of an empty array with the metadata of an existing one, to take its place.

    Parameters
    ----------
    place : OutputPlace
        Where the array lies.

    Yields
    ------
    str
        The folder to write to.
    """
    with _partial_folder(place) as (_, array_path):
        os.makedirs(array_path)
        for name in METADATA_FILES:
            if os.path.isfile(os.path.join(place.array_path, name)):
                shutil.copyfile(os.path.join(place.array_path, name), os.path.join(array_path, name))
        yield array_path


@contextlib.contextmanager
def _partial_folder(place: OutputPlace) -> Iterator[tuple[str, str]]:
    """Give a folder beside the target and the array's path in it, and publish the array at the end."""
    partial = place.sibling("partial")
    _recover(place, partial)
    os.makedirs(partial)
    Path(partial, MARK).touch()
    array_path = os.path.join(partial, *place.component.split("/"))
    try:
        yield partial, array_path
        _publish(place, partial, array_path)
    finally:
        _recover(place, partial)


def _create_array(
    partial: str,
    place: OutputPlace,
    shape: tuple[int, ...],
    dtype: np.dtype,
    chunk: tuple[int, ...],
    shard: tuple[int, ...],
    axes: str | None,
) -> None:
    options: dict[str, Any] = {"chunks": chunk}
    if place.zarr_format == 3:
        from zarr.codecs import ZstdCodec

        options["compressors"] = ZstdCodec(level=1, checksum=True)
        options["shards"] = shard if shard != chunk else None
        options["dimension_names"] = list(axes) if axes else None
    group = zarr.create_group(partial, zarr_format=place.zarr_format)
    array = group.create_array(place.component, shape=shape, dtype=dtype, **options)
    if place.zarr_format == 2 and axes:
        array.attrs["_ARRAY_DIMENSIONS"] = list(axes)


def _publish(place: OutputPlace, partial: str, array_path: str) -> None:
    """Move the finished array to its place; an array that lies there goes aside first."""
    if not os.path.isdir(place.store) or not os.listdir(place.store):
        os.remove(os.path.join(partial, MARK))
        os.makedirs(os.path.dirname(place.store), exist_ok=True)
        os.rename(partial, place.store)
        return
    parent = os.path.dirname(place.component)
    if parent:
        zarr.open_group(place.store, mode="r+").require_group(parent)
    if os.path.exists(place.array_path):
        os.rename(place.array_path, os.path.join(partial, REPLACED))
    os.rename(array_path, place.array_path)
    _refresh_consolidated(place.store)


def _refresh_consolidated(store: str) -> None:
    """Write consolidated metadata anew where the group had it, else the array stays invisible."""
    v3 = Path(store, "zarr.json").is_file() and "consolidated_metadata" in _read_metadata(Path(store))
    if v3 or Path(store, ".zmetadata").is_file():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(store)


def _recover(place: OutputPlace, partial: str) -> None:
    """Put an array that went aside back where nothing took its place, and remove the rest."""
    if not os.path.lexists(partial):
        return
    if os.path.islink(partial) or not os.path.isfile(os.path.join(partial, MARK)):
        raise FileExistsError(f"{partial} is in the way and not from blockbuster; move it elsewhere.")
    replaced = os.path.join(partial, REPLACED)
    if os.path.isdir(replaced) and not os.path.lexists(place.array_path):
        os.rename(replaced, place.array_path)
    shutil.rmtree(partial)
