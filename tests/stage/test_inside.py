"""Masks: which tiles they meet, by comparing voxel by voxel, and runs of those tiles alone."""

import itertools
import os

import dask.array as da
import naive
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import refused, write_image
from scipy import ndimage
from strategies import Unsteady, small_tile_shapes, wide_shapes

from blockbuster import estimate_empty_tiles, plan_run, tile_process
from blockbuster.grid import TileGrid
from blockbuster.source import Source, open_source
from blockbuster.stage import open_stage
from blockbuster.stage.inside import find_tiles_inside

pytestmark = pytest.mark.filterwarnings("ignore::blockbuster.BlockbusterWarning")


def meets(mask, shape, tile_shape, place=None):
    """Which tiles share some of their inside with a voxel of the mask, one pair after the other.

    `place(axis)` gives where voxels of the mask begin and end along an axis, in voxels of the image; None: they
    cover it side by side.
    """

    def sides(axis):
        if place is not None:
            return place(axis)
        n = mask.shape[axis]
        return [(i * shape[axis] / n, (i + 1) * shape[axis] / n) for i in range(n)]

    found = {}
    for index, core, _ in naive.tiles(naive.cut(shape, tile_shape), (0,) * len(shape)):
        touched = []
        for axis, part in enumerate(core):
            pairs = enumerate(sides(axis))
            touched.append([i for i, (low, high) in pairs if min(high, part.stop) - max(low, part.start) > 1e-9])
        found[index] = any(mask[voxel] for voxel in itertools.product(*touched))
    return found


@st.composite
def masks(draw):
    """A shape, tiles, and a mask at some resolution."""
    shape = draw(wide_shapes((1, 2, 3)))
    factor = draw(st.sampled_from([0.5, 1, 2, 3.7, 8]))
    rounded = draw(st.sampled_from([np.floor, np.ceil, np.round]))
    sides = [max(1, int(rounded(n / factor))) for n in shape]
    mask = np.random.default_rng(draw(st.integers(0, 99))).random(sides) < draw(st.sampled_from([0.05, 0.3, 1.0]))
    return shape, draw(small_tile_shapes(shape)), mask


@settings(max_examples=examples(100))
@given(masks())
def test_tiles_meet_what_lies_in_them(case):
    shape, tile_shape, mask = case
    grid = TileGrid.regular(shape, tile_shape, (0,) * len(shape))
    found = find_tiles_inside(mask, None, 0, open_source(np.zeros(shape, "uint8")), grid)
    one = [n == 1 and m > 1 for n, m in zip(mask.shape, shape, strict=True)]
    whole = np.broadcast_to(mask, [m if o else n for n, m, o in zip(mask.shape, shape, one, strict=True)])
    assert {index: bool(found[index]) for index in grid.indices()} == meets(whole, shape, tile_shape)


@settings(max_examples=examples(60))
@given(masks(), st.tuples(st.integers(2, 32), st.integers(2, 72), st.integers(-72, 72)))
def test_tiles_meet_what_metadata_say(case, eighths):
    shape, tile_shape, mask = case
    # What a tile and a voxel share is nothing, or much more than rounding.
    step, mask_step, shift = (n / 8 for n in eighths)
    if len(shape) == 1:
        return
    axes = "zyx"[-len(shape) :]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, data, scale, moved in (("i", np.zeros(shape, "uint8"), step, 0), ("m", mask, mask_step, shift)):
            path = write_image(f"{folder}/{name}.zarr", data.astype("uint8"), axes)
            attributes = dict(zarr.open_group(path).attrs)
            ome = attributes.get("ome", attributes)
            ome["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [
                {"type": "scale", "scale": [scale] * len(shape)},
                {"type": "translation", "translation": [moved] * len(shape)},
            ]
            zarr.open_group(path).attrs.update(attributes)
        grid = TileGrid.regular(shape, tile_shape, (0,) * len(shape))
        image = f"{folder}/i.zarr"
        found = find_tiles_inside(f"{folder}/m.zarr", image, 0, open_source(image), grid)

    def place(axis):
        if mask.shape[axis] == 1 and shape[axis] > 1:
            return [(-np.inf, np.inf)]
        # The middle of voxel 0 of the image is at 0, that of the mask at the shift.
        lows = ((np.arange(mask.shape[axis] + 1) - 0.5) * mask_step + shift) / step + 0.5
        return list(itertools.pairwise(lows.tolist()))

    expected = meets(mask, shape, tile_shape, place)
    wide = {index: bool(found[index]) for index in grid.indices()}
    assert wide == expected


