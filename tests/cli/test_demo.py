"""The demo: what it prints, what it leaves, and that its comparison can tell a difference."""

import contextlib
import io
import shlex

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from naive import partition_fault
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry
from skimage.filters import threshold_otsu
from skimage.io import imread

import blockbuster
from blockbuster.cli import demonstration as demo
from blockbuster.cli import main
from blockbuster.cli.demonstration import (
    CAPTION,
    MARGIN,
    ZOOM,
    draw_picture,
    haematoxylin_channel,
    same_partition,
)
from blockbuster.grid import TileGrid

# ome-zarr before 0.21 warns of its own Scaler when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")

SIDE = 512


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo that ran once, its exit status and what it printed."""
    home = tmp_path_factory.mktemp("a place") / "blockbuster-demo"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(["demo", "--folder", str(home)])
    return home, status, printed.getvalue()


def panels(picture):
    """Cut the picture into its three panels."""
    top, side = MARGIN + CAPTION, ZOOM * SIDE
    lefts = [MARGIN + i * (side + MARGIN) for i in range(3)]
    return [picture[top : top + side, left : left + side] for left in lefts]


def whole_image_labels():
    """What the demo should find, from the photograph."""
    channel = rgb2hed(immunohistochemistry())[..., 0]
    channel = (channel - channel.min()) / np.ptp(channel) * 255
    channel = channel.astype("uint8")
    smooth = ndimage.gaussian_filter(channel.astype("float64"), 1.5, radius=6)
    return ndimage.label(smooth > threshold_otsu(channel))[0]


def test_demo_succeeds_and_says_that_the_partitions_are_equal(finished):
    home, status, printed = finished
    n_expected = whole_image_labels().max()
    assert status == 0
    assert f"{n_expected} objects from 16 tiles of 128 x 128, halo 16" in printed
    assert f"untiled   {n_expected} objects" in printed
    assert "tiled and untiled partitions are equal" in printed
    assert str(home / "demo.png") in printed


def test_demo_leaves_labels_that_equal_those_of_the_whole_image(finished):
    labels = zarr.open_array(finished[0] / "labels.zarr", path="labels", mode="r")[...]
    assert partition_fault(labels, whole_image_labels()) == ""


def test_demo_leaves_an_ome_zarr_image_with_axes_and_a_pyramid(finished):
    store = finished[0] / "image.ome.zarr"
    image = haematoxylin_channel(immunohistochemistry())
    assert np.array_equal(blockbuster.load_ome_zarr(store).compute(), image)
    multiscale = zarr.open_group(store, mode="r").attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == ["y", "x"]
    scales = [dataset["coordinateTransformations"][0]["scale"] for dataset in multiscale["datasets"]]
    assert scales[:2] == [[1.0, 1.0], [2.0, 2.0]]


def test_demo_leaves_nothing_else(finished):
    names = sorted(path.name for path in finished[0].iterdir())
    assert names == ["demo.png", "image.ome.zarr", "labels.zarr"]


def test_picture_shows_the_photograph_enlarged_and_two_drawings(finished):
    picture = imread(finished[0] / "demo.png")
    assert picture.shape == (ZOOM * SIDE + 2 * MARGIN + CAPTION, 3 * ZOOM * SIDE + 4 * MARGIN, 3)
    photo, pieces, objects = panels(picture)
    assert np.array_equal(photo[::ZOOM, ::ZOOM], immunohistochemistry())
    assert all(panel.std() > 20 for panel in (pieces, objects))
    assert picture[MARGIN : MARGIN + CAPTION].min() < 60


def test_picture_draws_the_seams_and_colours_objects_but_not_the_background(finished):
    _, pieces, objects = (panel.astype(int) for panel in panels(imread(finished[0] / "demo.png")))
    labels = whole_image_labels()
    rows = [ZOOM * 128, ZOOM * 128 - 1]
    joined = ((labels[127] > 0) & (labels[127] == labels[128])).repeat(ZOOM)
    away = np.arange(ZOOM * SIDE) % (ZOOM * 128)
    joined &= (away > 4) & (away < ZOOM * 128 - 4)
    assert joined.sum() > 100
    for panel, colour in ((pieces, (255, 0, 0)), (objects, (255, 255, 255))):
        assert (panel[rows][:, joined] == colour).all()
    is_object = (labels > 0).repeat(ZOOM, 0).repeat(ZOOM, 1)
    colourfulness = np.ptp(objects, axis=-1)
    assert colourfulness[is_object].mean() > 60
    assert colourfulness[~is_object].mean() < 5


def test_pieces_of_an_object_differ_in_colour_and_the_merged_object_does_not():
    labels = np.zeros((20, 20), "int32")
    labels[4:16, 4:16] = 9
    blank = np.zeros((20, 20), "uint8")
    grid = TileGrid.regular((20, 20), (10, 10), (0, 0))
    picture = draw_picture(np.zeros((20, 20, 3), "uint8"), blank, labels, grid)
    top, side = MARGIN + CAPTION, ZOOM * 20
    _, pieces, objects = (picture[top : top + side, MARGIN + i * (side + MARGIN) :][:, :side] for i in range(3))
    inside = [(ZOOM * row, ZOOM * column) for row in (6, 13) for column in (6, 13)]
    assert len({tuple(pieces[place]) for place in inside}) == 4
    assert len({tuple(objects[place]) for place in inside}) == 1


def test_the_first_suggestion_can_be_run_as_it_stands(finished):
    _, _, printed = finished
    suggestion = next(line for line in printed.splitlines() if line.startswith("next"))
    command = shlex.split(suggestion.removeprefix("next"))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(command[1:]) == 0
    labels = zarr.open_array(command[-1], path="labels", mode="r")[...]
    image = haematoxylin_channel(immunohistochemistry())
    assert partition_fault(labels, ndimage.label(image > threshold_otsu(image))[0]) == ""


def test_demo_uses_a_new_folder_in_the_current_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blockbuster-demo").mkdir()
    assert main(["demo"]) == 0
    assert f"{tmp_path / 'blockbuster-demo' / 'demo.png'}" in capsys.readouterr().out


def test_a_folder_that_holds_anything_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["demo", "--folder", str(tmp_path)]) == 2
    message = f"blockbuster: {tmp_path} is not empty and is left alone; name another folder with --folder.\n"
    assert capsys.readouterr().err == message
    assert [path.read_text() for path in tmp_path.iterdir()] == ["keep"]
    assert main(["demo", "--folder", str(tmp_path / "mine.txt")]) == 2
    assert "is a file; name another folder with --folder." in capsys.readouterr().err


def test_a_halo_that_is_too_small_is_found_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "OVERLAP", 0)
    assert main(["demo", "--folder", str(tmp_path / "new")]) == 1
    assert "tiled and untiled partitions are DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        ([3, 3, 0, 1, 2], True),
        ([1, 1, 0, 2, 2], False),
        ([1, 4, 0, 2, 3], False),
        ([1, 1, 0, 2, 0], False),
        ([1, 1, 4, 2, 3], False),
        ([1, 1, 0, 2], False),
    ],
    ids=["other ids", "a merged pair", "a cut object", "an object lost", "an object too many", "another shape"],
)
def test_same_partition_tells(other, equal):
    assert same_partition(np.array([1, 1, 0, 2, 3]), np.array(other)) is equal


small_labels = arrays(np.int32, (3, 4), elements=st.integers(0, 3))


@given(small_labels, small_labels)
def test_same_partition_agrees_with_pairs_counted_one_by_one(one, other):
    assert same_partition(one, other) is (partition_fault(one, other) == "")


@given(small_labels, st.permutations([5, 10**9, 7]))
def test_same_partition_does_not_mind_ids(labels, ids):
    assert same_partition(labels, np.array([0, *ids])[labels])
