"""Paths of every spelling, and paths that must not be written to (B18, F8, F14, F15, F17)."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import dask
import fsspec
import pytest
import zarr
from naive import components, label
from outcomes import assert_same_objects, blobs, consolidate, refuses, snapshot, write_image

from blockbuster import TileError, plan_run, tile_process
from blockbuster.rundir.folder import MANIFEST

IMAGE = blobs((25, 33))
EXPECTED = label(IMAGE)
TILES = {"tile_shape": (10, 10), "overlap": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory of the test; home and temporary files are elsewhere, and watched as well."""
    for name, variable in (("home", "HOME"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def stored(path, component="labels"):
    # A Path, since zarr takes # and ? in text for parts of a URL.
    return zarr.open_array(Path(path, component), mode="r")[...]


def refuses_path(folder, kind, *parts, image=IMAGE, **options):
    refuses(kind, *parts, image=image, folder=folder.parent, **TILES, **options)


NAMES = [
    "with space.zarr",
    "größe 細胞.zarr",
    "a#b.zarr",
    "a?b.zarr",
    "50%20.zarr",
    "a&b;c'd.zarr",
    "a::b.zarr",
    "{x}[0].zarr",
    "-o",
]


@pytest.mark.parametrize("name", NAMES)
def test_B18_any_name_is_an_output_an_input_and_a_stage(folder, name):
    (folder / name).mkdir()
    image = write_image(folder / name / f"in {name}", IMAGE)
    options = {"write_to": folder / name / f"out {name}", "stage_dir": folder / f"stage {name}"}
    labels = tile_process(str(image), components, **TILES, **options)
    assert_same_objects(labels, EXPECTED)
    assert_same_objects(stored(folder / name / f"out {name}"), EXPECTED)
    assert sorted(os.listdir(folder / name)) == [f"in {name}", f"out {name}"]
    assert os.listdir(folder) == [name]


@pytest.mark.parametrize("component", ["labels", "a/b/labels", "größe #1", "a.b", "c", "0"])
def test_B18_components_may_be_nested_and_have_any_name(folder, component):
    tile_process(IMAGE, components, write_to="out.zarr", output_component=component, **TILES)
    group = zarr.open_group("out.zarr", mode="r")
    assert_same_objects(group[component][...], EXPECTED)
    assert os.listdir() == ["out.zarr"]
    assert component.split("/")[0] in dict(group.members())


@pytest.mark.parametrize(
    "component",
    ["", ".", "..", "/", "/abs", "a//b", "a/", "a/../b", "./a", "a/.", "..\\a", "__hidden", "nul\0"]
    + ["zarr.json", "a/zarr.json", ".zarray", ".zgroup", "a/.zattrs"],
)
def test_B18_names_that_are_no_component_are_refused(folder, component):
    for write_to in (None, "out.zarr"):
        refuses_path(
            folder,
            ValueError,
            "output_component is",
            "name of an array",
            output_component=component,
            write_to=write_to,
        )


@pytest.mark.parametrize("component", [None, 3, b"labels", Path("labels"), ["labels"]])
def test_B18_a_component_that_is_no_text_is_refused(folder, component):
    refuses_path(folder, TypeError, "output_component is", "name of an array", output_component=component)


@pytest.mark.parametrize(
    "spell",
    [
        lambda path: str(path),
        lambda path: path,
        lambda path: f"{path}/",
        lambda path: f"{path}///",
        lambda path: os.path.relpath(path),
        lambda path: f"./{os.path.relpath(path)}",
        lambda path: Path(os.path.relpath(path)),
        lambda path: f"../{path.parent.name}/{path.name}",
    ],
)
def test_B18_one_path_may_be_spelled_in_many_ways(folder, spell):
    image = write_image(folder / "image.zarr", IMAGE)
    labels = tile_process(spell(image), components, write_to=spell(folder / "out.zarr"), **TILES)
    assert_same_objects(labels, EXPECTED)
    assert sorted(os.listdir(folder)) == ["image.zarr", "out.zarr"]
    refuses_path(
        folder, FileExistsError, "out.zarr/labels exists", image=spell(image), write_to=spell(folder / "out.zarr")
    )


def test_B18_a_tilde_is_the_home_folder(folder):
    home = folder.parent / "home"
    write_image(home / "image.zarr", IMAGE)
    tile_process("~/image.zarr", components, write_to="~/out.zarr", stage_dir="~/stage", keep_stage=True, **TILES)
    assert_same_objects(stored(home / "out.zarr"), EXPECTED)
    assert sorted(os.listdir(home)) == ["image.zarr", "out.zarr", "stage"]
    assert os.listdir(folder) == []


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_B18_relative_paths_hold_while_fn_changes_the_directory(folder, scheduler):
    write_image("image.zarr", IMAGE)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()

    def wandering(tile):
        os.chdir(elsewhere)
        return components(tile)

    with dask.config.set(scheduler=scheduler):
        labels = tile_process("image.zarr", wandering, write_to="out.zarr", stage_dir="stage", **TILES)
    assert os.getcwd() == str(elsewhere)
    assert_same_objects(labels, EXPECTED)
    assert os.listdir(elsewhere) == []
    assert sorted(os.listdir(folder)) == ["image.zarr", "out.zarr"]


def test_B18_a_zarr_array_of_a_relative_path_holds_while_fn_changes_the_directory(folder):
    write_image("image.zarr", IMAGE)
    image = zarr.open_array("image.zarr", mode="r")

    def wandering(tile):
        os.chdir(folder.parent)
        return components(tile)

    assert_same_objects(tile_process(image, wandering, **TILES), EXPECTED)


@pytest.mark.parametrize(
    "url",
    ["file:///tmp/labels.zarr", "memory://labels.zarr", "s3://bucket/labels.zarr", "https://host/labels.zarr"],
)
def test_B18_an_output_or_stage_url_is_refused_with_the_reason(folder, url):
    for name in ("write_to", "stage_dir"):
        refuses_path(folder, ValueError, f"{name} is '{url}'", "path on a file system, not a URL", **{name: url})


def test_B18_an_image_may_be_a_file_url_or_lie_in_memory(folder):
    write_image(folder / "my image.zarr", IMAGE)
    for url in (f"file://{folder}/my image.zarr", (folder / "my image.zarr").as_uri()):
        assert_same_objects(tile_process(url, components, **TILES), EXPECTED)
    write_image("memory://test-paths/image.zarr", IMAGE)
    try:
        labels = tile_process("memory://test-paths/image.zarr", components, write_to="out.zarr", **TILES)
        assert_same_objects(labels, EXPECTED)
    finally:
        fsspec.filesystem("memory").rm("/test-paths", recursive=True)


@pytest.mark.parametrize("path", ["", 3, b"out.zarr", ["out.zarr"], True, object()])
@pytest.mark.parametrize("name", ["write_to", "stage_dir"])
def test_B18_what_is_no_path_is_refused(folder, name, path):
    refuses_path(folder, TypeError, f"{name} is ", "a path on the file system", **{name: path})


@pytest.mark.parametrize("name", ["write_to", "stage_dir"])
def test_B18_a_path_with_a_null_character_is_refused(folder, name):
    refuses_path(folder, ValueError, f"{name} is ", "a path on the file system", **{name: "out\0.zarr"})


def test_B18_names_that_are_too_long_for_the_file_system_are_refused(folder):
    refuses_path(folder, ValueError, "longer than the 255 bytes", write_to="x" * 240)
    refuses_path(folder, ValueError, "longer than the 255 bytes", write_to="out.zarr", output_component="ß" * 130)


# What lies at the path of the stage or of the output under construction, and is not ours.
def occupy_with_a_file(path):
    path.write_text("somebody else's")


def occupy_with_files(path):
    path.mkdir()
    (path / "thesis.txt").write_text("somebody else's")


def occupy_with_a_link(path):
    target = path.parent.parent / "elsewhere"
    target.mkdir()
    (target / MANIFEST).write_text('{"kind": "blockbuster-stage"}')
    (target / "blockbuster-partial").write_text("out.zarr/labels")
    path.symlink_to(target)


def occupy_with_a_dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


def occupy_with_a_manifest(path):
    path.mkdir()
    (path / MANIFEST).write_text('{"name": "my-web-app"}')
    (path / "blockbuster-partial").write_text("of something else")


OCCUPATIONS = [
    occupy_with_a_file,
    occupy_with_files,
    occupy_with_a_link,
    occupy_with_a_dangling_link,
    occupy_with_a_manifest,
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("occupy", OCCUPATIONS)
@pytest.mark.parametrize("suffix", ["stage", "partial"])
def test_F14_what_is_in_the_way_and_not_ours_is_refused_and_left_alone(folder, suffix, occupy, overwrite):
    path = folder / f"out.zarr.labels.blockbuster-{suffix}"
    occupy(path)
    refuses_path(
        folder,
        FileExistsError,
        f"{path} is in the way and not from blockbuster; move it elsewhere",
        write_to="out.zarr",
        overwrite=overwrite,
    )


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("suffix", ["stage", "partial"])
def test_F30_an_empty_folder_of_our_name_is_no_obstacle_and_goes(folder, suffix, options):
    (folder / f"out.zarr.labels.blockbuster-{suffix}").mkdir()
    tile_process(IMAGE, components, write_to="out.zarr", fn_version="1", **options)
    assert os.listdir(folder) == ["out.zarr"]
    (folder / f"out.zarr.labels.blockbuster-{suffix}").mkdir()
    tile_process(IMAGE, components, write_to="out.zarr", fn_version="1", **(options or {"resume": True}))
    assert os.listdir(folder) == ["out.zarr"]


@pytest.mark.parametrize("occupy", OCCUPATIONS)
def test_F14_what_is_in_the_way_in_the_stage_folder_is_refused_and_left_alone(folder, occupy):
    (folder / "scratch").mkdir()
    stage = Path(plan_run(IMAGE, write_to="out.zarr", stage_dir="scratch").stage_path)
    assert stage.parent == folder / "scratch"
    occupy(stage)
    parts = (f"{stage} is in the way and not from blockbuster",)
    refuses_path(folder, FileExistsError, *parts, write_to="out.zarr", stage_dir="scratch", overwrite=True)


def test_F14_files_of_others_beside_the_output_and_in_the_stage_folder_stay(folder):
    (folder / "scratch").mkdir()
    for name in ("out.zarr.labels", "out.zarr.blockbuster-stage", "scratch/notes.txt", "scratch/out.zarr"):
        (folder / name).write_text("somebody else's")
    before = snapshot(folder)
    tile_process(IMAGE, components, write_to="out.zarr", stage_dir="scratch", **TILES)
    after = snapshot(folder)
    assert before.items() <= after.items()
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"out.zarr"}


def test_F14_a_stage_of_a_failed_run_is_refused_and_replaced_when_asked(folder):
    def failing(tile):
        if tile.shape == (7, 5):
            raise RuntimeError
        return components(tile)

    with pytest.raises(TileError), dask.config.set(scheduler="synchronous"):
        tile_process(IMAGE, failing, write_to="out.zarr", tiles_per_task=1, **TILES)
    parts = ("blockbuster-stage holds finished work", "resume=True", "overwrite=True")
    refuses_path(folder, FileExistsError, *parts, write_to="out.zarr", tiles_per_task=1)
    tile_process(IMAGE, components, write_to="out.zarr", overwrite=True, **TILES)
    assert_same_objects(stored("out.zarr"), EXPECTED)
    assert os.listdir(folder) == ["out.zarr"]


@pytest.mark.parametrize("name", ["thesis.txt", "labels.txt", "sidecars.zip", ".hidden", "chapters/one.txt"])
def test_F14_what_somebody_put_into_a_stage_outlives_its_removal(folder, name):
    """The stage of a failed run is replaced when asked, and what is not from blockbuster is not."""
    stage = folder / "out.zarr.labels.blockbuster-stage"
    with pytest.raises(TileError), dask.config.set(scheduler="synchronous"):
        tile_process(IMAGE, lambda tile: None, write_to="out.zarr", **TILES)
    (stage / name).parent.mkdir(exist_ok=True)
    (stage / name).write_text("somebody else's")
    with warnings.catch_warnings(), contextlib.suppress(FileExistsError):
        warnings.filterwarnings("ignore", ".*what blockbuster did not make")
        tile_process(IMAGE, components, write_to="out.zarr", overwrite=True, **TILES)
    assert (stage / name).read_text() == "somebody else's"
    assert set(os.listdir(folder)) <= {stage.name, "out.zarr"}


def make_link(folder, target):
    (folder / "link").symlink_to(folder / target)
    return "link"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["folder", "out.zarr", "image.zarr", "file", "nowhere"])
def test_F15_a_symbolic_link_is_refused_and_the_real_path_named(folder, target, overwrite):
    (folder / "folder").mkdir()
    (folder / "file").write_text("text")
    tile_process(IMAGE, components, write_to="out.zarr", **TILES)
    image = write_image(folder / "image.zarr", IMAGE)
    link = make_link(folder, target)
    for name, path in (("write_to", link), ("write_to", f"{link}/"), ("stage_dir", link)):
        refuses_path(
            folder,
            ValueError,
            f"{name}: .*link is a symbolic link",
            f"give {folder / target} itself",
            image=image,
            **{name: path, "overwrite": overwrite},
        )


def test_F15_a_link_above_the_output_is_followed(folder):
    (folder / "data").mkdir()
    make_link(folder, "data")
    image = write_image(folder / "data" / "image.zarr", IMAGE)
    labels = tile_process("link/image.zarr", components, write_to="link/out.zarr", **TILES)
    assert_same_objects(labels, EXPECTED)
    assert sorted(os.listdir(folder / "data")) == ["image.zarr", "out.zarr"]
    refuses_path(
        folder, ValueError, "is the image itself|lies in the image", image=image, write_to="link/image.zarr"
    )


def test_F15_dots_behind_a_link_lead_where_they_do_for_the_system(folder):
    (folder / "far" / "data").mkdir(parents=True)
    make_link(folder, "far/data")
    write_image(folder / "far" / "image.zarr", IMAGE)
    tile_process("link/../image.zarr", components, write_to="link/../out.zarr", stage_dir="link/..", **TILES)
    assert sorted(os.listdir("link/..")) == ["data", "image.zarr", "out.zarr"]
    refuses_path(folder, FileExistsError, "far is not a zarr group", write_to="link/..")


def test_F15_a_broken_link_above_the_output_is_refused(folder):
    make_link(folder, "nowhere")
    for name in ("write_to", "stage_dir"):
        refuses_path(folder, NotADirectoryError, f"{name}: .*link is not a folder", **{name: "link/out.zarr"})


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("component", ["link", "link/labels", "group/link"])
def test_F15_a_link_inside_the_group_is_refused_and_left_alone(folder, component, overwrite):
    group = zarr.create_group("out.zarr")
    group.create_group("group")
    others = zarr.create_group("others.zarr")
    others.create_array("labels", data=IMAGE)
    for place in ("out.zarr", "out.zarr/group"):
        target = "others.zarr" if component == "link/labels" else "others.zarr/labels"
        (folder / place / "link").symlink_to(folder / target)
    refuses_path(
        folder,
        FileExistsError,
        "output_component: .*link is a symbolic link and is left alone",
        write_to="out.zarr",
        output_component=component,
        overwrite=overwrite,
    )


@pytest.mark.parametrize("path", [".", "./", "..", "/", "~", "~/", "//"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_F15_folders_that_are_not_for_labels_alone_are_refused(folder, path, overwrite):
    kind = FileExistsError if path == ".." else ValueError
    rule = "not a zarr group and is left alone" if path == ".." else "name of their own"
    refuses_path(folder, kind, "write_to", rule, write_to=path, overwrite=overwrite)


@pytest.mark.parametrize("where", ["work", "home"])
def test_F15_the_working_and_the_home_folder_are_refused_by_any_name_even_if_they_are_zarr(folder, where):
    own = folder.parent / where
    zarr.create_group(own)
    (folder.parent / "parent").symlink_to(folder.parent)
    for path in (own, folder.parent / "parent" / where):
        refuses_path(folder, ValueError, "write_to", "name of their own", write_to=path)


def test_F15_a_mount_point_is_refused(folder):
    mount = next((path for path in ("/proc", "/dev/shm", "/sys") if os.path.ismount(path)), None)
    if mount is None:
        pytest.skip("no mount point to try")
    refuses_path(folder, ValueError, "write_to", "name of their own", write_to=mount)


@pytest.mark.parametrize("stage_dir", [".", "..", "~", "../work/", "/dev/shm"])
def test_F15_a_stage_folder_may_be_any_and_is_left_as_it_was(folder, stage_dir):
    """What the run makes there has a name of its own, even in a mount point."""
    where = Path(stage_dir).expanduser()
    if not where.is_dir():
        pytest.skip(f"this system has no {stage_dir}")
    (folder / "notes.txt").write_text("somebody else's")
    before = snapshot(folder.parent)
    options = {"write_to": folder / "out.zarr", "stage_dir": stage_dir, **TILES}
    assert_same_objects(tile_process(IMAGE, components, compute=True, **options), EXPECTED)
    # Others may run there at the same time; this run's names begin with its output's, and a hash of its path.
    own = Path(plan_run(IMAGE, overwrite=True, **options).stage_path).name.removesuffix("blockbuster-stage")
    assert not [name for name in os.listdir(where) if name.startswith(own)]
    shutil.rmtree(folder / "out.zarr")
    assert snapshot(folder.parent) == before


def ome_image(folder):
    return write_image(folder / "image.zarr", IMAGE, "yx", levels=("0", "1"))


def plain_array(folder):
    return write_image(folder / "image.zarr", IMAGE)


def array_in_a_group(folder):
    zarr.create_group(folder / "image.zarr").create_group("raw")
    return write_image(folder / "image.zarr" / "raw" / "0", IMAGE)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("given_as", [str, zarr.open_array])
@pytest.mark.parametrize(
    ("make", "write_to", "component", "what"),
    [
        (plain_array, "image.zarr", "labels", "lies in the image"),
        (plain_array, "image.zarr", "c", "lies in the image"),
        (plain_array, "image.zarr/labels", "labels", "lies in the image"),
        (plain_array, "image.zarr/c/0", "labels", "lies in the image"),
        (array_in_a_group, "image.zarr/raw", "0", "is the image itself"),
        (array_in_a_group, "image.zarr", "raw/0", "is the image itself"),
        (array_in_a_group, "image.zarr", "raw", "holds the image"),
        (array_in_a_group, "image.zarr", "raw/0/labels", "lies in the image"),
        (array_in_a_group, "image.zarr/raw/0", "labels", "lies in the image"),
    ],
)
def test_F17_an_output_that_is_in_or_around_the_input_is_refused(
    folder, make, write_to, component, what, given_as, overwrite
):
    image = given_as(str(make(folder)))
    refuses_path(
        folder,
        ValueError,
        "write_to",
        what,
        "give another path",
        image=image,
        write_to=write_to,
        output_component=component,
        overwrite=overwrite,
    )


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("write_to", "component", "what"),
    [
        ("image.zarr", "labels", "is an OME-Zarr image; labels inside it are named"),
        ("image.zarr", "0", "is an OME-Zarr image; labels inside it are named"),
        ("image.zarr", "cells", "is an OME-Zarr image; labels inside it are named"),
        ("image.zarr/labels", "cells", "lies in the image"),
        ("image.zarr/new", "cells", "lies in the image"),
        ("image.zarr/0", "labels", "lies in the image"),
        (".", "image.zarr", "name of their own"),
        ("../work", "image.zarr", "name of their own"),
    ],
)
def test_F17_an_ome_zarr_image_takes_no_output_but_labels(folder, write_to, component, what, overwrite):
    refuses_path(
        folder,
        ValueError,
        what,
        image=ome_image(folder),
        write_to=write_to,
        output_component=component,
        overwrite=overwrite,
    )


def test_F17_an_ome_zarr_image_that_is_not_the_input_takes_no_output_but_labels_either(folder):
    ome_image(folder)
    refuses_path(
        folder, ValueError, "is an OME-Zarr image", "output_component='labels/NAME'", write_to="image.zarr"
    )
    for path in ("image.zarr/new", "image.zarr/labels/cells", "image.zarr/0"):
        refuses_path(folder, ValueError, "write_to", "lies in the OME-Zarr image", write_to=path)
    refuses_path(folder, ValueError, "write_to", "lies in the zarr array", write_to="image.zarr/0/c")


def test_F17_a_level_given_by_its_path_does_not_open_the_image_around_it(folder):
    ome_image(folder)
    refuses_path(folder, ValueError, "OME-Zarr image", image="image.zarr/0", write_to="image.zarr")
    refuses_path(folder, ValueError, "OME-Zarr image", image="image.zarr/0", write_to="image.zarr/cells")


def test_F17_a_group_that_merely_holds_an_image_takes_an_output_beside_it(folder):
    zarr.create_group("study.zarr")
    image = write_image("study.zarr/image", IMAGE, "yx")
    consolidate("study.zarr")
    before = snapshot(image)
    tile_process(image, components, write_to="study.zarr", **TILES)
    assert_same_objects(stored("study.zarr"), EXPECTED)
    assert snapshot(image) == before
    assert sorted(os.listdir()) == ["study.zarr"]


def test_F17_the_name_of_the_input_may_begin_the_name_of_the_output(folder):
    image = plain_array(folder)
    before = snapshot(image)
    tile_process(image, components, write_to="image.zarr2", **TILES)
    tile_process(image, components, write_to="image", **TILES)
    assert snapshot(image) == before
    assert sorted(os.listdir()) == ["image", "image.zarr", "image.zarr2"]


@pytest.mark.parametrize(
    ("stage_dir", "what"),
    [
        ("image.zarr", "lies in the image"),
        ("image.zarr/c", "lies in the image"),
        ("image.zarr/scratch/new", "lies in the image"),
        ("out.zarr", "is the output or lies in it"),
        ("out.zarr/scratch", "is the output or lies in it"),
        ("others.zarr", "lies in the zarr group"),
        ("others.zarr/labels/scratch", "lies in the zarr array"),
    ],
)
def test_F17_a_stage_inside_the_input_the_output_or_another_store_is_refused(folder, stage_dir, what):
    zarr.create_group("others.zarr").create_array("labels", data=IMAGE)
    image = plain_array(folder)
    refuses_path(folder, ValueError, "stage_dir: ", what, image=image, write_to="out.zarr", stage_dir=stage_dir)


def test_a_stage_folder_is_made_and_removed_again(folder):
    (folder / "there").mkdir()
    for stage_dir in ("there", "new", "there/new/newer"):
        tile_process(IMAGE, components, stage_dir=stage_dir, **TILES)
        assert snapshot(folder) == {"there": "folder"}
    tile_process(IMAGE, components, stage_dir="kept/here", keep_stage=True, **TILES)
    assert len(os.listdir(folder / "kept" / "here")) == 1


def test_the_stage_lies_beside_the_output_else_beside_the_store_of_the_input(folder):
    image = array_in_a_group(folder)
    (folder / "far").mkdir()
    assert plan_run(image, write_to="far/out.zarr").stage_parent == str(folder / "far")
    assert plan_run(image, stage_dir="far/scratch").stage_parent == str(folder / "far" / "scratch")
    assert plan_run(image).stage_parent == str(folder)
    assert plan_run(zarr.open_array(image, mode="r")).stage_parent == str(folder)
    assert plan_run(IMAGE).stage_parent == tempfile.gettempdir()


def test_a_run_on_a_stored_image_leaves_nothing_beside_it(folder):
    image = array_in_a_group(folder)
    before = snapshot(folder.parent)

    def looking(tile):
        assert [name for name in os.listdir(folder) if name.endswith(".blockbuster-stage")]
        return components(tile)

    tile_process(image, looking, **TILES)
    assert snapshot(folder.parent) == before


@pytest.mark.parametrize("name", ["write_to", "stage_dir"])
def test_F14_a_path_below_a_file_is_refused(folder, name):
    (folder / "file").write_text("text")
    refuses_path(folder, NotADirectoryError, f"{name}: .*file is not a folder", **{name: "file/below/out.zarr"})


UNWRITABLE = """
import os, sys, tempfile
import numpy as np
from blockbuster import TileError, plan_run, tile_process

def fn(tile):
    raise AssertionError("fn ran")

def attempt(**options):
    try:
        tile_process(np.ones((20, 20), "uint8"), fn, **options)
    except (PermissionError, ValueError) as error:
        print(type(error).__name__, error)

plan_run("free/image.zarr", write_to="free/out.zarr")
if len(sys.argv) > 1:
    # Not earlier, since the interpreter may lie where only this user can read.
    os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
attempt(write_to="locked/out.zarr")
attempt(write_to="locked/new/out.zarr")
attempt(stage_dir="locked")
attempt(stage_dir="locked/new")
attempt(write_to="free/out.zarr", stage_dir="locked")
attempt(write_to="free/group.zarr", output_component="locked/labels")
attempt(write_to="free/locked.zarr")
attempt(write_to="free/locked.zarr", output_component="group/labels")
print(plan_run("locked/image.zarr").stage_parent)
print(plan_run("free/image.zarr").stage_parent)
"""


def run_attempts(folder, *user, before=()):
    """Run them in a process of its own, and give its lines."""
    environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder / "temporary")}
    command = [*before, sys.executable, "-W", "error", "-c", UNWRITABLE, *user]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def expected_lines(folder, of_store):
    locked, group = folder / "locked", folder / "free" / "group.zarr" / "locked"
    return [
        f"PermissionError write_to: {locked} is not writable; give another path.",
        f"PermissionError write_to: {locked} is not writable; give another path.",
        f"PermissionError stage_dir: {locked} is not writable; give another path.",
        f"PermissionError stage_dir: {locked} is not writable; give another path.",
        f"PermissionError stage_dir: {locked} is not writable; give another path.",
        f"PermissionError write_to: {group} is not writable; give another path.",
        of_store,
        of_store,
        str(folder / "temporary"),
        str(folder / "free"),
    ]


