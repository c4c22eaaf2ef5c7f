"""The Python of the pages in docs runs as it stands, and gives what the page says."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import dask
import naive
import numpy as np
import pytest
import zarr
from outcomes import write_image
from skimage import measure

SEAMS = Path(__file__).parents[1] / "docs" / "seams.md"
# A block of Python, and what the page says that it prints.
BLOCK = r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?"


@pytest.fixture(scope="module")
def page():
    """Run all Python blocks of the page on seams in order, in one namespace; give it, and what is printed."""
    namespace, printed, shown = {}, [], []
    for block, text in re.findall(BLOCK, SEAMS.read_text(), re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, str(SEAMS), "exec"), namespace)
        if text:
            printed.append(out.getvalue())
            shown.append(text)
    return namespace, printed, shown


@pytest.fixture(scope="module")
def names(page):
    return page[0]


def test_the_page_shows_what_its_python_prints(page):
    _, printed, shown = page
    assert printed == shown
    assert len(shown) == 4


def test_agree_finds_the_cells_of_the_whole_image_and_touch_fuses_some(names):
    assert naive.partition_fault(names["found"]["agree"], names["untiled"]) == ""
    assert names["found"]["touch"].max() < 0.9 * names["untiled"].max()


def test_an_overlap_is_suggested(names):
    assert names["advice"].overlap in (4, 8, 16, 32)


def test_two_predictions_agree_as_the_page_counts_them(names):
    histogram = names["report_of_drawn"].seams.histogram
    assert [i for i, pairs in enumerate(histogram) if pairs] == [int(20 * 2 / 12), int(20 * 10 / 12)]


def test_normalised_by_the_whole_image_tiles_agree(names):
    low, high = np.percentile(names["dirty"], (1, 99.8))
    assert (names["low"], names["high"]) == (low, high)
    assert naive.partition_fault(names["alike"], names["whole"]) == ""
    assert naive.partition_fault(names["by_tile"], names["whole"]) != ""


def test_the_report_is_that_of_the_run(names):
    seams = names["report"].seams
    assert seams.merge == "agree"
    assert seams.joined > 0
    assert seams.refused > 0
    assert seams.runaway == ""


CLUSTER = SEAMS.with_name("cluster.md")


def test_the_script_for_one_machine_runs_as_it_stands(folder):
    script = re.findall(BLOCK, CLUSTER.read_text(), re.DOTALL)[0][0]
    image = np.zeros((600, 700), "uint8")
    image[50:550:20, 100:650] = 200
    write_image(folder / "image.zarr", image, chunks=(256, 256))
    (folder / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(zarr.open_array(folder / "labels.zarr" / "labels", mode="r")[...])
    assert naive.partition_fault(labels, measure.label(image > 100)) == ""
    assert "segment: 100%" in done.stderr


def test_every_setting_that_the_page_names_is_one_of_dask():
    import distributed

    settings = set(re.findall(r"`(distributed\.[\w.-]+)`", CLUSTER.read_text()))
    assert distributed.config is not None
    assert len(settings) >= 3
    for setting in settings:
        assert dask.config.get(setting, "missing") != "missing", setting
