"""Properties that sources of every kind share."""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockbuster.source import NpyFileSource, open_source
from blockbuster.source.checks import check_axes, check_index, check_pixels

KINDS = ("numpy", "npy", "dask", "memory", "v2", "v3", "sharded", "channel_first", "channel_last")
DTYPES = ("bool", "uint8", "int16", ">u2", ">f4", "float16", "float64", "complex64")


@st.composite
def images(draw):
    shape = tuple(draw(st.lists(st.sampled_from((1, 2, 3, 5, 7, 11)), min_size=1, max_size=3)))
    dtype = draw(st.sampled_from(DTYPES))
    order = draw(st.sampled_from("CF"))
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 100, shape)
    return np.asarray(values.astype(dtype), order=order)


@st.composite
def regions(draw, shape):
    bounds = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    return tuple(slice(start, stop) for start, stop in bounds)


@st.composite
def irregular_chunks(draw, shape):
    cuts = [sorted(draw(st.sets(st.integers(1, max(1, n - 1)), max_size=3)) - {n}) for n in shape]
    return tuple(tuple(np.diff([0, *c, n]).tolist()) for c, n in zip(cuts, shape, strict=True))


def _stored(folder, image, chunks, **layout):
    array = zarr.create_array(Path(folder), shape=image.shape, dtype=image.dtype, chunks=chunks, **layout)
    array[...] = image
    return folder


def _open(kind, image, folder, draw):
    chunks = tuple(draw(st.integers(1, n)) for n in image.shape)
    if kind == "numpy":
        return open_source(image)
    if kind == "npy":
        np.save(f"{folder}/image.npy", image)
        return NpyFileSource(f"{folder}/image.npy")
    if kind == "dask":
        return open_source(da.from_array(image, chunks=draw(irregular_chunks(image.shape))))
    if kind == "memory":
        return open_source(zarr.array(image, chunks=chunks))
    if kind.startswith("channel"):
        axis = 0 if kind == "channel_first" else image.ndim
        axes = "zyx"[-image.ndim :]
        stacked = np.stack([np.zeros_like(image), image], axis)
        stored = _stored(folder, stacked, (*chunks[:axis], draw(st.integers(1, 2)), *chunks[axis:]))
        return open_source(stored, channel=1, axes=axes[:axis] + "c" + axes[axis:])
    if kind == "v2":
        layout = {"order": draw(st.sampled_from("CF")), "zarr_format": 2}
        return open_source(_stored(folder, image, chunks, **layout))
    shards = tuple(2 * n for n in chunks) if kind == "sharded" else None
    return open_source(_stored(folder, image, chunks, shards=shards))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(15), deadline=None)
@given(image=images(), data=st.data())
def test_any_region_of_any_kind_of_image_is_the_same_slice_of_the_array(kind, image, data):
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        source = _open(kind, image, folder, data.draw)
        region = data.draw(regions(image.shape))
        got = source.read(region)
        np.testing.assert_array_equal(got, image[region])
        assert type(got) is np.ndarray
        assert got.dtype == image.dtype.newbyteorder("=") == source.dtype
        assert got.dtype.isnative
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert not np.shares_memory(got, image)
        got[...] = 1
        np.testing.assert_array_equal(source.read(region), image[region])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(5), deadline=None)
@given(image=images(), data=st.data())
def test_shape_chunks_and_read_unit_describe_the_image(kind, image, data):
    with tempfile.TemporaryDirectory() as folder:
        source = _open(kind, image, folder, data.draw)
        assert source.shape == image.shape
        assert tuple(map(sum, source.chunks)) == image.shape
        assert all(1 <= unit <= n for unit, n in zip(source.read_unit, image.shape, strict=True))
        assert source.kind in ("numpy", "dask", "zarr")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(5), deadline=None)
@given(image=images(), data=st.data())
def test_a_pickled_source_reads_the_same(kind, image, data):
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        source = _open(kind, image, folder, data.draw)
        copy = pickle.loads(pickle.dumps(source))
        assert (copy.shape, copy.dtype, copy.chunks) == (source.shape, source.dtype, source.chunks)
        everything = (slice(None),) * image.ndim
        np.testing.assert_array_equal(copy.read(everything), image)


@pytest.mark.parametrize("kind", ["numpy", "npy", "dask", "v2", "v3"])
def test_an_axis_of_length_zero_is_read_as_empty(kind, tmp_path):
    image = np.zeros((0, 5), "uint8")
    openers = {
        "numpy": lambda: open_source(image),
        "npy": lambda: np.save(tmp_path / "image.npy", image) or NpyFileSource(tmp_path / "image.npy"),
        "dask": lambda: open_source(da.from_array(image)),
        "v2": lambda: open_source(_stored(tmp_path, image, (2, 2), zarr_format=2)),
        "v3": lambda: open_source(_stored(tmp_path, image, (2, 2), zarr_format=3)),
    }
    source = openers[kind]()
    assert source.shape == (0, 5)
    assert source.chunks[0] == (0,)
    assert source.read_unit[0] == 1
    assert source.read((slice(0, 0), slice(1, 4))).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["O", "U3", "S4", "M8[s]", "m8[s]", [("a", "i4")]])
