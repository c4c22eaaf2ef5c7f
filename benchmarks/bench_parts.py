"""Parts of a run as classes for asv: kernels, seams, stage, tiling, merge, and the first call of all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

import blockbuster
from benchmarks.images import Image, disc_rows
from benchmarks.runs import on_threads
from benchmarks.settings import is_small
from benchmarks.tissue import voronoi_labels
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.kernels.components import join_pairs
from blockbuster.kernels.stretches import StretchFinder, StretchGroup
from blockbuster.merge.rules import rule_of
from blockbuster.rundir.sections import SectionFile, SectionWriter
from blockbuster.rundir.staged import StagedLabels
from blockbuster.source import open_source
from blockbuster.stage.brick_labels import BrickLabels

LENGTH = 96 if is_small() else 1024
TILE, OVERLAP = LENGTH // 4, 4
MERGES = ("none", "touch", "agree")
FIRST_CALL = "tile_process(image, labelled, tile_shape=(8, 8), overlap=2, merge={!r})"
# What is not timed, in a new process whose kernels nobody has compiled.
BEFORE_FIRST_CALL = """
import atexit, os, shutil, tempfile
os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp()
atexit.register(shutil.rmtree, folder)
import numpy as np
from blockbuster import tile_process
image = np.ones((16, 16), "uint8")
labelled = np.copy
"""


def _labels(kind: str) -> np.ndarray:
    """Draw labels: far apart, without any background, or of one or two pixels each."""
    if kind == "tissue":
        return voronoi_labels((LENGTH, LENGTH), 16, 0)
    if kind == "noise":
        return ndimage.label(np.random.default_rng(0).random((LENGTH, LENGTH)) < 0.4)[0]
    return ndimage.label(disc_rows(LENGTH, 0, LENGTH))[0]


class TimeStretches:
    params = (["discs", "tissue", "noise"],)
    param_names = ("labels",)

    def setup(self, kind: str) -> None:
        self.labels = _labels(kind)
        self.box = tuple(slice(0, n) for n in self.labels.shape)
        self.finder = StretchFinder()
        tile, count = self.finder.find(self.labels, self.box)
        self.group = StretchGroup.of([tile], np.array([[(0, n) for n in self.labels.shape]]))
        self.table = np.arange(count + 1, dtype=np.int32)
        self.out = np.zeros(self.labels.shape, np.int32)
        self.scratch = Path(tempfile.mkdtemp())
        self.file = self.scratch / "sections"
        self.file.write_bytes(self._encoded())
        self.time_fill(kind)

    def teardown(self, kind: str) -> None:
        shutil.rmtree(self.scratch)

    def _encoded(self) -> bytes:
        sections = SectionWriter()
        for name, column in self.group.columns().items():
            sections.add(name, column)
        return sections.to_bytes()

    def time_find(self, kind: str) -> None:
        self.finder.find(self.labels, self.box)

    def time_fill(self, kind: str) -> None:
        self.group.fill(np.zeros(1, np.int64), self.box, self.table, self.out)

    def time_encode(self, kind: str) -> None:
        self._encoded()

    def time_decode(self, kind: str) -> None:
        file = SectionFile(self.file)
        StretchGroup.from_columns(self.group.boxes, {name: file.read(name) for name in self.group.columns()})


class TimeReading:
    """Bricks of a stored image, on two threads, with zarr and as blockbuster reads them."""

    params = (["discs", "blobs"],)
    param_names = ("image",)
    number = 1

    def setup(self, kind: str) -> None:
        self.scratch = Path(tempfile.mkdtemp())
        length, chunk = (16384, 1024) if kind == "discs" else (512, 128)
        image = Image(kind, 96, 32) if is_small() else Image(kind, length, chunk)
        self.path = image.stored_in(self.scratch)
        self.array = zarr.open_array(self.path, mode="r")
        self.source = open_source(self.path)
        bricks = TileGrid.regular(image.shape, (2 * image.chunk,) * image.ndim, (8,) * image.ndim)
        self.regions = [bricks.region(index) for index in bricks.indices()]

    def teardown(self, kind: str) -> None:
        shutil.rmtree(self.scratch)

    def time_zarr(self, kind: str) -> None:
        on_threads(self.array.__getitem__, self.regions)

    def time_source(self, kind: str) -> None:
        on_threads(self.source.read, self.regions)


class TimeBrick:
    """Labels of 4 x 4 tiles on their way to the stage, in one task."""

    params = (["discs", "tissue"], MERGES)
    param_names = ("labels", "merge")

    def setup(self, kind: str, merge: str) -> None:
        self.labels = _labels(kind)
        self.grid = TileGrid.regular(self.labels.shape, (TILE, TILE), (OVERLAP, OVERLAP))
        bricks = BrickGrid(self.grid, self.grid.grid_shape)
        self.staged = StagedLabels("", bricks, (0, 1), 1, merge)
        self.time_brick(kind, merge)

    def time_brick(self, kind: str, merge: str) -> None:
        brick = BrickLabels(self.staged, (0, 0), rule_of(self.staged))
        for tile in self.grid.indices():
            brick.add(tile, self.labels[self.grid.region(tile)])
        brick.sections()


class TimeMerge:
    """A kept stage, merged once more."""

    params = (MERGES,)
    param_names = ("merge",)
    number = 1

    def setup(self, merge: str) -> None:
        self.scratch = Path(tempfile.mkdtemp())
        options = {"tile_shape": (TILE, TILE), "overlap": OVERLAP, "merge": "agree", "keep_stage": True}
        blockbuster.tile_process(_labels("discs"), np.copy, write_to=self.scratch / "a.zarr", **options)
        (self.stage,) = self.scratch.glob("*-stage")
        self._merge(merge)

    def teardown(self, merge: str) -> None:
        shutil.rmtree(self.scratch)

    def _merge(self, merge: str) -> None:
        out = self.scratch / "b.zarr"
        blockbuster.zarr_native_merge(self.stage, "staged", out, "labels", merge=merge, overwrite=True)

    def time_zarr_native_merge(self, merge: str) -> None:
        self._merge(merge)

    def peakmem_zarr_native_merge(self, merge: str) -> None:
        self._merge(merge)


class TimePairs:
    params = ([10**3] if is_small() else [10**3, 10**6],)
    param_names = ("pairs",)

    def setup(self, n: int) -> None:
        first = np.sort(np.random.default_rng(0).integers(1, 10 * n, n))
        self.pairs = np.stack([first, first + 7], axis=1)

    def time_join_pairs(self, n: int) -> None:
        join_pairs(self.pairs)


class TimeTiling:
    def setup(self) -> None:
        side = TILE * (10 if is_small() else 1000)
        self.image = np.broadcast_to(np.uint8(0), (side, side))

    def time_plan_run(self) -> None:
        blockbuster.plan_run(
            self.image, tile_shape=(TILE, TILE), overlap=OVERLAP, stage_dir=tempfile.gettempdir()
        )

    def time_auto_tile_shape(self) -> None:
        blockbuster.auto_tile_shape(self.image.shape, "uint8")


class TimeFirstCall:
    params = (["touch", "agree"],)
    param_names = ("merge",)
    number = 1
    repeat = 3

    def timeraw_tile_process(self, merge: str) -> tuple[str, str]:
        return FIRST_CALL.format(merge), BEFORE_FIRST_CALL
