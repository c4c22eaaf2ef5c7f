"""Look at every tile without calling fn: which ones a run would skip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.compat import Raised
from blockbuster.errors import TileError
from blockbuster.execution import Execution, run_tasks
from blockbuster.grid import Box, BrickGrid, Index, relative_box
from blockbuster.source import Source
from blockbuster.stage.empty_threshold import EmptyTiles, threshold_of_pixels
from blockbuster.stage.inside import choose_pieces_inside, core_inside, fills_its_box
from blockbuster.stage.sample import cut_pieces, finite_pixels, put_pieces
from blockbuster.stage.saved import RegionReader, SavedRegions, read_tile, unreadable
from blockbuster.stage.staging import share_source


@dataclass(frozen=True)
class _LookJob:
    """What the tasks share; of a dask image pixels come with the task."""

    source: RegionReader
    bricks: BrickGrid
    boxes: list[Box]
    dtype: np.dtype
    inside: np.ndarray | None = None


@dataclass(frozen=True)
class _Look:
    """The maxima of the tiles of a brick and what boxes have of its core, or the error; without
    either, the graph of its pixels raised.
    """

    number: int
    maxima: np.ndarray | None = None
    parts: list[np.ndarray] = field(default_factory=list)
    error: TileError | None = None


def find_empty_tiles(
    source: Source,
    bricks: BrickGrid,
    threshold: float | None,
    directory: str,
    execution: Execution,
    on_tiles: Callable[[int], Any] = bool,
    inside: np.ndarray | None = None,
) -> EmptyTiles:
    """Read an image as a run does, brick by brick on all workers, and say which tiles are empty.

    Parameters
    ----------
    source : Source
        The image, of real numbers.
    bricks : BrickGrid
        Its tiles, grouped into tasks.
    threshold : float, optional
        A tile whose maximum, halo included, is not above it is empty; NaN never makes a tile so.
        ``None``: that of `choose_empty_threshold`, of the same sample, which is taken out of the
        bricks as they are read.
    directory : str
        An empty directory that every worker sees.
    execution : Execution
        Where to run.
    on_tiles : callable
        Called with a number of tiles as they are looked at.
    inside : ndarray of bool, optional
        The tiles that a mask meets; others are not read.

    Raises
    ------
    TileError
        If pixels cannot be read; it names the first tile of the brick, and of a dask image the
        tile.
    """
    source = share_source(source, execution, directory)
    boxes = choose_pieces_inside(source, bricks.grid, inside) if threshold is None else []
    job = _LookJob(SavedRegions() if source.through_graph else source, bricks, boxes, source.dtype, inside)
    pieces = [np.empty([part.stop - part.start for part in box], source.dtype) for box in boxes]
    maxima = np.zeros(bricks.grid.grid_shape, source.dtype)

    def take(look: _Look) -> None:
        index = bricks.index(look.number)
        if look.maxima is None and look.error is None:
            for tile in _tiles_looked_at(job, index):
                read_tile(source.read, bricks.grid, tile)
            look = _look_at_brick(dataclasses.replace(job, source=source), look.number)
        if look.error is not None:
            raise look.error
        assert look.maxima is not None
        tiles = bricks.tiles(index)
        maxima[tiles] = look.maxima.reshape(maxima[tiles].shape)
        put_pieces(pieces, boxes, bricks.core(index), look.parts)
        on_tiles(look.maxima.size)

    def region(number: int) -> Any:
        core = core_inside(bricks, bricks.index(number), inside)
        return None if core is None else source.lazy(bricks.grid.grow(core))

    numbers = range(bricks.n_bricks)
    graphs = region if source.through_graph else None
    run_tasks(execution, _look_at_brick, job, numbers, directory=directory, on_result=take, region=graphs)
    if threshold is None:
        threshold, _ = threshold_of_pixels(finite_pixels(pieces))
    # Numbers of Python are compared exactly, integers of 64 bits with a float too.
    empty = np.array([maximum <= threshold for maximum in maxima.ravel().tolist()], bool)
    empty = empty.reshape(maxima.shape)
    outside = None if inside is None else ~inside
    return EmptyTiles(threshold, empty if outside is None else empty | outside, maxima, outside)


def _look_at_brick(job: _LookJob, number: int, pixels: np.ndarray | Raised | None = None) -> _Look:
    """Read a brick's region, unless it came with the task, and take the maximum of each tile."""
    if isinstance(pixels, Raised):
        return _Look(number)
    index, grid = job.bricks.index(number), job.bricks.grid
    tiles = list(_tiles_looked_at(job, index))
    maxima = np.zeros([part.stop - part.start for part in job.bricks.tiles(index)], job.dtype)
    core = core_inside(job.bricks, index, job.inside)
    if core is None:
        return _Look(number, maxima)
    whole = grid.grow(core)
    try:
        pixels = _read(job, index, tiles, whole) if pixels is None else np.asarray(pixels)
    except Exception as error:
        # The user's exception may not survive the way to another process.
        return _Look(number, error=unreadable(error, grid, tiles[0]))
    first = [part.start for part in job.bricks.tiles(index)]
    for tile in tiles:
        place = tuple([i - start for i, start in zip(tile, first, strict=True)])
        maxima[place] = np.max(pixels[relative_box(grid.region(tile), whole)])
    return _Look(number, maxima, cut_pieces(job.boxes, core, pixels, whole))


def _tiles_looked_at(job: _LookJob, index: Index) -> Iterator[Index]:
    tiles = job.bricks.tile_indices(index)
    return tiles if job.inside is None else (tile for tile in tiles if job.inside[tile])


def _read(job: _LookJob, index: Index, tiles: Sequence[Index], whole: Box) -> np.ndarray:
    """Read the region around some tiles of a brick, and nothing that none of them wants."""
    if fills_its_box(job.bricks, index, job.inside):
        return job.source.read(whole)
    pixels = np.zeros([part.stop - part.start for part in whole], job.dtype)
    for tile in tiles:
        region = job.bricks.grid.region(tile)
        pixels[relative_box(region, whole)] = job.source.read(region)
    return pixels
