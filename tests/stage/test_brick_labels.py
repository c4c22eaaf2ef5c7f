"""What a brick keeps of its tiles and seams, whatever tiles are grouped into, and what it has in memory."""

import contextlib
import dataclasses
import itertools
import tempfile
from functools import cached_property

import naive
import numpy as np
import pytest
from brick_files import staged_labels, staged_tiles, tiles_of
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Unsteady

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.merge.borders import strip_box
from blockbuster.merge.matching import MatchJob, match_bricks
from blockbuster.merge.rules import RULES, Agree, Touch, rule_of
from blockbuster.merge.table import BrickIds
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import StagedLabels
from blockbuster.stage import brick_labels
from blockbuster.stage.brick_labels import BrickLabels


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
        found = naive.compare(self.seen, self.grid.shape, self.grid.halo, self.connectivity, self.axes)
        return {pair: agreement for pair, (agreement, _) in found.items()}

    def bricks(self, tiles_per_brick):
        return BrickGrid(self.grid, tiles_per_brick)

    def staged(self, path, tiles_per_brick, rule="agree"):
        return StagedLabels(str(path), self.bricks(tiles_per_brick), self.axes, self.connectivity, rule)

    def label(self, staged, index, after=lambda tile, brick: None):
        """Show the tiles of a brick one by one, as the task does: the brick, and labels per tile."""
        brick, counts = BrickLabels(staged, index, rule_of(staged)), []
        for tile in staged.bricks.tile_indices(index):
            found = self.fn(self.image[self.grid.region(tile)].copy())
            if found.any():
                counts.append(brick.add(tile, found))
            else:
                brick.pass_over(tile)
                counts.append(0)
            after(tile, brick)
        assert brick.n_labels == sum(counts)
        return brick, counts

    @contextlib.contextmanager
    def written(self, tiles_per_brick, rule="agree", group_voxels=2**21):
        """Write all bricks: the stage, and labels per tile of the grid."""
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(brick_labels, "GROUP_VOXELS", group_voxels)
            staged = self.staged(folder, tiles_per_brick, rule)
            staged.create({})
            counts = np.zeros(self.grid.grid_shape, np.int64)
            for index in bricks_of(staged):
                brick, found = self.label(staged, index)
                part = counts[staged.bricks.tiles(index)]
                part[...] = np.reshape(found, part.shape)
                staged.write(index, brick.sections())
            yield staged, counts

    def ids_in_brick(self, bricks, index):
        """Ids of the whole image, in the order in which they are met in a brick, to those of the brick."""
        found = {}
        for tile in bricks.tile_indices(index):
            seen = self.seen[self.grid.number(tile)]
            for n in np.unique(seen.within(seen.core)).tolist():
                if n:
                    found[n] = len(found) + 1
        return found

    def expected_labels(self, bricks, index):
        """Labels of a brick, ids from one tile after another."""
        names = {0: 0, **self.ids_in_brick(bricks, index)}
        ids = naive.assemble(self.seen, self.grid.shape)[0][bricks.core(index)]
        return np.array([names[n] for n in ids.ravel().tolist()]).reshape(ids.shape)


def bricks_of(staged):
    return [staged.bricks.index(number) for number in range(staged.bricks.n_bricks)]


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


def pairs_to_join(staged, counts, rule):
    """What the merge is told of all bricks, by provisional ids."""
    ids = BrickIds.from_counts(staged.bricks, counts)
    arrays = ArrayFolder(staged.path)
    job = MatchJob(staged, ids, arrays, rule, rule_of(staged).borders, 1 + int(counts.sum()) % 3)
    results = [match_bricks(job, number).pairs for number in range(job.n_tasks)]
    found = [tuple(pair) for pair in np.concatenate(results).tolist()]
    assert len(set(found)) == len(found)
    return set(found)


def groupings(tissue):
    return st.tuples(*(st.integers(1, n) for n in tissue.grid.grid_shape))


# Every tile in a group of its own, few tiles in each, and all in one.
group_sizes = st.sampled_from([1, 5, 20, 2**21])


@settings(max_examples=examples(25))
@given(tissues(), st.data(), group_sizes)
def test_pairs_inside_bricks_and_those_between_bricks_are_found_alike(tissue, data, group_voxels):
    """One tile per brick, all in one, and anything between: the pairs, and how far they agree, are the same."""
    shape = tissue.grid.grid_shape
    for grouping in [(1,) * len(shape), shape, data.draw(groupings(tissue))]:
        with tissue.written(grouping, group_voxels=group_voxels) as (staged, counts):
            for least in {0.0, 1.0, *tissue.agreements.values()}:
                expected = {pair for pair, agreement in tissue.agreements.items() if agreement >= least}
                assert pairs_to_join(staged, counts, Agree(least)) == expected


