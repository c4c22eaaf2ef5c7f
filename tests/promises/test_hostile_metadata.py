"""Metadata that are damaged or written to do harm: refused with a sentence, and nothing outside is read."""

import contextlib
import copy
import json
import logging
import shutil
import warnings

import numpy as np
import pytest
import zarr
from commands import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import Counted, refused, write_image

from blockbuster import load_ome_zarr, plan_run, tile_process
from blockbuster.advise.info import inspect_path
from blockbuster.errors import escape_controls

IMAGE = np.zeros((2, 12, 10), "uint8")
# What clears a screen, renames a window, overwrites a line, and turns the direction of writing.
ODD = "\x1b[2J\x1b]0;mine\x07\rDAPI\x9b31m\u202egnp\u2028.\udc80"


def array_of(shape, chunks, zarr_format):
    """The name and content of an array's metadata."""
    common = {"zarr_format": zarr_format, "shape": shape, "fill_value": 0}
    if zarr_format == 2:
        v2 = {"chunks": chunks, "dtype": "|u1", "compressor": None, "order": "C", "filters": None}
        return ".zarray", json.dumps(common | v2)
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    v3 = {"node_type": "array", "data_type": "uint8", "chunk_grid": grid, "codecs": [{"name": "bytes"}]}
    return "zarr.json", json.dumps(common | v3 | {"chunk_key_encoding": {"name": "default"}, "attributes": {}})


FORMS = {
    "10^40 voxels long": ([10**40, 10], [10, 10]),
    "10^5000 voxels long": ([10**4000, 10**1000], [10, 10]),
    "2^63 voxels long": ([2**63, 2], [2, 2]),
    "10^12 chunks along an axis": ([10**12], [1]),
    "2^42 chunks along an axis": ([2**62, 4], [2**20, 4]),
    "chunks without voxels": ([10, 10], [0, 10]),
    "negative": ([-5, 10], [5, 5]),
    "half voxels": ([1.5, 10], [5, 5]),
    "no numbers": (["a", 10], [5, 5]),
    "no shape": (None, [5, 5]),
    "chunks larger than memory": ([10, 10], [10**30, 10]),
    "fewer chunk axes": ([10, 10], [10]),
    "100 axes": ([2] * 100, [1] * 100),
}


def asked(path):
    """Everything that opens an image without reading it."""
    yield lambda: plan_run(path, tile_shape="auto")
    yield lambda: plan_run(path)
    yield lambda: inspect_path(path)
    yield lambda: load_ome_zarr(path)


