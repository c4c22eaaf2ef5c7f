"""What fn may return, what it may not, and what is said then (B1 to B9)."""

import functools
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from naive import components, cut, join_neighbours, label, stitch
from outcomes import Counted, assert_same_objects, behind_objects, blobs, refused, snapshot, write_image
from scipy import ndimage
from traced import traced

from blockbuster import TileError, tile_process
from blockbuster.execution import find_execution
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.merge.merging import match_seams, write_final_labels
from blockbuster.merge.remap import FinalLabels
from blockbuster.merge.rules import Touch
from blockbuster.merge.table import RemapTable
from blockbuster.output.targets import ArrayTarget
from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.source import open_source
from blockbuster.stage import TileCall, stage_labels

TILES = {"tile_shape": (10, 10), "overlap": 2}


@pytest.fixture
def image():
    return blobs((25, 33))


class Matrix(np.ndarray):
    """A subclass that blockbuster has never heard of."""


class OnGpu:
    """What CuPy's arrays show to the outside."""

    def __init__(self, shape):
        self.__cuda_array_interface__ = {"shape": shape, "typestr": "<i4", "version": 3, "data": (0, False)}

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


class NeedsGradient:
    """What PyTorch does with a tensor on the GPU that requires its gradient."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

    def __repr__(self):
        raise RuntimeError("Can't say what this is.")


class Wilful(np.ndarray):
    """A subclass that does everything in its own way."""

    def __array_finalize__(self, _):
        self.unit = "cells"

    def __getitem__(self, _):
        raise RuntimeError("no slicing")

    def __array_ufunc__(self, *_, **__):
        raise RuntimeError("no arithmetic")

    def __array_function__(self, *_, **__):
        raise RuntimeError("no functions")


class Fickle(np.ndarray):
    """Labels that are others after the first look at them, as of somebody who kept a reference."""

    def min(self, *arguments, **options):
        least = super().min(*arguments, **options)
        self[...] = -1
        return least


pytestmark = pytest.mark.usefixtures("temporary")


def refuse_result(tmp_path, image, bad, *parts):
    """Let fn fail for the first tile alone, which is the only one with a region of 12 x 12."""

    def fn(tile):
        return bad(tile) if tile.shape == (12, 12) else components(tile)

    tile_and_what = (r"^tile \(0, 0\) \[0:10, 0:10\]: fn returned", *parts)
    with refused(TileError, *tile_and_what, folder=tmp_path):
        tile_process(image, fn, **TILES)
    with refused(TileError, *tile_and_what):
        tile_process(image, fn, write_to=tmp_path / "out.zarr", **TILES)
    assert sorted(os.listdir(tmp_path)) == ["out.zarr.labels.blockbuster-stage", "temporary"]


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (lambda tile: components(tile)[1:], r"shape \(11, 12\)"),
        (lambda tile: components(tile)[2:, 2:], r"shape \(10, 10\)"),
        (lambda tile: components(tile)[None], r"shape \(1, 12, 12\)"),
        (lambda tile: components(tile).ravel(), r"shape \(144,\)"),
        (lambda tile: np.zeros((0, 12), int), r"shape \(0, 12\)"),
        (lambda tile: None, "fn returned None"),
        (lambda tile: 3, "of type int"),
        (lambda tile: np.int32(3), "of type numpy.int32"),
        (lambda tile: components(tile).tolist(), "of type list.*numpy.asarray"),
        (lambda tile: "labels", "of type str"),
        (lambda tile: {components(tile).max()}, "of type set"),
        (lambda tile: np.array(3), r"shape \(\)"),
        (lambda tile: np.float64(np.nan), "of type numpy.float64"),
        (lambda tile: components(tile)[..., None], r"shape \(12, 12, 1\)"),
        (lambda tile: [components(tile)], "of type list"),
        (lambda tile: (labels for labels in components(tile)), "of type generator"),
        (lambda tile: da.from_array(components(tile)), "of type dask.array.core.Array"),
        (lambda tile: memoryview(components(tile)), "of type memoryview"),
        (lambda tile: NeedsGradient(), "of type .*NeedsGradient|NeedsGradient on the GPU"),
    ],
)
def test_B1_a_wrong_shape_or_type_is_refused_with_what_is_wanted(tmp_path, image, fn, what):
    refuse_result(tmp_path, image, fn, what, r"integer array of shape \(12, 12\), halo included")


@pytest.mark.parametrize(
    ("fn", "n"), [(ndimage.label, 2), (lambda tile: (), 0), (lambda tile: (components(tile),), 1)]
)
def test_B1_a_tuple_is_refused_with_the_remedy(tmp_path, image, fn, n):
    refuse_result(tmp_path, image, fn, f"a tuple of {n}", "return only the labels", "return labels")


def test_B1_B2_B3_B4_bad_results_of_other_processes_are_refused_in_the_same_words(image):
    def elsewhere(fn, parent, tile):
        assert os.getpid() != parent
        return fn(tile)

    bad = {
        "fn returned None": lambda tile: None,
        "fn returned a tuple of 2": ndimage.label,
        "fn returned float64": lambda tile: tile.astype(float),
        "fn returned a boolean mask": lambda tile: tile > 0,
        "fn returned negative labels": lambda tile: label(tile) - 1,
    }
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool, dask.config.set(scheduler="processes", pool=pool):
        for what, fn in bad.items():
            with refused(TileError, rf"^tile \(\d, \d\) \[\d+:\d+, \d+:\d+\]: {what}"):
                tile_process(image, functools.partial(elsewhere, fn, os.getpid()), **TILES)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "complex64"])
@pytest.mark.parametrize("value", [0, 1, 0.5, np.nan, np.inf])
def test_B2_labels_that_are_not_integers_are_refused_and_never_cast(tmp_path, image, dtype, value):
    name = str(np.dtype(dtype))
    refuse_result(
        tmp_path, image, lambda tile: np.full(tile.shape, value, dtype), name, r"labels.astype\('int32'\)"
    )


@pytest.mark.parametrize("dtype", [object, "M8[s]", "m8[s]", "U2", [("a", "i4")]])
def test_B2_arrays_of_other_things_than_numbers_are_refused(tmp_path, image, dtype):
    refuse_result(tmp_path, image, lambda tile: np.zeros(tile.shape, dtype), "integer labels")


@pytest.mark.parametrize(
    "mask", [lambda tile: tile > 0, lambda tile: tile < 0, lambda tile: (tile > 0)[None], lambda tile: np.True_]
)
def test_B3_a_boolean_mask_is_refused_with_the_remedy(tmp_path, image, mask):
    refuse_result(
        tmp_path, image, mask, "boolean mask|of type numpy.bool", r"skimage.measure.label\(mask\)|array"
    )


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", ">i4"])
def test_B4_negative_labels_are_refused_with_the_least_one(tmp_path, image, dtype):
    def watershed_lines(tile):
        labels = components(tile).astype(dtype)
        labels[0, 0] = -7
        return labels

    refuse_result(tmp_path, image, watershed_lines, r"negative labels \(least -7\)", "0 is background")


def test_B4_a_negative_label_in_the_halo_alone_is_refused_as_well(image):
    def negative_border(tile):
        labels = components(tile)
        labels[-1] = -1
        return labels

    with refused(TileError, "negative labels"):
        tile_process(image, negative_border, **TILES)


@pytest.mark.parametrize(
    ("dtype", "spread"),
    [
        ("uint8", lambda ids: ids),
        ("int16", lambda ids: ids * 7),
        (">u4", lambda ids: 2**32 - ids),
        ("uint32", lambda ids: 2**31 + ids),
        ("int64", lambda ids: ids * 98_340_797),
        ("int64", lambda ids: 2**63 - ids),
        ("uint64", lambda ids: 2**64 - ids),
        (">i8", lambda ids: 2**40 + ids),
    ],
)
def test_B5_ids_of_any_size_and_sparsity_give_the_same_labels(image, dtype, spread):
    def spread_ids(tile):
        labels, n = ndimage.label(tile)
        table = np.array([0] + [spread(i) for i in range(1, n + 1)], dtype)
        return table[labels]

    labels = tile_process(image, spread_ids, **TILES)
    np.testing.assert_array_equal(labels, tile_process(image, components, **TILES))
    assert labels.dtype == np.int32
    assert_same_objects(labels, label(image))


def test_B5_ids_as_sparse_as_can_be_take_no_more_memory_than_their_number():
    """A table addressed by id would need 2**63 entries; a tile has 262,144 voxels."""

    def sparse(tile):
        labels = np.zeros(tile.shape, np.int64)
        labels[::2, ::2] = np.linspace(1, 2**63 - 2048, labels[::2, ::2].size).reshape(labels[::2, ::2].shape)
        return labels

    run = traced(lambda: tile_process(np.ones((512, 512), "uint8"), sparse, tile_shape=(512, 512)))
    assert len(np.unique(run.result)) == 256 * 256 + 1
    assert run.peak < 32 * 2**20


def merged_behind(image, directory, n_objects):
    """Stage and merge as a run does whose first tile comes after so many objects."""
    source = open_source(image)
    bricks = BrickGrid(TileGrid.regular(image.shape, (10, 10), (2, 2)), (2, 1))
    with dask.config.set(scheduler="synchronous"):
        execution = find_execution()
        job, _ = stage_labels(
            source,
            TileCall(bricks.grid, components),
            bricks,
            str(directory),
            execution,
            merge_axes=(0, 1),
            connectivity=1,
            rule=Touch(),
            fixed_bricks=True,
        )
        arrays = ArrayFolder(str(directory))
        table = behind_objects(match_seams(job.staged, arrays, execution).table, arrays, n_objects)
        labels = np.zeros(image.shape, table.dtype)
        write_final_labels(
            FinalLabels(job.staged, arrays, labels.dtype), ArrayTarget(labels), (16, 16), execution
        )
    return labels, table


@pytest.mark.parametrize("offset", [2**31 - 2, 2**31, 2**40])
def test_B6_objects_beyond_int32_are_written_as_int64_and_none_wraps(tmp_path, image, offset):
    labels, table = merged_behind(image, tmp_path, offset)
    expected = stitch(image, components, cut(image.shape, (10, 10)), (2, 2))
    assert table.dtype == labels.dtype == np.int64
    np.testing.assert_array_equal(labels, np.where(expected > 0, expected + offset, 0))


def test_B6_provisional_ids_beyond_int32_are_numbered_by_rank_and_stay_int32(tmp_path, image, monkeypatch):
    """As if int32 ended with the last object."""
    expected, n = ndimage.label(image)
    monkeypatch.setattr("blockbuster.merge.table.INT32_MAX", n)
    labels, table = merged_behind(image, tmp_path, 0)
    assert table.n_provisional > n
    assert labels.dtype == np.int32
    assert np.unique(labels).tolist() == list(range(n + 1))
    assert_same_objects(labels, expected)


@pytest.mark.parametrize("sequential", [False, True])
def test_B6_more_objects_than_int32_holds_give_int64_ids_that_do_not_wrap(sequential):
    last = 2**31 + 10
    table = RemapTable(np.array([3, last]), np.array([3, 3]), n_provisional=last, sequential=sequential)
    assert table.n_objects == last - 1
    assert table.dtype == np.int64
    assert table.final_ids(np.array([1, last - 1, last])).tolist() == [1, last - 1, 3]


def test_B7_more_than_65535_objects_in_a_tile_are_all_kept():
    image = np.zeros((600, 700), "uint8")
    image[::2, ::2] = 1
    image[::2, 1::2] = np.arange(350) % 7 == 0
    expected, n = ndimage.label(image)
    assert n > 65_535
    for tile_shape in ((600, 700), (300, 700), (600, 350)):
        labels = tile_process(image, components, tile_shape=tile_shape, sequential_labels=True)
        assert labels.max() == n
        assert_same_objects(labels, expected)


def at_odd_address(labels):
    """The same labels at an address that is no multiple of their size."""
    raw = np.zeros(labels.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(labels.dtype).reshape(labels.shape)
    unaligned[...] = labels
    return unaligned


@pytest.mark.parametrize(
    "repackage",
    [
        lambda labels: np.asfortranarray(labels),
        lambda labels: np.pad(labels, 3)[3:-3, 3:-3],
        lambda labels: labels.T.copy().T,
        lambda labels: labels[::-1].copy()[::-1],
        lambda labels: np.repeat(labels, 2, axis=1)[:, ::2],
        lambda labels: labels.view(Matrix),
        lambda labels: labels.astype(">i4"),
        lambda labels: np.lib.stride_tricks.as_strided(labels, labels.shape, labels.strides, writeable=False),
        lambda labels: labels.view(np.matrix),
        lambda labels: labels.view(Wilful),
        lambda labels: labels.view(Fickle),
        lambda labels: at_odd_address(labels),
        lambda labels: np.rec.fromarrays([labels > 0, labels.astype(">i8")], names="mask,labels")["labels"],
    ],
    ids=["fortran", "window", "transposed", "flipped", "strided", "subclass", "big-endian", "read-only"]
    + ["matrix", "wilful", "fickle", "unaligned", "field"],
)
def test_B8_views_layouts_and_subclasses_give_the_same_labels(image, repackage):
    labels = tile_process(image, lambda tile: repackage(components(tile)), **TILES)
    np.testing.assert_array_equal(labels, tile_process(image, components, **TILES))
    assert type(labels) is np.ndarray


def test_B8_a_broadcast_constant_is_one_object():
    labels = tile_process(
        np.ones((20, 20)), lambda tile: np.broadcast_to(np.int32(5), tile.shape), tile_shape=(7, 7)
    )
    assert (labels == 1).all()


@pytest.mark.parametrize(
    "fn",
    [
        lambda tile: np.ma.array(components(tile)),
        lambda tile: np.ma.masked_equal(components(tile), 0),
        lambda tile: np.ma.masked,
    ],
    ids=["nothing masked", "background masked", "a masked number"],
)
def test_B8_a_masked_array_is_refused_with_the_remedy(tmp_path, image, fn):
    refuse_result(tmp_path, image, fn, "masked", r"filled\(0\)")


def test_B8_an_array_on_the_gpu_is_refused_with_the_remedy(tmp_path, image):
    refuse_result(tmp_path, image, lambda tile: OnGpu(tile.shape), "OnGpu on the GPU", r"labels.get\(\)")


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_B8_a_tile_changed_in_place_changes_neither_neighbours_nor_the_image(image, scheduler):
    def destructive(tile):
        labels = components(tile)
        tile[...] = 1
        return labels

    before = image.copy()
    with dask.config.set(scheduler=scheduler):
        labels = tile_process(image, destructive, **TILES)
    np.testing.assert_array_equal(image, before)
    assert_same_objects(labels, label(image))


def scribble(tile):
    """Label a tile, then overwrite all memory that can be reached from it."""
    labels = ndimage.label(tile != 0)[0]
    whole = tile
    while whole is not None:
        whole[...] = 1
        whole = whole.base
    return labels


KINDS = {
    "numpy": lambda image, _: image,
    "numpy, a view": lambda image, _: np.pad(image, 5)[5:-5, 5:-5],
    "numpy, Fortran order": lambda image, _: np.asfortranarray(image),
    "numpy, big-endian": lambda image, _: image.astype(">u2"),
    "dask": lambda image, _: da.from_array(image, chunks=(9, 33)),
    "dask, one chunk": lambda image, _: da.from_array(image, chunks=-1),
    "zarr": lambda image, folder: write_image(folder / "image.zarr", image, chunks=(25, 33)),
    "zarr in memory": lambda image, _: zarr.array(image, chunks=(25, 33)),
}


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.parametrize("kind", KINDS)
def test_B8_whatever_fn_overwrites_changes_neither_neighbours_nor_the_image(tmp_path, image, kind):
    given = KINDS[kind](image, tmp_path)
    files, before = snapshot(tmp_path), image.copy()
    for options in ({}, {"tiles_per_task": 1}, {"skip_empty": True}):
        assert_same_objects(tile_process(given, scribble, **TILES, **options), label(before))
    with dask.config.set(scheduler="synchronous"):
        assert_same_objects(tile_process(given, scribble, **TILES), label(before))
    np.testing.assert_array_equal(np.asarray(given if "zarr" not in kind else image), before)
    assert snapshot(tmp_path) == files


def label_planes(tile):
    """Label every plane by itself."""
    return np.stack([label(plane) + 1000 * number * (plane > 0) for number, plane in enumerate(tile)])


@pytest.mark.parametrize("channel", [0, None])
def test_B8_channels_that_fn_overwrites_change_neither_neighbours_nor_the_image(image, channel):
    def scribble_planes(tile):
        labels = label_planes(tile)
        scribble(tile)
        return labels

    channels = np.stack([image, image[::-1]])
    before = channels.copy()
    labels = tile_process(channels, scribble_planes, axes="cyx", channel=channel, **TILES)
    np.testing.assert_array_equal(channels, before)
    assert_same_objects(labels, label_planes(before))


@pytest.mark.parametrize(
    "change",
    [
        lambda tile: tile.resize((1,), refcheck=False),
        lambda tile: tile.resize((40, 40), refcheck=False),
        lambda tile: setattr(tile.flags, "writeable", False),
    ],
    ids=["shrinks", "grows", "locks"],
)
def test_B8_fn_may_do_to_its_tile_what_it_likes(image, change):
    def fn(tile):
        labels = components(tile)
        change(tile)
        return labels

    assert_same_objects(tile_process(image, fn, **TILES), label(image))


@pytest.mark.parametrize("options", [{}, {"tiles_per_task": 1}, {"tiles_per_task": 100}])
def test_B8_what_fn_returned_and_changes_at_a_later_call_was_taken_as_it_was(image, options):
    returned = []

    def fn(tile):
        for labels in returned:
            labels[...] = 2**31 - 1
        returned.append(components(tile))
        return returned[-1]

    with dask.config.set(scheduler="synchronous"):
        labels = tile_process(image, fn, **TILES, **options)
    assert_same_objects(labels, label(image))


SHARED = """
import dask, itertools, sys
import numpy as np
from blockbuster import tile_process