@settings(max_examples=examples(40))
@given(tissues(), st.data(), group_sizes, st.sampled_from(sorted(RULES)))
def test_labels_of_a_brick_are_kept_in_groups_of_so_many_voxels(tissue, data, group_voxels, name):
    with tissue.written(data.draw(groupings(tissue)), name, group_voxels) as (staged, counts):
        for index in bricks_of(staged):
            expected = tissue.expected_labels(staged.bricks, index)
            np.testing.assert_array_equal(staged_labels(staged, index), expected)
            tiles, groups = list(staged.bricks.tile_indices(index)), {}
            for group, number, labels in staged_tiles(staged, index):
                groups.setdefault(group, []).append(labels.size)
                tile = tissue.grid.index(number)
                assert np.unique(labels[labels > 0]).tolist() == list(range(1, counts[tile] + 1))
                # None comes twice, or before one that came already.
                tiles = tiles[tiles.index(tile) + 1 :]
            assert list(groups) == list(range(int(staged.open_brick(index).read("groups"))))
            for group, sizes in groups.items():
                assert sum(sizes[:-1]) < group_voxels
                assert group == len(groups) - 1 or sum(sizes) >= group_voxels


@settings(max_examples=examples(60))
@given(tissues(), st.data())
def test_tiles_are_kept_until_their_last_neighbour_in_the_brick_was_there_and_no_longer(tissue, data):
    grid = tissue.grid
    staged = tissue.staged("nowhere", data.draw(groupings(tissue)))
    # Others have nothing that a neighbour would ask for.
    labelled = {tile.index for tile in tissue.seen if touches_a_seam(tissue, tile)}
    steps = list(naive.steps(grid.ndim, tissue.connectivity, tissue.axes))

    def check(tile, brick):
        inside = set(staged.bricks.tile_indices(index))
        awaited = [(t, step_from(t, step)) for t in inside & labelled for step in steps]
        assert set(brick._seams.waiting) == {t for t, other in awaited if t <= tile < other and other in inside}

    for index in bricks_of(staged):
        tissue.label(staged, index, check)


def touches_a_seam(tissue, tile):
    """Whether a label lies beside a neighbour of its tile."""
    ids = tile.within(tile.core)
    return any(
        ids.take(-side, axis).any()
        for axis, side in itertools.product(tissue.axes, (0, 1))
        if tissue.grid.has_neighbour(tile.index, axis, side)
    )


def step_from(tile, step):
    return tuple(i + d for i, d in zip(tile, step, strict=True))


@pytest.mark.parametrize("shape", [(30,), (7, 8), (4, 5, 6)])
def test_no_more_than_a_layer_and_a_row_of_tiles_are_kept_and_none_in_the_end(shape):
    ndim = len(shape)
    grid = TileGrid(tuple((2,) * n for n in shape), (1,) * ndim)
    tissue = Tissue(np.ones(grid.shape, np.uint8), Unsteady(), grid, tuple(range(ndim)), ndim)
    kept = []
    tissue.label(
        tissue.staged("nowhere", shape), (0,) * ndim, lambda tile, brick: kept.append(len(brick._seams.waiting))
    )
    assert kept[-1] == 0
    # The last neighbour is one tile behind in a row, a row more in a plane, and a layer more in a volume.
    assert max(kept) == sum(int(np.prod(shape[axis + 1 :])) for axis in range(ndim))


@settings(max_examples=examples(40))
@given(tissues(), st.data(), group_sizes)
def test_a_brick_holds_for_each_neighbouring_brick_the_labels_at_the_seam(tissue, data, group_voxels):
    grid = tissue.grid
    with tissue.written(data.draw(groupings(tissue)), group_voxels=group_voxels) as (staged, _):
        for index, axis, side in itertools.product(bricks_of(staged), range(grid.ndim), (0, 1)):
            file, tiles = staged.open_brick(index), staged.bricks.tiles(index)
            shown = {}
            if axis in tissue.axes and staged.bricks.has_neighbour(index, axis, side):
                outermost = [t for t in staged.bricks.tile_indices(index) if is_outermost(tiles, t, axis, side)]
                shown = {grid.number(tile): at_seam(tissue, tile, axis, side) for tile in outermost}
                shown = {number: voxels for number, voxels in shown.items() if voxels}
            assert f"border-{axis}-{side}" not in file
            assert (f"border-{axis}-{side}-tiles" in file) == bool(shown)
            if shown:
                found = tiles_of(
                    file,
                    f"border-{axis}-{side}",
                    lambda number, axis=axis, side=side: strip_box(grid, grid.index(number), axis, side),
                )
                assert {number: voxels_by_id(strip) for number, strip in found} == shown


