"""A small image, and runs on it that make different labels, fail on one tile, and can be killed."""

import faulthandler
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
import dask.array as da
import dask.threaded
import numpy as np
import zarr
from scipy import ndimage
from zarr.storage import LocalStore, WrapperStore

from blockbuster import tile_process
from blockbuster.output import layout
from blockbuster.stage import brick_labels

SHAPE, TILE = (40, 60), (10, 10)
N_TILES = 24
POISON, POISONED_TILE = 9, (slice(20, 30), slice(30, 40))
COMPONENTS = ("labels", "nuclei")
LOG = "fn.log"


class Components:
    """Connected components above the threshold that comes last; each call is noted in a log.

    The environment says where calls are counted, and which fail.
    """

    def __init__(self, thresholds, connectivity, log):
        self.thresholds, self.connectivity, self.log = thresholds, connectivity, log

    def __call__(self, tile):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{tile.shape}\n")
        with open(os.environ["CALLS"], "a") as file:
            file.write(".")
        if np.any(tile == POISON) and os.environ["FAULT"]:
            if os.environ["FAULT"] == "once":
                os.environ["FAULT"] = ""
            raise ArithmeticError("this tile is poisoned")
        *_, threshold = self.thresholds.values()
        return ndimage.label(tile > threshold, ndimage.generate_binary_structure(2, self.connectivity))[0]


@dataclass(frozen=True)
class Variant:
    """Settings that make labels of their own.

    `has_log`: with `skip_empty` a task may end without a call of fn, and so before anybody knows that it logs.
    """

    thresholds: dict
    connectivity: int
    options: dict
    has_log: bool = True

    @property
    def threshold(self):
        return list(self.thresholds.values())[-1]


# The same thresholds in two orders.
LOW, HIGH = {"high": 1, "low": 0}, {"low": 0, "high": 1}
VARIANTS = {
    "plain": Variant(LOW, 1, {"overlap": 1}),
    "strict": Variant(HIGH, 1, {"overlap": 1}),
    "corners": Variant(LOW, 2, {"overlap": (2, 0), "connectivity": 2}),
    "numbered": Variant(HIGH, 1, {"overlap": 0, "sequential_labels": True}),
    "skipping": Variant(HIGH, 1, {"overlap": 3, "skip_empty": True, "empty_threshold": 1}, has_log=False),
}


@dataclass(frozen=True)
class Run:
    """One call of tile_process; `other`: the image is the other one."""

    component: str
    variant: str
    resume: bool = False
    overwrite: bool = False
    fault: str = ""
    retries: int = 0
    on_error: str = "raise"
    other: bool = False

    @property
    def name(self):
        """Name of the labels."""
        return f"{self.variant} of the other image" if self.other else self.variant

    @property
    def results(self):
        """Names of the labels that it may give: a tile that was skipped before stays so."""
        return (self.name, skipped(self.name)) if self.on_error == "skip" else (self.name,)


def draw_image(seed, empty):
    """Blobs of three values with empty tiles between them, and one voxel that no halo shows to other tiles."""
    rng = np.random.default_rng(seed)
    image = (rng.integers(1, 4, SHAPE) * (rng.random(SHAPE) < 0.55)).astype("uint8")
    image[:10, 20:40] = image[30:, :10] = empty
    image[25, 35] = POISON
    return image


# No brick is the same in both.
IMAGES = draw_image(5, 0), draw_image(6, 1)


def write_world(folder):
    """Lay out a folder: the image, a folder for stages, one for temporary files."""
    for name in ("scratch", "tmp"):
        Path(folder, name).mkdir()
    write_image(folder)


def write_image(folder, other=False):
    """Put one of the two images behind the name that all runs give."""
    zarr.create_array(Path(folder, "image.zarr"), data=IMAGES[other], chunks=(16, 16), overwrite=True)


def open_image(folder, component):
    """The image by its path, or as a dask array of which only the pixels tell that it changed."""
    if component == "labels":
        return f"{folder}/image.zarr"
    stored = zarr.open_array(WrapperStore(LocalStore(f"{folder}/image.zarr")), mode="r")
    return da.from_array(stored, chunks=(16, 16), name="microscope")


def call(folder, run, calls):
    """Run in a process of its own, with pieces of storage that are small enough for a tiny image to have many."""
    layout.SHARD_VOXELS, layout.CHUNK_VOXELS, brick_labels.GROUP_VOXELS = 300, 100, 100
    faulthandler.dump_traceback_later(60)
    os.environ |= {"CALLS": str(calls), "FAULT": run.fault}
    tempfile.tempdir = f"{folder}/tmp"
    variant = VARIANTS[run.variant]
    # Named as text, a scheduler costs the import of distributed.
    with warnings.catch_warnings(), dask.config.set(scheduler=dask.threaded.get, num_workers=2):
        warnings.simplefilter("ignore")
        tile_process(
            open_image(folder, run.component),
            Components(variant.thresholds, variant.connectivity, f"{folder}/{LOG}" if variant.has_log else None),
            tile_shape=TILE,
            tiles_per_task=2,
            write_to=f"{folder}/out.zarr",
            output_component=run.component,
            stage_dir=f"{folder}/scratch" if run.component == "nuclei" else None,
            resume=run.resume,
            overwrite=run.overwrite,
            retries=run.retries,
            on_error=run.on_error,
            **variant.options,
        )


def skipped(variant):
    """Name the labels of a variant in which the tile that fails is background."""
    return f"{variant}, a tile skipped"
