"""Cellpose as it is installed, 3 or 4, against what Cellpose itself gives for the same pixels.

The networks are random. What they see is no cell, but it depends on every pixel, channel and keyword.
"""

import subprocess
import sys
from pathlib import Path

import dask
import naive
import networks
import numpy as np
import pytest
import tifffile
import watching
import zarr

from blockbuster import tile_process
from blockbuster.plugins import unload_models
from blockbuster.plugins.cellpose import cellpose_fn

# The network of Cellpose 4 takes up to half a minute for one patch.
pytestmark = pytest.mark.timeout(1800)

# A random network is sure of nothing: every pixel counts as a cell, and where pixels flow to says which.
EVERYWHERE = {"cellprob_threshold": -100.0, "flow_threshold": 0.0, "min_size": 4}


@pytest.fixture(scope="module")
def major():
    return networks.cellpose_major()


@pytest.fixture(scope="module")
def cellpose(weights, major):
    """What Cellpose gives, called as its documentation says."""
    from cellpose import models

    model = models.CellposeModel(gpu=False, pretrained_model=str(weights))

    def evaluate(image, **options):
        if major == 3:
            options = {"channels": [0, 0]} | options
        return model.eval(image, **(EVERYWHERE | options))[0]

    return evaluate


@pytest.fixture
def nuclei(real_images):
    """A photograph of the mosaic."""
    return tifffile.imread(real_images / "dsb2018_mosaic" / "mosaic_image.tif")[:256, :256]


def assert_same_objects(labels, expected, at_least):
    assert naive.partition_fault(labels, expected) == ""
    assert len(np.unique(expected)) > at_least


def test_tile_that_is_the_whole_image_is_what_cellpose_gives(weights, cellpose, nuclei):
    labels = tile_process(nuclei, cellpose_fn(weights, **EVERYWHERE), tile_shape=nuclei.shape, overlap=30)
    assert_same_objects(labels, cellpose(nuclei), 20)


def test_planes_of_a_stack_are_what_cellpose_gives_for_each(weights, cellpose, volume):
    planes = volume[14:16]
    fn = cellpose_fn(weights, **EVERYWHERE)
    labels = tile_process(planes, fn, tile_shape=(1, *planes.shape[1:]), merge="none")
    for i in range(2):
        assert_same_objects(labels[i], cellpose(planes[i]), 3)
    assert not np.isin(labels[0][labels[0] > 0], labels[1]).any()


def test_volume_is_what_cellpose_gives(weights, cellpose, volume, major):
    part = volume[12:18, 10:40, 10:40] if major == 3 else volume[14:17, 20:24, 20:24]
    options = {"do_3D": True, "max_size_fraction": 1.0}
    labels = tile_process(part, cellpose_fn(weights, **options, **EVERYWHERE), tile_shape=part.shape)
    assert_same_objects(labels, cellpose(part, z_axis=0, **options), 1)


def test_two_channels_are_what_cellpose_gives(weights, cellpose, real_images, major):
    store = real_images / "ome_zarr_third_party" / "omezarrpy_v04_hela_cyx.zarr" / "s0"
    both = np.asarray(zarr.open_array(store, mode="r")[:2, 200:400, 200:400])
    fn = cellpose_fn(weights, channel_axis=0, **EVERYWHERE)
    labels = tile_process(both, fn, tile_shape=(200, 200), axes="cyx", channel=None)
    expected = cellpose(both, channel_axis=0, **({"channels": [1, 2]} if major == 3 else {}))
    assert_same_objects(labels, expected, 10)
    if major == 3:
        assert naive.partition_fault(labels, cellpose(both[0])) != ""  # the second channel counts


def test_diameter_and_other_keywords_count(weights, cellpose, nuclei):
    options = {"diameter": 40, "normalize": {"lowhigh": [0, 60]}, "niter": 100}
    labels = cellpose_fn(weights, **options, **EVERYWHERE)(nuclei)
    assert_same_objects(labels, cellpose(nuclei, **options), 5)
    assert naive.partition_fault(labels, cellpose(nuclei, **(options | {"diameter": 30}))) != ""


