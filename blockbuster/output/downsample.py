"""Coarser levels of a label image: which voxels a coarse one stands for, and the label that most of
them have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import Box
from blockbuster.kernels.downsample import mode_of_blocks, mode_of_pairs
from blockbuster.kernels.jit import in_native_order

COPIED_VOXELS = 2**20


@dataclass(frozen=True)
class Coarsening:
    """How the voxels of a level are made of those of the next finer one.

    Parameters
    ----------
    fine, coarse : tuple of int
        Shapes of the two levels.
    ratio : tuple of float
        Per axis how many fine voxels a coarse one is long, as the metadata say.

    Examples
    --------
    >>> step = Coarsening((61, 100), (25, 50), (61 / 25, 2.0))
    >>> step.blocks
    (2, 2)
    >>> step.fine_box((slice(20, 30), slice(0, 50)))
    (slice(49, 61, None), slice(0, 100, None))
    """

    fine: tuple[int, ...]
    coarse: tuple[int, ...]
    ratio: tuple[float, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Per axis how many fine voxels vote for a coarse one."""
        return tuple(max(1, round(ratio)) for ratio in self.ratio)

    @property
    def is_even(self) -> bool:
        """Whether the blocks lie side by side, so that any box of whole blocks can be coarsened by
        itself.
        """
        return all(map(self._is_even, range(len(self.fine))))

    def _is_even(self, axis: int) -> bool:
        """Return whether the level is a half (a third, ...) of the finer one, rounded up or down.

        Some writers then state a scale such as 61 / 30. Taken at its word it would shift the last
        blocks by a part of a coarse voxel, and no box could be coarsened without its neighbours.
        """
        block = self.blocks[axis]
        return abs(self.fine[axis] - block * self.coarse[axis]) < block

    def fine_box(self, box: Box) -> Box:
        """Return the fine voxels that a box of coarse ones is made of; it is not empty."""
        starts = [self._starts(axis, part)[[0, -1]] for axis, part in enumerate(box)]
        return tuple(
            slice(int(first), min(int(last) + block, n))
            for (first, last), block, n in zip(starts, self.blocks, self.fine, strict=True)
        )

    def coarse_box(self, box: Box) -> Box:
        """Return the coarse voxels whose blocks begin in a box of whole blocks, perhaps none.

        For levels that are even multiples only.
        """
        return tuple(
            slice(min(-(-part.start // block), n), min(-(-part.stop // block), n))
            for part, block, n in zip(box, self.blocks, self.coarse, strict=True)
        )

    def coarsen(self, labels: np.ndarray, box: Box) -> np.ndarray:
        """Make the coarse labels of a box.

        Parameters
        ----------
        labels : ndarray of int
            The fine labels of ``fine_box(box)``.
        box : tuple of slice
            Of the coarse level.

        Returns
        -------
        ndarray of int
            Each voxel has the label of most voxels of its block, see `vote`.
        """
        fine = self.fine_box(box)
        starts = [self._starts(axis, part) - fine[axis].start for axis, part in enumerate(box)]
        return vote(labels, starts, self.blocks)

    def _starts(self, axis: int, part: slice) -> np.ndarray:
        """Return the first fine voxel of each block; uneven ones lie in the middle of the coarse
        voxel.
        """
        ratio, block = self.ratio[axis], self.blocks[axis]
        if self._is_even(axis):
            return np.arange(part.start, part.stop) * block
        middles = (np.arange(part.start, part.stop) + 0.5) * ratio
        starts = np.floor(middles - block / 2 + 0.5).astype(np.int64)
        return np.clip(starts, 0, self.fine[axis] - 1)


def vote(labels: np.ndarray, starts: Sequence[np.ndarray], blocks: Sequence[int]) -> np.ndarray:
    """Take from each block of voxels the label that most of them have.

    Parameters
    ----------
    labels : ndarray of int
        Labels; 0 is background.
    starts : sequence of ndarray of int
        Per axis the first voxel of each block, 0 or more, in their order. Of a block that goes
        beyond the border those voxels vote that there are.
    blocks : sequence of int
        Per axis the length of a block, in voxels.

    Returns
    -------
    ndarray of int
        One voxel per block. Where as many voxels are background as have a label, the label wins, so
        that what is thin does not fade away; among labels the first in C order.

    Notes
    -----
    About a nanosecond per voxel where a block has one label; the square of a block's voxels where
    it has several.

    Examples
    --------
    >>> labels = np.array([[1, 1, 0, 0], [1, 2, 0, 3], [0, 0, 0, 0]])
    >>> vote(labels, [np.array([0, 2]), np.array([0, 2])], (2, 2))
    array([[1, 0],
           [0, 0]])
    """
    labels = in_native_order(labels)
    out = np.empty([len(first) for first in starts], labels.dtype)
    if not out.size:
        return out
    lengths = zip(starts, blocks, labels.shape, strict=True)
    for group in itertools.product(*(_blocks_by_length(*axis) for axis in lengths)):
        places, cut_blocks = zip(*group, strict=True)
        firsts = [first[place] for first, place in zip(starts, places, strict=True)]
        seen = [slice(first[0], first[-1] + length) for first, length in zip(firsts, cut_blocks, strict=True)]
        target = out[places]
        # The kernels fill rows that lie behind each other.
        voted = target if target.flags.c_contiguous else np.empty_like(target)
        _vote_in_strips(labels[tuple(seen)], [first - first[0] for first in firsts], cut_blocks, voted)
        if voted is not target:
            target[...] = voted
    return out


def _blocks_by_length(starts: np.ndarray, block: int, n: int) -> Iterator[tuple[slice, int]]:
    """Iterate over blocks that follow each other and have equally many of `n` voxels, or one, and
    say how many.

    A voxel that is alone is repeated, and votes as often as there is room: no other along the axis
    competes with it, and halved levels stay in one piece.
    """
    lengths = np.minimum(block, n - starts)
    lengths[lengths == 1] = block
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(starts)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop), int(lengths[start])


def _vote_in_strips(
    labels: np.ndarray, starts: Sequence[np.ndarray], blocks: Sequence[int], out: np.ndarray
) -> None:
    """Vote in a few rows of blocks at a time, so that what is copied stays small."""
    step = max(1, COPIED_VOXELS // (blocks[0] * max(1, labels[:1].size)))
    for begin in range(0, len(out), step):
        rows = starts[0][begin : begin + step]
        part = labels[rows[0] : rows[-1] + blocks[0]]
        _vote(part, [rows - rows[0], *starts[1:]], blocks, out[begin : begin + step])


def _vote(labels: np.ndarray, starts: Sequence[np.ndarray], blocks: Sequence[int], out: np.ndarray) -> None:
    """Vote in labels that are copied where they are cut out of others, or end in a voxel that is
    alone.
    """
    ends = [int(first[-1]) + block for first, block in zip(starts, blocks, strict=True)]
    short = [max(0, end - n) for end, n in zip(ends, labels.shape, strict=True)]
    if any(short):
        labels = np.pad(labels, [(0, n) for n in short], mode="edge")
    labels = np.ascontiguousarray(labels)
    steps = [stride // labels.itemsize for stride in labels.strides]
    offsets = _sums([np.arange(block) * step for block, step in zip(blocks, steps, strict=True)])
    rows = _sums([first * step for first, step in zip(starts[:-1], steps[:-1], strict=True)])
    flat, blocks_out = labels.reshape(-1), out.reshape(len(rows), -1)
    # Each row of blocks is two or four rows of pairs where levels are halved.
    is_paired = labels.itemsize == 4 and labels.shape[-1] % 2 == 0 and blocks[-1] == 2
    pairs = np.arange(0, 2 * len(starts[-1]), 2)
    if is_paired and math.prod(blocks) in (4, 8) and np.array_equal(starts[-1], pairs):
        mode_of_pairs(flat.view(np.uint64), rows // 2, offsets[::2] // 2, blocks_out)
    else:
        mode_of_blocks(flat, rows, _sums(starts[-1:]), offsets, blocks_out)


def _sums(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Add every choice of one number from each part, in C order."""
    total = np.zeros((), np.uint64)
    for part in parts:
        total = total[..., None] + part.astype(np.uint64)
    return total.reshape(-1)
