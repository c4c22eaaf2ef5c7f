"""Cellpose on an NVIDIA GPU, with a random network: memory, sizing, and whether the device waits.

No machine with a GPU was at hand when these were written: they have never run, and nothing is claimed until then.
"""

import functools
import subprocess
import time

import naive
import numpy as np
import pytest
import tifffile
import zarr

from blockbuster import auto_tile_shape_cellpose, make_local_cluster, tile_process
from blockbuster.execution.memory import visible_gpus, vram_bytes_or_warn
from blockbuster.plugins import unload_models
from blockbuster.plugins.cellpose import cellpose_fn
from blockbuster.tiling.network import TileFit, network_memory

pytestmark = [
    pytest.mark.skipif(not visible_gpus(), reason="no NVIDIA GPU: what it would take and give is not measured"),
    pytest.mark.timeout(1800),
]

EVERYWHERE = {"cellprob_threshold": -100.0, "flow_threshold": 0.0, "min_size": 4}


@pytest.fixture
def mosaic(real_images):
    return tifffile.imread(real_images / "dsb2018_mosaic" / "mosaic_image.tif")


def smi(field):
    """Ask nvidia-smi for a number of the first GPU."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_free_memory_is_what_nvidia_smi_says():
    vram_bytes_or_warn()  # CUDA itself takes some when it starts
    assert vram_bytes_or_warn() == pytest.approx(smi("memory.free") * 2**20, rel=0.02)


@pytest.mark.parametrize("tile", ["auto", "cellpose"])
def test_planes_are_sized_by_the_device_and_labelled(weights, mosaic, tile):
    shape = tile if tile == "auto" else functools.partial(auto_tile_shape_cellpose, use_gpu=True)
    fn = cellpose_fn(weights, gpu=True, **EVERYWHERE)
    labels = tile_process(mosaic, fn, tile_shape=shape, overlap=30, use_gpu=True)
    assert labels.shape == mosaic.shape
    assert labels.max() > 100


def test_volumes_are_sized_by_the_device_and_labelled(weights, real_images):
    volume = tifffile.imread(real_images / "stardist_samples" / "img3d.tif")
    fn = cellpose_fn(weights, gpu=True, do_3D=True, **EVERYWHERE)
    shape = functools.partial(auto_tile_shape_cellpose, use_gpu=True, do_3D=True)
    labels = tile_process(volume, fn, tile_shape=shape, use_gpu=True)
    assert naive.partition_fault(labels, fn(volume)) == ""


SETTINGS = [
    {"shape": (1, 1024, 1024)},
    {"shape": (1, 2048, 2048)},
    {"shape": (1, 4096, 4096)},
    {"shape": (1, 2048, 2048), "diameter": 15},
    {"shape": (1, 2048, 2048), "batch_size": 32},
    {"shape": (31, 61, 57), "do_3D": True},
    {"shape": (64, 256, 256), "do_3D": True},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_peak_is_at_most_the_estimate(weights, setting):
    import torch

    from benchmarks.models_memory import answer_with_cells, touching_cells

    options = {name: value for name, value in setting.items() if name != "shape"}
    tile = touching_cells(setting["shape"], options.get("diameter", 30))
    fn = cellpose_fn(weights, gpu=True, **options)
    unload_models()
    answer_with_cells(fn.loaded_model().net, works=True)
    loading = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    fn(tile)
    peak = torch.cuda.max_memory_reserved()
    spatial = tile.shape[-3 if options.get("do_3D") else -2 :]
    memory = network_memory(len(spatial), on_gpu=True)
    fit = TileFit(spatial, 0, options.get("diameter", 30), options.get("batch_size", 8))
    estimate = memory.model + memory.tile_bytes(tile.size, fit)
    print(setting, *(f"{name} {n / 2**20:.0f} MiB" for name, n in {"peak": peak, "estimate": estimate}.items()))
    unload_models()
    assert loading <= memory.loading
    assert peak <= estimate


def test_device_does_not_wait_for_storage(weights, mosaic, tmp_path):
    image = np.tile(mosaic, (2, 2))
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(1024, 1024))
    fn = cellpose_fn(weights, gpu=True, **EVERYWHERE)
    fn(image[:1024, :1024])
    tiles = [image[i : i + 1024, j : j + 1024] for i in range(0, 8192, 1024) for j in range(0, 8192, 1024)]
    start = time.perf_counter()
    for tile in tiles:
        fn(tile.copy())
    bare = time.perf_counter() - start
    run = {"tile_shape": (1024, 1024), "use_gpu": True, "return_report": True, "merge": "none"}
    _, report = tile_process(str(tmp_path / "image.zarr"), fn, write_to=tmp_path / "labels.zarr", **run)
    print(f"bare loop {bare:.1f} s, stage {report.seconds['stage']:.1f} s")
    assert bare / report.seconds["stage"] >= 0.85


@pytest.mark.skipif(len(visible_gpus()) < 2, reason="needs two GPUs")
def test_two_workers_are_never_on_one_device(weights, mosaic):
    client, cluster = make_local_cluster(use_gpu=True)
    with cluster, client:
        devices = client.run(lambda: __import__("os").environ["CUDA_VISIBLE_DEVICES"])
        assert len(set(devices.values())) == len(devices) == len(visible_gpus())
        tile_process(mosaic, cellpose_fn(weights, gpu=True, **EVERYWHERE), tile_shape=(1024, 1024), use_gpu=True)
