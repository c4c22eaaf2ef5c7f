"""Figures: what is drawn where, and that it can be read at 800 pixels."""

import itertools
import subprocess
import sys

import dask.array as da
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb

from blockbuster import RunReport, estimate_empty_tiles, read_report, tile_process
from blockbuster.plot import plot_run, show_labels, show_tiles
from blockbuster.report.colours import PALETTE, SEAM_COLOURS, colour_labels

pytestmark = pytest.mark.slow

matplotlib.use("Agg")
GRID = to_rgb("#35c9ff")


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def squares(side=120, every=17):
    """Objects of 12 x 12 pixels; some are cut by the seams of any tiles."""
    labels = np.zeros((side, side), "int32")
    for number, (row, column) in enumerate(itertools.product(range(2, side - 12, every), repeat=2), 1):
        labels[row : row + 12, column : column + 12] = number
    return labels


def run(image, **options):
    return tile_process(image, lambda tile: tile.astype("int32"), return_report=True, compute=True, **options)


def texts(figure):
    """Every text that is seen, with its box in pixels."""
    figure.canvas.draw()
    unseen = set()
    for ax in figure.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
                if not min(limits) <= place <= max(limits):
                    unseen.add(label)
    found = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text not in unseen]
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_visible()]


def assert_legible(figure):
    """No text overlaps another, or is cut by the border."""
    width, height = figure.canvas.get_width_height()
    found = texts(figure)
    assert len(found) > 4
    for text, box in found:
        assert box.height >= 7, text
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (one, box), (other, its_box) in itertools.combinations(found, 2):
        across = min(box.x1, its_box.x1) - max(box.x0, its_box.x0)
        along = min(box.y1, its_box.y1) - max(box.y0, its_box.y0)
        assert across <= 0 or along <= 0, (one, other)


def segments(ax, colour):
    """The lines of one colour, each as a set of its pixels' edges: (row, column) of both ends."""
    found = []
    for lines in ax.collections:
        if isinstance(lines, LineCollection) and np.allclose(lines.get_colors()[0][:3], colour):
            found += [tuple((int(y), int(x)) for x, y in segment) for segment in lines.get_segments()]
    return found


def seam_pixels(ax, colour):
    """Pixels right behind the seams that have a colour, by axis."""
    found = (set(), set())
    for (row, column), (last_row, last_column) in segments(ax, colour):
        if row == last_row:
            found[0].update((row, x) for x in range(column, last_column))
        else:
            found[1].update((y, column) for y in range(row, last_row))
    return found


def expected_seams(labels, rows, columns, state):
    """The same, from the labels, pixel by pixel."""

    def is_so(one, other):
        return (2 if one != other else 1) == state if one and other else state == 0

    return (
        {(r, c) for r in rows for c in range(labels.shape[1]) if is_so(labels[r - 1, c], labels[r, c])},
        {(r, c) for c in columns for r in range(labels.shape[0]) if is_so(labels[r, c - 1], labels[r, c])},
    )


