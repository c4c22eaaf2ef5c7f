"""Label images written into stores of other libraries, as five other readers see them."""

import functools
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import probes
import pytest
import zarr
from makers import KINDS, LENGTHS, Kind, make_image
from naive import partition_fault
from outcomes import snapshot
from stated import arrays, attributes, geometry, majority_fault, objects, segment

from blockbuster import tile_process

# After ngio, ome-zarr-models 1.7 (the last for Python 3.11) refuses every image of version 0.4.
for package in ("ome_zarr_models", "ngio", "ngff_zarr"):
    pytest.importorskip(package, reason=f"{package} is not installed; it comes with the extra `readers`")

# Those of readers, which use each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

READERS = {
    "ome_zarr_models": probes.read_with_ome_zarr_models,
    "ome_zarr": probes.read_with_ome_zarr,
    "ngio": probes.read_with_ngio,
    "ngff_zarr": probes.read_with_ngff_zarr,
    "napari_ome_zarr": probes.read_with_napari,
}
COARSE = [kind for kind in KINDS if kind.axes == "zyx"]


@pytest.fixture(params=READERS)
def read(request):
    """A reader: a function of an image's path and the name of a label image in it."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed; it needs Python 3.12 or later")
    return READERS[request.param]


def write_labels(path, axes, fn=segment, **options):
    """Segment an image into its own store."""
    tile = (3, 24, 32) if "z" in axes else (24, 32)
    given = {"channel": LENGTHS["c"] - 1 if "c" in axes else 0, "tile_shape": tile, "overlap": 2}
    tile_process(str(path), fn, write_to=str(path), output_component="labels/cells", **given | options)


def stated_at_root(path):
    """The files of an image's root that may hold consolidated metadata."""
    files = [path / name for name in (".zmetadata", "zarr.json")]
    return {file.name: json.loads(file.read_text()) for file in files if file.is_file()}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def written(request, tmp_path_factory):
    """An image by another library, with labels by blockbuster."""
    path = tmp_path_factory.mktemp("store") / "image.zarr"
    image = make_image(request.param, path)
    before, root = snapshot(path), stated_at_root(path)
    write_labels(path, request.param.axes)
    return SimpleNamespace(kind=request.param, path=path, image=image, before=before, root=root)


def assert_nothing_else_changed(path, before, root):
    """Assert that but for a label image and what lists it each file of an image has the bytes that it had."""
    after = snapshot(path)
    changed = {name for name, what in before.items() if after.get(name) != what}
    listing = {"labels/.zattrs", "labels/zarr.json"}
    assert changed <= listing | set(root)
    new = {name for name in after if name not in before and Path(name).parts[:2] != ("labels", "cells")}
    assert new <= {"labels", "labels/.zgroup", *listing}
    now = stated_at_root(path)
    assert {name: without_labels(stated) for name, stated in now.items()} == {
        name: without_labels(stated) for name, stated in root.items()
    }


def without_labels(root):
    """The metadata of an image's root but for those of nodes in its group of labels."""
    held = root.get("consolidated_metadata") or root
    nodes = {name: node for name, node in held.get("metadata", {}).items() if Path(name).parts[0] != "labels"}
    return {**root, "consolidated_metadata" if held is not root else "metadata": nodes}


def assert_seen(seen, path, names, level=0):
    """Assert that a reader sees what the files say: of the image, from a level on, and of its labels."""
    image, labels = geometry(path), geometry(path / "labels" / "cells")
    assert seen.names in (None, names)
    assert seen.axes == image["axes"]
    # Where there is no unit, some readers assume one.
    assert all(stated in (None, unit) for stated, unit in zip(image["units"], seen.units, strict=True))
    for kind, found in (("scales", seen.scales), ("translations", seen.translations or [])):
        n_known = len(image[kind]) - level
        assert labels[kind][:n_known] == image[kind][level:]
        assert found == labels[kind][: len(found)]
    assert len(seen.scales) in (1, len(image["paths"]))
    pixels = arrays(path / "labels" / "cells")
    assert len(seen.pixels) == len(pixels) == len(image["paths"])
    for shown, stored in zip(seen.pixels, pixels, strict=True):
        assert shown.dtype == stored.dtype
        np.testing.assert_array_equal(shown, stored)


