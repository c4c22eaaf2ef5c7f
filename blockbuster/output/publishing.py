"""Build the output beside its target and rename it into place once it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
def partial_output(place: OutputPlace, create: Callable[[str], Any]) -> Iterator[str]:
    """Yield the folder of labels that are not visible yet, as `partial_outputs`, of one output."""
    with partial_outputs([PartialOutput(place, create)]) as (path,):
        yield path


@contextlib.contextmanager
def partial_outputs(
    outputs: Sequence[PartialOutput], *, run: str = "", on_complete: Callable[[], Any] = bool
) -> Iterator[list[str]]:
    """Yield the folders of labels that are not visible yet; publish them when the block ends well.

    Parameters
    ----------
    outputs : sequence of PartialOutput
        What becomes visible together.
    run : str
        Name of the run. What a named run wrote is kept when the block fails.
    on_complete : callable
        Called when several outputs are complete and on the disk, before the first one moves.

    Yields
    ------
    list of str
        The folders to write to.

    Raises
    ------
    FileExistsError
        If something of others lies where an array is built or, in the end, where it is to be.

    Notes
    -----
    Whatever happens inside the block, a target holds either what it held before or the complete
    new array. Of several outputs a process that is killed as they move may leave some in their
    places and others not: `finish_moving` is for the next one.
    """
    unfinished = [_Unfinished(output.place, run) for output in outputs]
    try:
        for output, one in zip(outputs, unfinished, strict=True):
            one.begin(output)
        yield [one.path for one in unfinished]
        for one in unfinished:
            one.prepare_table()
        with publishing_alone(unfinished[0].place.groups):
            for one in unfinished:
                one.check()
            for one in unfinished:
                one.flush()
            if len(unfinished) > 1:
                on_complete()
            _move(unfinished)
    except BaseException:
        # Where one of several is in its place already, the next run has the others follow.
        if len(unfinished) == 1 or not any(one.is_moved for one in unfinished):
            for one in unfinished:
                one.give_up()
        raise


@dataclass(frozen=True)
class PartialOutput:
    """An output that is to be made.

    Parameters
    ----------
    place : OutputPlace
        Where it will be; what lies there is replaced if ``place.replaces``.
    create : callable
        Creates a store with labels that are all background, at a path.
    continues : bool
        Go on with what an earlier process of this run wrote, where that is there.
    """

    place: OutputPlace
    create: Callable[[str], Any]
    continues: bool = False


@dataclass
class _Unfinished:
    """An output on its way: where its labels are made, and where they go."""

    place: OutputPlace
    run: str
    is_moved: bool = False

    @property
    def store(self) -> str:
        # A task that outlives a run which failed does not know the name of the next run's store.
        return os.path.join(self.place.partial.path, f"store-{self.run[:12]}")

    @property
    def path(self) -> str:
        return os.path.join(self.store, *self.place.component.split("/"))

    def begin(self, output: PartialOutput) -> None:
        """Make the store, unless an earlier process of the run did."""
        partial = self.place.partial
        if output.continues and partial.is_ours(self.run) and _has_metadata_of(output.create, self.store):
            return
        partial.clear()
        partial.make(self.run)
        reach("partial made")
        output.create(self.store)

    def prepare_table(self) -> None:
        if self.place.feature_table is not None:
            self.place.feature_table.prepare(os.path.join(self.path, self.place.finest, OBJECTS))

    def check(self) -> None:
        """Refuse a place that something of others took."""
        aside = self.place.partial.aside
        fault = self.place.fault(overwrite=self.place.replaces or os.path.lexists(aside))
        if fault:
            raise FileExistsError(f"While the labels were computed, their place was taken. {fault}")

    def flush(self) -> None:
        """Have all of it on the disk, and nothing else."""
        # What zarr was writing when a process was killed.
        for pattern in ("*.partial", f"{WRITING}*"):
            for written_in_part in Path(self.path).rglob(pattern):
                written_in_part.unlink()
        flush_folder(self.store)
        reach("output flushed")

    def put_aside(self) -> None:
        """Take what it replaces out of the way."""
        if self.place.feature_table is not None:
            self.place.feature_table.withdraw()
        if os.path.lexists(self.place.path):
            os.rename(self.place.path, self.place.partial.aside)
            # Should the power be cut, it is known where the old array is.
            flush_path(self.place.partial.path)
            reach("old output aside")

    def put_in_place(self) -> None:
        """Make it visible."""
        place = self.place
        source, target = self.store, place.store
        if not place.is_in_new_store:
            # The topmost group that is not there yet, or the labels.
            parts = place.component.split("/")
            names = [os.path.join(*parts[:n]) for n in range(1, len(parts) + 1)]
            missing = (name for name in names if not os.path.lexists(os.path.join(place.store, name)))
            name = next(missing, names[-1])
            source, target = os.path.join(self.store, name), os.path.join(place.store, name)
        os.rename(source, target)
        self.is_moved = True
        flush_path(os.path.dirname(target))
        reach("output in place")

    def give_up(self) -> None:
        """Have the old labels back, and keep what a named run wrote."""
        if self.run:
            self.place.partial.put_back()
        else:
            self.place.partial.clear()


def finish_moving(places: Iterable[OutputPlace], run: str) -> None:
    """Have outputs follow those that a process had moved when it was killed.

    Parameters
    ----------
    places : iterable of OutputPlace
        Where they will be; all of them were complete.
    run : str
        Name of the run that made them.
    """
    unfinished = [_Unfinished(place, run) for place in places]
    waiting = [one for one in unfinished if one.place.partial.is_ours(run) and os.path.isdir(one.path)]
    for one in waiting:
        one.check()
        one.prepare_table()
    if waiting:
        with publishing_alone(waiting[0].place.groups):
            _move(waiting)


def _move(unfinished: list[_Unfinished]) -> None:
    """Move finished labels to their places; what lies there goes aside first."""
    for one in unfinished:
        one.put_aside()
    for one in unfinished:
        one.put_in_place()
    for one in unfinished:
        if one.place.feature_table is not None:
            one.place.feature_table.show()
        one.place.groups.update()
    for one in unfinished:
        one.place.partial.clear()


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
