"""The file of a task gives back what was put in, or says that it is damaged (F9, F10)."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from blockbuster.rundir.sections import MAGIC, SectionFile, SectionWriter

INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">u2", ">i4", ">u8"]
FLOATS = ["f2", "f4", "f8", ">f4", ">f8"]
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def non_negative(dtype):
    """Arrays whose values may all be small."""
    most = st.sampled_from([0, 1, 255, 256, 2**16, 2**32, 2**63 - 1, 2**64 - 1])
    top = int(np.iinfo(dtype).max)
    return most.flatmap(
        lambda n: arrays_of.arrays(dtype, SHAPES, elements=st.integers(0, min(n, top)).map(np.dtype(dtype).type))
    )


ARRAYS = st.one_of(
    st.sampled_from(INTEGERS).flatmap(non_negative),
    arrays_of.arrays("?", SHAPES),
    st.sampled_from(FLOATS).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES)),
)


def file_of(arrays, folder):
    writer = SectionWriter()
    for name, array in arrays.items():
        writer.add(name, array)
    path = Path(folder, "0.tiles")
    path.write_bytes(writer.to_bytes())
    return path


def assert_same(found, array):
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found, array)


@settings(max_examples=examples(200))
@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=5), st.booleans(), st.randoms())
def test_arrays_of_any_kind_come_back_in_any_order(arrays, is_strided, random):
    if is_strided:
        arrays = {
            name: np.repeat(array.T, 2, axis=0)[::2].T if array.ndim else array for name, array in arrays.items()
        }
    with tempfile.TemporaryDirectory() as folder:
        file = SectionFile(file_of(arrays, folder))
        names = list(arrays)
        random.shuffle(names)
        for name in names:
            assert name in file
            assert_same(file.read(name), arrays[name])
        assert "another name that is long" not in file
        with pytest.raises(KeyError):
            file.read("another name that is long")


def test_numbers_are_stored_as_narrow_as_they_are(tmp_path):
    random = np.random.default_rng(1)
    sizes = []
    for bits in (8, 16, 32, 63):
        array = random.integers(0, 2**bits, 1000, np.uint64)
        path = file_of({"ids": array}, tmp_path)
        assert_same(SectionFile(path).read("ids"), array)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[0] < 1200
    assert sizes[-1] > 7500


SOME = {
    "groups": np.array(2),
    "pairs": np.array([[1, 2], [2, 300]], np.int64),
    "nothing": np.empty((0, 2), np.int64),
    "agreement": np.array([0.5, 1.0, np.nan]),
    "border-0-1": np.arange(12, dtype=np.int32).reshape(1, 12) // 3,
    "is it": np.array([True, False]),
}


def read_all(path):
    """All that a file gives; an error of a damaged one is one that its reader says to expect."""
    file = SectionFile(path)
    return {name: file.read(name) for name in SOME}


@pytest.fixture
def some(tmp_path):
    path = file_of(SOME, tmp_path)
    for name, array in read_all(path).items():
        assert_same(array, SOME[name])
    return path


def test_F10_every_bit_that_flips_is_noticed(some):
    data = some.read_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        some.write_bytes(flipped)
        with pytest.raises((OSError, ValueError)):
            read_all(some)
    some.write_bytes(data)
    read_all(some)


def faults_of(file):
    """Errors by the section that is not read; any other is as it was."""
    faults = {}
    for name, array in SOME.items():
        try:
            assert_same(file.read(name), array)
        except ValueError as error:
            faults[name] = str(error)
    return faults


def test_F10_a_bit_in_a_section_hurts_no_other_section(some):
    data = some.read_bytes()
    begin = len(data) - SectionFile(some)._begin
    hurt = set()
    for place in range(len(data) - begin, len(data)):
        some.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        failed = faults_of(SectionFile(some))
        assert [name in fault for name, fault in failed.items()] == [True]
        hurt.update(failed)
    assert hurt == SOME.keys() - {"nothing"}


def test_F9_a_file_that_was_cut_anywhere_is_noticed(some):
    data = some.read_bytes()
    for length in range(len(data)):
        some.write_bytes(data[:length])
        with pytest.raises((OSError, ValueError)):
            read_all(some)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"PK\3\4" + bytes(range(256)),
        b"\x93NUMPY\1\0" + b"v\0{'descr': '<i8'}" + bytes(100),
        b'{"groups": [0, 0, 0, "|u1", "|u1", []]}',
        MAGIC,
        MAGIC[:-1] + b"\x06" + bytes(200),
        MAGIC + bytes(16),
        MAGIC + b"\xff" * 200,
        MAGIC + (10**18).to_bytes(8, "little") + bytes(100),
    ],
)
def test_F9_what_is_no_such_file_is_refused(data, tmp_path):
    (tmp_path / "0.tiles").write_bytes(data)
    with pytest.raises((OSError, ValueError)):
        SectionFile(tmp_path / "0.tiles")


def test_F11_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        SectionFile(tmp_path / "0.tiles")
