"""Several results of one function: each is what a run of a function gives that returns it alone."""

import functools
import os
import shutil
from pathlib import Path

import dask
import dask.array as da
import naive
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import Counted, refused, snapshot, write_image
from scipy import ndimage
from strategies import small_tile_shapes, wide_shapes

import blockbuster
from blockbuster import (
    TileError,
    load_ome_zarr,
    plan_run,
    read_objects,
    read_report,
    relabel_sequential_zarr,
    tile_process,
)
from blockbuster.cli import main
from blockbuster.report import REPORT
from blockbuster.stage import open_stage

pytestmark = pytest.mark.filterwarnings("ignore::blockbuster.BlockbusterWarning")

IMAGE = (ndimage.gaussian_filter(np.random.default_rng(7).random((41, 37)), 1.2) * 2000).astype("uint16")
LEVELS = {"all": 900, "bright": 1050, "b r!ght": 1150}
TILES = {"tile_shape": (12, 11), "overlap": 3, "fn_version": "1"}
PLACE = {"write_to": "x.zarr", "output_component": "labels/{}"}


def above(tile, level):
    return ndimage.label(tile > level)[0]


def results_above(tile, levels=LEVELS):
    return {name: above(tile, level) for name, level in levels.items()}


def only(names):
    return functools.partial(results_above, levels={name: LEVELS[name] for name in names})


def files(folder):
    """All that lies with labels, but for the report, which has times."""
    return {name: what for name, what in snapshot(folder).items() if Path(name).name != REPORT}


def parents_of(children, parents):
    """For each child the parent that has most of its voxels, of several the smallest, or 0."""
    found = {}
    for label in np.unique(children[children > 0]).tolist():
        ids, counts = np.unique(parents[(children == label) & (parents > 0)], return_counts=True)
        found[label] = int(ids[np.argmax(counts)]) if len(ids) else 0
    return found


