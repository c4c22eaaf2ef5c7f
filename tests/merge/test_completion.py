"""Ends of objects that one tile saw: what is kept of them, and what is filled in."""

import numpy as np
from traced import traced

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.kernels.stretches import StretchFinder
from blockbuster.merge.completion import Ends, cut_ends, fill_background, read_ends, write_ends
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import BrickFile

GRID = TileGrid.regular((8, 12), (8, 4), (0, 2))


def ends_in(tile, columns, labels, ids):
    """Ends that lie in some columns of a tile."""
    found, _ = StretchFinder().find(np.asarray(labels), (slice(0, 8), slice(*columns)))
    return Ends(tile, found, np.array(ids))


def test_an_end_carries_no_ids_of_the_many_labels_that_were_seen():
    """Each row of the first tile is a label; the second tile did not see two of them."""
    labels = np.repeat(np.arange(1, 9)[:, None], 6, axis=1)
    stretches, _ = StretchFinder().find(labels, GRID.region((0, 0)))
    (end,) = cut_ends(GRID, ((0, 0), (0, 1)), stretches, np.array([3, 7]), 100)
    assert (end.tile, end.ids[1:].tolist()) == (1, [103, 107])
    assert end.stretches.stretches.tolist() == [[0, 2, 1], [0, 2, 2]]


def test_ends_are_read_by_the_brick_that_they_lie_in(tmp_path):
    arrays, bricks = ArrayFolder(str(tmp_path)), BrickGrid(GRID, (1, 1))
    ends = [ends_in(1, (4, 6), np.ones((8, 2), int), [0, 5]), ends_in(2, (8, 9), np.ones((8, 1), int), [0, 6])]
    assert write_ends(arrays, 3, ends, bricks) == [1, 2]
    file = BrickFile(tmp_path / "ends-3.tiles", "ends")
    found = [[(end.tile, end.ids.tolist()) for end in read_ends(file, f"ends-{brick}")] for brick in range(3)]
    assert found == [[], [(1, [0, 5])], [(2, [0, 6])]]


def test_filling_the_background_takes_little_more_memory_than_labels_do():
    core, finder = (slice(0, 1000), slice(0, 1000)), StretchFinder()
    labels = np.zeros((1000, 8), int)
    labels[100:110] = 1
    end, _ = finder.find(labels, (slice(0, 1000), slice(0, 8)))
    background = np.ones((1000, 1000), bool)
    background[105] = False
    ends = [Ends(0, end, np.array([0, 9]))]
    (filled, ids), _, peak = traced(lambda: fill_background(background.copy(), core, ends, finder))
    assert ids.tolist() == [9]
    assert filled.stretches.tolist() == [[0, 8, 1]] * 9
    assert peak < 8 * background.size
