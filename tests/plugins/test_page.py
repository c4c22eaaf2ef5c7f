"""What the page on models says of a network of one's own."""

import naive
import pytest
from pages import DOCS, run_page
from skimage import data
from skimage.measure import label

from blockbuster.plugins import unload_models

MODELS = DOCS / "models.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names of the page's Python, but for what needs the package of a model."""
    yield run_page(MODELS, tmp_path_factory.mktemp("page"))
    unload_models()


def test_recipe_finds_what_the_whole_image_has(names):
    bright = (data.coins() - names["low"]) / (names["high"] - names["low"]) > 0.5
    assert naive.partition_fault(names["labels"], label(bright)) == ""
