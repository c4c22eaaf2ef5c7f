import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

from blockbuster.source import ZarrSource, open_source
from blockbuster.source.zarr_source import regular_lengths

LAYOUTS = {
    "v2 C": {"zarr_format": 2, "order": "C"},
    "v2 F": {"zarr_format": 2, "order": "F"},
    "v2 dots": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v2 slashes": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v3": {"zarr_format": 3},
    "v3 dots": {"zarr_format": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3 v2-keys": {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3 shards": {"zarr_format": 3, "shards": (10, 12, 8)},
    "uncompressed": {"compressors": None},
}
REGION = (slice(2, 9), slice(1, 13), slice(0, 5))


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", ">f8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_like_the_array(layout, dtype, tmp_path, write):
    data = write.pixels((11, 13, 7), dtype)
    write.array(tmp_path / "a", data, chunks=(5, 6, 4), **LAYOUTS[layout])
    source = open_source(tmp_path / "a")
    assert source.dtype == data.dtype.newbyteorder("=")
    assert source.chunks == ((5, 5, 1), (6, 6, 1), (4, 3))
    assert source.read_unit == (5, 6, 4)
    got = source.read(REGION)
    np.testing.assert_array_equal(got, data[REGION])
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert got.flags.writeable


def test_a_chunk_longer_than_the_image_counts_as_the_image(tmp_path, write):
    write.array(tmp_path, write.pixels((3, 5)), chunks=(64, 4))
    source = open_source(tmp_path)
    assert source.chunks == ((3,), (4, 1))
    assert source.read_unit == (3, 4)


@pytest.mark.parametrize("array_chunks", [(4, 4), (9, 9)])
def test_writing_into_what_was_read_leaves_an_array_in_memory_alone(array_chunks, write):
    data = write.pixels((9, 9))
    array = write.array(zarr.storage.MemoryStore(), data, chunks=array_chunks, compressors=None)
    source = open_source(array)
    source.read((slice(0, 9), slice(0, 9)))[...] = 0
    np.testing.assert_array_equal(array[...], data)


@pytest.mark.parametrize("given", ["path", "array"])
def test_the_pickle_of_a_stored_array_holds_no_metadata_and_no_pixels(given, tmp_path, write):
    data = write.pixels((40, 40))
    array = write.array(tmp_path / "a", data, chunks=(8, 8), attributes={"note": "x" * 100_000})
    source = open_source(array if given == "array" else tmp_path / "a")
    source.read((slice(0, 9), slice(0, 9)))
    pickled = pickle.dumps(source)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).read((slice(3, 5), slice(0, 40))), data[3:5])


def test_a_source_can_be_read_in_another_process(tmp_path, write):
    data = write.pixels((6, 5))
    write.array(tmp_path / "a", data)
    code = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer); "
        "print(s.read((slice(1, 2), slice(0, 3))).tolist())"
    )
    source = open_source(tmp_path / "a")
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == str(data[1:2, :3].tolist())


def test_many_threads_may_use_one_unpickled_source(tmp_path, write):
    data = write.pixels((16, 16))
    write.array(tmp_path / "a", data, chunks=(4, 4))
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "a")))
    results = {}
    start = threading.Barrier(8)

    def read(i):
        start.wait()
        results[i] = source.read((slice(2 * i, 2 * i + 2), slice(0, 16)))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate([results[i] for i in range(8)]), data)


def test_an_array_that_is_gone_where_it_is_read_is_an_error_not_zeros(tmp_path, write):
    write.array(tmp_path / "a", write.pixels((6, 5)))
    elsewhere = pickle.loads(pickle.dumps(open_source(tmp_path / "a")))
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="a does not exist"):
        elsewhere.read((slice(0, 2), slice(0, 2)))


def test_an_array_replaced_by_another_shape_is_an_error(tmp_path, write):
    write.array(tmp_path / "a", write.pixels((6, 5)))
    elsewhere = pickle.loads(pickle.dumps(open_source(tmp_path / "a")))
    write.array(tmp_path / "a", write.pixels((6, 6)), overwrite=True)
    with pytest.raises(ValueError, match=r"was uint16 of shape \(6, 5\) when it was opened"):
        elsewhere.read((slice(0, 2), slice(0, 2)))


