"""Small runs that are killed at a call that changes what lies in a folder, each such call in its turn.

An audit hook of Python hears of every removal and every rename before it happens, whichever module or thread
makes it; of a flush it does not, and so `os.fsync` is replaced. A kill before a call is one after the last.
"""

import dataclasses
import os
import re
import shutil
import signal
import sys
import warnings
from dataclasses import dataclass

import dask
import numpy as np
import zarr
from interrupted import contents
from naive import partition_fault
from outcomes import consolidate
from scipy import ndimage

from blockbuster import measure_labels, read_report, relabel_sequential_zarr, tile_process

# What a path in the folder of unfinished labels has in it.
PARTIAL = "blockbuster-partial"
IMAGE = (np.random.default_rng(3).random((16, 16)) < 0.6).astype("uint8")
IMAGE[:4, :4] = 0
STAGE_OF_LABELS = re.compile(r"cells\.labels\.[0-9a-f]{8}\.blockbuster-")
# Events of `sys.audit`, and which arguments are paths, and the open folders that these may be relative to.
EVENTS = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
}


def components(tile):
    return ndimage.label(tile)[0]


def number_all(tile):
    return np.arange(1, tile.size + 1).reshape(tile.shape)


@dataclass(frozen=True)
class Case:
    """A run that is killed, in a folder with things of others.

    Parameters
    ----------
    component : str
        Of the labels.
    store : str
        Path of their store in the folder.
    is_new : bool
        Whether there is no such store.
    is_image : bool
        Whether it is an OME-Zarr image with two levels, in which the labels are a label image.
    has_labels : bool
        Whether there are labels of that name already, to be replaced.
    measure : tuple of str or True, optional
        What is measured of objects, of the old ones too.
    """

    component: str
    zarr_format: int = 3
    store: str = "x.zarr"
    is_new: bool = False
    is_image: bool = False
    has_labels: bool = False
    measure: tuple[str, ...] | bool | None = None

    def prepare(self, folder):
        """Make what lies there before the run."""
        (folder / "x.zarr.other.blockbuster-stage").mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
        if self.is_new:
            return
        group = zarr.create_group(folder / self.store, zarr_format=self.zarr_format)
        if self.is_image:
            self._draw_pyramid(group)
        if self.has_labels:
            self.put_labels(folder)
        (folder / self.store / ".notes").write_text("mine")
        (folder / self.store / "zarr.0123.partial").write_text("of another process")
        consolidate(folder / self.store)

    def _draw_pyramid(self, group):
        levels = [(str(n), IMAGE[:: 2**n, :: 2**n], 2.0**n) for n in range(2)]
        datasets = []
        for name, pixels, scale in levels:
            group.create_array(name, data=pixels, chunks=(8, 8))
            step = {"type": "scale", "scale": [scale, scale]}
            datasets.append({"path": name, "coordinateTransformations": [step]})
        axes = [{"name": name, "type": "space"} for name in "yx"]
        version = "0.4" if self.zarr_format == 2 else "0.5"
        stated = {"multiscales": [{"version": version, "axes": axes, "datasets": datasets}]}
        group.attrs.update(stated if self.zarr_format == 2 else {"ome": {"version": version, **stated}})

    def put_labels(self, folder):
        self.act(folder, fn=number_all, fn_version="old", tile_shape=(16, 16), overwrite=False)

    def act(self, folder, fn=components, **options):
        """Write the labels; a warning is an error."""
        given = {"tile_shape": (8, 8), "fn_version": "1", "overwrite": self.has_labels}
        given |= {"measure": self.measure, **options}
        place = {"write_to": folder / self.store, "output_component": self.component}
        with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
            warnings.simplefilter("error")
            tile_process(IMAGE, fn, tiles_per_task=2, **place, **given)

    def look(self, folder):
        """All that lies there, and of the report that it is there."""
        assert read_report(folder / self.store, self.component).n_tiles == 4
        return contents(folder)

    def fault_when_killed(self, folder):
        """Say which table is there without the labels that it is of."""
        name = self.component.rpartition("/")[2]
        shown = folder / self.store / "tables" / name / "table.parquet"
        of_labels = folder / self.store / self.component / "0" / "objects.parquet"
        if shown.exists() and not (of_labels.exists() and shown.read_bytes() == of_labels.read_bytes()):
            return f"{shown} is not of the labels that are there"
        return ""

    def fault(self, folder):
        """Say in what the labels are not those of the whole image."""
        path = folder / self.store / self.component / ("0" if self.is_image else "")
        return partition_fault(zarr.open_array(path, mode="r")[...], ndimage.label(IMAGE)[0])


def both(tile):
    return {"holes": components(tile == 0), "cells": components(tile)}


def number_both(tile):
    return {"holes": number_all(tile), "cells": number_all(tile)}


