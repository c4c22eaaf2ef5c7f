"""Percentiles of a whole image, against numpy."""

import dask.array as da
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcomes import refused

from blockbuster import intensity_percentiles
from blockbuster.stage import sample

IMAGE = np.random.default_rng(5).gamma(2.0, 300.0, (53, 71)).astype("uint16")


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "path"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_percentiles_of_a_small_image_are_those_of_all_its_pixels(tmp_path, kind, dtype):
    pixels = IMAGE.astype(dtype)
    stored = zarr.create_array(tmp_path / "image.zarr", data=pixels, chunks=(20, 30))
    image = {
        "numpy": pixels,
        "dask": da.from_array(pixels, chunks=(17, 19)),
        "zarr": stored,
        "path": str(tmp_path / "image.zarr"),
    }[kind]
    assert intensity_percentiles(image) == tuple(np.percentile(pixels, (1, 99.8)))
    assert intensity_percentiles(image, 50) == np.percentile(pixels, 50)


@settings(max_examples=examples(40))
@given(
    hnp.arrays(
        np.float64, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-1e6, 1e6) | st.just(np.nan)
    ),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_nan_is_left_out(pixels, q):
    if np.isnan(pixels).all():
        with refused(ValueError, "no finite pixel"):
            intensity_percentiles(pixels, q)
    else:
        assert np.allclose(intensity_percentiles(pixels, q), np.nanpercentile(pixels, q), rtol=1e-12, atol=0)


def test_channels_are_measured_one_by_one(tmp_path):
    pixels = np.stack([IMAGE, IMAGE * 2, IMAGE // 3])
    zarr.create_array(tmp_path / "c.zarr", data=pixels, chunks=(1, 20, 30), dimension_names=["c", "y", "x"])
    path = str(tmp_path / "c.zarr")
    each = tuple(tuple(np.percentile(plane, (1, 99.8))) for plane in pixels)
    assert intensity_percentiles(path, channel=None) == each
    assert intensity_percentiles(path, channel=1) == each[1]
    assert intensity_percentiles(path, 50, channel=None) == tuple(np.percentile(plane, 50) for plane in pixels)


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_channels_of_a_zarr_array_and_of_a_url_are_measured_one_by_one_too(tmp_path, where):
    pixels = np.stack([IMAGE, IMAGE * 2])
    form = {"shape": pixels.shape, "dtype": "uint16", "chunks": (1, 20, 30), "dimension_names": ["c", "y", "x"]}
    array = zarr.create_array(tmp_path / "c.zarr" if where == "folder" else zarr.storage.MemoryStore(), **form)
    array[...] = pixels
    each = tuple(tuple(np.percentile(plane, (1, 99.8))) for plane in pixels)
    assert intensity_percentiles(array, channel=None) == each
    if where == "folder":
        assert intensity_percentiles(f"file://{tmp_path}/c.zarr", channel=None) == each
    assert intensity_percentiles(pixels, channel=None) == tuple(np.percentile(pixels, (1, 99.8)))


def test_a_mask_counts_as_0_and_1():
    assert intensity_percentiles(IMAGE % 2 == 1, (1, 99.8)) == (0.0, 1.0)


@pytest.mark.parametrize("q", [np.float32(50), np.array(50), 50, [50.0], np.array([50])])
def test_q_is_a_number_or_a_sequence_of_any_kind(q):
    found = intensity_percentiles(IMAGE, q)
    assert found == (np.median(IMAGE) if np.ndim(q) == 0 else (np.median(IMAGE),))


def test_real_image(real_images):
    path = real_images / "ome_zarr_third_party" / "omezarrpy_v04_hela_cyx.zarr"
    planes = np.asarray(zarr.open_group(path, mode="r")["s0"][...])
    assert intensity_percentiles(str(path), channel=2) == tuple(np.percentile(planes[2], (1, 99.8)))


def test_a_large_image_is_sampled_all_over_and_in_the_same_way_each_time(monkeypatch):
    """The sample has its size in one place; a smaller one makes a large image of a small one."""
    monkeypatch.setattr(sample, "SAMPLE_VOXELS", 2**14)
    ramp = np.add.outer(np.arange(600.0), np.arange(800.0))
    found = intensity_percentiles(ramp, (1, 50, 99))
    assert found == intensity_percentiles(ramp, (1, 50, 99))
    assert np.allclose(found, np.percentile(ramp, (1, 50, 99)), atol=0.06 * ramp.max())


@pytest.mark.parametrize("q", [-1, 100.5, (1, 101), (), float("nan")])
def test_percentiles_out_of_range_are_refused(q):
    with refused(ValueError, "^q is ", "numbers from 0 to 100"):
        intensity_percentiles(IMAGE, q)


@pytest.mark.parametrize("q", ["99", True, (1, "99"), None, [[1, 2]], (1, (2, 3)), {1, 2}, 1j])
def test_percentiles_that_are_no_numbers_are_refused(q):
    with refused(TypeError, "^q is ", "numbers from 0 to 100"):
        intensity_percentiles(IMAGE, q)


def test_an_image_without_order_is_refused():
    with refused(TypeError, "complex64", "real numbers"):
        intensity_percentiles(IMAGE.astype("complex64"))
