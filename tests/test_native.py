"""Merging and renumbering label arrays that are stored already."""

import hashlib
import itertools
import os

import naive
import numpy as np
import pytest
import zarr
from interrupted import contents
from outcomes import Counted, blobs, refused
from scipy import ndimage

from blockbuster import read_report, relabel_sequential_zarr, tile_process, zarr_native_merge


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


@pytest.mark.parametrize(("merge", "connectivity"), [("agree", 2), ("none", 1)])
def test_a_kept_stage_is_merged_as_its_run_was(tmp_path, merge, connectivity):
    """Labels of two tiles that have little to do with each other, so that some agree and some do not."""
    soup = np.random.default_rng(4).integers(0, 4, (60, 50))
    options = {"tile_shape": (20, 20), "overlap": 4, "merge": merge, "min_agreement": 0.5}
    labels = tile_process(soup, _shifted, **options, write_to=tmp_path / "a.zarr", keep_stage=True, compute=True)
    (kept,) = tmp_path.glob("*.blockbuster-stage")
    n = zarr_native_merge(kept, "labels", tmp_path / "b.zarr", "labels", connectivity=connectivity)
    assert n == len(np.unique(labels)) - 1
    assert np.array_equal(zarr.open_array(tmp_path / "b.zarr" / "labels", mode="r")[...], labels)


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