@settings(max_examples=examples(60))
@given(masks(), st.integers(0, 3), st.sampled_from(["touch", "agree"]), st.integers(0, 99), st.booleans())
def test_a_run_within_a_mask_is_one_with_all_other_tiles_as_background(case, overlap, merge, seed, is_lazy):
    shape, tile_shape, mask = case
    image = np.random.default_rng(seed).integers(0, 3, shape).astype("uint8")
    inside = meets(
        np.broadcast_to(mask, [n if m == 1 else m for n, m in zip(shape, mask.shape, strict=True)]),
        shape,
        tile_shape,
    )
    lengths = naive.cut(shape, tile_shape)
    halo = naive.spread_halo(overlap, [max(axis) for axis in lengths])
    fn, seen = Unsteady(seed, 0.02, 0, True), []

    def counted(tile):
        seen.append(tile.tobytes())
        return fn(tile)

    options = {"tile_shape": tile_shape, "overlap": overlap, "merge": merge, "tiles_per_task": seed % 5 + 1}
    given_as = da.from_array(image, chunks=5) if is_lazy else image
    found, report = tile_process(given_as, counted, mask=mask, return_report=True, **options)
    regions = [image[region].tobytes() for index, _, region in naive.tiles(lengths, halo) if inside[index]]
    assert sorted(seen) == sorted(regions)
    assert report.n_outside == report.n_skipped == len(inside) - sum(inside.values())
    # Every tile is told apart by where it lies, in a second channel that fn drops.
    numbers = np.zeros(shape, "uint8")
    for number, (_, core, _) in enumerate(naive.tiles(lengths, halo)):
        numbers[core] = number
    of_tile = {
        (numbers[region].tobytes(), numbers[region].shape): inside[index]
        for index, _, region in naive.tiles(lengths, halo)
    }

    def alone(tile):
        labels = fn(tile[1])
        return labels if of_tile[tile[0].tobytes(), tile[0].shape] else np.zeros_like(labels)

    both = np.stack([numbers, image])
    expected = tile_process(
        both, alone, axes="c" + "tzyx"[-len(shape) :].replace("t", "t"), channel=None, **options
    )
    assert np.array_equal(found, expected)


TILE, HALO = (16, 16), 3


