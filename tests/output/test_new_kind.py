"""A kind of output that the package does not have is one class: here labels in one NumPy file."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from interrupted import IMAGE, OPTIONS, Labeller, interrupt_at, store_in_small_pieces
from naive import partition_fault
from outcomes import refused
from scipy import ndimage

from blockbuster import plan_run, read_report, tile_process
from blockbuster.output import places
from blockbuster.output.layout import OutputLayout
from blockbuster.output.places import OutputPlace
from blockbuster.output.targets import NpyTarget

WHOLE = ndimage.label(IMAGE)[0]
# Named like a chunk: files of other names in a folder of ours are somebody else's, and left alone.
FILE = "0"


class KeptNpyTarget(NpyTarget):
    """A file that outlives the run, so that it is known what is stored of a box."""

    def checksum(self, box):
        return str(zlib.crc32(np.load(self.path)[box].tobytes()))

    def clear(self, box):
        self.write(box, np.zeros((), "int32"))


class NpyPlace(OutputPlace):
    """A folder with all labels in one file, for names that end with .npy."""

    noun = "folder with a .npy file"

    @staticmethod
    def suits(store, component):
        return component.endswith(".npy")

    @staticmethod
    def is_at(path):
        return os.path.isfile(os.path.join(path, FILE))

    def layout(self, array, geometry):
        return OutputLayout((array,))

    def create(self, store, layout):
        zarr.create_group(Path(store))
        folder = Path(store, self.component)
        folder.mkdir()
        (array,) = layout.arrays
        np.lib.format.open_memmap(folder / FILE, "w+", array.dtype, array.shape)

    def target(self, folder, layout):
        return KeptNpyTarget(os.path.join(folder, FILE))

    def read(self, *, compute):
        return np.load(os.path.join(self.path, FILE), mmap_mode=None if compute else "r")


@pytest.fixture(autouse=True)
def with_npy_files(monkeypatch):
    monkeypatch.setattr(places, "KINDS", (NpyPlace, *places.KINDS))


@pytest.fixture
def options(tmp_path):
    return {**OPTIONS, "write_to": tmp_path / "out.zarr", "output_component": "cells.npy"}


def label(tile):
    return ndimage.label(tile)[0]


def test_a_run_writes_and_publishes_it_like_any_other(tmp_path, options):
    assert isinstance(plan_run(IMAGE, **options).place, NpyPlace)
    labels = tile_process(IMAGE, label, **options)
    assert not partition_fault(labels, WHOLE)
    np.testing.assert_array_equal(np.load(tmp_path / "out.zarr" / "cells.npy" / FILE), labels)
    assert read_report(options["write_to"], "cells.npy").n_objects == WHOLE.max()
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_it_is_replaced_only_where_that_was_asked_for(tmp_path, options):
    tile_process(np.zeros_like(IMAGE), label, **options, skip_empty=False)
    with refused(FileExistsError, "exists; pass overwrite=True", folder=tmp_path):
        tile_process(IMAGE, label, **options)
    assert not partition_fault(tile_process(IMAGE, label, **options, overwrite=True), WHOLE)
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_what_is_of_another_kind_is_left_alone(tmp_path, options):
    zarr.create_group(tmp_path / "out.zarr").create_array("cells.npy", data=IMAGE, chunks=IMAGE.shape)
    with refused(FileExistsError, "exists and is not a folder with a .npy file", folder=tmp_path):
        tile_process(IMAGE, label, **options, overwrite=True)


@pytest.mark.parametrize("point", ["box journalled", "output complete", "output in place"])
def test_it_is_finished_by_a_later_call(point, tmp_path, options, monkeypatch):
    store_in_small_pieces(monkeypatch)
    fn = Labeller(tmp_path / "labeller")
    interrupt_at(point, fn, **options)
    labels = tile_process(IMAGE, fn, **options, resume=True)
    assert not partition_fault(labels, WHOLE)
    assert fn.calls == {}
    assert sorted(os.listdir(tmp_path)) == ["labeller", "out.zarr"]