@pytest.mark.parametrize("wrap", [np.asarray, lambda image: da.from_array(image, chunks=2)])
def test_a_dtype_that_is_no_number_is_refused(dtype, wrap):
    with pytest.raises(TypeError, match="accepted are boolean, integer, floating point and complex"):
        open_source(wrap(np.zeros(3, dtype)))


def test_a_zarr_array_of_text_is_refused(tmp_path):
    _stored(tmp_path, np.array(["ab", "c"], "U2"), (1,), zarr_format=2)
    with pytest.raises(TypeError, match=r'has dtype <U2.*image\.astype\("float32"\)'):
        open_source(tmp_path)


@pytest.mark.parametrize("wrap", [np.asarray, da.from_array, zarr.array])
def test_an_image_without_axes_is_refused(wrap):
    with pytest.raises(ValueError, match="no axes"):
        open_source(wrap(np.array(3)))


def test_check_pixels_accepts_every_kind_of_number():
    for dtype in DTYPES:
        check_pixels((1,), np.dtype(dtype), "a")


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        (["y", "x"], TypeError, "one letter per axis"),
        ("YX", ValueError, "lower-case"),
        ("y ", ValueError, "lower-case"),
        ("xx", ValueError, "only once"),
        ("zyx", ValueError, r"3 letters.*2 axes, shape \(3, 4\)"),
        ("", ValueError, "0 letters"),
    ],
)
@pytest.mark.parametrize("wrap", [np.asarray, da.from_array, zarr.array])
def test_axes_that_do_not_fit_are_refused_for_every_kind(wrap, axes, error, message):
    with pytest.raises(error, match=message):
        open_source(wrap(np.zeros((3, 4))), axes=axes)


def test_check_axes_accepts_none_and_one_letter_per_axis():
    check_axes(None, (3, 4), "a")
    check_axes("yx", (3, 4), "a")


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, [1]])
def test_an_index_that_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match="level is .* integer"):
        check_index("level", value)


def test_an_index_is_zero_or_more():
    assert check_index("level", np.uint8(3)) == 3
    with pytest.raises(ValueError, match="level is -1; it counts from 0"):
        check_index("level", -1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(5), deadline=None)
@given(image=images(), data=st.data())
def test_F13_an_identity_is_flat_and_survives_json_and_pickle(kind, image, data):
    with tempfile.TemporaryDirectory() as folder:
        source = _open(kind, image, folder, data.draw)
        known = source.identity()
        assert json.loads(json.dumps(known)) == known
        for value in known.values():
            items = value if isinstance(value, list) else [value]
            assert all(type(item) in (str, int) for item in items)
        assert (known["kind"], known["shape"], known["dtype"]) == (
            source.kind,
            [*source.shape],
            source.dtype.name,
        )
        assert pickle.loads(pickle.dumps(source)).identity() == source.identity() == known


IDENTITIES = """
import sys
import dask.array as da, numpy as np, zarr
from zarr.storage import LocalStore, WrapperStore
from blockbuster.source import NpyFileSource, open_source, pixel_digest

def identities(folder):
    image = np.arange(12 * 10).reshape(12, 10).astype("float32")
    sources = [
        open_source(image),
        NpyFileSource(f"{folder}/image.npy"),
        open_source(da.from_array(image, chunks=5) + 1),
        open_source(da.from_array(image, chunks=5).map_blocks(np.negative)),
        open_source(da.from_zarr(f"{folder}/v3")),
        open_source(f"{folder}/v2"),
        open_source(f"{folder}/v3"),
        open_source(zarr.open_array(f"{folder}/v3", mode="r")),
        open_source(zarr.array(image, chunks=(5, 5))),
        open_source(zarr.open_array(WrapperStore(LocalStore(f"{folder}/v2")), mode="r")),
    ]
    return [source.identity() for source in sources] + [pixel_digest(image)]
"""


def test_F13_an_identity_is_the_same_in_another_process(tmp_path):
    image = np.arange(12 * 10).reshape(12, 10).astype("float32")
    np.save(tmp_path / "image.npy", image)
    for version in (2, 3):
        _stored(tmp_path / f"v{version}", image, (5, 4), zarr_format=version)
    here = {}
    exec(IDENTITIES, here)
    code = IDENTITIES + "\nimport json; print(json.dumps(identities(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == here["identities"](str(tmp_path))


def test_where_chunks_begin_does_not_travel_with_an_image(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(20_000, 8), chunks=(2, 8), dtype="uint8")
    source = open_source(tmp_path / "a.zarr")
    before = len(pickle.dumps(source))
    assert len(source.chunk_edges[0]) == 10_001
    assert len(pickle.dumps(source)) == before
