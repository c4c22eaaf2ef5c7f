"""dask-image, whose tiles are chunks of the image; it labels masks."""

import dask
import dask.array as da
from dask_image import ndmeasure


def run(job):
    """Label the connected components of what is not 0."""
    mask = da.from_zarr(job["image"], chunks=tuple(job["tile"])) > 0
    with dask.config.set(scheduler="threads", num_workers=job["workers"]):
        labels, _ = ndmeasure.label(mask)
        labels.astype("int32").to_zarr(job["out"])
    return job["out"]
