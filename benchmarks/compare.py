"""Compare blockbuster with other tools: ``python -m benchmarks.compare``.

Every tool runs in a process, and those of others in an environment, of its own, made with pip where it is not
there; all run turn about on the same pixels, with the same function and as many workers. The labels of each are
compared with blockbuster's, object by object. Times are of one call, after another on a small image that is not
counted; a ratio is the tool's median over blockbuster's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from benchmarks.command_line import begin, data_folder, measuring_parser
from benchmarks.images import SPARSE_SIGMA, Image
from benchmarks.settings import boxes
from benchmarks.table import format_table, verdict

__all__ = ["Call", "Tool", "Workload", "main", "partition_faults", "tools", "workloads"]

TOOLS = Path(__file__).resolve().parent / "tools"
OURS = "ours"
TITLES = ["tool", "median s", "least s", "most s", "peak MB", "ratio", "at least", "verdict", "other objects"]
DEFAULT_REPEATS = 5


@dataclass(frozen=True)
class Tool:
    """Another tool, or a way to use it.

    Parameters
    ----------
    module : str
        In the folder ``tools``.
    packages : str
        What is installed for it.
    """

    module: str
    packages: str


@dataclass(frozen=True)
class Workload:
    """An image, its tiles, and by what factor blockbuster should be faster than others.

    Parameters
    ----------
    image : Image
        What is segmented.
    tile, overlap, workers : int
        Side of a tile and its halo in pixels, and how many workers.
    factors : dict of str to float
        Tools that run on it, and their time over blockbuster's at least; 0: not judged.
    """

    image: Image
    tile: int
    overlap: int
    workers: int
    factors: dict[str, float]

    @property
    def name(self) -> str:
        """What it is called."""
        image = self.image
        return f"{image.kind} {image.length}^{image.ndim} tile {self.tile}, {self.workers} workers"


@dataclass(frozen=True)
class Call:
    """What one call of a tool came to."""

    seconds: float
    peak_bytes: int
    labels: str


def tools() -> list[Tool]:
    """Give the tools of others."""
    return [
        Tool("patchworks_dask", "patchworks"),
        Tool("patchworks_threads", "patchworks"),
        Tool("tilewise_dask", "tilewise-ccl zarr"),
        Tool("dask_image_label", "dask-image zarr"),
        Tool("ngio_stitch", "ngio scipy"),
        Tool("cc3d_memory", "connected-components-3d zarr"),
    ]


def workloads(*, small: bool) -> list[Workload]:
    """Give the images that tools are compared on; small ones are not judged."""
    if small:
        every = dict.fromkeys((tool.module for tool in tools()), 0.0)
        return [
            Workload(Image("discs", 256, 128), 64, 8, 2, every),
            Workload(Image("blobs", 48, 16), 16, 4, 2, every),
        ]
    wide, volume = Image("discs", 16384, 1024), Image("blobs", 512, 128)
    sparse = Image("blobs", 1024, 64, "uint8", SPARSE_SIGMA)
    both = ("patchworks_dask", "patchworks_threads")
    return [
        Workload(wide, 1024, 32, 2, dict.fromkeys(both, 4.5) | {"cc3d_memory": 1 / 1.5}),
        Workload(wide, 512, 32, 2, dict.fromkeys(both, 9)),
        Workload(wide, 256, 16, 2, dict.fromkeys(both, 15)),
        Workload(Image("discs", 8192, 1024), 128, 16, 2, dict.fromkeys(both, 35)),
        Workload(Image("discs", 4096, 1024), 512, 32, 2, {"dask_image_label": 0, "ngio_stitch": 0}),
        Workload(volume, 64, 8, 2, dict.fromkeys(both, 6)),
        Workload(volume, 128, 8, 2, dict.fromkeys(both, 3.5) | {"cc3d_memory": 1 / 1.5}),
        Workload(sparse, 64, 0, 4, {"tilewise_dask": 2}),
    ]


def environment(tool: Tool, folder: Path) -> Path:
    """Give the Python of a tool's environment, made where it is not there."""
    place = folder / "-".join(tool.packages.split())
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"installing {tool.packages}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *tool.packages.split()], check=True)
        (place / "complete").touch()
    return python