@pytest.fixture
def damaged(tmp_path):
    """An image of which only those chunks can be read that tiles inside a mask want, with the mask."""
    random = np.random.default_rng(4)
    pixels = (random.random((96, 112)) < 0.5).astype("uint8") * 200
    mask = np.zeros((6, 7), bool)
    for tile in ((0, 0), (1, 1), (2, 1), (4, 5), (5, 4)):
        mask[tile] = True
    path = write_image(tmp_path / "image.zarr", pixels, "yx", chunks=TILE)
    wanted = np.zeros(mask.shape, bool)
    for index, _, region in naive.tiles(naive.cut(pixels.shape, TILE), (HALO, HALO)):
        if mask[index]:
            wanted[tuple(slice(part.start // 16, -(-part.stop // 16)) for part in region)] = True
    for y, x in zip(*np.nonzero(~wanted), strict=True):
        (tmp_path / "image.zarr" / "0" / "c" / str(y) / str(x)).write_bytes(b"nothing that zarr knows")
    return path, pixels, mask


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("skip_empty", [False, True])
def test_nothing_is_read_that_no_tile_inside_wants(damaged, scheduler, skip_empty, workers):
    path, pixels, mask = damaged
    options = {"tile_shape": TILE, "overlap": HALO, "skip_empty": skip_empty}
    with workers(scheduler):
        found, report = tile_process(path, naive.label, mask=mask, return_report=True, **options)
    assert report.n_outside == 37
    inside = np.kron(mask, np.ones(TILE, bool))
    assert np.array_equal(found > 0, (pixels > 0) & inside)
    with pytest.raises(Exception, match="cannot be|damaged|decod"):
        tile_process(path, naive.label, **options)


def test_what_would_be_skipped_is_found_without_reading_it(damaged):
    path, _, mask = damaged
    found = estimate_empty_tiles(path, TILE, overlap=HALO, threshold=10, mask=mask)
    assert np.array_equal(found.empty, ~mask)
    assert "37 of 42 tiles are empty (maximum <= 10), 37 of them outside of the mask" in str(found)
    found = estimate_empty_tiles(path, TILE, overlap=HALO, mask=mask)
    assert found.n_outside == 37


def test_a_plan_says_how_many_tiles_are_outside(damaged):
    path, _, mask = damaged
    assert "mask      37 of the tiles are outside and skipped" in str(plan_run(path, tile_shape=TILE, mask=mask))


@pytest.mark.parametrize("factor", [1, 2, 3.7, 64])
@pytest.mark.parametrize("kind", ["array", "dask", "zarr", "label image"])
def test_a_mask_of_any_resolution_and_kind_chooses_the_same_tiles(factor, kind, tmp_path):
    image = np.ones((256, 384), "uint8")
    mask = np.zeros([int(np.ceil(n / factor)) for n in image.shape], "int32")
    mask[: int(np.ceil(128 / factor)), : int(np.ceil(64 / factor))] = 7
    given_as = {"array": mask > 0, "dask": da.from_array(mask, chunks=3), "zarr": mask, "label image": mask}[kind]
    if kind in ("zarr", "label image"):
        given_as = write_image(tmp_path / "mask.zarr", mask, "yx")
        given_as = f"{given_as}/0" if kind == "zarr" else given_as
    _, report = tile_process(image, naive.label, tile_shape=(64, 64), mask=given_as, return_report=True)
    plan = plan_run(image, tile_shape=(64, 64), mask=given_as)
    expected = meets(mask > 0, image.shape, (64, 64))
    assert {i: bool(plan.inside[i]) for i in plan.grid.indices()} == expected
    assert report.n_tiles - report.n_outside == sum(expected.values())


def test_a_mask_of_a_plane_holds_in_all_planes_and_channels():
    image = np.zeros((2, 5, 40, 40), "uint8")
    mask = np.zeros((4, 4), bool)
    mask[0, 3] = True
    plan = plan_run(image, axes="czyx", channel=None, tile_shape=(1, 10, 10), mask=mask)
    assert plan.inside.shape == (1, 5, 4, 4)
    assert np.array_equal(plan.inside, np.broadcast_to(mask, (1, 5, 4, 4)))


def test_a_mask_of_everything_changes_nothing(tmp_path):
    image = (np.random.default_rng(0).random((60, 70)) < 0.5).astype("uint8")
    options = {"tile_shape": (20, 20), "overlap": 3, "merge": "agree"}
    expected = tile_process(image, naive.label, **options)
    assert np.array_equal(tile_process(image, naive.label, mask=np.ones((6, 7), bool), **options), expected)


@pytest.mark.filterwarnings("default::blockbuster.BlockbusterWarning")
def test_a_mask_of_nothing_is_warned_of():
    with pytest.warns(UserWarning, match="No tile meets the mask, and all 9 are background"):
        found = tile_process(
            np.ones((30, 30), "uint8"), naive.label, tile_shape=(10, 10), mask=np.zeros((30, 30), int)
        )
    assert not found.any()


@pytest.mark.parametrize(
    ("mask", "kind", "parts"),
    [
        (np.ones((30, 50), bool), ValueError, [r"\(30, 50\)", r"\(60, 60\)", "resolution"]),
        (np.ones((2, 60, 60), bool), ValueError, [r"\(2, 60, 60\)", r"\(60, 60\)"]),
        (np.ones((60, 60)), TypeError, ["float64", "booleans"]),
        ("nowhere.zarr", FileNotFoundError, ["mask: ", "nowhere.zarr"]),
        (3, TypeError, ["mask: ", "int"]),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_work(mask, kind, parts, folder):
    with refused(kind, *parts, folder=folder):
        tile_process(np.ones((60, 60), "uint8"), naive.label, tile_shape=(10, 10), mask=mask, write_to="x.zarr")


def test_a_run_is_continued_within_the_same_tiles_alone(tmp_path):
    image = (np.random.default_rng(0).random((60, 70)) < 0.5).astype("uint8")
    mask = np.zeros((6, 7), bool)
    mask[2:, 3:] = True
    calls = []

    def fn(tile):
        calls.append(1)
        if os.path.exists(tmp_path / "stop") and len(calls) > 4:
            raise RuntimeError("the power is off")
        return ndimage.label(tile)[0]

    options = {"tile_shape": (10, 10), "tiles_per_task": 1, "write_to": tmp_path / "x.zarr", "fn_version": "1"}
    (tmp_path / "stop").touch()
    with pytest.raises(Exception, match="the power is off"):
        tile_process(image, fn, mask=mask, **options)
    (tmp_path / "stop").unlink()
    other = ~mask
    with pytest.raises(ValueError, match="mask differs"):
        tile_process(image, fn, mask=other, resume=True, **options)
    # The same tiles by a mask of another resolution.
    n_before = len(calls)
    finer = np.kron(mask, np.ones((10, 10), bool))
    _, report = tile_process(image, fn, mask=finer, resume=True, return_report=True, **options)
    assert 0 < len(calls) - n_before < mask.sum()
    assert report.n_outside == 42 - mask.sum()
    kept = tile_process(image, fn, mask=mask, **{**options, "write_to": tmp_path / "y.zarr", "keep_stage": True})
    (stage,) = tmp_path.glob("*.blockbuster-stage")
    whole = tile_process(image, fn, **{**options, "write_to": tmp_path / "z.zarr", "keep_stage": True})
    inside = np.kron(mask, np.ones((10, 10), bool))
    stages = [open_stage(path).compute() for path in sorted(tmp_path.glob("*.blockbuster-stage"))]
    assert np.array_equal(stages[0], np.where(inside, stages[1], 0))
    assert kept.shape == whole.shape
    assert stage.name.startswith("y.zarr")


class Watched(Source):
    """An image that keeps what was read of it."""

    def __init__(self, pixels):
        super().__init__(pixels.shape, pixels.dtype, axes="yx")
        self.pixels, self.boxes = pixels, []

    def read(self, box):
        self.boxes.append(box)
        return self.pixels[box].copy()


def test_values_within_a_mask_are_read_of_tiles_inside_alone():
    pixels = (np.random.default_rng(4).random((40, 40)) < 0.5).astype("uint8") * 200
    mask = np.zeros((4, 4), bool)
    mask[[0, 1, 3, 3], [0, 1, 0, 3]] = True
    source = Watched(pixels)
    options = {"tile_shape": (10, 10), "overlap": 1, "tiles_per_task": 16, "fn_version": "1"}
    _, report = tile_process(
        source, naive.label, mask=mask, measure=["intensity_sum"], return_report=True, **options
    )
    read, wanted = np.zeros(pixels.shape, bool), np.zeros(pixels.shape, bool)
    for box in source.boxes:
        read[box] = True
    for index, _, region in naive.tiles(naive.cut(pixels.shape, (10, 10)), (1, 1)):
        if mask[index]:
            wanted[region] = True
    assert not (read & ~wanted).any()
    inside = np.kron(mask, np.ones((10, 10), bool))
    assert report.objects["intensity_sum"].sum() == pixels[inside].sum(dtype=int)


@pytest.mark.parametrize(
    ("units", "steps"),
    [
        (("nanometer", None), (500, 1000)),
        ((None, "nanometer"), (500, 1000)),
        (("nanometer", "micrometer"), (500, 1)),
        (("micrometer", "millimeter"), (0.5, 0.001)),
        (("parsec", "parsec"), (0.5, 1)),
    ],
)
def test_units_are_told_apart_where_both_are_stated(units, steps, tmp_path):
    mask = np.zeros((20, 20), "uint8")
    mask[0, 3] = 1
    for name, data, unit, step in zip("im", (np.zeros((40, 40), "uint8"), mask), units, steps, strict=True):
        group = zarr.open_group(write_image(tmp_path / f"{name}.zarr", data, "yx"))
        ome = group.attrs["ome"]
        described = ome["multiscales"][0]
        described["axes"] = [{**axis, **({"unit": unit} if unit else {})} for axis in described["axes"]]
        described["datasets"][0]["coordinateTransformations"] = [
            {"type": "scale", "scale": [step, step]},
            # The corner of the first voxel is at 0.
            {"type": "translation", "translation": [step / 2, step / 2]},
        ]
        group.attrs["ome"] = ome
    plan = plan_run(tmp_path / "i.zarr", tile_shape=(2, 2), mask=tmp_path / "m.zarr")
    assert np.argwhere(plan.inside).tolist() == [[0, 3]]