def test_pixels_of_other_types_give_the_same(weights, cellpose, volume, major):
    fn = cellpose_fn(weights, **EVERYWHERE)
    expected = cellpose(volume[15])
    for dtype in ("float64", "int32")[: 2 if major == 3 else 1]:
        assert_same_objects(fn(volume[15].astype(dtype)), expected, 3)


def test_thin_tiles_have_labels_of_their_shape(weights, nuclei, major):
    fn = cellpose_fn(weights, diameter=90, **EVERYWHERE)
    for shape in ((1, 200), (5, 200), (200, 2))[: 3 if major == 3 else 1]:
        tile = nuclei[: shape[0], : shape[1]]
        assert fn(tile).shape == shape


def test_last_tile_of_a_volume_may_be_one_plane(weights, volume, major):
    if major == 4:
        pytest.skip("takes minutes on the processor, and Cellpose 4 does not drop axes")
    part = volume[14:17, 10:30, 10:30]
    labels = tile_process(part, cellpose_fn(weights, do_3D=True, **EVERYWHERE), tile_shape=(2, 20, 20))
    assert labels.shape == part.shape


def test_threads_share_one_model_and_processes_load_one_each(weights, nuclei, major, client):
    image = nuclei if major == 3 else nuclei[:100, :200]
    run = {"tile_shape": (50, 100), "overlap": 20, "tiles_per_task": 1, "merge": "agree"}
    fn = cellpose_fn(weights, **EVERYWHERE)
    unload_models()
    watching.watch(weights)
    fn(nuclei[100:140, 100:140])
    of_one_load = watching.count(weights)
    unload_models()
    watching.watch(weights)
    with dask.config.set(scheduler="threads", num_workers=4):
        by_threads = tile_process(image, fn, **run)
    assert watching.count(weights) == of_one_load > 0
    unload_models()
    if major == 4:
        client.run(networks.import_torchvision)
    client.run(watching.watch, weights)
    with client.as_current():
        by_processes = tile_process(image, fn, **run)
    counts = client.run(watching.count, weights)
    assert len(counts) == 2  # and there are four tiles or more
    assert {0, *counts.values()} == {0, of_one_load}
    assert (by_processes == by_threads).all()
    assert len(np.unique(by_threads)) > 10


def test_file_of_the_other_major_version_is_refused_with_its_reason(tmp_path, nuclei):
    import torch

    torch.save({"output.2.weight": torch.zeros(3), "W2": None}, tmp_path / "other")
    with pytest.raises((AssertionError, ValueError), match="CP[34]"):
        cellpose_fn(tmp_path / "other")(nuclei)


MEMORY = """
import logging, resource, sys
import numpy as np
from blockbuster.plugins.cellpose import cellpose_fn
logging.basicConfig(level=logging.WARNING)
tile = np.load(sys.argv[2])
fn = cellpose_fn(sys.argv[1], batch_size=int(sys.argv[3]), cellprob_threshold=-100.0, flow_threshold=0.0)
small = cellpose_fn(sys.argv[1], batch_size=1, cellprob_threshold=-100.0, flow_threshold=0.0)
expected = small(tile)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[4]),) * 2)
labels = fn(tile)
print(labels.shape, int(labels.max()), int(expected.max()))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the address space as Linux has it")
def test_evaluation_that_runs_out_of_memory_succeeds_in_smaller_batches(weights, nuclei, tmp_path, major):
    if major == 4:
        pytest.skip("a batch of 9 patches takes a minute on the processor")
    tile = np.tile(nuclei, (2, 2))
    np.save(tmp_path / "tile.npy", tile)
    command = [sys.executable, "-c", MEMORY, str(weights), str(tmp_path / "tile.npy"), "9", str(320 * 2**20)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a model ran out of memory with 9" in done.stderr
    shape, *n_objects = done.stdout.replace("(512, 512)", "same").split()
    assert shape == "same"
    assert abs(int(n_objects[0]) - int(n_objects[1])) <= 0.01 * int(n_objects[1])
