import dataclasses

import dask
import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import behind_objects
from strategies import cases

from blockbuster.execution import find_execution
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.merge import remap
from blockbuster.merge.matching import MatchJob, match_bricks
from blockbuster.merge.merging import match_seams, write_final_labels
from blockbuster.merge.remap import FinalLabels
from blockbuster.merge.rules import Agree, Touch
from blockbuster.merge.table import BrickIds
from blockbuster.output.layout import label_chunks
from blockbuster.output.targets import ArrayTarget
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.source import open_source
from blockbuster.stage import TileCall, stage_labels

# Two tiles, five objects in each; two of them touch across the seam.
ROWS = np.zeros((9, 20), np.uint8)
ROWS[0::2, 2:8] = ROWS[0::2, 12:18] = 1
ROWS[0, 8:12] = 1


def stage(image, fn, folder, lengths, halo, tiles_per_brick, connectivity=1, merge_axes=None, rule=None):
    """Run the first stage alone, as the package's users may."""
    grid = TileGrid(lengths, halo)
    axes = tuple(range(image.ndim)) if merge_axes is None else merge_axes
    execution = find_execution()
    job, _ = stage_labels(
        open_source(image),
        TileCall(grid, fn, apart_axes=tuple(axis for axis in range(image.ndim) if axis not in axes)),
        BrickGrid(grid, tiles_per_brick),
        str(folder),
        execution,
        merge_axes=axes,
        connectivity=connectivity,
        rule=rule or Touch(),
        fixed_bricks=True,
    )
    return job.staged, execution


@pytest.mark.parametrize("rule", [Touch(), Agree()])
def test_pairs_beyond_int32_are_those_of_small_ids(rule, tmp_path):
    staged, _ = stage(ROWS, naive.label, tmp_path, ((9,), (10, 10)), (0, 2), (1, 1), rule=rule)
    ids = BrickIds.from_counts(staged.bricks, ArrayFolder(staged.path).load("counts"))
    far = dataclasses.replace(ids, offsets=ids.offsets + np.int64(2**40))
    near, shifted = (
        match_bricks(MatchJob(staged, found, ArrayFolder(tmp_path), rule, rule.borders, 2), 0).pairs
        for found in (ids, far)
    )
    assert len(near) == 1
    assert (near.dtype, shifted.dtype) == (np.int32, np.int64)
    assert shifted.tolist() == (near + np.int64(2**40)).tolist()


def merge(staged, execution, **options):
    """Run the merge alone: final labels, and what the seams came to."""
    arrays = ArrayFolder(staged.path)
    match = match_seams(staged, arrays, execution, **options)
    labels = np.zeros(staged.bricks.grid.shape, match.table.dtype)
    shard = label_chunks(staged.bricks.grid)[1]
    write_final_labels(FinalLabels(staged, arrays, match.table.dtype), ArrayTarget(labels), shard, execution)
    return labels, match


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_provisional_ids_beyond_int32_become_ranks_while_objects_fit(beyond, tmp_path, monkeypatch):
    """As if int32 ended so many ids before the last provisional one."""
    staged, execution = stage(ROWS, naive.label, tmp_path, ((9,), (10, 10)), (0, 0), (1, 1))
    n_provisional = int(ArrayFolder(staged.path).load("counts").sum())
    monkeypatch.setattr("blockbuster.merge.table.INT32_MAX", n_provisional - beyond)
    labels, _ = merge(staged, execution)
    expected = naive.stitch(ROWS, naive.label, ((9,), (10, 10)), (0, 0), sequential=beyond > 0)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, expected)


def test_more_objects_than_int32_holds_get_int64_ids(tmp_path):
    """A table that says so: nothing holds 2**31 objects in a test."""
    staged, execution = stage(ROWS, naive.label, tmp_path, ((9,), (10, 10)), (0, 0), (1, 1))
    expected = naive.stitch(ROWS, naive.label, ((9,), (10, 10)), (0, 0))
    arrays = ArrayFolder(tmp_path)
    table = behind_objects(match_seams(staged, arrays, execution).table, arrays, 2**40)
    assert table.dtype == np.int64
    labels = np.zeros(ROWS.shape, table.dtype)
    write_final_labels(FinalLabels(staged, arrays, table.dtype), ArrayTarget(labels), ROWS.shape, execution)
    assert np.array_equal(labels, np.where(expected > 0, expected + 2**40, 0))


@settings(max_examples=examples(40))
@given(cases(kinds=("numpy",)), st.sampled_from([1, 40, remap.STRIP_VOXELS]), st.data())
def test_stage_and_merge_alone_give_the_labels_of_the_contract(tmp_path_factory, case, strip, data):
    merged = tuple(sorted(data.draw(st.sets(st.sampled_from(range(len(case.shape)))))))
    counts = data.draw(st.tuples(*(st.integers(1, len(axis)) for axis in case.lengths)))

    def fn(tile):
        return naive.label(tile, case.connectivity)

    folder = tmp_path_factory.mktemp("stage")
    with dask.config.set(scheduler="synchronous"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(remap, "STRIP_VOXELS", strip)
        staged, execution = stage(
            case.mask, fn, folder, case.lengths, case.halo, counts, case.connectivity, merged
        )
        labels, match = merge(staged, execution, sequential=True)
    expected = naive.stitch(case.mask, fn, case.lengths, case.halo, case.connectivity, merged, sequential=True)
    assert np.array_equal(labels, expected)
    assert match.table.n_objects == expected.max(initial=0)


def test_pairs_are_counted_once_however_often_they_touch(tmp_path):
    comb = np.zeros((20, 8), np.uint8)
    comb[::2, 2:6] = comb[:, 2] = comb[:, 5] = 1
    for i, counts in enumerate([(1, 1), (1, 2)]):
        (tmp_path / str(i)).mkdir()
        staged, execution = stage(comb, naive.label, tmp_path / str(i), ((20,), (4, 4)), (0, 0), counts)
        assert merge(staged, execution)[1].tally.touching.sum() == 1


def test_progress_counts_every_tile_once(tmp_path):
    lengths = ((4, 4, 1), (10, 7, 3))
    staged, execution = stage(ROWS, naive.label, tmp_path, lengths, (0, 0), (2, 2))
    arrays, matched, written = ArrayFolder(staged.path), [], []
    match_seams(staged, arrays, execution, on_done=matched.append)
    target = ArrayTarget(np.zeros(ROWS.shape, np.int32))
    final = FinalLabels(staged, arrays, np.dtype(np.int32))
    write_final_labels(final, target, (3, 8), execution, on_done=written.append)
    assert (sum(matched), sum(written)) == (9, 9)
