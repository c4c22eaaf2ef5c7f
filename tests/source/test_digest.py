import hashlib
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from traced import traced

from blockbuster.source import pixel_digest
from blockbuster.source.digest import digest_chunk_files, digest_content, digest_metadata_files

DTYPES = ("bool", "uint8", "<i2", ">u2", ">f4", "<f2", ">f8", "<c8", ">c16")


def naive_content(image):
    """The digest by its definition, of a copy of the whole array."""
    native = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("="))
    return hashlib.sha256(native.tobytes()).hexdigest()[:32]


@st.composite
def strided_images(draw):
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    image = draw(arrays.arrays(draw(st.sampled_from(DTYPES)), shape))
    steps = tuple(slice(None, None, draw(st.sampled_from((1, 2, -1, -3)))) for _ in shape)
    return image[steps].transpose(draw(st.permutations(range(image.ndim))))


@given(image=strided_images())
def test_the_content_of_any_image_is_that_of_its_voxels_in_c_order(image):
    assert digest_content([image]) == naive_content(image)


@given(image=strided_images())
def test_strides_memory_order_and_byte_order_do_not_change_a_digest(image):
    for same in (image.copy(order="C"), image.copy(order="F"), image.astype(image.dtype.newbyteorder())):
        assert pixel_digest(same) == pixel_digest(image)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_an_image_of_many_buffers_is_digested_whole(dtype, order):
    image = np.arange(1100 * 1500, dtype=dtype).reshape(1100, 1500, order=order)
    assert digest_content([image]) == naive_content(image)
    image[-1, -1] ^= 1
    assert digest_content([image]) == naive_content(image)


def test_a_digest_of_parts_is_that_of_the_parts_in_a_row():
    parts = [np.arange(5, dtype="u1"), np.arange(6, dtype="u1").reshape(2, 3), np.empty(0, "u1")]
    assert digest_content(parts) == naive_content(np.concatenate([part.ravel() for part in parts]))


def test_a_transposed_image_is_not_copied_as_a_whole():
    image = np.zeros((2048, 4096), "uint32").T
    assert traced(lambda: pixel_digest(image)).peak < image.nbytes / 3


def test_F13_every_voxel_the_shape_and_the_dtype_change_a_pixel_digest():
    image = np.zeros((3, 4), "uint16")
    others = [image.view("int16"), image.reshape(4, 3), image.reshape(12), image[:0]]
    for place in np.ndindex(image.shape):
        changed = image.copy()
        changed[place] = 256
        others.append(changed)
    digests = [pixel_digest(other) for other in (image, *others)]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 and int(digest, 16) for digest in digests)


def test_a_read_only_array_has_a_digest():
    image = np.arange(6.0)
    image.flags.writeable = False
    assert pixel_digest(image) == pixel_digest(image.copy())


def _write_files(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
        os.utime(path, ns=(5, 10**18))


NAMES = ["c/0/1", "c/0/10", "c/1/0", "0.1", "10", "c/größe", os.fsdecode(b"c/\xff")]


def test_the_order_in_which_files_were_made_does_not_matter(tmp_path):
    _write_files(tmp_path / "a", NAMES)
    _write_files(tmp_path / "b", NAMES[::-1])
    (tmp_path / "b" / "c" / "empty").mkdir()
    assert digest_chunk_files(str(tmp_path / "a")) == digest_chunk_files(str(tmp_path / "b"))


def test_F13_a_name_a_size_and_a_time_each_change_the_digest_of_chunk_files(tmp_path):
    folder = tmp_path / "a"
    _write_files(folder, NAMES)
    digests = [digest_chunk_files(str(folder))]
    (folder / "c/0/10").rename(folder / "c/0/11")
    digests.append(digest_chunk_files(str(folder)))
    os.utime(folder / "0.1", ns=(5, 10**18 + 1))
    digests.append(digest_chunk_files(str(folder)))
    (folder / "10").write_bytes(b"")
    os.utime(folder / "10", ns=(5, 10**18))
    digests.append(digest_chunk_files(str(folder)))
    (folder / "c/1/0").unlink()
    digests.append(digest_chunk_files(str(folder)))
    assert len(set(digests)) == 5


def test_chunks_behind_a_link_count(tmp_path):
    _write_files(tmp_path / "disk", ["0/0"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c").symlink_to(tmp_path / "disk")
    before = digest_chunk_files(str(tmp_path / "a"))
    os.utime(tmp_path / "disk/0/0", ns=(5, 5))
    assert digest_chunk_files(str(tmp_path / "a")) != before


def test_what_is_no_chunk_does_not_matter(tmp_path):
    _write_files(tmp_path, NAMES)
    before = digest_chunk_files(str(tmp_path))
    others = [
        ".DS_Store",
        ".zattrs",
        "zarr.json",
        "blockbuster-report.json",
        "objects.parquet",
        "c/0/1.8f3a.partial",
    ]
    _write_files(tmp_path, others)
    assert digest_chunk_files(str(tmp_path)) == before


def test_metadata_files_are_digested_by_content_not_by_time(tmp_path):
    digests = []
    for name, text in [(".zarray", "a"), (".zattrs", "a"), (".zattrs", "b"), ("zarr.json", "")]:
        (tmp_path / name).write_text(text)
        digests.append(digest_metadata_files(str(tmp_path)))
    os.utime(tmp_path / ".zarray", ns=(5, 5))
    assert digest_metadata_files(str(tmp_path)) == digests[-1]
    assert len(set(digests)) == 4
