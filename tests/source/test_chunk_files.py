import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from blockbuster.source import open_source

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
