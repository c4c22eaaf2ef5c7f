"""Of a table of objects the columns and rows are read that were asked for, or it is said which there are."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as parquet
import pytest
from kill_points import IMAGE, Case, number_all
from outcomes import refused

from blockbuster import measure_labels, read_objects, tile_process
from blockbuster.measure import table

TILE = (4, 4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Labels of 256 objects, in a folder whose name could be taken for a column, with their table."""
    path = tmp_path_factory.mktemp("labels") / "date=2024" / "x.zarr"
    path.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "ROW_GROUP_ROWS", 16)
        tile_process(
            IMAGE,
            number_all,
            tile_shape=TILE,
            write_to=path,
            fn_version="1",
            measure=["intensity_mean"],
            merge="none",
        )
    return path


@pytest.fixture(scope="module")
def whole(store):
    """The table as pandas reads it."""
    return pd.read_parquet(store / "labels" / "objects.parquet", partitioning=None)


def equal(found, expected):
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))
    return True


def test_the_whole_table_is_that_which_pandas_reads(store, whole):
    assert equal(read_objects(store), whole)
    assert list(whole["label"]) == list(range(1, 257))
    assert read_objects(store).attrs["blockbuster"]["shape"] == [16, 16]


def test_a_first_part_of_names_stands_for_all_of_them(store, whole):
    several = ["centroid-0", "centroid-1"]
    assert equal(read_objects(store, columns="centroid"), whole[several])
    assert equal(read_objects(store, columns=["label", "centroid", "centroid-0"]), whole[["label", *several]])
    assert equal(read_objects(store, columns="bbox-2"), whole[["bbox-2"]])
    assert read_objects(store, columns=[]).shape == (256, 0)


