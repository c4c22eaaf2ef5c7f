"""The table of a label image comes, goes and is replaced with its labels, and spares those of others."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from kill_points import IMAGE, Case, number_all
from outcomes import refused, snapshot

from blockbuster import tile_process
from blockbuster.output.feature_table import FILE

OTHER_TYPE = {"type": "masking_roi_table", "table_version": "1"}


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def case(request):
    return Case("labels/cells", request.param, is_image=True, measure=True)


@pytest.fixture
def image(case, tmp_path):
    """An image in a folder of its own, as it was before the run."""
    case.prepare(tmp_path)
    return tmp_path / case.store


def put_table(image, name="cells", **attributes):
    """A table of somebody else, listed as such."""
    zarr_format = zarr.open_group(image, mode="r").metadata.zarr_format
    group = zarr.open_group(image, mode="r+").require_group("tables")
    group.attrs["tables"] = [*group.attrs.get("tables", []), name]
    group.create_group(name, attributes=OTHER_TYPE | attributes)
    (image / "tables" / name / "table.csv").write_text("label,x\n1,2\n")
    assert zarr_format == group.metadata.zarr_format


def listed(image):
    return zarr.open_group(image / "tables", mode="r").attrs["tables"]


def of_labels(image):
    return image / "labels" / "cells" / "0" / "objects.parquet"


def shown(image):
    return image / "tables" / "cells" / FILE


def test_it_says_of_which_labels_it_is_and_holds_what_lies_with_them(case, image, tmp_path):
    case.act(tmp_path)
    assert shown(image).read_bytes() == of_labels(image).read_bytes()
    labels = zarr.open_array(image / "labels" / "cells" / "0", mode="r")[...]
    assert list(pd.read_parquet(shown(image))["label"]) == list(np.unique(labels[labels > 0]))
    attributes = zarr.open_group(image / "tables" / "cells", mode="r").attrs.asdict()
    assert attributes["region"] == {"path": "../labels/cells"}
    # As ngio and Fractal have it, seen from the group of tables.
    assert (image / "tables" / attributes["region"]["path"]).is_dir()
    assert (attributes["type"], attributes["instance_key"], attributes["backend"]) == (
        "feature_table",
        "label",
        "parquet",
    )
    assert listed(image) == ["cells"]
    # Consolidated metadata tell of it, too.
    nodes = dict(zarr.open_group(image, mode="r", use_consolidated=True).members(max_depth=None))
    assert nodes["tables/cells"].attrs.asdict() == attributes


def test_it_is_no_link_that_others_could_write_through(case, image, tmp_path):
    case.act(tmp_path)
    before = of_labels(image).read_bytes()
    with open(shown(image), "r+b") as file:
        file.write(b"mine")
    assert of_labels(image).read_bytes() == before


def test_tables_of_others_stay_as_they_are_and_are_listed(case, image, tmp_path):
    put_table(image, "rois")
    before = snapshot(image / "tables" / "rois")
    case.act(tmp_path)
    assert listed(image) == ["rois", "cells"]
    case.act(tmp_path, overwrite=True, measure=None)
    assert listed(image) == ["rois"]
    assert snapshot(image / "tables" / "rois") == before


def test_with_labels_that_are_not_measured_the_old_table_goes(case, image, tmp_path):
    case.act(tmp_path)
    case.act(tmp_path, overwrite=True, measure=None)
    assert not (image / "tables" / "cells").exists()
    assert listed(image) == []
    assert not of_labels(image).exists()
    nodes = dict(zarr.open_group(image, mode="r", use_consolidated=True).members(max_depth=None))
    assert "tables/cells" not in nodes


def test_F18_a_table_of_others_is_refused_before_work_and_never_touched(case, image, tmp_path):
    put_table(image)
    with refused(FileExistsError, "tables/cells exists and is not from blockbuster", folder=tmp_path):
        case.act(tmp_path, fn=pytest.fail, overwrite=True)
    before = snapshot(image / "tables")
    case.act(tmp_path, measure=None)
    case.act(tmp_path, measure=None, overwrite=True)
    assert snapshot(image / "tables") == before


@pytest.mark.parametrize("how", ["column", "file", "attributes"])
def test_F18_a_table_that_was_changed_since_is_the_users(case, image, tmp_path, how):
    case.act(tmp_path)
    if how == "column":
        pd.read_parquet(shown(image)).assign(kind="round").to_parquet(shown(image))
    elif how == "file":
        (shown(image).parent / "notes.txt").write_text("mine")
    else:
        zarr.open_group(image / "tables" / "cells").attrs["blockbuster"] = {"by": "hand"}
    for measure in (None, True):
        with refused(FileExistsError, "or was changed since", folder=tmp_path):
            case.act(tmp_path, fn=pytest.fail, overwrite=True, measure=measure)


def test_F18_a_table_without_its_labels_is_replaced_only_where_that_was_asked_for(case, image, tmp_path):
    case.act(tmp_path)
    shutil.rmtree(image / "labels" / "cells")
    with refused(FileExistsError, "tables/cells exists; pass overwrite=True", folder=tmp_path):
        case.act(tmp_path, fn_version="2", fn=pytest.fail)
    case.act(tmp_path, fn_version="2", overwrite=True)
    assert shown(image).read_bytes() == of_labels(image).read_bytes()


@pytest.mark.parametrize("what", ["file", "link", "array"])
def test_what_is_no_group_of_tables_is_refused_before_work(case, image, tmp_path, what):
    tables = image / "tables"
    if what == "file":
        tables.write_text("mine")
    elif what == "link":
        tables.symlink_to(image / "labels")
    else:
        zarr.open_group(image, mode="r+").create_array("tables", data=IMAGE, chunks=IMAGE.shape)
    with refused(FileExistsError, "tables is not a zarr group", folder=tmp_path):
        case.act(tmp_path, fn=pytest.fail)
    case.act(tmp_path, measure=None)


def test_a_damaged_list_of_tables_concerns_only_labels_with_a_table(case, image, tmp_path):
    put_table(image, "rois")
    zarr.open_group(image / "tables").attrs["tables"] = "rois"
    with refused(ValueError, "\"tables\" is 'rois'; it is a list of names", folder=tmp_path):
        case.act(tmp_path, fn=pytest.fail)
    case.act(tmp_path, measure=None)


@pytest.mark.parametrize("number", range(4))
def test_a_failed_rename_leaves_old_labels_with_their_table_or_new_ones_to_finish(
    case, image, tmp_path, monkeypatch, number
):
    case.act(tmp_path)
    before, rename, calls = snapshot(image), os.rename, []

    def failing(source, target):
        if "blockbuster-partial" in f"{source}{target}":
            calls.append(target)
            if len(calls) == number + 1:
                raise OSError("rename failed")
        rename(source, target)

    options = {"fn": number_all, "fn_version": "2"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="rename failed"):
            case.act(tmp_path, overwrite=True, **options)
    if number < 3:
        assert snapshot(image) == before
    else:
        assert not shown(image).exists()
    case.act(tmp_path, overwrite=True, resume=True, **options)
    assert shown(image).read_bytes() == of_labels(image).read_bytes()
    assert not list(tmp_path.glob("*partial*"))


def test_F7_a_disk_that_is_full_is_noticed_before_anything_visible_changes(case, image, tmp_path, monkeypatch):
    case.act(tmp_path)
    before = snapshot(image)

    def full(source, target):
        raise OSError(28, "No space left on device")

    options = {"fn": number_all, "fn_version": "2", "overwrite": True}
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="there is no room for .*table-new: .* bytes are needed at most"):
            case.act(tmp_path, **options)
    assert snapshot(image) == before
    case.act(tmp_path, **options, resume=True)
    assert shown(image).read_bytes() == of_labels(image).read_bytes()


def test_F16_tables_of_runs_that_end_at_once_are_all_there_and_listed(case, image):
    names = [f"cells{number}" for number in range(6)]
    options = {"tile_shape": (8, 8), "fn_version": "1", "measure": True}

    def run(name):
        tile_process(IMAGE, number_all, write_to=image, output_component=f"labels/{name}", **options)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, names))
    assert sorted(listed(image)) == names
    for name in names:
        kept = image / "labels" / name / "0" / "objects.parquet"
        assert (image / "tables" / name / FILE).read_bytes() == kept.read_bytes()
    nodes = dict(zarr.open_group(image, mode="r", use_consolidated=True).members(max_depth=None))
    assert {f"tables/{name}" for name in names} <= set(nodes)


def test_a_table_that_a_killed_run_took_away_comes_back_with_the_next_one(case, image, tmp_path):
    case.act(tmp_path)
    before = snapshot(image)
    partial = Path(f"{image}.labels.cells.blockbuster-partial")
    partial.mkdir()
    (partial / "blockbuster-partial").write_text(f"{image.name}/labels/cells\n")
    os.rename(image / "tables" / "cells", partial / "table-replaced")
    with pytest.raises(Exception, match="stopped"):
        case.act(tmp_path, fn=stop, fn_version="2", overwrite=True)
    assert snapshot(image) == before


def stop(tile):
    raise ValueError("stopped")


def test_of_an_image_without_objects_there_is_an_empty_table_with_all_columns(case, image, tmp_path):
    case.act(tmp_path, fn=np.zeros_like, skip_empty=False)
    empty = pd.read_parquet(shown(image))
    case.act(tmp_path, overwrite=True)
    full = pd.read_parquet(shown(image))
    assert len(empty) == 0 < len(full)
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)


def test_metadata_are_those_of_a_group_of_the_images_format(case, image, tmp_path):
    case.act(tmp_path)
    for folder in (image / "tables", image / "tables" / "cells"):
        files = {name for name in os.listdir(folder) if name.startswith((".z", "z"))}
        assert files == ({".zgroup", ".zattrs"} if case.zarr_format == 2 else {"zarr.json"})
        for name in files:
            json.loads((folder / name).read_text())
