import hashlib
import sys
import types
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

from blockbuster.source import DaskSource, NumpySource, ZarrSource, load_ome_zarr, open_source

IMAGES = {
    "ngffzarr_v04_hela_cyx.zarr": ("cyx", "scale{}/image"),
    "ngffzarr_v05_hela_cyx.zarr": ("cyx", "scale{}/image"),
    "ngffzarr_v05_nuclei3d_zyx.zarr": ("zyx", "scale{}/image"),
    "omezarrpy_v04_hela_cyx.zarr": ("cyx", "s{}"),
    "omezarrpy_v04_nuclei3d_zyx.zarr": ("zyx", "s{}"),
    "omezarrpy_v05_nuclei3d_zyx.zarr": ("zyx", "s{}"),
}


def whole(source):
    return source.read(tuple(slice(0, n) for n in source.shape))


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("level", [0, 1])
def test_images_that_other_programs_wrote_are_read_like_zarr_reads_them(name, level, third_party):
    axes, path = IMAGES[name]
    stored = zarr.open_array(Path(third_party / name / path.format(level)), mode="r")
    source = open_source(third_party / name, level=level, channel=None)
    assert source.axes == axes
    assert source.path == str(third_party / name)
    np.testing.assert_array_equal(whole(source), stored[...])
    if axes[0] == "c":
        for channel in range(3):
            one = open_source(third_party / name, level=level, channel=channel)
            assert one.axes == "yx"
            np.testing.assert_array_equal(whole(one), stored[channel])


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_other_programs_wrote_are_loaded_as_dask_arrays(name, third_party):
    source = open_source(third_party / name, channel=0)
    image = load_ome_zarr(third_party / name)
    assert (image.shape, image.dtype) == (source.shape, source.dtype)
    np.testing.assert_array_equal(image.compute(scheduler="synchronous"), whole(source))


def test_reading_leaves_every_file_as_it_was(third_party):
    def digests():
        files = sorted(path for path in third_party.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}

    before = digests()
    for name in IMAGES:
        whole(open_source(third_party / name))
    assert digests() == before


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["tczyx", "tzcyx", "cyx", "yxc", "tyxc", "czyx"])
def test_channel_selects_on_its_axis_wherever_that_is(axes, zarr_format, tmp_path, write):
    lengths = {"t": 2, "c": 3, "z": 5, "y": 7, "x": 11}
    data = write.pixels(tuple(lengths[a] for a in axes))
    write.ome(tmp_path, data, axes, zarr_format=zarr_format, chunks=tuple(-(-n // 2) for n in data.shape))
    for channel in range(3):
        source = open_source(tmp_path, channel=channel)
        assert source.axes == axes.replace("c", "")
        np.testing.assert_array_equal(whole(source), data.take(channel, axes.index("c")))
    source = open_source(tmp_path, channel=None)
    assert source.axes == axes
    np.testing.assert_array_equal(whole(source), data)


def test_level_selects_an_array_of_the_pyramid(tmp_path, write):
    data = write.pixels((2, 16, 12))
    write.ome(tmp_path, data, "cyx", levels=("full", "half/way", "4"))
    assert [open_source(tmp_path, level=i).shape for i in range(3)] == [(16, 12), (8, 6), (4, 3)]
    np.testing.assert_array_equal(whole(open_source(tmp_path, level=1, channel=1)), data[1, ::2, ::2])


def test_an_image_without_channels_ignores_the_default_alone(tmp_path, write):
    write.ome(tmp_path, write.pixels((3, 4, 5)), "zyx")
    for channel in (0, None):
        assert open_source(tmp_path, channel=channel).shape == (3, 4, 5)
    with pytest.raises(ValueError, match=r"channel is 1.*no channel axis \(shape \(3, 4, 5\), axes 'zyx'\)"):
        open_source(tmp_path, channel=1)


def test_a_channel_that_is_not_there_lists_those_that_are(tmp_path, write):
    write.ome(tmp_path, write.pixels((2, 4, 5)), "cyx", channels=("DAPI", "GFP"))
    with pytest.raises(ValueError, match=r"channel is 2.*has 2 channels.*0 \(DAPI\), 1 \(GFP\)"):
        open_source(tmp_path, channel=2)


def test_a_level_that_is_not_there_lists_those_that_are(tmp_path, write):
    write.ome(tmp_path, write.pixels((8, 6)), "yx", levels=("s0", "x/s1"))
    message = r"level is 2.*has 2: 0 \('s0', shape \(8, 6\)\), 1 \('x/s1', shape \(4, 3\)\)"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, level=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channel": -1}, ValueError, "channel is -1; it counts from 0"),
        ({"channel": 1.0}, TypeError, "channel is 1.0"),
        ({"channel": True}, TypeError, "channel is True"),
        ({"level": -1}, ValueError, "level is -1; it counts from 0"),
        ({"level": None}, TypeError, "level is None"),
        ({"level": False}, TypeError, "level is False"),
    ],
)
def test_channel_and_level_are_integers_from_zero(options, error, message, tmp_path, write):
    write.ome(tmp_path, write.pixels((2, 4, 5)), "cyx")
    with pytest.raises(error, match=message):
        open_source(tmp_path, **options)


def test_an_array_that_the_metadata_promise_but_is_missing_is_named(tmp_path, write):
    group = write.ome(tmp_path, write.pixels((4, 5)), "yx", levels=("s0",))
    datasets = [{"path": "s0"}, {"path": "s1"}, {"path": "labels"}]
    group.attrs["ome"] = {"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": datasets}]}
    group.create_group("labels")
    with pytest.raises(FileNotFoundError, match=r"s1 does not exist.*s0"):
        open_source(tmp_path, level=1)
    with pytest.raises(ValueError, match=r"labels is a zarr group, not the array"):
        open_source(tmp_path, level=2)


