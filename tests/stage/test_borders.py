"""What a brick learns of its seams, whatever its tiles are grouped into, and what it keeps in memory for that."""

import dataclasses
import itertools
import tempfile
from functools import cached_property

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Unsteady

from blockbuster.grid import BrickGrid, TileGrid, relative_box
from blockbuster.merge.matching import MatchJob, match_brick
from blockbuster.merge.table import BrickIds
from blockbuster.rundir.staged import StagedLabels
from blockbuster.seams.labels import compact_labels
from blockbuster.seams.strips import strip_box, unpack_strips
from blockbuster.stage.borders import brick_borders

# Run as plain Python, the product that mixes the bits of a sparse id wraps with a warning; it is meant to.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


@dataclasses.dataclass(frozen=True)
class Tissue:
    """An image, what fn says of each of its tiles, and which voxels are neighbours."""

    image: np.ndarray
    fn: Unsteady
    grid: TileGrid
    axes: tuple[int, ...]
    connectivity: int

    @cached_property
    def seen(self):
        return naive.look(self.image, self.fn, self.grid.lengths, self.grid.halo)

    @cached_property
    def agreements(self):
        return naive.compare(self.seen, self.grid.shape, self.grid.halo, self.connectivity, self.axes)

    def staged(self, path, tiles_per_brick, min_agreement=0.0):
        return StagedLabels(
            str(path), BrickGrid(self.grid, tiles_per_brick), self.axes, self.connectivity, min_agreement
        )

    def brick(self, staged, index, after=lambda tile, borders: None):
        """Show the tiles of a brick one by one, as the task does: labels, labels per tile, and the sidecar."""
        bricks, borders, counts = staged.bricks, brick_borders(staged, index), []
        core = bricks.core(index)
        labels = np.zeros([part.stop - part.start for part in core], np.uint16)
        for tile in bricks.tile_indices(index):
            place = relative_box(self.grid.core(tile), core)
            found = self.fn(self.image[self.grid.region(tile)].copy())
            inner = found[relative_box(self.grid.core(tile), self.grid.region(tile))]
            first = sum(counts)
            counts.append(compact_labels(inner, labels[place], first))
            if counts[-1]:
                borders.add(tile, found, labels[place], first)
            else:
                borders.pass_over(tile)
            after(tile, borders)
        return labels, counts, borders.sidecar(labels, np.array(counts))


@st.composite
def tissues(draw):
    ndim = draw(st.integers(1, 3))
    longest, most = {1: (7, 6), 2: (5, 4), 3: (3, 3)}[ndim]
    lengths = tuple(
        tuple(draw(st.lists(st.integers(1, longest), min_size=2, max_size=most))) for _ in range(ndim)
    )
    grid = TileGrid(lengths, draw(st.tuples(*[st.integers(0, 3)] * ndim)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(ndim)), min_size=1))))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = random.integers(0, draw(st.integers(2, 4)), grid.shape, np.uint8)
    # Some tiles are empty, and passed over.
    for tile in grid.indices():
        image[grid.core(tile)] *= random.random() < draw(st.sampled_from([1.0, 0.7]))
    fn = Unsteady(
        draw(st.integers(0, 99)), draw(st.sampled_from([0.0, 0.3])), largest=draw(st.sampled_from([100, 2**62]))
    )
    return Tissue(image, fn, grid, axes, draw(st.integers(1, ndim)))


def pairs_to_join(tissue, staged, counts, min_agreement):
    """What the merge is told of all bricks, by provisional ids."""
    ids = BrickIds.from_counts(staged.bricks, counts)
    job = MatchJob(dataclasses.replace(staged, min_agreement=min_agreement), ids)
    results = [match_brick(job, number).pairs for number in range(staged.bricks.n_bricks)]
    found = [tuple(pair) for pair in np.concatenate(results).tolist()]
    assert len(set(found)) == len(found)
    return set(found)


@settings(max_examples=examples(25))
@given(tissues(), st.data())
def test_pairs_inside_bricks_and_those_between_bricks_are_found_alike(tissue, data):
    """One tile per brick, all in one, and anything between: the pairs, and how far they agree, are the same."""
    shape = tissue.grid.grid_shape
    groupings = [(1,) * len(shape), shape, data.draw(st.tuples(*(st.integers(1, n) for n in shape)))]
    for grouping in groupings:
        with tempfile.TemporaryDirectory() as folder:
            staged = tissue.staged(folder, grouping)
            staged.create({})
            counts = np.zeros(shape, np.int64)
            for number in range(staged.bricks.n_bricks):
                index = staged.bricks.index(number)
                labels, found, sidecar = tissue.brick(staged, index)
                part = counts[staged.bricks.tiles(index)]
                part[...] = np.reshape(found, part.shape)
                if part.any():
                    staged.write(index, labels, sidecar)
            for least in {0.0, 1.0, *tissue.agreements.values()}:
                expected = {pair for pair, agreement in tissue.agreements.items() if agreement >= least}
                assert pairs_to_join(tissue, staged, counts, least) == expected


