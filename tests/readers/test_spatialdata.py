"""Labels and their table in SpatialData, as the page has it; it needs an older dask than other readers."""

import importlib.util
import warnings

import numpy as np
import pytest
import zarr
from pages import DOCS, blocks, run_page

if importlib.util.find_spec("spatialdata") is None:
    pytest.skip(
        "spatialdata is not installed; it comes with the extra `test-spatialdata`", allow_module_level=True
    )

# Those of SpatialData, and of what it uses.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A folder in which the page ran, and what it has made in SpatialData."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_page(DOCS / "objects.md", folder)
        patch.chdir(folder)
        (block,) = [
            block for block in blocks(DOCS / "objects.md") if "from spatialdata import SpatialData" in block.code
        ]
        names = {}
        exec(compile(block.code, "objects.md", "exec"), names)
        names["labels"] = names["data"]["cells"].compute()
    return folder, names


def test_spatialdata_reads_labels_and_table(page):
    folder, names = page
    data = names["data"]
    stored = zarr.open_array(folder / "image.zarr" / "labels" / "cells" / "0", mode="r")[...]
    np.testing.assert_array_equal(names["labels"], stored)
    assert list(data["objects"].obs["label"]) == list(np.unique(stored[stored > 0]))


def test_it_joins_them_by_region_and_instance_key(page, monkeypatch):
    monkeypatch.chdir(page[0])
    from spatialdata import get_element_instances, match_element_to_table

    data = page[1]["data"]
    _, table = match_element_to_table(data, "cells", "objects")
    instances = get_element_instances(data["cells"])
    assert set(table.obs["label"]) == set(instances) - {0}
    areas = np.bincount(page[1]["labels"].data.ravel())[table.obs["label"]]
    np.testing.assert_array_equal(table[:, "area"].X.ravel(), areas)
