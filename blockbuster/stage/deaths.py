"""Name the tile that worker processes died of: the driver from outside, and the next attempt from
within.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from blockbuster.errors import TileError, format_slices
from blockbuster.execution import Attempt, TaskWatch, dead_attempts
from blockbuster.grid import BrickGrid, Index, TileGrid

# A machine may be taken away once, or twice, while it happens to be at the same tile.
MAX_DEATHS = 3
MAX_NAMED = 5
BRICK, PROBE = "brick", "probe"
OUTSIDE = -1

IN_FN = (
    "{n} worker process{es} died while fn ran on this tile: killed (out of memory, or the time limit of a batch "
    "job?), or fn crashed. Try smaller tiles, fewer threads per worker or more memory; see what the worker's log "
    'says; or pass on_error="skip" to leave such tiles out.'
)
OUTSIDE_FN = (
    "{n} worker process{es} died while the {tiles} tiles of this one's task were read, or their labels written "
    "(out of memory?). Pass a smaller tiles_per_task, or give the workers more memory or fewer threads."
)


class TileAttempt(Attempt):
    """A task of the stage that marks the tile that it is at.

    Parameters
    ----------
    directory : str or None
        The stage directory; ``None`` leaves no mark.
    kind : str
        What `number` counts.
    number : int
        The brick, or the tile of a probe.
    """

    def __init__(self, directory: str | None, kind: str, number: int) -> None:
        super().__init__(directory, f"{kind}-{number}")

    def check_tile(self, step: int, tile: Index, grid: TileGrid) -> None:
        """Raise if a tile killed one process after the other."""
        n_deaths = self.deaths_at(step)
        if n_deaths >= MAX_DEATHS:
            raise _error(IN_FN, n_deaths, tile, grid)

    def check_outside_fn(self, bricks: BrickGrid, index: Index) -> None:
        """Raise if one process after the other died while the tiles of a brick were read or
        written.
        """
        n_deaths = self.deaths_at(OUTSIDE)
        if n_deaths >= MAX_DEATHS:
            tile = next(iter(bricks.tile_indices(index)))
            raise _error(OUTSIDE_FN, n_deaths, tile, bricks.grid, bricks.n_tiles(index))


@dataclass
class StageWatch(TaskWatch):
    """What the stage knows of its tasks.

    Parameters
    ----------
    directory : str
        The stage directory.
    bricks : BrickGrid
        Bricks of the image.
    """

    directory: str
    bricks: BrickGrid

    def describe(self, number: int) -> str:
        """Name a brick by what it covers."""
        index = self.bricks.index(number)
        return f"the {self.bricks.n_tiles(index)} tiles in {format_slices(self.bricks.core(index))}"

    def blame(self) -> BaseException | None:
        """Return the tile that most of the dead processes were at, or all tiles where it may be any
        of them.
        """
        deaths = Counter((dead.task, dead.step) for dead in dead_attempts(self.directory))
        if not deaths:
            return None
        ((task, step), most), *others = deaths.most_common()
        if not others or most > max(n for _, n in others):
            return self._error(task, step, most)
        named = [self._error(task, step, n) for (task, step), n in deaths.most_common(MAX_NAMED)]
        listed = ", ".join(f"{error.tile} {format_slices(error.slices)}" for error in named)
        more = f" and {len(deaths) - MAX_NAMED} more" if len(deaths) > MAX_NAMED else ""
        return RuntimeError(
            f"worker processes died (out of memory?) while these tiles were under way: {listed}{more}. Any of "
            "them may be the cause; with one thread per worker it can be told which."
        )

    def _error(self, task: str, step: int, n_deaths: int) -> TileError:
        grid = self.bricks.grid
        kind, _, number = task.rpartition("-")
        tiles = [grid.index(int(number))]
        if kind != PROBE:
            tiles = list(self.bricks.tile_indices(self.bricks.index(int(number))))
        if step == OUTSIDE:
            return _error(OUTSIDE_FN, n_deaths, tiles[0], grid, len(tiles))
        return _error(IN_FN, n_deaths, tiles[step], grid)


def _error(text: str, n_deaths: int, tile: Index, grid: TileGrid, n_tiles: int = 1) -> TileError:
    what = text.format(n=n_deaths, es="" if n_deaths == 1 else "es", tiles=n_tiles)
    return TileError(what, tile, grid.core(tile))
