"""GeoJSON as QuPath documents it: detections with a UUID, closed rings, and measurements."""

import json
import math
import re
import uuid

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from naive import components
from outcomes import refused
from outlined import label_of, read_features

from blockbuster import export_polygons, read_objects, tile_process

# From QuPath's page on exporting annotations and its class QuPathTypeAdapters: what a feature needs to be read
# as a detection with measurements (0.4 and later; before that, measurements were a list), and RFC 7946.
POSITION = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
RING = {"type": "array", "items": POSITION, "minItems": 4}
POLYGON = {"type": "array", "items": RING, "minItems": 1}


def geometry(kind, coordinates):
    return {
        "type": "object",
        "required": ["type", "coordinates"],
        "properties": {"type": {"const": kind}, "coordinates": coordinates},
        "additionalProperties": False,
    }


FEATURE = {
    "type": "object",
    "required": ["type", "id", "geometry", "properties"],
    "properties": {
        "type": {"const": "Feature"},
        "id": {"type": "string", "format": "uuid", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "geometry": {
            "oneOf": [
                geometry("Polygon", POLYGON),
                geometry("MultiPolygon", {"type": "array", "items": POLYGON, "minItems": 2}),
            ]
        },
        "properties": {
            "type": "object",
            "required": ["objectType", "measurements"],
            "properties": {
                "objectType": {"const": "detection"},
                "name": {"type": "string"},
                "measurements": {"type": "object", "additionalProperties": {"type": "number"}},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
COLLECTION = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {"type": {"const": "FeatureCollection"}, "features": {"type": "array", "items": FEATURE}},
    "additionalProperties": False,
}
LABELS = np.kron(np.random.default_rng(5).integers(0, 9, (12, 10)), np.ones((2, 2), int))


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def read_strictly(path):
    with open(path) as file:
        return json.load(file, parse_constant=refuse_constant)


def test_file_has_the_form_that_qupath_documents(tmp_path):
    table = pd.DataFrame(
        {"label": range(1, 9), "mean": np.linspace(0, 1, 8), "n": range(8), "odd": [True, False] * 4}
    )
    export_polygons(LABELS, tmp_path / "out.geojson", measurements=table)
    found = read_strictly(tmp_path / "out.geojson")
    jsonschema.validate(found, COLLECTION)
    assert len(found["features"]) == 8
    for feature in found["features"]:
        assert feature["properties"]["measurements"] == {
            "label": label_of(feature),
            "area": int((label_of(feature) == LABELS).sum()),
            "mean": table["mean"][label_of(feature) - 1],
            "n": label_of(feature) - 1,
            "odd": label_of(feature) % 2,
        }


def test_no_objects_are_an_empty_collection(tmp_path):
    assert export_polygons(np.zeros((5, 5), int), tmp_path / "out.geojson") == 0
    assert read_strictly(tmp_path / "out.geojson") == {"type": "FeatureCollection", "features": []}


def test_each_feature_is_a_line(tmp_path):
    export_polygons(LABELS, tmp_path / "out.geojson")
    begin, *lines, end = (tmp_path / "out.geojson").read_text().splitlines()
    assert (begin, end) == ('{"type":"FeatureCollection","features":[', "]}")
    assert [label_of(json.loads(line.rstrip(","))) for line in lines] == list(range(1, 9))


def test_identities_are_uuids_of_their_own_and_the_same_again(tmp_path):
    voxels = np.arange(1, 10_001).reshape(100, 100)
    for name in ("one", "two"):
        export_polygons(voxels, tmp_path / name)
    export_polygons(voxels[:, ::-1], tmp_path / "other")
    one, two, other = ([f["id"] for f in read_features(tmp_path / name)] for name in ("one", "two", "other"))
    assert one == two
    assert len({*one, *other}) > 19_000
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in one} == {(8, uuid.RFC_4122)}


def test_what_is_no_number_is_left_out_of_an_object(tmp_path):
    values = [1.5, math.nan, math.inf, None]
    table = pa.table({"label": [1, 2, 3, 4], 'a "b"\n': pa.array(values, pa.float32())})
    labels = np.array([[1, 2, 3, 4, 5]])
    export_polygons(labels, tmp_path / "out.geojson", measurements=table)
    found = [f["properties"]["measurements"] for f in read_strictly(tmp_path / "out.geojson")["features"]]
    assert found[0] == {"label": 1, "area": 1, 'a "b"\n': 1.5}
    assert found[1:] == [{"label": n, "area": 1} for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "int64"])
def test_measurements_are_read_back_as_they_were(dtype, tmp_path):
    rng = np.random.default_rng(1)
    whole = np.dtype(dtype).kind in "iu"
    values = rng.integers(0, np.iinfo(dtype).max, 50, dtype) if whole else rng.normal(size=50).astype(dtype) / 7
    labels = np.arange(1, 51).reshape(5, 10)
    table = pd.DataFrame({"label": labels.ravel()[::-1], "value": values[::-1]})
    export_polygons(labels, tmp_path / "out.geojson", measurements=table)
    found = [f["properties"]["measurements"]["value"] for f in read_features(tmp_path / "out.geojson")]
    np.testing.assert_array_equal(np.array(found, dtype), values)


def test_table_is_a_frame_an_arrow_table_or_a_file(tmp_path):
    frame = pd.DataFrame({"label": [7, 3, 1], "mean": [0.5, 0.25, 8.0], "area": [9, 9, 9]})
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "objects.parquet", row_group_size=1)
    labels = np.array([[1, 3, 0, 7]])
    given = [frame, frame.set_index("label"), pa.Table.from_pandas(frame), tmp_path / "objects.parquet"]
    for table in given:
        export_polygons(labels, tmp_path / "out.geojson", measurements=table, overwrite=True)
        found = [f["properties"]["measurements"] for f in read_features(tmp_path / "out.geojson")]
        # The area of the table is meant, e.g. where it is in other units.
        assert [(one["label"], one["mean"], one["area"]) for one in found] == [
            (1, 8, 9),
            (3, 0.25, 9),
            (7, 0.5, 9),
        ]


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        (pd.DataFrame({"id": [1]}), ValueError, "'label'"),
        (pd.DataFrame({"label": [1.0]}), TypeError, "labels are integers"),
        (pd.DataFrame({"label": [1], "class": ["tumour"]}), ValueError, "'class' holds"),
        (pd.DataFrame({"label": [1, 1], "a": [1, 2]}), ValueError, "label 1 has two rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table, kind, message, folder):
    with pytest.raises(kind, match=re.escape(message)):
        export_polygons(np.array([[1]]), "out.geojson", measurements=table)
    assert list(folder.iterdir()) == []


def test_measurements_are_those_of_the_run_where_it_measured(tmp_path):
    image = (np.random.default_rng(0).random((40, 50)) < 0.3).astype("uint8")
    options = {"tile_shape": (16, 16), "write_to": tmp_path / "x.zarr"}
    tile_process(image, components, measure=["intensity_sum"], **options)
    export_polygons(tmp_path / "x.zarr" / "labels", tmp_path / "out.geojson", measurements=True)
    table = read_objects(tmp_path / "x.zarr").set_index("label")
    features = read_strictly(tmp_path / "out.geojson")["features"]
    assert len(features) == len(table) > 10
    for feature in features:
        found = feature["properties"]["measurements"]
        expected = table.loc[found.pop("label")]
        assert {name: expected[name] for name in found} == pytest.approx(found)
        assert {"area", "intensity_sum", "axis_major_length", "touches_border"} < set(found)
    options |= {"write_to": tmp_path / "y.zarr"}
    tile_process(image, components, **options)
    with refused(FileNotFoundError, "no table of objects", "measure_labels"):
        export_polygons(tmp_path / "y.zarr" / "labels", tmp_path / "y.geojson", measurements=True)
    with refused(TypeError, "labels are no path"):
        export_polygons(np.asarray([[1]]), tmp_path / "y.geojson", measurements=True)
