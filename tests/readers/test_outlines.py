"""Outlines as shapely, geopandas and SpatialData see them."""

import numpy as np
import pytest
from scipy import ndimage

from blockbuster import export_polygons

geopandas = pytest.importorskip(
    "geopandas", reason="geopandas is not installed; it comes with the extra `test-spatialdata`"
)
shapely = pytest.importorskip(
    "shapely", reason="shapely is not installed; it comes with the extra `test-spatialdata`"
)

# What libraries that they need warn of as they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")


def noise(seed):
    """Labels of which many touch themselves at corners, with holes and islands in them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (37, 41))
    return np.kron(labels, np.ones((2, 3), int)) if seed % 2 else labels


def blobs(seed):
    """Smooth labels of several parts that fill space."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).random((9, 90, 80)), (0, 3, 3)).argmax(axis=0)


IMAGES = [*map(noise, range(6)), *map(blobs, range(6))]


def drawn(frame, labels, simplify=None):
    """What geopandas reads of the outlines of labels, which are valid."""
    export_polygons(labels, frame, format="geoparquet", simplify=simplify)
    found = geopandas.read_parquet(frame)
    assert shapely.is_valid(found.geometry.to_numpy()).all(), shapely.is_valid_reason(found.geometry.to_numpy())
    return found


@pytest.mark.parametrize("labels", IMAGES, ids=range(len(IMAGES)))
def test_geometries_are_valid_and_cover_the_voxels_of_their_label(labels, tmp_path):
    found = drawn(tmp_path / "out.parquet", labels)
    assert found["label"].tolist() == np.unique(labels[labels > 0]).tolist()
    y, x = np.indices(labels.shape) + 0.5
    for label, geometry in zip(found["label"], found.geometry, strict=True):
        np.testing.assert_array_equal(shapely.contains_xy(geometry, x, y), labels == label)
        assert geometry.area == (labels == label).sum()
        parts = getattr(geometry, "geoms", [geometry])
        assert all(part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors) for part in parts)


@pytest.mark.parametrize("simplify", [0.5, 1, 2, 5])
@pytest.mark.parametrize("labels", IMAGES, ids=range(len(IMAGES)))
def test_simplified_geometries_are_valid_and_near(labels, simplify, tmp_path):
    whole = drawn(tmp_path / "whole.parquet", labels)
    found = drawn(tmp_path / "out.parquet", labels, simplify)
    for before, after in zip(whole.geometry, found.geometry, strict=True):
        assert len(getattr(after, "geoms", [after])) == len(getattr(before, "geoms", [before]))
        assert shapely.hausdorff_distance(before.boundary, after.boundary) <= simplify + 1e-9


def test_geojson_and_geoparquet_are_read_as_the_same(tmp_path):
    found = drawn(tmp_path / "out.parquet", IMAGES[0])
    export_polygons(IMAGES[0], tmp_path / "out.geojson")
    other = geopandas.read_file(tmp_path / "out.geojson")
    assert other["name"].astype(int).tolist() == found["label"].tolist()
    assert all(map(shapely.equals_exact, other.geometry, found.geometry))


def test_a_part_of_the_file_is_read_by_its_boxes(tmp_path):
    found = drawn(tmp_path / "out.parquet", np.arange(1, 401).reshape(20, 20))
    part = geopandas.read_parquet(tmp_path / "out.parquet", bbox=(3.2, 4.2, 5.8, 5.8))
    assert part["label"].tolist() == [84, 85, 86, 104, 105, 106]
    assert len(found) == 400


def test_spatialdata_takes_the_outlines_as_shapes_and_reads_them_back(tmp_path):
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    from spatialdata.models import ShapesModel

    found = drawn(tmp_path / "out.parquet", IMAGES[7])
    shapes = ShapesModel.parse(found.set_index("label"))
    # Labels of this size it cannot write itself, with ome-zarr 0.18.
    spatialdata.SpatialData(shapes={"cells": shapes}).write(tmp_path / "x.zarr")
    back = spatialdata.read_zarr(tmp_path / "x.zarr")
    assert back["cells"].index.tolist() == found["label"].tolist()
    assert all(map(shapely.equals_exact, back["cells"].geometry, found.geometry))
    extent = spatialdata.get_extent(back["cells"])
    assert (extent["x"], extent["y"]) == ((0, 80), (0, 90))
