"""Build the output beside its target and rename it into place once it is complete."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr

from blockbuster.identity.owners import is_foreign, private_mode
from blockbuster.output.groups import EnclosingGroups, zarr_node
from blockbuster.output.layout import ArrayLayout, OutputLayout
from blockbuster.report import FINEST
from blockbuster.rundir.durable import (
    METADATA_BYTES,
    WRITING,
    flush_folder,
    flush_path,
    full_disk_explained,
    read_object,
)
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.folder import (
    check_removable,
    clear_abandoned,
    is_abandoned,
    make_marked_folder,
    remove_entries,
)
from blockbuster.rundir.lock import hold_lock
from blockbuster.source.digest import METADATA_FILES

__all__ = [
    "OutputPlace",
    "clear_partial",
    "finish_publishing",
    "is_label_image",
    "partial_output",
    "replaced_output",
]

MARK = "blockbuster-partial"
# How long another run may publish into the same store.
LOCK_SECONDS = 600.0
# An array that was put aside, and one of those that will not come back: it may be removed in part.
REPLACED, DISCARDED = "replaced", "discarded"
# In the order of removal: what is removed in part is still recognised.
OWN = ("store-*", f"{WRITING}*", MARK)
_LINK = "output_component: {} is a symbolic link and is left alone; choose another output_component."
_IN_THE_WAY = (
    "{} is in the way and not from blockbuster; move it elsewhere, or, where another user made it, choose "
    "another output_component."
)
_NOT_OURS = "output_component: {} exists and is not a {}; choose another output_component."


@dataclass(frozen=True)
class OutputPlace:
    """Where the labels will be: an array, or an OME-NGFF label image, inside a zarr group on a file system.

    Parameters
    ----------
    store : str
        Absolute path of the group.
    component : str
        Name of the array or of the label image inside it.
    replaces : bool
        Whether what lies there when the labels are complete may be replaced.
    is_label_image : bool
        Whether it is a group with an array for each level, in an OME-Zarr image, and listed there.
    """

    store: str
    component: str
    replaces: bool = True
    is_label_image: bool = False

    @property
    def path(self) -> str:
        """Folder of the array, or of the label image."""
        return os.path.join(self.store, *self.component.split("/"))

    @property
    def array_path(self) -> str:
        """Folder of the array, or of the finest level of the label image."""
        return os.path.join(self.path, FINEST) if self.is_label_image else self.path

    def sibling(self, suffix: str) -> str:
        """Path beside the store that belongs to this output."""
        return f"{self.store}.{self.component.replace('/', '.')}.blockbuster-{suffix}"

    @property
    def partial(self) -> str:
        """Folder in which the labels are made."""
        return self.sibling("partial")

    @property
    def lock_path(self) -> str:
        """File that a run holds while it makes this output."""
        return self.sibling("lock")

    @property
    def waits_for_swap(self) -> bool:
        """Whether a run was interrupted after it put the old array aside, and before the new one was in place."""
        return os.path.isdir(os.path.join(self.partial, REPLACED)) and not os.path.lexists(self.path)

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Format of the existing group, as zarr reads it; of a new one that of the group around it, or 3."""
        for folder in (self.store, os.path.dirname(self.store)):
            if os.path.exists(os.path.join(folder, "zarr.json")):
                return 3
            if os.path.exists(os.path.join(folder, ".zgroup")):
                return 2
        return 3

    @property
    def groups(self) -> EnclosingGroups:
        """The groups whose metadata are to tell of the labels."""
        return EnclosingGroups(self.store, self.path, self.zarr_format, self.is_label_image)

    def fault(self, *, overwrite: bool) -> str:
        """Describe why the labels cannot be written here; empty when they can."""
        partial = self.partial
        if os.path.lexists(partial) and not (_is_partial_of(self) or _is_abandoned(partial)):
            return f"write_to: {_IN_THE_WAY.format(partial)}"
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
        if node and not (is_label_image(path) if self.is_label_image else node == "array"):
            return _NOT_OURS.format(path, "label image" if self.is_label_image else "zarr array")
        if node and not overwrite:
            return f"{path} exists; pass overwrite=True to replace it, or choose another output_component."
        aside = os.path.join(self.partial, REPLACED)
        if os.path.lexists(aside) and not node and not overwrite:
            return (
                f"{path} was put aside as {aside} by a run that was interrupted; pass resume=True to finish that "
                "run, overwrite=True to replace it, or move it back."
            )
        return ""


