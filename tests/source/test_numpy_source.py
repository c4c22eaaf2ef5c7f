import os
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


IMAGE = np.arange(5 * 6 * 7, dtype="uint16").reshape(5, 6, 7)


def test_F13_one_changed_pixel_of_a_numpy_image_changes_its_identity(identities):
    changed = IMAGE.copy()
    changed[4, 0, 3] += 1
    known, new = NumpySource(IMAGE).identity(), NumpySource(changed).identity()
    assert identities.differing(known, new) == {"content"}


def test_F13_a_numpy_image_that_is_changed_in_place_is_noticed():
    image = IMAGE.copy()
    source = NumpySource(image)
    before = source.identity()
    image[0, 0, 0] = 9
    assert source.identity() != before


def test_F13_equal_bytes_of_another_dtype_or_shape_are_another_image(identities):
    known = NumpySource(IMAGE).identity()
    assert identities.differing(known, NumpySource(IMAGE.view("int16")).identity()) == {"dtype"}
    assert identities.differing(known, NumpySource(IMAGE.reshape(6, 5, 7)).identity()) == {"shape"}


@pytest.mark.parametrize(
    "same",
    [
        IMAGE.copy(),
        np.asfortranarray(IMAGE),
        IMAGE.astype(">u2"),
        np.asfortranarray(IMAGE.astype(">u2")),
        np.repeat(IMAGE, 3, axis=2)[..., ::3],
        IMAGE[::-1].copy()[::-1],
    ],
)
def test_F13_memory_order_strides_and_byte_order_do_not_matter(same):
    assert NumpySource(same).identity() == NumpySource(IMAGE).identity()


def test_F13_an_npy_file_is_known_by_path_size_and_time(tmp_path, identities):
    path = tmp_path / "image.npy"
    np.save(path, IMAGE)
    known = NpyFileSource(path).identity()
    assert pickle.loads(pickle.dumps(NpyFileSource(path))).identity() == known
    os.utime(path, ns=(1, 1))
    assert identities.differing(known, NpyFileSource(path).identity()) == {"mtime_ns"}
    os.utime(path, ns=(known["mtime_ns"], known["mtime_ns"]))
    path.rename(tmp_path / "other.npy")
    assert identities.differing(known, NpyFileSource(tmp_path / "other.npy").identity()) == {"path"}


def test_F13_an_npy_file_is_the_same_through_a_link(tmp_path):
    np.save(tmp_path / "image.npy", IMAGE)
    (tmp_path / "link.npy").symlink_to("image.npy")
    assert NpyFileSource(tmp_path / "link.npy").identity() == NpyFileSource(tmp_path / "image.npy").identity()


def test_an_identity_of_pixels_or_of_a_file_needs_no_sample(tmp_path):
    np.save(tmp_path / "image.npy", IMAGE)
    assert not NumpySource(IMAGE).sampled
    assert not NpyFileSource(tmp_path / "image.npy").sampled
