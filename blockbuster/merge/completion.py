"""Completion: ends of objects beyond a seam that one tile saw, where the other found background."""

from __future__ import annotations

import functools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from blockbuster.execution import Execution, run_tasks
from blockbuster.grid import Box, BrickGrid, Index, TileGrid, common_box, relative_box
from blockbuster.kernels.stretches import StretchFinder, StretchGroup, TileStretches
from blockbuster.merge.table import BrickIds
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.durable import checksum_files, write_atomically
from blockbuster.rundir.sections import SectionWriter
from blockbuster.rundir.staged import SUFFIX, BrickFile, StagedLabels

COMPLETED = "completed"
# One part in so many of an end, at most, is something else to the tile in which it lies.
MAX_SEEN = 10
OWN = re.compile(rf"(ends|{COMPLETED})-[0-9]+{re.escape(SUFFIX)}")
# Files of ends whose beginnings a task keeps.
FILES_KEPT = 8


@dataclass(frozen=True)
class Ends:
    """Ends of labels of a tile that lie in the core of another one.

    Parameters
    ----------
    tile : int
        Number of the other tile.
    stretches : TileStretches
        What lies there.
    ids : (n + 1,) ndarray of int64
        Ids of the labels for those in the stretches.
    """

    tile: int
    stretches: TileStretches
    ids: np.ndarray


def cut_ends(
    grid: TileGrid, tiles: tuple[Index, Index], stretches: TileStretches, unseen: np.ndarray, first: int
) -> Iterator[Ends]:
    """Cut the ends of labels that another tile did not see out of a tile's stretches.

    Parameters
    ----------
    grid : TileGrid
        The tiles.
    tiles : pair of tuple of int
        Index of the tile, and of the other one.
    stretches : TileStretches
        Labels of the tile with its halo, at least those that touch the seam.
    unseen : (n,) ndarray of int64
        As `compare_pieces` gives them.
    first : int
        What is added to ids.

    Yields
    ------
    Ends
        None for labels that do not touch the other tile's seam, both seams where two tiles meet at
        an edge, in what both tiles see.
    """
    if not len(unseen):
        return
    tile, other = tiles
    both = common_box(grid.region(tile), grid.region(other))
    core = common_box(grid.core(tile), both)
    for axis, (i, j) in enumerate(zip(tile, other, strict=True)):
        if i != j:
            at = core[axis].stop - 1 if j > i else core[axis].start
            face = (*core[:axis], slice(at, at + 1), *core[axis + 1 :])
            unseen = np.intersect1d(unseen, stretches.clipped(face).stretches[:, 2])
    if len(unseen):
        within = stretches.clipped(common_box(grid.core(other), both))
        is_kept = np.zeros(int(within.stretches[:, 2].max()) + 1, bool)
        is_kept[unseen] = True
        ends = within.filtered(is_kept)
        # A tile may have many labels, of which few are unseen.
        lookup, n_ends = ends.numbered(len(is_kept))
        ids = np.zeros(n_ends + 1, np.int64)
        ids[lookup[unseen]] = unseen + first
        yield Ends(grid.number(other), ends, ids)


def add_ends(sections: SectionWriter, ends: Sequence[Ends], name: str = "ends") -> None:
    """Add ends to a file, if there are any, all ids in one table; names of sections begin with
    `name`.
    """
    if not ends:
        return
    counts = np.array([len(end.ids) for end in ends])
    firsts = np.cumsum(counts) - counts
    boxes = np.concatenate([_bounds(end.stretches.box) for end in ends])
    sections.add_group(
        name, np.array([end.tile for end in ends]), StretchGroup.of([end.stretches for end in ends], boxes)
    )
    sections.add(f"{name}-boxes", boxes)
    sections.add(f"{name}-firsts", firsts)
    sections.add(f"{name}-labels", np.concatenate([end.ids for end in ends]))


def read_ends(file: BrickFile, name: str = "ends") -> Iterator[Ends]:
    """Iterate over the ends of a file that were added by that name."""
    if f"{name}-tiles" not in file:
        return
    numbers, group = file.read_group(name, lambda _: file.read(f"{name}-boxes"))
    ids = np.split(file.read(f"{name}-labels"), file.read(f"{name}-firsts")[1:])
    yield from map(Ends, numbers.tolist(), group.tiles(), ids)


