"""Memory that Cellpose takes for a tile, on the processor: what `auto_tile_shape_cellpose` has to leave room for.

In an environment with Cellpose 3 or 4:

    python -m benchmarks.models_memory           # a table
    python -m benchmarks.models_memory --json
    python -m benchmarks.models_memory --free 3000   # the tile chosen for so many free MiB, and what a run took

The network has random weights and does all its work, but its answer is replaced: cells one diameter wide that
touch each other everywhere, so that what follows the network has as much to do as it can have. Every setting has
a process of its own. Peaks are the high-water mark of resident memory, less what the process held before the
tile; Linux alone can set this mark back.

Of the 24 equal blocks of Cellpose 4's transformer the first alone works, unless a row says otherwise, to save
time: all 24 took 110 MiB more in batches of 8, since memory between their steps is not given back. Rows with
``network=False`` show what is held without the network's work, which would take hours for large volumes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PLANES: list[dict[str, Any]] = [
    {"shape": (256, 256)},
    {"shape": (512, 512)},
    {"shape": (1024, 1024)},
    {"shape": (2048, 2048)},
    {"shape": (2048, 2048), "batch_size": 1},
    {"shape": (1024, 1024), "diameter": 15},
    {"shape": (1024, 1024), "diameter": 60},
    {"shape": (1024, 1024), "batch_size": 1},
    {"shape": (1024, 1024), "batch_size": 16},
    {"shape": (1024, 1024), "flow_threshold": 0.0},
]
VOLUMES: list[dict[str, Any]] = [
    {"shape": (16, 64, 64)},
    {"shape": (64, 64, 64)},
    {"shape": (32, 128, 128)},
    {"shape": (128, 128, 128)},
    {"shape": (128, 128, 128), "batch_size": 1},
    {"shape": (64, 256, 256), "network": False},
    {"shape": (128, 256, 256), "network": False},
    {"shape": (256, 256, 256), "network": False},
    {"shape": (32, 128, 128), "diameter": 15, "network": False},
    {"shape": (128, 256, 256), "diameter": 60, "network": False},
]
EXAMPLES = [*PLANES, *({**volume, "do_3D": True} for volume in VOLUMES)]
SETTINGS = {
    # Cellpose 3 checks masks by another method on a GPU, which can be run on the processor too.
    "3": [*EXAMPLES, {"shape": (1024, 1024), "as_on_gpu": True}, {"shape": (2048, 2048), "as_on_gpu": True}],
    "4": [*EXAMPLES, *({"shape": (512, 512), "batch_size": n, "blocks": 24} for n in (4, 8))],
}
NOT_CELLPOSES = ("shape", "blocks", "network", "as_on_gpu")


def measure(path: str, setting: dict) -> dict:
    """Evaluate one tile in this process; give bytes."""
    import numpy as np

    fn = _import_cellpose_fn()(path, **{name: setting[name] for name in setting if name not in NOT_CELLPOSES})
    model = fn.loaded_model()
    _leave_blocks(model.net, setting.get("blocks", 1))
    if setting.get("as_on_gpu"):
        dynamics = importlib.import_module("cellpose.dynamics")
        dynamics.masks_to_flows_cpu = dynamics.masks_to_flows_gpu
    answer_with_cells(model.net, setting.get("network", True))
    tile = touching_cells(setting["shape"], setting.get("diameter", 30))
    fn(np.ascontiguousarray(tile[..., :40, :40][-2:]))
    start = _mark()
    n_cells = int(fn(tile).max())
    return {**setting, "cells": n_cells, "peak": _status("VmHWM") - start}


def measure_choice(path: str, free: int) -> dict:
    """Run four of the tiles that are chosen for so many free bytes, on two threads; give the bytes it took."""
    import dask
    import zarr

    from blockbuster import auto_tile_shape_cellpose, tile_process

    fn = _import_cellpose_fn()(path)
    start = _mark()
    os.environ["SLURM_MEM_PER_NODE"] = f"{(start + free) // 2**10}K"
    with dask.config.set(scheduler="threads", num_workers=2), tempfile.TemporaryDirectory() as folder:
        shape = auto_tile_shape_cellpose((100_000, 100_000), "uint8")
        model = fn.loaded_model()
        found = {
            "free": free,
            "shape": shape,
            "loading": _status("VmHWM") - start,
            "model": _status("VmRSS") - start,
        }
        _leave_blocks(model.net, 1)
        answer_with_cells(model.net, works=True)
        whole = [2 * length for length in shape]
        image = zarr.create_array(f"{folder}/image.zarr", shape=whole, chunks=(256, 256), dtype="uint8")
        image[:] = touching_cells(whole, 30)
        labels = tile_process(image, fn, tile_shape=shape, overlap=60, write_to=f"{folder}/labels.zarr")
        n_cells = int(labels.max().compute())
        return {**found, "cells": n_cells, "taken": _status("VmHWM") - start}


def _import_cellpose_fn() -> Any:
    from blockbuster.plugins.cellpose import cellpose_fn
    from tests.models.networks import cellpose_major, import_torchvision

    if cellpose_major() > 3:
        import_torchvision()
    return cellpose_fn


def _leave_blocks(net: Any, n_blocks: int) -> None:
    """Let only the first blocks of a transformer work; the others stay where they are."""
    encoder = getattr(net, "encoder", None)
    if encoder is not None:
        net.idle_blocks, encoder.blocks = encoder.blocks, encoder.blocks[:n_blocks]


def touching_cells(shape: Sequence[int], diameter: float):
    """Draw cells one diameter apart, brightest in their middle."""
    import numpy as np

    waves = np.meshgrid(*(np.cos(np.arange(n) * 2 * np.pi / diameter) for n in shape), indexing="ij", sparse=True)
    return (sum(waves) * 40 + 128).astype("uint8")


def answer_with_cells(net: Any, works: bool) -> None:
    """Answer that every pixel is one of a cell and flows to where the image is brightest, after the work."""
    import torch

    forward = net.forward

    def answer(x: Any) -> Any:
        others = forward(x)[1:] if works else [torch.zeros(len(x), 256)]
        smooth = torch.nn.functional.avg_pool2d(x[:, :1].float(), 5, 1, 2)
        y, x = torch.gradient(smooth[:, 0], dim=(1, 2))
        length = torch.sqrt(y**2 + x**2) + 1e-6
        return torch.stack([5 * y / length, 5 * x / length, torch.full_like(y, 5.0)], dim=1), *others

    net.forward = answer


def _mark() -> int:
    """Set the high-water mark back to what this process holds, and give that.

    What was freed is given back first: what comes next would take it without a trace.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run(settings: Sequence[dict]) -> Iterator[dict]:
    """Measure settings, each in a process of its own."""
    from tests.models.networks import save_random_cellpose

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/random"
        save_random_cellpose(path)
        for setting in settings:
            python = [sys.executable, "-W", "ignore", "-m", "benchmarks.models_memory"]
            command = [*python, "--one", json.dumps([path, setting])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            yield json.loads(done.stdout.splitlines()[-1])


def _row(result: dict) -> str:
    told = ("shape", "cells", "peak")
    options = ", ".join(f"{name}={value}" for name, value in result.items() if name not in told)
    shape, peak = "x".join(map(str, result["shape"])), result["peak"]
    per_voxel, n_cells = peak / math.prod(result["shape"]), result["cells"]
    return f"{shape:>12}  {options:<40} {peak / 2**20:6.0f} MiB, {per_voxel:6.0f} bytes a voxel, {n_cells} cells"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models_memory", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print bytes in the end")
    parser.add_argument("--free", type=int, metavar="MIB", help="choose a tile for this, and say what it took")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        path, setting = json.loads(options.one)
        print(json.dumps(measure_choice(path, **setting) if "free" in setting else measure(path, setting)))
        return
    log = sys.stderr if options.json else sys.stdout
    version = importlib.metadata.version("cellpose")
    print(f"Cellpose {version}, PyTorch {importlib.metadata.version('torch')}, processor", file=log)
    results, major = [], version.partition(".")[0]
    for result in run([{"free": options.free * 2**20}] if options.free else SETTINGS[major]):
        results.append(result)
        print(_choice(result) if options.free else _row(result), file=log, flush=True)
    if options.json:
        print(json.dumps(results, indent=1))


def _choice(result: dict) -> str:
    free, taken = result["free"] / 2**20, result["taken"] / 2**20
    shape = " x ".join(map(str, result["shape"]))
    return (
        f"free {free:.0f} MiB: tile {shape} took {taken:.0f} MiB ({taken / free:.2f}), {result['cells']} cells; "
        f"model {result['model'] / 2**20:.0f} MiB, while it is loaded {result['loading'] / 2**20:.0f}"
    )


if __name__ == "__main__":
    main()
