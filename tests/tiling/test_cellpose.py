import functools
import logging
import math

import dask
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blockbuster.tiling import auto_tile_shape_cellpose, free_vram_bytes
from blockbuster.tiling.heuristics import measure_budget

shapes = st.lists(st.integers(0, 20_000), min_size=2, max_size=5).map(tuple)
diameters = st.floats(0.5, 3000)


@pytest.fixture
def roomy_memory():
    """Skip where less than 16 GiB are free: sizes are then set by the least width alone."""
    if min(measure_budget(use_gpu=False).limits.values()) < 2**34:
        pytest.skip("needs 16 GiB of free memory")


@given(shapes, diameters, st.booleans())
@example((1, 1), 30, False)
@example((1, 5000, 5000), 30, True)
@example((100_000, 100_000, 100_000), 30, True)
@example((3, 0, 700), 30, True)
@example((900, 700), 1e-300, False)
@example((900, 700), 1e308, False)
def test_tile_lies_within_the_image_and_spans_several_diameters(shape, diameter, volume):
    volume = volume and len(shape) > 2
    tile = auto_tile_shape_cellpose(shape, "uint16", diameter=diameter, do_3D=volume)
    whole = [max(1, length) for length in shape]
    assert len(tile) == len(shape)
    assert all(type(length) is int and length >= 1 for length in tile)
    assert all(length <= most for length, most in zip(tile, whole, strict=True))
    assert all(length >= min(most, 8 * diameter) for length, most in zip(tile[-2:], whole[-2:], strict=True))
    assert all(length >= min(most, 256) for length, most in zip(tile[-2:], whole[-2:], strict=True))
    if volume:
        assert tile[-3] >= min(whole[-3], 4 * diameter)
        assert set(tile[:-3]) <= {1}
    else:
        assert set(tile[:-2]) <= {1}


def test_planes_are_cut_from_a_stack_unless_3d():
    shape = (5, 2, 90, 200, 240)
    assert auto_tile_shape_cellpose(shape, "uint8") == (1, 1, 1, 200, 240)
    assert auto_tile_shape_cellpose(shape, "uint8", do_3D=True) == (1, 1, 90, 200, 240)


@pytest.mark.usefixtures("roomy_memory")
def test_tile_and_network_fit_half_the_free_memory():
    with dask.config.set(num_workers=2):
        budget = measure_budget(use_gpu=False)
        tile = auto_tile_shape_cellpose((30_000, 30_000), "uint16")
    pixels_with_halo = math.prod(length + 2 * 30 for length in tile)
    per_tile = 1.5 * 2**30 + pixels_with_halo * (2 + 8 + 128)
    assert 1.25 * 2**30 + 2 * per_tile <= 1.1 * min(budget.limits.values()) / 2


@pytest.mark.usefixtures("roomy_memory")
def test_small_cells_cost_more_memory_and_large_ones_need_wider_tiles():
    shape = (50_000, 50_000)
    small, usual, large = (auto_tile_shape_cellpose(shape, "uint16", diameter=d)[0] for d in (5, 30, 400))
    assert small < usual < large
    assert large >= 3200


def test_too_little_memory_keeps_the_least_width_and_is_logged(caplog, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "3G")
    tile = auto_tile_shape_cellpose((5000, 5000), "uint16", diameter=40)
    assert tile == (320, 320)
    assert "memory may not suffice for Cellpose" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_diameter_none_is_thirty_pixels():
    shape = (3000, 3000)
    assert auto_tile_shape_cellpose(shape, "uint8", diameter=None) == auto_tile_shape_cellpose(
        shape, "uint8", diameter=30
    )


def test_partial_is_called_with_shape_and_dtype():
    tile_shape = functools.partial(auto_tile_shape_cellpose, diameter=np.float32(20))
    assert tile_shape((4, 250, 240), np.dtype("uint16")) == (1, 250, 240)


@pytest.mark.skipif(free_vram_bytes() is not None, reason="this machine has a GPU")
def test_without_a_gpu_there_is_one_warning_and_ram_counts():
    with pytest.warns(RuntimeWarning, match="sized by free RAM") as caught:
        tile = auto_tile_shape_cellpose((900, 800), "uint8", use_gpu=True)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with dask.config.set(num_workers=1):
        assert tile == auto_tile_shape_cellpose((900, 800), "uint8")


@pytest.mark.parametrize("diameter", [0, -5, float("nan"), float("inf")])
def test_diameter_that_is_not_positive_and_finite_is_refused(diameter):
    with pytest.raises(ValueError, match=r"diameter is .* positive, finite number of pixels"):
        auto_tile_shape_cellpose((300, 300), "uint8", diameter=diameter)


@pytest.mark.parametrize("diameter", ["30", True, [30], 3j])
def test_diameter_that_is_no_number_is_refused(diameter):
    with pytest.raises(TypeError, match=r"diameter is .* number of pixels"):
        auto_tile_shape_cellpose((300, 300), "uint8", diameter=diameter)


@pytest.mark.parametrize(
    ("shape", "do_3d", "needed"), [((300,), False, "y and x"), ((300, 300), True, "z, y and x")]
)
def test_too_few_axes_are_refused(shape, do_3d, needed):
    with pytest.raises(ValueError, match=needed):
        auto_tile_shape_cellpose(shape, "uint8", do_3D=do_3d)
