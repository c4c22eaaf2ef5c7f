"""Images of every size, dtype and layout, empty tiles, and channels (B10 to B12, B15 to B17)."""

import functools
import itertools
import multiprocessing
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from collections_of_images import write_bioformats2raw, write_plate
from gpus import gpu_memory
from naive import components, cut, label, stitch
from outcomes import Counted, assert_same_objects, blobs, refused, refuses, snapshot, write_image
from scipy import ndimage

from blockbuster import BlockbusterWarning, TileError, auto_tile_shape_cellpose, tile_process

needs_no_gpu = pytest.mark.skipif(gpu_memory() is not None, reason="this machine has a GPU")


pytestmark = pytest.mark.usefixtures("temporary")


def nonzero_components(tile):
    return ndimage.label(tile != 0)[0]


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [
        ((1,), (1,), 0),
        ((37,), (10,), 3),
        ((1, 1), (1, 1), 5),
        ((1, 1), (64, 64), 64),
        ((31, 41), (10, 20), 4),
        ((31, 41), (30, 40), 2),
        ((5, 7), (64, 64), 16),
        ((1, 23, 29), (1, 8, 8), 3),
        ((1, 23, 29), (4, 8, 8), (2, 3, 3)),
        ((11, 13, 17), (4, 5, 6), (1, 2, 3)),
        ((2, 3, 7, 11), (1, 2, 3, 4), 1),
        ((2, 2, 3, 7, 11), (1, 1, 2, 3, 4), 2),
    ],
)
def test_B10_every_size_gives_the_labels_of_the_whole_image(shape, tile, overlap):
    image = blobs(shape, seed=sum(shape))
    fn = Counted()
    labels = tile_process(image, fn, tile_shape=tile, overlap=overlap)
    assert fn.calls == np.prod([-(-n // min(n, t)) for n, t in zip(shape, tile, strict=True)])
    assert_same_objects(labels, label(image))


GIVEN_AS = {
    "numpy": lambda data, _: data,
    "numpy, Fortran order": lambda data, _: np.asfortranarray(data),
    "dask": lambda data, _: da.from_array(data, chunks=tuple(min(n, 5) for n in data.shape)),
    "dask, irregular": lambda data, _: da.from_array(
        data, chunks=tuple((n // 3, n - n // 3) for n in data.shape)
    ),
    "zarr v2": lambda data, folder: write_image(folder / "image.zarr", data, zarr_format=2),
    "zarr v3": lambda data, folder: write_image(folder / "image.zarr", data),
    "zarr in memory": lambda data, _: zarr.array(data, chunks=tuple(min(n, 6) or 1 for n in data.shape)),
    "OME-Zarr": lambda data, folder: write_image(folder / "image.zarr", data, "vwxyz"[-data.ndim :]),
}


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.parametrize("kind", GIVEN_AS)
@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [
        ((37,), (12,), 3),
        ((13, 17), (12, 16), 2),
        ((1, 7, 11), (1, 3, 10), 1),
        ((2, 1, 3, 5, 7), (1, 1, 2, 4, 6), 1),
    ],
)
def test_B10_every_kind_of_image_of_every_size_gives_the_labels_of_the_whole_image(
    tmp_path, kind, shape, tile, overlap
):
    data = blobs(shape, seed=sum(shape), density=0.4)
    fn = Counted()
    labels = tile_process(GIVEN_AS[kind](data, tmp_path), fn, tile_shape=tile, overlap=overlap)
    assert fn.calls == np.prod([-(-n // t) for n, t in zip(shape, tile, strict=True)])
    assert_same_objects(labels, label(data))


@pytest.mark.parametrize("kind", GIVEN_AS)
@pytest.mark.parametrize("shape", [(0,), (0, 7), (7, 0), (2, 0, 3), (0, 1, 2, 0, 4)])
def test_B10_every_kind_of_image_without_voxels_gives_labels_without_voxels(tmp_path, kind, shape):
    image = GIVEN_AS[kind](np.zeros(shape, "uint16"), tmp_path)
    fn = Counted()
    for options in (
        {},
        {"tile_shape": "auto", "skip_empty": True},
        {"tile_shape": (2,) * len(shape), "overlap": 1, "write_to": tmp_path / "out.zarr", "overwrite": True},
    ):
        labels = tile_process(image, fn, **options)
        assert (labels.shape, labels.dtype) == (shape, np.int32)
    assert fn.calls == 0


@pytest.mark.parametrize("shape", [(0,), (0, 10), (10, 0), (0, 0), (3, 0, 4), (0, 5, 6)])
@pytest.mark.parametrize("tile_shape", [None, "auto", (4,)])
def test_B10_an_image_without_voxels_gives_labels_without_voxels(tmp_path, shape, tile_shape):
    fn = Counted()
    for options in (
        {},
        {"write_to": tmp_path / "out.zarr"},
        {"skip_empty": True, "sequential_labels": True, "overlap": 2},
    ):
        labels, report = tile_process(
            np.zeros(shape, "uint8"), fn, tile_shape=tile_shape, return_report=True, **options
        )
        assert labels.shape == shape
        assert labels.dtype == np.int32
        assert report.n_tiles == report.n_objects == 0
    assert fn.calls == 0
    assert zarr.open_array(tmp_path / "out.zarr" / "labels", mode="r").shape == shape


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
REAL = ["bool", *INTEGERS, "float16", "float32", "float64"]


ANY_ORDER = [*REAL, "complex64", "complex128", ">u2", ">i4", ">f2", ">f4", ">f8", ">c8", "<u2"]


@pytest.mark.parametrize("dtype", ANY_ORDER)
def test_B11_every_dtype_reaches_fn_as_it_is_in_native_byte_order(tmp_path, dtype):
    image = blobs((23, 31)).astype(dtype)
    seen = set()

    def fn(tile):
        seen.add(tile.dtype)
        return nonzero_components(tile)

    swapped = ["numpy, Fortran order", "dask, irregular", "zarr v2", "zarr in memory"]
    for kind in ["numpy", "dask", "zarr v3"] if np.dtype(dtype).isnative else swapped:
        given = GIVEN_AS[kind](image, tmp_path / kind)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "every chunk of the dask image is computed")
            assert_same_objects(tile_process(given, fn, tile_shape=(12, 16), overlap=2), label(image != 0))
    assert seen == {np.dtype(dtype).newbyteorder("=")}
    assert all(dtype.isnative for dtype in seen)


@pytest.mark.parametrize("dtype", ["longdouble", "clongdouble", ">g"])
def test_B11_numbers_that_zarr_cannot_store_are_numbers_all_the_same(dtype):
    image = blobs((23, 31)).astype(dtype)
    for given in (image, da.from_array(image, chunks=(8, 9))):
        assert_same_objects(tile_process(given, nonzero_components, tile_shape=(8, 9)), label(image != 0))


def test_B11_every_dtype_reaches_other_processes_as_it_is():
    """From memory, that is through a file of their own."""

    def check(wanted, tile):
        assert tile.dtype == wanted
        assert tile.dtype.isnative
        return ndimage.label(tile != 0)[0]

    image = blobs((23, 31))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool, dask.config.set(scheduler="processes", pool=pool):
        for dtype in (">u2", ">f4", "float16", "bool", "complex64", "longdouble"):
            fn = functools.partial(check, np.dtype(dtype).newbyteorder("="))
            labels = tile_process(image.astype(dtype), fn, tile_shape=(12, 16), overlap=2)
            assert_same_objects(labels, label(image))


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64", "longdouble"])
def test_B11_nan_and_infinity_reach_fn(dtype):
    image = blobs((23, 31)).astype(dtype)
    image[3:9, 4:20] = np.nan
    image[15, :] = np.inf
    image[:, 2] = -np.inf

    def fn(tile):
        return ndimage.label(np.isfinite(tile))[0]

    labels = tile_process(image, fn, tile_shape=(8, 9), skip_empty=True)
    assert_same_objects(labels, ndimage.label(np.isfinite(image))[0])


@pytest.mark.parametrize("dtype", [object, "M8[s]", "m8[ms]", "U3", "S3", "V4", [("a", "u1")]])
def test_B11_what_is_no_number_is_refused(tmp_path, dtype):
    image = np.zeros((8, 8), dtype)
    for given in (image, da.from_array(image, chunks=4)):
        refuses(
            TypeError, "image", "dtype", "astype", image=given, folder=tmp_path, write_to=tmp_path / "out.zarr"
        )


@pytest.mark.parametrize("dtype", ["S3", "U3"])
def test_B11_a_store_of_text_is_refused(tmp_path, dtype):
    with warnings.catch_warnings():
        # zarr says that version 3 does not specify such dtypes.
        warnings.simplefilter("ignore")
        path = write_image(tmp_path / "image.zarr", np.full((8, 8), "a", dtype))
        refuses(TypeError, "image", "dtype", "astype", image=path, folder=tmp_path)


@pytest.mark.parametrize(
    ("image", "kind", "parts"),
    [
        (np.ma.array(np.zeros((8, 8))), TypeError, ("masked", r"filled\(0\)")),
        (da.ma.masked_equal(da.zeros((8, 8), chunks=4), 3), TypeError, ("masked", r"filled\(image, 0\)")),
        (b"image.zarr", TypeError, ("bytes", "accepted are")),
        (np.array(3), ValueError, ("no axes",)),
        ([[0, 1], [1, 0]], TypeError, ("list", "numpy.asarray")),
        (None, TypeError, ("NoneType",)),
        (7, TypeError, ("int",)),
        (zarr.create_group({}), TypeError, ("Group", "accepted are")),
    ],
)
def test_B11_what_is_no_image_is_refused(tmp_path, image, kind, parts):
    refuses(kind, "image", *parts, image=image, folder=tmp_path, write_to=tmp_path / "out.zarr")


@pytest.mark.parametrize(("dtype", "name"), [("complex64", "complex64"), (">c16", "complex128")])
@pytest.mark.parametrize("threshold", [None, 0, 5.0])
def test_B11_a_complex_image_with_skip_empty_is_refused(tmp_path, dtype, name, threshold):
    image = np.zeros((8, 8), dtype)
    stored = write_image(tmp_path / "image.zarr", image)
    for given in (image, da.from_array(image, chunks=4), stored):
        refuses(
            TypeError,
            "skip_empty",
            name,
            "real numbers",
            image=given,
            folder=tmp_path,
            skip_empty=True,
            empty_threshold=threshold,
        )


class Image(np.ndarray):
    """A subclass that does everything in its own way."""

    def __getitem__(self, _):
        raise RuntimeError("no slicing")

    def __array_ufunc__(self, *_, **__):
        raise RuntimeError("no arithmetic")


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@pytest.mark.parametrize(
    "spell",
    [
        lambda image: image.view(np.matrix),
        lambda image: image.view(Image),
        lambda image: np.pad(image, 3)[3:-3, 3:-3],
        lambda image: image[::-1].copy()[::-1],
        lambda image: np.repeat(image, 3, axis=1)[:, ::3],
        lambda image: np.frombuffer(image.tobytes(), image.dtype).reshape(image.shape),
        lambda image: np.rec.fromarrays([image * 0.5, image], names="a,b")["b"],
        lambda image: da.from_array(image.view(np.matrix), chunks=(23, 31), asarray=False),
    ],
    ids=["matrix", "subclass", "window", "flipped", "strided", "read-only", "field", "dask of a matrix"],
)
def test_B11_views_and_subclasses_are_read_as_plain_arrays(spell):
    image = blobs((23, 31))
    seen = set()

    def fn(tile):
        seen.add((type(tile), tile.flags.c_contiguous, tile.flags.writeable))
        return components(tile)

    assert_same_objects(tile_process(spell(image), fn, tile_shape=(23, 9), overlap=2), label(image))
    assert seen == {(np.ndarray, True, True)}


def test_B12_irregular_chunks_are_the_tiles_that_fn_sees():
    image = blobs((30, 40))
    fn = Counted()
    labels = tile_process(da.from_array(image, chunks=((7, 1, 22), (5, 34, 1))), fn)
    assert sorted(fn.seen) == sorted((y, x) for y in (7, 1, 22) for x in (5, 34, 1))
    assert_same_objects(labels, label(image))


def test_B12_irregular_chunks_do_not_move_the_tiles_that_were_asked_for():
    image = blobs((30, 40))
    fn = Counted()
    labels = tile_process(
        da.from_array(image, chunks=((7, 1, 22), (5, 34, 1))), fn, tile_shape=(10, 16), tiles_per_task=100
    )
    assert sorted(fn.seen) == sorted([(10, 16), (10, 16), (10, 8)] * 3)
    assert_same_objects(labels, label(image))


def test_B12_chunks_of_size_0_are_no_tiles():
    image = blobs((20, 20))
    lazy = da.from_array(image, chunks=(8, 20))[da.from_array(np.arange(20) > 7, chunks=8)]
    lazy.compute_chunk_sizes()
    assert lazy.chunks == ((0, 8, 4), (20,))
    fn = Counted()
    assert_same_objects(tile_process(lazy, fn), label(image[8:]))
    assert sorted(fn.seen) == [(4, 20), (8, 20)]


def test_B12_unknown_chunks_are_refused_with_the_remedy(tmp_path):
    line = da.from_array(np.arange(20), chunks=5)
    plane = da.from_array(blobs((20, 30)), chunks=(5, 10))
    for lazy in (line[line > 3], plane[line > 3], plane[plane > 0]):
        for options in ({}, {"tile_shape": (4,)}, {"tile_shape": "auto", "overlap": 2}):
            refuses(ValueError, "unknown size", "compute_chunk_sizes", image=lazy, folder=tmp_path, **options)


def test_B12_chunks_that_are_not_what_dask_was_told_are_refused(tmp_path):
    """Neither stretched to fit nor cast."""
    image = blobs((20, 30))
    for made, what in ((image.astype(float), "float64"), (image[1:], r"shape \(19, 30\)")):
        lazy = da.from_delayed(dask.delayed(made), shape=image.shape, dtype=image.dtype)
        with refused(TileError, "region of the dask array", what, "announced as ndarray of uint8"):
            tile_process(lazy, components)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("axes", "pick"),
    [
        ("yx", ()),
        ("cyx", (1,)),
        ("yxc", (slice(None), slice(None), 1)),
        ("tcyx", (slice(None), 1)),
        ("", ()),
    ],
)
def test_B15_a_stored_image_gives_the_labels_of_the_array(tmp_path, zarr_format, axes, pick):
    shape = tuple({"t": 2, "c": 3, "y": 21, "x": 26}[letter] for letter in axes or "yx")
    data = blobs(shape)
    path = write_image(
        tmp_path / "image.zarr", data, axes, levels=("s0", "scale1/image"), zarr_format=zarr_format
    )
    before = snapshot(path)
    image = data[pick]
    for options in {0: {}, 1: {"level": 1}} if axes else {0: {}}:
        level = {"level": options} if options else {}
        channel = 1 if "c" in axes else 0
        labels = tile_process(path, components, tile_shape=(8, 8), overlap=2, channel=channel, **level)
        expected = [label(plane) for plane in image] if image.ndim == 3 else [label(image)]
        for found, plane in zip(labels if image.ndim == 3 else [labels], expected, strict=True):
            assert_same_objects(found, plane)
    assert snapshot(path) == before


@pytest.mark.parametrize(
    "layout",
    [
        {"shards": (16, 16), "chunks": (8, 8)},
        {"order": "F", "zarr_format": 2},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}, "zarr_format": 2},
        {"chunks": (3, 40), "dtype": ">u2"},
    ],
)
def test_B15_every_layout_of_a_zarr_array_is_read(tmp_path, layout):
    image = blobs((40, 50)).astype(layout.pop("dtype", "uint8"))
    path = write_image(tmp_path / "image.zarr", image, **layout)
    for source in (path, str(path), zarr.open_array(path, mode="r")):
        labels = tile_process(source, components, tile_shape=(13, 17), overlap=3)
        assert_same_objects(labels, label(image))
    fn = Counted()
    tile_process(path, fn)
    assert max(fn.seen) == layout.get("chunks", (8, 8))


def test_B15_a_missing_channel_or_level_is_refused_with_what_there_is(tmp_path):
    path = write_image(tmp_path / "image.zarr", blobs((3, 16, 16)), "cyx", levels=("s0", "s1"))
    same = {"image": path, "folder": tmp_path, "write_to": tmp_path / "out.zarr"}
    refuses(ValueError, "channel is 3", "has 3 channels", channel=3, **same)
    refuses(ValueError, "level is 2", "has 2", "s0", "s1", level=2, **same)
    refuses(ValueError, "channel is -1", channel=-1, **same)
    refuses(TypeError, "channel is '0'", "integer", channel="0", **same)
    refuses(TypeError, "level is 1.0", "integer", level=1.0, **same)


def test_B15_a_channel_of_an_image_without_channels_is_refused(tmp_path):
    path = write_image(tmp_path / "image.zarr", blobs((16, 16)), "yx")
    refuses(ValueError, "channel is 1", "no channel axis", image=path, folder=tmp_path, channel=1)


def test_B15_channel_and_level_are_ignored_for_arrays():
    image = blobs((16, 16))
    assert_same_objects(tile_process(image, components, channel=7, level=np.int64(3)), label(image))


def test_B15_a_missing_path_a_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "image.tif").write_bytes(b"II*")
    (tmp_path / "folder").mkdir()
    same = {"folder": tmp_path, "write_to": tmp_path / "out.zarr"}
    refuses(FileNotFoundError, "image .*missing.zarr does not exist", image=tmp_path / "missing.zarr", **same)
    refuses(ValueError, "image .*image.tif is a file", image=tmp_path / "image.tif", **same)
    refuses(ValueError, "image .*folder is a folder, but no zarr", image=tmp_path / "folder", **same)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_B15_a_plate_and_a_well_are_refused_with_the_images_in_them(tmp_path, zarr_format):
    image = blobs((9, 9))
    plate = write_plate(tmp_path / "plate.zarr", image, 2, 2, 2, zarr_format)
    same = {"folder": tmp_path, "write_to": tmp_path / "out.zarr"}
    fields = [f"\n  {plate}/{well}/{field}\n" for well in ("A/1", "A/2", "B/1") for field in (0, 1)]
    refuses(ValueError, "HCS plate of 4 wells, at most 2 images each", *fields, image=plate, **same)
    refuses(ValueError, "well of an HCS plate", f"\n  {plate}/B/2/1$", image=plate / "B" / "2", **same)
    assert_same_objects(tile_process(f"{plate}/B/2/1", components, tile_shape=(4, 4)), label(image))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_B15_a_plate_of_384_wells_is_refused_with_its_first_images(tmp_path, zarr_format):
    plate = write_plate(tmp_path / "plate.zarr", blobs((9, 9)), 16, 24, 1, zarr_format, stored=20)
    # The rows that are not there are those of a plate that is still being copied.
    paths = "".join(f"\n  {plate}/A/{column}/0" for column in range(1, 7))
    refuses(ValueError, "HCS plate of 384 wells", rf"{paths}\n  \.\.\.$", image=plate, folder=tmp_path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("series", [None, ["1", "0"]])
def test_B15_a_bioformats2raw_collection_is_refused_with_the_images_in_it(tmp_path, zarr_format, series):
    image = blobs((9, 9))
    path = write_bioformats2raw(tmp_path / "image.zarr", {"0": image, "1": image}, zarr_format, series)
    listed = "".join(f"\n  {path}/{name}" for name in series or ["0", "1"])
    same = {"folder": tmp_path, "write_to": tmp_path / "out.zarr"}
    refuses(ValueError, "bioformats2raw", f"{listed}$", image=path, **same)
    assert_same_objects(tile_process(f"{path}/1", components, tile_shape=(4, 4)), label(image))


def test_B15_a_group_that_is_no_image_is_refused_with_the_arrays_in_it(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    inner = write_image(tmp_path / "group.zarr" / "raw", blobs((9, 9)))
    refuses(ValueError, "no OME-Zarr image", str(inner), image=tmp_path / "group.zarr", folder=tmp_path)


def test_B15_a_plain_array_has_no_levels(tmp_path):
    path = write_image(tmp_path / "image.zarr", blobs((9, 9)))
    refuses(ValueError, "level is 1", "no levels", image=path, folder=tmp_path, level=1)


@pytest.mark.parametrize("axes", ["cyx", "yxc", "ycx"])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("merge_axes", [None, "y"])
def test_B15_all_channels_reach_fn_uncut_and_its_labels_may_drop_them(tmp_path, axes, stored, merge_axes):
    c = axes.index("c")
    data = np.moveaxis(blobs((3, 25, 30)), 0, c)
    image = write_image(tmp_path / "image.zarr", data, axes) if stored else data
    options = {} if stored else {"axes": axes}
    seen = Counted(lambda tile: ndimage.label(tile.max(axis=c))[0])
    tile_shape = [10, 12]
    tile_shape.insert(c, 1)
    for tile in (tuple(tile_shape), (10, 12)):
        labels = tile_process(
            image,
            seen,
            tile_shape=tile,
            channel=None,
            write_to=tmp_path / "out.zarr",
            overwrite=True,
            **options,
            merge_axes=merge_axes,
        )
        assert labels.shape == (25, 30)
        names = zarr.open_array(tmp_path / "out.zarr" / "labels", mode="r").metadata.dimension_names
        assert names == ("y", "x")
        if merge_axes is None:
            assert_same_objects(labels, label(data.max(axis=c)))
        else:
            one = data.max(axis=c)
            expected = stitch(one, label, cut(one.shape, (10, 12)), (0, 0), merge_axes=(0,))
            assert np.array_equal(np.asarray(labels), expected)
    assert {shape[c] for shape in seen.seen} == {3}


@pytest.mark.parametrize("axes", ["cyx", "yxc"])
@pytest.mark.parametrize("connectivity", [1, 3])
def test_B15_labels_that_keep_the_channels_are_never_joined_across_them(tmp_path, axes, connectivity):
    c = axes.index("c")
    data = np.moveaxis(np.ones((2, 25, 30), "uint8"), 0, c)

    def plane_by_plane(tile):
        planes = [np.full(np.moveaxis(tile, c, 0)[0].shape, i + 1) for i in range(2)]
        return np.stack(planes, axis=c)

    labels = tile_process(
        data,
        plane_by_plane,
        axes=axes,
        channel=None,
        tile_shape=(10, 10),
        overlap=3,
        connectivity=connectivity,
        write_to=tmp_path / "out.zarr",
    )
    assert labels.shape == data.shape
    assert "".join(zarr.open_array(tmp_path / "out.zarr" / "labels").metadata.dimension_names) == axes
    expected = np.moveaxis(np.stack([np.full((25, 30), i) for i in (1, 2)]), 0, c)
    assert_same_objects(labels, expected)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("first_drops", [False, True])
def test_B1_fn_that_drops_the_channels_of_some_tiles_only_is_refused(monkeypatch, slow, first_drops):
    if slow:
        # As if the first call took long, so that a second tile is processed ahead as well.
        monkeypatch.setattr("blockbuster.stage.staging.SLOW_FN_SECONDS", 0.0)

    calls = itertools.count()

    def moody(tile):
        is_first = next(calls) == 0
        return components(tile.max(axis=0) if is_first == first_drops else tile)

    with refused(TileError, "fn returned shape", "all tiles or for none"), dask.config.set(num_workers=1):
        tile_process(blobs((2, 40, 35)), moody, axes="cyx", channel=None, tile_shape=(4, 30))


def test_B16_labels_of_an_image_whose_tiles_are_all_empty_have_no_channels():
    for shape, n_warnings in (((2, 20, 30), 1), ((2, 0, 30), 0), ((0, 20, 30), 0)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            labels = tile_process(
                np.zeros(shape, "uint8"), components, axes="cyx", channel=None, tile_shape=(8, 8), skip_empty=True
            )
        assert labels.shape == shape[1:]
        assert len(said) == n_warnings
        assert not labels.any()


def test_B15_a_time_axis_gets_no_halo_and_joins_nothing():
    image = np.ones((4, 20, 20), "uint8")
    fn = Counted()
    labels = tile_process(image, fn, axes="tyx", tile_shape=(1, 10, 10), overlap=3, connectivity=3)
    assert {shape[0] for shape in fn.seen} == {1}
    assert max(fn.seen) == (1, 13, 13)
    assert_same_objects(labels, np.arange(1, 5)[:, None, None] * image)


def skipped(image, **options):
    """Run with skip_empty, and say what was skipped, what was said, and what came of it."""
    fn = Counted(nonzero_components)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        labels, report = tile_process(
            image, fn, tile_shape=(8, 8), skip_empty=True, return_report=True, **options
        )
    assert (report.n_tiles, report.n_run) == (16, fn.calls)
    assert report.n_run + report.n_skipped == report.n_tiles
    return labels, report, [str(warning.message) for warning in said]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "bool"])
@pytest.mark.parametrize("value", [0, 1])
def test_B16_a_constant_image_is_skipped_and_said_so(dtype, value):
    labels, report, said = skipped(np.full((32, 32), value, dtype))
    if dtype == "bool" and value:
        assert (report.n_skipped, said) == (0, [])
        return
    assert report.n_skipped == 16
    assert report.empty_threshold == value
    assert not labels.any()
    assert len(said) == 1
    assert "All 16 tiles were skipped" in said[0]
    assert f"maximum <= {value}" in said[0]
    assert "empty_threshold" in said[0]


def test_B16_all_foreground_and_a_bright_background_are_not_skipped():
    rng = np.random.default_rng(0)
    for image in (rng.integers(100, 200, (32, 32)), np.where(rng.random((32, 32)) < 0.1, 3, 250)):
        labels, report, said = skipped(image.astype("uint8"))
        assert (report.n_skipped, said) == (0, [])
        assert_same_objects(labels, nonzero_components(image))


@pytest.mark.parametrize(
    ("dtype", "outlier"),
    [
        ("uint16", 2**16 - 1),
        ("uint32", 2**32 - 1),
        ("int64", 2**62),
        ("uint64", 2**64 - 1),
        ("float16", 60000),
        ("float32", 1e30),
        ("float64", 1e300),
    ],
)
def test_B16_B23_one_huge_outlier_exhausts_nothing_and_hides_nothing(dtype, outlier):
    image = np.zeros((32, 32), dtype)
    image[2:6, 2:6] = 5
    image[20, 20] = outlier
    labels, report, said = skipped(image)
    assert (report.n_run, report.n_skipped, said) == (2, 14, [])
    assert report.empty_threshold == 0
    assert_same_objects(labels, nonzero_components(image))


def test_B16_one_dark_outlier_hides_nothing():
    image = np.zeros((32, 32), "int32")
    image[3:6, 3:6] = 5
    image[20, 20] = -(2**31)
    labels, report, _ = skipped(image)
    assert report.n_skipped == 0
    assert_same_objects(labels, nonzero_components(image))


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_B16_nan_and_infinity_never_make_a_tile_empty(fill):
    image = np.zeros((32, 32), "float32")
    image[9, 9] = fill
    for threshold in (None, 0, 1e30):
        _, report, _ = skipped(image, empty_threshold=threshold)
        assert (report.n_run, report.n_skipped) == (1, 15)


def test_B16_the_halo_counts_for_whether_a_tile_is_empty():
    image = np.zeros((32, 32), "uint8")
    image[8, 16:24] = 9
    assert skipped(image, empty_threshold=0)[1].n_run == 1
    _, report, _ = skipped(image, empty_threshold=0, overlap=1)
    assert report.n_run == 6


def test_B16_a_tile_at_the_threshold_is_empty_and_one_above_it_is_not():
    image = np.zeros((32, 32), "uint8")
    image[0, 0], image[0, 8] = 10, 11
    _, report, _ = skipped(image, empty_threshold=10)
    assert (report.n_run, report.empty_threshold) == (1, 10)


def test_B16_skipping_changes_nothing_when_fn_of_background_is_0():
    image = np.zeros((32, 32), "uint8")
    image[1:30, 4] = image[17, 3:30] = 200
    for options in ({}, {"overlap": 3}, {"empty_threshold": 0, "tiles_per_task": 5}):
        labels, report, said = skipped(image, **options)
        assert report.n_skipped > 0
        assert said == []
        assert_same_objects(labels, label(image))


def test_B16_a_threshold_without_skip_empty_is_ignored():
    image = blobs((32, 32))
    for nonsense in (255, "high", np.nan, [1, 2]):
        fn = Counted()
        _, report = tile_process(image, fn, tile_shape=(8, 8), empty_threshold=nonsense, return_report=True)
        assert (fn.calls, report.n_skipped, report.empty_threshold) == (16, 0, None)


@pytest.mark.parametrize(
    ("dtype", "above", "threshold"),
    [
        ("float16", np.inf, 1e5),
        ("float16", np.inf, 1e30),
        ("float32", np.inf, 1e300),
        ("float32", 0.1, 0.1),  # float32 of 0.1 is more than 0.1
        ("int64", 2**53 + 1, 2**53),
        ("uint64", 2**64 - 1, 2**64 - 2),
        ("int64", 2**62 + 1, float(2**62)),
        ("uint8", 1, 0.999),
        ("int8", 0, -1),
        ("float64", 5e-324, 0),
    ],
)
def test_B16_thresholds_are_compared_as_numbers_not_in_the_dtype_of_the_image(dtype, above, threshold):
    image = np.full((32, 32), min(0, threshold), dtype)
    image[9, 9] = above
    _, report, said = skipped(image, empty_threshold=threshold)
    assert (report.n_run, report.n_skipped, said) == (1, 15, [])


@pytest.mark.parametrize(("dtype", "threshold"), [("float16", 1e5), ("float32", 1e300), ("uint8", 10**20)])
def test_B16_a_threshold_that_no_pixel_reaches_skips_all(dtype, threshold):
    _, report, said = skipped(np.full((32, 32), 100, dtype), empty_threshold=threshold)
    assert report.n_skipped == 16
    assert ["All 16 tiles were skipped" in text for text in said] == [True]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_B16_an_image_of_nothing_but_nan_or_infinity_is_not_skipped(dtype, value):
    labels, report, said = skipped(np.full((32, 32), value, dtype))
    assert (report.n_run, report.n_skipped, said) == (16, 0, [])
    assert (np.asarray(labels) == 1).all()


@pytest.mark.parametrize("threshold", ["5", b"5", True, [5], np.array([5]), 1j, {}])
def test_B16_a_threshold_that_is_no_number_is_refused(tmp_path, threshold):
    refuses(
        TypeError,
        "empty_threshold is",
        "a number, or None",
        image=blobs((9, 9)),
        folder=tmp_path,
        skip_empty=True,
        empty_threshold=threshold,
    )


@pytest.mark.parametrize("threshold", [np.nan, 10**400])
def test_B16_a_threshold_that_cannot_be_compared_is_refused(tmp_path, threshold):
    refuses(
        ValueError,
        "empty_threshold is",
        image=blobs((9, 9)),
        folder=tmp_path,
        skip_empty=True,
        empty_threshold=threshold,
    )


@pytest.mark.parametrize("threshold", [3, 3.0, np.uint8(3), np.float32(3), np.array(3)])
def test_B16_numbers_of_any_kind_are_thresholds(threshold):
    image = np.zeros((32, 32), "uint8")
    image[:8, :8] = 4
    assert skipped(image, empty_threshold=threshold)[1].empty_threshold == 3


def test_B17_progress_needs_nothing_else(capfd):
    image = blobs((20, 20))
    assert_same_objects(tile_process(image, components, progress=True), label(image))
    assert "segment" in capfd.readouterr().err


def test_B17_compute_with_write_to_gives_numpy_and_the_store(tmp_path):
    image = blobs((20, 20))
    labels = tile_process(image, components, tile_shape=(8, 8), compute=True, write_to=tmp_path / "out.zarr")
    assert type(labels) is np.ndarray
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr" / "labels", mode="r")[...], labels)
    assert_same_objects(labels, label(image))


def test_B17_write_to_alone_gives_a_dask_array_backed_by_the_store(tmp_path):
    image = blobs((20, 20))
    labels = tile_process(image, components, tile_shape=(8, 8), write_to=tmp_path / "out.zarr")
    assert isinstance(labels, da.Array)
    assert_same_objects(labels.compute(), label(image))
    zarr.open_array(tmp_path / "out.zarr" / "labels", mode="r+")[...] = 7
    assert (labels.compute() == 7).all()


@pytest.mark.parametrize("compute", [False, True])
def test_B17_without_write_to_labels_are_numpy(compute):
    assert type(tile_process(blobs((9, 9)), components, compute=compute)) is np.ndarray


@needs_no_gpu
@pytest.mark.parametrize(
    "tile_shape",
    [None, (8, 8), "auto", functools.partial(auto_tile_shape_cellpose, diameter=10, use_gpu=True)],
    ids=["chunks", "tuple", "auto", "cellpose"],
)
def test_B17_a_gpu_that_is_not_there_is_one_warning_and_one_tile_at_a_time(tile_shape):
    image = blobs((24, 24))
    alone = threading.Lock()

    def fn(tile):
        assert alone.acquire(blocking=False), "two tiles at once"
        try:
            return components(tile)
        finally:
            alone.release()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with dask.config.set(num_workers=4):
            labels = tile_process(image, fn, tile_shape=tile_shape, use_gpu=True)
    assert [warning.category for warning in said] == [BlockbusterWarning]
    assert "use_gpu=True" in str(said[0].message)
    assert_same_objects(labels, label(image))


def test_B17_nothing_is_left_behind_by_runs_without_an_output(tmp_path):
    tile_process(blobs((20, 20)), components, tile_shape=(8, 8), progress=True)
    assert snapshot(tmp_path) == {"temporary": "folder"}