def test_a_zarr_array_is_found_again_after_a_change_of_folder(tmp_path, write, monkeypatch):
    data = write.pixels((6, 5))
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    write.array(group.store_path / "inner" / "a", data)
    monkeypatch.chdir(tmp_path)
    source = open_source(zarr.open_array(LocalStore("g.zarr"), path="inner/a", mode="r+"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source.path == str(tmp_path / "g.zarr" / "inner" / "a")
    for copy in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(copy.read((slice(0, 6), slice(0, 5))), data)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_array_in_a_store_that_is_no_folder_is_held(write, tmp_path):
    data = write.pixels((6, 5))
    wrapped = WrapperStore(LocalStore(tmp_path))
    for store in (zarr.storage.MemoryStore(), wrapped):
        source = open_source(write.array(store, data))
        assert source.path is None
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy.read((slice(0, 6), slice(0, 5))), data)


def test_channel_is_dropped_and_the_other_axes_keep_their_order(write):
    data = write.pixels((3, 2, 5, 7))
    array = write.array(zarr.storage.MemoryStore(), data, chunks=(1, 1, 4, 3))
    source = ZarrSource(array, axes="tcyx", channel=(1, 1))
    assert (source.axes, source.shape) == ("tyx", (3, 5, 7))
    assert source.chunks == ((1, 1, 1), (4, 1), (3, 3, 1))
    assert source.read_unit == (1, 4, 3)
    np.testing.assert_array_equal(source.read((slice(0, 2),) * 3), data[:2, 1, :2, :2])


def test_selecting_the_only_axis_leaves_no_image(write):
    array = write.array(zarr.storage.MemoryStore(), write.pixels((3,)))
    with pytest.raises(ValueError, match="no axes"):
        ZarrSource(array, axes="c", channel=(0, 0))


def test_regular_lengths_cover_the_axis():
    for length in range(30):
        for unit in range(1, 12):
            lengths = regular_lengths(length, unit)
            assert sum(lengths) == length
            assert set(lengths[:-1]) <= {unit}
            assert lengths[-1] <= unit


def test_reading_writes_nothing(tmp_path, write):
    write.array(tmp_path / "a", write.pixels((6, 5)), chunks=(4, 4))
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    pickle.loads(pickle.dumps(open_source(tmp_path / "a"))).read((slice(0, 6), slice(0, 5)))
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


@pytest.mark.parametrize(
    "name", ["tensorstore_zarr2_Forder_nuclei3d.zarr", "ngffzarr_v05_hela_cyx.zarr/scale0/image"]
)
def test_arrays_that_other_programs_wrote_are_read_like_zarr_reads_them(name, third_party):
    stored = zarr.open_array(Path(third_party / name), mode="r")
    source = open_source(third_party / name, channel=None)
    assert source.shape == stored.shape
    region = tuple(slice(n // 5, n - n // 7) for n in stored.shape)
    np.testing.assert_array_equal(source.read(region), stored[region])


WRITERS = ["v2 C", "v2 dots", "v2 slashes", "v3", "v3 dots", "v3 v2-keys", "v3 shards"]


@pytest.fixture
def aged(tmp_path, write, identities):
    """An OME-Zarr image of two levels and two channels, written an hour ago."""
    write.ome(tmp_path / "image.zarr", write.pixels((2, 8, 9)), "cyx", chunks=(1, 4, 4))
    identities.age(tmp_path)
    return tmp_path / "image.zarr"


@pytest.mark.parametrize("layout", WRITERS)
def test_F13_one_changed_pixel_of_a_zarr_image_changes_its_identity(layout, tmp_path, write, identities):
    data = write.pixels((11, 13, 7))
    write.array(tmp_path / "a", data, chunks=(5, 6, 4), **LAYOUTS[layout])
    identities.age(tmp_path)
    known = open_source(tmp_path / "a").identity()
    assert open_source(tmp_path / "a").identity() == known
    zarr.open_array(tmp_path / "a", mode="r+")[3, 12, 5] = 1 + data[3, 12, 5]
    assert identities.differing(known, open_source(tmp_path / "a").identity()) == {"content"}


def test_F13_a_source_that_was_opened_before_a_change_notices_it(aged, identities):
    source = open_source(aged)
    known = source.identity()
    zarr.open_array(aged / "0", mode="r+")[0, 0, 0] = 9
    assert identities.differing(known, source.identity()) == {"content"}


def test_F13_another_level_or_channel_is_another_image(aged, identities):
    known = open_source(aged).identity()
    assert {"path", "shape"} <= identities.differing(known, open_source(aged, level=1).identity())
    assert identities.differing(known, open_source(aged, channel=1).identity()) == {"channel"}
    assert identities.differing(known, open_source(aged, channel=None).identity()) == {"channel", "shape"}


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_F13_other_levels_labels_and_files_beside_do_not_matter(aged):
    known = open_source(aged).identity()
    zarr.open_array(aged / "1", mode="r+")[...] = 0
    group = zarr.open_group(aged, mode="r+")
    group.create_array("labels/cells", shape=(8, 9), dtype="uint8")[...] = 1
    group.attrs["note"] = "other"
    zarr.consolidate_metadata(group.store)
    assert open_source(aged).identity() == known


def test_F13_another_dtype_at_the_same_place_is_another_image(tmp_path, write, identities):
    data = write.pixels((6, 5))
    write.array(tmp_path / "a", data)
    known = open_source(tmp_path / "a").identity()
    write.array(tmp_path / "a", data.astype("int16"), overwrite=True)
    assert {"dtype", "metadata"} <= identities.differing(known, open_source(tmp_path / "a").identity())


def test_F13_a_shape_that_grew_and_a_chunk_that_was_appended_are_noticed(tmp_path, write, identities):
    array = write.array(tmp_path / "a", write.pixels((6, 5)), chunks=(3, 5))
    known = open_source(tmp_path / "a").identity()
    array.resize((9, 5))
    grown = open_source(tmp_path / "a").identity()
    assert identities.differing(known, grown) == {"shape", "metadata"}
    array[6:] = 1
    assert identities.differing(grown, open_source(tmp_path / "a").identity()) == {"content"}


def test_F13_a_chunk_that_was_touched_or_removed_is_noticed(aged, identities):
    known = open_source(aged).identity()
    chunk = identities.chunk_files(aged / "0")[1]
    os.utime(chunk)
    touched = open_source(aged).identity()
    assert identities.differing(known, touched) == {"content"}
    chunk.unlink()
    assert identities.differing(touched, open_source(aged).identity()) == {"content"}


def test_F13_changed_attributes_of_the_array_are_noticed(aged, identities):
    known = open_source(aged).identity()
    zarr.open_array(aged / "0", mode="r+").attrs["offset"] = 3
    assert identities.differing(known, open_source(aged).identity()) == {"metadata"}


def test_F13_a_renamed_store_is_known_by_another_path(aged, identities):
    known = open_source(aged).identity()
    assert known["path"] == str(aged / "0")
    aged.rename(aged.with_name("other.zarr"))
    moved = open_source(aged.with_name("other.zarr")).identity()
    assert identities.differing(known, moved) == {"path"}


def test_F13_the_same_store_by_another_spelling_is_the_same_image(aged, monkeypatch):
    known = open_source(aged / "0", axes="cyx").identity()
    (aged.parent / "link").symlink_to(aged)
    monkeypatch.chdir(aged.parent)
    for spelled in ("image.zarr/0", "link/0/", f"file://{aged}/1/../0", aged / "0"):
        assert open_source(spelled, axes="cyx").identity() == known
    given = open_source(zarr.open_array(aged / "0", mode="r+"))
    assert given.identity() == {**known, "channel": [], "shape": [2, 8, 9]}


def test_reading_does_not_change_an_identity(aged):
    source = open_source(aged)
    known = source.identity()
    source.read((slice(0, 8), slice(0, 9)))
    assert source.identity() == known


def test_the_identity_of_an_image_that_is_gone_is_an_error(aged):
    source = open_source(aged)
    shutil.rmtree(aged)
    with pytest.raises(FileNotFoundError, match="image"):
        source.identity()


@pytest.mark.parametrize("given", ["array", "url"])
def test_F13_one_changed_pixel_of_an_array_in_memory_changes_its_identity(given, write, identities):
    url = "memory://blockbuster/identity"
    store = MemoryStore() if given == "array" else url
    array = write.array(store, write.pixels((2, 8, 9)), chunks=(1, 3, 4), overwrite=True)
    source = (
        ZarrSource(array, axes="cyx", channel=(0, 1))
        if given == "array"
        else open_source(url, axes="cyx", channel=1)
    )
    known = source.identity()
    assert not source.sampled
    array[0, 0, 0] = 9
    assert source.identity() == known
    array[1, 7, 8] = 9
    assert identities.differing(known, source.identity()) == {"content"}


def test_F13_equal_arrays_in_memory_are_the_same_image(write):
    one, other = (open_source(write.array(MemoryStore(), write.pixels((8, 9)), chunks=(3, 4))) for _ in "ab")
    assert one.identity() == other.identity()


def test_F13_an_array_of_any_other_store_is_known_by_place_and_metadata_alone(tmp_path, write, identities):
    array = write.array(WrapperStore(LocalStore(tmp_path / "a")), write.pixels((6, 5)), chunks=(3, 5))
    source = open_source(array)
    known = source.identity()
    assert source.sampled
    assert str(tmp_path / "a") in known["url"]
    array[0, 0] = 9
    assert source.identity() == known
    array.resize((9, 5))
    assert identities.differing(known, open_source(array).identity()) == {"shape", "metadata"}


def test_an_identity_needs_a_sample_where_the_chunks_cannot_be_looked_at(tmp_path, write):
    data = write.pixels((6, 5))
    local = write.array(tmp_path / "a", data)
    assert not open_source(tmp_path / "a").sampled
    assert not open_source(local).sampled
    with ZipStore(tmp_path / "a.zip", mode="w") as store:
        write.array(store, data)
    with ZipStore(tmp_path / "a.zip", mode="r") as store:
        zipped = open_source(zarr.open_array(store, mode="r"))
        assert not zipped.sampled
        assert str(tmp_path / "a.zip") in zipped.identity()["url"]


CHECKSUMMED = {
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(checksum=True)},
    "v2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip()},
    "v3 zstd": {"zarr_format": 3, "compressors": ZstdCodec(checksum=True)},
    "v3 gzip": {"zarr_format": 3, "compressors": GzipCodec()},
    "v3 crc": {"zarr_format": 3, "compressors": Crc32cCodec()},
    "shards zstd": {"zarr_format": 3, "compressors": ZstdCodec(checksum=True), "shards": (8, 8)},
    "shards gzip": {"zarr_format": 3, "compressors": GzipCodec(), "shards": (8, 8)},
    "shards crc": {"zarr_format": 3, "compressors": Crc32cCodec(), "shards": (8, 8)},
}
UNCHECKED = {
    "v2": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "v3": {"zarr_format": 3, "compressors": ZstdCodec()},
    "v3 none": {"zarr_format": 3, "compressors": None},
    "shards": {"zarr_format": 3, "compressors": ZstdCodec(), "shards": (8, 8)},
    "shards none": {"zarr_format": 3, "compressors": None, "shards": (8, 8)},
}
FIRST, SECOND = (slice(0, 8), slice(0, 8)), (slice(8, 16), slice(0, 8))
# what the codecs raise; BadGzipFile is an OSError
DECODING_ERRORS = (RuntimeError, ValueError, EOFError, OSError, zlib.error)


def _damaged(folder, write, identities, layout, damage):
    """An image whose first file, which holds the region FIRST, was damaged."""
    data = write.pixels((16, 8))
    write.array(folder, data, chunks=(4, 8) if "shards" in layout else (8, 8), **layout)
    file = identities.chunk_files(folder)[0]
    damage(file)
    source = open_source(folder)
    np.testing.assert_array_equal(source.read(SECOND), data[SECOND])
    return source, data[FIRST]


@pytest.mark.parametrize("layout", CHECKSUMMED)
@settings(max_examples=examples(15), deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_F12_a_flipped_bit_is_an_error_or_harmless_where_there_is_a_checksum(
    layout, place, bit, write, identities
):
    def flip(file):
        stored = bytearray(file.read_bytes())
        stored[int(place * len(stored))] ^= 1 << bit
        file.write_bytes(stored)

    with tempfile.TemporaryDirectory() as folder:
        source, want = _damaged(Path(folder), write, identities, CHECKSUMMED[layout], flip)
        try:
            got = source.read(FIRST)
        except Exception:
            return
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("layout", CHECKSUMMED)
def test_F12_a_flipped_byte_in_the_middle_of_a_checksummed_chunk_is_an_error(layout, tmp_path, write, identities):
    def flip(file):
        stored = bytearray(file.read_bytes())
        stored[len(stored) // 3] ^= 255
        file.write_bytes(stored)

    source, _ = _damaged(tmp_path, write, identities, CHECKSUMMED[layout], flip)
    with pytest.raises(DECODING_ERRORS):
        source.read(FIRST)


@pytest.mark.parametrize("kept", [1, 0.5, -1])
@pytest.mark.parametrize("layout", CHECKSUMMED | UNCHECKED)
def test_F12_a_truncated_chunk_or_shard_is_an_error(layout, kept, tmp_path, write, identities):
    def truncate(file):
        stored = file.read_bytes()
        file.write_bytes(stored[: int(kept * len(stored)) if kept == 0.5 else kept])

    source, _ = _damaged(tmp_path, write, identities, (CHECKSUMMED | UNCHECKED)[layout], truncate)
    with pytest.raises(DECODING_ERRORS):
        source.read(FIRST)


@pytest.mark.parametrize("layout", [name for name in CHECKSUMMED | UNCHECKED if "shards" not in name])
def test_F12_a_chunk_of_no_bytes_is_an_error(layout, tmp_path, write, identities):
    source, _ = _damaged(
        tmp_path, write, identities, (CHECKSUMMED | UNCHECKED)[layout], lambda file: file.write_bytes(b"")
    )
    with pytest.raises(DECODING_ERRORS):
        source.read(FIRST)


@pytest.mark.parametrize("layout", CHECKSUMMED | UNCHECKED)
def test_F12_a_missing_chunk_or_shard_is_read_as_the_fill_value(layout, tmp_path, write, identities):
    layout = {**(CHECKSUMMED | UNCHECKED)[layout], "fill_value": 7}
    source, want = _damaged(tmp_path, write, identities, layout, Path.unlink)
    np.testing.assert_array_equal(source.read(FIRST), np.full_like(want, 7))
