import tempfile
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from blockbuster.compat import chunk_boxes
from blockbuster.source import open_source
from blockbuster.source.chunk_files import read_chunk_files

PIXELS = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype="u2")
COMPRESSORS = {
    (2, "blosc"): numcodecs.Blosc(),
    (3, "blosc"): BloscCodec(cname="lz4"),
    (2, "zstd"): numcodecs.Zstd(),
    (3, "zstd"): ZstdCodec(),
    (2, "none"): None,
    (3, "none"): None,
}


def chunk_file(folder, zarr_format):
    return folder / ("0.1" if zarr_format == 2 else "c/0/1")


@pytest.mark.parametrize(("zarr_format", "name"), COMPRESSORS)
@pytest.mark.parametrize("kept", [0, 1, 10, 0.5, -1])
def test_F12_a_chunk_that_was_cut_is_never_read_as_pixels(tmp_path, zarr_format, name, kept):
    compressor = COMPRESSORS[zarr_format, name]
    zarr.create_array(tmp_path, data=PIXELS, chunks=(32, 32), zarr_format=zarr_format, compressors=compressor)
    path = chunk_file(tmp_path, zarr_format)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    source = open_source(tmp_path)
    with pytest.raises((ValueError, RuntimeError, OSError)):
        source.read((slice(0, 32), slice(30, 40)))
    np.testing.assert_array_equal(source.read((slice(32, 64), slice(0, 64))), PIXELS[32:])


@pytest.mark.parametrize("codec", [BloscCodec(cname="lz4"), ZstdCodec()])
def test_F12_an_empty_shard_is_never_read_as_background(tmp_path, codec):
    zarr.create_array(tmp_path, data=PIXELS, chunks=(8, 8), shards=(32, 32), compressors=codec)
    chunk_file(tmp_path, 3).write_bytes(b"")
    source = open_source(tmp_path)
    with pytest.raises(OSError, match="c/0/1"):
        source.read((slice(0, 32), slice(30, 40)))
    np.testing.assert_array_equal(source.read((slice(0, 64), slice(0, 32))), PIXELS[:, :32])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_whole_blosc_chunks_of_any_content_are_read(tmp_path, zarr_format):
    pixels = PIXELS.copy()
    pixels[:, :32] = 7
    compressor = COMPRESSORS[zarr_format, "blosc"]
    zarr.create_array(tmp_path, data=pixels, chunks=(32, 32), zarr_format=zarr_format, compressors=compressor)
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.read((slice(0, 64), slice(0, 64))), pixels)


@st.composite
def stored_arrays(draw):
    """Options of `zarr.create_array`, a fill value among them, pixels, and a part of them to read."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    zarr_format = draw(st.sampled_from([2, 3]))
    names = [name for version, name in COMPRESSORS if version == zarr_format] + ["gzip", "zlib", "delta"]
    name = draw(st.sampled_from(names))
    options = {"zarr_format": zarr_format, "chunks": tuple(draw(st.integers(1, 5)) for _ in shape)}
    options["fill_value"] = draw(st.sampled_from([0, 7]))
    dtype = draw(st.sampled_from(["bool", "u1", "<i2", ">u2", ">f4", "f8", "i8"]))
    if zarr_format == 2:
        others = {"gzip": numcodecs.GZip(), "zlib": numcodecs.Zlib(), "delta": None}
        options["order"] = draw(st.sampled_from("CF"))
        if name == "delta" and dtype[-2:] == "i2":
            options["filters"] = [numcodecs.Delta(dtype)]
    else:
        others = {"gzip": GzipCodec(), "zlib": [ZstdCodec(), Crc32cCodec()], "delta": ZstdCodec(checksum=True)}
        endian = draw(st.sampled_from(["little", "big"]))
        options["serializer"] = BytesCodec(endian=endian) if np.dtype(dtype).itemsize > 1 else BytesCodec()
        dtype = np.dtype(dtype).newbyteorder("=")
    options["compressors"] = others[name] if name in others else COMPRESSORS[zarr_format, name]
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, shape).astype(dtype)
    region = []
    for n in shape:
        start = draw(st.integers(0, n - 1))
        region.append(slice(start, draw(st.integers(start + 1, n))))
    return options, pixels, tuple(region), draw(st.integers(0, 3))


@settings(max_examples=examples(200), deadline=None)
@given(stored_arrays())
def test_any_chunk_files_are_read_as_zarr_reads_them(case):
    options, pixels, region, n_missing = case
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(f"{folder}/a", shape=pixels.shape, dtype=pixels.dtype, **options)
        array[...] = pixels
        for _, key in list(chunk_boxes(array, [slice(0, n) for n in pixels.shape]))[:n_missing]:
            Path(folder, "a", key).unlink(missing_ok=True)
        source = open_source(f"{folder}/a")
        found, expected = source.read(region), array[region]
        selection = (0, *region[1:])
        first = read_chunk_files(array, f"{folder}/a", selection)
        assert first is None or np.array_equal(first, array[selection])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize(
    ("options", "is_read"),
    [
        ({}, True),
        ({"compressors": None}, True),
        ({"compressors": BloscCodec()}, True),
        ({"compressors": [ZstdCodec(), Crc32cCodec()]}, False),
        ({"shards": (64, 64)}, False),
        ({"zarr_format": 2}, True),
        ({"zarr_format": 2, "fill_value": None}, False),
        ({"zarr_format": 2, "filters": [numcodecs.Delta("u2")]}, False),
        ({"zarr_format": 2, "compressors": numcodecs.LZ4()}, False),
    ],
)
def test_usual_chunk_files_are_read_without_zarr(tmp_path, options, is_read):
    array = zarr.create_array(tmp_path, shape=(64, 64), chunks=(32, 32), dtype="u2", **options)
    array[...] = PIXELS
    found = read_chunk_files(array, str(tmp_path), (slice(30, 40), 7))
    assert (found is not None) == is_read
    if is_read:
        np.testing.assert_array_equal(found, PIXELS[30:40, 7])
