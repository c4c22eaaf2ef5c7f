import functools
import logging
import math

import dask
import numpy as np
import psutil
import pytest
from gpus import gpu_memory
from hypothesis import example, given
from hypothesis import strategies as st
from pages import DOCS

from blockbuster import BlockbusterWarning
from blockbuster.stage.bricks import BRICK_VOXELS
from blockbuster.tiling import auto_tile_shape_cellpose
from blockbuster.tiling.heuristics import measure_budget
from blockbuster.tiling.network import TileFit, network_memory

# What a run holds, beside bricks of image and labels.
RUN = 100 * 2**20
shapes = st.lists(st.integers(0, 20_000), min_size=2, max_size=5).map(tuple)
diameters = st.floats(0.5, 3000)


@pytest.fixture
def roomy_memory():
    """Skip where less than 16 GiB are free: sizes are then set by the least width alone."""
    if min(measure_budget(use_gpu=False).limits.values()) < 2**34:
        pytest.skip("needs 16 GiB of free memory")


@pytest.fixture
def leave_free(monkeypatch):
    """Give a function that lets a batch system leave so many GiB to this process."""

    def leave(gib):
        held = psutil.Process().memory_info().rss
        monkeypatch.setenv("SLURM_MEM_PER_NODE", f"{(held + gib * 2**30) // 2**10}K")

    return leave


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
    least = 4 * diameter if volume else max(256, 4 * diameter)
    assert all(length >= min(most, least) for length, most in zip(tile[-2:], whole[-2:], strict=True))
    if volume:
        assert tile[-3] >= min(whole[-3], 2 * diameter)
        assert set(tile[:-3]) <= {1}
    else:
        assert set(tile[:-2]) <= {1}


def test_planes_are_cut_from_a_stack_unless_3d():
    shape = (5, 2, 90, 200, 240)
    assert auto_tile_shape_cellpose(shape, "uint8") == (1, 1, 1, 200, 240)
    assert auto_tile_shape_cellpose(shape, "uint8", do_3D=True) == (1, 1, 90, 200, 240)


def measured():
    """List the rows of docs/benchmarks.md: what, the tile, MiB that were measured, MiB by the estimate."""
    text = (DOCS / "benchmarks.md").read_text().partition("## Memory of models")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]
    for version, shape, batch_size, diameter, note, peak in [row for row in rows[2:] if len(row) == 6]:
        tile = tuple(map(int, shape.split(" x ")))
        memory = network_memory(len(tile), on_gpu="as on a GPU" in note, version=version)
        fit = TileFit(tile, 0, float(diameter), 0 if "no network" in note else int(batch_size))
        estimate = memory.tile_bytes(math.prod(tile), fit) / 2**20
        yield " ".join((version, shape, batch_size, diameter, note)), tile, int(peak), estimate


def test_no_tile_took_more_than_it_is_estimated_at():
    rows = list(measured())
    assert len(rows) >= 40
    assert [row for row in rows if row[2] > row[3]] == []


def test_a_large_tile_took_more_than_two_thirds_of_what_it_is_estimated_at():
    large = [row for row in measured() if row[1][-1] >= 256 and math.prod(row[1]) >= 2**20]
    large = [row for row in large if "flow_threshold" not in row[0]]
    assert len(large) >= 20
    assert [row for row in large if row[2] < row[3] * 2 / 3] == []


@given(
    st.integers(0, 2**40), st.floats(1, 500), st.integers(1, 64), st.sampled_from(["3.1", "4.2"]), st.booleans()
)
def test_largest_tile_fills_its_memory_and_one_voxel_more_does_not_fit(
    n_bytes, diameter, batch_size, version, gpu
):
    for least in ((256, 300), (120, 256, 256), (1, 256, 256)):
        memory = network_memory(len(least), on_gpu=gpu, version=version)
        fit = TileFit(least, 10, diameter, batch_size)
        voxels = memory.most_voxels(n_bytes, fit)
        assert voxels == 0 or memory.tile_bytes(voxels, fit) <= n_bytes
        assert memory.tile_bytes(voxels + 1, fit) > n_bytes


def test_enlargement_counts_the_planes_that_the_network_is_given():
    for diameter, lengths in ((30, (40, 300, 256)), (15, (40, 300, 100)), (60, (100, 900, 700))):
        z, y, x = (length * 30 / diameter for length in lengths)
        seen = [n * max(256, a) * max(256, b) for n, a, b in ((z, y, x), (y, z, x), (x, z, y))]
        assert TileFit(lengths, 1, diameter).enlargement() == pytest.approx(max(seen) / math.prod(lengths))


