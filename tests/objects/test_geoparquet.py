"""GeoParquet 1.1, read with pyarrow alone; tests/readers has geopandas and SpatialData."""

import hashlib
import json
import struct

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outlined import assert_outlines, read_features

from blockbuster import export_polygons
from blockbuster.objects import geoparquet, joining, tracing

LABELS = np.kron(np.random.default_rng(6).integers(0, 60, (40, 30)), np.ones((2, 2), int))
LABELS[:2, :2] = 60


def read_binary(data):
    """The geometry of well-known binary, in the form that GeoJSON has."""

    def take(form):
        nonlocal at
        at += struct.calcsize(form)
        return struct.unpack_from(form, data, at - struct.calcsize(form))

    def geometry():
        order, kind, n = take("<BII")
        assert order == 1
        if kind == 6:
            return {"type": "MultiPolygon", "coordinates": [geometry()["coordinates"] for _ in range(n)]}
        assert kind == 3
        rings = [[list(take("<dd")) for _ in range(take("<I")[0])] for _ in range(n)]
        return {"type": "Polygon", "coordinates": rings}

    at = 0
    found = geometry()
    assert at == len(data)
    return found


def test_geometries_are_those_of_geojson(tmp_path):
    for format in ("geojson", "geoparquet"):
        export_polygons(LABELS, tmp_path / format, format=format)
    rows = pq.read_table(tmp_path / "geoparquet").to_pylist()
    features = read_features(tmp_path / "geojson")
    assert [read_binary(row["geometry"]) for row in rows] == [feature["geometry"] for feature in features]
    assert_outlines(features, LABELS)
    for row in rows:
        y, x = np.nonzero(row["label"] == LABELS)
        assert row["area"] == len(y)
        assert row["bbox"] == {"xmin": x.min(), "ymin": y.min(), "xmax": x.max() + 1, "ymax": y.max() + 1}


def test_metadata_are_those_of_geoparquet(tmp_path):
    export_polygons(LABELS, tmp_path / "out.parquet", format="geoparquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["label", "area", "bbox", "geometry"]
    assert schema.field("geometry").type == pa.binary()
    geo = json.loads(schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"], list(geo["columns"])) == ("1.1.0", "geometry", ["geometry"])
    column = geo["columns"]["geometry"]
    y, x = np.nonzero(LABELS)
    assert column["bbox"] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert column["geometry_types"] == ["Polygon", "MultiPolygon"]
    assert (column["encoding"], column["crs"], column["orientation"]) == ("WKB", None, "counterclockwise")
    assert column["covering"]["bbox"] == {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}


def test_row_groups_are_cut_by_rows_and_bytes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(geoparquet, "MAX_ROWS", 7)
    monkeypatch.setattr(geoparquet, "MAX_GEOMETRY_BYTES", 40_000)
    found = set()
    for n, sampled in ((2**20, 2**14), (1, 1), (300, 20)):
        monkeypatch.setattr(joining, "JOINED_VERTICES", n)
        monkeypatch.setattr(tracing, "SAMPLED_VERTICES", sampled)
        export_polygons(LABELS, tmp_path / "out.parquet", format="geoparquet", overwrite=True)
        found.add(hashlib.sha256((tmp_path / "out.parquet").read_bytes()).hexdigest())
    assert len(found) == 1
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    rows = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
    assert (sum(rows), max(rows)) == (60, 7)
    statistics = metadata.row_group(1).column(0).statistics
    assert (statistics.min, statistics.max) == (rows[0] + 1, rows[0] + rows[1])


def test_groups_end_with_the_row_that_fills_them(monkeypatch):
    monkeypatch.setattr(geoparquet, "MAX_ROWS", 4)
    monkeypatch.setattr(geoparquet, "MAX_GEOMETRY_BYTES", 10)
    lengths = [1, 1, 1, 1, 1, 9, 30, 3, 3, 3, 3, 1, 10]
    expected, group = [], []
    for n in lengths:
        group.append(n)
        if len(group) == 4 or sum(group) >= 10:
            expected.append(group)
            group = []
    whole = pa.table({"geometry": pa.array([b"x" * n for n in lengths], pa.large_binary())})
    for step in range(1, len(lengths) + 1):
        pieces = [whole[k : k + step] for k in range(0, len(lengths), step)]
        found = [[len(one.as_py()) for one in part["geometry"]] for part in geoparquet._row_groups(iter(pieces))]
        assert found == expected


def test_no_objects_are_a_table_without_rows(tmp_path):
    table = pd.DataFrame({"label": [1], "mean": [0.5]})
    assert export_polygons(np.zeros((5, 5), int), tmp_path / "out", format="geoparquet", measurements=table) == 0
    found = pq.read_table(tmp_path / "out")
    assert (len(found), found.column_names) == (0, ["label", "area", "mean", "bbox", "geometry"])
    assert json.loads(found.schema.metadata[b"geo"])["columns"]["geometry"]["geometry_types"] == []


def test_measurements_are_columns_with_their_types(tmp_path):
    table = pa.table(
        {"label": pa.array([2, 1], pa.uint32()), "n": pa.array([7, None], pa.int16()), "f": [0.5, 1.5]}
    )
    export_polygons(np.array([[1, 2, 3]]), tmp_path / "out", format="geoparquet", measurements=table)
    found = pq.read_table(tmp_path / "out", columns=["label", "n", "f"])
    assert found.schema.field("n").type == pa.int16()
    assert found.to_pydict() == {"label": [1, 2, 3], "n": [None, 7, None], "f": [1.5, 0.5, None]}


def test_names_that_the_file_needs_are_refused(folder):
    table = pd.DataFrame({"label": [1], "geometry": [1]})
    with pytest.raises(ValueError, match="'geometry' has a name that the file needs for itself"):
        export_polygons(np.array([[1]]), "out", format="geoparquet", measurements=table)
    assert list(folder.iterdir()) == []