def zarr_repairs(path):
    """Whether zarr opens an array that is damaged, with a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with contextlib.suppress(Exception):
            return min(zarr.open_array(path, mode="r").chunks) > 0 and bool(said)
    return False


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", FORMS)
def test_F37_an_array_of_absurd_form_is_refused_with_a_sentence(name, zarr_format, tmp_path, capsys):
    file, text = array_of(*FORMS[name], zarr_format)
    (tmp_path / file).write_text(text)
    if name == "chunks without voxels" and zarr_repairs(tmp_path):
        pytest.skip("this version of zarr reads a chunk of 0 as 1, and says so in a warning of its own")
    for ask in asked(tmp_path):
        with refused(ValueError, f"image .*{tmp_path}", folder=tmp_path):
            ask()
    assert run(f"info {tmp_path}") == run(f"segment {tmp_path} --fn otsu --write-to {tmp_path}/../out") == 2
    assert max(map(len, capsys.readouterr().err.splitlines())) < 1000


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_F37_an_absurd_level_of_a_sound_image_is_refused(zarr_format, tmp_path):
    path = write_image(tmp_path / "image.zarr", IMAGE, "cyx", levels=("0", "1"), zarr_format=zarr_format)
    file, text = array_of([2, 10**40, 10], [1, 10, 10], zarr_format)
    (path / "1" / file).write_text(text)
    for ask in (
        lambda: plan_run(path, tile_shape="auto", write_to=tmp_path / "labels.zarr"),
        lambda: inspect_path(path),
        lambda: load_ome_zarr(path, level=1),
    ):
        with refused(ValueError, "image .*more voxels than can be counted", folder=tmp_path):
            ask()


@pytest.mark.parametrize("tile_shape", [None, (5, 5), (1, 10**6)])
def test_F37_more_tiles_than_can_be_counted_are_refused(tile_shape, tmp_path):
    file, text = array_of([10**6, 10**6], [1, 1], 3)
    (tmp_path / file).write_text(text)
    fn = Counted()
    if tile_shape == (1, 10**6):
        assert plan_run(tmp_path, tile_shape=tile_shape).n_tiles == 10**6
        return
    with refused(ValueError, r"tiles; a run keeps count of at most 1,000,000,000.*larger", folder=tmp_path):
        tile_process(tmp_path, fn, tile_shape=tile_shape)
    assert fn.calls == 0


NESTED = {
    "attributes": ("zarr.json", '{"zarr_format":3,"node_type":"group","attributes":%s}'),
    "plain": ("zarr.json", "%s"),
    "v2": (".zattrs", "%s"),
    "array": (".zarray", "%s"),
}


@pytest.mark.parametrize("name", NESTED)
def test_F37_metadata_nested_without_end_are_refused_with_a_sentence(name, tmp_path):
    file, text = NESTED[name]
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / file).write_text(text % ('{"a":' * 10**5 + "1" + "}" * 10**5))
    for ask in asked(tmp_path):
        with refused(ValueError, f"image .*{tmp_path}", folder=tmp_path):
            ask()
    with refused(ValueError, "is a zarr group|is not a zarr|lies in|image", folder=tmp_path):
        tile_process(tmp_path, Counted(), write_to=tmp_path / "labels", tile_shape=(4, 4))


OUTSIDE = [
    "../secret.zarr",
    "/",
    "a/../../secret.zarr",
    "..",
    "{}/secret.zarr",
    "0::memory://x",
    "a\0b",
    "x" * 256,
    "\ud800",
]


@pytest.fixture
def secret(tmp_path):
    """An array that no metadata may lead to."""
    return write_image(tmp_path / "secret.zarr", IMAGE + 1, "")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("path", OUTSIDE)
def test_F36_a_level_that_lies_outside_of_its_image_is_not_read(path, zarr_format, secret, tmp_path):
    image = write_image(tmp_path / "image.zarr", IMAGE, "cyx", levels=("0",), zarr_format=zarr_format)
    group = zarr.open_group(image, mode="r+")
    attributes = json.loads(json.dumps(group.attrs.asdict()).replace('"path": "0"', '"path": "PATH"'))
    attributes = json.loads(json.dumps(attributes).replace('"PATH"', json.dumps(path.format(tmp_path))))
    group.attrs.update(attributes)
    for ask in asked(image):
        with refused(ValueError, "image .*image.zarr: its metadata name .*, which is no path inside"):
            ask()


def listed_images(path, zarr_format):
    """Metadata of every kind of collection, and of an image's labels, that name `path`."""
    kinds = {
        "plate": {"plate": {"wells": [{"path": path}]}},
        "well": {"well": {"images": [{"path": path}]}},
        "series": {"bioformats2raw.layout": 3},
    }
    return {
        name: {"ome": {"version": "0.5", **kind}} if zarr_format == 3 else kind for name, kind in kinds.items()
    }


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", ["plate", "well", "series"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_F36_an_image_that_lies_outside_of_its_collection_is_not_listed(
    path, kind, zarr_format, secret, tmp_path
):
    path = path.format(tmp_path)
    group = zarr.create_group(tmp_path / "all.zarr", zarr_format=zarr_format)
    group.attrs.update(listed_images(path, zarr_format)[kind])
    series = {"series": [path]}
    group.create_group("OME").attrs.update({"ome": series} if zarr_format == 3 else series)
    for ask in asked(tmp_path / "all.zarr"):
        with refused(ValueError, "image .*all.zarr: its metadata name .*, which is no path inside"):
            ask()


@pytest.mark.parametrize("path", OUTSIDE)
def test_F36_labels_that_lie_outside_of_their_image_are_not_listed(path, secret, tmp_path):
    image = write_image(tmp_path / "image.zarr", IMAGE, "cyx", levels=("0",))
    zarr.open_group(image, mode="r+").create_group("labels").attrs["ome"] = {"labels": [path.format(tmp_path)]}
    with refused(ValueError, "its metadata name .*, which is no path inside"):
        inspect_path(image)


def odd_image(path):
    """An image with odd names wherever there is one."""
    write_image(path, IMAGE, "cyx", levels=("0",))
    group = zarr.open_group(path, mode="r+")
    ome = copy.deepcopy(group.attrs["ome"])
    ome["omero"] = {"channels": [{"label": ODD.replace("\udc80", "")}, {"label": "a\nlabels    x"}]}
    ome["multiscales"][0]["axes"][1]["unit"] = ODD.replace("\udc80", "")
    group.attrs["ome"] = ome
    return path


