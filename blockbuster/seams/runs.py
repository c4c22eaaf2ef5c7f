"""Label runs: the labels of a tile near its seams, as stretches along the last axis."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Box, Index, relative_box
from blockbuster.seams.labels import as_dense
from blockbuster.seams.run_kernels import clip_runs, find_runs, note_ids

__all__ = ["LabelRuns", "find_border_runs", "row_numbers"]

FIRST_RUNS_PER_ROW = 4


@dataclass(frozen=True)
class LabelRuns:
    """Labels of a box of voxels, row by row.

    Parameters
    ----------
    box : tuple of slice
        The box in voxels of the image.
    rows : (n_rows + 1,) ndarray of int64
        Where the runs of each row begin; rows are counted in C order.
    runs : (n, 3) ndarray of int32
        Start and stop along the last axis, from the box's origin, and id.

    Examples
    --------
    >>> runs = LabelRuns((slice(0, 6),), np.array([0, 2]), np.array([[0, 2, 7], [3, 6, 9]], np.int32))
    >>> runs.clipped((slice(1, 4),)).runs.tolist()
    [[0, 1, 7], [2, 3, 9]]
    """

    box: Box
    rows: np.ndarray
    runs: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple([part.stop - part.start for part in self.box])

    def seen(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Give what kernels take of a box inside this one: rows and runs, the box's rows, and its window."""
        ends = [(cut.start - own.start, cut.stop - own.start) for cut, own in zip(box, self.box, strict=True)]
        return self.rows, self.runs, *_rows_and_window(self.shape, tuple(ends))

    def clipped(self, box: Box) -> LabelRuns:
        """Cut the runs down to a box inside this one."""
        whole_rows, whole_runs, taken, window = self.seen(box)
        rows, runs = np.empty(len(taken) + 1, np.int64), np.empty_like(whole_runs)
        n = clip_runs((whole_rows, whole_runs), taken, window, rows, runs)
        return LabelRuns(box, rows, runs[:n])

    def filtered(self, is_kept: np.ndarray) -> LabelRuns:
        """Keep the runs for which ``is_kept[id]`` holds."""
        keep = is_kept[self.runs[:, 2]]
        return LabelRuns(self.box, np.concatenate([[0], np.cumsum(keep)])[self.rows], self.runs[keep])


@functools.lru_cache(maxsize=256)
def _rows_and_window(shape: Index, ends: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Give rows and window of a part of a box; most tiles of a grid show the same to each other."""
    return row_numbers(shape, [slice(*pair) for pair in ends]), np.array(ends[-1])


def row_numbers(shape: Sequence[int], part: Sequence[slice]) -> np.ndarray:
    """Number the rows of a part of a box, in C order, as rows of the box.

    Examples
    --------
    >>> row_numbers((3, 4, 9), (slice(1, 3), slice(2, 4), slice(0, 9))).tolist()
    [6, 7, 10, 11]
    """
    numbers = np.zeros(1, np.int64)
    for length, cut in zip(shape[:-1], part[:-1], strict=True):
        numbers = (numbers[:, None] * length + np.arange(cut.start, cut.stop)).ravel()
    return numbers


def find_border_runs(
    labels: np.ndarray, ids: np.ndarray, first: int, region: Box, core: Box, depths: Sequence[tuple[int, int]]
) -> LabelRuns:
    """Find, near a tile's borders, the runs of the labels that touch one of them.

    Parameters
    ----------
    labels : ndarray of integers
        What fn returned for the tile with its halo.
    ids : ndarray of unsigned int
        The ids of the core; the tile's own are larger than `first`.
    first : int
        What is subtracted from ids: those of the runs begin at 1.
    region, core : tuple of slice
        The tile with and without its halo, in voxels of the image.
    depths : sequence of (low, high)
        Per axis how far from the border the neighbour on either side sees into the core; 0 where there is
        no neighbour.

    Returns
    -------
    LabelRuns
        Without labels that touch no border, and without what is farther from all borders than the depths.

    Notes
    -----
    One pass over the tile without its middle.
    """
    labels, largest = as_dense(labels)
    inner = relative_box(core, region)
    core_labels = labels[inner]
    lookup = np.zeros(largest + 1, np.int32)
    for axis, sides in enumerate(depths):
        for side in (0, 1):
            if sides[side]:
                face = (*[slice(None)] * axis, -side)
                note_ids(np.ravel(core_labels[face]), np.ravel(ids[face]) - np.int64(first), lookup)
    return _find_runs(labels, lookup, _middle(labels.shape, inner, depths), region)


def _middle(shape: Sequence[int], inner: Box, depths: Sequence[tuple[int, int]]) -> Box:
    """What no neighbour sees, from the region's origin; empty where there is nothing of the kind."""
    middle = tuple(
        slice(part.start + low if low else 0, part.stop - high if high else length)
        for length, part, (low, high) in zip(shape, inner, depths, strict=True)
    )
    return middle if all(part.start < part.stop for part in middle) else (slice(0, 0),) * len(middle)


def _find_runs(labels: np.ndarray, lookup: np.ndarray, middle: Box, region: Box) -> LabelRuns:
    is_inner = np.zeros(labels.shape[:-1], bool)
    is_inner[middle[:-1]] = middle[-1].start < middle[-1].stop
    window = np.array([middle[-1].start, middle[-1].stop])
    flat = labels.reshape(-1, labels.shape[-1])
    rows = np.empty(len(flat) + 1, np.int64)
    n = FIRST_RUNS_PER_ROW * len(flat)
    while True:
        runs = np.empty((n, 3), np.int32)
        n = find_runs(flat, lookup, np.ravel(is_inner), window, rows, runs)
        if n <= len(runs):
            # A copy, so that what was too much is given back.
            return LabelRuns(region, rows, runs[:n].copy())
