"""blockbuster, on its default output."""

import dask
from scipy import ndimage

from blockbuster import tile_process


def label(tile):
    """Number the connected components."""
    return ndimage.label(tile > 0)[0]


def run(job):
    """Segment an image."""
    with dask.config.set(scheduler="threads", num_workers=job["workers"]):
        tile_process(
            job["image"], label, tile_shape=tuple(job["tile"]), overlap=job["overlap"], write_to=job["out"]
        )
    return f"{job['out']}/labels"
