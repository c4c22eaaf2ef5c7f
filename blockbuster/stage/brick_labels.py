"""A brick on its way to the stage: stretches of its tiles, what touches inside, and what its
neighbours need.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from blockbuster.grid import Index
from blockbuster.kernels.stretches import StretchFinder, StretchGroup, TileStretches
from blockbuster.measure.sums import SumsCollector
from blockbuster.merge.rules import MergeRule
from blockbuster.rundir.sections import SectionWriter
from blockbuster.rundir.staged import StagedLabels
from blockbuster.stage.masks import MaskWatch

# So many voxels are written together, and read together: in noise, a stretch of 12 bytes for each.
# So many tiles at most: each costs a kilobyte until then.
GROUP_VOXELS, GROUP_TILES = 2**21, 2**12


class BrickLabels:
    """Takes what fn returned for the tiles of a brick, in C order.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    brick : tuple of int
        Index of the brick in the label image.
    rule : MergeRule
        The rule that the stage is made for.
    sums : SumsCollector, optional
        Takes what is measured of objects.
    """

    def __init__(
        self, staged: StagedLabels, brick: Index, rule: MergeRule, sums: SumsCollector | None = None
    ) -> None:
        self.n_labels = 0
        self._grid = staged.bricks.grid
        self._sections = SectionWriter()
        self._finder = StretchFinder()
        self._seams = rule.borders.collector(staged, brick)
        self._sums = sums
        self._held: list[tuple[TileStretches, Index, int]] = []
        self._n_groups = self._n_voxels = 0

    def add(self, tile: Index, labels: np.ndarray) -> int:
        """Take what fn returned for a tile with its halo, and say how many labels its core has."""
        own, count = self._seams.take(tile, labels, self.n_labels, self._finder)
        if count:
            self._held.append((own, tile, self.n_labels))
            self.n_labels += count
            self._n_voxels += math.prod(own.shape)
            if self._n_voxels >= GROUP_VOXELS or len(self._held) >= GROUP_TILES:
                self._close_group()
        return count

    def pass_over(self, tile: Index) -> None:
        """Take note of a tile without labels."""
        self._seams.pass_over(tile)

    def close(self) -> None:
        """See the last tiles once more: after that no values are read."""
        if self._held:
            self._close_group()

    def sections(self) -> SectionWriter:
        """Return all that is to be kept of the brick, once its last tile was taken."""
        self.close()
        self._sections.add("groups", np.array(self._n_groups))
        self._seams.write(self._sections)
        if self._sums is not None:
            self._sums.write(self._sections)
        return self._sections

    def _close_group(self) -> None:
        tiles, indices, firsts = zip(*self._held, strict=True)
        numbers = np.ravel_multi_index(np.array(indices).T, self._grid.grid_shape)
        group = StretchGroup.of(tiles, self._grid.cores(numbers))
        self._sections.add_group(f"group-{self._n_groups}", numbers, group)
        self._seams.draw(numbers, group, np.array(firsts), self.n_labels)
        if self._sums is not None:
            self._sums.draw(group, np.array(firsts), self.n_labels)
        self._n_groups += 1
        self._n_voxels = 0
        self._held = []


class BrickResults:
    """Takes the results of fn for the tiles of a brick, in C order, each as `BrickLabels`.

    Parameters
    ----------
    labels_of : callable
        Gives what takes the labels of the result with a number.
    make_watch : callable
        Gives what looks whether a result is a mask.

    Attributes
    ----------
    labels : list of BrickLabels
        One for each result; empty as long as fn returned none.
    """

    def __init__(self, labels_of: Callable[[int], BrickLabels], make_watch: Callable[[], MaskWatch]) -> None:
        self.labels: list[BrickLabels] = []
        self._labels_of, self._make_watch = labels_of, make_watch
        self._watches: list[MaskWatch] = []
        self._counts: list[dict[int, int]] = []
        self._passed: list[Index] = []

    @property
    def in_pieces(self) -> list[bool | None]:
        """For each result whether the one id of a tile falls into pieces."""
        return [watch.in_pieces for watch in self._watches]

    def counts(self, n_tiles: int) -> np.ndarray:
        """How many labels of each result the cores of so many tiles have, (n_results, n_tiles)."""
        found = np.zeros((max(1, len(self._counts)), n_tiles), np.int64)
        for row, counts in zip(found, self._counts, strict=False):
            row[list(counts)] = list(counts.values())
        return found

    def add(self, i: int, tile: Index, results: dict[str, np.ndarray]) -> None:
        """Take what fn returned for the i-th tile of the brick with its halo."""
        if not self.labels:
            self._begin(len(results))
        for own, watch, counts, labels in zip(
            self.labels, self._watches, self._counts, results.values(), strict=True
        ):
            count = own.add(tile, labels)
            if count:
                counts[i] = count
                watch.look(labels, count)

    def _begin(self, n_results: int) -> None:
        self.labels = [self._labels_of(number) for number in range(n_results)]
        self._watches = [self._make_watch() for _ in range(n_results)]
        self._counts = [{} for _ in range(n_results)]
        for passed in self._passed:
            self.pass_over(passed)

    def pass_over(self, tile: Index) -> None:
        """Take note of a tile without labels."""
        if not self.labels:
            self._passed.append(tile)
        for own in self.labels:
            own.pass_over(tile)

    def close(self) -> None:
        """See the last tiles once more: after that no values are read."""
        for own in self.labels:
            own.close()
