"""What a brick learns of its seams while its labels are in memory: pairs inside, and what its neighbours need."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from blockbuster.grid import Index, TileGrid
from blockbuster.rundir.staged import Sidecar, StagedLabels
from blockbuster.seams.agreement import Agreements, TilePairs, compare_pieces
from blockbuster.seams.pairs import collect_inner_pairs
from blockbuster.seams.runs import LabelRuns, find_border_runs
from blockbuster.seams.strips import cut_strip, pack_strips

__all__ = ["BrickBorders", "brick_borders"]

Side = tuple[int, int]


class BrickBorders(Protocol):
    """Takes the tiles of a brick one by one."""

    def add(self, tile: Index, labels: np.ndarray, ids: np.ndarray, first: int) -> None:
        """Take what fn returned for a tile with its halo, and the ids of its core, larger than `first`."""

    def pass_over(self, tile: Index) -> None:
        """Take note of a tile without labels."""

    def sidecar(self, labels: np.ndarray, counts: np.ndarray) -> Sidecar:
        """Give what the merge must know, from the ids of the brick and the number of labels per tile."""


def brick_borders(staged: StagedLabels, brick: Index) -> BrickBorders:
    """Begin a brick of the label image."""
    if staged.min_agreement is None:
        return _TouchingBorders(staged, brick)
    return _AgreeingBorders(staged, brick)


@dataclass(frozen=True)
class _TouchingBorders:
    """For labels that are joined where they touch, the outermost planes of the brick are all there is to know."""

    staged: StagedLabels
    brick: Index

    def add(self, tile: Index, labels: np.ndarray, ids: np.ndarray, first: int) -> None:
        pass

    def pass_over(self, tile: Index) -> None:
        pass

    def sidecar(self, labels: np.ndarray, counts: np.ndarray) -> Sidecar:
        staged, bricks = self.staged, self.staged.bricks
        seams = [bricks.inner_seams(self.brick, axis) for axis in range(labels.ndim)]
        pairs = collect_inner_pairs(labels, seams, staged.merge_axes, staged.connectivity)
        planes = {
            (axis, side): labels.take([-side], axis)
            for axis in staged.merge_axes
            for side in (0, 1)
            if bricks.has_neighbour(self.brick, axis, side)
        }
        return Sidecar(counts, pairs, planes)


@dataclass(frozen=True)
class _AgreeingBorders:
    """Labels that must agree are compared as soon as both tiles are there; a tile is kept no longer than that."""

    staged: StagedLabels
    brick: Index
    waiting: dict[Index, tuple[LabelRuns, int]] = field(default_factory=dict)
    leaving: dict[Index, list[Index]] = field(default_factory=dict)
    found: list[np.ndarray] = field(default_factory=list)
    strips: dict[Side, dict[int, LabelRuns]] = field(default_factory=dict)

    @property
    def grid(self) -> TileGrid:
        return self.staged.bricks.grid

    @cached_property
    def tile_pairs(self) -> TilePairs:
        return TilePairs(self.grid, self.staged.merge_axes, self.staged.connectivity)

    def add(self, tile: Index, labels: np.ndarray, ids: np.ndarray, first: int) -> None:
        grid = self.grid
        runs = find_border_runs(labels, ids, first, grid.region(tile), grid.core(tile), self._depths(tile))
        for step in self.tile_pairs.steps:
            before = tuple([i - d for i, d in zip(tile, step, strict=True)])
            if before in self.waiting:
                self._compare(before, step, runs, first)
        for side in self._outer_sides(tile):
            strip = cut_strip(runs, grid, tile, *side)
            if len(strip.runs):
                self.strips.setdefault(side, {})[grid.number(tile)] = strip
        self.pass_over(tile)
        last = self._last_neighbour(tile)
        if last > tile:
            self.waiting[tile] = runs, first
            self.leaving.setdefault(last, []).append(tile)

    def pass_over(self, tile: Index) -> None:
        """Forget the tiles whose last neighbour in the brick this one is."""
        for before in self.leaving.pop(tile, ()):
            del self.waiting[before]

    def sidecar(self, labels: np.ndarray, counts: np.ndarray) -> Sidecar:
        found = Agreements.of_pieces(self.found)
        bricks = self.staged.bricks
        borders = {
            (axis, side): pack_strips(self.strips.get((axis, side), {}))
            for axis in self.staged.merge_axes
            for side in (0, 1)
            if bricks.has_neighbour(self.brick, axis, side)
        }
        return Sidecar(counts, found.pairs, borders, found.values, found.voxels)

    def _depths(self, tile: Index) -> list[tuple[int, int]]:
        """Per axis how far the neighbours see into the tile."""
        depths = []
        for axis, halo in enumerate(self.grid.halo):
            sides = [
                axis in self.staged.merge_axes and self.grid.has_neighbour(tile, axis, side) for side in (0, 1)
            ]
            depths.append((sides[0] * max(1, halo), sides[1] * max(1, halo)))
        return depths

    def _compare(self, tile: Index, step: Index, other: LabelRuns, other_first: int) -> None:
        runs, first = self.waiting[tile]
        found = compare_pieces(self.tile_pairs.of(tile, step), runs, other, self.tile_pairs.strides)
        if len(found):
            found[:, 0] += first
            found[:, 1] += other_first
            self.found.append(found)

    def _outer_sides(self, tile: Index) -> list[Side]:
        """Sides on which the tile has a neighbour in another brick."""
        tiles = self.staged.bricks.tiles(self.brick)
        return [
            (axis, side)
            for axis in self.staged.merge_axes
            for side in (0, 1)
            if tile[axis] == (tiles[axis].stop - 1 if side else tiles[axis].start)
            and self.grid.has_neighbour(tile, axis, side)
        ]

    def _last_neighbour(self, tile: Index) -> Index:
        """The tile of the brick after which this one is not needed any more."""
        tiles = self.staged.bricks.tiles(self.brick)
        for step in reversed(self.tile_pairs.steps):
            other = tuple([i + d for i, d in zip(tile, step, strict=True)])
            if all(part.start <= i < part.stop for i, part in zip(other, tiles, strict=True)):
                return other
        return tile
