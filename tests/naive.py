"""Slow and obvious twins of what blockbuster does, and the untiled functions that its results are compared with.

The functions are found by name in other processes as well: `conftest.py` puts this folder on the path.
"""

import collections
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def label(image, connectivity=1):
    """Connected components of what is above zero."""
    return ndimage.label(image > 0, ndimage.generate_binary_structure(image.ndim, connectivity))[0]


def components(tile):
    """What a user's function does: connected components of what is not zero, which face each other."""
    return ndimage.label(tile)[0]


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


@dataclass(frozen=True)
class Seen:
    """What fn said of a tile: provisional ids in its region, 0 where a label is not met in its core."""

    index: tuple[int, ...]
    core: tuple[slice, ...]
    region: tuple[slice, ...]
    ids: np.ndarray

    def within(self, box):
        """Ids in a box of the image."""
        return self.ids[move(box, self.region)]


def move(box, region):
    """A box of the image, as seen from the corner of a region."""
    return tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(box, region, strict=True))


def look(image, fn, lengths, halo, merge_axes=None):
    """What fn says of every tile, ids numbered through; along axes that are not merged, at each position anew."""
    seen, offset = [], 0
    for index, core, region in tiles(lengths, halo):
        labels = keep_apart(fn(image[region].copy()), merge_axes)
        inner = labels[move(core, region)]
        numbered, count = number_by_appearance(inner, offset)
        names = dict(zip(inner.ravel().tolist(), numbered.ravel().tolist(), strict=True))
        ids = np.array([names.get(value, 0) for value in labels.ravel().tolist()], np.int64)
        seen.append(Seen(index, core, region, ids.reshape(labels.shape)))
        offset += count
    return seen


def keep_apart(labels, merge_axes=None):
    """Give the labels at each position along the axes that are not merged ids that occur at no other."""
    apart = [] if merge_axes is None else [axis for axis in range(labels.ndim) if axis not in merge_axes]
    names = {}
    ids = np.zeros(labels.shape, np.int64)
    for place in np.argwhere(labels).tolist():
        key = int(labels[tuple(place)]), *(place[axis] for axis in apart)
        ids[tuple(place)] = names.setdefault(key, len(names) + 1)
    return ids


def assemble(seen, shape):
    """Provisional ids of the whole image, and the number of the tile of each voxel."""
    ids, tile_of_voxel = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, tile in enumerate(seen):
        ids[tile.core] = tile.within(tile.core)
        tile_of_voxel[tile.core] = number
    return ids, tile_of_voxel


def stitch(
    image,
    fn,
    lengths,
    halo,
    connectivity=1,
    merge_axes=None,
    sequential=False,
    merge="touch",
    min_agreement=0.4,
    is_failed=None,
):
    """Ids of the merged labels: the whole contract, on arrays small enough to hold everything at once.

    `is_failed` says of a tile's pixels whether it failed, for which fn gives background.
    """
    seen = look(image, fn, lengths, halo, merge_axes)
    ids, tile_of_voxel = assemble(seen, image.shape)
    if merge == "touch":
        joined = join_neighbours(ids, tile_of_voxel, connectivity, merge_axes)
    else:
        found = compare(seen, image.shape, halo, connectivity, merge_axes) if merge == "agree" else {}
        pairs = joins(found, min_agreement, ids, tile_of_voxel)
        if merge == "agree" and min_agreement:
            failed = {tile.index for tile in seen if is_failed and is_failed(image[tile.region])}
            ids = completed(ids, seen, failed, halo, connectivity, merge_axes)
        joined = join_ids(ids, pairs)
    return rank(joined) if sequential else joined


def agreements(image, fn, lengths, halo, connectivity, merge_axes=None):
    """How far the predictions for each pair of touching labels agree, by their provisional ids."""
    found = compare(look(image, fn, lengths, halo, merge_axes), image.shape, halo, connectivity, merge_axes)
    return {pair: agreement for pair, (agreement, _) in found.items()}


