"""The small picture of a run: which labels it shows, and its seams."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from blockbuster.grid import TileGrid
from blockbuster.report import SeamReport, WorstSeam
from blockbuster.report.colours import SEAM_COLOURS
from blockbuster.report.thumbnail import read_thumbnail


def write_labels(path, labels, chunks=None):
    array = zarr.create_array(str(path), shape=labels.shape, chunks=chunks or labels.shape, dtype=labels.dtype)
    array[...] = labels
    return str(path)


def numbered(*shape):
    return np.arange(1, np.prod(shape) + 1, dtype="int32").reshape(shape)


def tiles(*tile):
    return lambda shape: TileGrid.regular(shape, tile, (0,) * len(tile))


def at(*place):
    return SeamReport(worst=[WorstSeam([[0] * len(place)] * 2, "y", 1, 1, 0, list(place))])


@pytest.mark.parametrize("place", [(0, 0), (300, 500), (599, 899)])
def test_it_shows_the_labels_around_the_first_seam_and_reads_no_other_chunk(tmp_path, place):
    labels = numbered(600, 900)
    path = write_labels(tmp_path / "labels", labels, (100, 100))
    found = read_thumbnail(path, at(*place), tiles(50, 70))
    assert found.labels.shape == (180, 270)
    np.testing.assert_array_equal(found.labels, labels[found.at])
    assert labels[place] in found.labels
    rows, columns = ({part.start // 100, (part.stop - 1) // 100} for part in found.at)
    for chunk in Path(path).glob("c/*/*"):
        inside = min(rows) <= int(chunk.parent.name) <= max(rows), min(columns) <= int(chunk.name) <= max(columns)
        if not all(inside):
            chunk.write_bytes(b"damaged")
    np.testing.assert_array_equal(read_thumbnail(path, at(*place), tiles(50, 70)).labels, found.labels)


def test_its_seams_lie_where_the_tiles_end(tmp_path):
    path = write_labels(tmp_path / "labels", numbered(4, 600, 900))
    found = read_thumbnail(path, at(1, 300, 500), tiles(2, 50, 70))
    index, rows, columns = found.at
    assert index == 1
    assert [rows.start + row for row in found.rows] == [
        n for n in range(0, 600, 50) if rows.start < n < rows.stop
    ]
    assert [columns.start + c for c in found.columns] == [
        n for n in range(0, 900, 70) if columns.start < n < columns.stop
    ]
    assert found.caption.startswith(f"labels[1, {rows.start}:{rows.stop}, {columns.start}:{columns.stop}]; ")


@pytest.mark.parametrize("seams", [SeamReport(), at(5, 5), at(3, 900, 3)])
def test_it_shows_the_middle_where_no_seam_fits(tmp_path, seams):
    labels = numbered(3, 200, 300)
    found = read_thumbnail(write_labels(tmp_path / "labels", labels), seams, lambda shape: None)
    assert found.at == (1, slice(10, 190), slice(15, 285))
    assert (found.rows, found.columns) == ([], [])
    assert found.caption == "labels[1, 10:190, 15:285]"


def test_it_draws_what_happened_at_the_seams(tmp_path):
    labels = np.ones((20, 40), "int32")
    labels[:, 30:] = 0
    labels[10:, :10] = 2
    picture = read_thumbnail(write_labels(tmp_path / "labels", labels), SeamReport(), tiles(10, 20)).draw()
    assert picture.shape == (160, 320, 3)
    for place, state in (((80, 8), 2), ((80, 120), 1), ((80, 250), 0), ((20, 160), 1)):
        assert tuple(picture[place]) == tuple(SEAM_COLOURS[state])


@pytest.mark.parametrize("fault", ["no path", "no folder", "no array", "damaged", "one axis", "no voxels"])
def test_labels_that_cannot_be_shown_are_no_error(tmp_path, fault):
    shape = {"one axis": (20,), "no voxels": (20, 0)}.get(fault, (20, 20))
    path = write_labels(tmp_path / "labels", numbered(*shape), (20,) * len(shape))
    if fault == "no array":
        (tmp_path / "labels/zarr.json").unlink()
    if fault == "damaged":
        (tmp_path / "labels/c/0/0").write_text("damaged")
    path = {"no path": "", "no folder": str(tmp_path / "moved")}.get(fault, path)
    assert read_thumbnail(path, SeamReport(), tiles(10, 10)) is None
