"""tilewise-ccl on dask, with the storage chunks as tiles, which it recommends; it labels masks."""

import dask
import dask.array as da
from tilewise_ccl import label_array


def run(job):
    """Label the connected components of what is not 0."""
    mask = da.from_zarr(job["image"]) > 0
    with dask.config.set(scheduler="threads", num_workers=job["workers"]):
        labels = label_array(mask, connectivity=1, max_threads=job["workers"])
        labels.to_zarr(job["out"])
    return job["out"]
