import functools
import itertools
import logging
import math
import os

import dask
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blockbuster.tiling import auto_tile_shape
from blockbuster.tiling.heuristics import (
    MemoryBudget,
    bytes_per_voxel,
    measure_budget,
    plan_tile_shape,
    region_voxels,
    voxels_for_balance,
)

DTYPES = ["bool", "uint8", "int16", ">u2", "float32", "float64", "complex128"]
shapes = st.lists(st.integers(0, 5000), min_size=1, max_size=5).map(tuple)
dtypes = st.sampled_from(DTYPES)
targets = st.integers(64, 2**34)


def bytes_with_halo(tile, shape, dtype):
    """The documented memory of a tile, computed for the tile in the middle of the image, box by box."""
    voxels = 1
    for length, whole in zip(tile, shape, strict=True):
        depth = 0 if length == 1 else min(32, math.ceil(length / 4))
        voxels *= min(max(1, whole), length + 2 * depth)
    itemsize = np.dtype(dtype).itemsize
    copies = 2 * max(8, itemsize)
    labels = 2 * np.dtype("int32").itemsize
    return voxels * (itemsize + copies + labels)


def naive_plan(shape, voxel_bytes, target_bytes, max_voxels, halo, minimum):
    """Every tile from one voxel to the image, in the order in which axes grow; the last that fits."""
    leading, plane = shape[:-2], shape[-2:]
    z = leading[-1:]
    least_z, least_yx = minimum

    def tile_of(yx, depths):
        return (*depths, *(min(yx, length) for length in plane))

    ones = [1] * len(leading)
    chain = [tile_of(yx, ones) for yx in range(1, min(least_yx, max(plane)) + 1)]
    yx = min(least_yx, max(plane))
    depths = list(ones)
    for depth in range(1, min(least_z, *z) + 1) if z else []:
        depths[-1] = depth
        chain.append(tile_of(yx, depths))
    chain += [tile_of(wider, depths) for wider in range(yx, max(plane) + 1)]
    for axis in reversed(range(len(leading))):
        for depth in range(depths[axis], leading[axis] + 1):
            depths[axis] = depth
            chain.append(tile_of(max(plane), depths))

    def fits(tile):
        return region_voxels(tile, shape, halo) * voxel_bytes <= target_bytes and math.prod(tile) <= max_voxels

    fitting = list(itertools.takewhile(fits, chain))
    return fitting[-1] if fitting else (1,) * len(shape)


@given(shapes, dtypes, targets)
@example((100_000, 100_000, 100_000), "uint16", 2**28)
@example((1, 1), "uint8", 64)
@example((1, 3000, 5000), "float32", 2**24)
@example((7, 0, 4000), "uint16", 2**20)
@example((0,), "bool", 2**20)
def test_tile_lies_within_the_image_and_the_target(shape, dtype, target):
    tile = auto_tile_shape(shape, dtype, target_bytes=target)
    assert len(tile) == len(shape)
    assert all(type(length) is int for length in tile)
    assert all(1 <= length <= max(1, whole) for length, whole in zip(tile, shape, strict=True))
    assert bytes_with_halo(tile, shape, dtype) <= target


@given(shapes, dtypes, targets, targets)
def test_more_memory_never_shortens_an_axis(shape, dtype, one, other):
    small, large = (auto_tile_shape(shape, dtype, target_bytes=t) for t in sorted((one, other)))
    assert all(a <= b for a, b in zip(small, large, strict=True))


@given(shapes.filter(lambda shape: len(shape) > 2), dtypes, targets)
def test_an_axis_is_reduced_only_when_those_before_it_are_at_their_minimum(shape, dtype, target):
    tile = auto_tile_shape(shape, dtype, target_bytes=target)
    minimum_z = min(32, max(1, shape[-3]))
    minimum = (1,) * (len(shape) - 3) + (minimum_z,)
    for axis, (length, least) in enumerate(zip(tile, minimum, strict=False)):
        if length > least:
            assert tile[axis + 1 :] == tuple(max(1, whole) for whole in shape[axis + 1 :])
    if max(tile[-2:]) > 256:  # z may be shorter than 32 only to be cut evenly
        assert math.ceil(shape[-3] / tile[-3]) <= math.ceil(shape[-3] / 32)


