"""Labels as stretches along the last axis, and back, voxel by voxel."""

import numpy as np
from hypothesis import strategies as st

from blockbuster.kernels.stretches import StretchFinder, StretchGroup, TileStretches, border_stretches

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)


def flat(labels):
    """The rows of an array, in C order."""
    return labels.reshape(-1, labels.shape[-1])


def stretches_of(labels):
    """Rows and stretches of a plane."""
    rows, stretches = [0], []
    for row in labels:
        start = 0
        for x in range(1, len(row) + 1):
            if x == len(row) or row[x] != row[start]:
                if row[start]:
                    stretches.append([start, x, row[start]])
                start = x
        rows.append(len(stretches))
    return np.array(rows, np.int64), np.array(stretches, np.int32).reshape(-1, 3)


def dense_of(rows, stretches, shape):
    """The plane that rows and stretches stand for."""
    labels = np.zeros(shape, int)
    for row in range(len(rows) - 1):
        for start, stop, number in stretches[rows[row] : rows[row + 1]]:
            labels[row, start:stop] = number
    return labels


def tile_of(labels, origin):
    """The stretches of a tile with these ids."""
    box = tuple(slice(o, o + n) for o, n in zip(origin, labels.shape, strict=True))
    return TileStretches(box, *stretches_of(flat(labels)))


def grouped(*tiles):
    """Some tiles as a group."""
    boxes = [[(part.start, part.stop) for part in tile.box] for tile in tiles]
    return StretchGroup.of(tiles, np.array(boxes))


def painted(tile):
    """The voxels of a tile, with their ids."""
    return dense_of(tile.rows, tile.stretches, (len(tile.rows) - 1, tile.shape[-1])).reshape(tile.shape)


def near_borders(labels, region, core, depths):
    """What is kept, near a tile's borders, of what fn returned for it."""
    whole, n_whole = StretchFinder().find(labels, region)
    lookup, _ = whole.clipped(core).numbered(n_whole)
    return border_stretches(whole, lookup, core, depths)


@st.composite
def labels_of_any_kind(draw):
    """Labels of any shape, dtype, byte order and memory order; dense, sparse, or near the dtype's end."""
    shape, dtype = draw(shapes), np.dtype(draw(st.sampled_from(DTYPES)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([1, 5, 100, np.iinfo(dtype).max]))
    ids = random.integers(0, min(largest, np.iinfo(dtype).max), 20, dtype, endpoint=True)
    labels = ids[random.integers(0, 20, shape)] * random.integers(0, 2, shape).astype(dtype)
    labels = labels.astype(dtype.newbyteorder(draw(st.sampled_from("<>"))))
    labels = labels.transpose(draw(st.permutations(range(len(shape)))))
    return labels[tuple([slice(None, None, draw(st.sampled_from([1, -1, 2]))) for _ in shape])]
