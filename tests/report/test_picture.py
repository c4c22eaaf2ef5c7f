"""Pictures of labels at seams: which voxels they show, in which colours, and what is drawn over them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from blockbuster.grid import TileGrid
from blockbuster.report import SeamReport, WorstSeam
from blockbuster.report.colours import SEAM_COLOURS, paint_labels
from blockbuster.report.picture import (
    LabelCrop,
    draw_sheet,
    encode_png,
    read_crop,
    read_crops,
    read_thumbnail,
)

SEAM = (255, 255, 255)


def write_labels(path, labels, chunks=None, **options):
    array = zarr.create_array(
        path, shape=labels.shape, chunks=chunks or labels.shape, dtype=labels.dtype, **options
    )
    array[...] = labels
    return str(path)


def numbered(*shape):
    """Labels that are all different, so that a voxel tells where it is from."""
    return np.arange(1, np.prod(shape) + 1, dtype="int32").reshape(shape)


def seam_at(at, tiles, agreement=None):
    return WorstSeam(tiles, "y", 5, 3, 1, list(at), agreement)


def crop_of(labels, cuts=((), ()), ring=None):
    return LabelCrop(labels, tuple(slice(0, n) for n in labels.shape), *cuts, "tiles and their labels", ring)


def corners(picture, zoom):
    """The first pixel of every voxel, on which no outline is drawn."""
    return picture[::zoom, ::zoom]


@pytest.mark.parametrize("at", [(0, 0), (99, 150), (211, 299), (40, 250)])
def test_a_crop_shows_the_voxels_around_a_seam_inside_the_image(tmp_path, at):
    labels = numbered(212, 300)
    crop = read_crop(write_labels(tmp_path / "labels", labels, (50, 60)), seam_at(at, [[0, 0], [1, 0]]))
    assert crop.labels.shape == (160, 160)
    assert labels[at] in crop.labels
    np.testing.assert_array_equal(crop.labels, labels[crop.at])
    for start, position, length in zip((part.start for part in crop.at), at, labels.shape, strict=True):
        assert abs(start + 80 - position) <= 1 or start in (0, length - 160)


@pytest.mark.parametrize(
    ("tiles", "behind"),
    [
        ([[0, 0], [1, 0]], (1, None)),
        ([[0, 0], [0, 1]], (None, 1)),
        ([[0, 0], [1, 1]], (1, 1)),
        # The second tile is below and to the left: the voxel is the first one behind the seam across x.
        ([[0, 1], [1, 0]], (1, 0)),
    ],
)
def test_the_seam_lies_between_the_voxel_and_the_other_tile(tmp_path, tiles, behind):
    path = write_labels(tmp_path / "labels", numbered(40, 40))
    crop = read_crop(path, seam_at((15, 20), tiles))
    expected = [[] if step is None else [i + step] for i, step in zip((15, 20), behind, strict=True)]
    assert [crop.rows, crop.columns] == expected


@pytest.mark.parametrize(
    ("tiles", "axes"),
    [
        ([[0, 0, 0], [1, 0, 0]], (0, 2)),
        ([[0, 0, 0], [0, 1, 0]], (1, 2)),
        ([[0, 0, 0], [0, 0, 1]], (1, 2)),
        ([[0, 0, 0], [0, 1, 1]], (1, 2)),
        ([[0, 1, 0], [1, 0, 1]], (1, 2)),
        ([[0, 0, 0, 0], [1, 0, 0, 0]], (0, 3)),
        ([[0, 0, 0, 0], [1, 1, 0, 0]], (0, 1)),
        ([[0, 0, 0, 0], [0, 1, 0, 0]], (1, 3)),
    ],
)
def test_a_volume_is_shown_in_a_plane_that_the_seam_cuts(tmp_path, tiles, axes):
    shape = (6, 5, 7, 8)[-len(tiles[0]) :]
    labels, at = numbered(*shape), (2, 3, 4, 5)[-len(shape) :]
    names = "tzyx"[-len(shape) :]
    crop = read_crop(write_labels(tmp_path / "labels", labels, dimension_names=list(names)), seam_at(at, tiles))
    plane = tuple(slice(None) if axis in axes else i for axis, i in enumerate(at))
    np.testing.assert_array_equal(crop.labels, labels[plane])
    np.testing.assert_array_equal(crop.labels, labels[crop.at])
    ringed = read_crop(str(tmp_path / "labels"), seam_at(at, tiles, agreement=0.4))
    assert ringed.labels[ringed.ring] == labels[at]
    assert crop.caption.endswith(f"; {names[axes[0]]} down, {names[axes[1]]} to the right")


def test_a_crop_reads_no_chunk_that_it_does_not_show(tmp_path):
    labels = numbered(500, 500)
    path = write_labels(tmp_path / "labels", labels, (100, 100))
    for chunk in Path(path).glob("c/*/*"):
        if not {chunk.parent.name, chunk.name} <= {"1", "2"}:
            chunk.write_bytes(b"damaged")
    crop = read_crop(path, seam_at((199, 200), [[0, 0], [1, 0]]))
    np.testing.assert_array_equal(crop.labels, labels[119:279, 120:280])


def test_a_thin_stack_is_enlarged_and_not_distorted(tmp_path):
    crop = read_crop(write_labels(tmp_path / "labels", numbered(10, 900)), seam_at((4, 300), [[0, 0], [1, 0]]))
    assert crop.labels.shape == (10, 40)
    assert crop.draw().shape == (80, 320, 3)


def test_labels_that_cannot_be_shown_are_left_out(tmp_path):
    path = write_labels(tmp_path / "labels", numbered(20, 20))
    inside, outside = seam_at((9, 9), [[0, 0], [1, 0]]), seam_at((9, 20), [[0, 0], [1, 0]])
    seams = SeamReport(worst=[inside, outside, seam_at((9, 9, 9), [[0, 0, 0], [1, 0, 0]])])
    assert [crop.caption for crop in read_crops(seams, path)] == [str(inside)]
    line = write_labels(tmp_path / "line", numbered(20))
    assert read_crops(SeamReport(worst=[seam_at((9,), [[0], [1]])]), line) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": None},
        {"codecs": 5},
        {"data_type": "float32", "fill_value": 0.0},
        {"chunk_grid": {}},
        {"zarr_format": 9},
    ],
    ids=str,
)
def test_labels_whose_metadata_are_damaged_or_no_labels_are_no_error(tmp_path, changed):
    path = write_labels(tmp_path / "labels", numbered(20, 20))
    seams = SeamReport(worst=[seam_at((9, 9), [[0, 0], [1, 0]])])
    file = tmp_path / "labels/zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    assert read_crops(seams, path) == []
    assert read_thumbnail(path, seams, tiles(10, 10)) is None


@pytest.mark.parametrize("fault", ["no path", "no folder", "no array", "damaged metadata", "damaged chunk"])
def test_labels_that_are_gone_or_damaged_are_no_error(tmp_path, fault):
    path = write_labels(tmp_path / "labels", numbered(20, 20))
    seams = SeamReport(worst=[seam_at((9, 9), [[0, 0], [1, 0]])])
    assert len(read_crops(seams, path)) == 1
    if fault == "no array":
        (tmp_path / "labels/zarr.json").unlink()
    if fault.startswith("damaged"):
        (tmp_path / "labels" / {"metadata": "zarr.json", "chunk": "c/0/0"}[fault[8:]]).write_text("damaged")
    before = sorted(tmp_path.rglob("*"))
    assert read_crops(seams, {"no path": "", "no folder": str(tmp_path / "moved")}.get(fault, path)) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_labels_are_painted_as_in_all_pictures():
    labels = np.array([[1, 1, 2], [1, 0, 2], [3, 3, 2]])
    crop = crop_of(labels)
    np.testing.assert_array_equal(crop.draw(), paint_labels(labels, zoom=crop.zoom))


@pytest.mark.parametrize("cuts", [([3], []), ([], [7]), ([3], [7])])
def test_the_seam_is_a_dashed_line_in_the_colours_of_what_happened_there(cuts):
    labels = np.repeat(np.repeat([[1, 1, 2, 0, 3]], 2, axis=1), 10, axis=0)
    drawn, plain = crop_of(labels, cuts).draw(), crop_of(labels).draw()
    zoom, changed = crop_of(labels).zoom, np.zeros(drawn.shape[:2], bool)
    for axis, behind in enumerate(cuts):
        for cut in behind:
            lines = np.moveaxis(changed, axis, 0)
            lines[zoom * cut - 1 : zoom * cut + 1, np.arange(10 * zoom) % 12 < 6] = True
    np.testing.assert_array_equal(drawn[~changed], plain[~changed])
    joined, apart, nothing = (
        (drawn == colour).all(axis=2) for colour in ((255, 255, 255), (255, 0, 0), (110, 110, 116))
    )
    assert ((joined | apart | nothing) >= changed).all()
    if cuts[0]:
        row = drawn[zoom * 3]
        expected = {0: SEAM, 2 * zoom: SEAM, 6 * zoom: (110, 110, 116), 9 * zoom: SEAM}
        assert all(tuple(row[place // 12 * 12]) == colour for place, colour in expected.items())


def test_a_ring_goes_around_the_pair_whose_agreement_is_given():
    labels = np.full((100, 120), 4, "int32")
    crop, bare = crop_of(labels, ring=(40, 70)), crop_of(labels)
    ring = np.argwhere((crop.draw() == SEAM).all(axis=2))
    centre = crop.zoom * np.array((40, 70)) + crop.zoom / 2
    distances = np.linalg.norm(ring - centre, axis=1) / crop.zoom
    assert 7 < distances.min() <= distances.max() < 9
    assert not (bare.draw() == SEAM).all(axis=2).any()


def test_a_crop_has_a_ring_where_the_agreement_of_its_seam_is_known(tmp_path):
    labels = numbered(500, 500)
    path = write_labels(tmp_path / "labels", labels)
    crop, bare = (read_crop(path, seam_at((199, 300), [[0, 0], [1, 0]], value)) for value in (0.25, None))
    assert crop.labels[crop.ring] == labels[199, 300]
    assert bare.ring is None


@pytest.mark.parametrize("n_colours", [1, 2, 256, 257, 5000])
def test_a_png_holds_every_pixel_whatever_the_number_of_colours(n_colours):
    colours = np.random.default_rng(0).permutation(2**24)[:n_colours]
    codes = np.resize(colours, (100, 60))
    pixels = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype("uint8")
    picture = Image.open(io.BytesIO(encode_png(pixels)))
    assert picture.mode == ("P" if n_colours <= 256 else "RGB")
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), pixels)


def test_a_sheet_shows_every_picture_side_by_side_over_a_caption():
    crops = [crop_of(numbered(160, 160), ([80], [])), crop_of(numbered(40, 160)), crop_of(numbered(16, 16))]
    sheet = np.asarray(Image.open(io.BytesIO(encode_png(draw_sheet(crops)))).convert("RGB"))
    left = 0
    for crop in crops:
        picture = crop.draw()
        height, width, _ = picture.shape
        corner = np.flatnonzero((sheet[12, left:] == picture[0, 0]).all(axis=1))[0] + left
        np.testing.assert_array_equal(sheet[12 : 12 + height, corner : corner + width], picture)
        caption = sheet[12 + 320 :, corner : corner + width]
        assert (caption.min(axis=2) < 100).any()
        left = corner + width
    assert (sheet[-1] == 255).all()
    assert (sheet[:, -1] == 255).all()


def tiles(*tile):
    return lambda shape: TileGrid.regular(shape, tile, (0,) * len(tile))


def at(*place):
    return SeamReport(worst=[WorstSeam([[0] * len(place)] * 2, "y", 1, 1, 0, list(place))])


@pytest.mark.parametrize("place", [(0, 0), (300, 500), (599, 899)])
def test_a_thumbnail_shows_the_labels_around_the_first_seam_and_reads_no_other_chunk(tmp_path, place):
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


def test_the_seams_of_a_thumbnail_lie_where_the_tiles_end(tmp_path):
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
def test_a_thumbnail_shows_the_middle_where_no_seam_fits(tmp_path, seams):
    labels = numbered(3, 200, 300)
    found = read_thumbnail(write_labels(tmp_path / "labels", labels), seams, lambda shape: None)
    assert found.at == (1, slice(10, 190), slice(15, 285))
    assert (found.rows, found.columns) == ([], [])
    assert found.caption == "labels[1, 10:190, 15:285]"


def test_a_thumbnail_draws_what_happened_at_the_seams(tmp_path):
    labels = np.ones((20, 40), "int32")
    labels[:, 30:] = 0
    labels[10:, :10] = 2
    picture = read_thumbnail(write_labels(tmp_path / "labels", labels), SeamReport(), tiles(10, 20)).draw()
    assert picture.shape == (160, 320, 3)
    for place, state in (((80, 8), 2), ((80, 120), 1), ((80, 250), 0), ((20, 160), 1)):
        assert tuple(picture[place]) == tuple(SEAM_COLOURS[state])


@pytest.mark.parametrize("fault", ["no path", "no folder", "no array", "damaged", "one axis", "no voxels"])
def test_labels_that_cannot_be_shown_have_no_thumbnail(tmp_path, fault):
    shape = {"one axis": (20,), "no voxels": (20, 0)}.get(fault, (20, 20))
    path = write_labels(tmp_path / "labels", numbered(*shape), (20,) * len(shape))
    if fault == "no array":
        (tmp_path / "labels/zarr.json").unlink()
    if fault == "damaged":
        (tmp_path / "labels/c/0/0").write_text("damaged")
    path = {"no path": "", "no folder": str(tmp_path / "moved")}.get(fault, path)
    assert read_thumbnail(path, SeamReport(), tiles(10, 10)) is None