def joins(found, min_agreement, ids, tile_of_voxel):
    """The pairs of `compare` that are joined."""
    ranks = {pair: rank for pair, (agreement, rank) in found.items() if agreement >= min_agreement}
    return without_contradictions(ranks, touching_inside_tiles(ids, tile_of_voxel) if min_agreement else set())


def compare(seen, shape, halo, connectivity, merge_axes=None):
    """Agreement, and intersection over union, of each two labels of two tiles that have voxels side by side."""
    ids, tile_of_voxel = assemble(seen, shape)
    met = {}
    for p, q in voxels_side_by_side(ids, tile_of_voxel, connectivity, merge_axes):
        met.setdefault((int(ids[p]), int(ids[q])), []).append((p, q))
    found = {}
    for pair, voxels in met.items():
        tile, other = (seen[tile_of_voxel[voxel]] for voxel in voxels[0])
        found[pair] = agree(pair, tile, other, voxels, shape, halo, connectivity)
    return found


def completed(ids, seen, failed, halo, connectivity, merge_axes=None):
    """Provisional ids, with what one of two tiles saw, beyond their seam, where the other found background."""
    wanted = []
    by_index = {tile.index: tile for tile in seen}
    for one in seen:
        for step in steps(ids.ndim, connectivity, merge_axes):
            for way in (1, -1):
                other = by_index.get(tuple(i + way * d for i, d in zip(one.index, step, strict=True)))
                if other is not None and other.index not in failed:
                    wanted += ends_unseen(ids, one, other, halo)
    filled = ids.copy()
    for _, label_id, core, missing in sorted(wanted, key=lambda end: (-end[0], end[1])):
        within = filled[core]
        within[missing & (within == 0)] = label_id
    return filled


def ends_unseen(ids, tile, other, halo):
    """What a tile saw whole in the core of another one, which found background in nine tenths of it.

    And in at least half of the label's voxels that are right beyond the seam.
    """
    apart = [axis for axis, (i, j) in enumerate(zip(tile.index, other.index, strict=True)) if i != j]
    if not all(halo[axis] for axis in apart):
        return
    both, _ = boxes_seen_by_both(tile, other, halo)
    touching, beyond = [], [overlap(*parts) for parts in zip(other.core, both, strict=True)]
    for axis in apart:
        face = [overlap(*parts) for parts in zip(tile.core, both, strict=True)]
        is_behind = other.index[axis] > tile.index[axis]
        at = face[axis].stop - 1 if is_behind else face[axis].start
        face[axis] = slice(at, at + 1)
        beyond[axis] = slice(at + 1, at + 2) if is_behind else slice(at - 1, at)
        touching.append(set(np.unique(tile.within(face)).tolist()) - {0})
    core = [overlap(*parts) for parts in zip(tile.region, other.core, strict=True)]
    ends = sight_ends(tile, other, both, ids.shape, halo)
    for label_id in set.intersection(*touching):
        met = tile.within(beyond) == label_id
        unseen = met & (ids[tuple(beyond)] == 0)
        if not unseen.any() or 2 * unseen.sum() < met.sum():
            continue
        end = tile.within(core) == label_id
        missing = end & (ids[tuple(core)] == 0)
        if (
            missing.any()
            and 10 * missing.sum() >= 9 * end.sum()
            and not (ends & (tile.within(both) == label_id)).any()
        ):
            yield int(missing.sum()), label_id, tuple(core), missing


def touching_inside_tiles(ids, tile_of_voxel):
    """Pairs of labels of one tile that have voxels face to face."""
    found = set()
    for step in steps(ids.ndim, 1):
        here, there = shifted(ids, step)
        inside = np.equal(*shifted(tile_of_voxel, step)) & (here != there) & (here > 0) & (there > 0)
        found |= {tuple(sorted(pair)) for pair in zip(here[inside].tolist(), there[inside].tolist(), strict=True)}
    return found


