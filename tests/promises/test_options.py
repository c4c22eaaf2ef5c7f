"""Arguments: what each accepts, and what is said when it does not (B13, B14, B19)."""

import functools

import dask.array as da
import numpy as np
import pytest
from naive import components, join_neighbours, keep_apart, label
from outcomes import Counted, assert_same_objects, blobs, refused, refuses, write_image
from scipy import ndimage

from blockbuster import auto_tile_shape_cellpose, plan_run, tile_process

IMAGE = blobs((40, 50))


pytestmark = [
    pytest.mark.usefixtures("temporary"),
    # Components of noise fill the image, and look like many objects that were fused.
    pytest.mark.filterwarnings("ignore:runaway merging"),
]


def refuses_option(tmp_path, kind, *parts, image=IMAGE, **options):
    """Refused at once, whether or not there is an output, and by the plan in the same words."""
    refuses(kind, *parts, image=image, folder=tmp_path, **options)
    refuses(kind, *parts, image=image, folder=tmp_path, **({"write_to": tmp_path / "out.zarr"} | options))
    with refused(kind, *parts, folder=tmp_path):
        plan_run(image, **options)


@pytest.mark.parametrize(
    ("overlap", "halo"),
    [
        (0, (0, 0)),
        (3, (3, 3)),
        (np.int16(3), (3, 3)),
        (np.array(3), (3, 3)),
        ((2, 5), (2, 5)),
        ([2, 5], (2, 5)),
        (np.array([2, 5]), (2, 5)),
        ((5,), (0, 5)),
        (10, (10, 10)),
        (45, (45, 45)),
        (10**20, (10**20, 10**20)),
    ],
)
def test_B13_the_halo_is_what_was_asked_for_and_the_grid_stays(overlap, halo):
    plan = plan_run(IMAGE, tile_shape=(15, 16), overlap=overlap)
    assert plan.grid.halo == halo
    assert plan.grid.lengths == ((15, 15, 10), (16, 16, 16, 2))
    fn = Counted()
    labels = tile_process(IMAGE, fn, tile_shape=(15, 16), overlap=overlap)
    ys = [min(40, stop + halo[0]) - max(0, start - halo[0]) for start, stop in ((0, 15), (15, 30), (30, 40))]
    xs = [(0, 16), (16, 32), (32, 48), (48, 50)]
    xs = [min(50, stop + halo[1]) - max(0, start - halo[1]) for start, stop in xs]
    assert sorted(fn.seen) == sorted((y, x) for y in ys for x in xs)
    assert_same_objects(labels, label(IMAGE))


@pytest.mark.parametrize("overlap", [-1, np.int8(-3)])
def test_B13_a_negative_overlap_is_refused(tmp_path, overlap):
    refuses_option(tmp_path, ValueError, "overlap is ", "a number of voxels, 0 or more", overlap=overlap)


@pytest.mark.parametrize("overlap", [2.5, 2.0, np.float32(2), True, "16", b"1", None, {1, 2}, 1j, np.array(2.5)])
def test_B13_an_overlap_that_is_no_whole_number_is_refused(tmp_path, overlap):
    refuses_option(tmp_path, TypeError, "overlap is ", "whole number of voxels, 0 or more", overlap=overlap)


@pytest.mark.parametrize(
    ("overlap", "kind", "what"),
    [
        ((1, 2, 3), ValueError, r"overlap is \(1, 2, 3\), 3 numbers; the image has 2 axes"),
        ((), ValueError, "overlap is empty"),
        (np.zeros(0, int), ValueError, "overlap is empty"),
        ((-1, 2), ValueError, r"overlap\[0\] is -1; it is a whole number, 0 or more"),
        ((1, 2.5), TypeError, r"overlap\[1\] is 2.5"),
        ((1, None), TypeError, r"overlap\[1\] is None"),
        ((True, 1), TypeError, r"overlap\[0\] is True"),
        (np.ones((2, 2), int), TypeError, r"overlap\[0\] is array"),
    ],
)
def test_B13_a_tuple_of_overlaps_is_checked_number_by_number(tmp_path, overlap, kind, what):
    refuses_option(tmp_path, kind, what, overlap=overlap)


@pytest.mark.parametrize("axes", ["tyx", "cyx"])
def test_B13_a_halo_along_time_or_channels_is_refused_where_it_is_explicit(tmp_path, axes):
    image = np.stack([IMAGE, IMAGE])
    what = f"axis {axes[0]!r} gets no halo, give 0 there"
    refuses_option(
        tmp_path, ValueError, r"overlap is \(1, 2, 2\)", what, image=image, axes=axes, overlap=(1, 2, 2)
    )
    for overlap in (2, (2, 2), (0, 2, 2)):
        plan = plan_run(image, axes=axes, tile_shape=(2, 20, 20), overlap=overlap)
        assert plan.grid.halo == (0, 2, 2)