def test_metadata_with_another_number_of_axes_than_the_array_are_refused(tmp_path, write):
    write.ome(tmp_path, write.pixels((3, 4, 5)), "yx")
    with pytest.raises(ValueError, match=r"axes 'yx', but '0' has shape \(3, 4, 5\)"):
        open_source(tmp_path)


def test_axes_may_repeat_what_the_metadata_say_and_nothing_else(tmp_path, write):
    write.ome(tmp_path, write.pixels((3, 4, 5)), "cyx")
    assert open_source(tmp_path, axes="cyx").axes == "yx"
    with pytest.raises(ValueError, match=r"axes is 'zyx', but the metadata of .* say 'cyx'"):
        open_source(tmp_path, axes="zyx")
    with pytest.raises(ValueError, match=r"2 letters.*3 axes.*a channel axis included"):
        open_source(tmp_path, axes="yx")


def test_a_plain_array_has_the_axes_that_the_user_names(tmp_path, write):
    data = write.pixels((3, 4, 5))
    write.array(tmp_path, data, zarr_format=2)
    assert open_source(tmp_path).axes is None
    assert open_source(tmp_path).shape == (3, 4, 5)
    np.testing.assert_array_equal(whole(open_source(tmp_path, axes="yxc", channel=2)), data[..., 2])
    assert open_source(tmp_path, axes="cyx").axes == "yx"
    assert open_source(tmp_path, axes="cyx", channel=None).axes == "cyx"
    with pytest.raises(ValueError, match=r"channel is 1.*unknown axes: name them.*axes="):
        open_source(tmp_path, channel=1)
    with pytest.raises(ValueError, match=r"level is 1.*no levels"):
        open_source(tmp_path, level=1)


@pytest.mark.parametrize(
    ("names", "axes"),
    [(("c", "y", "x"), "cyx"), (("lat", "y", "x"), None), (("c", "y", None), None), (None, None)],
)
def test_dimension_names_are_axes_where_they_are_the_usual_letters(names, axes, tmp_path, write):
    array = write.array(tmp_path, write.pixels((3, 4, 5)), dimension_names=names)
    assert open_source(tmp_path, channel=None).axes == axes
    assert open_source(tmp_path).axes == (axes and "yx")
    assert open_source(array).axes == axes
    assert open_source(array, axes="cyx").axes == "cyx"


def test_dimension_names_may_not_be_contradicted(tmp_path, write):
    array = write.array(tmp_path, write.pixels((3, 4, 5)), dimension_names=("z", "y", "x"))
    for image in (array, tmp_path):
        with pytest.raises(ValueError, match="axes is 'tyx', but the metadata"):
            open_source(image, axes="tyx")
    assert open_source(da.from_zarr(array), axes="tyx").axes == "tyx"


