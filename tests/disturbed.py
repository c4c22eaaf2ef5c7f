"""A small image, and runs on it that make different labels, fail on one tile, and can be killed."""

import faulthandler
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
import dask.threaded
import numpy as np
import zarr
from scipy import ndimage

from blockbuster import tile_process
from blockbuster.output import storage
from blockbuster.rundir import staged

SHAPE, TILE = (40, 60), (10, 10)
N_TILES = 24
POISON, POISONED_TILE = 9, (slice(20, 30), slice(30, 40))
COMPONENTS = ("labels", "nuclei")


class Components:
    """Connected components above a threshold. The environment says where calls are counted, and which fail."""

    def __init__(self, threshold, connectivity):
        self.threshold, self.connectivity = threshold, connectivity

    def __call__(self, tile):
        with open(os.environ["CALLS"], "a") as file:
            file.write(".")
        if np.any(tile == POISON) and os.environ["FAULT"]:
            if os.environ["FAULT"] == "once":
                os.environ["FAULT"] = ""
            raise ArithmeticError("this tile is poisoned")
        return ndimage.label(tile > self.threshold, ndimage.generate_binary_structure(2, self.connectivity))[0]


@dataclass(frozen=True)
class Variant:
    """Settings that make labels of their own."""

    threshold: int
    connectivity: int
    options: dict


VARIANTS = {
    "plain": Variant(0, 1, {"overlap": 1}),
    "strict": Variant(1, 1, {"overlap": 1}),
    "corners": Variant(0, 2, {"overlap": (2, 0), "connectivity": 2}),
    "numbered": Variant(1, 1, {"overlap": 0, "sequential_labels": True}),
    "skipping": Variant(1, 1, {"overlap": 3, "skip_empty": True, "empty_threshold": 1}),
}


@dataclass(frozen=True)
class Run:
    """One call of tile_process."""

    component: str
    variant: str
    resume: bool = False
    overwrite: bool = False
    fault: str = ""
    retries: int = 0
    on_error: str = "raise"

    @property
    def results(self):
        """Names of the labels that it may give: a tile that was skipped before stays so."""
        return (self.variant, skipped(self.variant)) if self.on_error == "skip" else (self.variant,)


def draw_image():
    """Blobs of three values with empty tiles between them, and one voxel that no halo shows to other tiles."""
    rng = np.random.default_rng(5)
    image = (rng.integers(1, 4, SHAPE) * (rng.random(SHAPE) < 0.55)).astype("uint8")
    image[:10, 20:40] = image[30:, :10] = 0
    image[25, 35] = POISON
    return image


IMAGE = draw_image()


def write_world(folder):
    """Lay out a folder: the image, a folder for stages, one for temporary files."""
    for name in ("scratch", "tmp"):
        Path(folder, name).mkdir()
    zarr.create_array(Path(folder, "image.zarr"), data=IMAGE, chunks=(16, 16))


def call(folder, run, calls):
    """Run in a process of its own, with pieces of storage that are small enough for a tiny image to have many."""
    storage.SHARD_VOXELS, storage.CHUNK_VOXELS, staged.CHUNK_VOXELS = 300, 100, 120
    faulthandler.dump_traceback_later(60)
    os.environ |= {"CALLS": str(calls), "FAULT": run.fault}
    tempfile.tempdir = f"{folder}/tmp"
    variant = VARIANTS[run.variant]
    # Named as text, a scheduler costs the import of distributed.
    with warnings.catch_warnings(), dask.config.set(scheduler=dask.threaded.get, num_workers=2):
        warnings.simplefilter("ignore")
        tile_process(
            f"{folder}/image.zarr",
            Components(variant.threshold, variant.connectivity),
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