@st.composite
def cases(draw):
    shape = draw(wide_shapes((1, 2, 3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = (ndimage.gaussian_filter(random.random(shape), 0.7) * 2000).astype("uint16")
    names = draw(st.lists(st.sampled_from(sorted(LEVELS)), min_size=1, max_size=3, unique=True))
    return (
        image,
        names,
        {
            "tile_shape": draw(small_tile_shapes(shape)),
            "overlap": draw(st.integers(0, 3)),
            "merge": draw(st.sampled_from(["touch", "agree", "none"])),
            "tiles_per_task": draw(st.sampled_from([None, 1, 2, 5])),
            "sequential_labels": draw(st.booleans()),
            "skip_empty": draw(st.booleans()),
            "empty_threshold": 950,
            "measure": draw(st.sampled_from([None, True, ["intensity_sum", "intensity_std"]])),
            "fn_version": "1",
        },
    )


@settings(max_examples=examples(60))
@given(cases(), st.data())
def test_each_result_is_byte_for_byte_that_of_a_function_that_returns_it_alone(tmp_path_factory, case, data):
    image, names, options = case
    folder = tmp_path_factory.mktemp("several")
    component = data.draw(st.sampled_from(["labels/{}", "{}", {name: f"a/{i}" for i, name in enumerate(names)}]))
    pair = names[:2] if options["measure"] is not None and len(names) > 1 else None
    labels, report = tile_process(
        image,
        only(names),
        write_to=folder / "x.zarr",
        output_component=component,
        parents=pair and ":".join(pair),
        return_report=True,
        **options,
    )
    in_memory = tile_process(image, only(names), **{**options, "measure": None})
    assert set(labels) == set(report.results) == set(in_memory) == set(names)
    for name in names:
        place = component.format(name) if isinstance(component, str) else component[name]
        alone = {"write_to": folder / f"{name}.zarr", "output_component": place}
        expected = tile_process(image, functools.partial(above, level=LEVELS[name]), **alone, **options)
        assert labels[name].dtype == expected.dtype
        assert np.array_equal(np.asarray(labels[name]), np.asarray(expected))
        assert np.array_equal(in_memory[name], np.asarray(expected))
        found, wanted = files(folder / "x.zarr" / place), files(folder / f"{name}.zarr" / place)
        if pair and name == pair[0]:
            table = read_objects(folder / "x.zarr", place)
            own = dict(zip(table["label"].tolist(), table.pop(f"parent-{pair[1]}").tolist(), strict=True))
            assert own == parents_of(np.asarray(labels[name]), np.asarray(labels[pair[1]]))
            pd.testing.assert_frame_equal(table, read_objects(folder / f"{name}.zarr", place))
            del found["objects.parquet"], wanted["objects.parquet"]
        assert found == wanted
        assert report.results[name].n_objects == read_report(folder / "x.zarr", place).n_objects
    assert report.n_objects == sum(one.n_objects for one in report.results.values())
    assert not [name for name in os.listdir(folder) if "blockbuster" in name]
    shutil.rmtree(folder)


@pytest.mark.parametrize("merge", ["touch", "agree"])
def test_results_are_the_same_from_every_scheduler_and_brick(merge, workers, folder):
    options = {**TILES, "output_component": "labels/{}", "measure": ["intensity_mean"], "merge": merge}
    options["parents"] = ["bright:all", "b r!ght:bright", "b r!ght:all"]
    found = []
    for scheduler, n_tiles in (("synchronous", None), ("threads", 1), ("threads", 3), ("processes", 5)):
        path = folder / f"{scheduler}-{n_tiles}.zarr"
        with workers(scheduler):
            tile_process(IMAGE, results_above, write_to=path, tiles_per_task=n_tiles, **options)
        found.append(files(path))
    assert {"labels/all/objects.parquet", "labels/b r!ght/c/0/0"} <= set(found[0])
    assert all(other == found[0] for other in found[1:])


def test_results_of_a_cluster_are_the_same(workers, folder):
    client, cluster = blockbuster.make_local_cluster(n_workers=2, memory_limit=None)
    with cluster, client:
        far = tile_process(IMAGE, results_above, **TILES)
    near = tile_process(IMAGE, results_above, **TILES)
    assert list(far) == sorted(LEVELS)
    assert all(np.array_equal(far[name], near[name]) for name in LEVELS)


def hela_cells(image):
    """Nuclei of one channel; cells are what lies near them or near mitochondria. Both are local."""
    nuclei, mitochondria = image[2] > 725, image[1] > 430
    cells = ndimage.binary_dilation(nuclei | mitochondria, iterations=5)
    return {"nuclei": ndimage.label(nuclei)[0], "cells": ndimage.label(cells)[0]}


def bright_nuclei(image):
    """Bright middles of nuclei, and nuclei with a rim."""
    cells = ndimage.binary_dilation(image > 60, iterations=2)
    return {"nuclei": ndimage.label(image > 120)[0], "cells": ndimage.label(cells)[0]}


@pytest.mark.parametrize(
    ("name", "fn", "options"),
    [
        ("ome_zarr_third_party/omezarrpy_v04_hela_cyx.zarr", hela_cells, {"channel": None}),
        ("ome_zarr_third_party/ngffzarr_v05_hela_cyx.zarr", hela_cells, {"channel": None, "merge": "agree"}),
        ("stardist_samples/img2d.tif", bright_nuclei, {}),
    ],
)
def test_nuclei_and_cells_of_a_real_image_are_those_of_the_whole(name, fn, options, real_images, folder):
    image = path = real_images / name
    if name.endswith(".tif"):
        image = pixels = tifffile.imread(path)
    else:
        pixels = np.asarray(load_ome_zarr(path, channel=None))
    whole = fn(pixels)
    _, report = tile_process(
        image,
        fn,
        **options,
        **PLACE,
        tile_shape=(200, 170),
        overlap=16,
        connectivity=1,
        measure=True,
        parents="nuclei:cells",
        return_report=True,
    )
    for name, expected in whole.items():
        labels = zarr.open_array(folder / "x.zarr" / "labels" / name)[...]
        assert not naive.partition_fault(labels, expected)
        assert report.results[name].n_objects == expected.max() > 4
    nuclei, cells = (zarr.open_array(folder / "x.zarr" / "labels" / name)[...] for name in ("nuclei", "cells"))
    table = read_objects("x.zarr", "labels/nuclei")
    # A nucleus lies in one cell, wholly.
    first = ndimage.find_objects(nuclei)
    inside = [cells[first[n - 1]][nuclei[first[n - 1]] == n] for n in table["label"].tolist()]
    assert all((one == one[0]).all() for one in inside)
    assert table["parent-cells"].tolist() == [one[0] for one in inside]
    assert table["parent-cells"].dtype == cells.dtype


def test_parents_are_those_with_most_voxels_of_several_the_smallest_and_none_is_0(folder):
    children, parents = np.zeros((2, 8, 12), int)
    children[1, 1:9], children[3, 0:4], children[5, 2:6], children[7, 11] = 1, 2, 3, 4
    parents[1, 1:4], parents[1, 5:9] = 1, 2
    parents[3, 0:2], parents[3, 2:4] = 3, 4

    def fn(tile):
        return {"parents": tile // 10, "children": tile % 10}

    options = {"tile_shape": (8, 12), "measure": True, "parents": ["children:parents"], "return_report": True}
    _, report = tile_process(children + 10 * parents, fn, **options)
    # Numbers go by what comes first.
    assert report.objects["children"]["parent-parents"].tolist() == [2, 3, 0, 0]
    assert set(report.objects) == {"children", "parents"}
    assert "parent-parents" not in report.objects["parents"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_label_images_and_tables_of_an_image_are_listed_together(zarr_format, folder):
    path = write_image(folder / "x.zarr", IMAGE, "yx", zarr_format=zarr_format, chunks=(16, 16))
    if zarr_format == 2:
        stated = zarr.open_group(path).attrs["multiscales"]
        scale = {"type": "scale", "scale": [1.0, 1.0]}
        stated[0]["datasets"][0]["coordinateTransformations"] = [scale]
        zarr.open_group(path).attrs["multiscales"] = [{"version": "0.4", **stated[0]}]
    tile_process(path, results_above, measure=True, parents="bright:all", **TILES, **PLACE)
    group = zarr.open_group(path / "labels", mode="r")
    listed = group.attrs["labels"] if zarr_format == 2 else group.attrs["ome"]["labels"]
    assert sorted(listed) == sorted(LEVELS)
    assert sorted(zarr.open_group(path / "tables", mode="r").attrs["tables"]) == sorted(LEVELS)
    table = pd.read_parquet(path / "tables" / "bright" / "table.parquet")
    assert (table["parent-all"] > 0).all()


def test_what_a_run_gives_is_a_dict_whatever_was_asked_for(folder):
    lazy = tile_process(IMAGE, results_above, **TILES, **PLACE)
    assert all(isinstance(labels, da.Array) for labels in lazy.values())
    again = tile_process(IMAGE, results_above, **TILES, **PLACE, overwrite=True, compute=True)
    assert all(isinstance(labels, np.ndarray) for labels in again.values())
    assert list(lazy) == list(again) == sorted(LEVELS)
    labels, report = tile_process(IMAGE, results_above, **TILES, **PLACE, resume=True, return_report=True)
    assert list(labels) == list(report.results) == report.names == sorted(LEVELS)
    text = str(report)
    assert all(f"{name}: {one.n_objects} objects" in text for name, one in report.results.items())
    assert all(f"<h4>{name}</h4>" in report._repr_html_() for name in LEVELS)


def test_a_finished_run_is_returned_at_once_and_one_that_lacks_a_result_is_not(folder):
    counted = Counted(results_above)
    first = tile_process(IMAGE, counted, **TILES, **PLACE, return_report=True)[1]
    n_calls = counted.calls
    again = tile_process(IMAGE, counted, **TILES, **PLACE, resume=True, return_report=True)[1]
    assert counted.calls == n_calls
    assert again.n_objects == first.n_objects
    assert {name: one.seams for name, one in again.results.items()} == {
        name: one.seams for name, one in first.results.items()
    }
    shutil.rmtree("x.zarr/labels/bright")
    with refused(FileExistsError, "labels/all exists"):
        tile_process(IMAGE, counted, **TILES, **PLACE, resume=True)
    named = {**PLACE, "output_component": {name: f"labels/{name}" for name in LEVELS}}
    tile_process(IMAGE, counted, **TILES, **named, overwrite=True)
    shutil.rmtree("x.zarr/labels/bright")
    n_calls = counted.calls
    with refused(FileExistsError, "labels/all exists", "labels/bright belong to it and are not there"):
        tile_process(IMAGE, counted, **TILES, **named, resume=True)
    assert counted.calls == n_calls


class Failing(Counted):
    """Fails at one of its calls."""

    def __init__(self, fn, fatal):
        super().__init__(fn)
        self.fatal = fatal

    def __call__(self, tile):
        results = super().__call__(tile)
        if self.calls == self.fatal:
            raise OSError("the network is away")
        return results


@pytest.mark.parametrize("component", ["labels/{}", {name: f"labels/{name}" for name in LEVELS}])
@pytest.mark.parametrize("nth", [1, 6, 11])
def test_F1_a_run_that_failed_goes_on_and_gives_the_same_bytes(component, nth, folder):
    options = {**TILES, "output_component": component, "tiles_per_task": 2, "measure": True}
    tile_process(IMAGE, results_above, write_to="clean.zarr", **options)
    fn = Failing(results_above, nth)
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(TileError, match="the network is away"):
            tile_process(IMAGE, fn, write_to="x.zarr", **options)
        assert not Path("x.zarr").exists()
        fn.fatal, before = None, fn.calls
        tile_process(IMAGE, fn, write_to="x.zarr", resume=True, **options)
    # Tiles of the task that failed are seen again, and those of no other.
    assert fn.calls - before <= 16 - (nth - 1) // 2 * 2
    assert files("x.zarr") == files("clean.zarr")


def test_F18_labels_at_one_of_the_places_are_in_the_way_and_all_are_replaced_together(folder):
    tile_process(
        IMAGE, functools.partial(above, level=5), **TILES, write_to="x.zarr", output_component="labels/all"
    )
    before = snapshot("x.zarr")
    for component in ("labels/{}", {name: f"labels/{name}" for name in LEVELS}):
        with refused(FileExistsError, "labels/all exists", "overwrite=True"):
            tile_process(IMAGE, results_above, **TILES, write_to="x.zarr", output_component=component)
        assert snapshot("x.zarr") == before
    tile_process(IMAGE, results_above, **TILES, **PLACE, overwrite=True)
    tile_process(IMAGE, results_above, **TILES, write_to="y.zarr", output_component="labels/{}")
    assert files("x.zarr/labels/all") == files("y.zarr/labels/all")


def test_F16_another_run_at_one_of_the_places_is_kept_away(folder):
    found = []

    def fn(tile):
        if not found:
            found.append("tried")
            return results_above(tile)
        if len(found) == 1:
            with pytest.raises(RuntimeError, match="labels.bright"):
                tile_process(IMAGE, np.zeros_like, write_to="x.zarr", output_component="labels/bright")
            found.append("refused")
        return results_above(tile)

    with dask.config.set(scheduler="synchronous"):
        tile_process(IMAGE, fn, tiles_per_task=1, **TILES, **PLACE)
    assert found == ["tried", "refused"]


def several_then(other, at=(24, 22)):
    """Returns other results where a tile has the voxel at a place."""
    value = IMAGE[at]

    def fn(tile):
        return other(tile) if (tile == value).any() else results_above(tile)

    return fn


@pytest.mark.parametrize("tiles_per_task", [1, 16])
@pytest.mark.parametrize("known", [False, True])
def test_other_names_for_a_tile_are_an_error_that_has_both(tiles_per_task, known, folder):
    component = {name: name for name in LEVELS} if known else "{}"
    others = {"all": 900, "dark": 5}
    fn = several_then(functools.partial(results_above, levels=others))
    options = {**TILES, "write_to": "x.zarr", "output_component": component, "tiles_per_task": tiles_per_task}
    with refused(TileError, "'all', 'dark'", "'all', 'b r!ght', 'bright'"):
        tile_process(IMAGE, fn, **options)
    if known:
        labels, report = tile_process(IMAGE, fn, **options, overwrite=True, on_error="skip", return_report=True)
        assert report.n_failed > 0
        assert list(labels) == sorted(LEVELS)


@pytest.mark.parametrize(
    ("result", "parts"),
    [
        (lambda tile: {}, ["nothing in it"]),
        (lambda tile: {"": above(tile, 5)}, ["the name ''"]),
        (lambda tile: {3: above(tile, 5)}, ["the name 3"]),
        (lambda tile: {"a": above(tile, 5), "b": tile > 5}, ["result 'b'", "boolean mask"]),
        (lambda tile: {"a": above(tile, 5), "b": above(tile, 5)[1:]}, ["result 'b'", "shape"]),
        (lambda tile: {"a": [above(tile, 5)]}, ["result 'a'", "list"]),
    ],
)
def test_B1_results_that_are_no_labels_are_named(result, parts, folder):
    with refused(TileError, *parts):
        tile_process(IMAGE, result, **TILES, **PLACE)


def test_a_dict_where_there_is_one_place_and_an_array_where_there_are_several_say_what_to_do(folder):
    with refused(TileError, "dict of 'all', 'b r!ght', 'bright'", "labels/{}"):
        tile_process(IMAGE, results_above, **TILES, write_to="x.zarr")
    with refused(ValueError, "one array", "'labels'"):
        tile_process(IMAGE, functools.partial(above, level=5), **TILES, **PLACE)
    with refused(TileError, "a dict of 'a', 'b'"):
        given = {"write_to": "y.zarr", "output_component": {"a": "a", "b": "b"}}
        tile_process(IMAGE, functools.partial(above, level=5), **TILES, **given)
    with refused(ValueError, "'a/b'", "slash"):
        tile_process(
            IMAGE, lambda tile: {"a/b": above(tile, 5)}, **TILES, write_to="z.zarr", output_component="{}"
        )
    with refused(ValueError, "for no tile", "dict of name to place"):
        given = {"skip_empty": True, "empty_threshold": 10**9, "write_to": "w.zarr", "output_component": "{}"}
        tile_process(IMAGE, results_above, **TILES, **given)
    assert not [path for path in ("x.zarr", "y.zarr", "z.zarr", "w.zarr") if Path(path).exists()]


@pytest.mark.parametrize(
    ("options", "kind", "parts"),
    [
        ({"output_component": "{}/{}"}, ValueError, ["2 times {}"]),
        ({"output_component": {}}, ValueError, ["dict of name to place"]),
        ({"output_component": {"a": 3}}, TypeError, ["output_component is 3"]),
        ({"output_component": {3: "a"}}, ValueError, ["dict of name to place"]),
        ({"output_component": {"a": "x", "b": "x"}}, ValueError, ["'x' is 'x' or lies in it"]),
        ({"output_component": {"a": "x", "b": "x/y"}}, ValueError, ["'x/y' is 'x' or lies in it"]),
        ({"output_component": {"a": "../x"}}, ValueError, ["output_component is '../x'"]),
        ({"parents": "a:b"}, ValueError, ["measure=True"]),
        ({"parents": "a", "measure": True}, ValueError, ["CHILD:PARENT"]),
        ({"parents": "a:a", "measure": True}, ValueError, ["CHILD:PARENT"]),
        ({"parents": 3, "measure": True}, TypeError, ["CHILD:PARENT"]),
        (
            {"parents": "a:c", "measure": True, "output_component": {"a": "a", "b": "b"}},
            ValueError,
            ["'c'", "'a', 'b'"],
        ),
        ({"parents": "a:c", "measure": True, "output_component": "labels"}, ValueError, ["'a'", "one array"]),
    ],
)
def test_wrong_places_and_parents_are_refused_before_any_work(options, kind, parts, folder):
    counted = Counted(results_above)
    with refused(kind, *parts, folder=folder):
        tile_process(IMAGE, counted, **{**TILES, **PLACE, **options})
    assert counted.calls == 0


def test_parents_that_are_no_results_are_named_at_the_first_tile(folder):
    counted = Counted(results_above)
    with refused(ValueError, "'cells'", "'all', 'b r!ght', 'bright'"):
        tile_process(IMAGE, counted, **TILES, **PLACE, measure=True, parents="all:cells", tiles_per_task=1)
    assert counted.calls < 16


def test_one_of_the_results_of_a_kept_stage_is_opened_and_merged_again(folder, capsys):
    labels = tile_process(IMAGE, results_above, **TILES, **PLACE, keep_stage=True)
    (stage,) = (path for path in os.listdir() if path.endswith("stage"))
    with refused(ValueError, "'all', 'b r!ght', 'bright'"):
        open_stage(stage)
    kept = open_stage(stage, "bright").compute()
    assert not naive.partition_fault(kept > 0, np.asarray(labels["bright"]) > 0)
    status = main(["merge", stage, "--write-to", "m.zarr", "--result", "bright"])
    assert (status, capsys.readouterr().err) == (0, "")
    assert np.array_equal(zarr.open_array("m.zarr/labels")[...], np.asarray(labels["bright"]))
    assert main(["merge", stage, "--write-to", "n.zarr"]) == 2
    assert "'bright'" in capsys.readouterr().err


def test_ids_that_are_parents_are_not_renumbered(folder):
    options = {"measure": True, "parents": "bright:all", **TILES, **PLACE}
    tile_process(IMAGE, results_above, **options)
    with refused(ValueError, "'bright'", "sequential_labels=True", folder=folder):
        relabel_sequential_zarr("x.zarr", "labels/all")
    n = relabel_sequential_zarr("x.zarr", "labels/bright")
    assert read_objects("x.zarr", "labels/bright")["label"].tolist() == list(range(1, n + 1))


def test_a_plan_names_the_results_that_are_known(folder):
    names = {name: name for name in LEVELS}
    text = str(plan_run(IMAGE, **TILES, write_to="x.zarr", output_component=names))
    one = plan_run(IMAGE, **TILES, write_to="x.zarr")
    assert "results   all, b r!ght, bright" in text
    assert plan_run(IMAGE, **TILES, write_to="x.zarr", output_component=names).label_bytes == 3 * one.label_bytes
    assert "as fn names them" in str(plan_run(IMAGE, **TILES, **PLACE))
    assert "\nresults" not in str(one)


def test_a_stage_of_several_results_is_removed_whole(folder):
    """Where objects may be completed, each result has all kinds of files in the stage."""
    options = {**TILES, **PLACE, "merge": "agree", "overlap": 4, "tile_shape": (9, 8), "measure": True}
    tile_process(IMAGE, results_above, **options)
    assert os.listdir() == ["x.zarr"]