buffer = np.zeros((250, 250), sys.argv[1])
calls = itertools.count()

def fn(tile):
    buffer[...] = next(calls) % 2 * np.iinfo(buffer.dtype).max
    buffer[:2] = 1
    return buffer

with dask.config.set(scheduler="threads", num_workers=4):
    tile_process(np.ones((2500, 2500), "uint8"), fn, tile_shape=(250, 250), tiles_per_task=1)
print("survived")
"""


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_B8_threads_that_share_one_array_for_their_labels_never_bring_the_process_down(dtype):
    """Which labels they get is their fault; memory beyond an array is not theirs to write."""
    done = subprocess.run([sys.executable, "-c", SHARED, dtype], capture_output=True, text=True)
    assert done.stdout == "survived\n" or "TileError" in done.stderr, (done.returncode, done.stderr)


def test_B8_labels_written_into_the_tile_itself_are_taken(image):
    def in_place(tile):
        tile[...] = components(tile) % 200
        return tile

    image = (image * (np.arange(33) % 4 > 0)).astype("uint8")
    assert_same_objects(tile_process(image, in_place, **TILES), label(image))


@pytest.mark.parametrize("options", [{}, {"tiles_per_task": 1}, {"tiles_per_task": 100}])
def test_B8_fn_may_return_the_same_array_for_every_tile(image, options):
    shared = np.zeros((14, 14), np.int32)

    def reused(tile):
        part = shared[: tile.shape[0], : tile.shape[1]]
        part[...] = components(tile)
        return part

    with dask.config.set(scheduler="synchronous"):
        labels = tile_process(image, reused, **TILES, **options)
    assert_same_objects(labels, label(image))


def test_B8_fn_sees_a_writable_contiguous_array_of_its_own(image):
    seen = []

    def looking(tile):
        seen.append((tile.flags.writeable, tile.flags.c_contiguous, tile.flags.owndata, type(tile)))
        return components(tile)

    tile_process(np.asfortranarray(image), looking, **TILES)
    assert set(seen) == {(True, True, True, np.ndarray)}


def test_B9_labels_of_a_random_fn_are_each_used_once_and_stay_together():
    """Every pixel tells where it is, so that what came back for a tile can be kept by its place."""
    where = np.arange(30 * 40, dtype=np.int64).reshape(30, 40)
    given = {}
    rng = np.random.default_rng(5)

    def noise(tile):
        labels = rng.integers(0, 4, tile.shape)
        assert given.setdefault(int(tile[0, 0]), labels) is labels
        return labels

    with dask.config.set(scheduler="synchronous"):
        labels = tile_process(where, noise, tile_shape=(10, 10))
    assert len(given) == 12
    provisional = np.zeros(where.shape, np.int64)
    tile_of_voxel = np.zeros(where.shape, np.int64)
    for number, (first, tile_labels) in enumerate(given.items()):
        y, x = np.unravel_index(first, where.shape)
        box = slice(y, y + 10), slice(x, x + 10)
        provisional[box] = np.where(tile_labels > 0, tile_labels + 4 * number, 0)
        tile_of_voxel[box] = number
    assert_same_objects(labels, join_neighbours(provisional, tile_of_voxel, connectivity=1))


def test_B1_a_bad_result_of_a_late_tile_stops_the_run_and_names_that_tile(tmp_path, image):
    fn = Counted(lambda tile: None if tile.shape == (7, 5) else components(tile))
    with refused(TileError, r"tile \(2, 3\) \[20:25, 30:33\]: fn returned None"):
        tile_process(image, fn, write_to=tmp_path / "out.zarr", **TILES)
    assert sorted(os.listdir(tmp_path)) == ["out.zarr.labels.blockbuster-stage", "temporary"]
