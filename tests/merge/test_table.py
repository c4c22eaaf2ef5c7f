import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import shapes, tile_shapes

from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.kernels.components import join_pairs
from blockbuster.merge.table import INT32_MAX, BrickIds, RemapTable


class Shelf(dict):
    """Keeps arrays by name."""

    save = dict.__setitem__
    load = dict.__getitem__


@st.composite
def joined(draw):
    """A number of provisional ids, and pairs that touch."""
    n = draw(st.integers(0, 30))
    ids = st.integers(1, max(1, n))
    pairs = draw(st.lists(st.tuples(ids, ids).filter(lambda p: p[0] != p[1]), max_size=20)) if n > 1 else []
    return n, pairs


def make_table(n, pairs, sequential):
    border, roots = join_pairs(np.array(pairs, np.int64).reshape(-1, 2))
    return RemapTable(border, roots, n, sequential)


@given(joined(), st.booleans(), st.integers(0, 31))
@example((3, []), False, 3)
@example((3, []), False, 2)
@example((3, [(1, 2)]), False, 2)
def test_table_gives_what_a_dictionary_gives(case, sequential, bound):
    """As if int32 ended at a bound that few labels reach."""
    n, pairs = case
    roots = [1 + i for i in naive.join(n, [(a - 1, b - 1) for a, b in pairs])]
    ranks = {root: rank for rank, root in enumerate(sorted(set(roots)), 1)}
    # Ids beyond int32 are never kept where ranks are not: that is what keeps the labels int32.
    by_rank = sequential or n > bound >= len(ranks)
    final = [ranks[root] if by_rank else root for root in roots]
    provisional = np.arange(1, n + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.merge.table.INT32_MAX", bound)
        table = make_table(n, pairs, sequential)
        assert table.final_ids(provisional).tolist() == final
        assert table.final_ids(provisional[::-1]).tolist() == final[::-1]
        assert table.n_objects == len(ranks)
        assert table.dtype == (np.int32 if (len(ranks) if by_rank else n) <= bound else np.int64)


@given(joined(), st.booleans())
def test_kept_table_gives_the_same_ids(case, sequential):
    """Also if the smallest of each object is left out, and in the dtype that is enough."""
    table, shelf = make_table(*case, sequential), Shelf()
    is_absorbed = table.border != table.roots
    border, roots = (ids[is_absorbed].astype(np.int32) for ids in (table.border, table.roots))
    RemapTable(border, roots, case[0], sequential).save(shelf)
    kept = RemapTable.load(shelf)
    provisional = np.arange(1, case[0] + 1)
    assert np.array_equal(kept.final_ids(provisional), table.final_ids(provisional))
    assert (kept.n_objects, kept.dtype) == (table.n_objects, table.dtype)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(
    ("n_provisional", "n_joined", "expected"),
    [
        (INT32_MAX, 0, np.int32),
        (INT32_MAX + 1, 0, np.int64),
        (INT32_MAX + 1, 1, np.int32),
        (INT32_MAX + 3, 2, np.int64),
        (INT32_MAX + 3, 3, np.int32),
        (2**40, 3, np.int64),
    ],
)
def test_labels_are_int64_only_for_more_objects_than_int32_holds(sequential, n_provisional, n_joined, expected):
    border = np.arange(10, 11 + n_joined) if n_joined else np.empty(0, np.int64)
    table = RemapTable(border, np.full(len(border), 10), n_provisional, sequential)
    assert table.n_objects == n_provisional - n_joined
    assert table.dtype == expected
    last = int(table.final_ids(np.array([n_provisional]))[0])
    by_rank = sequential or expected == np.int32
    assert last == (n_provisional - n_joined if by_rank else n_provisional)
    assert last <= np.iinfo(expected).max


def test_input_of_a_look_up_is_not_changed():
    provisional = np.array([5, 2])
    table = RemapTable(np.array([2, 5]), np.array([2, 2]), 6, sequential=True)
    assert table.final_ids(provisional).tolist() == [2, 2]
    assert provisional.tolist() == [5, 2]


def test_memory_of_a_table_goes_by_what_touches_a_seam():
    table = RemapTable(np.array([7, 2**62]), np.array([7, 7]), 2**62 + 5, sequential=True)
    assert table.n_objects == 2**62 + 4
    assert table.final_ids(np.array([7, 8, 2**62, 2**62 + 1])).tolist() == [7, 8, 7, 2**62]


@given(shapes(), st.data())
def test_ids_of_a_brick_are_offsets_plus_local_ids(shape, data):
    grid = TileGrid(naive.cut(shape, data.draw(tile_shapes(shape))), (0,) * len(shape))
    bricks = BrickGrid(grid, data.draw(st.tuples(*(st.integers(1, n) for n in grid.grid_shape))))
    n_labels = data.draw(st.lists(st.integers(0, 4), min_size=grid.n_tiles, max_size=grid.n_tiles))
    ids = BrickIds.from_counts(bricks, np.array(n_labels).reshape(grid.grid_shape))

    offset, provisional = 0, {}
    for tile, n in zip(grid.indices(), n_labels, strict=True):
        provisional[tile] = list(range(offset + 1, offset + n + 1))
        offset += n

    for number in range(bricks.n_bricks):
        index = bricks.index(number)
        expected = [i for tile in bricks.tile_indices(index) for i in provisional[tile]]
        assert ids.n_labels(index) == len(expected)
        assert ids.all_of(index).tolist() == expected
        some = np.arange(1, len(expected) + 1)[::-2]
        assert ids.all_of(index)[some - 1].tolist() == [expected[i - 1] for i in some]
