import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, WrapperStore

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


def test_missing_chunks_are_read_as_the_fill_value(tmp_path):
    zarr.create_array(tmp_path, shape=(4, 4), chunks=(2, 2), dtype="u1", fill_value=7)
    np.testing.assert_array_equal(open_source(tmp_path).read((slice(0, 3), slice(0, 3))), np.full((3, 3), 7))


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