CASES = {
    "two dimensions": ((120, 120), (32, 40), {}),
    "wide": ((40, 400), (16, 64), {}),
    "high": ((400, 40), (64, 16), {}),
    "volume": ((9, 120, 110), (3, 50, 50), {"axes": "zyx"}),
    "four dimensions": ((2, 5, 60, 60), (1, 5, 20, 20), {"axes": "tzyx"}),
    "many tiles": ((300, 300), (10, 10), {}),
    "large": ((2500, 2100), (512, 512), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_figures_can_be_read_at_800_pixels(name):
    shape, tile, options = CASES[name]
    labels = np.zeros(shape, "int32")
    labels[...] = squares(2500)[: shape[-2], : shape[-1]]
    skipped = np.zeros([-(-n // t) for n, t in zip(shape, tile, strict=True)], bool)
    skipped[..., 0, 0] = True
    figure = plot_run(labels, labels, tile_shape=tile, overlap=5, skipped=skipped, **options)
    assert figure.canvas.get_width_height()[0] == 800
    assert_legible(figure)
    assert_legible(plot_run(labels, tile_shape=tile, overlap=5, skipped=skipped, **options))
    assert_legible(show_tiles(labels, tile, skipped=skipped, **options).figure)
    assert_legible(show_labels(labels, labels).figure)


def test_seams_are_coloured_by_the_labels_on_both_sides():
    labels = squares()
    labels[30:90, 30:90] = 1000
    labels[30:60, 40] = 0
    labels[64:80, 50:90] = 1001
    figure = plot_run(labels, labels, tile_shape=(32, 40))
    for state in (0, 1, 2):
        found = seam_pixels(figure.axes[1], SEAM_COLOURS[state] / 255)
        expected = expected_seams(labels, (32, 64, 96), (40, 80), state)
        assert found == expected
        assert any(expected)


def test_seams_of_a_large_plane_are_compared_voxel_by_voxel():
    labels = np.zeros((2300, 2100), "int32")
    labels[1000, 1001], labels[999, 1001:1003] = 5, (5, 6)
    labels[1000, 1002] = 5
    figure = plot_run(da.from_array(labels, chunks=700), labels, tile_shape=(1000, 1050))
    assert seam_pixels(figure.axes[1], SEAM_COLOURS[1] / 255) == ({(1000, 1001)}, set())
    assert seam_pixels(figure.axes[1], SEAM_COLOURS[2] / 255) == ({(1000, 1002)}, set())
    assert "every 2nd pixel" in figure.axes[1].get_title(loc="left")


def test_neighbours_differ_in_what_is_rendered():
    labels = np.repeat(np.repeat(np.arange(1, 65).reshape(8, 8), 15, axis=0), 15, axis=1)
    ax = show_labels(labels)
    pixels = ax.images[0].get_array()
    zoom = len(pixels) // len(labels)
    middles = pixels[zoom * 7 :: zoom * 15, zoom * 7 :: zoom * 15].astype(int)
    np.testing.assert_array_equal(middles, colour_labels(labels)[7::15, 7::15])
    assert {tuple(colour) for colour in middles.reshape(-1, 3).tolist()} <= set(map(tuple, PALETTE.tolist()))
    for step in (np.s_[1:], np.s_[:, 1:]):
        before = np.s_[:-1] if step == np.s_[1:] else np.s_[:, :-1]
        assert np.abs(middles[step] - middles[before]).sum(axis=-1).min() > 60


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
def test_tiles_are_drawn_where_the_run_had_them_irregular_ones_too():
    labels = squares()
    image = da.from_array(labels, chunks=((50, 30, 40), (90, 30)))
    _, report = run(image, overlap=4)
    figure = plot_run(labels, labels, report)
    assert segments(figure.axes[0], GRID) == [
        ((50, 0), (50, 120)), ((80, 0), (80, 120)), ((0, 90), (120, 90)),
    ]  # fmt: skip
    (halo,) = figure.axes[0].patches
    assert (halo.get_xy(), halo.get_width(), halo.get_height()) == ((0, 46), 94, 38)
    assert "3 x 2 tiles" in figure.axes[0].get_title(loc="left")


def test_a_region_is_drawn_in_the_coordinates_of_the_image():
    labels = squares()
    figure = plot_run(labels, labels, tile_shape=(32, 40), region=np.s_[20:70, 50:110])
    for ax in figure.axes:
        assert (ax.get_xlim(), ax.get_ylim()) == ((50, 110), (70, 20))
    assert segments(figure.axes[0], GRID) == [((32, 50), (32, 110)), ((64, 50), (64, 110)), ((20, 80), (70, 80))]


def test_skipped_tiles_of_the_plane_are_hatched():
    image = np.zeros((4, 60, 80), "uint8")
    image[0, 5, 5] = image[3, 45, 70] = 200
    empty = estimate_empty_tiles(image, (2, 20, 40), threshold=10)
    for plane, full in ((0, (0, 0)), (3, (40, 40))):
        ax = show_tiles(image, (2, 20, 40), skipped=empty, plane=plane)
        (hatched,) = (part for part in ax.collections if isinstance(part, PolyCollection))
        boxes = {tuple(path.vertices[0, ::-1].astype(int).tolist()) for path in hatched.get_paths()}
        assert boxes == {(y, x) for y in (0, 20, 40) for x in (0, 40)} - {full}
        assert hatched.get_hatch()
        assert ax.get_title(loc="left") == f"image, 2 x 3 x 2 tiles, 10 skipped, axis 0 = {plane}"


def test_a_report_says_how_many_tiles_were_skipped():
    image = np.zeros((60, 80), "uint8")
    image[5, 5] = 200
    labels, report = run(image, tile_shape=(20, 40), skip_empty=True, empty_threshold=10)
    assert "3 x 2 tiles, 5 skipped" in plot_run(image, labels, report).axes[0].get_title(loc="left")


def test_labels_are_found_wherever_a_run_wrote_them(tmp_path):
    labels = squares()
    store = tmp_path / "out.zarr"
    lazy, report = tile_process(
        labels, lambda tile: tile, tile_shape=(32, 40), write_to=store, return_report=True, fn_version="1"
    )
    drawn = [
        plot_run(labels, found, report).axes[1].images[0].get_array()
        for found in (store, str(store / "labels"), lazy, lazy.compute())
    ]
    assert all(np.array_equal(one, drawn[0]) for one in drawn[1:])
    kept = plot_run(labels, store, read_report(store)).axes[1].get_title(loc="left")
    assert kept == f"labels, {report.n_objects} objects in all"


def test_a_report_of_another_image_is_refused():
    _, report = run(squares(), tile_shape=(32, 40))
    with pytest.raises(ValueError, match="does not know the tiles of an image of shape"):
        plot_run(squares(90), None, report)
    assert len(plot_run(squares(), None, report).axes) == 1
    with pytest.raises(ValueError, match="does not know the tiles"):
        plot_run(squares(), None, RunReport())


@pytest.mark.parametrize(
    "skipped", [np.zeros((4, 3)), np.zeros((3, 4), bool), [True]], ids=["float", "shape", "list"]
)
def test_skipped_tiles_of_another_grid_are_refused(skipped):
    with pytest.raises(ValueError, match=r"it is an array of bool over the grid of \(4, 3\) tiles"):
        show_tiles(squares(), (32, 40), skipped=skipped)


def test_an_image_that_labels_are_drawn_over_is_seen_through_them():
    labels = squares(600)
    image = np.linspace(0, 255, 600 * 600).reshape(600, 600)
    shown = show_labels(labels, image, alpha=0, outlines=False).images[0].get_array()
    assert (np.ptp(shown, axis=-1) == 0).all()
    over = show_labels(labels, image, alpha=1, outlines=False).images[0].get_array()
    np.testing.assert_array_equal(over[labels == 0], shown[labels == 0])
    np.testing.assert_array_equal(over[labels > 0], colour_labels(labels)[labels > 0])


def test_axes_that_are_given_are_drawn_into():
    figure, (left, right) = pyplot.subplots(1, 2)
    assert show_tiles(squares(), (32, 40), ax=left) is left
    assert show_labels(squares(), ax=right) is right
    assert len(figure.axes) == 2


def test_without_matplotlib_the_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np\n"
        "from blockbuster.plot import plot_run, show_labels, show_tiles\n"
        "for draw in (plot_run, show_labels, lambda image: show_tiles(image, None)):\n"
        "    try: draw(np.ones((3, 3), int))\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("python -m pip install 'blockbuster-tiles[plot]'") == 3


def test_planes_of_labels_in_memory_are_named_by_the_axes_of_the_image():
    volume = np.zeros((3, 20, 30), "uint8")
    volume[1, 5:9, 5:9] = 200
    figure = plot_run(volume, (volume > 0).astype(int), tile_shape=(1, 10, 10), axes="zyx", plane=1)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["image, 3 x 2 x 3 tiles, z = 1", "labels, 1 object, z = 1"]
    pyplot.close(figure)
