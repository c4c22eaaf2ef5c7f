"""`export_polygons`: outlines that are those of the labels, whatever the bricks and schedulers."""

import hashlib
import itertools
import tempfile
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from outcomes import write_image
from outlined import assert_outlines, draw, left_behind, polygons_of, read_features, signed_area

from blockbuster import export_polygons
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.objects import joining, polygons, tracing

CHECKERBOARD = np.indices((7, 9)).sum(axis=0) % 2
RINGS = np.minimum.reduce([*np.indices((15, 15)), *(14 - np.indices((15, 15)))]) % 2 + 0
RINGS_OF_TWO = RINGS * np.where(np.arange(15) < 7, 3, 2**62)[:, None]
PINCHED = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]])
SHARED_HOLES = np.array([[5, 5, 5, 5], [5, 0, 5, 5], [5, 5, 7, 5], [5, 5, 5, 5]])


@st.composite
def label_images(draw):
    """Noise of a few labels, in blocks of some voxels, of any integer type."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    ids = draw(st.sampled_from([[1], [1, 2], [3, 7, 200], [2, 2**15, 2**31], [1, 2**62, 2**63 - 1]]))
    dtype = np.min_scalar_type(max(ids)) if draw(st.booleans()) else np.int64
    values = np.array([0, *ids], dtype)
    seed = draw(st.integers(0, 2**16))
    labels = values[np.random.default_rng(seed).integers(0, len(values), shape)]
    return np.kron(labels, np.ones(draw(st.sampled_from([(1, 1), (2, 3)])), dtype))


def cut_into(monkeypatch, brick, vertices=2**20):
    """Have bricks of this many voxels, and tasks that join about so many vertices."""

    def bricks_of(source, _):
        leading = (1,) * (len(source.shape) - 2)
        grid = TileGrid.regular(source.shape, leading + brick, (0,) * len(leading) + (1, 1))
        return BrickGrid(grid, (1,) * len(source.shape))

    monkeypatch.setattr(polygons, "choose_outline_bricks", bricks_of)
    monkeypatch.setattr(tracing, "SAMPLED_VERTICES", max(1, vertices // 4))
    monkeypatch.setattr(joining, "JOINED_VERTICES", vertices)


@given(label_images(), st.tuples(st.integers(1, 8), st.integers(1, 8)), st.sampled_from([1, 20, 2**20]))
@example(CHECKERBOARD, (2, 3), 20)
@example(CHECKERBOARD[:, 1:], (7, 9), 20)
@example(RINGS, (4, 4), 1)
@example(RINGS_OF_TWO, (15, 5), 1)
@example(PINCHED, (2, 2), 1)
@example(PINCHED[::-1], (1, 1), 1)
@example(SHARED_HOLES, (2, 2), 20)
@example(np.ones((1, 1), bool), (1, 1), 1)
@example(np.ones((6, 5), "uint64"), (3, 3), 1)
@example(np.zeros((6, 5), "int32"), (3, 3), 1)
def test_outlines_drawn_again_are_the_labels_whatever_the_bricks(labels, brick, vertices):
    found = []
    for bricks, n in ((brick, vertices), (labels.shape, 2**20)):
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            cut_into(patch, bricks, n)
            n_objects = export_polygons(labels, f"{folder}/out.geojson")
            features = read_features(f"{folder}/out.geojson")
            assert left_behind(folder) == []
            found.append(Path(folder, "out.geojson").read_bytes())
    assert n_objects == len(features)
    assert_outlines(features, labels.astype(np.int64))
    assert found[0] == found[1]


@given(label_images(), st.sampled_from([0.3, 0.8, 1.5, 4]), st.tuples(st.integers(1, 8), st.integers(1, 8)))
@example(RINGS_OF_TWO, 1.5, (4, 4))
@example(PINCHED, 2, (2, 2))
def test_simplified_outlines_do_not_depend_on_bricks_and_keep_parts_and_holes(labels, tolerance, brick):
    found = []
    for bricks in (brick, labels.shape):
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            cut_into(patch, bricks)
            export_polygons(labels, f"{folder}/whole.geojson")
            export_polygons(labels, f"{folder}/out.geojson", simplify=tolerance)
            whole, features = (read_features(f"{folder}/{name}.geojson") for name in ("whole", "out"))
            found.append(Path(folder, "out.geojson").read_bytes())
    assert found[0] == found[1]
    for one, other in zip(whole, features, strict=True):
        assert one["properties"] == other["properties"]
        assert one["id"] == other["id"]
        parts = zip(polygons_of(one["geometry"]), polygons_of(other["geometry"]), strict=True)
        for polygon, simple in parts:
            for ring, left in zip(polygon, simple, strict=True):
                assert np.sign(signed_area(ring)) == np.sign(signed_area(left))
                assert hausdorff(ring, left) <= tolerance + 1e-9


def hausdorff(ring, left):
    """How far vertices of a ring are from another at most."""
    points, begins = np.array(ring[:-1], float), np.array(left[:-1], float)
    ways = np.array(left[1:], float) - begins
    along = np.einsum("pkd,kd->pk", points[:, None] - begins, ways) / (ways**2).sum(axis=1)
    nearest = begins + np.clip(along, 0, 1)[..., None] * ways
    return np.sqrt(((points[:, None] - nearest) ** 2).sum(axis=2)).min(axis=1).max()


def tissue(shape, n, seed, share=1):
    """Cells that fill space, and the share of them that are no background."""
    rng = np.random.default_rng(seed)
    centres = rng.random((n, 2)) * shape
    places = np.indices(shape).reshape(2, -1).T
    nearest = ((places[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1).reshape(shape)
    return (nearest + 1) * (rng.random(n) < share)[nearest]


def test_neighbours_share_what_is_left_of_their_border(tmp_path):
    """Without parts of a few voxels, which stay as they are."""
    labels = tissue((90, 110), 40, 4)
    lengths, areas = [], []
    for simplify in (None, 1, 3):
        export_polygons(labels, tmp_path / "cells.geojson", simplify=simplify, overwrite=True)
        features = read_features(tmp_path / "cells.geojson")
        rings = [ring for feature in features for polygon in polygons_of(feature["geometry"]) for ring in polygon]
        lengths.append(sum(map(len, rings)))
        areas.append(sum(map(signed_area, rings)))
        if simplify:
            ways = {(*a, *b) for ring in rings for a, b in itertools.pairwise(ring)}
            outer = {way for way in ways if (*way[2:], *way[:2]) not in ways}
            assert all(x0 == x1 in (0, 110) or y0 == y1 in (0, 90) for x0, y0, x1, y1 in outer)
    assert lengths[2] < lengths[1] < lengths[0] / 4
    assert areas == [labels.size] * 3


@pytest.fixture(scope="module")
def cells():
    return tissue((150, 170), 90, 1, 0.8).astype("int32")


def digests(folder, labels, formats=("geojson", "geoparquet")):
    """Digests of all files that can be made of some labels."""
    found = []
    for format in formats:
        for simplify in (None, 1):
            export_polygons(labels, folder / "out", format=format, simplify=simplify, overwrite=True)
            found.append(hashlib.sha256((folder / "out").read_bytes()).hexdigest())
    assert left_behind(folder) == []
    return found


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler_and_kind_of_labels_gives_the_same_bytes(
    scheduler, cells, tmp_path, workers, monkeypatch
):
    expected = digests(tmp_path, cells)
    write_image(tmp_path / "labels.zarr", cells, chunks=(40, 64))
    write_image(tmp_path / "image.zarr", cells[None, None], "tzyx", (1, 1, 64, 50))
    given = [cells, da.from_array(cells, (31, 170)), str(tmp_path / "labels.zarr"), str(tmp_path / "image.zarr")]
    given.append(zarr.open_array(tmp_path / "labels.zarr"))
    monkeypatch.setattr(tracing, "TILE_LENGTH", 32)
    monkeypatch.setattr(tracing, "BRICK_TILES", 2)
    with workers(scheduler):
        for labels in given:
            assert digests(tmp_path, labels) == expected


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes(cells, tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    expected = digests(tmp_path, cells)
    monkeypatch.setattr(tracing, "TILE_LENGTH", 32)
    monkeypatch.setattr(tracing, "BRICK_TILES", 2)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0")
    with cluster, Client(cluster):
        for labels in (cells, da.from_array(cells, (31, 170))):
            assert digests(tmp_path, labels) == expected


def test_labels_at_the_end_of_int64_are_exact(tmp_path):
    labels = np.array([[2**63 - 1, 0, 2**63 - 2], [2**53, 2**53 + 1, 1]], "uint64")
    export_polygons(labels, tmp_path / "out.geojson")
    features = read_features(tmp_path / "out.geojson")
    assert [f["properties"]["measurements"]["label"] for f in features] == sorted(labels[labels > 0].tolist())
    np.testing.assert_array_equal(draw(features, labels.shape), labels.astype(np.int64))


def test_graph_that_raises_is_told(tmp_path):
    def fail(block):
        raise ZeroDivisionError("no such plane")

    labels = da.from_array(np.ones((8, 8), int), 4).map_blocks(fail, dtype=int, meta=np.empty((0, 0), int))
    with pytest.raises(RuntimeError, match="no such plane"):
        export_polygons(labels, tmp_path / "out.geojson")
    assert list(tmp_path.iterdir()) == []


BAD = [
    (np.zeros((4, 4)), {}, TypeError, "float64"),
    (np.zeros((3, 4, 4), int), {}, ValueError, "(3, 4, 4)"),
    (np.zeros(4, int), {}, ValueError, "(4,)"),
    (np.zeros((4, 4), int), {"format": "shp"}, ValueError, "'geojson', 'geoparquet'"),
    (np.zeros((4, 4), int), {"path": "out.parquet"}, ValueError, "format='geoparquet'"),
    (np.zeros((4, 4), int), {"path": "no/such\0name"}, ValueError, "path"),
    (np.zeros((4, 4), int), {"path": "."}, IsADirectoryError, "is a folder"),
    (np.zeros((4, 4), int), {"path": "taken"}, FileExistsError, "overwrite=True"),
    (np.zeros((4, 4), int), {"path": "s3://bucket/out.geojson"}, ValueError, "not a URL"),
    (np.zeros((4, 4), int), {"path": 7}, TypeError, "path is 7"),
    (np.zeros((4, 4), int), {"simplify": -1}, ValueError, "simplify is -1"),
    (np.zeros((4, 4), int), {"simplify": float("nan")}, ValueError, "simplify is nan"),
    (np.zeros((4, 4), int), {"simplify": "1"}, TypeError, "simplify is '1'"),
    (np.zeros((4, 4), int), {"coordinates": "um"}, ValueError, "'pixels', 'units'"),
    (np.zeros((4, 4), int), {"coordinates": "units"}, ValueError, 'coordinates="pixels"'),
    (np.zeros((4, 4), int), {"overwrite": 1}, TypeError, "overwrite is 1"),
    (np.zeros((4, 4), int), {"progress": "yes"}, TypeError, "progress is 'yes'"),
    (np.zeros((4, 4), int), {"measurements": 3}, TypeError, "pandas DataFrame"),
    (np.zeros((4, 4), int), {"measurements": "none.parquet"}, FileNotFoundError, "none.parquet"),
    (np.zeros((4, 4), int), {"measurements": "taken"}, ValueError, "is not a Parquet file"),
    ([[1]], {}, TypeError, "image is of type"),
    ("none.zarr", {}, FileNotFoundError, "none.zarr"),
]


@pytest.mark.parametrize(("labels", "options", "kind", "message"), BAD, ids=[repr(case[1:])[:60] for case in BAD])
def test_wrong_arguments_are_refused_before_any_work(labels, options, kind, message, folder):
    Path("taken").write_text("mine")
    before = sorted(folder.iterdir())
    with pytest.raises(kind) as raised:
        export_polygons(labels, **{"path": "out.geojson", **options})
    assert message in str(raised.value)
    assert sorted(folder.iterdir()) == before
    assert Path("taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("labels", "shown"), [(-np.ones((4, 4), "int8"), "-1"), (np.full((4, 4), 2**63, "uint64"), str(2**63))]
)
def test_ids_that_are_none_leave_nothing(labels, shown, folder):
    with pytest.raises(ValueError, match=shown):
        export_polygons(labels, "out.geojson")
    assert list(folder.iterdir()) == []


def test_labels_inside_a_zarr_store_are_not_written_into(folder):
    write_image(folder / "labels.zarr", np.ones((4, 4), int))
    with pytest.raises(ValueError, match="lies in"):
        export_polygons("labels.zarr", "labels.zarr/out.geojson")


def test_existing_file_is_replaced_when_told(folder):
    Path("out.geojson").write_text("old")
    assert export_polygons(np.ones((4, 4), int), "out.geojson", overwrite=True) == 1
    assert len(read_features("out.geojson")) == 1
    assert left_behind(folder) == []


def test_progress_counts_bricks_and_parts(tmp_path, capsys):
    with dask.config.set(scheduler="synchronous"):
        export_polygons(np.ones((4, 4), int), tmp_path / "out.geojson", progress=True)
    shown = capsys.readouterr().err
    assert "trace outlines: 100%" in shown
    assert "write objects: 100%" in shown
