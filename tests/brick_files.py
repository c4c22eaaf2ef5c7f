"""Files of bricks, read voxel by voxel, and where the sections lie in them."""

import json

import numpy as np

from blockbuster.grid import relative_box


def staged_labels(staged, index):
    """The labels of a brick, with ids from one tile after another, in C order of the tiles."""
    grid, core = staged.bricks.grid, staged.bricks.core(index)
    labels, first = np.zeros([part.stop - part.start for part in core], np.int64), 0
    for _, number, tile in staged_tiles(staged, index):
        place = relative_box(grid.core(grid.index(number)), core)
        labels[place] = np.where(tile > 0, tile + first, 0)
        first += tile.max()
    return labels


def staged_tiles(staged, index):
    """Group, number and labels of every tile that has some."""
    file, grid = staged.open_brick(index), staged.bricks.grid
    for group in range(int(file.read("groups"))):
        for number, tile in tiles_of(file, f"group-{group}", lambda number: grid.core(grid.index(number))):
            yield group, number, tile


def tiles_of(file, name, box_of):
    """Number and labels of the tiles that were written under a name; `box_of` gives the box of each."""
    counts, gaps, lengths, ids = (
        iter(file.read(f"{name}-{column}").tolist()) for column in ("counts", "gaps", "lengths", "ids")
    )
    for number in file.read(f"{name}-tiles").tolist():
        labels = np.zeros([part.stop - part.start for part in box_of(number)], np.int64)
        for row in np.ndindex(labels.shape[:-1]):
            x = 0
            for _ in range(next(counts)):
                x += next(gaps)
                stop = x + next(lengths)
                assert not labels[row][x:stop].any()
                labels[row][x:stop] = next(ids)
                x = stop
        yield number, labels
    assert not [*counts, *gaps, *lengths, *ids]


def places_in(path):
    """First byte and the one behind the last of the header of a file of a task, and of each of its sections."""
    data = path.read_bytes()
    start = 24 + int.from_bytes(data[8:16], "little")
    places = {"magic": (0, 8), "length": (8, 16), "checksum": (16, 24), "header": (24, start)}
    for name, (offset, length, *_) in json.loads(data[24:start]).items():
        places[name] = (start + offset, start + offset + length)
    assert max(stop for _, stop in places.values()) == len(data)
    return places