@settings(max_examples=examples(60))
@given(tissues(), st.data())
def test_tiles_are_kept_until_their_last_neighbour_in_the_brick_was_there_and_no_longer(tissue, data):
    grid = tissue.grid
    grouping = data.draw(st.tuples(*(st.integers(1, n) for n in grid.grid_shape)))
    staged = tissue.staged("nowhere", grouping)
    labelled = {tile.index for tile in tissue.seen if tile.within(tile.core).any()}
    steps = list(naive.steps(grid.ndim, tissue.connectivity, tissue.axes))

    def check(tile, borders):
        inside = set(staged.bricks.tile_indices(index))
        awaited = [(t, step_from(t, step)) for t in inside & labelled for step in steps]
        assert set(borders.waiting) == {t for t, other in awaited if t <= tile < other and other in inside}

    for number in range(staged.bricks.n_bricks):
        index = staged.bricks.index(number)
        tissue.brick(staged, index, check)


def step_from(tile, step):
    return tuple(i + d for i, d in zip(tile, step, strict=True))


@pytest.mark.parametrize("shape", [(30,), (7, 8), (4, 5, 6)])
def test_no_more_than_a_layer_and_a_row_of_tiles_are_kept_and_none_in_the_end(shape):
    ndim = len(shape)
    grid = TileGrid(tuple((2,) * n for n in shape), (1,) * ndim)
    tissue = Tissue(np.ones(grid.shape, np.uint8), Unsteady(), grid, tuple(range(ndim)), ndim)
    kept = []
    tissue.brick(
        tissue.staged("nowhere", shape), (0,) * ndim, lambda tile, borders: kept.append(len(borders.waiting))
    )
    assert kept[-1] == 0
    # The last neighbour is one tile behind in a row, a row more in a plane, and a layer more in a volume.
    assert max(kept) == sum(int(np.prod(shape[axis + 1 :])) for axis in range(ndim))


@settings(max_examples=examples(40))
@given(tissues(), st.data())
def test_sidecar_holds_for_each_neighbouring_brick_the_labels_at_the_seam(tissue, data):
    grid = tissue.grid
    grouping = data.draw(st.tuples(*(st.integers(1, n) for n in grid.grid_shape)))
    staged = tissue.staged("nowhere", grouping)
    bricks = staged.bricks
    for number in range(bricks.n_bricks):
        index = bricks.index(number)
        sidecar = tissue.brick(staged, index)[-1]
        sides = itertools.product(tissue.axes, (0, 1))
        assert set(sidecar.borders) == {side for side in sides if bricks.has_neighbour(index, *side)}
        for (axis, side), packed in sidecar.borders.items():
            strips = unpack_strips(
                packed, lambda n, axis=axis, side=side: strip_box(grid, grid.index(n), axis, side)
            )
            outermost = [
                t for t in bricks.tile_indices(index) if is_outermost(bricks.tiles(index), t, axis, side)
            ]
            shown = {grid.number(tile): at_seam(tissue, tile, axis, side) for tile in outermost}
            assert {n: labels_of(strip) for n, strip in strips.items()} == {
                n: ids for n, ids in shown.items() if ids
            }


def is_outermost(tiles, tile, axis, side):
    return tile[axis] == (tiles[axis].stop - 1 if side else tiles[axis].start)


def at_seam(tissue, tile, axis, side):
    """Voxels by id, from 1 in each tile, of the labels that touch the seam, as far as the strip goes."""
    seen = tissue.seen[tissue.grid.number(tile)]
    ids = seen.within(seen.core)
    touching = set(ids.take(-side, axis).ravel().tolist()) - {0}
    offset = ids[ids > 0].min(initial=2**40) - 1
    box = strip_box(tissue.grid, tile, axis, side)
    strip = seen.within(box)
    return {int(n - offset): np.argwhere(strip == n).tolist() for n in touching}


def labels_of(strip):
    """Voxels of a strip by id."""
    rows = list(np.ndindex(strip.shape[:-1]))
    found = {}
    for row, place in enumerate(rows):
        for start, stop, number in strip.runs[strip.rows[row] : strip.rows[row + 1]].tolist():
            found.setdefault(number, []).extend([*place, x] for x in range(start, stop))
    return found


@settings(max_examples=examples(40))
@given(tissues(), st.data())
def test_where_labels_are_joined_that_touch_only_the_outermost_planes_are_kept(tissue, data):
    grouping = data.draw(st.tuples(*(st.integers(1, n) for n in tissue.grid.grid_shape)))
    staged = tissue.staged("nowhere", grouping, min_agreement=None)
    for number in range(staged.bricks.n_bricks):
        index = staged.bricks.index(number)
        labels, counts, sidecar = tissue.brick(staged, index)
        assert (sidecar.agreement, sidecar.voxels) == (None, None)
        assert sidecar.counts.tolist() == counts
        first = len(tissue.image.shape) * (slice(None),)
        for axis, side in itertools.product(range(labels.ndim), (0, 1)):
            is_kept = axis in tissue.axes and staged.bricks.has_neighbour(index, axis, side)
            assert ((axis, side) in sidecar.borders) == is_kept
            if is_kept:
                plane = (*first[:axis], slice(-1, None) if side else slice(0, 1))
                assert np.array_equal(sidecar.borders[axis, side], labels[plane])
        assert {tuple(pair) for pair in sidecar.pairs.tolist()} == touching_inside(
            tissue, staged.bricks, index, counts
        )


def touching_inside(tissue, bricks, index, counts):
    """Pairs of ids of a brick that touch, by those of the whole image."""
    tiles = list(bricks.tile_indices(index))
    names = {}
    for tile in tiles:
        seen = tissue.seen[tissue.grid.number(tile)]
        for n in np.unique(seen.within(seen.core)).tolist():
            if n:
                names[n] = len(names) + 1
    assert len(names) == sum(counts)
    return {(names[a], names[b]) for a, b in tissue.agreements if a in names and b in names}