@pytest.mark.usefixtures("roomy_memory")
@pytest.mark.parametrize("diameter", [15, 30, 60])
@pytest.mark.parametrize(
    ("gib", "scheduler", "n_workers"),
    [(3, "threads", 1), (5, "threads", 16), (8, "synchronous", 1), (12, "threads", 2), (12, "processes", 2)],
)
@pytest.mark.parametrize("do_3d", [False, True])
def test_tiles_and_networks_take_more_than_half_of_what_is_free_and_no_more_than_all(
    leave_free, caplog, do_3d, gib, scheduler, n_workers, diameter
):
    leave_free(gib)
    n_spatial = 3 if do_3d else 2
    shape = (2000, 30_000, 30_000)
    with dask.config.set(scheduler=scheduler, num_workers=n_workers):
        free = min(measure_budget(use_gpu=False).limits.values())
        tile = auto_tile_shape_cellpose(shape, "uint8", do_3D=do_3d, diameter=diameter)
    memory = network_memory(n_spatial, on_gpu=False)
    with_halo = tuple(length + 4 * diameter for length in tile[-n_spatial:])
    taken = memory.model + memory.tile_bytes(math.prod(with_halo), TileFit(with_halo, 9, diameter)) + RUN
    n_threads = n_workers if scheduler == "threads" else 1
    taken += max(2, n_threads) * BRICK_VOXELS * (1 + 4)
    if scheduler == "processes":
        taken = n_workers * (taken + 600 * 2**20)
    if tile[-n_spatial:] == (2 * diameter, *[4 * diameter] * 2):
        assert "memory may not suffice for Cellpose" in caplog.text
        return
    # What is free changes between the two measurements; some MiB cover that.
    assert taken <= free * 9 / 10 + 50 * 2**20
    assert taken >= free / 2 or math.prod(tile) > 0.8 * (2**24 if do_3d else 2**22)
    assert not caplog.records


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("memory_limit", ["3GiB", "6GiB", "10GiB"])
def test_workers_of_a_client_are_sized_by_their_own_limit(leave_free, memory_limit):
    distributed = pytest.importorskip("distributed")
    leave_free(1)
    limit = int(memory_limit.removesuffix("GiB")) * 2**30
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, memory_limit=memory_limit, dashboard_address=":0"
    )
    with cluster, distributed.Client(cluster):
        tile = auto_tile_shape_cellpose((500, 30_000, 30_000), "uint8", do_3D=True, diameter=20)
    memory = network_memory(3, on_gpu=False)
    with_halo = tuple(length + 4 * 20 for length in tile)
    taken = memory.model + memory.tile_bytes(math.prod(with_halo), TileFit(with_halo, 9, 20))
    taken += RUN + 600 * 2**20 + 2 * BRICK_VOXELS * (1 + 4)
    assert limit / 2 < taken < 0.8 * limit or (limit < 2**32 and tile == (40, 80, 80))


@pytest.mark.usefixtures("roomy_memory")
def test_less_memory_gives_narrower_volumes_before_it_does_not_suffice(leave_free, caplog):
    tiles = []
    for gib in (12, 8, 5):
        leave_free(gib)
        with dask.config.set(num_workers=1):
            tiles.append(auto_tile_shape_cellpose((2000, 30_000, 30_000), "uint16", do_3D=True))
    assert not caplog.records
    assert tiles == sorted(tiles, reverse=True)
    assert tiles[0][0] == 120
    assert tiles[-1][0] == 90
    assert tiles[-1][1] >= 180


@pytest.mark.usefixtures("roomy_memory")
def test_larger_batches_leave_less_for_the_tile(leave_free):
    leave_free(4)
    with dask.config.set(num_workers=1):
        tiles = [auto_tile_shape_cellpose((9000, 9000), "uint8", batch_size=n) for n in (1, 8, 32)]
    assert tiles[0] >= tiles[1] > tiles[2]


@pytest.mark.parametrize(
    ("batch_size", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_batch_size_that_is_no_positive_integer_is_refused(batch_size, error):
    with pytest.raises(error, match="batch_size is"):
        auto_tile_shape_cellpose((300, 300), "uint8", batch_size=batch_size)


@pytest.mark.usefixtures("roomy_memory")
def test_small_cells_cost_more_memory_and_large_ones_need_wider_tiles(leave_free):
    leave_free(3)
    shape = (50_000, 50_000)
    small, usual, large = (auto_tile_shape_cellpose(shape, "uint16", diameter=d)[0] for d in (5, 30, 400))
    assert small < usual < large
    assert large >= 1600


def test_too_little_memory_keeps_the_least_width_and_is_logged(caplog, leave_free):
    leave_free(2)
    tile = auto_tile_shape_cellpose((5000, 5000), "uint16", diameter=80)
    assert tile == (320, 320)
    assert "memory may not suffice for Cellpose: a tile of (320, 320), the least" in caplog.text
    assert "with a halo of 2 diameters" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_diameter_none_is_thirty_pixels():
    shape = (3000, 3000)
    assert auto_tile_shape_cellpose(shape, "uint8", diameter=None) == auto_tile_shape_cellpose(
        shape, "uint8", diameter=30
    )


def test_partial_is_called_with_shape_and_dtype():
    tile_shape = functools.partial(auto_tile_shape_cellpose, diameter=np.float32(20))
    assert tile_shape((4, 250, 240), np.dtype("uint16")) == (1, 250, 240)


@pytest.mark.skipif(gpu_memory() is not None, reason="this machine has a GPU")
def test_without_a_gpu_there_is_one_warning_and_ram_counts():
    with pytest.warns(BlockbusterWarning, match="sized by free RAM") as caught:
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
