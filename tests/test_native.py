"""Merging and renumbering label arrays that are stored already."""

import hashlib
import itertools
import json
import os
import re

import naive
import numpy as np
import pytest
import zarr
from interrupted import contents
from outcomes import Counted, assert_same_objects, blobs, refused, write_image
from scipy import ndimage

from blockbuster import read_report, relabel_sequential_zarr, tile_process, zarr_native_merge
from blockbuster.grid import TileGrid, relative_box
from blockbuster.run.finish import FinishedStage
from blockbuster.stage import open_stage


def label_tile(tile):
    return ndimage.label(tile)[0]


def same_partition(a, b):
    pairs = np.unique(np.stack([np.ravel(a), np.ravel(b)]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


def digest(folder):
    """Hash every file below a folder."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = hashlib.sha256(file.read()).hexdigest()
    return found


@pytest.fixture
def mask():
    return np.random.default_rng(3).random((53, 47)) > 0.55


def stage(path, mask, tile, zarr_format=3, dtype="int64", factor=1, **options):
    """Stage labels as another program would: one tile per chunk, ids local to the chunk."""
    group = zarr.create_group(path, zarr_format=zarr_format)
    array = group.create_array("tiles", shape=mask.shape, chunks=tile, dtype=dtype, **options)
    for y in range(0, mask.shape[0], tile[0]):
        for x in range(0, mask.shape[1], tile[1]):
            box = slice(y, y + tile[0]), slice(x, x + tile[1])
            array[box] = label_tile(mask[box]).astype(dtype) * factor


@pytest.mark.parametrize(("zarr_format", "options"), [(2, {}), (3, {}), (3, {"shards": (32, 20)})])
def test_labels_of_others_are_merged_and_only_read(tmp_path, mask, zarr_format, options):
    stage(tmp_path / "staged.zarr", mask, (16, 10), zarr_format, **options)
    before = digest(tmp_path / "staged.zarr")
    n = zarr_native_merge(tmp_path / "staged.zarr", "tiles", tmp_path / "merged.zarr", "labels")
    expected, n_expected = ndimage.label(mask)
    assert n == n_expected
    assert same_partition(zarr.open_array(tmp_path / "merged.zarr" / "labels")[:], expected)
    assert digest(tmp_path / "staged.zarr") == before
    assert sorted(os.listdir(tmp_path)) == ["merged.zarr", "staged.zarr"]


def test_sparse_ids_of_others_are_merged_and_numbered_one_to_n(tmp_path, mask):
    stage(tmp_path / "staged.zarr", mask, (16, 10), factor=10**14)
    n = zarr_native_merge(
        tmp_path / "staged.zarr", "tiles", tmp_path / "out.zarr", "a/b", sequential=True, n_workers=1
    )
    labels = zarr.open_array(tmp_path / "out.zarr" / "a" / "b")[:]
    assert np.unique(labels).tolist() == list(range(n + 1))
    assert labels.dtype == np.int32


def test_connectivity_decides_whether_corners_join(tmp_path):
    mask = np.zeros((8, 8), bool)
    mask[3, 3] = mask[4, 4] = True
    stage(tmp_path / "staged.zarr", mask, (4, 4))
    out = tmp_path / "out.zarr"
    assert zarr_native_merge(tmp_path / "staged.zarr", "tiles", out, "faces") == 2
    assert zarr_native_merge(tmp_path / "staged.zarr", "tiles", out, "corners", connectivity=2) == 1


def test_B21_ids_of_others_begin_anew_at_each_time_point(tmp_path, mask):
    """Where the array says which of its axes is time."""
    group = zarr.create_group(tmp_path / "staged.zarr")
    options = {"dtype": "int64", "dimension_names": ("t", "y", "x")}
    array = group.create_array("tiles", shape=(2, *mask.shape), chunks=(2, 16, 10), **options)
    for y, x in itertools.product(range(0, mask.shape[0], 16), range(0, mask.shape[1], 10)):
        box = slice(y, y + 16), slice(x, x + 10)
        array[:, *box] = np.stack([label_tile(mask[box]), label_tile(mask[box])])
    n = zarr_native_merge(tmp_path / "staged.zarr", "tiles", tmp_path / "out.zarr", "labels")
    expected, n_expected = ndimage.label(mask)
    assert n == 2 * n_expected
    labels = zarr.open_array(tmp_path / "out.zarr" / "labels")[:]
    assert same_partition(labels, np.stack([expected, expected + n_expected * (expected > 0)]))


@pytest.mark.parametrize("connectivity", [1, 2])
def test_a_kept_stage_is_merged_by_its_own_grid_and_only_read(tmp_path, mask, connectivity):
    structure = ndimage.generate_binary_structure(2, connectivity)
    direct = tile_process(
        mask,
        lambda tile: ndimage.label(tile, structure)[0],
        tile_shape=(7, 11),
        overlap=3,
        connectivity=connectivity,
        stage_dir=tmp_path,
        keep_stage=True,
    )
    (kept,) = tmp_path.glob("*.blockbuster-stage")
    before = digest(kept)
    n = zarr_native_merge(kept, "labels", tmp_path / "out.zarr", "labels", connectivity=connectivity)
    assert n == len(np.unique(direct)) - 1
    assert np.array_equal(zarr.open_array(tmp_path / "out.zarr" / "labels")[:], direct)
    assert digest(kept) == before


SOUP = np.random.default_rng(4).integers(0, 4, (60, 50))
SOUP_TILES = {"tile_shape": (20, 20), "overlap": 4}


def soup_labels(path, **options):
    """Labels of tiles that have little to do with each other, so that some agree and some do not."""
    return tile_process(SOUP, _shifted, **SOUP_TILES, write_to=path, compute=True, **options)


def kept_stage(folder, **options):
    labels = soup_labels(folder / "first.zarr", keep_stage=True, **options)
    (kept,) = folder.glob("first.*.blockbuster-stage")
    return kept, labels


@pytest.mark.parametrize("merge", ["touch", "agree", "none"])
def test_a_kept_stage_is_merged_as_its_run_was(tmp_path, merge):
    kept, labels = kept_stage(tmp_path, merge=merge, min_agreement=0.5)
    n = zarr_native_merge(kept, "staged", tmp_path / "b.zarr", "labels")
    assert n == len(np.unique(labels)) - 1
    assert np.array_equal(zarr.open_array(tmp_path / "b.zarr" / "labels", mode="r")[...], labels)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"merge": "agree"}, {"min_agreement": 0.2}),
        ({"merge": "agree", "min_agreement": 0.6}, {"min_agreement": 0.0}),
        ({"merge": "agree", "min_agreement": 0.0}, {"min_agreement": 0.6}),
        ({"merge": "agree", "connectivity": 1}, {"merge": "agree", "min_agreement": 0.7}),
        ({"merge": "agree", "connectivity": 2}, {"merge": "touch"}),
        ({"merge": "agree"}, {"merge": "none"}),
        ({"merge": "touch", "connectivity": 2}, {"merge": "none", "sequential": True}),
    ],
)
def test_a_kept_stage_is_merged_by_another_rule_as_a_run_with_that_rule_would(tmp_path, first, again):
    kept, _ = kept_stage(tmp_path, **first)
    before = digest(kept)
    expected = soup_labels(
        tmp_path / "run.zarr",
        merge=again.get("merge", "agree"),
        min_agreement=again.get("min_agreement", 0.4),
        connectivity=first.get("connectivity"),
        sequential_labels=again.get("sequential", False),
    )
    n = zarr_native_merge(kept, "staged", tmp_path / "b.zarr", "labels", **again)
    labels = zarr.open_array(tmp_path / "b.zarr" / "labels", mode="r")[...]
    np.testing.assert_array_equal(labels, expected)
    assert n == len(np.unique(expected)) - 1
    assert digest(kept) == before
    reports = [read_report(tmp_path / name).seams for name in ("b.zarr", "run.zarr")]
    assert reports[0].merge == reports[1].merge
    assert [seams.joined for seams in reports] == [reports[1].joined] * 2


@pytest.mark.parametrize(
    ("first", "again", "message"),
    [
        ("touch", {"merge": "agree"}, 'made with merge="touch", which keeps which labels touch, not how far'),
        ("none", {"merge": "touch"}, 'made with merge="none", which keeps nothing of the seams'),
        ("touch", {"min_agreement": 1}, 'min_agreement is 1; it is for merge="agree", and merge is "touch"'),
        ("agree", {"merge": "fuse"}, "merge is 'fuse'"),
        ("agree", {"min_agreement": 2}, "min_agreement is 2"),
    ],
)
def test_a_kept_stage_refuses_what_it_does_not_hold(tmp_path, first, again, message):
    kept, _ = kept_stage(tmp_path, merge=first)
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        zarr_native_merge(kept, "staged", tmp_path / "b.zarr", "labels", **again)
    assert digest(tmp_path) == before


def test_labels_of_others_are_merged_by_a_rule_too(tmp_path):
    stage(tmp_path / "staged.zarr", np.ones((8, 8), bool), (4, 4))
    arguments = (tmp_path / "staged.zarr", "tiles", tmp_path / "out.zarr")
    assert zarr_native_merge(*arguments, "touching") == 1
    assert zarr_native_merge(*arguments, "apart", merge="none") == 4


@pytest.mark.parametrize(
    "opens", [open_stage, lambda path: zarr_native_merge(path, "", path / "x.zarr", "labels")]
)
def test_a_stage_of_another_version_is_refused(tmp_path, opens):
    kept, _ = kept_stage(tmp_path)
    manifest = json.loads((kept / "manifest.json").read_text())
    (kept / "manifest.json").write_text(json.dumps(manifest | {"format": 5}))
    with pytest.raises(ValueError, match=r"another version of blockbuster \(format 5; this one reads 7\)"):
        opens(kept)


@pytest.mark.parametrize("merge", ["touch", "agree"])
def test_open_stage_shows_what_fn_returned_for_each_tile(tmp_path, merge):
    kept, _ = kept_stage(tmp_path, merge=merge, tiles_per_task=4)
    labels = open_stage(kept)
    assert (labels.shape, labels.chunks, labels.dtype) == ((60, 50), ((20,) * 3, (20, 20, 10)), np.int32)
    grid = TileGrid.regular((60, 50), (20, 20), (4, 4))
    for tile in grid.indices():
        core, region = grid.core(tile), grid.region(tile)
        of_fn = _shifted(SOUP[region])[relative_box(core, region)]
        found = labels.blocks[tile].compute()
        assert naive.partition_fault(found, of_fn) == ""
        ids = found.ravel()[np.sort(np.unique(found, return_index=True)[1])]
        assert list(ids[ids > 0]) == list(range(1, found.max() + 1))


def test_open_stage_says_what_is_no_finished_stage(tmp_path):
    with pytest.raises(ValueError, match="is not a stage of blockbuster"):
        open_stage(tmp_path)
    kept, _ = kept_stage(tmp_path, tiles_per_task=1)
    journal = (kept / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (kept / "journal.jsonl").write_bytes(b"".join(line for line in journal if b'"task":3' not in line))
    with pytest.raises(ValueError, match="a run that did not finish; finish it first"):
        open_stage(kept)


def _shifted(tile):
    return np.roll(tile, tile.shape[0] % 3, axis=1)


def test_a_kept_stage_refuses_another_connectivity(tmp_path, mask):
    tile_process(mask, label_tile, tile_shape=(20, 20), stage_dir=tmp_path, keep_stage=True)
    (kept,) = tmp_path.glob("*.blockbuster-stage")
    with pytest.raises(ValueError, match="connectivity is 2; .* pass connectivity=1"):
        zarr_native_merge(kept, "labels", tmp_path / "out.zarr", "labels", connectivity=2)


def test_an_existing_output_is_replaced_only_when_asked(tmp_path, mask):
    stage(tmp_path / "staged.zarr", mask, (16, 10))
    arguments = (tmp_path / "staged.zarr", "tiles", tmp_path / "out.zarr", "labels")
    n = zarr_native_merge(*arguments)
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        zarr_native_merge(*arguments)
    assert digest(tmp_path) == before
    assert zarr_native_merge(*arguments, overwrite=True) == n


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kept_stage_is_merged_to_no_place_that_a_run_would_refuse(tmp_path, mask, overwrite):
    image = write_image(tmp_path / "image.zarr", mask.astype("uint8"), "yx")
    tile_process(mask, label_tile, tile_shape=(20, 20), stage_dir=tmp_path, keep_stage=True)
    (kept,) = tmp_path.glob("*.blockbuster-stage")
    with refused(ValueError, "is an OME-Zarr image", folder=tmp_path):
        zarr_native_merge(kept, "", image, "0", overwrite=overwrite)
    with refused(ValueError, "array", folder=tmp_path):
        zarr_native_merge(kept, "", image / "0" / "merged.zarr", "labels", overwrite=overwrite)


def test_a_kept_stage_is_not_merged_into_itself_and_is_into_folders_that_are_missing(tmp_path, mask):
    labels = tile_process(mask, label_tile, tile_shape=(20, 20), stage_dir=tmp_path, keep_stage=True)
    (kept,) = tmp_path.glob("*.blockbuster-stage")
    with refused(ValueError, "and the stage lie one in the other", folder=tmp_path):
        zarr_native_merge(kept, "", kept / "in.zarr", "labels")
    out = tmp_path / "new" / "folder" / "out.zarr"
    assert zarr_native_merge(kept, "", out, "labels") == len(np.unique(labels[labels > 0]))
    assert os.listdir(out.parent) == ["out.zarr"]
    assert_same_objects(zarr.open_array(out / "labels")[:], labels)


def test_what_appears_where_a_stage_is_merged_is_not_replaced_unasked(tmp_path, mask, monkeypatch):
    tile_process(mask, label_tile, tile_shape=(20, 20), stage_dir=tmp_path, keep_stage=True)
    (kept,) = tmp_path.glob("*.blockbuster-stage")
    match = FinishedStage.match

    def taken_meanwhile(*given, **options):
        zarr.create_group(tmp_path / "out.zarr").create_array("labels", data=np.arange(3))
        return match(*given, **options)

    monkeypatch.setattr(FinishedStage, "match", taken_meanwhile)
    with pytest.raises(FileExistsError, match="their place was taken"):
        zarr_native_merge(kept, "", tmp_path / "out.zarr", "labels")
    assert zarr.open_array(tmp_path / "out.zarr" / "labels")[:].tolist() == [0, 1, 2]


def test_what_is_no_label_array_is_refused(tmp_path):
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("image", data=np.zeros((4, 4), "float32"))
    with pytest.raises(TypeError, match="float32; labels are integers"):
        zarr_native_merge(tmp_path / "x.zarr", "image", tmp_path / "out.zarr", "labels")
    with pytest.raises(FileNotFoundError, match="no zarr array"):
        zarr_native_merge(tmp_path / "x.zarr", "missing", tmp_path / "out.zarr", "labels")
    with pytest.raises(TypeError, match="float32; labels are integers"):
        relabel_sequential_zarr(tmp_path / "x.zarr", "image")
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("largest", [50, 2**40])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_renumbering_keeps_order_metadata_and_other_arrays(tmp_path, largest, zarr_format):
    rng = np.random.default_rng(0)
    data = rng.choice(np.concatenate([[0], rng.integers(1, largest, 30)]), (23, 31))
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=zarr_format)
    labels = group.create_array("labels", shape=data.shape, chunks=(8, 8), dtype="int64")
    labels[:] = data
    labels.attrs["who"] = "me"
    group.create_array("other", data=np.arange(3))
    other = digest(tmp_path / "x.zarr" / "other")
    n = relabel_sequential_zarr(tmp_path / "x.zarr")
    new = zarr.open_array(tmp_path / "x.zarr" / "labels", mode="r")
    ids = np.unique(data[data > 0])
    assert n == len(ids)
    assert np.array_equal(new[:], np.searchsorted(np.concatenate([[0], ids]), data))
    assert (new.chunks, new.dtype, dict(new.attrs)) == ((8, 8), np.int64, {"who": "me"})
    assert digest(tmp_path / "x.zarr" / "other") == other
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_renumbering_without_labels_gives_zero(tmp_path):
    zarr.create_group(tmp_path / "x.zarr").create_array("labels", shape=(5, 5), chunks=(2, 2), dtype="uint8")
    assert relabel_sequential_zarr(tmp_path / "x.zarr") == 0


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_renumbered_labels_are_those_of_a_run_with_sequential_labels_and_known_as_such(zarr_format, tmp_path):
    image = blobs((30, 40))
    fn = Counted(naive.label)
    options = {"tile_shape": (10, 10), "fn_version": "1"}
    for name in ("x", "y"):
        zarr.create_group(tmp_path / f"{name}.zarr", zarr_format=zarr_format)
        sequential = name == "y"
        tile_process(image, fn, write_to=tmp_path / f"{name}.zarr", sequential_labels=sequential, **options)
    n_calls, before = fn.calls, read_report(tmp_path / "x.zarr")
    n = relabel_sequential_zarr(tmp_path / "x.zarr")
    assert contents(tmp_path / "x.zarr") == contents(tmp_path / "y.zarr")
    report = read_report(tmp_path / "x.zarr")
    assert (report.n_objects, report.settings["sequential_labels"]) == (n, True)
    assert (report.n_tiles, report.seams, report.seconds) == (before.n_tiles, before.seams, before.seconds)
    _, report = tile_process(
        image,
        fn,
        write_to=tmp_path / "x.zarr",
        resume=True,
        sequential_labels=True,
        return_report=True,
        **options,
    )
    assert (fn.calls, report.n_objects) == (n_calls, n)
    with refused(FileExistsError, "sequential_labels was True, is False", folder=tmp_path):
        tile_process(image, fn, write_to=tmp_path / "x.zarr", resume=True, **options)


def test_labels_that_were_edited_before_they_were_renumbered_are_not_taken_for_those_of_the_run(tmp_path):
    image = blobs((30, 40))
    given = {"write_to": tmp_path / "x.zarr", "sequential_labels": True, "fn_version": "1"}
    tile_process(image, naive.label, tile_shape=(10, 10), **given)
    labels = zarr.open_array(tmp_path / "x.zarr/labels")
    n_before = int(labels[...].max())
    labels[...] = np.where(labels[...] == 2, 0, labels[...])
    assert relabel_sequential_zarr(tmp_path / "x.zarr") == n_before - 1
    assert read_report(tmp_path / "x.zarr").n_objects == n_before - 1
    with refused(FileExistsError, f"edited was {n_before - 1} objects of {n_before}", folder=tmp_path):
        tile_process(image, naive.label, tile_shape=(10, 10), resume=True, **given)
    for damage in ("", "{", "[]"):
        (tmp_path / "x.zarr/labels/blockbuster-report.json").write_text(damage)
        assert relabel_sequential_zarr(tmp_path / "x.zarr") == n_before - 1
        assert not (tmp_path / "x.zarr/labels/blockbuster-report.json").exists()


def test_a_table_of_objects_is_renumbered_with_its_labels(tmp_path):
    options = {"tile_shape": (16, 16), "measure": ["intensity_std"], "tiles_per_task": 1}
    image = (np.random.default_rng(1).random((64, 64)) < 0.5).astype("uint8")
    tables = []
    for name, sequential in (("a", False), ("b", True)):
        path = tmp_path / f"{name}.zarr"
        tile_process(image, naive.components, write_to=path, sequential_labels=sequential, **options)
        relabel_sequential_zarr(path)
        tables.append((path / "labels" / "objects.parquet").read_bytes())
    assert tables[0] == tables[1]
    # One that is not of these labels any more is left out.
    labels = zarr.open_array(path / "labels")
    labels[labels[...] == 1] = 0
    relabel_sequential_zarr(path)
    assert not (path / "labels" / "objects.parquet").exists()