def without_contradictions(ranks, apart):
    """The pairs that are joined, the best first, where not too many tiles tell the two objects apart."""
    objects = {label: {label} for pair in ranks for label in pair}
    best, made = {}, []
    for pair in sorted(ranks, key=lambda pair: (-ranks[pair], pair)):
        one, other = (objects[label] for label in pair)
        if one is not other:
            between = [
                {tuple(sorted(ends)) for ends in itertools.product(one, other)} & set(links)
                for links in (ranks, apart)
            ]
            n_for, n_against = map(len, between)
            if n_for < n_against or (n_for == n_against and ranks[pair] in [best.get(label) for label in pair]):
                continue
            best |= dict.fromkeys(pair, ranks[pair])
            one |= other
            objects |= dict.fromkeys(other, one)
        made.append(pair)
    return made


def voxels_side_by_side(ids, tile_of_voxel, connectivity, merge_axes=None):
    """All neighbours in two tiles that both have a label, the one in the first of the tiles first."""
    for step in steps(ids.ndim, connectivity, merge_axes):
        here, there = shifted(ids, step)
        apart = np.not_equal(*shifted(tile_of_voxel, step)) & (here > 0) & (there > 0)
        for p in np.argwhere(apart) + [max(0, -s) for s in step]:
            neighbours = tuple(p.tolist()), tuple((p + step).tolist())
            yield tuple(sorted(neighbours, key=lambda voxel: tile_of_voxel[voxel]))


def agree(pair, tile, other, met, shape, halo, connectivity):
    """Agreement, and intersection over union, of labels of two tiles that have voxels `met` side by side."""
    boxes = boxes_seen_by_both(tile, other, halo)
    if boxes is None:
        return 0.0, 0.0
    box, other_box = boxes
    structure = ndimage.generate_binary_structure(len(halo), connectivity)
    pieces = ndimage.label(tile.within(box) == pair[0], structure)[0]
    other_pieces = ndimage.label(other.within(other_box) == pair[1], structure)[0]
    touching = {(pieces[at(p, box)], other_pieces[at(q, other_box)]) for p, q in met}
    assert all(a and b for a, b in touching)
    ends = sight_ends(tile, other, box, shape, halo), sight_ends(other, tile, other_box, shape, halo)
    return max(
        (
            in_both(*masks) / size_that_counts(masks, ends),
            float(np.float32(in_both(*masks) / in_any(*masks))),
        )
        for masks in ((pieces == a, other_pieces == b) for a, b in touching)
    )


def sight_ends(tile, other, box, shape, halo):
    """Where in a box a tile saw no further beyond the seam to another one."""
    ends = np.zeros([part.stop - part.start for part in box], bool)
    for axis, (i, j) in enumerate(zip(tile.index, other.index, strict=True)):
        end = tile.region[axis].stop - 1 if j > i else tile.region[axis].start
        if i != j and halo[axis] and end not in (0, shape[axis] - 1):
            ends[(slice(None),) * axis + (end - box[axis].start,)] = True
    return ends


def size_that_counts(masks, ends):
    """Voxels of the piece that reaches an end of its tile's sight; of the smaller one if both or none do."""
    cut = [bool((mask & end).any()) for mask, end in zip(masks, ends, strict=True)]
    sizes = [int(mask.sum()) for mask in masks]
    return sizes[cut.index(True)] if cut[0] != cut[1] else min(sizes)


def in_both(a, b):
    """Number of voxels of two masks that are in both."""
    return int((a & b).sum())


def in_any(a, b):
    """Number of voxels of two masks that are in one at least."""
    return int((a | b).sum())


