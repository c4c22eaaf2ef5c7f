import numpy as np
import pytest
import zarr

from blockbuster.source import open_source
from blockbuster.source.collection import describe_contents
from blockbuster.source.location import locate
from blockbuster.source.ome_zarr import axis_letters, read_ome_image


def named(*names, kind="space"):
    return [{"name": name, "type": kind} for name in names]


@pytest.mark.parametrize(
    ("axes", "letters"),
    [
        (named("z", "y", "x"), "zyx"),
        (named("Z", "Y", "X"), "zyx"),
        (named("time", kind="time") + named("wave", kind="channel") + named("z", "y", "x"), "tczyx"),
        (named("y", "x") + named("c", kind="channel"), "yxc"),
        (named("row", "col"), "yx"),
        (named("depth", "y", "x"), "zyx"),
        (named("y", "row", "x"), "zyx"),
        (named("t", "c"), "yx"),
        (named("a", "y", "x"), "ayx"),
        (["t", "c", "z", "y", "x"], "tczyx"),
        (["channel", "y", "x"], "cyx"),
        ([{"name": "T"}, {"name": "y"}, {"name": "x"}], "tyx"),
        (named("phase", kind="phase") + named("y", "x"), "pyx"),
        (named("tc", kind="lag") + named("a", "x"), "bax"),
        (named("", kind="other") + named("y", "x"), "ayx"),
        (named("c0", kind="channel") + named("c1", kind="channel") + named("y", "x"), "cayx"),
    ],
)
def test_axes_get_different_letters_by_type_and_place(axes, letters):
    assert axis_letters(axes) == letters
    assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_levels_and_channels_are_read_from_either_version(zarr_format, tmp_path, write):
    data = write.pixels((2, 8, 9))
    levels = ("scale0/image", "scale1/image", "s2")
    write.ome(tmp_path, data, "cyx", levels, zarr_format, channels=("DAPI", "GFP"))
    image = read_ome_image(zarr.open_group(tmp_path, mode="r"))
    assert image.axes == "cyx"
    assert image.levels == levels
    assert image.channels == ("DAPI", "GFP")


def test_a_group_without_multiscales_is_no_image(tmp_path):
    group = zarr.open_group(tmp_path, mode="w")
    assert read_ome_image(group) is None
    group.attrs["ome"] = {"version": "0.5"}
    assert read_ome_image(group) is None


def test_the_first_of_several_multiscales_is_used(tmp_path, write):
    group = write.ome(tmp_path, write.pixels((8, 9)), "yx", levels=("a",))
    metadata = group.attrs["ome"]
    group.attrs["ome"] = {"multiscales": [*metadata["multiscales"], {"datasets": [{"path": "b"}]}]}
    assert read_ome_image(group).levels == ("a",)


@pytest.mark.parametrize(
    "multiscales", [[{}], [{"datasets": [{}]}], [{"datasets": None}], ["text"], {"datasets": []}, 3]
)
def test_broken_metadata_are_an_error_that_names_the_image(multiscales, tmp_path):
    zarr.open_group(tmp_path, mode="w", zarr_format=2).attrs["multiscales"] = multiscales
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*multiscales.*broken"):
        open_source(tmp_path)


@pytest.mark.parametrize("omero", [None, [], {}, {"channels": None}, {"channels": [{}, None]}])
def test_odd_channel_names_do_no_harm(omero, tmp_path, write):
    group = write.ome(tmp_path, write.pixels((2, 8, 9)), "cyx", zarr_format=2)
    group.attrs["omero"] = omero
    assert open_source(tmp_path, channel=1).shape == (8, 9)
    with pytest.raises(ValueError, match=r"has 2 channels, counted from 0\.$"):
        open_source(tmp_path, channel=2)


def test_an_old_image_without_axes_is_time_to_x_if_it_has_five(tmp_path, write):
    write.ome(tmp_path / "five", write.pixels((1, 2, 3, 4, 5)), None, zarr_format=2)
    source = open_source(tmp_path / "five", channel=1)
    assert (source.axes, source.shape) == ("tzyx", (1, 3, 4, 5))
    write.ome(tmp_path / "three", write.pixels((3, 4, 5)), None, zarr_format=2)
    assert open_source(tmp_path / "three").axes is None
    assert open_source(tmp_path / "three", axes="cyx", channel=2).shape == (4, 5)


