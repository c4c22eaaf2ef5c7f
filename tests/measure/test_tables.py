"""The table of a run against that of the whole label image, by scikit-image."""

import dask
import dask.array as da
import naive
import numpy as np
import pyarrow.parquet as parquet
import pytest
import tifffile
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from measure.oracle import at_border, fault, tiles_spanned, whole_table
from outcomes import refused, write_image
from scipy import ndimage
from skimage.filters import threshold_otsu
from strategies import Unsteady, small_tile_shapes, wide_shapes

from blockbuster import (
    load_ome_zarr,
    make_local_cluster,
    measure_labels,
    plan_run,
    read_objects,
    read_report,
    tile_process,
)
from blockbuster.grid import TileGrid
from blockbuster.report import OBJECTS

VALUES = ["intensity_mean", "intensity_min", "intensity_max", "intensity_sum", "intensity_std"]
DTYPES = ["bool", "uint8", "int8", "uint16", ">u2", "int16", "uint32", "int32", "float32", "float64"]
MEASURE = ["extent", *VALUES]

pytestmark = pytest.mark.filterwarnings("ignore::blockbuster.BlockbusterWarning")


def values_of(dtype, shape, seed):
    """Values as images have them, of the whole range of integers."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(100, 30, shape).astype(dtype)
    if dtype == "bool":
        return random.random(shape) < 0.5
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max, shape, endpoint=True, dtype=np.int64).astype(dtype)


@st.composite
def cases(draw):
    """A mask or tissue, values of some channels, a function that finds it more or less, tiles, and a rule."""
    shape = draw(wide_shapes((2, 3)))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    block = draw(st.integers(1, 5))
    tissue = random.integers(0, 4, [-(-n // block) for n in shape])
    for axis in range(len(shape)):
        tissue = tissue.repeat(block, axis).take(range(shape[axis]), axis)
    values = values_of(draw(st.sampled_from(DTYPES)), (draw(st.integers(1, 3)), *shape), seed)
    image = np.concatenate([tissue[None].astype(values.dtype), values])
    options = {
        "tile_shape": draw(small_tile_shapes(shape)),
        "overlap": draw(st.integers(0, 4)),
        "merge": draw(st.sampled_from(["touch", "agree", "agree", "none"])),
        "tiles_per_task": draw(st.sampled_from([None, 1, 2, 7])),
        "sequential_labels": draw(st.booleans()),
    }
    noise = draw(st.sampled_from([0.0, 0.02, 0.3]))
    return image, OfFirst(Unsteady(seed % 100, noise, 0, draw(st.booleans()))), options


class OfFirst:
    """A function of the first channel, for what sees all of them."""

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, tile):
        return self.fn(tile[0])


@settings(max_examples=examples(60))
@given(cases(), st.booleans())
def test_a_table_is_that_of_the_whole_label_image(case, is_lazy):
    image, fn, options = case
    axes = "cyx" if image.ndim == 3 else "czyx"
    given_as = da.from_array(image, chunks=(1, *(5,) * (image.ndim - 1))) if is_lazy else image
    labels, report = tile_process(
        given_as, fn, axes=axes, channel=None, measure=MEASURE, return_report=True, **options
    )
    table = report.objects
    channels = [str(i) for i in range(len(image))]
    assert not fault(table, whole_table(labels, np.moveaxis(image, 0, -1), channels))
    grid = TileGrid.regular(labels.shape, options["tile_shape"], (0,) * labels.ndim)
    assert np.array_equal(table["n_tiles"], tiles_spanned(labels, grid.lengths))
    assert np.array_equal(table["touches_border"], at_border(labels))
    again = measure_labels(labels, image, axes=axes, measure=MEASURE)
    assert not fault(again, whole_table(labels, np.moveaxis(image, 0, -1), channels))


@settings(max_examples=examples(30))
@given(cases())
def test_the_weakest_agreement_is_that_of_the_joined_pairs_of_an_object(case):
    image, fn, options = case
    tissue = image[0].astype("uint8")
    options |= {"merge": "agree", "sequential_labels": False}
    labels, report = tile_process(tissue, fn.fn, measure=True, return_report=True, **options)
    lengths = naive.cut(tissue.shape, options["tile_shape"])
    halo = naive.spread_halo(options["overlap"], [max(axis) for axis in lengths])
    seen = naive.look(tissue, fn.fn, lengths, halo)
    ids, tile_of_voxel = naive.assemble(seen, tissue.shape)
    found = naive.compare(seen, tissue.shape, halo, tissue.ndim)
    weakest = dict.fromkeys(np.unique(labels[labels > 0]).tolist(), np.nan)
    for one, other in naive.joins(found, 0.4, ids, tile_of_voxel):
        (label,) = np.unique(labels[ids == one]).tolist()
        weakest[label] = np.fmin(weakest[label], found[one, other][0])
    column = report.objects.set_index("label")["agreement_min"]
    assert column.to_dict() == pytest.approx(weakest, rel=1e-6, nan_ok=True)


def thresholded(tile):
    return ndimage.label(tile > 127)[0]


@pytest.fixture
def cells(tmp_path):
    """An OME-Zarr image of three channels, with names and a scale, and its pixels."""
    noise = np.random.default_rng(2).random((3, 150, 170))
    pixels = (ndimage.gaussian_filter(noise, (0, 2, 2)) > 0.5) * 200 + noise * 50
    path = write_image(tmp_path / "image.zarr", pixels.astype("uint8"), "cyx", chunks=(1, 40, 64))
    return path, pixels.astype("uint8")


def table_bytes(image, folder, **options):
    """The bytes of the table that a run writes."""
    given = {"tile_shape": (32, 45), "overlap": 6, "merge": "agree", "measure": MEASURE, **options}
    tile_process(image, thresholded, write_to=folder, overwrite=True, **given)
    return (folder / "labels" / OBJECTS).read_bytes()


def test_channels_that_fn_does_not_see_are_measured_in_the_same_bytes_anywhere(cells, tmp_path, workers):
    image, pixels = cells
    found = [
        table_bytes(image, tmp_path / "out.zarr", **options)
        for options in ({}, {"tiles_per_task": 1}, {"tiles_per_task": 5})
    ]
    for scheduler in ("synchronous", "processes"):
        with workers(scheduler):
            found.append(table_bytes(image, tmp_path / "out.zarr", tiles_per_task=2))
    assert len(set(found)) == 1
    labels = tile_process(image, thresholded, tile_shape=(32, 45), overlap=6, merge="agree")
    table = parquet.read_table(tmp_path / "out.zarr" / "labels" / OBJECTS).to_pandas()
    assert not fault(table, whole_table(labels, np.moveaxis(pixels, 0, -1), ["0", "1", "2"]))


def test_a_cluster_measures_in_the_same_bytes(cells, tmp_path):
    image, _ = cells
    with dask.config.set(scheduler="synchronous"):
        expected = table_bytes(image, tmp_path / "out.zarr")
    client, cluster = make_local_cluster(n_workers=2)
    with cluster, client:
        assert table_bytes(image, tmp_path / "out.zarr", tiles_per_task=2) == expected


def test_bands_of_few_labels_make_the_same_table(cells, tmp_path, monkeypatch):
    image, _ = cells
    expected = table_bytes(image, tmp_path / "out.zarr")
    monkeypatch.setattr("blockbuster.measure.folding.MAX_LABELS", 3)
    assert table_bytes(image, tmp_path / "out.zarr", tiles_per_task=4) == expected


REAL = {
    "dsb2018_mosaic/mosaic_image.tif": (500, 700),
    "stardist_samples/img2d.tif": (100, 131),
    "stardist_samples/img3d.tif": (10, 60, 19),
}


@pytest.mark.parametrize("name", REAL)
def test_nuclei_are_measured_as_in_the_whole_image(real_images, name):
    image = tifffile.imread(real_images / name)
    threshold = threshold_otsu(image)
    labels, report = tile_process(
        image,
        lambda tile: ndimage.label(tile > threshold)[0],
        tile_shape=REAL[name],
        measure=MEASURE,
        return_report=True,
    )
    assert report.n_objects > 10
    assert not fault(report.objects, whole_table(labels, image))


STORES = [
    "ngffzarr_v04_hela_cyx.zarr",
    "ngffzarr_v05_hela_cyx.zarr",
    "omezarrpy_v04_hela_cyx.zarr",
    "ngffzarr_v05_nuclei3d_zyx.zarr",
    "omezarrpy_v04_nuclei3d_zyx.zarr",
    "omezarrpy_v05_nuclei3d_zyx.zarr",
    "tensorstore_zarr2_Forder_nuclei3d.zarr",
]


@pytest.mark.parametrize("store", STORES)
def test_stores_of_other_programs_are_measured_as_the_whole_image(real_images, store, tmp_path):
    path = real_images / "ome_zarr_third_party" / store
    pixels = np.asarray(load_ome_zarr(path, channel=None))
    seen = np.asarray(load_ome_zarr(path))
    threshold = threshold_otsu(seen)
    labels, report = tile_process(
        path,
        lambda tile: ndimage.label(tile > threshold)[0],
        tile_shape=(100, 131) if seen.ndim == 2 else (10, 28, 40),
        measure=MEASURE,
        return_report=True,
        stage_dir=tmp_path,
    )
    channels = () if pixels.ndim == seen.ndim else [str(i) for i in range(len(pixels))]
    values = np.moveaxis(pixels, 0, -1) if channels else pixels
    table = report.objects
    if channels:
        # Named as the metadata name them.
        channels = [name.partition("-")[2] for name in table.columns if name.startswith("intensity_mean")]
    assert not fault(table, whole_table(labels, values, channels))


@pytest.mark.parametrize(
    ("measure", "kind", "parts"),
    [
        ("area", TypeError, ["'area'", "list of names"]),
        (["intensity"], ValueError, ["'intensity'", "intensity_mean"]),
        (["intensity_mean-GFP"], ValueError, ["'GFP'", "its channels are 0, 1, 2"]),
        ([1], TypeError, ["[1]"]),
    ],
)
def test_what_cannot_be_measured_is_refused_before_work(cells, measure, kind, parts, tmp_path):
    with refused(kind, *parts, folder=tmp_path):
        tile_process(cells[0], thresholded, measure=measure, write_to=tmp_path / "out.zarr")


def label_each(tile):
    return np.stack([ndimage.label(channel > 127)[0] for channel in tile])


def test_labels_with_channels_have_values_of_their_own_channel():
    image = values_of("uint8", (2, 40, 50), 0)
    labels, report = tile_process(
        image, label_each, axes="cyx", channel=None, tile_shape=(16, 16), measure=VALUES, return_report=True
    )
    table = report.objects
    assert {"intensity_mean", "centroid-2"} < set(table.columns)
    for row in table.to_dict("records"):
        values = image[labels == row["label"]]
        assert (row["area"], row["intensity_sum"]) == (len(values), values.sum())
        assert row["intensity_std"] == pytest.approx(values.std(), abs=1e-9)
        assert row["bbox-3"] == row["bbox-0"] + 1


def test_a_report_gives_the_table_of_labels_that_were_written(cells, tmp_path):
    options = {"tile_shape": (32, 45), "write_to": tmp_path / "out.zarr"}
    _, report = tile_process(cells[0], thresholded, measure=True, return_report=True, **options)
    assert report.objects.equals(read_objects(tmp_path / "out.zarr"))
    assert len(read_report(tmp_path / "out.zarr").objects) == report.n_objects


def test_a_finished_output_without_a_table_is_left_to_measure_labels(cells, tmp_path):
    options = {"tile_shape": (32, 45), "write_to": tmp_path / "out.zarr", "fn_version": "1"}
    tile_process(cells[0], thresholded, **options)
    with refused(FileExistsError, "measure was None", "measure_labels", folder=tmp_path):
        tile_process(cells[0], thresholded, measure=True, resume=True, **options)


def test_a_plan_says_what_is_measured(cells):
    options = {"tile_shape": (32, 45), "measure": ["intensity_mean", "extent"], "return_report": True}
    assert "\nmeasure   shapes, extent, intensity_mean of 3 channels\n" in str(plan_run(cells[0], **options))


def test_a_table_needs_a_place(cells):
    with refused(ValueError, "write_to", "return_report=True", "report.objects"):
        tile_process(cells[0], thresholded, measure=True)