def boxes_seen_by_both(tile, other, halo):
    """The box that two tiles predicted, once for each; none where two axes or more have no halo to cross.

    Across a seam without halo each tile has the plane next to it, and the planes are laid on each other.
    """
    crossed = [i - j for i, j in zip(tile.index, other.index, strict=True)]
    bare = [axis for axis, step in enumerate(crossed) if step and not halo[axis]]
    if len(bare) > 1:
        return None
    boxes = []
    for mine, its in (tile, other), (other, tile):
        box = [overlap(*regions) for regions in zip(mine.region, its.region, strict=True)]
        for axis in bare:
            core = mine.core[axis]
            is_first = mine.index[axis] < its.index[axis]
            box[axis] = slice(core.stop - 1, core.stop) if is_first else slice(core.start, core.start + 1)
        boxes.append(box)
    return boxes


def overlap(a, b):
    """What is in both of two slices."""
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def at(voxel, box):
    """A voxel of the image, as seen from the corner of a box."""
    return tuple(v - b.start for v, b in zip(voxel, box, strict=True))


def join_neighbours(ids, tile_of_voxel, connectivity, merge_axes=None):
    """Give every set of touching labels of different tiles the smallest of its ids."""
    voxels = voxels_side_by_side(ids, tile_of_voxel, connectivity, merge_axes)
    return join_ids(ids, [(ids[p], ids[q]) for p, q in voxels])


def join_ids(ids, pairs):
    """Give every set of joined ids the smallest of them."""
    n = int(ids.max(initial=0)) + 1
    found = np.array(pairs, np.int64).reshape(-1, 2)
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


def run_contacts(seen, shape, connectivity, merge_axes=None):
    """Where each two tiles have labelled voxels side by side, by the numbers of the tiles."""
    ids, tile_of_voxel = assemble(seen, shape)
    met = {}
    for p, q in voxels_side_by_side(ids, tile_of_voxel, connectivity, merge_axes):
        met.setdefault((int(tile_of_voxel[p]), int(tile_of_voxel[q])), []).append((p, q))
    return met


def run_pieces(tile, other, met, shape, halo, connectivity):
    """Each two pieces that touch at `met`: ids, voxels in both, of the one that counts, in any, and where."""
    box, other_box = boxes_seen_by_both(tile, other, halo)
    ends = sight_ends(tile, other, box, shape, halo), sight_ends(other, tile, other_box, shape, halo)
    structure = ndimage.generate_binary_structure(len(halo), connectivity)
    mine, theirs = tile.within(box), other.within(other_box)
    pieces = {a: ndimage.label(mine == a, structure)[0] for a in np.unique(mine).tolist()}
    other_pieces = {b: ndimage.label(theirs == b, structure)[0] for b in np.unique(theirs).tolist()}
    touching = {}
    for p, q in met:
        a, b = int(mine[at(p, box)]), int(theirs[at(q, other_box)])
        which = a, b, int(pieces[a][at(p, box)]), int(other_pieces[b][at(q, other_box)])
        touching.setdefault(which, []).append(p)
    found = []
    for (a, b, i, j), voxels in touching.items():
        both = pieces[a] == i, other_pieces[b] == j
        found.append((a, b, in_both(*both), size_that_counts(both, ends), in_any(*both), voxels))
    return found


def vote(labels, starts, blocks):
    """The most frequent label of each block, of which only what lies within the border counts."""
    out = np.zeros([len(first) for first in starts], labels.dtype)
    for place in np.ndindex(*out.shape):
        first = [axis[i] for axis, i in zip(starts, place, strict=True)]
        parts = zip(first, blocks, labels.shape, strict=True)
        voxels = itertools.product(*(range(i, min(i + block, n)) for i, block, n in parts))
        out[place] = most_frequent([int(labels[voxel]) for voxel in voxels])
    return out


def most_frequent(labels):
    """The first label, in C order, of those that are most frequent; background only where it alone is."""
    counts = collections.Counter(labels)
    most = max(counts.values())
    return next((label for label in labels if label and counts[label] == most), 0)