def test_a_group_lists_the_arrays_and_images_inside_with_their_paths(tmp_path, write):
    group = zarr.open_group(tmp_path, mode="w")
    write.array(group.store_path / "deep" / "a", write.pixels((4, 5), "uint8"))
    write.ome(group.store_path / "image", write.pixels((4, 5)), "yx")
    with pytest.raises(ValueError, match="no OME-Zarr image") as caught:
        open_source(tmp_path)
    assert f"\n  {tmp_path}/deep/a (uint8, shape (4, 5))" in str(caught.value)
    assert str(caught.value).endswith(f"\n  {tmp_path}/image")
    assert open_source(f"{tmp_path}/image").shape == (4, 5)


def test_an_empty_group_says_so(tmp_path):
    zarr.open_group(tmp_path, mode="w")
    with pytest.raises(ValueError, match="without images or arrays inside"):
        open_source(tmp_path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plate_lists_its_first_images(zarr_format, tmp_path, write):
    plate = zarr.open_group(tmp_path, mode="w", zarr_format=zarr_format)
    wells = {"plate": {"wells": [{"path": "A/1"}, {"path": "A/2"}]}}
    plate.attrs.update({"ome": wells} if zarr_format == 3 else wells)
    for well in ("A/1", "A/2"):
        zarr.open_group(plate.store_path / well, mode="w", zarr_format=zarr_format).attrs["well"] = {}
        for field in range(4):
            write.ome(plate.store_path / well / str(field), write.pixels((4, 5)), "yx", ("0",), zarr_format)
    with pytest.raises(ValueError, match="an HCS plate") as caught:
        open_source(tmp_path)
    listed = str(caught.value).split("\n  ")[1:]
    assert listed == [f"{tmp_path}/A/{well}/{i}" for well in (1, 2) for i in range(4)][:6] + ["..."]
    assert open_source(listed[5]).shape == (4, 5)
    with pytest.raises(ValueError, match="a well of an HCS plate"):
        open_source(tmp_path / "A" / "1")


def test_a_bioformats2raw_collection_lists_its_images(tmp_path, write):
    group = zarr.open_group(tmp_path, mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    zarr.open_group(tmp_path / "OME", mode="w", zarr_format=2)
    (tmp_path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    (tmp_path / "thumbnails").mkdir()
    write.ome(tmp_path / "0", write.pixels((4, 5)), "yx", zarr_format=2)
    with pytest.raises(ValueError, match="bioformats2raw") as caught:
        open_source(tmp_path)
    assert str(caught.value).split("\n  ")[1:] == [f"{tmp_path}/0"]


def test_contents_of_a_url_are_listed_as_urls(write):
    group = zarr.open_group("memory://blockbuster/group", mode="w")
    write.array(group.store_path / "a", write.pixels((4, 5)))
    text = describe_contents(group, locate("memory://blockbuster/group"))
    assert "memory://blockbuster/group/a (uint16, shape (4, 5))" in text


def test_a_label_image_inside_an_image_is_an_image(third_party):
    source = open_source(third_party / "omezarrpy_v05_nuclei3d_zyx.zarr" / "labels" / "gt")
    assert source.axes == "zyx"
    labels = source.read(tuple(slice(0, n) for n in source.shape))
    assert np.count_nonzero(np.unique(labels)) == 51


@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stale_consolidated_metadata_are_not_believed(zarr_format, tmp_path, write):
    group = write.ome(tmp_path, write.pixels((4, 5)), "yx", ("s0",), zarr_format)
    zarr.consolidate_metadata(tmp_path, zarr_format=zarr_format)
    write.array(group.store_path / "s0", write.pixels((6, 7)), overwrite=True, zarr_format=zarr_format)
    assert open_source(tmp_path).shape == (6, 7)
