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
from zarr.errors import ZarrUserWarning

__all__ = ["METADATA_FILES", "OutputPlace", "partial_output", "replaced_output", "zarr_node"]

MARK = "blockbuster-partial"
METADATA_FILES = ("zarr.json", ".zarray", ".zattrs")
REPLACED = "replaced"
_LINK = "output_component: {} is a symbolic link and is left alone; choose another output_component."


@dataclass(frozen=True)
class OutputPlace:
    """Where the labels will be: an array inside a zarr group on a file system.

    Parameters
    ----------
    store : str
        Absolute path of the group.
    component : str
        Name of the array inside it.
    replaces : bool
        Whether an array that lies there when the labels are complete may be replaced.
    """

    store: str
    component: str
    replaces: bool = True

    @property
    def array_path(self) -> str:
        """Folder of the array."""
        return os.path.join(self.store, *self.component.split("/"))

    def sibling(self, suffix: str) -> str:
        """Path beside the store that belongs to this output."""
        return f"{self.store}.{self.component.replace('/', '.')}.blockbuster-{suffix}"

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Format of the existing group, as zarr reads it; 3 for a new one."""
        v2, v3 = (os.path.exists(os.path.join(self.store, name)) for name in (".zgroup", "zarr.json"))
        return 2 if v2 and not v3 else 3

    def fault(self, *, overwrite: bool) -> str:
        """Say why the labels cannot be written here; empty when they can."""
        partial = self.sibling("partial")
        if os.path.lexists(partial) and not _is_partial_of(self, partial):
            return f"write_to: {partial} is in the way and not from blockbuster; move it elsewhere."
        store = Path(self.store)
        if not os.path.lexists(store) or _is_empty_folder(store):
            return ""
        if not store.is_dir():
            return f"write_to: {store} is a file; give a new path, or an existing zarr group."
        if zarr_node(store) != "group":
            return f"write_to: {store} is not a zarr group and is left alone; give a new path."
        return self._component_fault(overwrite)

    def _component_fault(self, overwrite: bool) -> str:
        path = Path(self.store)
        *groups, name = self.component.split("/")
        for part in groups:
            path = path / part
            if path.is_symlink():
                return _LINK.format(path)
            if zarr_node(path) not in ("group", ""):
                return f"output_component: {path} is not a zarr group; choose another output_component."
        path = path / name
        if path.is_symlink():
            return _LINK.format(path)
        node = zarr_node(path)
        if node in ("group", "other"):
            return f"output_component: {path} exists and is not a zarr array; choose another output_component."
        if node == "array" and not overwrite:
            return f"{path} exists; pass overwrite=True to replace it, or choose another output_component."
        aside = os.path.join(self.sibling("partial"), REPLACED)
        if os.path.lexists(aside) and not node and not overwrite:
            return (
                f"{path} was put aside as {aside} by a run that was interrupted; pass overwrite=True to "
                "replace it, or move it back."
            )
        return ""


def zarr_node(path: Path) -> str:
    """Say what lies at a path: ``"array"``, ``"group"``, ``"other"``, or nothing."""
    if not os.path.lexists(path):
        return ""
    if (path / "zarr.json").is_file():
        return str(_read_metadata(path).get("node_type", "other"))
    if (path / ".zarray").is_file():
        return "array"
    return "group" if (path / ".zgroup").is_file() else "other"


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a node of zarr format 3; empty where there is none that makes sense."""
    try:
        metadata = json.loads((path / "zarr.json").read_text())
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


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
        Where it will be; an array that lies there is replaced if ``place.replaces``.
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

    Raises
    ------
    FileExistsError
        If something of others lies where the array is built or, in the end, where it is to be.
    """
    with _partial_folder(place) as (store, array_path):
        _create_array(store, place, shape, dtype, chunk, shard, axes)
        yield array_path
        fault = place.fault(overwrite=place.replaces)
        if fault:
            raise FileExistsError(f"While the labels were computed, their place was taken. {fault}")


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
    """Give a store beside the target and the array's path in it, and publish the array at the end."""
    partial = place.sibling("partial")
    _recover(place, partial)
    os.makedirs(partial)
    Path(partial, MARK).write_text(_mark(place))
    store = os.path.join(partial, "store")
    array_path = os.path.join(store, *place.component.split("/"))
    try:
        yield store, array_path
        _publish(place, partial, store, array_path)
    finally:
        _recover(place, partial)


def _create_array(
    store: str,
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
    # zarr would take # and ? in a path given as text for parts of a URL.
    group = zarr.create_group(Path(store), zarr_format=place.zarr_format)
    array = group.create_array(place.component, shape=shape, dtype=dtype, **options)
    if place.zarr_format == 2 and axes:
        array.attrs["_ARRAY_DIMENSIONS"] = list(axes)


def _publish(place: OutputPlace, partial: str, store: str, array_path: str) -> None:
    """Move the finished array to its place; an array that lies there goes aside first."""
    if not os.path.lexists(place.store) or _is_empty_folder(Path(place.store)):
        os.makedirs(os.path.dirname(place.store), exist_ok=True)
        os.rename(store, place.store)
        return
    parent = os.path.dirname(place.component)
    if parent:
        zarr.open_group(Path(place.store), mode="r+").require_group(parent)
    if os.path.lexists(place.array_path):
        os.rename(place.array_path, os.path.join(partial, REPLACED))
    os.rename(array_path, place.array_path)
    _refresh_consolidated(place.store)


def _refresh_consolidated(store: str) -> None:
    """Write consolidated metadata anew where the group had it, else the array stays invisible."""
    if _read_metadata(Path(store)).get("consolidated_metadata") or Path(store, ".zmetadata").is_file():
        with warnings.catch_warnings():
            # That zarr may change them, and that files of others lie in the group, is no news to the user.
            warnings.simplefilter("ignore", ZarrUserWarning)
            zarr.consolidate_metadata(Path(store))


def _recover(place: OutputPlace, partial: str) -> None:
    """Put an array that went aside back where nothing took its place, and remove the rest."""
    if not os.path.lexists(partial):
        return
    if not _is_partial_of(place, partial):
        raise FileExistsError(f"{partial} is in the way and not from blockbuster; move it elsewhere.")
    replaced = os.path.join(partial, REPLACED)
    if os.path.isdir(replaced) and not os.path.lexists(place.array_path):
        os.rename(replaced, place.array_path)
    shutil.rmtree(partial)


def _mark(place: OutputPlace) -> str:
    """Tell two outputs apart whose siblings have the same name, such as ``a/b`` and ``a.b``."""
    return os.path.relpath(place.array_path, os.path.dirname(place.store))


def _is_partial_of(place: OutputPlace, partial: str) -> bool:
    """Say whether a folder is what an earlier run of this output left."""
    mark = Path(partial, MARK)
    return not os.path.islink(partial) and mark.is_file() and mark.read_text() == _mark(place)
