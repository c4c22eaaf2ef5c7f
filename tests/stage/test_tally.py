"""What the results of tasks are added up to, and what that takes."""

import numpy as np
import pytest
from traced import traced

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.identity.growth import Growth
from blockbuster.run.resources import BYTES_PER_TASK, BYTES_PER_TILE
from blockbuster.rundir.journal import Journal
from blockbuster.stage.tally import Tally
from blockbuster.stage.task import BrickResult

N_BRICKS, TILES = 20, 5000
BRICKS = BrickGrid(TileGrid.regular((N_BRICKS * TILES,), (1,), (0,)), (TILES,))


@pytest.mark.parametrize("kind", [float, int])
def test_F37_skipped_tiles_take_no_more_memory_than_the_plan_says(tmp_path, kind):
    maxima = np.random.default_rng(0).integers(2**54, 2**63, (N_BRICKS, TILES), dtype="uint64")

    def tally_all():
        tally = Tally(BRICKS, journal, False, bool, Growth())
        for number in range(N_BRICKS):
            skipped = [kind(maximum) for maximum in maxima[number].tolist()]
            tally.add(BrickResult(number, np.zeros((1, TILES), np.int64), maxima=skipped))
        return tally

    with Journal(str(tmp_path)) as journal:
        tally, held, _ = traced(tally_all)
    assert tally.n_skipped == N_BRICKS * TILES
    assert list(tally.maxima) == [kind(maximum) for maximum in maxima.ravel().tolist()]
    # What a million tiles take is measured in whole runs; half of it is for copies.
    assert held < BYTES_PER_TILE // 2 * N_BRICKS * TILES + BYTES_PER_TASK * N_BRICKS
