"""What a label image costs besides its labels, and what coarser levels show: ``python -m benchmarks.pyramid``.

The same labels are written as a lone array, and as an OME-NGFF label image with five levels, turn about, after
one call each that is not counted. The ratio is what the phases of writing take longer, to writing the lone array.
Peak memory is that of a process that finds the seams matched and writes the label image. ``halved`` levels are
half as long as the one before, ``odd`` ones half and rounded down. ``resized`` ones are shorter by another
factor, so that a voxel of level 1 need not begin where one of level 0 does; they are not judged.

The second table compares two ways to make a coarse voxel on label images of ``BLOCKBUSTER_DATA``: the label that
most of its voxels have, as blockbuster does, and the label of every second voxel.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import blockbuster
from benchmarks.command_line import begin, data_folder, measuring_parser
from benchmarks.images import Image
from benchmarks.own_process import call_in_own_process, command_of
from benchmarks.runs import N_THREADS, peak_memory_bytes, seconds_of, segment
from benchmarks.settings import ROOT
from benchmarks.table import format_table, limit, pair_ratio, significant, verdict, worst_verdict
from blockbuster.output.downsample import vote

__all__ = ["Case", "cases", "main", "measure"]

N_LEVELS = 5
TIME_BOUND = 0.6
MEMORY_BOUND_BYTES = 500e6
DEFAULT_REPEATS = 5
TITLES = ["setting", "labels GB", "array s", "levels s", "ratio", "at most", "peak MB", "at most", "verdict"]
QUALITY_TITLES = ["labels", "level", "made by", "objects", "lost", "area", "centre", "overlap"]


@dataclass(frozen=True)
class Case:
    """A row of the first table.

    Parameters
    ----------
    kind : {"discs", "blobs"}
        What is segmented, in 2-D and in 3-D.
    length, chunk, tile : int
        Side of the image, of its chunks and of a tile, in voxels.
    levels : {"halved", "odd", "resized"}
        How the length of a level follows from the one before.
    is_judged : bool
        Whether time and memory have bounds.
    """

    kind: str
    length: int
    chunk: int
    tile: int
    levels: str = "halved"
    is_judged: bool = False

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 2 if self.kind == "discs" else 3

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.kind} {self.length}^{self.ndim} tile {self.tile} {self.levels}"

    def stored_in(self, folder: Path) -> Path:
        """Give the path of the OME-Zarr image, whose coarser levels are empty arrays of the right shape."""
        path = folder / f"{self.name.replace(' ', '-')}.ome.zarr"
        if path.exists():
            return path
        pixels = Image(self.kind, self.length, self.chunk, "uint8").stored_in(folder)
        group = zarr.create_group(path)
        shutil.move(pixels, path / "0")
        factor = 2.006 if self.levels == "resized" else 2
        lengths = [int(self.length / factor**n) for n in range(N_LEVELS)]
        for number, length in enumerate(lengths[1:], start=1):
            options = {"dtype": "uint8", "chunks": (self.chunk,) * self.ndim}
            group.create_array(str(number), shape=(length,) * self.ndim, **options)
        axes = [{"name": letter, "type": "space"} for letter in "zyx"[-self.ndim :]]
        datasets = [
            {
                "path": str(number),
                "coordinateTransformations": [{"type": "scale", "scale": [self.length / length] * self.ndim}],
            }
            for number, length in enumerate(lengths)
        ]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
        return path

    def run(self, path: Path, place: dict[str, Any]) -> blockbuster.RunReport:
        """Segment the image anew."""
        return segment(path, (self.tile,) * self.ndim, **place)


def cases(*, small: bool) -> list[Case]:
    """Give the rows; small ones end in seconds and are not judged."""
    if small:
        return [
            Case("discs", 1200, 256, 128),
            Case("blobs", 97, 32, 32, "odd"),
            Case("discs", 700, 256, 128, "resized"),
        ]
    return [
        Case("discs", 22528, 1024, 1024, is_judged=True),
        Case("discs", 22531, 1024, 1024, "odd", is_judged=True),
        Case("discs", 22528, 1024, 1024, "resized"),
        Case("blobs", 832, 104, 104, is_judged=True),
        Case("blobs", 813, 104, 104, "odd", is_judged=True),
    ]


def measure(case: Case, path: Path, repeats: int) -> list[str]:
    """Write both ways in turn; give the row of the table."""
    seconds: dict[str, list[float]] = {"array": [], "levels": []}
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        places = {
            "array": {"write_to": Path(name, "labels.zarr"), "overwrite": True},
            "levels": _label_image(path),
        }
        for _ in range(1 + repeats):
            for way, place in places.items():
                seconds_of(lambda way=way, place=place: seconds[way].append(_writing(case.run(path, place))))
    array, levels = (statistics.median(seconds[way][1:]) for way in seconds)
    ratio = pair_ratio(seconds["array"][1:], seconds["levels"][1:]) - 1
    peak = _peak_in_new_process(case, path)
    bounds = (TIME_BOUND, MEMORY_BOUND_BYTES) if case.is_judged else (None, None)
    return [
        case.name,
        f"{4 * case.length**case.ndim / 1e9:.2f}",
        significant(array),
        significant(levels - array),
        f"{ratio:.2f}",
        limit(bounds[0]),
        f"{peak / 1e6:.0f}",
        limit(bounds[1] and bounds[1] / 1e6),
        worst_verdict(verdict(ratio, bounds[0]), verdict(peak, bounds[1])),
    ]


def _label_image(path: Path) -> dict[str, Any]:
    return {"write_to": path, "output_component": "labels/found", "overwrite": True}


def _writing(report: blockbuster.RunReport) -> float:
    return report.seconds["write"] + report.seconds.get("pyramid", 0.0)


def _peak_in_new_process(case: Case, path: Path) -> int:
    """Segment in one process, which ends where the seams are matched, and write in another one."""
    component = f"labels/peak-{uuid.uuid4().hex}"
    call = "pyramid.peak_of_writing", case.name, path, component
    stops = {**os.environ, "BLOCKBUSTER_FAIL_POINT": "seams matched:1"}
    done = subprocess.run(command_of(*call), cwd=ROOT, env=stops, check=False)
    assert done.returncode == -signal.SIGKILL, done.returncode
    peak: int = call_in_own_process(*call)
    shutil.rmtree(path / component)
    return peak


def peak_of_writing(name: str, path: str, component: str) -> int:
    """Write the labels of a case whose seams were matched before, and give the peak of this process."""
    (case,) = (case for small in (True, False) for case in cases(small=small) if case.name == name)
    report = case.run(Path(path), {"write_to": path, "output_component": component, "resume": True})
    assert report.resumed_from == "write", report.resumed_from
    return peak_memory_bytes()


def quality_rows(data: Path) -> list[list[str]]:
    """Compare two ways to make coarser levels of real label images; give the rows of the second table."""
    from skimage.io import imread

    files = {
        "nuclei 2-D": "dsb2018_mosaic/mosaic_mask.tif",
        "tissue 2-D": "stardist_samples/mask2d.tif",
        "embryo 3-D": "stardist_samples/mask3d.tif",
    }
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"most voxels": _most, "every second": _every_second}
    rows = []
    for name, file in files.items():
        labels = np.squeeze(imread(data / file)).astype(np.int32)
        labels = labels[tuple(slice(n // 8 * 8) for n in labels.shape)]
        for way, make in ways.items():
            coarse = labels
            for level in (1, 2, 3):
                coarse = make(coarse)
                rows.append([name, str(level), way, *_compare(labels, coarse, 2**level)])
    return rows


def _most(labels: np.ndarray) -> np.ndarray:
    return vote(labels, [np.arange(0, n - 1, 2) for n in labels.shape], (2,) * labels.ndim)


def _every_second(labels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(labels[tuple(slice(None, n // 2 * 2, 2) for n in labels.shape)])


def _compare(fine: np.ndarray, coarse: np.ndarray, step: int) -> list[str]:
    """Count objects that are lost; give total area, shift of centres in coarse voxels, and overlap."""
    ids = np.unique(fine)
    ids = ids[ids > 0]
    area, centre = _moments(fine, ids)
    coarse_area, coarse_centre = _moments(coarse, ids)
    there = coarse_area > 0
    moved = np.linalg.norm((step * (coarse_centre + 0.5) - 0.5 - centre)[:, there], axis=0) / step
    large = coarse
    for axis in range(fine.ndim):
        large = large.repeat(step, axis)
    shared = np.bincount(fine[large == fine], minlength=ids[-1] + 1)[ids]
    overlap = shared / (area + coarse_area * step**fine.ndim - shared)
    total = coarse_area.sum() * step**fine.ndim / area.sum()
    cells = [f"{total:.2f}", f"{np.median(moved):.2f}", f"{np.median(overlap):.2f}"]
    return [f"{len(ids):,}", f"{(~there).sum():,}", *cells]


def _moments(labels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the area of each object, and its centre per axis."""
    flat, n = labels.ravel(), ids[-1] + 1
    area = np.bincount(flat, minlength=n)[ids]
    sums = [np.bincount(flat, place.ravel(), minlength=n)[ids] for place in np.indices(labels.shape, np.float32)]
    return area, np.stack(sums) / np.maximum(area, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit with 1 where something is above its bound."""
    options = begin(measuring_parser("pyramid", __doc__, str(DEFAULT_REPEATS)), arguments, DEFAULT_REPEATS)
    with data_folder(options.data) as data:
        chosen = [case for case in cases(small=options.small) if options.only in case.name]
        rows = [measure(case, case.stored_in(data), options.repeats) for case in chosen]
        what = f"A label image of {N_LEVELS} levels against a lone array"
        print(f"\n{what}, {N_THREADS} threads, medians of {options.repeats}:\n")
        print(format_table(TITLES, rows), flush=True)
    if "BLOCKBUSTER_DATA" in os.environ and not options.small:
        print("\nTwo ways to make coarser levels of real label images:\n")
        print(format_table(QUALITY_TITLES, quality_rows(Path(os.environ["BLOCKBUSTER_DATA"]))))
    sys.exit(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    main()