@dataclass(frozen=True)
class CompletionJob:
    """What the tasks share that decide which ends complete an object.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    ids : BrickIds
        From ids within a brick to provisional ids.
    arrays : ArrayFolder
        Holds the ends, and takes what completes objects.
    sources : mapping of int to list of int
        Per brick, the files with ends that lie in it.
    """

    staged: StagedLabels
    ids: BrickIds
    arrays: ArrayFolder
    sources: Mapping[int, Sequence[int]]

    @cached_property
    def failed(self) -> frozenset[int]:
        """Numbers of the tiles that failed."""
        return frozenset(self.arrays.load("failed").tolist())

    @cached_property
    def open_ends(self) -> Callable[[int], BrickFile]:
        """Open the ends that a task found: they lie in many bricks, which are completed in turn."""
        return functools.lru_cache(FILES_KEPT)(functools.partial(_open_ends, self.arrays))

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def _open_ends(arrays: ArrayFolder, source: int) -> BrickFile:
    return BrickFile(ends_path(arrays, source), f"ends of task {source}")


def ends_path(arrays: ArrayFolder, source: int) -> str:
    """Return the path of the ends that a task found."""
    return os.path.join(arrays.path, f"ends-{source}{SUFFIX}")


def open_completed(arrays: ArrayFolder, number: int) -> BrickFile:
    """Open what completes objects in a brick: stretches as in the file of a task, and their ids."""
    return BrickFile(_completed_path(arrays, number), f"{COMPLETED} objects of brick {number}")


def _completed_path(arrays: ArrayFolder, number: int) -> str:
    return os.path.join(arrays.path, f"{COMPLETED}-{number}{SUFFIX}")


def write_ends(arrays: ArrayFolder, source: int, ends: Sequence[Ends], bricks: BrickGrid) -> list[int]:
    """Keep the ends that a task found, where every worker sees them; return the bricks they lie
    in.
    """
    by_brick: defaultdict[int, list[Ends]] = defaultdict(list)
    for end in ends:
        by_brick[bricks.number_of_tile(end.tile)].append(end)
    sections = SectionWriter()
    for number, within in by_brick.items():
        add_ends(sections, within, _ends_name(number))
    if by_brick:
        write_atomically(ends_path(arrays, source), sections.to_bytes())
    return sorted(by_brick)


def _ends_name(number: int) -> str:
    """Name the ends that lie in a brick: no task reads those of others."""
    return f"ends-{number}"


def complete_objects(
    staged: StagedLabels,
    ids: BrickIds,
    arrays: ArrayFolder,
    execution: Execution,
    reached: Mapping[int, Sequence[int]],
) -> int:
    """Decide which ends complete an object, and keep them brick by brick.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    ids : BrickIds
        From ids within a brick to provisional ids.
    arrays : ArrayFolder
        Holds the ends, which are removed, and takes what completes objects.
    execution : Execution
        Where to run.
    reached : mapping of int to sequence of int
        Per brick in which ends lie, the tasks that found them.

    Returns
    -------
    int
        How many ends there are that complete an object.
    """
    kept = [np.empty((0, 3), np.int64)]

    def take(completed: tuple[int, int, int]) -> None:
        if completed[1]:
            kept.append(np.array([completed]))

    job = CompletionJob(staged, ids, arrays, reached)
    run_tasks(execution, complete_brick, job, sorted(reached), directory=arrays.path, on_result=take)
    found = np.concatenate(kept)
    arrays.save(COMPLETED, found[np.argsort(found[:, 0])])
    _remove_others(arrays, found[:, 0].tolist())
    return int(found[:, 1].sum())


def _remove_others(arrays: ArrayFolder, numbers: Sequence[int]) -> None:
    """Remove all ends, and what completes objects in other bricks than these: an earlier run that
    was stopped may have left some.
    """
    own = {os.path.basename(_completed_path(arrays, number)) for number in numbers}
    for path in Path(arrays.path).iterdir():
        if OWN.fullmatch(path.name) and path.name not in own:
            path.unlink(missing_ok=True)


def completed_bricks(arrays: ArrayFolder) -> frozenset[int]:
    """Return the numbers of the bricks in which something completes an object."""
    return frozenset(arrays.load(COMPLETED)[:, 0].tolist())


def is_kept(arrays: ArrayFolder) -> bool:
    """Return whether all that `complete_objects` kept is still whole."""
    return all(_checksum(arrays, number) == crc for number, _, crc in arrays.load(COMPLETED).tolist())


def _checksum(arrays: ArrayFolder, number: int) -> int:
    return int(checksum_files([_completed_path(arrays, number)]) or "-1", 16)


def complete_brick(job: CompletionJob, number: int) -> tuple[int, int, int]:
    """Decide which ends complete an object, of those that lie in a brick, and keep them in a file.

    Returns
    -------
    number, n_ends, checksum : int
        The brick, how many complete an object, and the checksum of the file, if there is one.
    """
    grid = job.staged.bricks.grid
    ends: defaultdict[int, list[Ends]] = defaultdict(list)
    for source in job.sources[number]:
        for end in read_ends(job.open_ends(source), _ends_name(number)):
            if end.tile not in job.failed:
                ends[end.tile].append(end)
    finder, found = StretchFinder(), []
    for tile, background in _backgrounds(job, number, set(ends)):
        core = grid.core(grid.index(tile))
        filled, ids = fill_background(background, core, ends[tile], finder)
        if len(ids):
            found.append((tile, filled, ids))
    if not found:
        return number, 0, 0
    numbers, stretches, ids_of_tiles = zip(*sorted(found, key=itemgetter(0)), strict=True)
    counts = np.array(list(map(len, ids_of_tiles)))
    sections = SectionWriter()
    sections.add("groups", np.array(1))
    sections.add_group("group-0", np.array(numbers), StretchGroup.of(stretches, grid.cores(np.array(numbers))))
    sections.add("firsts", np.cumsum(counts) - counts)
    sections.add("ids", np.concatenate(ids_of_tiles))
    write_atomically(_completed_path(job.arrays, number), sections.to_bytes())
    return number, int(counts.sum()), _checksum(job.arrays, number)


def _backgrounds(job: CompletionJob, number: int, tiles: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over some tiles of a brick, and where each of them found background."""
    staged, grid, index = job.staged, job.staged.bricks.grid, job.staged.bricks.index(number)
    left = set(tiles)
    if n_labels := job.ids.n_labels(index):
        table = np.ones(n_labels + 1, np.int32)
        for numbers, group in staged.open_brick(index).read_groups(grid.cores, staged.bricks.core(index)):
            firsts = job.ids.firsts(index, numbers)
            for k in np.flatnonzero(np.isin(numbers, list(tiles))).tolist():
                yield int(numbers[k]), group.dense(k, firsts, table) == 0
                left.remove(int(numbers[k]))
    for tile in left:
        yield tile, np.ones([part.stop - part.start for part in grid.core(grid.index(tile))], bool)


def fill_background(
    background: np.ndarray, core: Box, ends: Sequence[Ends], finder: StretchFinder
) -> tuple[TileStretches, np.ndarray]:
    """Fill the background of a tile with the ends of objects.

    Parameters
    ----------
    background : ndarray of bool
        Of the tile's core.
    core : tuple of slice
        Where it lies, in voxels of the image.
    ends : sequence of Ends
        In this tile; of each label one at most.
    finder : StretchFinder
        Finds the stretches of what is filled in.

    Returns
    -------
    filled : TileStretches
        What is filled in, with the numbers of ends from 1 in the order in which they are met.
    ids : (n,) ndarray of int64
        Their ids.

    Notes
    -----
    An end is filled in where the tile found background, if that is nearly all of it: around an
    object that the tile sees as a smaller one it would be a ring. Where two want a voxel, the one
    that misses more voxels has it; of equal ones, that of the smaller id.
    """
    ids = np.concatenate([end.ids for end in ends])
    firsts = np.cumsum([0, *(len(end.ids) for end in ends[:-1])])
    n_voxels, n_missing = np.zeros((2, len(ids)), np.int64)
    for labels, within in _dense_ends(ends, firsts, core):
        n_voxels += np.bincount(labels.ravel(), minlength=len(ids))
        n_missing += np.bincount(labels[background[within]], minlength=len(ids))
    is_filled = (n_missing > 0) & (MAX_SEEN * (n_voxels - n_missing) <= n_voxels)
    is_filled[0] = False
    order = np.lexsort((ids, -n_missing))
    order = order[is_filled[order]]
    # The larger, the rather it has a voxel; 0 where there is no end.
    ranks = np.zeros(len(ids), np.int32)
    ranks[order] = np.arange(len(order), 0, -1)
    best = np.zeros(background.shape, np.int32)
    for labels, within in _dense_ends(ends, firsts, core):
        part = best[within]
        np.maximum(part, ranks[labels], out=part, where=background[within])
    filled, _ = finder.find(best, core)
    met = np.unique(filled.stretches[:, 2], return_index=True)[1]
    rows = np.searchsorted(filled.rows, met, side="right") - 1
    ranks_met = best.reshape(len(filled.rows) - 1, -1)[rows, filled.stretches[met, 0]]
    return filled, ids[order[len(order) - ranks_met]]


def _dense_ends(ends: Sequence[Ends], firsts: np.ndarray, core: Box) -> Iterator[tuple[np.ndarray, Box]]:
    """Iterate over ends as places among all ids, voxel by voxel, and where in the core they lie."""
    for end, first in zip(ends, firsts.tolist(), strict=True):
        group = StretchGroup.of([end.stretches], _bounds(end.stretches.box))
        table = np.arange(first, first + len(end.ids), dtype=np.int32)
        yield group.dense(0, np.zeros(1, np.int64), table), relative_box(end.stretches.box, core)


def _bounds(box: Box) -> np.ndarray:
    return np.array([[(part.start, part.stop) for part in box]], np.int64)