def assert_tame(text):
    assert text == escape_controls(text)


def test_F36_names_from_metadata_do_not_reach_the_terminal_as_commands(tmp_path, capsys, caplog):
    image = odd_image(tmp_path / "image\x1b[2J.zarr")
    zarr.create_group(tmp_path / "plain").create_group("odd\x1b[31m").create_array("x", shape=(3,), dtype="u1")
    assert run(f"info '{image}'") == 0
    assert run(f"info '{tmp_path / 'plain'}'") == 0
    assert run(f"segment '{image}' --fn otsu --write-to o.zarr --channel 7") == 2
    assert run(f"segment '{tmp_path / 'plain'}' --fn otsu --write-to o.zarr") == 2
    assert run(f"segment '{image}' --fn otsu --write-to o.zarr --dry-run") == 0
    said = capsys.readouterr()
    assert_tame(said.out)
    assert_tame(said.err)
    assert r"0 \x1b[2J\x1b]0;mine\x07\rDAPI\x9b31m\u202egnp\u2028., 1 a\nlabels" in said.out
    for ask in (lambda: plan_run(image, channel=7), lambda: plan_run(tmp_path / "plain")):
        with pytest.raises(ValueError, match="channels|no OME-Zarr image") as caught:
            ask()
        assert_tame(str(caught.value).replace(str(tmp_path), "").replace("image\x1b[2J.zarr", ""))


def test_F36_a_file_name_that_is_no_text_is_shown(tmp_path, capsys):
    path = str(tmp_path) + "/image\udc80.zarr"
    shutil.copytree(write_image(tmp_path / "a.zarr", IMAGE, "cyx"), path)
    assert run(f"info '{path}'") == 0
    assert r"image\udc80.zarr" in capsys.readouterr().out


@pytest.mark.filterwarnings("default:9 tiles failed")
def test_F36_errors_and_logs_do_not_reach_the_terminal_as_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image.zarr", IMAGE, "cyx")
    (tmp_path / "rude.py").write_text("def fails(tile):\n    raise ValueError('a\\x1b[2Jb\\rc')\n")
    monkeypatch.setattr(logging.getLogger("blockbuster"), "propagate", False)
    options = "--tile-shape 4,4 --write-to out.zarr --verbose"
    assert run(f"segment image.zarr --fn rude:fails {options} --on-error skip") == 0
    assert run(f"segment image.zarr --fn rude:fails {options} --overwrite") == 1
    said = capsys.readouterr()
    assert_tame(said.out.replace("\r", ""))
    assert_tame(said.err)
    assert said.err.count(r"a\x1b[2Jb\rc") >= 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "name", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value, above=()):
    """The way to every value in nested lists and dictionaries."""
    yield above
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from places(inner, (*above, key))


def changed(value, way, new):
    value = copy.deepcopy(value)
    at = value
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = new
    return value


SCALES = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}, {"type": "translation", "translation": [0.0, 1.0, 2.0]}]
AXES = [
    {"name": name, "type": kind, "unit": "um"}
    for name, kind in zip("cyx", ("channel", "space", "space"), strict=True)
]
SOUND = {
    "version": "0.5",
    "multiscales": [
        {
            "axes": AXES,
            "datasets": [{"path": path, "coordinateTransformations": SCALES} for path in ("0", "1")],
            "coordinateTransformations": SCALES[:1],
            "name": "image",
        }
    ],
    "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "image.zarr"
    write_image(path, IMAGE, "cyx", levels=("0", "1"))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from([way for way in places(SOUND) if way]), JSON)
def test_F37_any_ome_metadata_are_read_or_refused_with_a_sentence(sound, way, value):
    zarr.open_group(sound, mode="r+").attrs["ome"] = changed(SOUND, way, value)
    said = []
    for ask in asked(sound):
        try:
            ask()
        except (ValueError, FileNotFoundError) as error:
            said.append(str(error))
    assert all("image" in text and str(sound) in text for text in said)


def test_B15_a_sound_image_is_read(sound):
    zarr.open_group(sound, mode="r+").attrs["ome"] = SOUND
    assert inspect_path(sound).levels[0].voxel_size == (1.0, 0.25, 0.25)
