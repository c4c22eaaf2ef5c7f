"""The Python of the page on models runs as it stands, where it needs no model's package."""

import contextlib
import io
import re
from pathlib import Path

import naive
import pytest
from skimage import data
from skimage.measure import label

from blockbuster.plugins import unload_models

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
# What a block needs, a block of Python, and what the page says that it prints.
BLOCK = r"(?:<!-- needs (\w+) -->\n)?```python\n(.*?)```(?:\n\n```text\n(.*?)```)?"


@pytest.fixture(scope="module")
def names():
    """Run the blocks that need no package in order, in one namespace; compile the others."""
    namespace = {"__name__": "page"}
    for needed, block, text in re.findall(BLOCK, PAGE.read_text(), re.DOTALL):
        code = compile(block, str(PAGE), "exec")
        if needed:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, namespace)
        assert out.getvalue() == text
    yield namespace
    unload_models()


def test_recipe_finds_what_the_whole_image_has(names):
    bright = (data.coins() - names["low"]) / (names["high"] - names["low"]) > 0.5
    assert naive.partition_fault(names["labels"], label(bright)) == ""


def test_every_block_that_is_not_run_says_what_it_needs():
    needed = [needed for needed, _, _ in re.findall(BLOCK, PAGE.read_text(), re.DOTALL)]
    assert needed == ["cellpose", "stardist", "", "", "torch", "instanseg", "cellpose"]