def call_tool(python: Path | str, module: str, workload: Workload, data: Path, folder: Path) -> Call:
    """Run a tool in a process of its own; its labels are in the folder until that is removed."""
    image = workload.image
    first = Image(image.kind, 2 * workload.tile + 1, workload.tile, image.dtype, image.sigma)
    calls = [(str(first.stored_in(data)), "-first.zarr"), (str(image.stored_in(data)), ".zarr")]
    job = {
        "calls": calls,
        "out": str(folder / "labels"),
        "tile": [workload.tile] * image.ndim,
        "overlap": workload.overlap,
        "workers": workload.workers,
        "chunk": [512 if image.ndim == 2 else 64] * image.ndim,
    }
    command = [python, "-W", "ignore", TOOLS / "clock.py", module, json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Call(**json.loads(done.stdout.splitlines()[-1]))


def partition_faults(ours: str, theirs: str) -> int:
    """Count the objects of two label arrays that are not one and the same, voxel by voxel.

    Background counts as an object. Memory grows with the number of objects.
    """
    arrays = [zarr.open_array(path, mode="r") for path in (ours, theirs)]
    pairs: set[tuple[int, int]] = set()
    for box in boxes(arrays[0].shape, tuple(arrays[0].shards or arrays[0].chunks)):
        one, other = (np.asarray(array[box]).ravel().astype(np.int64) for array in arrays)
        pairs.update((pair >> 32, pair & 0xFFFFFFFF) for pair in np.unique(one << 32 | other).tolist())
    partners: tuple[dict[int, int], dict[int, int]] = (defaultdict(int), defaultdict(int))
    for pair in pairs:
        for side, label in enumerate(pair):
            partners[side][label] += 1
    faults = {pair for pair in pairs if partners[0][pair[0]] > 1 or partners[1][pair[1]] > 1}
    zeros = {pair for pair in pairs if (pair[0] == 0) != (pair[1] == 0)}
    return len({pair[0] for pair in faults | zeros})


def measure(
    workload: Workload, chosen: list[Tool], environments: Path, data: Path, repeats: int
) -> Iterator[list[str]]:
    """Run all tools turn about, and give the rows of their table."""
    pythons: dict[str, Path | str] = {OURS: sys.executable}
    pythons |= {tool.module: environment(tool, environments) for tool in chosen}
    calls: dict[str, list[Call]] = defaultdict(list)
    differing: dict[str, int] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            for module, python in pythons.items():
                print(f"{workload.name}: {module}", file=sys.stderr, flush=True)
                folder = Path(name, module)
                folder.mkdir()
                calls[module].append(call_tool(python, module, workload, data, folder))
                if module != OURS and module not in differing:
                    differing[module] = partition_faults(calls[OURS][-1].labels, calls[module][-1].labels)
    ours = statistics.median(call.seconds for call in calls[OURS])
    for module, found in calls.items():
        yield _cells(module, found, ours, workload.factors.get(module, 0.0), differing.get(module))


def _cells(module: str, calls: list[Call], ours: float, factor: float, differing: int | None) -> list[str]:
    seconds = [call.seconds for call in calls]
    median = statistics.median(seconds)
    return [
        module,
        *(f"{value:.3f}" for value in (median, min(seconds), max(seconds))),
        f"{max(call.peak_bytes for call in calls) / 1e6:.0f}",
        f"{median / ours:.2f}",
        f"{factor:.2f}" if factor else "-",
        verdict(-median / ours, -factor if factor else None),
        "-" if differing is None else f"{differing:,}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = measuring_parser("compare", __doc__, str(DEFAULT_REPEATS))
    parser.add_argument("--environments", type=Path, metavar="DIR", help="keep the tools' environments here")
    parser.add_argument("--tool", default="", metavar="TEXT", help="tools whose name has this text")
    options = begin(parser, arguments, DEFAULT_REPEATS)
    with data_folder(options.data) as data, data_folder(options.environments) as environments:
        for workload in workloads(small=options.small):
            chosen = [tool for tool in tools() if tool.module in workload.factors and options.tool in tool.module]
            if chosen and options.only in workload.name:
                rows = list(measure(workload, chosen, environments, data, options.repeats))
                print(
                    f"\n{workload.name}, medians of {options.repeats}:\n\n{format_table(TITLES, rows)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