def test_an_array_inside_an_image_is_a_plain_array(tmp_path, write):
    write.ome(tmp_path, write.pixels((3, 4, 5)), "cyx")
    assert open_source(tmp_path / "0").shape == (3, 4, 5)
    assert open_source(tmp_path / "0").path == str(tmp_path / "0")


@pytest.mark.parametrize("wrap", [np.asarray, da.from_array, zarr.array])
def test_channel_and_level_are_ignored_for_arrays(wrap):
    source = open_source(wrap(np.zeros((3, 4, 5))), channel=7, level=9, axes="cyx")
    assert (source.axes, source.shape) == ("cyx", (3, 4, 5))


def test_each_kind_of_image_gets_its_source(tmp_path, write):
    data = write.pixels((4, 5))
    array = write.array(tmp_path, data)
    assert type(open_source(data)) is NumpySource
    assert type(open_source(da.from_array(data))) is DaskSource
    for image in (array, tmp_path, str(tmp_path)):
        assert type(open_source(image)) is ZarrSource


@pytest.mark.parametrize("image", [None, 3, [[1, 2]], (1,), np.float32(1), b"a.zarr", {"a": 1}])
def test_anything_else_is_refused_with_what_is_accepted(image):
    with pytest.raises(TypeError, match=r"accepted are a path or URL.*zarr\.Array.*dask array.*NumPy array"):
        open_source(image)


def test_an_image_is_opened_while_another_thread_imports_dask_array(monkeypatch):
    # What is there of a module until its import has ended.
    monkeypatch.setitem(sys.modules, "dask.array", types.ModuleType("dask.array"))
    assert open_source(np.zeros((4, 4), "uint8")).kind == "numpy"


def test_loading_reads_no_pixel(tmp_path):
    zarr.create_array(tmp_path, shape=(10**6, 10**6), chunks=(10**4, 10**4), dtype="u1")
    image = load_ome_zarr(tmp_path)
    assert image.shape == (10**6, 10**6)
    assert image.chunksize == (10**4, 10**4)


@pytest.mark.parametrize(
    ("chunks", "want"),
    [
        (None, ((8, 8), (8, 4))),
        (5, ((5, 5, 5, 1), (5, 5, 2))),
        ((4, -1), ((4, 4, 4, 4), (12,))),
        ({0: 8}, ((8, 8), (12,))),
        (((1, 15), (12,)), ((1, 15), (12,))),
        ("auto", ((16,), (12,))),
    ],
)
@pytest.mark.parametrize("axes", ["cyx", "yxc"])
def test_loaded_chunks_are_shards_or_what_was_asked_for(chunks, want, axes, tmp_path, write):
    data = write.pixels((16, 12, 3), ">u2")
    if axes == "cyx":
        data = data.transpose(2, 0, 1)
    stored = {"y": 8, "x": 8, "c": 2}
    group = write.ome(tmp_path, data, axes, levels=("s0",))
    shards = tuple(stored[a] for a in axes)
    inner = tuple(-(-n // 2) for n in shards)
    write.array(group.store_path / "s0", data, chunks=inner, shards=shards, overwrite=True)
    image = load_ome_zarr(tmp_path, channel=2, chunks=chunks)
    assert image.chunks == want
    assert image.dtype == np.dtype("uint16")
    assert image.dtype.isnative
    np.testing.assert_array_equal(image.compute(scheduler="synchronous"), data.take(2, axes.index("c")))
    all_channels = load_ome_zarr(tmp_path, channel=None)
    np.testing.assert_array_equal(all_channels.compute(scheduler="synchronous"), data)


def test_a_loaded_image_has_the_same_name_every_time(tmp_path, write):
    write.ome(tmp_path, write.pixels((4, 5)), "yx")
    assert load_ome_zarr(tmp_path).name == load_ome_zarr(tmp_path).name
    assert load_ome_zarr(tmp_path).name != load_ome_zarr(tmp_path, level=1).name


def test_a_big_endian_image_is_loaded_in_native_byte_order(tmp_path, write):
    data = write.pixels((4, 5), ">i4")
    write.ome(tmp_path, data, "yx", zarr_format=2)
    image = load_ome_zarr(tmp_path)
    assert image.dtype.isnative
    with dask.config.set(scheduler="synchronous"):
        assert image.compute().dtype.isnative
        np.testing.assert_array_equal(image, data)
