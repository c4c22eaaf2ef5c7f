"""The tiled result is the untiled one, as a partition, whatever the geometry."""

import dataclasses
import functools

import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage import measure
from strategies import Case, cases, chunked_cases

from blockbuster import tile_process

# Tiles that cut through the chunks of a dask image are allowed, and warned of.
pytestmark = pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
# Geometries in which tiled segmentation is known to go wrong.
THIN_REMAINDERS = Case((7, 13, 9), (3, 4, 4), overlap=2, connectivity=3, tiles_per_task=2, density=0.35)
HALO_BEYOND_THE_LAST_TILE = Case((11, 17), (5, 8), overlap=(3, 6), connectivity=2, density=0.4)
CHUNKS_THINNER_THAN_THE_HALO = Case(
    (13, 23), (6, 6), overlap=5, connectivity=2, kind="dask", chunks=((6, 6, 1), (2, 20, 1)), density=0.4
)
PLANES = Case((1, 29, 31), (1, 8, 8), overlap=(4, 3, 3), connectivity=3, tiles_per_task=1, density=0.4)
CORNERS_ALONE = Case((9, 9, 9), (1, 1, 3), connectivity=3, tiles_per_task=1, density=0.15, seed=3)
TILE_LARGER_THAN_IMAGE = Case((5, 3), (8, 8), overlap=10, connectivity=1, kind="zarr", stored=True)
ONE_VOXEL = Case((1, 1, 1, 1), (1, 1, 1, 1), overlap=1, connectivity=4, density=1.0)
EVERY_AXIS_ENDS_IN_ONE_VOXEL = Case((5, 7, 5, 7), (4, 6, 4, 6), overlap=3, connectivity=4, density=0.3)
IRREGULAR_CHUNKS_AS_TILES = Case(
    (20, 19), None, overlap=6, connectivity=2, kind="dask", chunks=((3, 11, 1, 5), (7, 2, 10)), tiles_per_task=5
)


def run_equals_whole(case, fn):
    """Compare a tiled run with the untiled function, in every respect that is promised."""
    labels = case.run(fn)
    assert labels.dtype == np.int32
    assert naive.partition_fault(labels, fn(case.mask)) == ""


@settings(max_examples=examples(120))
@given(cases())
@example(THIN_REMAINDERS)
@example(HALO_BEYOND_THE_LAST_TILE)
@example(CHUNKS_THINNER_THAN_THE_HALO)
@example(PLANES)
@example(CORNERS_ALONE)
@example(TILE_LARGER_THAN_IMAGE)
@example(ONE_VOXEL)
@example(EVERY_AXIS_ENDS_IN_ONE_VOXEL)
def test_B10_tiled_ndimage_label_equals_the_whole_image(case):
    run_equals_whole(case, functools.partial(naive.label, connectivity=case.connectivity))


@settings(max_examples=examples(35))
@given(cases(ndims=(2, 3)))
@example(THIN_REMAINDERS)
@example(HALO_BEYOND_THE_LAST_TILE)
@example(PLANES)
def test_tiled_skimage_label_equals_the_whole_image(case):
    run_equals_whole(case, functools.partial(measure.label, connectivity=case.connectivity))


@settings(max_examples=examples(35))
@given(chunked_cases())
@example(IRREGULAR_CHUNKS_AS_TILES)
def test_B12_irregular_chunks_as_tiles_equal_the_whole_image(case):
    run_equals_whole(case, functools.partial(naive.label, connectivity=case.connectivity))


@settings(max_examples=examples(35))
@given(cases())
@example(THIN_REMAINDERS)
def test_sequential_ids_are_exactly_one_to_n(case):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    labels, expected = case.run(fn, sequential_labels=True), fn(case.mask)
    assert naive.partition_fault(labels, expected) == ""
    assert sorted(set(labels.ravel().tolist()) | {0}) == list(range(expected.max() + 1))


@settings(max_examples=examples(25))
@given(cases(ndims=(2, 3)), st.data())
def test_flips_and_transposes_commute_with_the_run(case, data):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    ndim = len(case.shape)
    order = data.draw(st.permutations(range(ndim)))
    flipped = data.draw(st.sets(st.sampled_from(range(ndim))))
    case = dataclasses.replace(case, kind="numpy", chunks=None)

    def turn(array):
        return np.flip(array, tuple(flipped)).transpose(order)

    assert naive.partition_fault(case.run(fn, turn(case.mask)), turn(case.run(fn))) == ""


@settings(max_examples=examples(25))
@given(cases(ndims=(1, 2, 3)), st.data())
def test_zero_padding_changes_nothing(case, data):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    margins = data.draw(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3)) for _ in case.shape]))
    case = dataclasses.replace(case, kind="numpy", chunks=None)
    padded = case.run(fn, np.pad(case.mask, margins))
    inner = tuple(slice(low, low + n) for (low, _), n in zip(margins, case.shape, strict=True))
    assert naive.partition_fault(padded[inner], case.run(fn)) == ""


