"""OME-Zarr of every version, stated or not: read as what it is, or refused by name before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from commands import run, spots
from naive import partition_fault
from outcomes import refused, refuses, refuses_labels
from scipy import ndimage

from blockbuster import estimate_empty_tiles, intensity_percentiles, load_ome_zarr, plan_run, tile_process
from blockbuster.source import open_source

PIXELS = spots((2, 40, 50))
AXES = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
DATASETS = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}]
# What 0.6 has in place of axes.
SYSTEMS = {"coordinateSystems": [{"name": "physical", "axes": AXES}]}
UNKNOWN = ["0.6", "0.6.dev3", "0.6-rc1", "1.0", "0.10", "0.6-dev-spatialdata", "latest"]


def write(path, attributes, zarr_format, data=PIXELS):
    """An image with one level."""
    group = zarr.create_group(path, zarr_format=zarr_format)
    group.attrs.update(attributes)
    array = group.create_array(
        "0", shape=data.shape, dtype=data.dtype, chunks=tuple(min(16, n) for n in data.shape)
    )
    array[...] = data
    return path


def nested(version, **image):
    """As 0.5 has it."""
    return {
        "ome": {**({"version": version} if version else {}), "multiscales": [{"datasets": DATASETS, **image}]}
    }


def flat(version, **image):
    """As 0.4 has it."""
    return {"multiscales": [{**({"version": version} if version else {}), "datasets": DATASETS, **image}]}


def segment(tile):
    return ndimage.label(tile > 110)[0]


@pytest.fixture
def unknown(tmp_path):
    return write(tmp_path / "image.zarr", nested("0.6", **SYSTEMS), 3)


@pytest.mark.parametrize("version", UNKNOWN)
@pytest.mark.parametrize(("layout", "zarr_format"), [(nested, 3), (nested, 2), (flat, 2), (flat, 3)])
def test_B22_a_version_that_is_not_known_is_refused_by_its_name(layout, zarr_format, version, tmp_path):
    path = write(tmp_path / "image.zarr", layout(version, axes=AXES), zarr_format)
    refuses(ValueError, f"OME-Zarr version {version};", "0.1 to 0.5", image=path, folder=tmp_path)


def test_B22_everything_that_takes_an_image_refuses_a_version_that_is_not_known(unknown, tmp_path):
    pytest.importorskip("matplotlib")
    from blockbuster.plot import show_tiles

    for ask in (plan_run, load_ome_zarr, estimate_empty_tiles, intensity_percentiles, show_tiles):
        tiles = {"tile_shape": (16, 16)} if ask in (estimate_empty_tiles, show_tiles) else {}
        with refused(ValueError, "OME-Zarr version 0.6;", folder=tmp_path):
            ask(unknown, **tiles)


@pytest.mark.parametrize("command", ["info", "segment --fn otsu --write-to out.zarr", "estimate-empty"])
def test_B22_the_command_line_refuses_a_version_that_is_not_known(command, unknown, capsys):
    name, *rest = command.split(" ", 1)
    assert run(f"{name} {unknown} {''.join(rest)}") == 2
    assert "OME-Zarr version 0.6;" in capsys.readouterr().err


def test_B22_labels_are_not_written_into_an_image_of_a_version_that_is_not_known(unknown, tmp_path):
    options = {"write_to": unknown, "output_component": "labels/cells"}
    refuses(ValueError, "OME-Zarr version 0.6;", image=PIXELS[0], folder=tmp_path, **options)
    refuses(ValueError, "OME-Zarr version 0.6;", image=unknown / "0", folder=tmp_path, **options)


def test_B22_the_array_of_an_unknown_version_can_be_named_with_its_axes(unknown):
    labels = tile_process(unknown / "0", segment, axes="cyx", channel=1, tile_shape=(16, 16))
    assert not partition_fault(labels, segment(PIXELS[1]))


@pytest.mark.parametrize("kind", ["plate", "well"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_B22_a_plate_of_a_version_that_is_not_known_is_refused(kind, zarr_format, tmp_path, capsys):
    group = zarr.create_group(tmp_path / "plate.zarr", zarr_format=zarr_format)
    inner = {"version": "0.6", "wells": [{"path": "A/1"}], "images": [{"path": "0"}]}
    group.attrs.update({"ome": {"version": "0.6", kind: inner}} if zarr_format == 3 else {kind: inner})
    refuses(ValueError, "OME-Zarr version 0.6;", image=tmp_path / "plate.zarr")
    assert run(f"info {tmp_path / 'plate.zarr'}") == 2
    assert "OME-Zarr version 0.6;" in capsys.readouterr().err


@pytest.mark.parametrize("listing", [{}, {"well": {"images": [{"path": "new"}, {"path": "old"}]}}])
def test_B22_a_list_of_images_says_which_cannot_be_read(listing, tmp_path, capsys):
    zarr.create_group(tmp_path / "both").attrs.update({"ome": {"version": "0.5", **listing}} if listing else {})
    write(tmp_path / "both" / "new", nested("0.6", **SYSTEMS), 3)
    write(tmp_path / "both" / "old", nested("0.5", axes=AXES), 3)
    assert run(f"info {tmp_path / 'both'}") == 0
    listed = [line[10:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == [
        f"{tmp_path}/both/new (OME-Zarr 0.6, which cannot be read)",
        f"{tmp_path}/both/old",
    ]


@pytest.mark.parametrize(
    ("attributes", "zarr_format"),
    [
        (nested("", **SYSTEMS), 3),
        (nested("0.5", **SYSTEMS), 3),
        (nested("0.5"), 3),
        (flat("0.4"), 2),
        (flat("0.3"), 2),
        (flat(""), 3),
    ],
)
def test_B22_an_image_without_the_axes_that_its_version_has_is_refused(attributes, zarr_format, tmp_path):
    write(tmp_path / "image.zarr", attributes, zarr_format, PIXELS.reshape(1, 2, 1, 40, 50))
    refuses(ValueError, "broken: .*axes", image=tmp_path / "image.zarr", folder=tmp_path)


@pytest.mark.parametrize("version", ["0.4", "", None, "0.4.1", "0.4-dev-spatialdata"])
def test_B22_an_image_of_0_4_need_not_state_its_version(version, tmp_path):
    path = write(tmp_path / "image.zarr", flat(version, axes=AXES), 2)
    options = {"channel": 1, "tile_shape": (16, 16), "write_to": path, "output_component": "labels/cells"}
    assert open_source(path).axes == "yx"
    labels = tile_process(path, segment, **options)
    assert not partition_fault(np.asarray(labels), segment(PIXELS[1]))
    written = json.loads(Path(path, "labels/cells/.zattrs").read_text())
    assert written["multiscales"][0]["version"] == written["image-label"]["version"] == "0.4"
    assert open_source(path / "labels" / "cells").axes == "yx"


@pytest.mark.parametrize("version", ["0.4", ""])
def test_B22_an_image_of_0_4_is_shown_as_that(version, tmp_path, capsys):
    path = write(tmp_path / "image.zarr", flat(version, axes=AXES), 2)
    assert run(f"info {path}") == 0
    assert "OME-Zarr image 0.4, zarr format 2\naxes      c, y, x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("attributes", "zarr_format"), [(flat("0.4", axes=AXES), 3), (nested("0.5", axes=AXES), 2)]
)
def test_B22_metadata_in_the_other_format_of_zarr_are_read_and_take_no_labels(attributes, zarr_format, tmp_path):
    path = write(tmp_path / "image.zarr", attributes, zarr_format)
    labels = tile_process(path, segment, channel=1, tile_shape=(16, 16))
    assert not partition_fault(labels, segment(PIXELS[1]))
    refuses_labels(
        ValueError,
        f"version 0.[45] in zarr format {zarr_format}; label images are written for 0.4 in format 2",
        path=path,
    )


def test_B22_axes_of_0_3_are_names(tmp_path):
    for version in ("0.3", ""):
        path = write(tmp_path / f"image{version}.zarr", flat(version, axes=["c", "y", "x"]), 2)
        labels = tile_process(path, segment, channel=1, tile_shape=(16, 16))
        assert not partition_fault(labels, segment(PIXELS[1]))