def test_all_readers_see_the_axes_scales_levels_and_pixels_that_the_files_have(written, read):
    names = [*(["other"] if "labels" in written.before else []), "cells"]
    assert_seen(read(written.path, "cells"), written.path, names)


def test_labels_are_those_of_the_whole_image_and_coarser_ones_the_most_frequent(written):
    finest, *_ = levels = arrays(written.path / "labels" / "cells")
    expected = objects(written.image, written.kind.axes)
    assert expected.max() > 10
    assert partition_fault(finest, expected) == ""
    scales = geometry(written.path)["scales"]
    for number, coarse in enumerate(levels[1:]):
        ratios = np.divide(scales[number + 1], scales[number])
        assert majority_fault(levels[number], coarse, ratios) == ""


def test_no_other_byte_of_the_store_changes(written):
    assert_nothing_else_changed(written.path, written.before, written.root)


@pytest.fixture(
    scope="module", params=itertools.product(COARSE, (1, 2)), ids=lambda case: f"{case[0]}-level{case[1]}"
)
def coarse(request, tmp_path_factory):
    """An image by another library, of which a coarse level was segmented."""
    kind, level = request.param
    path = tmp_path_factory.mktemp("store") / "image.zarr"
    make_image(kind, path)
    write_labels(path, kind.axes, level=level)
    return SimpleNamespace(kind=kind, path=path, level=level)


def test_labels_of_a_coarser_level_have_the_scales_of_that_level_and_onward(coarse, read):
    names = ["other", "cells"] if coarse.kind.maker == "ngio" else ["cells"]
    assert_seen(read(coarse.path, "cells"), coarse.path, names, level=coarse.level)


def test_labels_of_a_coarser_level_are_those_of_that_level(coarse):
    image = arrays(coarse.path)[coarse.level]
    finest = arrays(coarse.path / "labels" / "cells")[0]
    assert partition_fault(finest, objects(image, coarse.kind.axes)) == ""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A label image that has several chunks in a shard."""
    path = tmp_path_factory.mktemp("store") / "image.zarr"
    make_image(Kind("ngio", "0.5", "yx"), path, {"y": 1511, "x": 1201})
    write_labels(path, "yx", tile_shape=(256, 256))
    finest = zarr.open_array(
        path / "labels" / "cells" / geometry(path / "labels" / "cells")["paths"][0], mode="r"
    )
    assert finest.shards != finest.chunks
    assert finest.shards is not None
    return path


def test_all_readers_see_labels_that_lie_in_shards(sharded, read):
    assert_seen(read(sharded, "cells"), sharded, ["other", "cells"])


STORES = [
    "ngffzarr_v04_hela_cyx",
    "ngffzarr_v05_hela_cyx",
    "ngffzarr_v05_nuclei3d_zyx",
    "omezarrpy_v04_hela_cyx",
    "omezarrpy_v04_nuclei3d_zyx",
    "omezarrpy_v05_nuclei3d_zyx",
]


@pytest.fixture(scope="module", params=STORES)
def real(request, real_images, tmp_path_factory):
    """A copy of a real image that another library stored, with labels by blockbuster."""
    path = tmp_path_factory.mktemp("store") / "image.zarr"
    shutil.copytree(real_images / "ome_zarr_third_party" / f"{request.param}.zarr", path)
    for folder in (path, *path.rglob("*")):
        folder.chmod(0o755)
    image = zarr.open_array(path / attributes(path)["multiscales"][0]["datasets"][0]["path"], mode="r")[...]
    bright = functools.partial(segment, threshold=int(np.percentile(image, 90)))
    before, root = snapshot(path), stated_at_root(path)
    write_labels(path, geometry(path)["axes"], fn=bright)
    return SimpleNamespace(path=path, before=before, root=root)


def test_all_readers_see_labels_in_real_images(real, read):
    assert_seen(read(real.path, "cells"), real.path, [*(["gt"] if "labels" in real.before else []), "cells"])


def test_no_other_byte_of_a_real_image_changes(real):
    assert_nothing_else_changed(real.path, real.before, real.root)
