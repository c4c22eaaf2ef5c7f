"""Memory that Cellpose takes for a tile, on the processor: what `auto_tile_shape_cellpose` has to leave room for.

In an environment with Cellpose 3 or 4:

    python -m benchmarks.models_memory           # a table
    python -m benchmarks.models_memory --json

The network is random, and every pixel counts as a cell, so that what follows the network sees all pixels. Every
setting has a process of its own. Peaks are the high-water mark of resident memory, less what the process held
before the tile; Linux alone can set this mark back.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SETTINGS = {
    "3": [
        {"shape": (256, 256)},
        {"shape": (512, 512)},
        {"shape": (1024, 1024)},
        {"shape": (2048, 2048)},
        {"shape": (1024, 1024), "diameter": 15},
        {"shape": (1024, 1024), "diameter": 60},
        {"shape": (1024, 1024), "batch_size": 1},
        {"shape": (1024, 1024), "batch_size": 16},
        {"shape": (16, 128, 128), "do_3D": True},
        {"shape": (32, 128, 128), "do_3D": True},
        {"shape": (16, 128, 128), "do_3D": True, "diameter": 15},
    ],
    "4": [
        {"shape": (256, 256), "batch_size": 1},
        {"shape": (512, 512), "batch_size": 1},
        {"shape": (512, 512), "batch_size": 4},
        {"shape": (512, 512), "batch_size": 8},
        {"shape": (1024, 1024), "batch_size": 1},
        {"shape": (512, 512), "batch_size": 1, "diameter": 15},
    ],
}


def measure(path: str, setting: dict) -> dict:
    """Evaluate one tile in this process; give bytes."""
    import numpy as np

    from blockbuster.plugins.cellpose import cellpose_fn
    from tests.models.networks import import_torchvision

    if importlib.metadata.version("cellpose").startswith("4"):
        import_torchvision()
    options = {name: value for name, value in setting.items() if name != "shape"}
    fn = cellpose_fn(path, cellprob_threshold=-100.0, flow_threshold=0.0, **options)
    tile = np.random.default_rng(0).integers(0, 255, setting["shape"], "uint8")
    before_load = _status("VmRSS")
    fn(tile[..., :40, :40][-2:])
    held = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark to what is held now
    fn(tile)
    return {**setting, "held": held - before_load, "peak": _status("VmHWM") - held}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run(major: str) -> list[dict]:
    """Measure all settings, each in a process of its own."""
    from tests.models.networks import save_random_cellpose

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/random"
        save_random_cellpose(path)
        results = []
        for setting in SETTINGS[major]:
            command = [sys.executable, "-m", "benchmarks.models_memory", "--one", json.dumps([path, setting])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(_row(results[-1]), file=sys.stderr, flush=True)
    return results


def _row(result: dict) -> str:
    voxels = 1
    for length in result["shape"]:
        voxels *= length
    options = ", ".join(
        f"{name}={value}" for name, value in result.items() if name not in ("shape", "held", "peak")
    )
    return (
        f"{'x'.join(map(str, result['shape'])):>12}  {options:<24} model {result['held'] / 2**20:6.0f} MiB, "
        f"tile {result['peak'] / 2**20:6.0f} MiB, {result['peak'] / voxels:6.0f} bytes a voxel"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models_memory", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    version = importlib.metadata.version("cellpose")
    print(f"Cellpose {version}, PyTorch {importlib.metadata.version('torch')}, processor", file=sys.stderr)
    results = run("3" if version.startswith("3") else "4")
    print(json.dumps(results, indent=1) if options.json else "\n".join(map(_row, results)))


if __name__ == "__main__":
    main()
