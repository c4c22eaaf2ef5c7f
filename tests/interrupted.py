"""Runs that stop on their way and go on later, and how often fn was called for which tile."""

import contextlib
import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dask
import naive
import numpy as np
import pytest
from outcomes import blobs, snapshot

from blockbuster import TileError, tile_process
from blockbuster.report import REPORT

SHAPE, TILE, HALO = (38, 31), (10, 11), (1, 1)
LENGTHS = naive.cut(SHAPE, TILE)
IMAGE = blobs(SHAPE)
EXPECTED = naive.stitch(IMAGE, naive.label, LENGTHS, HALO)
REGIONS = {index: region for index, _, region in naive.tiles(LENGTHS, HALO)}
CORES = {index: core for index, core, _ in naive.tiles(LENGTHS, HALO)}
N_TILES = len(REGIONS)
STAGE, PARTIAL = (f"out.zarr.labels.blockbuster-{suffix}" for suffix in ("stage", "partial"))
# In a stage, once seams were matched.
TABLES = ["counts.npy", "offsets.npy", "border.npy", "roots.npy", "numbers.npy"]
OPTIONS = {"tile_shape": TILE, "overlap": HALO, "tiles_per_task": 1, "fn_version": "1"}


def name_of(pixels):
    """A name for what fn sees of a tile; no two tiles of the image look the same."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


class Labeller:
    """Connected components, in any process: each call leaves a file that can be made only once.

    Other files in its folder say which calls fail, so that nothing of that is a part of the function.
    """

    def __init__(self, folder):
        self.folder = str(folder)
        os.makedirs(f"{folder}/calls")

    @classmethod
    def at(cls, folder):
        """Go on with a folder that is there."""
        found = cls.__new__(cls)
        found.folder = str(folder)
        return found

    def __call__(self, pixels):
        self._stop()
        name = name_of(pixels)
        attempt = self._note(name)
        if attempt <= self._read(name, 0):
            raise ArithmeticError("no luck yet")
        return naive.label(pixels)

    def _stop(self):
        if len(os.listdir(f"{self.folder}/calls")) >= self._read("limit", np.inf):
            raise RuntimeError("the power is off")

    def _note(self, name):
        for attempt in itertools.count(1):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(f"{self.folder}/calls/{name}-{attempt}", os.O_CREAT | os.O_EXCL))
                return attempt

    def _read(self, name, default):
        try:
            return int(Path(self.folder, name).read_text())
        except FileNotFoundError:
            return default

    def stop_after(self, n_calls):
        """Have every call fail after so many."""
        Path(self.folder, "limit").write_text(str(n_calls))

    def go_on(self):
        """Let calls work again, and count them anew."""
        Path(self.folder, "limit").unlink(missing_ok=True)
        for path in Path(self.folder, "calls").iterdir():
            path.unlink()

    def fail(self, tile, times):
        """Have the first calls for a tile fail, with its halo or without."""
        for boxes in (REGIONS, CORES):
            Path(self.folder, name_of(IMAGE[boxes[tile]])).write_text(str(times))

    @property
    def calls(self):
        """How often each tile was shown."""
        tiles = {name_of(IMAGE[boxes[tile]]): tile for boxes in (REGIONS, CORES) for tile in boxes}
        return Counter(tiles[name.split("-")[0]] for name in os.listdir(f"{self.folder}/calls"))


def segment(fn, image=IMAGE, **options):
    """Run with one tile per task."""
    return tile_process(image, fn, **{**OPTIONS, **options})


def interrupt(fn, after, image=IMAGE, **options):
    """Run until fn was called so many times; fn can go on afterwards. Give the error."""
    fn.stop_after(after)
    with pytest.raises(TileError, match="the power is off") as caught:
        segment(fn, image, **options)
    fn.go_on()
    return caught.value


class Stopped(BaseException):
    """What ends a run at one of its fail points."""


def interrupt_at(point, fn, nth=1, image=IMAGE, error=Stopped, **options):
    """Run until a fail point is passed for the n-th time; what a killed process leaves stays as well."""
    times = Counter()

    def reach(passed):
        times[passed] += 1
        if passed == point and times[passed] == nth:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        for module in ("run.claim", "run.finish", "output.publishing", "stage.staging", "stage.tally"):
            patch.setattr(f"blockbuster.{module}.reach", reach)
        with pytest.raises(error):
            segment(fn, image, **options)
    if isinstance(fn, Labeller):
        fn.go_on()


def store_in_small_pieces(monkeypatch):
    """Have the output consist of several shards of several chunks."""
    monkeypatch.setattr("blockbuster.output.layout.SHARD_VOXELS", 400)
    monkeypatch.setattr("blockbuster.output.layout.CHUNK_VOXELS", 100)


def stage_in_small_pieces(monkeypatch):
    """Have the tiles of every brick written in several groups as well."""
    store_in_small_pieces(monkeypatch)
    monkeypatch.setattr("blockbuster.stage.brick_labels.GROUP_VOXELS", 60)


def leave_stopped(folder):
    """Leave what a run does that is stopped after three boxes, beside a clean.zarr; give the contents of that."""
    fn = Labeller(folder / "labeller")
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        stage_in_small_pieces(patch)
        clean = clean_contents(folder, fn)
        fn.go_on()
        interrupt_at("box journalled", fn, 3, write_to=folder / "out.zarr")
    return clean


def contents(folder):
    """What must be the same in every run: all but the report, which tells how long the run took."""
    return {path: what for path, what in snapshot(folder).items() if not path.endswith(REPORT)}


def clean_contents(folder, fn=naive.label, **options):
    """Contents of the output of a run that nothing interrupts."""
    segment(fn, write_to=folder / "clean.zarr", **options)
    return contents(folder / "clean.zarr")


def dead_pid():
    """The id that a process had which is gone."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid
