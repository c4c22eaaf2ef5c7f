"""The merge: seams to one table, the table to final labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from blockbuster.execution import Execution, run_tasks
from blockbuster.grid import TileGrid
from blockbuster.kernels.components import join_pairs
from blockbuster.kernels.pairs import NO_PAIRS
from blockbuster.merge.completion import complete_objects
from blockbuster.merge.contradictions import cut_contradictions, find_apart
from blockbuster.merge.matching import NO_RANKS, MatchJob, MatchResult, match_bricks
from blockbuster.merge.remap import FinalLabels, LabelTarget, RemapJob, remap_box, remap_boxes, verify_box
from blockbuster.merge.rules import MergeRule, rule_of
from blockbuster.merge.runaway import ObjectSizes, describe_runaway, may_run_away, object_sizes
from blockbuster.merge.table import BrickIds, RemapTable
from blockbuster.merge.tally import SeamTally
from blockbuster.report import DoubtfulPair, SeamCounts, SeamReport
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels


class BoxesJob(Protocol):
    """What tasks share that write boxes to a target."""

    @property
    def boxes(self) -> TileGrid:
        """One box per task."""

    @property
    def target(self) -> LabelTarget:
        """Where they are written to."""


@dataclass(frozen=True)
class SeamMatch:
    """Summary of the seams.

    Parameters
    ----------
    rule : MergeRule
        How labels were joined.
    table : RemapTable
        Final ids of all provisional ids.
    tally : SeamTally
        Pairs that touch, are joined and are refused.
    sizes : ObjectSizes
        What the objects that cross a seam are made of.
    weakest : float
        How good the weakest join is of the object of most labels; 0 where that is not known.
    """

    rule: MergeRule
    table: RemapTable
    tally: SeamTally
    sizes: ObjectSizes
    weakest: float = 0.0

    def _counts(self, staged: StagedLabels) -> SeamCounts | None:
        if not self.rule.looks_beyond_pairs:
            return None
        grid, tally = staged.bricks.grid, self.tally
        halos = [grid.halo[axis] for axis in staged.merge_axes if grid.grid_shape[axis] > 1]
        numbers = self.table.n_objects, len(self.sizes.ids), tally.alike, tally.unlike, tally.completed
        return SeamCounts(*numbers, halo=min(halos, default=0))

    def _doubtful(self, shape: tuple[int, ...]) -> list[DoubtfulPair]:
        found = []
        for _, voxel, one, other, agreement in self.tally.doubtful:
            labels = self.table.final_ids(np.array([one, other])).tolist()
            at = [int(i) for i in np.unravel_index(voxel, shape)]
            found.append(DoubtfulPair(labels, at, agreement))
        return found

    def report(self, staged: StagedLabels, axes: str | None) -> SeamReport:
        """Say it in the names of the axes, for those who read the labels."""
        names = list(axes or (f"axis {axis}" for axis in range(staged.bricks.grid.ndim)))
        counted, worst = self.tally.named(names)
        return SeamReport(
            self.rule.name,
            self.rule.threshold,
            counted,
            len(self.sizes.ids),
            _median_and_largest(self.sizes.n_labels),
            _median_and_largest(self.sizes.n_tiles),
            worst,
            self._doubtful(staged.bricks.grid.shape),
            describe_runaway(self.sizes, self.table.n_objects, self.rule.runaway_cure, self.weakest),
            self.tally.contradictions,
            self.tally.completed,
            self._counts(staged),
            self.rule.joins_any,
        )


def _weakest_join(
    border: np.ndarray, roots: np.ndarray, pairs: np.ndarray, ranks: np.ndarray, sizes: ObjectSizes
) -> float:
    """Return the least rank of a join of the object of most labels; 0 where that is not known."""
    if not len(ranks):
        return 0.0
    largest = sizes.ids[np.argmax(sizes.n_labels)]
    members = border[roots == largest]
    inside = np.isin(pairs[:, 0], members) & np.isin(pairs[:, 1], members)
    return float(ranks[inside].min())


def _save_weakest(
    arrays: ArrayFolder, border: np.ndarray, roots: np.ndarray, pairs: np.ndarray, agreement: np.ndarray
) -> None:
    """Keep, for each object that was joined, how far tiles agree where they agree least."""
    found = roots[np.searchsorted(border, pairs[:, 0])]
    ids, places = np.unique(found, return_inverse=True)
    weakest = np.full(len(ids), np.inf, np.float32)
    np.minimum.at(weakest, places, agreement)
    arrays.save("weakest_ids", ids)
    arrays.save("weakest", weakest)


def _median_and_largest(counts: np.ndarray) -> list[float]:
    return [float(np.median(counts)), float(counts.max())] if len(counts) else []


def match_seams(
    staged: StagedLabels,
    arrays: ArrayFolder,
    execution: Execution,
    *,
    rule: MergeRule | None = None,
    sequential: bool = False,
    on_done: Callable[[int], Any] = bool,
) -> SeamMatch:
    """Join the labels that touch across seams, and keep the remap table.

    Parameters
    ----------
    staged : StagedLabels
        A stage whose bricks are finished; it is only read.
    arrays : ArrayFolder
        Holds ``counts``, the labels per tile; takes the remap table.
    execution : Execution
        Where to run.
    rule : MergeRule, optional
        How labels are joined; ``None``: as the stage was made for.
    sequential : bool
        Number objects 1..N.
    on_done : callable
        Called with a number of tiles as they are done.

    Returns
    -------
    SeamMatch
        The table, and a summary of the seams.

    Notes
    -----
    Reads border planes, or halo strips, only. Memory grows with the number of labels that touch a
    seam.
    """
    ids = BrickIds.from_counts(staged.bricks, arrays.load("counts"))
    arrays.save("offsets", ids.offsets)
    tally = SeamTally.empty(staged.bricks.grid.ndim)
    found, ranked, agreed = [NO_PAIRS.astype(ids.dtype)], [NO_RANKS], [NO_RANKS]
    reached: dict[int, list[int]] = {}

    def collect(matched: MatchResult) -> None:
        found.append(matched.pairs)
        ranked.append(matched.ranks)
        agreed.append(matched.agreement)
        tally.add(matched.tally)
        for brick in matched.reached:
            reached.setdefault(brick, []).append(matched.number)
        on_done(matched.n_tiles)

    rule = rule or rule_of(staged)
    if rule.joins_any and staged.merge_axes:
        job = MatchJob.for_workers(staged, ids, arrays, rule, execution.n_workers)
        run_tasks(execution, match_bricks, job, range(job.n_tasks), directory=arrays.path, on_result=collect)
    else:
        on_done(staged.bricks.grid.n_tiles)
    pairs, ranks, agreement = (np.concatenate(held) for held in (found, ranked, agreed))
    for held in (found, ranked, agreed):
        held.clear()
    border, roots = join_pairs(pairs)
    if not rule.looks_beyond_pairs:
        # Counting takes as much memory again, and nothing more is asked of them.
        pairs = NO_PAIRS
    sizes = object_sizes(border, roots, ids)
    mixed = sizes.ids[sizes.n_labels > sizes.n_tiles]
    if rule.looks_beyond_pairs and len(mixed):
        chosen = np.isin(roots, mixed)
        apart = find_apart(staged, ids, arrays, execution, border[chosen], roots[chosen])
        if len(apart):
            roots, is_refused = cut_contradictions(border, roots, pairs, ranks, apart)
            tally.refuse(pairs[is_refused], ids)
            pairs, ranks, agreement = pairs[~is_refused], ranks[~is_refused], agreement[~is_refused]
            sizes = object_sizes(border, roots, ids)
    weakest = _weakest_join(border, roots, pairs, ranks, sizes) if may_run_away(sizes) else 0.0
    _save_weakest(arrays, border, roots, pairs, agreement)
    del pairs, ranks, agreement
    tally.completed = complete_objects(staged, ids, arrays, execution, reached)
    # One that keeps its id need not be looked up.
    is_absorbed = border != roots
    table = RemapTable(border[is_absorbed], roots[is_absorbed], int(ids.counts.sum()), sequential)
    table.save(arrays)
    return SeamMatch(rule, table, tally, sizes, weakest)


def write_final_labels(
    labels: FinalLabels,
    target: LabelTarget,
    shard: tuple[int, ...],
    execution: Execution,
    *,
    written: dict[int, str] | None = None,
    on_box: Callable[[int, str], Any] | None = None,
    on_done: Callable[[int], Any] = bool,
) -> None:
    """Write the labels of a stage with their final ids, each shard once, by one task.

    Parameters
    ----------
    labels : FinalLabels
        A stage whose seams are matched, and what `match_seams` kept; both are only read.
    target : LabelTarget
        Where final labels go; background is not written.
    shard : tuple of int
        What the target stores as one piece.
    execution : Execution
        Where to run.
    written : dict, optional
        Boxes that an earlier run wrote, with their checksums; those that are still whole are left
        alone.
    on_box : callable, optional
        Called with the number and the checksum of each box that was written.
    on_done : callable
        Called with a number of tiles as they are done.
    """
    boxes = remap_boxes(labels.staged.bricks, shard)
    write_boxes(
        remap_box,
        RemapJob(labels, boxes, shard, target),
        execution,
        labels.arrays.path,
        written=written,
        on_box=on_box,
        on_done=lambda number: on_done(
            _tiles_starting_in(boxes.core(boxes.index(number)), labels.staged.bricks.grid)
        ),
    )


def write_boxes(
    function: Callable[[Any, int], tuple[int, str]],
    job: BoxesJob,
    execution: Execution,
    directory: str,
    *,
    written: dict[int, str] | None = None,
    on_box: Callable[[int, str], Any] | None = None,
    on_done: Callable[[int], Any] = bool,
) -> None:
    """Write every box of a target by one task, but for those that an earlier run wrote and that are
    still whole.

    Parameters
    ----------
    function : callable
        ``(job, number) -> (number, checksum)``: writes a box.
    job : BoxesJob
        What the tasks share: at least the boxes, and where they are written to.
    execution : Execution
        Where to run.
    directory : str
        A directory that every worker sees.
    written : dict, optional
        Boxes that an earlier run wrote, with their checksums.
    on_box : callable, optional
        Called with the number and the checksum of each box that was written.
    on_done : callable
        Called with the number of each box that is there.
    """
    finished: set[int] = set()

    def take_verified(verified: tuple[int, bool]) -> None:
        if verified[1]:
            finished.add(verified[0])
            on_done(verified[0])

    def take(result: tuple[int, str]) -> None:
        if on_box is not None:
            on_box(*result)
        on_done(result[0])

    known = {number: checksum for number, checksum in (written or {}).items() if number < job.boxes.n_tiles}
    verify = job.boxes, job.target, known
    run_tasks(execution, verify_box, verify, sorted(known), directory=directory, on_result=take_verified)
    numbers = [number for number in range(job.boxes.n_tiles) if number not in finished]
    if known:
        # Not a task's work: one that runs twice would remove what has been written since.
        for number in numbers:
            job.target.clear(job.boxes.core(job.boxes.index(number)))
    run_tasks(execution, function, job, numbers, directory=directory, on_result=take)


def _tiles_starting_in(box: tuple[slice, ...], grid: TileGrid) -> int:
    """Count the tiles whose first voxel lies in a box: every tile is counted in one box."""
    counts = [
        int(np.searchsorted(edges[:-1], part.stop) - np.searchsorted(edges[:-1], part.start))
        for part, edges in zip(box, grid.edges, strict=True)
    ]
    return int(np.prod(counts, dtype=np.int64))
