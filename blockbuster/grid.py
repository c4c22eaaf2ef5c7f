"""The tile grid and its bricks: integers only, no input or output."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Index = tuple[int, ...]
Box = tuple[slice, ...]


def relative_box(part: Sequence[slice], whole: Sequence[slice]) -> Box:
    """Count a box from the origin of another.

    Examples
    --------
    >>> relative_box((slice(12, 15),), (slice(10, 20),))
    (slice(2, 5, None),)
    """
    pairs = zip(part, whole, strict=True)
    return tuple([slice(cut.start - own.start, cut.stop - own.start) for cut, own in pairs])


def common_box(one: Sequence[slice], other: Sequence[slice]) -> Box:
    """Return what two boxes have in common; along an axis where that is nothing, the stop is not
    after the start.

    Examples
    --------
    >>> common_box((slice(0, 8), slice(0, 8)), (slice(4, 12), slice(2, 6)))
    (slice(4, 8, None), slice(2, 6, None))
    """
    pairs = zip(one, other, strict=True)
    return tuple([slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs])


class _Grid:
    """Tiles or bricks, numbered in C order."""

    @property
    def grid_shape(self) -> Index:
        raise NotImplementedError

    def index(self, number: int) -> Index:
        """Return the index of the element with this number; quicker than NumPy for one."""
        index, rest = [], int(number)
        for length in reversed(self.grid_shape):
            rest, i = divmod(rest, length)
            index.append(i)
        return tuple(reversed(index))

    def number(self, index: Index) -> int:
        """Return the number of the element with this index."""
        number = 0
        for i, length in zip(index, self.grid_shape, strict=True):
            number = number * length + int(i)
        return number

    def has_neighbour(self, index: Index, axis: int, side: int) -> bool:
        """Return whether there is an element on the low (0) or high (1) side."""
        return index[axis] < self.grid_shape[axis] - 1 if side else index[axis] > 0


@dataclass(frozen=True)
class TileGrid(_Grid):
    """A grid of tiles anchored at the origin, and the halo that each tile is read with.

    Parameters
    ----------
    lengths : tuple of tuple of int
        Per axis the lengths of its tiles in voxels.
    halo : tuple of int
        Per axis the depth of the halo in voxels; it is clamped to the image, never mirrored.

    Examples
    --------
    >>> grid = TileGrid.regular((100, 50), tile_shape=(64, 64), halo=(8, 0))
    >>> grid.grid_shape
    (2, 1)
    >>> grid.core((1, 0))
    (slice(64, 100, None), slice(0, 50, None))
    >>> grid.region((1, 0))
    (slice(56, 100, None), slice(0, 50, None))
    """

    lengths: tuple[tuple[int, ...], ...]
    halo: tuple[int, ...]

    @classmethod
    def regular(cls, shape: Index, tile_shape: Index, halo: Index) -> TileGrid:
        """Cut `shape` into tiles of `tile_shape`; the last tile of an axis may be shorter."""
        lengths = []
        for length, tile in zip(shape, tile_shape, strict=True):
            n_whole, rest = divmod(length, tile)
            lengths.append((tile,) * n_whole + ((rest,) if rest else ()))
        return cls(tuple(lengths), tuple(halo))

    @cached_property
    def edges(self) -> tuple[np.ndarray, ...]:
        """Per axis the ``n_tiles + 1`` positions where tiles start and end, int64."""
        return tuple(np.concatenate([[0], np.cumsum(axis)]).astype(np.int64) for axis in self.lengths)

    @cached_property
    def cuts(self) -> tuple[list[int], ...]:
        """The edges as plain integers, which are quicker to look up one by one."""
        return tuple(edges.tolist() for edges in self.edges)

    @cached_property
    def shape(self) -> Index:
        """Shape of the image in voxels."""
        return tuple(cuts[-1] for cuts in self.cuts)

    @cached_property
    def grid_shape(self) -> Index:
        """Number of tiles along each axis."""
        return tuple(len(axis) for axis in self.lengths)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.lengths)

    @cached_property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return int(np.prod(self.grid_shape, dtype=np.int64))

    @cached_property
    def tile_shape(self) -> Index:
        """The longest tile along each axis, at least 1."""
        return tuple(max(axis, default=1) for axis in self.lengths)

    def core(self, index: Index) -> Box:
        """Return the tile without its halo."""
        return tuple([slice(cuts[i], cuts[i + 1]) for cuts, i in zip(self.cuts, index, strict=True)])

    def region(self, index: Index) -> Box:
        """Return the tile with its halo, clamped to the image: what ``fn`` sees."""
        return self.grow(self.core(index))

    def grow(self, box: Box) -> Box:
        """Add the halo to a box of voxels, clamped to the image."""
        return tuple(
            [
                slice(max(0, part.start - depth), min(length, part.stop + depth))
                for part, depth, length in zip(box, self.halo, self.shape, strict=True)
            ]
        )

    def indices(self) -> Iterator[Index]:
        """Iterate over the tiles in C order."""
        return itertools.product(*(range(n) for n in self.grid_shape))

    def cores(self, numbers: np.ndarray) -> np.ndarray:
        """Return start and stop along each axis of some tiles, without halo.

        Parameters
        ----------
        numbers : (n,) ndarray of int
            The tiles, in C order.

        Returns
        -------
        (n, ndim, 2) ndarray of int64

        Examples
        --------
        >>> TileGrid.regular((10, 9), (4, 9), (1, 1)).cores(np.array([2])).tolist()
        [[[8, 10], [0, 9]]]
        """
        places = zip(self.edges, np.unravel_index(numbers, self.grid_shape), strict=True)
        ends = [np.stack([edges[i], edges[i + 1]], axis=-1) for edges, i in places]
        return np.stack(ends, axis=1).astype(np.int64, copy=False)

    def without_axis(self, axis: int) -> TileGrid:
        """Drop an axis, e.g. the channels that ``fn`` consumed."""
        keep = [i for i in range(self.ndim) if i != axis]
        return TileGrid(tuple(self.lengths[i] for i in keep), tuple(self.halo[i] for i in keep))


@dataclass(frozen=True)
class BrickGrid(_Grid):
    """Tiles grouped into bricks: boxes of neighbouring tiles that one task handles.

    Parameters
    ----------
    grid : TileGrid
        The tiles.
    tiles_per_brick : tuple of int
        Per axis how many tiles a brick holds; the last brick of an axis may hold fewer.

    Examples
    --------
    >>> bricks = BrickGrid(TileGrid.regular((100,), (10,), (2,)), tiles_per_brick=(4,))
    >>> bricks.n_bricks, bricks.core((2,)), bricks.tiles((2,))
    (3, (slice(80, 100, None),), (slice(8, 10, None),))
    """

    grid: TileGrid
    tiles_per_brick: tuple[int, ...]

    @cached_property
    def grid_shape(self) -> Index:
        """Number of bricks along each axis."""
        pairs = zip(self.grid.grid_shape, self.tiles_per_brick, strict=True)
        return tuple(-(-n // step) for n, step in pairs)

    @cached_property
    def n_bricks(self) -> int:
        """Number of bricks."""
        return int(np.prod(self.grid_shape, dtype=np.int64))

    @cached_property
    def brick_shape(self) -> Index:
        """The longest brick along each axis in voxels, at least 1."""
        longest = []
        for edges, step in zip(self.grid.edges, self.tiles_per_brick, strict=True):
            cuts = np.append(edges[:-1:step], edges[-1])
            longest.append(max(1, int(np.diff(cuts).max(initial=0))))
        return tuple(longest)

    def tiles(self, index: Index) -> Box:
        """Return the brick's tiles as slices into the tile grid."""
        parts = zip(index, self.tiles_per_brick, self.grid.grid_shape, strict=True)
        return tuple([slice(i * step, min(n, (i + 1) * step)) for i, step, n in parts])

    def core(self, index: Index) -> Box:
        """Return the brick in voxels, without halo."""
        tiles = zip(self.grid.cuts, self.tiles(index), strict=True)
        return tuple([slice(cuts[part.start], cuts[part.stop]) for cuts, part in tiles])

    def region(self, index: Index) -> Box:
        """Return the brick with the halo of its outer tiles, clamped to the image."""
        return self.grid.grow(self.core(index))

    def spans(self) -> list[list[tuple[int, int]]]:
        """Return where bricks begin and end along each axis, halo included.

        Examples
        --------
        >>> BrickGrid(TileGrid.regular((100,), (10,), (2,)), tiles_per_brick=(4,)).spans()
        [[(0, 42), (38, 82), (78, 100)]]
        """
        found = []
        for axis, n in enumerate(self.grid_shape):
            origin = (0,) * axis, (0,) * (len(self.grid_shape) - axis - 1)
            parts = [self.region((*origin[0], i, *origin[1]))[axis] for i in range(n)]
            found.append([(part.start, part.stop) for part in parts])
        return found

    def number_of_tile(self, tile: int) -> int:
        """Return the number of the brick that holds the tile with this number."""
        index = zip(self.grid.index(tile), self.tiles_per_brick, strict=True)
        return self.number(tuple([i // step for i, step in index]))

    def tile_indices(self, index: Index) -> Iterator[Index]:
        """Iterate over the brick's tiles in C order."""
        return itertools.product(*(range(part.start, part.stop) for part in self.tiles(index)))

    def n_tiles(self, index: Index) -> int:
        """Count the brick's tiles."""
        return math.prod([part.stop - part.start for part in self.tiles(index)])