@settings(max_examples=examples(40))
@given(tissues(), st.data(), group_sizes)
def test_a_brick_holds_how_far_its_tiles_agree_and_where_they_touch(tissue, data, group_voxels):
    ids, tile_of_voxel = naive.assemble(tissue.seen, tissue.grid.shape)
    touching = {}
    for p, q in naive.voxels_side_by_side(ids, tile_of_voxel, tissue.connectivity, tissue.axes):
        voxel = int(np.ravel_multi_index(p, ids.shape))
        touching.setdefault((int(ids[p]), int(ids[q])), set()).add(voxel)
    with tissue.written(data.draw(groupings(tissue)), group_voxels=group_voxels) as (staged, _):
        for index in bricks_of(staged):
            file, names = staged.open_brick(index), tissue.ids_in_brick(staged.bricks, index)
            expected = {pair: how for pair, how in tissue.agreements.items() if names.keys() >= {*pair}}
            columns = [file.read(name).tolist() for name in ("pairs", "agreement", "voxels")]
            assert [len(column) for column in columns] == [len(expected)] * 3
            found = {tuple(pair): (agreement, voxel) for pair, agreement, voxel in zip(*columns, strict=True)}
            for (a, b), agreement in expected.items():
                assert found[names[a], names[b]][0] == agreement
                assert found[names[a], names[b]][1] in touching[a, b]


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


def voxels_by_id(labels):
    return {n: np.argwhere(labels == n).tolist() for n in np.unique(labels).tolist() if n}


@settings(max_examples=examples(40))
@given(tissues(), st.data(), group_sizes)
def test_where_labels_are_joined_that_touch_only_the_outermost_planes_are_kept(tissue, data, group_voxels):
    with tissue.written(data.draw(groupings(tissue)), "touch", group_voxels) as (staged, _):
        for index in bricks_of(staged):
            file, labels = staged.open_brick(index), tissue.expected_labels(staged.bricks, index)
            assert "agreement" not in file
            assert "voxels" not in file
            for axis, side in itertools.product(range(labels.ndim), (0, 1)):
                is_kept = axis in tissue.axes and staged.bricks.has_neighbour(index, axis, side)
                assert (f"border-{axis}-{side}" in file) == is_kept
                assert f"border-{axis}-{side}-tiles" not in file
                if is_kept:
                    plane = file.read(f"border-{axis}-{side}")
                    np.testing.assert_array_equal(plane, labels.take([-side], axis))
            names = tissue.ids_in_brick(staged.bricks, index)
            pairs = [tuple(pair) for pair in file.read("pairs").tolist()]
            assert len(set(pairs)) == len(pairs)
            assert set(pairs) == {(names[a], names[b]) for a, b in tissue.agreements if a in names and b in names}


@settings(max_examples=examples(25))
@given(tissues(), st.data(), group_sizes)
def test_labels_that_touch_are_found_alike_however_tiles_are_grouped(tissue, data, group_voxels):
    for grouping in [tissue.grid.grid_shape, data.draw(groupings(tissue))]:
        with tissue.written(grouping, "touch", group_voxels) as (staged, counts):
            found = {tuple(sorted(pair)) for pair in pairs_to_join(staged, counts, Touch())}
            assert found == set(tissue.agreements)


@settings(max_examples=examples(15))
@given(tissues(), st.data(), group_sizes, st.sampled_from(sorted(RULES)))
def test_a_brick_is_the_same_bytes_each_time(tissue, data, group_voxels, name):
    grouping = data.draw(groupings(tissue))
    files = []
    for _ in range(2):
        with tissue.written(grouping, name, group_voxels) as (staged, _):
            files.append(
                {path: what for path, what in naive.files_in(staged.path).items() if path.endswith(".tiles")}
            )
    assert [path.split("/")[1] for path in files[0]] == [path.split("/")[1] for path in files[1]]
    assert list(files[0].values()) == list(files[1].values())
    assert len(files[0]) == tissue.bricks(grouping).n_bricks
