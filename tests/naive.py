"""Slow and obvious twins of what blockbuster does, and the untiled functions that its results are compared with.

The functions are found by name in other processes as well: `conftest.py` puts this folder on the path.
"""

import itertools
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def label(image, connectivity=1):
    """Connected components of what is above zero."""
    return ndimage.label(image > 0, ndimage.generate_binary_structure(image.ndim, connectivity))[0]


def partition_fault(labels, expected):
    """Say how two label images differ as partitions; empty where ids correspond one to one."""
    if labels.shape != expected.shape:
        return f"shapes differ: {labels.shape} and {expected.shape}"
    n = int(expected.max(initial=0)) + 1
    assert int(labels.max(initial=0)) * n < 2**62, "ids too large to be paired in one number"
    codes = np.unique(labels.astype(np.int64) * n + expected)
    pairs = {divmod(code, n) for code in codes.tolist()} - {(0, 0)}
    lefts, rights = [left for left, _ in pairs], [right for _, right in pairs]
    if 0 in lefts or 0 in rights:
        return "background differs"
    if len(set(lefts)) < len(lefts):
        return f"{len(lefts) - len(set(lefts))} objects too few: some were joined"
    if len(set(rights)) < len(rights):
        return f"{len(rights) - len(set(rights))} objects too many: some were cut"
    return ""


def cut(shape, tile_shape):
    """Lengths of the tiles along every axis, voxel by voxel."""
    lengths = []
    for length, tile in zip(shape, tile_shape, strict=True):
        tile_of_voxel = [voxel // tile for voxel in range(length)]
        lengths.append(tuple(tile_of_voxel.count(i) for i in sorted(set(tile_of_voxel))))
    return tuple(lengths)


def tiles(lengths, halo):
    """Index, core and clamped region of every tile, in C order."""
    axes = []
    for axis, depth in zip(lengths, halo, strict=True):
        parts, start = [], 0
        for length in axis:
            stop = start + length
            seen = range(max(0, start - depth), min(sum(axis), stop + depth))
            parts.append((slice(start, stop), slice(seen.start, seen.stop)))
            start = stop
        axes.append(parts)
    for index in itertools.product(*(range(len(parts)) for parts in axes)):
        core, region = zip(*(axes[a][i] for a, i in enumerate(index)), strict=True)
        yield index, core, region


def spread_halo(overlap, tile_shape):
    """One depth per axis: a number leaves out the axes whose tiles are one voxel long."""
    if isinstance(overlap, int):
        return tuple(overlap if tile > 1 else 0 for tile in tile_shape)
    return (0,) * (len(tile_shape) - len(overlap)) + tuple(overlap)


def stitch(image, fn, lengths, halo, connectivity=1, merge_axes=None, sequential=False):
    """Ids of the merged labels: the whole contract, on arrays small enough to hold everything at once."""
    ids = np.zeros(image.shape, np.int64)
    tile_of_voxel = np.zeros(image.shape, np.int64)
    offset = 0
    for number, (_, core, region) in enumerate(tiles(lengths, halo)):
        inner = tuple(slice(c.start - r.start, c.stop - r.start) for c, r in zip(core, region, strict=True))
        numbered, count = number_by_appearance(fn(image[region].copy())[inner], offset)
        ids[core] = numbered
        tile_of_voxel[core] = number
        offset += count
    joined = join_neighbours(ids, tile_of_voxel, connectivity, merge_axes)
    return rank(joined) if sequential else joined


def join_neighbours(ids, tile_of_voxel, connectivity, merge_axes=None):
    """Give every set of touching labels of different tiles the smallest of its ids."""
    pairs = []
    for step in steps(ids.ndim, connectivity, merge_axes):
        here, there = shifted(ids, step)
        apart = np.not_equal(*shifted(tile_of_voxel, step)) & (here > 0) & (there > 0)
        pairs.append(np.column_stack([here[apart], there[apart]]))
    n = int(ids.max(initial=0)) + 1
    found = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    graph = coo_array((np.ones(len(found)), (found[:, 0], found[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    smallest = {}
    for label_id in range(n):
        smallest.setdefault(component[label_id], label_id)
    return np.array([smallest[c] for c in component], np.int64)[ids]


def rank(ids):
    """Number ids 1..N in their order."""
    order = {old: new for new, old in enumerate(sorted(set(ids.ravel().tolist()) - {0}), 1)}
    return np.array([order.get(i, 0) for i in ids.ravel().tolist()], np.int64).reshape(ids.shape)


def steps(ndim, connectivity, merge_axes=None):
    """Steps to half of a voxel's neighbours: the others are the same steps back."""
    axes = range(ndim) if merge_axes is None else merge_axes
    for step in itertools.product(*[(-1, 0, 1) if axis in axes else (0,) for axis in range(ndim)]):
        if step > (0,) * ndim and sum(map(abs, step)) <= connectivity:
            yield step


def shifted(array, step):
    """All voxels that have a neighbour at a step, and these neighbours."""
    pairs = list(zip(step, array.shape, strict=True))
    here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in pairs)
    there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in pairs)
    return array[here], array[there]


def number_by_appearance(labels, first=0):
    """Number labels in the order in which they are met, and count them."""
    known = {}
    numbered = []
    for value in labels.ravel().tolist():
        if value and value not in known:
            known[value] = first + len(known) + 1
        numbered.append(known.get(value, 0))
    return np.array(numbered, np.int64).reshape(labels.shape), len(known)


def collect_pairs(a, b):
    """Pairs of labels side by side, runs of the same pair once."""
    met = [(int(x), int(y)) for x, y in zip(a, b, strict=True) if x and y]
    return [pair for i, pair in enumerate(met) if i == 0 or pair != met[i - 1]]


def touching_pairs(a, b, axes, max_steps):
    """Pairs of labels of two planes whose voxels are at most one step aside along some of the axes."""
    found = set()
    for here in np.ndindex(a.shape):
        for there in np.ndindex(b.shape):
            moved = [axis for axis in range(a.ndim) if here[axis] != there[axis]]
            near = all(axis in axes and abs(here[axis] - there[axis]) == 1 for axis in moved)
            if near and len(moved) <= max_steps and a[here] and b[there]:
                found.add((int(a[here]), int(b[there])))
    return sorted(found)


def join(n, pairs):
    """Smallest element of the set of each of n elements, by spreading it until nothing changes."""
    smallest = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            least = min(smallest[a], smallest[b])
            changed = changed or smallest[a] != least or smallest[b] != least
            smallest[a] = smallest[b] = least
    return smallest


def remap(labels, table):
    """Look every label up."""
    return np.array([table[i] for i in labels.ravel().tolist()]).reshape(labels.shape)


def files_in(folder):
    """Content of every file of a folder by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
