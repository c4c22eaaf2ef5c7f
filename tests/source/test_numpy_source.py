import pickle

import numpy as np
import pytest

from blockbuster.source import NpyFileSource, NumpySource


def test_a_numpy_image_is_one_chunk_that_is_held_not_copied():
    image = np.arange(12).reshape(3, 4)
    source = NumpySource(image, axes="zx")
    assert source.chunks == ((3,), (4,))
    assert source.read_unit == (1, 1)
    assert source.axes == "zx"
    assert source.path is None
    assert np.shares_memory(source.array, image)


def test_a_masked_array_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"image\.filled\(0\)"):
        NumpySource(np.ma.masked_array([1, 2], [True, False]))


def test_other_subclasses_are_read_as_plain_arrays(tmp_path):
    np.save(tmp_path / "image.npy", np.arange(6).reshape(2, 3))
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    got = NumpySource(mapped).read((slice(1, 2), slice(0, 3)))
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, [[3, 4, 5]])


def test_an_npy_file_is_read_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", np.arange(6, dtype=">i2").reshape(2, 3))
    source = NpyFileSource("image.npy", axes="yx")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.path == str(tmp_path / "image.npy")
    assert copy.axes == "yx"
    np.testing.assert_array_equal(copy.read((slice(0, 2), slice(1, 2))), [[1], [4]])


def test_the_pickle_of_an_npy_file_holds_its_path_alone(tmp_path):
    np.save(tmp_path / "image.npy", np.zeros((200, 200)))
    source = NpyFileSource(tmp_path / "image.npy")
    source.read((slice(0, 200), slice(0, 200)))
    assert len(pickle.dumps(source)) < 1000


def test_a_missing_npy_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npy"):
        NpyFileSource(tmp_path / "nothing.npy")