@given(shapes, dtypes)
def test_an_image_that_fits_is_one_tile(shape, dtype):
    whole = tuple(max(1, length) for length in shape)
    target = bytes_with_halo(whole, whole, dtype)
    assert auto_tile_shape(shape, dtype, target_bytes=target) == whole


@given(
    st.lists(st.integers(1, 15), min_size=1, max_size=4).map(tuple),
    st.integers(1, 40_000),
    st.integers(1, 4000),
    st.none() | st.integers(0, 9),
    st.tuples(st.integers(1, 4), st.integers(1, 8)),
)
def test_plan_equals_the_naive_walk_up(shape, target, max_voxels, halo, minimum):
    tile = plan_tile_shape(shape, target // 3, max_voxels=max_voxels, halo=halo, minimum=minimum)
    # Below 16 voxels nothing is rounded, so only the even cut remains to be done.
    longest = naive_plan(shape, 3, target, max_voxels, halo, minimum)
    assert tile == tuple(
        math.ceil(length / math.ceil(length / most)) for length, most in zip(shape, longest, strict=True)
    )


@given(st.integers(17, 20_000), st.integers(16, 5000))
def test_few_tiles_on_an_axis_are_of_nearly_equal_length(length, longest):
    (tile,) = plan_tile_shape((length,), 2**40, max_voxels=longest)
    n_tiles = math.ceil(length / tile)
    last = length - (n_tiles - 1) * tile
    assert tile <= longest
    assert n_tiles > 4 or last * 2 >= tile


def test_tiles_of_a_large_plane_are_nearly_square_and_align_with_storage():
    tile = auto_tile_shape((20_000, 50_000), "uint16", target_bytes=2**29)
    assert 0.8 < tile[0] / tile[1] < 1.25
    assert [length % 256 for length in tile] == [0, 0]


def test_leading_axes_go_first_and_z_stays_thick():
    tile = auto_tile_shape((20, 3, 64, 2048, 2048), "uint16", target_bytes=2**28)
    assert tile[:3] == (1, 1, 32)
    assert tile[3] == tile[4] >= 256


def test_planes_stay_whole_while_z_gives_way():
    assert auto_tile_shape((500, 300, 400), "uint8", target_bytes=2**28)[1:] == (300, 400)


def test_z_gives_way_before_y_and_x_shrink_below_256():
    assert auto_tile_shape((64, 2048, 2048), "uint16", target_bytes=2**24) == (4, 256, 256)


@pytest.mark.parametrize(
    "use_gpu",
    [False, pytest.param(True, marks=pytest.mark.filterwarnings("ignore:use_gpu"))],
)
@pytest.mark.parametrize("shape", [(100_000, 100_000), (2000, 4000, 4000), (10**9,), (5, 3, 60, 3000, 3000)])
def test_all_tiles_at_once_fit_half_the_free_memory(shape, use_gpu):
    budget = measure_budget(use_gpu=use_gpu)
    tile = auto_tile_shape(shape, "uint16", use_gpu=use_gpu)
    # What is free changes between the two measurements; a tenth covers that.
    assert bytes_with_halo(tile, shape, "uint16") * budget.n_running <= 1.1 * min(budget.limits.values()) / 2
    assert math.prod(tile) <= 4096 * 4096


def test_tiles_at_once_follow_the_cpus_and_dasks_setting():
    assert 1 <= measure_budget(use_gpu=False).n_running <= (os.cpu_count() or 1)
    with dask.config.set(num_workers=77):
        assert measure_budget(use_gpu=False).n_running == 77


def test_more_tiles_at_once_make_smaller_tiles():
    with dask.config.set(num_workers=1):
        alone = auto_tile_shape((8000, 8000), "uint8")
    with dask.config.set(num_workers=16):
        shared = auto_tile_shape((8000, 8000), "uint8")
    assert math.prod(shared) < math.prod(alone)
    assert math.ceil(8000 / shared[0]) * math.ceil(8000 / shared[1]) >= 2 * 16


@pytest.mark.parametrize(
    ("shape", "tile"),
    [((1000, 1000), (1000, 1000)), ((128, 1024, 1024), (32, 256, 256)), ((30, 200, 5000), (30, 200, 256))],
)
def test_occupying_cpus_keeps_tiles_worth_a_call_and_z_thick(shape, tile):
    most = voxels_for_balance(shape, n_running=64, most=2**24)
    assert plan_tile_shape(shape, 2**60, max_voxels=most) == tile


def test_one_tile_at_a_time_is_not_made_smaller_for_balance():
    assert voxels_for_balance((2048, 2048), n_running=1, most=2**24) == 2**24


def test_target_bytes_lifts_the_limit_on_voxels():
    assert auto_tile_shape((8192, 8192), "uint8", target_bytes=2**40) == (8192, 8192)


def test_exhausted_memory_still_gives_usable_tiles_and_is_logged(caplog, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1K")
    tile = auto_tile_shape((5000, 5000), "uint16")
    assert min(tile) >= 64
    assert bytes_with_halo(tile, (5000, 5000), "uint16") <= 2**20
    assert "memory is nearly exhausted" in caplog.text
    assert "slurm" in caplog.text


def test_least_limit_counts():
    budget = MemoryBudget({"system": 2**33, "slurm": 2**31, "VRAM": 2**34}, n_running=4)
    assert budget.tile_bytes == 2**31 // 2 // 4


def test_verbose_logs_the_choice_and_its_reasons(caplog):
    with caplog.at_level(logging.INFO, logger="blockbuster"):
        tile = auto_tile_shape((9000, 9000), "uint16", verbose=True)
    assert str(tile) in caplog.text
    assert "system" in caplog.text
    assert "26 bytes per voxel" in caplog.text
    assert {record.name for record in caplog.records} == {"blockbuster"}


def test_quiet_unless_verbose(caplog):
    with caplog.at_level(logging.INFO, logger="blockbuster"):
        auto_tile_shape((9000, 9000), "uint16", target_bytes=2**26)
    assert caplog.text == ""


def test_partial_is_called_with_shape_and_dtype():
    tile_shape = functools.partial(auto_tile_shape, target_bytes=2**26)
    assert tile_shape((9000, 9000), np.dtype("uint16")) == auto_tile_shape(
        (9000, 9000), "uint16", target_bytes=2**26
    )


def test_numpy_integers_and_lists_are_shapes():
    assert auto_tile_shape([np.int64(40), np.uint8(50)], np.float32, target_bytes=np.int64(2**26)) == (40, 50)


@pytest.mark.parametrize("shape", [5, None, "ab", (4.0, 4), (float("nan"), 4), (None, 4)])
def test_shape_that_is_no_sequence_of_integers_is_refused(shape):
    with pytest.raises(TypeError, match=r"shape is .* tuple of integers"):
        auto_tile_shape(shape, "uint8")


@pytest.mark.parametrize(("shape", "rule"), [((), "at least one axis"), ((4, -1), "0 or more")])
def test_empty_and_negative_shapes_are_refused(shape, rule):
    with pytest.raises(ValueError, match=rule):
        auto_tile_shape(shape, "uint8")


@pytest.mark.parametrize("dtype", [None, "uint7", object, "U5", "datetime64[s]", [("a", "u1")], 3.5])
def test_dtype_that_holds_no_numbers_is_refused(dtype):
    with pytest.raises(TypeError, match=r"dtype is .* dtype of numbers"):
        auto_tile_shape((4, 4), dtype)


@pytest.mark.parametrize("target", [2.0**20, "1GB", True])
def test_target_that_is_no_integer_is_refused(target):
    with pytest.raises(TypeError, match=r"target_bytes is .* integer number of bytes"):
        auto_tile_shape((4, 4), "uint8", target_bytes=target)


@pytest.mark.parametrize("target", [-1, 0, 24])
def test_target_below_one_voxel_is_refused(target):
    with pytest.raises(ValueError, match="one voxel of this image takes 25 bytes"):
        auto_tile_shape((4, 4), "uint8", target_bytes=target)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_per_voxel_are_the_documented_sum(dtype):
    assert bytes_per_voxel(np.dtype(dtype)) == bytes_with_halo((1,), (1,), dtype)
