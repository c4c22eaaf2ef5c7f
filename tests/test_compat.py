"""Array files that several threads load at once."""

import gc
import os
import threading
import time

import numpy as np
import pytest

from blockbuster.compat import load_npy


@pytest.fixture
def files(tmp_path):
    array = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    return tmp_path, array


def test_arrays_come_back_mapped_or_read(files):
    folder, array = files
    for mode, writable in (("r", False), ("r+", True), (None, True)):
        loaded = load_npy(folder / "a.npy", mode)
        np.testing.assert_array_equal(loaded, array)
        assert loaded.flags.writeable is writable
        assert isinstance(loaded, np.memmap) is (mode is not None)


class Rubbish:
    """Garbage that lets other threads run while it is collected, be it in the middle of a parser."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        time.sleep(0)


def test_threads_that_load_at_once_do_not_disturb_each_other(files):
    folder, _ = files
    failures = []

    def load():
        try:
            for _ in range(1500):
                Rubbish()
                load_npy(folder / "a.npy", None)
        except BaseException as error:
            failures.append(error)

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
    assert failures == []


class Planted:
    """Somebody else's object, which leaves a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("mode", ["r", "r+", None])
def test_F34_objects_in_place_of_numbers_are_refused_and_not_unpickled(folder, mode):
    np.save("a.npy", np.array([Planted()], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False" if mode is None else "Python objects"):
        load_npy("a.npy", mode)
    assert not (folder / "ran").exists()