@pytest.mark.parametrize(
    ("tile_shape", "lengths"),
    [
        (None, ((40,), (50,))),
        ((15, 20), ((15, 15, 10), (20, 20, 10))),
        ([15, 20], ((15, 15, 10), (20, 20, 10))),
        (np.array([15, 20]), ((15, 15, 10), (20, 20, 10))),
        ((np.int32(15), np.uint8(20)), ((15, 15, 10), (20, 20, 10))),
        ((25,), ((1,) * 40, (25, 25))),
        ((40, 49), ((40,), (49, 1))),
        ((41, 10**20), ((40,), (50,))),
        ("auto", ((40,), (50,))),
        (lambda shape, dtype: (shape[0] // 2, 10 * dtype.itemsize), ((20, 20), (10,) * 5)),
        (functools.partial(lambda shape, dtype, side: [side] * len(shape), side=30), ((30, 10), (30, 20))),
        (functools.partial(auto_tile_shape_cellpose, diameter=5), ((40,), (50,))),
    ],
)
def test_B14_every_form_of_tile_shape_gives_its_tiles(tile_shape, lengths):
    plan = plan_run(IMAGE, tile_shape=tile_shape)
    assert plan.grid.lengths == lengths
    assert_same_objects(tile_process(IMAGE, components, tile_shape=tile_shape), label(IMAGE))


def test_B14_without_a_tile_shape_tiles_are_the_chunks_of_a_store_not_its_shards(tmp_path):
    path = write_image(tmp_path / "image.zarr", IMAGE, chunks=(10, 20), shards=(20, 40))
    assert plan_run(path).grid.lengths == ((10,) * 4, (20, 20, 10))
    lazy = da.from_array(IMAGE, chunks=((1, 39), (30, 20)))
    assert plan_run(lazy).grid.lengths == ((1, 39), (30, 20))


@pytest.mark.parametrize("tile_shape", ["Auto", "AUTO", "", "chunks", "256"])
def test_B14_any_other_text_is_refused_with_the_accepted_forms(tmp_path, tile_shape):
    forms = ("None", "tuple", "'auto'", "callable")
    refuses_option(tmp_path, ValueError, f"tile_shape is {tile_shape!r}", *forms, tile_shape=tile_shape)


@pytest.mark.parametrize("tile_shape", [16, np.int64(16), 16.0, b"auto", {8, 9}, np.array(8), True])
def test_B14_what_is_no_tuple_is_refused_with_the_accepted_forms(tmp_path, tile_shape):
    forms = ("None", "tuple", "'auto'", "callable")
    refuses_option(tmp_path, TypeError, "tile_shape is ", *forms, tile_shape=tile_shape)


@pytest.mark.parametrize(
    ("tile_shape", "kind", "what"),
    [
        ((16, 16, 16), ValueError, r"tile_shape is \(16, 16, 16\), 3 numbers; the image has 2 axes"),
        ((), ValueError, "tile_shape is empty"),
        ((0, 16), ValueError, r"tile_shape\[0\] is 0; it is a whole number, 1 or more"),
        ((16, -1), ValueError, r"tile_shape\[1\] is -1"),
        ((16, 16.0), TypeError, r"tile_shape\[1\] is 16.0"),
        ((16, None), TypeError, r"tile_shape\[1\] is None"),
        ((True, 16), TypeError, r"tile_shape\[0\] is True"),
        (((16, 24), (50,)), TypeError, r"tile_shape\[0\] is \(16, 24\)"),
    ],
)
def test_B14_a_tuple_is_checked_number_by_number(tmp_path, tile_shape, kind, what):
    refuses_option(tmp_path, kind, what, tile_shape=tile_shape)


@pytest.mark.parametrize(
    ("function", "kind", "what"),
    [
        (lambda shape, dtype: None, TypeError, r"tile_shape\(shape, dtype\) is None; it is a tuple of voxels"),
        (lambda shape, dtype: "auto", TypeError, r"tile_shape\(shape, dtype\) is 'auto'"),
        (lambda shape, dtype: 16, TypeError, r"tile_shape\(shape, dtype\) is 16"),
        (lambda shape, dtype: (), ValueError, r"tile_shape\(shape, dtype\) is empty"),
        (lambda shape, dtype: (0, 8), ValueError, r"tile_shape\(shape, dtype\)\[0\] is 0"),
        (lambda shape, dtype: (8, 8.5), TypeError, r"tile_shape\(shape, dtype\)\[1\] is 8.5"),
        (lambda shape, dtype: (8, 8, 8), ValueError, "3 numbers; the image has 2 axes"),
        (
            lambda shape: (8, 8),
            ValueError,
            "raised TypeError.*positional argument.*takes the image's shape and dtype",
        ),
        (lambda shape, dtype: {}["key"], ValueError, r"tile_shape\(\(40, 50\), 'uint8'\) raised KeyError: 'key'"),
        (lambda shape, dtype: 1 // 0, ValueError, "raised ZeroDivisionError"),
        (lambda shape, dtype: (8, -8), ValueError, r"tile_shape\(shape, dtype\)\[1\] is -8"),
        (lambda shape, dtype: (8, np.nan), TypeError, r"tile_shape\(shape, dtype\)\[1\] is nan"),
        (lambda shape, dtype: np.array(shape) / 2, TypeError, r"tile_shape\(shape, dtype\)\[0\] is "),
        (lambda shape, dtype: (True, 8), TypeError, r"tile_shape\(shape, dtype\)\[0\] is True"),
        (lambda shape, dtype: (n for n in shape), TypeError, r"tile_shape\(shape, dtype\) is <generator"),
        (lambda shape, dtype: {8, 9}, TypeError, r"tile_shape\(shape, dtype\) is \{8, 9\}"),
        (lambda shape, dtype: (shape, shape), TypeError, r"tile_shape\(shape, dtype\)\[0\] is \(40, 50\)"),
        (
            functools.partial(auto_tile_shape_cellpose, diameter=-1),
            ValueError,
            "raised ValueError: diameter is -1",
        ),
    ],
)
def test_B14_a_callable_that_fails_or_returns_nonsense_is_refused(tmp_path, function, kind, what):
    refuses_option(tmp_path, kind, what, tile_shape=function)


class UnreadableChunk(Exception):
    """A pixel was asked for."""


@pytest.mark.parametrize(
    "options",
    [
        {"tile_shape": (16, 16, 16)},
        {"tile_shape": ()},
        {"tile_shape": (0, 16)},
        {"tile_shape": (16, -1)},
        {"tile_shape": "Auto"},
        {"tile_shape": lambda shape, dtype: None},
        {"overlap": -1},
        {"overlap": 2.5},
        {"overlap": (1, 2, 3)},
    ],
)
def test_B13_B14_no_pixel_is_read_before_wrong_tiles_and_halos_are_refused(tmp_path, options):
    def read(block):
        raise UnreadableChunk

    image = da.zeros((40, 50), chunks=10, dtype="uint8").map_blocks(
        read, dtype="uint8", meta=np.empty((0, 0), "u1")
    )
    kind = (ValueError, TypeError)
    with pytest.raises(UnreadableChunk):
        image.compute()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind, match="tile_shape|overlap"):
        tile_process(image, components, skip_empty=True, write_to=tmp_path / "out.zarr", **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_B14_auto_tiles_have_one_time_point_and_all_kept_channels():
    image = np.zeros((4, 3, 20, 30), "uint8")
    assert plan_run(image, axes="tcyx", tile_shape="auto").grid.tile_shape == (1, 1, 20, 30)
    assert plan_run(image, axes="tcyx", tile_shape="auto", channel=None).grid.tile_shape == (1, 3, 20, 30)
    assert plan_run(np.zeros((4, 3)), axes="tc", tile_shape="auto").grid.tile_shape == (1, 1)


STACK = blobs((5, 30, 34), seed=1)


@pytest.mark.parametrize(
    ("overlap", "planes"), [(16, {1}), ((0, 16, 16), {1}), ((16, 16), {1}), ((2, 16, 16), {3, 4, 5})]
)
def test_B19_planes_of_a_stack_get_a_halo_along_z_only_where_it_is_asked_for(overlap, planes):
    fn = Counted()
    labels = tile_process(STACK, fn, tile_shape=(1, 12, 12), overlap=overlap)
    assert {shape[0] for shape in fn.seen} == planes
    assert max(fn.seen)[1:] == (30, 34)
    assert fn.calls == 5 * 3 * 3
    assert_same_objects(labels, label(STACK))


@pytest.mark.parametrize("connectivity", [None, 1, 2, 3])
@pytest.mark.parametrize("merge_axes", [None, "zyx", "xyz", "yx", "z", "y"])
def test_B19_labels_are_joined_along_the_axes_that_were_named(merge_axes, connectivity):
    """The oracle joins what touches across tile borders, along the named axes alone."""
    axes = None if merge_axes is None else sorted("zyx".index(letter) for letter in merge_axes)
    tiles = np.zeros(STACK.shape, int)
    ids = np.zeros(STACK.shape, int)
    structure = ndimage.generate_binary_structure(3, connectivity or 1)
    for number, (z, y, x) in enumerate(np.ndindex(5, 3, 3)):
        box = slice(z, z + 1), slice(12 * y, 12 * y + 12), slice(12 * x, 12 * x + 12)
        found = keep_apart(ndimage.label(STACK[box], structure)[0], axes)
        ids[box] = np.where(found > 0, found + ids.max(), 0)
        tiles[box] = number
    expected = join_neighbours(ids, tiles, connectivity or 1, axes)
    labels = tile_process(
        STACK,
        lambda tile: ndimage.label(tile, structure)[0],
        tile_shape=(1, 12, 12),
        axes="zyx",
        merge_axes=merge_axes,
        connectivity=connectivity,
    )
    assert_same_objects(labels, expected)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_B19_planes_joined_along_y_and_x_alone_equal_planes_on_their_own(connectivity):
    structure = ndimage.generate_binary_structure(3, connectivity)
    labels = tile_process(
        STACK,
        lambda tile: ndimage.label(tile, structure)[0],
        tile_shape=(1, 12, 12),
        overlap=4,
        axes="zyx",
        merge_axes="yx",
        connectivity=connectivity,
    )
    for found, plane in zip(labels, STACK, strict=True):
        assert_same_objects(found, label(plane, min(connectivity, 2)))
    assert not set(np.unique(labels[0])) & set(np.unique(labels[1])) - {0}


@pytest.mark.parametrize(
    ("options", "kind", "parts"),
    [
        ({"merge_axes": "yx"}, ValueError, ("merge_axes is 'yx'", "axes are not known; pass axes=")),
        ({"merge_axes": (0, 1), "axes": "yx"}, TypeError, (r"merge_axes is \(0, 1\)", "string of axis letters")),
        ({"merge_axes": "", "axes": "yx"}, ValueError, ("merge_axes is ''", "letters in 'yx'")),
        ({"merge_axes": "zx", "axes": "yx"}, ValueError, ("merge_axes is 'zx'", "letters in 'yx'")),
        ({"merge_axes": "xx", "axes": "yx"}, ValueError, ("merge_axes is 'xx'", "letters in 'yx'")),
        ({"merge_axes": "tx", "axes": "tx"}, ValueError, ("merge_axes is 'tx'", "letters in 'x'")),
        ({"axes": "zyx"}, ValueError, ("axes is 'zyx'", "2 axes")),
        ({"axes": "yy"}, ValueError, ("axes is 'yy'", "only once")),
        ({"axes": "YX"}, ValueError, ("axes is 'YX'", "lower-case")),
        ({"axes": ("y", "x")}, TypeError, ("axes is", "one letter per axis")),
        ({"connectivity": 0}, ValueError, ("connectivity is 0", "1 or more")),
        ({"connectivity": 3}, ValueError, ("connectivity is 3", r"1 \(faces\) to 2 \(corners too\)")),
        ({"connectivity": 1.0}, TypeError, ("connectivity is 1.0", "whole number")),
        ({"connectivity": "full"}, TypeError, ("connectivity is 'full'", "whole number")),
        ({"connectivity": True}, TypeError, ("connectivity is True", "whole number")),
        ({"merge": "Touch"}, ValueError, ("merge is 'Touch'", "'touch', 'agree', 'none'")),
        ({"merge": None}, ValueError, ("merge is None", "'touch', 'agree', 'none'")),
        ({"merge": ["touch"]}, ValueError, ("merge is", "'touch', 'agree', 'none'")),
        ({"on_error": "ignore"}, ValueError, ("on_error is 'ignore'", "'raise', 'skip'")),
        ({"min_agreement": 1.5}, ValueError, ("min_agreement is 1.5", "from 0 to 1")),
        ({"min_agreement": np.nan}, ValueError, ("min_agreement is nan", "from 0 to 1")),
        ({"min_agreement": None}, TypeError, ("min_agreement is None", "from 0 to 1")),
        ({"min_agreement": "0.3"}, TypeError, ("min_agreement is '0.3'", "from 0 to 1")),
        ({"retries": -1}, ValueError, ("retries is -1", "0 or more")),
        ({"retries": None}, TypeError, ("retries is None", "0 or more")),
        ({"tiles_per_task": 0}, ValueError, ("tiles_per_task is 0", "1 or more")),
        ({"tiles_per_task": 1.5}, TypeError, ("tiles_per_task is 1.5", "1 or more")),
        ({"tiles_per_task": "all"}, TypeError, ("^tiles_per_task is 'all'", "1 or more")),
        ({"fn_version": 3}, TypeError, ("fn_version is 3", "a string")),
    ],
)
def test_other_arguments_are_refused_with_the_rule(tmp_path, options, kind, parts):
    refuses_option(tmp_path, kind, *parts, **options)


FLAGS = [
    "use_gpu",
    "compute",
    "progress",
    "sequential_labels",
    "skip_empty",
    "keep_stage",
    "verbose",
    "resume",
    "overwrite",
    "return_report",
]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["no", 10, None, 0.5])
def test_what_merely_counts_as_true_or_false_is_refused(tmp_path, flag, value):
    refuses_option(tmp_path, TypeError, f"{flag} is {value!r}; it is True or False", **{flag: value})


def test_flags_of_numpy_are_accepted():
    assert_same_objects(tile_process(IMAGE, components, sequential_labels=np.True_), label(IMAGE))


@pytest.mark.parametrize("fn", [None, "otsu", 3, np.zeros(3), [components]])
def test_fn_that_cannot_be_called_is_refused(tmp_path, fn):
    what = "a function from a tile to its labels"
    refuses(TypeError, "fn is ", what, image=IMAGE, fn=fn, folder=tmp_path, write_to=tmp_path / "out.zarr")


def test_a_plan_needs_no_fn():
    assert plan_run(IMAGE, tile_shape=(20, 25)).n_tiles == 4


def test_an_unknown_argument_is_refused(tmp_path):
    refuses(TypeError, "tileshape", image=IMAGE, folder=tmp_path, tileshape=(8, 8))
    with pytest.raises(TypeError, match="tileshape"):
        plan_run(IMAGE, tileshape=(8, 8))


def test_all_faults_come_in_one_message(tmp_path):
    faults = {
        "fn": "threshold",
        "tile_shape": "Auto",
        "overlap": -1,
        "connectivity": 9,
        "merge": "join",
        "merge_axes": "yx",
        "min_agreement": 2,
        "retries": "a",
        "tiles_per_task": 0,
        "skip_empty": True,
        "empty_threshold": "high",
        "overwrite": "yes",
        "write_to": "s3://bucket/labels.zarr",
        "stage_dir": 3,
        "fn_version": 1,
    }
    n = len(faults) - 1
    refuses(
        ValueError,
        f"{n} arguments are wrong",
        *(f"- {name}\\b" for name in faults if name != "skip_empty"),
        image=IMAGE,
        folder=tmp_path,
        **faults,
    )


def test_faults_of_one_class_keep_it(tmp_path):
    refuses(
        TypeError,
        "2 arguments are wrong",
        "overlap is None",
        "progress is 1",
        image=IMAGE,
        folder=tmp_path,
        overlap=None,
        progress=1,
    )


def test_a_missing_image_does_not_hide_other_faults(tmp_path):
    refuses(
        ValueError,
        "3 arguments are wrong",
        "missing.zarr does not exist",
        "merge is 'x'",
        "write_to is ''",
        image=tmp_path / "missing.zarr",
        folder=tmp_path,
        merge="x",
        write_to="",
    )


def test_a_missing_image_alone_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        tile_process(tmp_path / "missing.zarr", components)
    assert caught.type is FileNotFoundError


def test_numbers_of_numpy_are_accepted_everywhere_and_kept_as_plain_ones(tmp_path):
    path = write_image(tmp_path / "image.zarr", np.stack([IMAGE, IMAGE]), "cyx", levels=("0", "1"))
    labels, report = tile_process(
        path,
        components,
        tile_shape=(np.int64(20), np.uint8(20)),
        overlap=np.int16(2),
        channel=np.int32(1),
        level=np.uint8(1),
        connectivity=np.int8(1),
        tiles_per_task=np.int64(2),
        skip_empty=np.True_,
        empty_threshold=np.float32(0),
        retries=np.int64(0),
        min_agreement=np.float64(0.5),
        write_to=tmp_path / "out.zarr",
        return_report=True,
    )
    assert_same_objects(labels, label(IMAGE))
    assert (report.settings["channel"], report.settings["level"]) == (1, 1)
    report.to_json()
