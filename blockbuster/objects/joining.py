"""Tasks that join the outlines of some labels from all bricks, and write their features."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from blockbuster.objects import geojson, geoparquet
from blockbuster.objects.measurements import Measurements
from blockbuster.objects.outlines import Chains, brick_file, join_outlines
from blockbuster.objects.positions import Positions
from blockbuster.objects.simplifying import simplify_outlines
from blockbuster.objects.tracing import Traced
from blockbuster.rundir.durable import replaced_file
from blockbuster.rundir.failpoints import reach

FORMATS: dict[str, ModuleType] = {"geojson": geojson, "geoparquet": geoparquet}
# Of the objects that one task joins, rather than of fewer.
JOINED_VERTICES = 2**20


@dataclass(frozen=True)
class JoinJob:
    """What the tasks share that write features.

    Parameters
    ----------
    folder : str
        Has the files of the bricks, and takes one for each task.
    lasts : (n_tasks,) ndarray of int64
        The largest label of each task; the least one comes after that of the task before.
    bricks : (n_bricks, 3) ndarray of int64
        Number, least and largest label of each brick with outlines.
    format : str
        A name of `FORMATS`.
    positions : Positions
        Where corners of voxels are.
    tolerance : float
        How far outlines may be from those of the voxels.
    measurements : Measurements or None
        Joined by label.
    """

    folder: str
    lasts: np.ndarray
    bricks: np.ndarray
    format: str
    positions: Positions
    tolerance: float
    measurements: Measurements | None


@dataclass(frozen=True)
class Joined:
    """What the process that drives knows of some objects.

    Parameters
    ----------
    number : int
        The task.
    n_objects : int
        How many.
    box : list of float
        Least x and y, largest x and y; empty without objects.
    n_multiple : int
        How many have several parts.
    """

    number: int
    n_objects: int
    box: list[float]
    n_multiple: int


def cut_labels(traced: list[Traced]) -> np.ndarray:
    """Cut the labels into ranges of about equally many vertices; return the last label of each."""
    labels = np.concatenate([np.empty(0, np.int64), *(one.labels for one in traced)])
    weights = np.concatenate([np.empty(0, np.int64), *(one.weights for one in traced)])
    order = np.argsort(labels, kind="stable")
    parts = np.cumsum(weights[order]) // JOINED_VERTICES
    is_begin = np.append(False, parts[1:] != parts[:-1]) if len(parts) else np.empty(0, bool)
    return np.unique(np.append(labels[order][is_begin], labels.max(initial=0)))


def join_objects(job: JoinJob, number: int) -> Joined:
    """Join the outlines of some labels, and write their features."""
    low, high = int(job.lasts[number - 1]) + 1 if number else 0, int(job.lasts[number])
    is_there = (job.bricks[:, 1] <= high) & (job.bricks[:, 2] >= low)
    files = [brick_file(job.folder, int(brick)) for brick in job.bricks[is_there, 0]]
    outlines = join_outlines(Chains.concatenate(Chains.load(file, low, high) for file in files))
    columns: dict[str, Any] = {"area": np.ma.MaskedArray(outlines.areas)}
    if job.measurements is not None:
        columns |= job.measurements.read(outlines.labels)
    if job.tolerance:
        outlines = simplify_outlines(outlines, job.tolerance)
    path = part_file(job.folder, number)
    with replaced_file(path, 32 * len(outlines.vertices)) as file:
        FORMATS[job.format].encode(outlines, columns, job.positions, file)
    reach("part written")
    n_multiple = int((np.diff(outlines.polygons) > 1).sum())
    return Joined(number, len(outlines.labels), _bounds(outlines.boxes, job.positions), n_multiple)


def _bounds(boxes: np.ndarray, positions: Positions) -> list[float]:
    """Return the least x and y, the largest x and y, of some boxes."""
    if not len(boxes):
        return []
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    ends = [
        [float(line.positions(int(corner), int(corner))[0]) for corner in (low[k], high[k])]
        for k, line in enumerate((positions.x, positions.y))
    ]
    return [*map(min, ends), *map(max, ends)]


def part_file(folder: str, number: int) -> str:
    """Return the path of the features that a task writes."""
    return os.path.join(folder, f"{number}.features")