@settings(max_examples=examples(25))
@given(cases())
@example(dataclasses.replace(THIN_REMAINDERS, density=0.02))
@example(Case((12,), (3,), density=0.0))
@pytest.mark.filterwarnings("ignore:All .* tiles were skipped")
def test_B16_skipping_empty_tiles_changes_nothing_where_fn_finds_nothing_in_them(case):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    assert np.array_equal(case.run(fn, skip_empty=True, empty_threshold=0), case.run(fn))


@settings(max_examples=examples(25))
@given(cases(), st.integers(0, 2**32 - 1))
def test_B5_permuted_and_sparse_ids_change_nothing(case, seed):
    def disordered(tile):
        labels = naive.label(tile, case.connectivity)
        ids = np.random.default_rng(seed + tile.size).integers(1, 2**63, labels.max() + 1, np.uint64)
        return np.where(labels > 0, ids[labels], np.uint64(0))

    fn = functools.partial(naive.label, connectivity=case.connectivity)
    assert case.run(disordered).tobytes() == case.run(fn).tobytes()


@settings(max_examples=examples(15))
@given(cases(), st.sampled_from([1, 3, 7, None]))
def test_another_run_with_other_tasks_gives_the_same_bytes(case, tiles_per_task):
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    other = dataclasses.replace(case, tiles_per_task=tiles_per_task, stored=not case.stored)
    first, second, third = case.run(fn), case.run(fn), other.run(fn)
    assert first.dtype == second.dtype == third.dtype
    assert first.tobytes() == second.tobytes() == third.tobytes()


@pytest.mark.parametrize("tiles_per_task", [1, 4])
@pytest.mark.parametrize(
    ("ndim", "connectivity"), [(n, connectivity) for n in (2, 3, 4) for connectivity in range(1, n + 1)]
)
def test_B20_sparse_voxels_are_neighbours_as_the_connectivity_says_at_every_kind_of_seam(
    ndim, connectivity, tiles_per_task
):
    """So sparse that two voxels are rarely joined by a third: one neighbour too many would be seen."""
    shape, tile = {2: ((40, 40), 5), 3: ((15, 15, 15), 3), 4: ((6, 6, 6, 6), 2)}[ndim]
    case = Case(
        shape,
        (tile,) * ndim,
        connectivity=connectivity,
        tiles_per_task=tiles_per_task,
        density=0.5 / 3 ** (ndim - 1),
    )
    run_equals_whole(case, functools.partial(naive.label, connectivity=connectivity))


STACK = np.zeros((6, 40, 40), np.uint8)
STACK[:, 10:30, 14:18] = 1  # a plate through all planes and a seam
STACK[2, 5, 2:38] = 1  # a rod in one plane
STACK[4:, 35, :10] = 1


@pytest.mark.parametrize(
    ("overlap", "n_planes_seen"),
    [(16, {1}), ((0, 16, 16), {1}), ((2, 16, 16), {3, 4, 5})],
)
@pytest.mark.parametrize("tiles_per_task", [None, 1])
def test_B19_stack_in_planes_is_joined_along_the_axes_asked_for(overlap, n_planes_seen, tiles_per_task):
    seen = set()

    def label_planes(tile):
        seen.add(len(tile))
        return np.stack([naive.label(plane) + 1000 * z * (plane > 0) for z, plane in enumerate(tile)])

    def run(merge_axes):
        return tile_process(
            STACK,
            label_planes,
            tile_shape=(1, 16, 16),
            overlap=overlap,
            axes="zyx",
            merge_axes=merge_axes,
            tiles_per_task=tiles_per_task,
        )

    plane_by_plane = label_planes(STACK)
    seen.clear()
    assert naive.partition_fault(run("yx"), plane_by_plane) == ""
    assert naive.partition_fault(run("zyx"), naive.label(STACK)) == ""
    assert naive.partition_fault(run(None), naive.label(STACK)) == ""
    assert seen == n_planes_seen


def test_B15_time_points_and_channels_are_never_joined():
    image = np.ones((3, 2, 9, 9), np.uint8)
    labels = tile_process(image, naive.label, tile_shape=(1, 1, 4, 4), overlap=2, axes="tcyx")
    whole = np.arange(1, 7).reshape(3, 2, 1, 1) * image
    assert naive.partition_fault(labels, whole) == ""


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (4, 0, 7)])
def test_B10_image_of_size_zero_gives_labels_of_size_zero(shape):
    labels = tile_process(np.zeros(shape, np.uint8), naive.label, tile_shape=(2,) * len(shape), overlap=1)
    assert labels.shape == shape
    assert labels.dtype == np.int32


def test_B10_five_axes_equal_the_whole_image():
    mask = (np.random.default_rng(5).random((2, 3, 5, 3, 7)) < 0.3).astype(np.uint8)
    for connectivity in (1, 3, 5):
        fn = functools.partial(naive.label, connectivity=connectivity)
        labels = tile_process(mask, fn, tile_shape=(1, 2, 4, 2, 6), overlap=1, connectivity=connectivity)
        assert naive.partition_fault(labels, fn(mask)) == ""
