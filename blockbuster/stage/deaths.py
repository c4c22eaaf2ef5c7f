"""Name the tile that worker processes died of: the driver from outside, and the next attempt from
within.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from blockbuster.errors import TileError, format_slices
from blockbuster.execution import Attempt, TaskWatch, dead_attempts
from blockbuster.grid import BrickGrid

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


def check_deaths(attempt: Attempt, step: int, bricks: BrickGrid) -> None:
    """Raise if one process after the other died at a step of a task: a tile of a brick, or
    `OUTSIDE`.
    """
    n_deaths = attempt.deaths_at(step)
    if n_deaths >= MAX_DEATHS:
        raise _error(attempt.task, step, n_deaths, bricks)


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
            return _error(task, step, most, self.bricks)
        named = [_error(task, step, n, self.bricks) for (task, step), n in deaths.most_common(MAX_NAMED)]
        listed = ", ".join(f"{error.tile} {format_slices(error.slices)}" for error in named)
        more = f" and {len(deaths) - MAX_NAMED} more" if len(deaths) > MAX_NAMED else ""
        return RuntimeError(
            f"worker processes died (out of memory?) while these tiles were under way: {listed}{more}. Any of "
            "them may be the cause; with one thread per worker it can be told which."
        )


def _error(task: str, step: int, n_deaths: int, bricks: BrickGrid) -> TileError:
    """Name the tile that a task was at."""
    kind, _, number = task.rpartition("-")
    tiles = [bricks.grid.index(int(number))]
    if kind != PROBE:
        tiles = list(bricks.tile_indices(bricks.index(int(number))))
    text, tile = (OUTSIDE_FN, tiles[0]) if step == OUTSIDE else (IN_FN, tiles[step])
    what = text.format(n=n_deaths, es="" if n_deaths == 1 else "es", tiles=len(tiles))
    return TileError(what, tile, bricks.grid.core(tile))
