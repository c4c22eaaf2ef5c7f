"""The README's Python runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def names():
    """Run all Python blocks in order, in one namespace."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace = {}
    for block in found:
        exec(compile(block, str(README), "exec"), namespace)
    return namespace


def test_the_example_gives_the_labels_of_the_whole_image(names):
    expected, n_expected = ndimage.label(names["image"] > 120)
    labels = np.asarray(names["labels"])
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == n_expected + 1
    assert np.unique(labels).tolist() == list(range(n_expected + 1))


def test_the_run_that_can_be_resumed_finds_the_same_objects(names):
    cells, labels = np.asarray(names["cells"]), np.asarray(names["labels"])
    pairs = np.unique(np.stack([cells.ravel(), labels.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(cells)) == len(np.unique(labels))


def test_the_example_of_dense_tissue_finds_its_cells(names):
    seams = names["tissue_report"].seams
    assert (names["tissue_report"].n_objects, seams.touching, seams.refused) == (480, 350, 208)
    expected = watershed(-names["tissue"])
    pairs = np.unique(np.stack([names["tissue_labels"].ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() == 480


def test_the_example_reports_what_it_did(names):
    report = names["report"]
    assert (report.n_tiles, report.n_run + report.n_skipped) == (9, 9)


def test_the_readme_never_says_to_install_the_other_package():
    assert not re.search(r"pip install '?blockbuster(?!-tiles)", README.read_text())
