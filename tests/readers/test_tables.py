"""The table of a label image as ngio reads it, from stores of other libraries."""

import warnings

import numpy as np
import pandas as pd
import pytest
from makers import KINDS, LENGTHS, make_image
from pages import DOCS, blocks, run_page
from skimage.measure import regionprops_table
from stated import arrays, segment

from blockbuster import read_objects, tile_process

ngio = pytest.importorskip("ngio", reason="ngio is not installed; it comes with the extra `readers`")

# Those of readers, which use each other's.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
MEASURES = ["label", "area", "bbox", "centroid"]


@pytest.fixture(scope="module", params=[kind for kind in KINDS if "t" not in kind.axes], ids=str)
def written(request, tmp_path_factory):
    """An image by another library, with labels and their table; in those of ngio lies another table already."""
    path = tmp_path_factory.mktemp("store") / "image.zarr"
    make_image(request.param, path)
    if request.param.maker == "ngio":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = ngio.open_ome_zarr_container(str(path))
            made.add_table("rois", made.build_image_roi_table("whole"))
    is_volume = "z" in request.param.axes
    tile_process(
        str(path),
        segment,
        write_to=path,
        output_component="labels/cells",
        channel=LENGTHS["c"] - 1 if "c" in request.param.axes else 0,
        tile_shape=(3, 24, 32) if is_volume else (24, 32),
        overlap=2,
        measure=["intensity_mean"],
    )
    return path


def test_ngio_lists_the_table_and_knows_of_which_labels_it_is(written):
    container = ngio.open_ome_zarr_container(str(written), mode="r")
    assert container.list_tables(filter_types="feature_table") == ["cells"]
    table = container.get_table("cells")
    assert table.reference_label == "cells"
    assert container.get_label("cells").shape == arrays(written / "labels" / "cells")[0].shape


def test_other_tables_are_still_there(written):
    container = ngio.open_ome_zarr_container(str(written), mode="r")
    others = [name for name in container.list_tables() if name != "cells"]
    assert others == (["rois"] if (written / "tables" / "rois").exists() else [])
    assert [container.get_table(name).table_type() for name in others] == ["roi_table"] * len(others)


def test_ngio_reads_what_lies_with_the_labels(written):
    found = ngio.open_ome_zarr_container(str(written), mode="r").get_table("cells").dataframe
    assert found.index.name == "label"
    pd.testing.assert_frame_equal(
        found.reset_index(), read_objects(written, "labels/cells"), check_dtype=False, check_like=True
    )


def test_ngio_reads_what_scikit_image_measures_of_the_labels_that_it_reads(written):
    container = ngio.open_ome_zarr_container(str(written), mode="r")
    labels = container.get_label("cells").get_as_numpy()
    expected = pd.DataFrame(regionprops_table(labels, properties=MEASURES)).set_index("label")
    found = container.get_table("cells").dataframe[list(expected.columns)]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_index_type=False, rtol=1e-9)


def test_ngio_gives_it_as_anndata_and_polars(written):
    table = ngio.open_ome_zarr_container(str(written), mode="r").get_table("cells")
    own = read_objects(written, "labels/cells")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = table.anndata
    np.testing.assert_array_equal(found.obs_names.astype(int), own["label"])
    np.testing.assert_allclose(found[:, "centroid-0"].X.ravel(), own["centroid-0"])
    assert table.lazy_frame.collect().shape == own.shape


def test_the_page_reads_it_with_ngio(tmp_path, monkeypatch):
    names = run_page(DOCS / "objects.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(DOCS / "objects.md") if "import ngio" in block.code]
    found = {}
    exec(compile(block.code, "objects.md", "exec"), found)
    assert list(found["cells"].index) == list(read_objects("image.zarr", "labels/cells")["label"])
    assert len(found["cells"]) > len(names["large"]) > 0