@dataclass(frozen=True)
class Several(Case):
    """Two results of one function; the component has the name of each in place of {}."""

    def put_labels(self, folder):
        self.act(folder, fn=number_both, fn_version="old", tile_shape=(16, 16), overwrite=False)

    def act(self, folder, fn=both, **options):
        super().act(folder, fn=fn, parents=None if self.measure is None else "holes:cells", **options)

    @property
    def each(self):
        return {
            name: dataclasses.replace(self, component=self.component.format(name)) for name in ("cells", "holes")
        }

    def look(self, folder):
        for case in self.each.values():
            Case.look(case, folder)
        return contents(folder)

    def fault_when_killed(self, folder):
        return "; ".join(filter(None, (Case.fault_when_killed(case, folder) for case in self.each.values())))

    def fault(self, folder):
        wanted = {"cells": IMAGE, "holes": IMAGE == 0}
        found = {}
        for name, case in self.each.items():
            path = folder / self.store / case.component / ("0" if self.is_image else "")
            found[name] = partition_fault(zarr.open_array(path, mode="r")[...], components(wanted[name]))
        return "; ".join(f"{name}: {fault}" for name, fault in found.items() if fault)


@dataclass(frozen=True)
class Renumbering(Case):
    """Labels that are numbered without gaps, in their place."""

    has_labels: bool = True

    def put_labels(self, folder):
        group = zarr.open_group(folder / self.store)
        group.create_array(self.component, data=(3 * components(IMAGE)).astype("int32"), chunks=(8, 8))

    def act(self, folder, **options):
        relabel_sequential_zarr(folder / self.store, self.component)

    def look(self, folder):
        return contents(folder)


@dataclass(frozen=True)
class Measuring(Case):
    """Labels whose objects are measured anew, with other columns than the table has that lies there."""

    is_image: bool = True
    has_labels: bool = True
    measure: bool = True

    def put_labels(self, folder):
        super().act(folder, overwrite=False)

    def act(self, folder, **options):
        options = {"resume": options.get("resume", False), "overwrite": True}
        with dask.config.set(scheduler="synchronous"):
            measure_labels(folder / self.store, component=self.component, **options)

    def look(self, folder):
        # The name of a stage has a hash of the path in it, by which that in a copy is not known again.
        return {path: what for path, what in contents(folder).items() if not STAGE_OF_LABELS.match(path)}


class Calls:
    """Counts calls on what lies in a folder, from now on, and kills this process just before one of them.

    Parameters
    ----------
    folder : path
        Calls on other paths do not count.
    fatal : int
        Which call, counted from 0; -1 for none.
    """

    def __init__(self, folder, fatal=-1):
        self.folder, self.fatal = os.path.realpath(folder), fatal
        self.seen = []
        self._fsync = os.fsync
        os.fsync = self._flush
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if event in EVENTS:
            self._note(event.removeprefix("os."), *(_full(arguments[i], arguments[j]) for i, j in EVENTS[event]))

    def _flush(self, descriptor):
        self._note("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        self._fsync(descriptor)

    def _note(self, name, *paths):
        if any(path == self.folder or path.startswith(self.folder + os.sep) for path in paths):
            if len(self.seen) == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen.append((name, *(os.path.relpath(path, self.folder) for path in paths)))


def _full(path, descriptor):
    """Path of an argument, which may be relative to an open folder."""
    folder = os.getcwd() if descriptor == -1 else os.readlink(f"/proc/self/fd/{descriptor}")
    parent, name = os.path.split(os.path.join(folder, os.fsdecode(path)))
    return os.path.join(os.path.realpath(parent), name)


def act_watched(case, folder, fatal=-1):
    """Run, and give the calls; in a process of its own."""
    calls = Calls(folder, fatal)
    case.act(folder)
    return calls.seen


def faults_after(case, folder, clean, **options):
    """Run again, and say what is not as after a clean run."""
    try:
        case.act(folder, **options)
        after = case.look(folder)
    except Exception as error:
        return [f"{options}: {type(error).__name__}: {error}"]
    differing = [path for path in sorted(clean.keys() | after) if clean.get(path) != after.get(path)]
    return [f"{options}: {fault}" for fault in (case.fault(folder), *differing) if fault]


def assert_no_kill_matters(case, since, zygote, root):
    """Kill a run before each call, then resume it, and in a copy replace it.

    Labels that were resumed are those of a clean run, byte by byte, and so it is enough to replace the latter.
    Calls before the first one on a path with `since` in it are left out.
    """
    start, folder = root / "start", root / "clean"
    case.prepare(start)
    shutil.copytree(start, folder)
    calls = zygote.run(act_watched, case, folder).result()
    assert not case.fault(folder)
    clean = case.look(folder)
    assert not faults_after(case, folder, clean, resume=True)
    assert not faults_after(case, folder, clean, overwrite=True)
    wrong = {}
    first = next(number for number, call in enumerate(calls) if since in " ".join(call))
    for number in range(first, len(calls)):
        folder, copy = root / str(number), root / f"{number}-copy"
        shutil.copytree(start, folder)
        assert zygote.run(act_watched, case, folder, number).killed, calls[number]
        shutil.copytree(folder, copy)
        faults = [*filter(None, [case.fault_when_killed(folder)])]
        faults += faults_after(case, folder, clean, resume=True) + faults_after(case, copy, clean, overwrite=True)
        if faults:
            wrong[calls[number]] = faults
        shutil.rmtree(folder)
        shutil.rmtree(copy)
    assert {"remove", "rmdir", "rename", "link", "fsync"} == {call[0] for call in calls}
    assert not wrong, wrong
