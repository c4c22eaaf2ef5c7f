"""Labels written into an OME-Zarr image: a label image with the image's levels, and nothing else is touched."""

import itertools
import json
import os
import shutil
from pathlib import Path

import dask.array as da
import naive
import numpy as np
import pytest
import zarr
from outcomes import assert_same_objects, consolidate, refused, refuses, refuses_labels, snapshot
from scipy import ndimage

from blockbuster import plan_run, read_report, relabel_sequential_zarr, tile_process, zarr_native_merge

UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
KINDS = {"t": "time", "c": "channel"}
REPORT = "blockbuster-report.json"
VERSIONS = {"0.4": 2, "0.5": 3}


def segment(tile):
    return ndimage.label(tile > 0)[0]


def pixels(shape, seed=3):
    noise = np.random.default_rng(seed).random(shape)
    return (ndimage.gaussian_filter(noise, [0] * (len(shape) - 2) + [2, 2]) > 0.5).astype("uint8") * 9


def halved(shape, axes, times):
    return tuple(n if letter in "tc" else -(-n // 2**times) for n, letter in zip(shape, axes, strict=True))


def write_pyramid(path, data, axes, version="0.5", n_levels=3, shrink=halved, factor=2, listed=(), shared=None):
    """An OME-Zarr image whose coarser levels are empty, with scales, units and translations."""
    group = zarr.create_group(path, zarr_format=VERSIONS[version])
    named = [
        {"name": a, "type": KINDS.get(a, "space"), **({"unit": UNITS[a]} if a in UNITS else {})} for a in axes
    ]
    datasets = []
    for number in range(n_levels):
        shape = shrink(data.shape, axes, number)
        options = {
            "shape": shape,
            "dtype": data.dtype,
            "chunks": tuple(min(16 if n < 1000 else 512, n) for n in shape),
        }
        array = group.create_array(f"scale{number}/image", **options)
        if number == 0:
            array[...] = data
        scale = [1.0 if a in "tc" else 0.25 * factor**number * (2 if a == "z" else 1) for a in axes]
        shift = [0.0 if a in "tc" else 0.5 * s for a, s in zip(axes, scale, strict=True)]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        datasets.append({"path": f"scale{number}/image", "coordinateTransformations": steps})
    image = {"name": "cells", "axes": named, "datasets": datasets}
    if shared:
        image["coordinateTransformations"] = shared
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    if listed:
        labels = group.require_group("labels")
        labels.attrs.update({"labels": list(listed)} if version == "0.4" else {"ome": {"labels": list(listed)}})
    return path


def metadata(folder):
    """The OME-NGFF metadata of a group, as they are on disk."""
    v2 = Path(folder, ".zattrs")
    return (
        json.loads(v2.read_text())
        if v2.is_file()
        else json.loads(Path(folder, "zarr.json").read_text())["attributes"]["ome"]
    )


def levels_of(path, name="cells"):
    """The arrays of a label image, as its metadata list them."""
    folder = Path(path, "labels", name)
    return [
        zarr.open_array(folder / part["path"], mode="r")
        for part in metadata(folder)["multiscales"][0]["datasets"]
    ]


def run(path, image=None, **options):
    given = {"tile_shape": (16, 16), "write_to": path, "output_component": "labels/cells", "fn_version": "1"}
    return tile_process(path if image is None else image, segment, **given | options)


@pytest.fixture(params=["0.4", "0.5"])
def version(request):
    return request.param


CASES = [
    ("yx", (61, 50), None),
    ("zyx", (7, 33, 40), None),
    ("cyx", (2, 40, 37), 1),
    ("tczyx", (2, 2, 3, 32, 33), 0),
    ("czyx", (2, 4, 21, 40), None),
]


@pytest.mark.parametrize(("axes", "shape", "channel"), CASES)
def test_a_label_image_has_the_labels_axes_scales_and_levels_of_its_image(
    axes, shape, channel, version, tmp_path
):
    data = pixels(shape)
    path = write_pyramid(tmp_path / "image.zarr", data, axes, version)
    run(path, channel=channel, tile_shape=(3, 16, 16)[-min(3, len(axes) - ("c" in axes)) :])
    kept = [number for number, letter in enumerate(axes) if letter != "c" or channel is None]
    image, labels = (metadata(folder)["multiscales"][0] for folder in (path, path / "labels/cells"))
    assert labels["axes"] == [image["axes"][number] for number in kept]
    for one, other in zip(image["datasets"], labels["datasets"], strict=True):
        for a, b in zip(one["coordinateTransformations"], other["coordinateTransformations"], strict=True):
            assert (a["type"], [a[a["type"]][number] for number in kept]) == (b["type"], b[b["type"]])
    arrays = levels_of(path)
    assert [array.shape for array in arrays] == [
        tuple(halved(shape, axes, number)[i] for i in kept) for number in range(3)
    ]
    assert {array.dtype for array in arrays} == {np.dtype("int32")}
    if version == "0.5":
        assert arrays[1].metadata.dimension_names == tuple(axes[number] for number in kept)
    else:
        assert arrays[0].metadata.dimension_separator == "/"


@pytest.mark.parametrize(("axes", "shape"), [("yx", (61, 50)), ("zyx", (7, 33, 40))])
def test_each_level_shows_what_most_voxels_of_the_one_before_show(axes, shape, version, tmp_path):
    data = pixels(shape)
    path = write_pyramid(tmp_path / "image.zarr", data, axes, version)
    labels = run(path, tile_shape=(3, 16, 16)[-len(shape) :])
    arrays = [array[...] for array in levels_of(path)]
    assert_same_objects(arrays[0], segment(data))
    np.testing.assert_array_equal(labels, arrays[0])
    for fine, coarse in itertools.pairwise(arrays):
        starts = [np.arange(n) * 2 for n in coarse.shape]
        np.testing.assert_array_equal(coarse, naive.vote(fine, starts, (2,) * len(shape)))
    assert arrays[-1].any()


@pytest.mark.parametrize("shape", [(62, 50), (62, 2), (5, 23, 38)])
@pytest.mark.parametrize("factor", [3, 4, 5])
def test_B27_voxels_at_the_edges_of_coarser_levels_vote_once(shape, factor, tmp_path):
    def shrunk(shape, axes, number):
        return tuple(-(-n // factor**number) for n in shape)

    data = (np.random.default_rng(factor).random(shape) < 0.3).astype(np.uint8)
    path = write_pyramid(tmp_path / "image.zarr", data, "zyx"[-len(shape) :], shrink=shrunk, factor=factor)
    run(path, tile_shape=(4, 16, 16)[-len(shape) :])
    for fine, coarse in itertools.pairwise(levels_of(path)):
        starts = [np.arange(n) * factor for n in coarse.shape]
        np.testing.assert_array_equal(coarse[...], naive.vote(fine[...], starts, (factor,) * len(shape)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_levels_that_a_writer_rounded_to_half_are_made_of_pairs_of_voxels(tmp_path):
    from ome_zarr.writer import write_image as write_ome_zarr

    data = pixels((613, 401))
    path = tmp_path / "image.zarr"
    write_ome_zarr(data, zarr.open_group(path, mode="w"), axes="yx", storage_options={"chunks": (64, 64)})
    run(path, tile_shape=(64, 64))
    arrays = levels_of(path)
    assert [array.shape for array in arrays] == [zarr.open_array(path / f"s{n}").shape for n in range(5)]
    for fine, coarse in itertools.pairwise(arrays):
        starts = [np.arange(n) * 2 for n in coarse.shape]
        np.testing.assert_array_equal(coarse[...], naive.vote(fine[...], starts, (2, 2)))


def test_levels_of_any_other_size_are_made_of_the_voxels_that_their_scale_says(version, tmp_path):
    def shrunk(shape, axes, number):
        return tuple(round(n / 2.4**number) for n in shape)

    data = pixels((613, 401))
    path = write_pyramid(tmp_path / "image.zarr", data, "yx", version, shrink=shrunk)
    run(path, tile_shape=(64, 64))
    for fine, coarse in itertools.pairwise(levels_of(path)):
        # The scale of the metadata is 2, which contradicts the shapes.
        middles = [(np.arange(m) + 0.5) * n / m for n, m in zip(fine.shape, coarse.shape, strict=True)]
        starts = [np.floor(middle - 0.5).astype(int) for middle in middles]
        np.testing.assert_array_equal(coarse[...], naive.vote(fine[...], starts, (2, 2)))


def test_large_shards_carry_the_second_level_along_with_the_first(version, tmp_path):
    data = np.zeros((2500, 4200), "uint8")
    data[np.random.default_rng(0).integers(0, 2500, 4000), np.random.default_rng(1).integers(0, 4200, 4000)] = 1
    data = ndimage.binary_dilation(data, iterations=3).astype("uint8")
    path = write_pyramid(tmp_path / "image.zarr", data, "yx", version)
    _, report = run(path, tile_shape=(512, 512), return_report=True)
    first, second, third = (array[...] for array in levels_of(path))
    assert_same_objects(first, segment(data))
    for fine, coarse in ((first, second), (second, third)):
        part = fine[1000:1200, 2000:2100], coarse[500:600, 1000:1050]
        np.testing.assert_array_equal(
            part[1], naive.vote(part[0], [np.arange(n) * 2 for n in part[1].shape], (2, 2))
        )
        # A coarse voxel is one of the four.
        four = [fine[i : 2 * coarse.shape[0] : 2, j : 2 * coarse.shape[1] : 2] for i in (0, 1) for j in (0, 1)]
        assert np.all(np.any([coarse == each for each in four], axis=0))
    # No level was read back.
    assert "pyramid" not in report.seconds


def test_everything_but_the_labels_keeps_its_bytes(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version, listed=["old"])
    shutil.copytree(path / "scale1", path / "labels/old")
    (path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    run(path)
    after = snapshot(tmp_path)
    changed = {name for name in after if after[name] != before.get(name)}
    listing = "image.zarr/labels/.zattrs" if version == "0.4" else "image.zarr/labels/zarr.json"
    assert set(before) <= set(after)
    assert {name for name in changed if not name.startswith("image.zarr/labels/cells")} == {listing}


def test_labels_are_listed_once_and_none_is_lost(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version, listed=["old", "other"])
    run(path)
    run(path, output_component="labels/more")
    run(path, overwrite=True)
    assert metadata(path / "labels")["labels"] == ["old", "other", "cells", "more"]
    if version == "0.5":
        assert metadata(path / "labels")["version"] == "0.5"


def test_a_label_image_says_which_image_it_belongs_to(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version)
    run(path)
    found = metadata(path / "labels/cells")
    assert found["image-label"] == {"version": version, "source": {"image": "../../"}}
    assert os.path.samefile(path / "labels/cells" / found["image-label"]["source"]["image"], path)


def test_transformations_of_all_levels_are_kept(version, tmp_path):
    shared = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    path = write_pyramid(tmp_path / "image.zarr", pixels((2, 40, 50)), "cyx", version, shared=shared)
    run(path, channel=1)
    kept = metadata(path / "labels/cells")["multiscales"][0]["coordinateTransformations"]
    assert kept == [{"type": "scale", "scale": [0.5, 0.5]}]


AFFINE = {"type": "affine", "affine": [[1, 0, 0, 0], [0, 0.8, -0.6, 9], [0, 0.6, 0.8, 9]]}


@pytest.mark.parametrize("component", ["labels/cells", "cells"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_transformation_that_labels_do_not_take_over_is_warned_of(component, resume, version, tmp_path):
    shared = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}, AFFINE]
    path = write_pyramid(tmp_path / "image.zarr", pixels((2, 40, 50)), "cyx", version, shared=shared)
    store = path if component == "labels/cells" else tmp_path / "out.zarr"
    with pytest.warns(UserWarning, match=r"cells will not lie where its image does.*'affine' too") as caught:
        run(path, write_to=store, output_component=component, resume=resume, keep_stage=True)
    assert len(caught) == 1
    kept = (
        metadata(path / component)["multiscales"][0] if store == path else zarr.open_group(store)["cells"].attrs
    )
    assert {"type": "scale", "scale": [0.5, 0.5]} in kept["coordinateTransformations"]
    with pytest.warns(UserWarning, match="'affine' too"):
        zarr_native_merge(f"{store}.{component.replace('/', '.')}.blockbuster-stage", "", path, "labels/again")


def test_an_array_in_memory_is_not_warned_of(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version, shared=[AFFINE])
    tile_process(path, segment)
    run(pixels((40, 50)), write_to=tmp_path / "out.zarr", output_component="labels")


@pytest.mark.parametrize("stated", [0, 1])
def test_levels_whose_scale_is_not_stated_have_that_of_the_shapes(stated, version, tmp_path):
    """Only so are the levels of the labels as long as each other in the world."""
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 64)), "yx", version)
    group = zarr.open_group(path)
    attributes = group.attrs.asdict()
    image = attributes.get("ome", attributes)["multiscales"][0]
    for dataset in image["datasets"][stated:]:
        del dataset["coordinateTransformations"]
    group.attrs.update(attributes)
    run(path)
    size = 0.25 if stated else 1.0
    datasets = metadata(path / "labels/cells")["multiscales"][0]["datasets"]
    scales = [dataset["coordinateTransformations"][0]["scale"] for dataset in datasets]
    assert scales == [[size, size], [2 * size, 2 * size], [4 * size, 4 * size]]


def test_labels_of_a_coarse_level_have_its_scale_and_as_many_levels_as_the_image(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((5, 64, 80)), "zyx", version)
    coarse = zarr.open_array(path / "scale1/image", mode="r+")
    coarse[...] = pixels((3, 32, 40))
    run(path, level=1)
    image, labels = (metadata(folder)["multiscales"][0]["datasets"] for folder in (path, path / "labels/cells"))
    for one, other in zip(image[1:], labels, strict=False):
        assert one["coordinateTransformations"] == other["coordinateTransformations"]
    assert [array.shape for array in levels_of(path)] == [(3, 32, 40), (2, 16, 20), (1, 8, 10)]
    # Half a voxel of a level that is eight times as coarse as the finest one; z has twice the size.
    assert labels[2]["coordinateTransformations"] == [
        {"type": "scale", "scale": [4.0, 2.0, 2.0]},
        {"type": "translation", "translation": [2.0, 1.0, 1.0]},
    ]
    fine, last = levels_of(path)[1:]
    starts = [np.arange(n) * 2 for n in last.shape]
    np.testing.assert_array_equal(last[...], naive.vote(fine[...], starts, (2, 2, 2)))
    assert_same_objects(levels_of(path)[0][...], segment(pixels((3, 32, 40))))


def test_labels_of_an_array_made_from_a_level_find_that_level(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((2, 64, 80)), "cyx", version)
    smooth = pixels((32, 40), seed=8)
    for number, image in enumerate((smooth, da.from_array(smooth, chunks=16))):
        run(path, image=image, output_component=f"labels/cells{number}", axes="yx")
        assert [array.shape for array in levels_of(path, f"cells{number}")] == [(32, 40), (16, 20), (8, 10)]


def test_labels_with_channels_keep_the_channel_axis(version, tmp_path):
    data = pixels((2, 40, 50))
    path = write_pyramid(tmp_path / "image.zarr", data, "cyx", version)
    options = {"tile_shape": (16, 16), "write_to": path, "output_component": "labels/cells", "channel": None}
    planes = ndimage.generate_binary_structure(3, 1)
    planes[[0, 2]] = False
    tile_process(path, lambda tile: ndimage.label(tile, planes)[0], **options)
    assert [array.shape for array in levels_of(path)] == [(2, 40, 50), (2, 20, 25), (2, 10, 13)]
    assert [axis["name"] for axis in metadata(path / "labels/cells")["multiscales"][0]["axes"]] == ["c", "y", "x"]
    for labels, channel in zip(levels_of(path)[0][...], data, strict=True):
        assert_same_objects(labels, segment(channel))


def test_consolidated_metadata_of_all_groups_above_show_the_labels(version, tmp_path):
    collection = tmp_path / "plate.zarr"
    zarr.create_group(collection, zarr_format=VERSIONS[version])
    path = write_pyramid(collection / "A", pixels((40, 50)), "yx", version, listed=["old"])
    for folder in (path / "labels", path, collection):
        consolidate(folder)
    run(path)
    for folder, name in ((path / "labels", "cells"), (path, "labels/cells"), (collection, "A/labels/cells")):
        group = zarr.open_group(folder, mode="r", use_consolidated=True)
        assert group[f"{name}/0"].shape == (40, 50)
    listed = zarr.open_group(collection, mode="r", use_consolidated=True)["A/labels"].attrs.asdict()
    assert listed.get("ome", listed)["labels"] == ["old", "cells"]


def test_where_nothing_was_consolidated_nothing_is(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version)
    run(path)
    assert not list(tmp_path.rglob(".zmetadata"))
    assert not any("consolidated" in file.read_text() for file in tmp_path.rglob("zarr.json"))


def test_the_report_lies_with_the_labels(tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx")
    _, report = run(path, return_report=True)
    kept = read_report(path, "labels/cells")
    assert kept.n_objects == report.n_objects == ndimage.label(pixels((40, 50)))[1]
    assert kept.labels_path == report.labels_path == str(path / "labels/cells/0")


def test_the_plan_says_what_would_be_written(tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx")
    before = snapshot(tmp_path)
    plan = plan_run(path, write_to=path, output_component="labels/cells")
    assert f"{path}/labels/cells, 8 kB, and 2 coarser levels of a label image, 10.5 kB in all" in str(plan)
    assert plan.output_bytes == 4 * (40 * 50 + 20 * 25 + 10 * 13)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_the_bytes_do_not_depend_on_the_scheduler(scheduler, version, tmp_path, workers):
    trees = []
    for name, given in (("one", "threads"), ("other", scheduler)):
        path = write_pyramid(tmp_path / name / "image.zarr", pixels((61, 50)), "yx", version)
        with workers(given):
            run(path, tiles_per_task=3 if given == "threads" else 1)
        trees.append({key: what for key, what in snapshot(path).items() if not key.endswith(REPORT)})
    assert trees[0] == trees[1]


def test_an_existing_label_image_is_an_error_unless_it_is_to_be_replaced(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version)
    run(path)
    refuses_labels(FileExistsError, "labels/cells exists; pass overwrite=True", path=path)
    run(path, tile_shape=(8, 8), merge="none", overwrite=True)
    assert read_report(path, "labels/cells").n_tiles == 35
    assert sorted(os.listdir(tmp_path)) == ["image.zarr"]


def test_a_finished_label_image_is_returned_at_once(tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx")
    first = np.asarray(run(path, resume=True))
    before = snapshot(tmp_path)
    np.testing.assert_array_equal(run(path, resume=True), first)
    assert snapshot(tmp_path) == before


def test_a_group_that_is_no_label_image_is_left_alone(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", version)
    zarr.open_group(path, mode="r+").require_group("labels/cells").create_array("mine", data=np.arange(3))
    refuses_labels(FileExistsError, "labels/cells exists and is not a label image", path=path, overwrite=True)


@pytest.mark.parametrize("name", ["cells", "labels", "labels/a/b", "other/cells"])
def test_other_names_inside_an_image_are_refused(name, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx")
    refuses(ValueError, "labels/NAME", image=path, folder=tmp_path, write_to=path, output_component=name)


def test_an_image_that_fits_no_level_is_refused(tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx")
    refuses_labels(
        ValueError,
        r"\(40, 51\), and no level of .* has it: \(40, 50\), \(20, 25\), \(10, 13\)",
        path=path,
        image=pixels((40, 51)),
    )


@pytest.mark.parametrize("stated", ["0.1", "0.2", "0.3"])
def test_older_versions_are_refused(stated, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx", "0.4")
    group = zarr.open_group(path, mode="r+")
    image = group.attrs["multiscales"][0]
    axes = {"axes": ["y", "x"]} if stated == "0.3" else {}
    group.attrs["multiscales"] = [{"version": stated, "datasets": image["datasets"], **axes}]
    refuses_labels(ValueError, "version (0.3|before 0.3); label images are written for 0.4 and 0.5", path=path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_array_of_its_own_takes_the_axes_and_scale_of_the_image(version, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((2, 40, 50)), "cyx", version)
    run(path, channel=1, level=0, write_to=tmp_path / "labels.zarr", output_component="labels")
    labels = zarr.open_array(tmp_path / "labels.zarr/labels", mode="r")
    assert labels.metadata.dimension_names == ("y", "x")
    assert labels.attrs.asdict() == {
        "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"],
        "coordinateTransformations": [
            {"type": "scale", "scale": [0.25, 0.25]},
            {"type": "translation", "translation": [0.125, 0.125]},
        ],
    }
    run(pixels((40, 50)), write_to=tmp_path / "plain.zarr", output_component="labels")
    assert zarr.open_array(tmp_path / "plain.zarr/labels", mode="r").attrs.asdict() == {}


@pytest.mark.parametrize("fault", ["scale", "level"])
def test_metadata_that_labels_alone_need_are_no_fault_of_a_run_that_writes_none(fault, tmp_path):
    """A scale of too few numbers, a coarser level that is not there."""
    data = pixels((40, 50))
    path = write_pyramid(tmp_path / "image.zarr", data, "yx", n_levels=2)
    group = zarr.open_group(path, mode="r+")
    stated = group.attrs["ome"]
    if fault == "scale":
        stated["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] = [1.0]
        group.attrs["ome"] = stated
    else:
        del group["scale1/image"]
    assert_same_objects(tile_process(path, segment, tile_shape=(16, 16)), segment(data))
    assert plan_run(path, tile_shape=(16, 16)).geometry is None
    place = {"write_to": tmp_path / "labels.zarr", "tile_shape": (16, 16)}
    refuses(ValueError, "image.zarr: .*give the path of one level", image=path, folder=tmp_path, **place)
    assert_same_objects(tile_process(path / "scale0/image", segment, **place), segment(data))


def test_levels_whose_paths_begin_with_a_dot_are_those_without_it(version, tmp_path):
    data = pixels((40, 50))
    path = write_pyramid(tmp_path / "image.zarr", data, "yx", version)
    group = zarr.open_group(path, mode="r+")
    stated = group.attrs.asdict()
    for dataset in stated.get("ome", stated)["multiscales"][0]["datasets"]:
        dataset["path"] = f"./{dataset['path']}"
    group.attrs.update(stated)
    run(path)
    assert_same_objects(levels_of(path)[0][...], segment(data))


def test_a_label_image_with_an_empty_place_for_newer_metadata_is_replaced(tmp_path):
    data = pixels((40, 50))
    path = write_pyramid(tmp_path / "image.zarr", data, "yx", "0.4")
    run(path)
    zarr.open_group(path / "labels/cells", mode="r+").attrs["ome"] = None
    run(path, overwrite=True)
    assert_same_objects(levels_of(path)[0][...], segment(data))


def test_staged_labels_can_be_merged_into_a_label_image(version, tmp_path):
    data = pixels((64, 48))
    path = write_pyramid(tmp_path / "image.zarr", data, "yx", version)
    run(path, write_to=tmp_path / "out.zarr", output_component="labels", keep_stage=True)
    zarr_native_merge(tmp_path / "out.zarr.labels.blockbuster-stage", "", path, "labels/own")
    staged = zarr.create_group(tmp_path / "foreign.zarr").create_array("parts", data=data, chunks=(16, 16))
    for row, column in np.ndindex(4, 3):
        box = np.s_[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        staged[box] = segment(data[box])
    zarr_native_merge(tmp_path / "foreign.zarr", "parts", path, "labels/foreign")
    for name in ("own", "foreign"):
        assert_same_objects(levels_of(path, name)[0][...], segment(data))
        assert [array.shape for array in levels_of(path, name)] == [(64, 48), (32, 24), (16, 12)]
    assert metadata(path / "labels")["labels"] == ["own", "foreign"]


@pytest.mark.parametrize("component", ["labels/cells", "labels/cells/0"])
def test_a_label_image_is_not_renumbered_at_one_level_alone(component, tmp_path):
    path = write_pyramid(tmp_path / "image.zarr", pixels((40, 50)), "yx")
    run(path)
    with refused(ValueError, "is a label image, whose levels must fit each other", folder=tmp_path):
        relabel_sequential_zarr(path, component)


FAIL_POINT = "BLOCKBUSTER_FAIL_POINT"


@pytest.mark.slow
def test_F5_a_label_image_that_is_killed_at_any_point_is_finished_by_the_next_call(zygote, version, tmp_path):
    data = pixels((2100, 4200))
    model = write_pyramid(tmp_path / "model.zarr", data, "yx", version, listed=["old"])
    options = {"tile_shape": (512, 512), "resume": True}

    def copy(name):
        (tmp_path / name).mkdir()
        return shutil.copytree(model, tmp_path / name / "image.zarr")

    def result(path):
        return {name: what for name, what in snapshot(path.parent).items() if not name.endswith(REPORT)}

    points = copy("points")
    zygote.run(run, points, environment={FAIL_POINT: f"list:{tmp_path / 'points.txt'}"}, **options)
    reached = (tmp_path / "points.txt").read_text().split("\n")[:-1]
    after = reached.index("seams matched")
    chosen = [f"{name}:{reached[: i + 1].count(name)}" for i, name in enumerate(reached) if i >= after]
    assert len([point for point in chosen if point.startswith("box written")]) >= 3
    clean = result(points)
    for number, point in enumerate(chosen[:: max(1, len(chosen) // 5)]):
        path = copy(f"killed{number}")
        assert zygote.run(run, path, environment={FAIL_POINT: point}, **options).killed, point
        zygote.run(run, path, **options).result()
        assert result(path) == clean, point
