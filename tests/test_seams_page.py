"""The page on seams gives what it says that it gives."""

import naive
import numpy as np
import pytest
from pages import DOCS, blocks, run_page

SEAMS = DOCS / "seams.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Run all blocks of the page in order; what it says that they print is compared."""
    return run_page(SEAMS, tmp_path_factory.mktemp("seams"))


def test_the_page_shows_what_its_python_prints():
    assert sum(bool(block.shown) for block in blocks(SEAMS)) == 5


def test_agree_finds_the_cells_of_the_whole_image_and_touch_fuses_some(names):
    assert naive.partition_fault(names["found"]["agree"], names["untiled"]) == ""
    assert names["found"]["touch"].max() < 0.9 * names["untiled"].max()


def test_an_overlap_is_suggested(names):
    assert names["advice"].overlap in (4, 8, 16, 32)


def test_two_predictions_agree_as_the_page_counts_them(names):
    histogram = names["report_of_drawn"].seams.histogram
    assert [i for i, pairs in enumerate(histogram) if pairs] == [int(20 * 2 / 6), int(20 * 10 / 12)]


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
