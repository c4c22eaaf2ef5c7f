"""The README's code runs as it stands, and gives what it says."""

import re

import naive
import numpy as np
import pytest
import zarr
from pages import CONTRIBUTING, DOCS, README, ROOT, pixels, run_page
from scipy import ndimage
from skimage.filters import threshold_otsu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def names(folder):
    """Run all blocks in order."""
    return run_page(README, folder)


def test_the_example_gives_the_labels_of_the_whole_image(names):
    assert naive.partition_fault(np.asarray(names["labels"]), ndimage.label(names["image"] > 120)[0]) == ""


@pytest.mark.usefixtures("names")
def test_labels_are_written_into_the_image(folder):
    first = pixels()[0]
    # Both channels of the image share a range, and a threshold of the one that is shown.
    for name, threshold in (("cells", 120), ("otsu", threshold_otsu(first))):
        labels = zarr.open_array(folder / "image.zarr/labels" / name / "0", mode="r")[...]
        assert naive.partition_fault(labels, ndimage.label(first > threshold)[0]) == ""


def test_the_readme_is_one_page():
    assert len(README.read_text().splitlines()) <= 110


def test_the_readme_never_says_to_install_the_other_package():
    assert not re.search(r"pip install '?blockbuster(?!-tiles)", README.read_text())


def test_every_link_leads_somewhere():
    for page in (README, CONTRIBUTING, *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_steps_of_a_release_call_every_script_of_ci():
    named = set(re.findall(r"\.ci/(\w+)(?=[ `])", CONTRIBUTING.read_text()))
    assert named == {path.name for path in (ROOT / ".ci").iterdir() if not path.suffix}