def is_label_image(path: Path) -> bool:
    """Return whether a group has the metadata of an OME-NGFF label image."""
    stated = read_object(path / ".zattrs") or (read_object(path / "zarr.json") or {}).get("attributes")
    if isinstance(stated, dict) and isinstance(stated.get("ome"), dict):
        stated = stated["ome"]
    return isinstance(stated, dict) and "multiscales" in stated and "image-label" in stated


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextlib.contextmanager
def partial_output(
    place: OutputPlace, layout: OutputLayout, *, run: str = "", continues: bool = False
) -> Iterator[str]:
    """Return the folder of labels that are not visible yet, and publish them when the block ends well.

    Parameters
    ----------
    place : OutputPlace
        Where they will be; what lies there is replaced if ``place.replaces``.
    layout : OutputLayout
        Their arrays.
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
    create = functools.partial(_create_output, place=place, layout=layout)
    with _partial_folder(place, run, create if continues else None) as (store, path, continued):
        if not continued:
            create(store)
        yield path


@contextlib.contextmanager
def replaced_output(place: OutputPlace) -> Iterator[str]:
    """Return the folder of an empty array with the metadata of an existing one, to take its place.

    Parameters
    ----------
    place : OutputPlace
        Where the array lies.

    Yields
    ------
    str
        The folder to write to.
    """
    with _partial_folder(place, "") as (_, path, _):
        os.makedirs(path)
        for name in METADATA_FILES:
            if os.path.isfile(os.path.join(place.path, name)):
                shutil.copyfile(os.path.join(place.path, name), os.path.join(path, name))
        yield path


def publishing_alone(groups: EnclosingGroups) -> contextlib.AbstractContextManager[object]:
    """Hold the lock without which no run changes these groups, or what their metadata tell of."""
    group = groups.outermost
    # Beside a group around the store there may be nothing that this user can write to.
    path = f"{group}.blockbuster-lock" if group == groups.store else os.path.join(group, ".blockbuster-lock")
    return hold_lock(path, f"the store {group}", wait_seconds=LOCK_SECONDS)


def finish_publishing(place: OutputPlace) -> None:
    """Do what a process could not do any more that was killed right after its labels were in place."""
    with publishing_alone(place.groups):
        place.groups.update()
        clear_partial(place)


def clear_partial(place: OutputPlace) -> None:
    """Put an array that went aside back where nothing took its place, and remove what an earlier run left."""
    partial = place.partial
    if _is_abandoned(partial):
        clear_abandoned(partial)
    if not os.path.lexists(partial):
        return
    if not _is_partial_of(place):
        raise FileExistsError(_IN_THE_WAY.format(partial))
    _put_back(place)
    check_removable(partial, keep=[place.path])
    _discard_replaced(partial)
    remove_entries(partial, OWN)


@contextlib.contextmanager
def _partial_folder(
    place: OutputPlace, run: str, create: Callable[[str], None] | None = None
) -> Iterator[tuple[str, str, bool]]:
    """Return a store beside the target and the labels' path in it, and publish them at the end.

    With `create`, which writes empty labels into a store, go on with what the run left.
    """
    partial = place.partial
    # A task that outlives a run which failed does not know the name of the next run's store.
    store = os.path.join(partial, f"store-{run[:12]}")
    path = os.path.join(store, *place.component.split("/"))
    continued = create is not None and _is_partial_of(place, run) and _has_metadata_of(create, store, place)
    if not continued:
        clear_partial(place)
        make_marked_folder(partial, MARK, _mark(place, run), private_mode())
        reach("partial made")
    try:
        yield store, path, continued
        with publishing_alone(place.groups):
            _publish(place, store, path)
            clear_partial(place)
    except BaseException:
        if run:
            _put_back(place)
        else:
            clear_partial(place)
        raise


def _has_metadata_of(create: Callable[[str], None], store: str, place: OutputPlace) -> bool:
    """Return whether the metadata of a store are what `create` writes: damaged ones would be published."""
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=os.path.dirname(store)) as folder:
        fresh = os.path.join(folder, "store")
        create(fresh)
        return _read_nodes(fresh, fresh, place) == _read_nodes(fresh, store, place)


def _read_nodes(model: str, store: str, place: OutputPlace) -> list[bytes]:
    """Read the metadata of all nodes that a model of a store has; empty where there are none."""
    parts = place.component.split("/")
    nodes = ["/".join(parts[:n]) for n in range(len(parts) + 1)]
    if place.is_label_image:
        nodes += sorted(f"{place.component}/{name}" for name in os.listdir(Path(model, place.component)))
    files = [Path(store, node, name) for node in nodes for name in (*METADATA_FILES, ".zgroup")]
    return [file.read_bytes() if file.is_file() else b"" for file in files]


def _create_output(store: str, place: OutputPlace, layout: OutputLayout) -> None:
    # zarr would take # and ? in a path given as text for parts of a URL.
    with full_disk_explained(store, METADATA_BYTES):
        group = zarr.create_group(Path(store), zarr_format=place.zarr_format)
        if not place.is_label_image:
            _create_array(group, place.component, layout.arrays[0])
            return
        image = group.require_group(place.component)
        image.attrs.update(layout.attributes)
        for number, array in enumerate(layout.arrays):
            _create_array(image, str(number), array)


def _create_array(group: zarr.Group, name: str, layout: ArrayLayout) -> None:
    options: dict[str, Any] = {"chunks": layout.chunk, "attributes": layout.attributes}
    if group.metadata.zarr_format == 3:
        from zarr.codecs import ZstdCodec

        options["compressors"] = ZstdCodec(level=1, checksum=True)
        options["shards"] = layout.shard if layout.shard != layout.chunk else None
        options["dimension_names"] = layout.names
    else:
        # As OME-NGFF has it; a folder of a million files is slow on many file systems.
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        if layout.names:
            options["attributes"] = {**layout.attributes, "_ARRAY_DIMENSIONS": list(layout.names)}
    group.create_array(name, shape=layout.shape, dtype=layout.dtype, **options)


def _publish(place: OutputPlace, store: str, path: str) -> None:
    """Move the finished labels to their place; what lies there goes aside first."""
    aside = os.path.join(place.partial, REPLACED)
    fault = place.fault(overwrite=place.replaces or os.path.lexists(aside))
    if fault:
        raise FileExistsError(f"While the labels were computed, their place was taken. {fault}")
    # What zarr was writing when a process was killed.
    for pattern in ("*.partial", f"{WRITING}*"):
        for unfinished in Path(path).rglob(pattern):
            unfinished.unlink()
    flush_folder(store)
    reach("output flushed")
    source, target = _topmost_missing(place, store)
    if os.path.lexists(place.path):
        os.rename(place.path, aside)
        # Should the power be cut, it is known where the old array is.
        flush_path(place.partial)
        reach("old output aside")
    os.rename(source, target)
    flush_path(os.path.dirname(target))
    reach("output in place")
    place.groups.update()


def _topmost_missing(place: OutputPlace, store: str) -> tuple[str, str]:
    """Return what of a store is to be renamed to where: the store, a group that is not there, or the labels."""
    if not os.path.lexists(place.store) or _is_empty_folder(Path(place.store)):
        return store, place.store
    parts = place.component.split("/")
    names = [os.path.join(*parts[:n]) for n in range(1, len(parts) + 1)]
    name = next((name for name in names if not os.path.lexists(os.path.join(place.store, name))), names[-1])
    return os.path.join(store, name), os.path.join(place.store, name)


def _discard_replaced(partial: str) -> None:
    """Remove an array that was overwritten, with all that lies in it."""
    aside, discarded = (os.path.join(partial, name) for name in (REPLACED, DISCARDED))
    if os.path.isdir(discarded) and not os.path.islink(discarded):
        shutil.rmtree(discarded)
    if os.path.isdir(aside) and not os.path.islink(aside):
        os.rename(aside, discarded)
        shutil.rmtree(discarded)


def _put_back(place: OutputPlace) -> None:
    """Put an array that went aside back where nothing took its place."""
    aside = os.path.join(place.partial, REPLACED)
    if os.path.isdir(aside) and not os.path.lexists(place.path):
        os.rename(aside, place.path)


def _mark(place: OutputPlace, run: str) -> str:
    """Tell two outputs apart whose siblings have the same name, such as ``a/b`` and ``a.b``."""
    return f"{os.path.relpath(place.path, os.path.dirname(place.store))}\n{run}"


def _is_abandoned(partial: str) -> bool:
    return os.path.lexists(partial) and not is_foreign(partial) and is_abandoned(partial)


def _is_partial_of(place: OutputPlace, run: str | None = None) -> bool:
    """Return whether what lies beside the output is what an earlier run of it, or just this run, left."""
    partial = place.partial
    mark = Path(partial, MARK)
    # Nobody else may look into a folder of another user's run.
    if not os.path.isdir(partial) or os.path.islink(partial) or is_foreign(partial) or not mark.is_file():
        return False
    found, expected = mark.read_bytes(), _mark(place, run or "").encode()
    return found == expected if run is not None else found.partition(b"\n")[0] == expected.partition(b"\n")[0]
