"""The Python of the pages in docs runs as it stands, and gives what the page says."""

import re
from pathlib import Path

import naive
import numpy as np
import pytest

SEAMS = Path(__file__).parents[1] / "docs" / "seams.md"


@pytest.fixture(scope="module")
def names():
    """Run all Python blocks of the page on seams in order, in one namespace."""
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", SEAMS.read_text(), re.DOTALL):
        exec(compile(block, str(SEAMS), "exec"), namespace)
    return namespace


def test_agree_finds_the_cells_of_the_whole_image_and_touch_fuses_some(names):
    assert naive.partition_fault(names["found"]["agree"], names["untiled"]) == ""
    assert names["found"]["touch"].max() < 0.9 * names["untiled"].max()


def test_an_overlap_is_suggested(names):
    assert names["advice"].overlap in (4, 8, 16, 32)


def test_normalised_by_the_whole_image_tiles_agree(names):
    low, high = np.percentile(names["cells"], (1, 99.8))
    assert (names["low"], names["high"]) == (low, high)
    whole = names["segment_normalised"](names["cells"], low, high)
    assert naive.partition_fault(names["labels"], whole) == ""


def test_the_report_is_that_of_the_run(names):
    seams = names["report"].seams
    assert seams.merge == "agree"
    assert seams.joined > 0
    assert seams.refused > 0
    assert seams.runaway == ""
