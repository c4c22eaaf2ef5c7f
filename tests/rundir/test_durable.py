"""Files that are complete or absent, checksums, and what is said when the disk is full."""

import errno
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from blockbuster.rundir.durable import (
    checksum_files,
    flush_folder,
    free_bytes,
    full_disk_explained,
    write_atomically,
)


def test_a_file_is_written_over_whole_and_leaves_nothing_else(tmp_path):
    for data in (b"one", b"", b"three" * 1000):
        write_atomically(tmp_path / "x", data)
        assert (tmp_path / "x").read_bytes() == data
        assert os.listdir(tmp_path) == ["x"]


def test_ctrl_c_as_a_file_takes_its_place_stays_ctrl_c(tmp_path, monkeypatch):
    replace = os.replace

    def replace_and_interrupt(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["x"]


WRITE_TOO_MUCH = """
import resource, signal, sys
from blockbuster.rundir.durable import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(sys.argv[1], bytes(5000))
except OSError as error:
    print(error.errno, error)
"""


def test_F7_a_file_that_does_not_fit_leaves_the_old_one_and_says_how_much_is_missing(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", WRITE_TOO_MUCH, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{errno.EFBIG} ")
    assert f"there is no room for {path}: 5,000 bytes are needed at most" in done.stdout
    assert "resume=True" in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_F7_a_full_disk_is_explained_with_path_and_bytes(number, tmp_path):
    explained = pytest.raises(OSError, match=f"{tmp_path}/a: 1,234 bytes are needed")
    with explained as caught, full_disk_explained(tmp_path / "a", 1234):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number
    assert f"{os.strerror(number)}" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError("odd"), ValueError("x")])
def test_other_errors_are_passed_on_as_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught, full_disk_explained(tmp_path, 1):
        raise error
    assert caught.value is error


def test_checksum_is_of_names_order_sizes_and_bytes(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    c.write_bytes(b"onetwo")
    sums = [checksum_files(files) for files in ([a], [b], [a, b], [b, a], [c], [c, a])]
    assert len(set(sums)) == len(sums)
    assert all(len(checksum) == 8 for checksum in sums)
    assert checksum_files([str(a), b]) == sums[2]


def test_F9_F10_checksum_notices_every_bit_and_every_length(tmp_path):
    path = tmp_path / "a"
    whole = np.random.default_rng(0).bytes(60)
    path.write_bytes(whole)
    good = checksum_files([path])
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert checksum_files([path]) != good
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert checksum_files([path]) != good
    path.write_bytes(whole + b"\0")
    assert checksum_files([path]) != good


def test_F9_files_of_zeros_have_checksums_of_their_own(tmp_path):
    sums = set()
    for length in (0, 1, 2, 100):
        (tmp_path / "a").write_bytes(bytes(length))
        sums.add(checksum_files([tmp_path / "a"]))
    assert len(sums) == 4


def test_F11_there_is_no_checksum_where_a_file_is_missing(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert checksum_files([tmp_path / "a", tmp_path / "b"]) == ""
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    assert checksum_files([tmp_path / "a", tmp_path / "b"]) == ""


def test_files_that_appear_at_once_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_flushing_changes_nothing(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x").write_bytes(b"1")
    (tmp_path / "deep" / "y").write_bytes(b"2")
    flush_folder(tmp_path)
    assert (tmp_path / "deep" / "er" / "x").read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path / "deep")) == ["er", "y"]


def test_free_bytes_are_those_of_the_nearest_folder_that_exists(tmp_path):
    expected = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    found = free_bytes(tmp_path / "not" / "yet" / "there")
    assert abs(found - expected) < 0.1 * expected
    (tmp_path / "file").write_bytes(b"")
    assert free_bytes(tmp_path / "file") > 0
