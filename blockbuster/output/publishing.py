"""Build the output beside its target and rename it into place once it is complete."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from blockbuster.failpoints import reach
from blockbuster.rundir.durable import METADATA_BYTES, WRITING, flush_folder, full_disk_explained
from blockbuster.rundir.folder import check_removable, make_marked_folder, remove_entries
from blockbuster.rundir.lock import hold_lock

__all__ = [
    "METADATA_FILES",
    "OutputPlace",
    "clear_partial",
    "finish_publishing",
    "partial_output",
    "replaced_output",
    "zarr_node",
]

MARK = "blockbuster-partial"
METADATA_FILES = ("zarr.json", ".zarray", ".zattrs")
REPLACED = "replaced"
# In the order of removal: what is removed in part is still recognised.
OWN = ("store-*", f"{WRITING}*", MARK)
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
    def lock_path(self) -> str:
        """File that a run holds while it makes this output."""
        return self.sibling("lock")

    @property
    def waits_for_swap(self) -> bool:
        """Whether a run was interrupted after it put the old array aside, and before the new one was in place."""
        return os.path.isdir(os.path.join(self.sibling("partial"), REPLACED)) and not os.path.lexists(
            self.array_path
        )

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
                f"{path} was put aside as {aside} by a run that was interrupted; pass resume=True to finish that "
                "run, overwrite=True to replace it, or move it back."
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
    *,
    run: str = "",
    continues: bool = False,
) -> Iterator[str]:
    """Give the folder of a label array that is not visible yet, and publish it when the block ends well.

    Parameters
    ----------
    place : OutputPlace
        Where it will be; an array that lies there is replaced if ``place.replaces``.
    shape, dtype, chunk, shard
        Of the array.
    axes : str or None
        One letter per axis, stored as dimension names.
    run : str
        Name of the run. What a named run wrote is kept when the block fails.
    continues : bool
        Go on with what an earlier process of this run wrote, where that is there.

    Yields
    ------
    str
        The folder to write to.

    Raises
    ------
    FileExistsError
        If something of others lies where the array is built or, in the end, where it is to be.

    Notes
    -----
    Whatever happens inside the block, the target holds either what it held before or the complete
    new array.
    """

    def create(store: str) -> None:
        _create_array(store, place, shape, dtype, chunk, shard, axes)

    with _partial_folder(place, run, create if continues else None) as (store, array_path, continued):
        if not continued:
            create(store)
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
    with _partial_folder(place, "") as (_, array_path, _):
        os.makedirs(array_path)
        for name in METADATA_FILES:
            if os.path.isfile(os.path.join(place.array_path, name)):
                shutil.copyfile(os.path.join(place.array_path, name), os.path.join(array_path, name))
        yield array_path


def finish_publishing(place: OutputPlace) -> None:
    """Do what a process could not do any more that was killed right after its array was in place."""
    with _store_lock(place):
        _refresh_consolidated(place.store)
        clear_partial(place)


def clear_partial(place: OutputPlace) -> None:
    """Put an array that went aside back where nothing took its place, and remove what an earlier run left."""
    _recover(place, place.sibling("partial"))


@contextlib.contextmanager
def _partial_folder(
    place: OutputPlace, run: str, create: Callable[[str], None] | None = None
) -> Iterator[tuple[str, str, bool]]:
    """Give a store beside the target and the array's path in it, and publish the array at the end.

    With `create`, which writes the empty array into a store, go on with what the run left.
    """
    partial = place.sibling("partial")
    # A task that outlives a run which failed does not know the name of the next run's store.
    store = os.path.join(partial, f"store-{run[:12]}")
    array_path = os.path.join(store, *place.component.split("/"))
    continued = (
        create is not None
        and _is_partial_of(place, partial, run)
        and _has_metadata_of(create, store, place.component)
    )
    if not continued:
        _recover(place, partial)
        make_marked_folder(partial, MARK, _mark(place, run))
        reach("partial made")
    try:
        yield store, array_path, continued
        with _store_lock(place):
            _publish(place, partial, store, array_path)
            _recover(place, partial)
    except BaseException:
        if run:
            _put_back(place, partial)
        else:
            _recover(place, partial)
        raise


def _has_metadata_of(create: Callable[[str], None], store: str, component: str) -> bool:
    """Say whether the metadata of a store are what `create` writes: damaged ones would be published."""
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=os.path.dirname(store)) as folder:
        fresh = os.path.join(folder, "store")
        create(fresh)
        return _read_nodes(fresh, component) == _read_nodes(store, component)


def _read_nodes(store: str, component: str) -> list[bytes]:
    """Read the metadata of a group and of everything down to an array in it; empty where there are none."""
    parts = component.split("/")
    folders = [Path(store, *parts[:n]) for n in range(len(parts) + 1)]
    files = [folder / name for folder in folders for name in (*METADATA_FILES, ".zgroup")]
    return [file.read_bytes() if file.is_file() else b"" for file in files]


def _store_lock(place: OutputPlace) -> contextlib.AbstractContextManager[object]:
    """Publish into a store alone: another run may publish labels of another name into it."""
    return hold_lock(f"{place.store}.blockbuster-lock", f"the store {place.store}", wait_seconds=600)


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
    with full_disk_explained(store, METADATA_BYTES):
        group = zarr.create_group(Path(store), zarr_format=place.zarr_format)
        array = group.create_array(place.component, shape=shape, dtype=dtype, **options)
        if place.zarr_format == 2 and axes:
            array.attrs["_ARRAY_DIMENSIONS"] = list(axes)


def _publish(place: OutputPlace, partial: str, store: str, array_path: str) -> None:
    """Move the finished array to its place; an array that lies there goes aside first."""
    aside = os.path.join(partial, REPLACED)
    fault = place.fault(overwrite=place.replaces or os.path.lexists(aside))
    if fault:
        raise FileExistsError(f"While the labels were computed, their place was taken. {fault}")
    _remove_unfinished_files(array_path)
    flush_folder(store)
    reach("output flushed")
    if not os.path.lexists(place.store) or _is_empty_folder(Path(place.store)):
        os.makedirs(os.path.dirname(place.store), exist_ok=True)
        os.rename(store, place.store)
        reach("output in place")
        return
    parent = os.path.dirname(place.component)
    if parent:
        with full_disk_explained(place.store, METADATA_BYTES):
            zarr.open_group(Path(place.store), mode="r+").require_group(parent)
    if os.path.lexists(place.array_path):
        os.rename(place.array_path, aside)
        reach("old output aside")
    os.rename(array_path, place.array_path)
    reach("output in place")
    _refresh_consolidated(place.store)


def _remove_unfinished_files(array_path: str) -> None:
    """Remove what zarr was writing when a process was killed."""
    for pattern in ("*.partial", f"{WRITING}*"):
        for path in Path(array_path).rglob(pattern):
            path.unlink()


def _refresh_consolidated(store: str) -> None:
    """Write consolidated metadata anew where the group had it, else the array stays invisible."""
    if _read_metadata(Path(store)).get("consolidated_metadata") or Path(store, ".zmetadata").is_file():
        with warnings.catch_warnings(), full_disk_explained(store, METADATA_BYTES):
            # That zarr may change them, and that files of others lie in the group, is no news to the user.
            warnings.simplefilter("ignore", ZarrUserWarning)
            zarr.consolidate_metadata(Path(store))


def _recover(place: OutputPlace, partial: str) -> None:
    """Put an array that went aside back where nothing took its place, and remove the rest."""
    if not os.path.lexists(partial):
        return
    if not _is_partial_of(place, partial):
        raise FileExistsError(f"{partial} is in the way and not from blockbuster; move it elsewhere.")
    _put_back(place, partial)
    check_removable(partial, keep=[place.array_path])
    aside = os.path.join(partial, REPLACED)
    if os.path.isdir(aside) and not os.path.islink(aside):
        # The array that was to be overwritten goes with all that lies in it.
        shutil.rmtree(aside)
    remove_entries(partial, OWN)


def _put_back(place: OutputPlace, partial: str) -> None:
    """Put an array that went aside back where nothing took its place."""
    aside = os.path.join(partial, REPLACED)
    if os.path.isdir(aside) and not os.path.lexists(place.array_path):
        os.rename(aside, place.array_path)


def _mark(place: OutputPlace, run: str) -> str:
    """Tell two outputs apart whose siblings have the same name, such as ``a/b`` and ``a.b``."""
    return f"{os.path.relpath(place.array_path, os.path.dirname(place.store))}\n{run}"


def _is_partial_of(place: OutputPlace, partial: str, run: str | None = None) -> bool:
    """Say whether a folder is what an earlier run of this output, or just this run, left."""
    mark = Path(partial, MARK)
    if os.path.islink(partial) or not mark.is_file():
        return False
    found, expected = mark.read_text(), _mark(place, run or "")
    return found == expected if run is not None else found.partition("\n")[0] == expected.partition("\n")[0]