LOCKED = ("locked", "free/group.zarr/locked", "free/locked.zarr")


@pytest.fixture
def unwritable():
    """A folder that another user can enter, unlike pytest's, with parts that this user cannot write to."""
    folder = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    folder.chmod(0o755)
    for name in ("free", "locked", "temporary"):
        (folder / name).mkdir()
        write_image(folder / name / "image.zarr", IMAGE)
    zarr.create_group(folder / "free" / "locked.zarr")
    zarr.create_group(folder / "free" / "group.zarr").create_group("locked")
    yield folder
    for path in LOCKED:
        (folder / path).chmod(0o755)
    shutil.rmtree(folder)


def test_F8_a_folder_without_the_right_to_write_is_refused_before_fn_runs(unwritable):
    """Root may write anywhere, so it becomes somebody else, who owns what is free."""
    for path in LOCKED:
        (unwritable / path).chmod(0o555)
    user = []
    if os.getuid() == 0:
        user = ["65534"]
        for path in ("free", "free/group.zarr", "temporary"):
            os.chown(unwritable / path, 65534, 65534)
    before = snapshot(unwritable)
    of_store = (
        f"PermissionError write_to: {unwritable / 'free' / 'locked.zarr'} is not writable; give another path."
    )
    assert run_attempts(unwritable, *user) == expected_lines(unwritable, of_store)
    assert snapshot(unwritable) == before


def test_F8_a_read_only_mount_is_refused_before_fn_runs(unwritable):
    mounts = [f"mount --bind {path} {path} && mount -o remount,ro,bind {path}" for path in LOCKED]
    command = " && ".join([*mounts, 'exec "$0" "$@"'])
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, "true"], cwd=unwritable, capture_output=True).returncode
    ):
        pytest.skip("this system allows no mounts of one's own")
    before = snapshot(unwritable)
    of_store = (
        "ValueError write_to is 'free/locked.zarr'; give the labels a name of their own, e.g. 'labels.zarr'."
    )
    assert run_attempts(unwritable, before=unshare) == expected_lines(unwritable, of_store)
    assert snapshot(unwritable) == before


def test_F8_the_log_says_where_the_stage_is(folder, caplog):
    with caplog.at_level("INFO", "blockbuster"):
        tile_process(IMAGE, components, **TILES)
    assert f"staging in {tempfile.gettempdir()}" in caplog.text
