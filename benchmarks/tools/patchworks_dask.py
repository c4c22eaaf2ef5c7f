"""patchworks, whose tiles are staged through dask by default."""

import dask
import dask.array as da
import patchworks
from scipy import ndimage


def label(tile):
    """Number the connected components."""
    return ndimage.label(tile > 0)[0].astype("int32")


def run(job, **options):
    """Segment an image."""
    with dask.config.set(scheduler="threads", num_workers=job["workers"]):
        patchworks.tile_process(
            da.from_zarr(job["image"]),
            label,
            tile_shape=tuple(job["tile"]),
            overlap=job["overlap"],
            max_workers=job["workers"],
            progress=False,
            write_to=job["out"],
            **options,
        )
    return f"{job['out']}/labels"
