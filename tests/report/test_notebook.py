"""What a notebook shows of a run: tables, the distribution of agreement, and the labels at the worst seams."""

import base64
import io
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial import cKDTree

from blockbuster import RunReport, read_report, tile_process
from blockbuster.report import N_BINS, AxisSeams, SeamReport, WorstSeam
from blockbuster.report.picture import read_crops

SVG = "{http://www.w3.org/2000/svg}"
FLOOR, LEFT, RIGHT = 186, 20, 660


def parsed(report):
    """What a report shows, as a tree; it is well formed."""
    return ElementTree.fromstring(f"<div>{report._repr_html_()}</div>")


def picture_of(figure):
    """The pixels that a figure shows."""
    data = base64.b64decode(figure.find("img").get("src").removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def words(element):
    return " ".join("".join(element.itertext()).split())


def agreed(histogram, min_agreement=0.3):
    axes = [AxisSeams("y", sum(histogram), 0, list(histogram))]
    return RunReport(seams=SeamReport("agree", min_agreement, axes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Labels of dense tissue, and what `tile_process` said about them; every tile draws other borders."""
    store = tmp_path_factory.mktemp("runs") / "out.zarr"
    points = np.random.default_rng(3).random((300, 2)) * 200
    voxels = np.stack(np.indices((200, 200)), -1).reshape(-1, 2)
    image = (cKDTree(points).query(voxels)[1] + 1).reshape(200, 200)

    def fn(tile):
        return np.roll(tile, int(tile[0, 0]) % 5, axis=(0, 1))

    options = {"tile_shape": (80, 80), "overlap": 10, "merge": "agree", "fn_version": "1"}
    _, report = tile_process(image, fn, write_to=store, return_report=True, **options)
    return store, report


def test_a_finished_run_shows_a_small_table_and_a_thumbnail(finished):
    report = read_report(finished[0])
    page = parsed(report)
    (shown,) = page.findall("div")
    rows = {words(row[0]): words(row[1]) for row in shown.find("table").iter("tr")}
    assert rows["objects"] == str(report.n_objects)
    assert rows["tiles"] == "9: 9 run, 0 empty"
    assert rows["seams"] == f"{report.n_pairs} pairs of labels touch, {report.seams.refused} refused"
    assert set(rows) == {"objects", "tiles", "seams", "seconds"}
    (figure,) = shown.findall("figure")
    height, width, _ = picture_of(figure).shape
    assert 300 <= width <= 600
    assert 300 <= height <= 600
    assert "white: joined, red: kept apart" in words(figure)


def test_what_is_not_asked_for_first_unfolds(finished):
    page = parsed(read_report(finished[0]))
    seams, settings = page.findall("details")
    assert [words(part.find("summary")) for part in (seams, settings)] == ["seams", "settings and versions"]
    rows = {words(row[0]): words(row[1]) for row in settings.iter("tr")}
    assert rows["halo"] == "[10, 10]"
    assert f"numpy {np.__version__}" in rows["versions"]
    assert [element.tag for element in page] == ["div", "details", "details"]


def test_a_finished_run_shows_its_seams_and_the_labels_at_the_worst_ones(finished):
    store, _ = finished
    report = read_report(store)
    seams = parsed(report).find("details")
    rows = [[words(cell) for cell in row] for row in seams.find("table").iter("tr")]
    assert rows == report.seams.table()
    assert sum(int(words(text)) for text in seams.iterfind(f".//{SVG}g/{SVG}text")) == report.n_pairs > 100
    figures = list(seams.iter("figure"))
    assert len(figures) == len(report.seams.worst) > 1
    for figure, crop in zip(figures, read_crops(report.seams, str(store / "labels")), strict=True):
        image, pixels = figure.find("img"), picture_of(figure)
        np.testing.assert_array_equal(pixels, crop.draw())
        assert (int(image.get("height")), int(image.get("width"))) == pixels.shape[:2]
        assert words(figure.find("figcaption")) == crop.caption == image.get("alt")


@pytest.mark.parametrize("kind", ["tissue", "noise"])
def test_a_page_stays_small_whatever_the_labels_are(tmp_path, kind):
    image = np.random.default_rng(0).integers(1, 9000, (300, 500))
    if kind == "tissue":
        image = image[::12, ::12].repeat(12, axis=0).repeat(12, axis=1)
    options = {"tile_shape": (70, 70), "overlap": 4, "merge": "agree", "fn_version": "1"}
    tile_process(
        image, lambda tile: np.roll(tile, int(tile[0, 0]) % 5, axis=1), write_to=tmp_path / "o", **options
    )
    page = read_report(tmp_path / "o")._repr_html_()
    assert 1 <= page.count("<img") <= 5
    assert len(page) < 100_000


def test_the_worst_seams_of_a_run_lie_where_two_tiles_of_it_meet(finished):
    seams = finished[1].seams
    crops = read_crops(seams, str(finished[0] / "labels"))
    assert crops
    for seam, crop in zip(seams.worst[: len(crops)], crops, strict=True):
        for axis, cuts in enumerate((crop.rows, crop.columns)):
            first, second = (tile[axis] for tile in seam.tiles)
            expected = [] if first == second else [80 * max(first, second) - crop.at[axis].start]
            assert cuts == expected


def test_labels_that_were_moved_leave_the_rest_of_what_is_shown(finished, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(finished[0], copy)
    report = read_report(copy)
    with_pictures = parsed(report)
    copy.rename(tmp_path / "moved.zarr")
    page = parsed(report)
    assert not list(page.iter("img"))
    for parent in [element for element in with_pictures.iter() if element.find("figure") is not None]:
        for figure in parent.findall("figure"):
            parent.remove(figure)
    assert words(page) == words(with_pictures)
    assert not copy.exists()


def test_a_report_shows_pictures_once_it_is_told_where_the_labels_are(finished):
    report = RunReport.from_json(finished[1].to_json())
    assert report.labels_path == ""
    assert not list(parsed(report).iter("img"))
    report.labels_at(finished[0] / "labels")
    assert len(list(parsed(report).iter("img"))) == 1 + len(report.seams.worst)
    assert report == RunReport.from_json(report.to_json())


@given(
    st.lists(st.integers(0, 10**6) | st.just(0), min_size=N_BINS, max_size=N_BINS).filter(any),
    st.floats(0, 1),
)
def test_bars_are_as_high_as_their_counts_and_change_colour_at_the_threshold(counts, min_agreement):
    svg = parsed(agreed(counts, min_agreement)).find(f".//{SVG}svg")
    x = LEFT + (RIGHT - LEFT) * min_agreement
    line = svg.find(f"{SVG}line[@class='threshold']")
    assert float(line.get("x1")) == pytest.approx(x, abs=0.01) == float(line.get("x2"))
    bars = svg.findall(f"{SVG}g")
    shown = [(number, count) for number, count in enumerate(counts) if count]
    assert len(bars) == len(shown)
    for bar, (number, count) in zip(bars, shown, strict=True):
        assert (
            words(bar.find(f"{SVG}title")) == f"agreement {number / 20:.2f} to {number / 20 + 0.05:.2f}: {count}"
        )
        parts = bar.findall(f"{SVG}rect")
        for part in parts:
            start, width = float(part.get("x")), float(part.get("width"))
            height = float(part.get("height"))
            assert height == pytest.approx(max(2, 142 * count / max(counts)), abs=0.01)
            assert float(part.get("y")) + height == pytest.approx(FLOOR, abs=0.02)
            is_joined = part.get("fill") == "#3b82c4"
            assert start >= x - 0.02 if is_joined else start + width <= x + 0.02
        assert sum(float(part.get("width")) for part in parts) == pytest.approx((RIGHT - LEFT) / 20, abs=0.03)


def test_text_takes_the_colour_of_the_page():
    svg = parsed(agreed([3] * N_BINS)).find(f".//{SVG}svg")
    assert svg.get("fill") == "currentColor"
    assert not [text for text in svg.iter(f"{SVG}text") if text.get("fill") or text.get("style")]
    assert {line.get("stroke") for line in svg.iter(f"{SVG}line")} == {"currentColor"}


@pytest.mark.parametrize("min_agreement", [0, 0.02, 0.5, 1])
def test_words_at_the_threshold_stay_inside_the_picture(min_agreement):
    svg = parsed(agreed([3] * N_BINS, min_agreement)).find(f".//{SVG}svg")
    (text,) = (text for text in svg.iter(f"{SVG}text") if "min_agreement" in words(text))
    assert words(text) == f"refused \u2190 min_agreement {min_agreement:g} \u2192 joined"
    assert 100 < float(text.get("x")) < 580


@pytest.mark.parametrize(
    ("count", "shown"), [(9999, "9999"), (10000, "10k"), (29_999_999, "29M"), (10**13, "10000G")]
)
def test_large_counts_are_shortened(count, shown):
    svg = parsed(agreed([count] + [0] * 19)).find(f".//{SVG}svg")
    assert words(svg.find(f"{SVG}g/{SVG}text")) == shown


def test_no_histogram_is_drawn_where_agreement_was_not_measured():
    page = parsed(RunReport(seams=SeamReport(axes=[AxisSeams("y", 5, 5)])))
    assert page.find(f".//{SVG}svg") is None
    assert "5 pairs of labels touch" in words(page)
    assert "no labels were joined across seams" in words(parsed(RunReport(seams=SeamReport("none"))))


def test_words_of_a_report_are_no_markup():
    worst = [WorstSeam([[0], [1]], "<i>", 1, 1, 0, [1])]
    seams = SeamReport("touch", None, [AxisSeams("<b>", 1, 1)], worst=worst, runaway="a < b & c")
    page = parsed(RunReport(settings={"image": "<script>"}, seams=seams))
    assert not [element for element in page.iter() if element.tag in ("b", "i", "script")]
    assert re.search("a < b & c", words(page.find("p/strong")))