CONDITIONS = {
    ("label", ">", 200): lambda t: t["label"] > 200,
    ("label", "==", 7): lambda t: t["label"] == 7,
    ("label", "=", 7): lambda t: t["label"] == 7,
    ("label", "!=", 7): lambda t: t["label"] != 7,
    ("bbox-0", "<=", 3): lambda t: t["bbox-0"] <= 3,
    ("centroid-1", "<", 2.5): lambda t: t["centroid-1"] < 2.5,
    ("touches_border", "==", True): lambda t: t["touches_border"],
    ("label", "in", (3, 5, 999)): lambda t: t["label"].isin([3, 5, 999]),
    ("label", "not in", (3, 5, 999)): lambda t: ~t["label"].isin([3, 5, 999]),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows_are_those_that_pandas_selects(store, whole, condition):
    assert equal(read_objects(store, where=condition), whole[CONDITIONS[condition](whole)])


def test_all_conditions_hold_also_on_columns_that_are_not_read(store, whole):
    where = [("label", ">", 20), ("centroid-0", "<", 6), ("touches_border", "==", False)]
    rows = (whole["label"] > 20) & (whole["centroid-0"] < 6) & ~whole["touches_border"]
    assert rows.any()
    assert equal(read_objects(store, columns="area", where=where), whole.loc[rows, ["area"]])
    assert equal(read_objects(store, where=[]), whole)


def test_an_expression_says_what_conditions_cannot(store, whole):
    where = (pc.field("label") < 4) | (pc.field("label") > 250)
    assert equal(read_objects(store, where=where), whole[(whole["label"] < 4) | (whole["label"] > 250)])


def test_only_row_groups_are_read_that_may_meet_a_condition(store, tmp_path, whole):
    """All others are overwritten with zeros: to read one would be an error."""
    data = bytearray((store / "labels" / "objects.parquet").read_bytes())
    found = parquet.ParquetFile(store / "labels" / "objects.parquet").metadata
    for number in range(found.num_row_groups):
        group = found.row_group(number)
        if number != 3:
            begin = group.column(0).data_page_offset
            end = begin + sum(group.column(k).total_compressed_size for k in range(group.num_columns))
            data[begin:end] = bytes(end - begin)
    path = tmp_path / "x.zarr" / "labels" / "objects.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    rows = (whole["label"] > 50) & (whole["label"] < 60)
    assert equal(read_objects(tmp_path / "x.zarr", where=[("label", ">", 50), ("label", "<", 60)]), whole[rows])
    with refused(ValueError, "is damaged and cannot be read"):
        read_objects(tmp_path / "x.zarr")


def test_what_is_read_can_be_changed(store):
    found = read_objects(store)
    found.loc[0, "label"] = 7
    found["area"] += 1
    assert (found.loc[0, "label"], found.loc[0, "area"]) == (7, 2)


def test_arrow_has_the_same_values_and_says_what_the_table_is_of(store, whole):
    found = read_objects(store, as_arrow=True, columns=["label", "area"], where=("label", "<", 9))
    assert equal(found.to_pandas(), whole.loc[whole["label"] < 9, ["label", "area"]])
    assert b'"shape": [16, 16]' in found.schema.metadata[b"blockbuster"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_of_a_label_image_it_lies_with_the_finest_level(tmp_path, zarr_format):
    case = Case("labels/cells", zarr_format, is_image=True, measure=True)
    case.prepare(tmp_path)
    case.act(tmp_path)
    found = read_objects(tmp_path / case.store, "labels/cells")
    assert equal(found, pd.read_parquet(tmp_path / case.store / "tables" / "cells" / "table.parquet"))
    assert Path(tmp_path / case.store / "labels" / "cells" / "0" / "objects.parquet").is_file()


def test_columns_and_conditions_that_make_no_sense_name_what_there_is(store):
    with refused(ValueError, "columns names 'volume', which the table does not have; it has label, area, bbox-0"):
        read_objects(store, columns=["area", "volume"])
    with refused(ValueError, "where names 'bbox', which the table does not have; it has label, area, bbox-0"):
        read_objects(store, where=("bbox", ">", 3))
    with refused(TypeError, "columns is 3; it is a name, or a list of names"):
        read_objects(store, columns=3)
    for where in ("area > 3", 3, {"area": 3}):
        with refused(TypeError, "where is .*; it is a condition"):
            read_objects(store, where=where)
    for where in (("area", ">"), [["area", ">", 3]]):
        with refused(TypeError, "where has .*; it is a condition"):
            read_objects(store, where=where)
    with refused(ValueError, "where has the operator '~'; operators are ==, =, !="):
        read_objects(store, where=("area", "~", 3))
    with refused(TypeError, "it does not suit the columns"):
        read_objects(store, where=("area", ">", "large"))


def test_labels_that_were_not_measured_point_to_the_function_that_does_so(tmp_path):
    path = tmp_path / "x.zarr"
    tile_process(IMAGE, number_all, tile_shape=TILE, write_to=path, fn_version="1", merge="none")
    with refused(FileNotFoundError, rf"measure_labels\('{path}', component='labels'\) does so now"):
        read_objects(path)
    measure_labels(path)
    assert len(read_objects(path)) == 256


def test_what_is_no_place_of_labels_is_said_to_be_none(tmp_path):
    with refused(FileNotFoundError, "labels does not exist; give the path and the component"):
        read_objects(tmp_path / "x.zarr")
    with refused(ValueError, "tables of objects are read from a file system", "s3://bucket"):
        read_objects("s3://key:secret@bucket/x.zarr")


def test_without_the_packages_the_extra_is_named(store, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with refused(ImportError, r"pyarrow is not installed; .*blockbuster-tiles\[table\]"):
        read_objects(store)


def test_an_empty_table_has_all_columns(tmp_path, whole):
    options = {"tile_shape": TILE, "fn_version": "1", "measure": ["intensity_mean"], "skip_empty": False}
    tile_process(IMAGE, np.zeros_like, write_to=tmp_path / "x.zarr", **options, merge="none")
    found = read_objects(tmp_path / "x.zarr", where=("area", ">", 3))
    assert len(found) == 0
    pd.testing.assert_series_equal(found.dtypes, whole.dtypes)
