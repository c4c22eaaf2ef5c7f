"""Build the output beside its target and rename it into place once it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blockbuster.output.groups import EnclosingGroups
from blockbuster.output.places import OutputPlace
from blockbuster.report import OBJECTS
from blockbuster.rundir.durable import WRITING, flush_folder, flush_path
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.lock import hold_lock
from blockbuster.source.digest import METADATA_FILES

# How long another run may publish into the same store.
LOCK_SECONDS = 600.0


@contextlib.contextmanager
def partial_output(
    place: OutputPlace, create: Callable[[str], Any], *, run: str = "", continues: bool = False
) -> Iterator[str]:
    """Yield the folder of labels that are not visible yet; publish them when the block ends well.

    Parameters
    ----------
    place : OutputPlace
        Where they will be; what lies there is replaced if ``place.replaces``.
    create : callable
        Creates a store with labels that are all background, at a path.
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
    partial = place.partial
    # A task that outlives a run which failed does not know the name of the next run's store.
    store = os.path.join(partial.path, f"store-{run[:12]}")
    continues = continues and partial.is_ours(run) and _has_metadata_of(create, store)
    if not continues:
        partial.clear()
        partial.make(run)
        reach("partial made")
    try:
        if not continues:
            create(store)
        path = os.path.join(store, *place.component.split("/"))
        yield path
        if place.feature_table is not None:
            place.feature_table.prepare(os.path.join(path, place.finest, OBJECTS))
        with publishing_alone(place.groups):
            _publish(place, store, path)
            partial.clear()
    except BaseException:
        if run:
            partial.put_back()
        else:
            partial.clear()
        raise


def replaced_output(place: OutputPlace) -> contextlib.AbstractContextManager[str]:
    """Yield the folder of an empty array with the metadata of the one that it will replace."""

    def create(store: str) -> None:
        path = Path(store, place.component)
        path.mkdir(parents=True)
        for name in METADATA_FILES:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(Path(place.path, name), path / name)

    return partial_output(place, create)


@contextlib.contextmanager
def replaced_table(place: OutputPlace) -> Iterator[str]:
    """Yield the path of a table of objects to write, of labels that are there; show it when the
    block ends well.

    Until then the table is there that it replaces, and never one beside the labels and an older one
    where readers of images look for it.
    """
    partial, objects = place.partial, os.path.join(place.array_path, OBJECTS)
    partial.clear()
    partial.make("")
    try:
        path = os.path.join(partial.path, f"table-{OBJECTS}")
        yield path
        table = place.feature_table
        if table is not None:
            table.prepare(path)
        with publishing_alone(place.groups):
            if table is not None:
                table.withdraw()
            os.replace(path, objects)
            flush_path(place.array_path)
            reach("table with labels")
            if table is not None:
                table.show()
                place.groups.update()
            partial.clear()
    except BaseException:
        partial.clear()
        raise


def publishing_alone(groups: EnclosingGroups) -> contextlib.AbstractContextManager[object]:
    """Hold the lock without which no run changes these groups, or what their metadata tell of."""
    group = groups.outermost
    # Beside a group around the store there may be nothing that this user can write to.
    path = f"{group}.blockbuster-lock" if group == groups.store else os.path.join(group, ".blockbuster-lock")
    return hold_lock(path, f"the store {group}", wait_seconds=LOCK_SECONDS)


def finish_publishing(place: OutputPlace) -> None:
    """Finish for a process that was killed right after its labels were in place."""
    table = place.feature_table
    with publishing_alone(place.groups):
        if table is not None and place.partial.is_ours():
            table.prepare(table.objects)
            table.show()
        place.groups.update()
        place.partial.clear()


def _has_metadata_of(create: Callable[[str], Any], store: str) -> bool:
    """Return whether a store has the metadata that `create` writes, and no damaged ones."""
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=os.path.dirname(store)) as folder:
        fresh = os.path.join(folder, "store")
        create(fresh)
        nodes = [os.path.relpath(node, fresh) for node, _, _ in os.walk(fresh)]
        return _read_nodes(fresh, nodes) == _read_nodes(store, nodes)


def _read_nodes(store: str, nodes: list[str]) -> list[bytes]:
    """Read the metadata of some nodes of a store; empty where there are none."""
    files = [Path(store, node, name) for node in nodes for name in (*METADATA_FILES, ".zgroup")]
    return [file.read_bytes() if file.is_file() else b"" for file in files]


def _publish(place: OutputPlace, store: str, path: str) -> None:
    """Move the finished labels to their place; what lies there goes aside first."""
    aside = place.partial.aside
    fault = place.fault(overwrite=place.replaces or os.path.lexists(aside))
    if fault:
        raise FileExistsError(f"While the labels were computed, their place was taken. {fault}")
    # What zarr was writing when a process was killed.
    for pattern in ("*.partial", f"{WRITING}*"):
        for unfinished in Path(path).rglob(pattern):
            unfinished.unlink()
    flush_folder(store)
    reach("output flushed")
    source, target = store, place.store
    if not place.is_in_new_store:
        # The topmost group that is not there yet, or the labels.
        parts = place.component.split("/")
        names = [os.path.join(*parts[:n]) for n in range(1, len(parts) + 1)]
        missing = (name for name in names if not os.path.lexists(os.path.join(place.store, name)))
        name = next(missing, names[-1])
        source, target = os.path.join(store, name), os.path.join(place.store, name)
    table = place.feature_table
    if table is not None:
        table.withdraw()
    if os.path.lexists(place.path):
        os.rename(place.path, aside)
        # Should the power be cut, it is known where the old array is.
        flush_path(place.partial.path)
        reach("old output aside")
    os.rename(source, target)
    flush_path(os.path.dirname(target))
    reach("output in place")
    if table is not None:
        table.show()
    place.groups.update()
