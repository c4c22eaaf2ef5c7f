"""A table of objects holds what the batches held, in the same bytes however they were cut."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockbuster.measure import table
from blockbuster.measure.table import ABOUT, check_extra, read_about, write_table

COLUMNS = {
    "label": np.dtype("int64"),
    "area": np.dtype("int64"),
    "bbox-0": np.dtype("int32"),
    "centroid-0": np.dtype("float64"),
    "intensity_mean-DAPI": np.dtype("float32"),
    "intensity_max-DAPI": np.dtype("uint16"),
    "touches_border": np.dtype("bool"),
}
ABOUT_IT = {"units": {"y": "micrometer"}, "run": "7f"}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(table, "ROW_GROUP_ROWS", 7)


def rows(n, seed=0):
    """Values of every column, at the ends of their dtypes and unknown ones among them."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, dtype in COLUMNS.items():
        if dtype.kind == "f":
            values[name] = rng.normal(size=n).astype(dtype)
            values[name][rng.random(n) < 0.2] = np.nan
        elif dtype.kind == "b":
            values[name] = rng.random(n) < 0.5
        else:
            ends = np.iinfo(dtype)
            values[name] = rng.integers(ends.min, ends.max, n, dtype, endpoint=True)
            values[name][: min(n, 2)] = [ends.min, ends.max][: min(n, 2)]
    values["label"] = np.arange(1, n + 1)
    return values


def cut(values, lengths):
    """Batches of these lengths, and then the rest."""
    n, begin = len(values["label"]), 0
    for length in (*lengths, n):
        yield {name: column[begin : begin + length] for name, column in values.items()}
        begin = min(n, begin + length)


def write(path, values, lengths=()):
    write_table(path, COLUMNS, cut(values, lengths), about=ABOUT_IT, n_rows=len(values["label"]))
    return path


@pytest.mark.parametrize("n", [0, 1, 6, 7, 8, 14, 50])
def test_pandas_reads_what_was_written(tmp_path, n):
    values = rows(n)
    found = pd.read_parquet(write(tmp_path / "t.parquet", values))
    pd.testing.assert_frame_equal(found, pd.DataFrame(values))
    assert dict(found.dtypes) == COLUMNS
    assert os.listdir(tmp_path) == ["t.parquet"]


@given(st.integers(0, 40), st.lists(st.integers(0, 20), max_size=8))
@settings(max_examples=examples(50))
def test_bytes_do_not_depend_on_how_rows_come_in_batches(tmp_path_factory, n, lengths):
    folder = tmp_path_factory.mktemp("tables")
    whole, cut = (write(folder / name, rows(n), ends) for name, ends in (("a", ()), ("b", lengths)))
    assert whole.read_bytes() == cut.read_bytes()


def test_row_groups_have_a_fixed_number_of_rows_with_statistics_that_readers_skip_by(tmp_path):
    values = rows(16)
    found = parquet.ParquetFile(write(tmp_path / "t.parquet", values, [3, 9])).metadata
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    assert [group.num_rows for group in groups] == [7, 7, 2]
    for number, group in enumerate(groups):
        for index, name in enumerate(COLUMNS):
            part = values[name][7 * number : 7 * number + 7]
            kept = group.column(index).statistics
            assert (kept.min, kept.max) == (np.nanmin(part), np.nanmax(part))


def test_what_is_unknown_is_null_and_only_floats_may_be(tmp_path):
    values = rows(50)
    found = parquet.read_table(write(tmp_path / "t.parquet", values))
    for name, dtype in COLUMNS.items():
        assert found.schema.field(name).nullable == (dtype.kind == "f")
        assert found[name].null_count == (np.isnan(values[name]).sum() if dtype.kind == "f" else 0)


def test_what_the_table_is_of_is_kept_with_it(tmp_path):
    about = read_about(write(tmp_path / "t.parquet", rows(3)))
    assert about == {"format": 1, **ABOUT_IT}


def test_a_file_that_is_there_stays_until_the_new_one_is_complete(tmp_path):
    path = write(tmp_path / "t.parquet", rows(3))
    before = path.read_bytes()

    def broken():
        yield rows(20)
        assert path.read_bytes() == before
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_table(path, COLUMNS, broken(), about={})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t.parquet"]


def test_batches_of_other_dtypes_or_lengths_are_never_cast(tmp_path):
    other = {**rows(3), "bbox-0": np.arange(3)}
    with pytest.raises(TypeError, match="int64"):
        write(tmp_path / "t.parquet", other)
    short = {**rows(3), "area": np.arange(2)}
    with pytest.raises(ValueError, match="unpack"):
        write_table(tmp_path / "t.parquet", COLUMNS, [short], about={})
    assert os.listdir(tmp_path) == []


def test_F10_a_flipped_bit_in_the_values_is_noticed(tmp_path):
    path = write(tmp_path / "t.parquet", rows(50))
    column = parquet.ParquetFile(path).metadata.row_group(1).column(3)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(OSError, match="checksum"):
        parquet.read_table(path, page_checksum_verification=True)


def test_F7_the_message_of_a_full_disk_says_how_much_is_needed(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    n_bytes = 50 * sum(dtype.itemsize for dtype in COLUMNS.values())
    with pytest.raises(OSError, match=f"t.parquet: {n_bytes:,} bytes are needed at most"):
        write(tmp_path / "t.parquet", rows(50))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("seed", range(5))
def test_F10_a_flipped_bit_in_the_footer_is_noticed_before_it_is_parsed(tmp_path, monkeypatch, seed):
    path = write(tmp_path / "t.parquet", rows(50))
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    monkeypatch.setattr(parquet, "read_metadata", lambda path: pytest.fail("parsed"))
    for place in np.random.default_rng(seed).integers(8 * (len(whole) - length - 8), 8 * len(whole), 300):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is damaged and cannot be read|is not a table of objects"):
            read_about(path)


@pytest.mark.parametrize("change", ["cut", "not parquet", "no metadata", "other metadata", "later format"])
def test_what_is_no_table_of_ours_is_refused(tmp_path, change):
    path = write(tmp_path / "t.parquet", rows(3))
    found = parquet.read_table(path)
    metadata = parquet.read_metadata(path).metadata[ABOUT]
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif change == "not parquet":
        path.write_text("label,area")
    elif change == "no metadata":
        parquet.write_table(found.replace_schema_metadata(), path)
    elif change == "other metadata":
        parquet.write_table(found.replace_schema_metadata({ABOUT: metadata.replace(b"7f", b"7e")}), path)
    else:
        later = json.dumps({"format": 2})
        parquet.write_table(found.replace_schema_metadata({ABOUT: later}), path)
    says = "is damaged" if change in ("cut", "not parquet") else "is not a table of objects"
    with pytest.raises(ValueError, match=says):
        read_about(path)


def test_a_later_format_names_both(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "FORMAT", 2)
    path = write(tmp_path / "t.parquet", rows(3))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 2, and this version of blockbuster reads format 1"):
        read_about(path)


@pytest.mark.parametrize("missing", ["pandas", "pyarrow"])
def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ImportError, match=rf"{missing} is not installed; .*blockbuster-tiles\[table\]"):
        check_extra()


def test_the_file_is_flushed_before_it_has_its_name(tmp_path, monkeypatch):
    flush, seen = os.fsync, []

    def watched(descriptor):
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path / "t.parquet", rows(3))
    assert [seen[0].parent, seen[1]] == [tmp_path, tmp_path]
    assert seen[0].name.startswith(".writing-")
