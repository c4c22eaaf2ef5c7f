"""connected-components-3d on the whole image in memory, read and written through zarr; it labels masks."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import cc3d
import numpy as np
import zarr


def boxes(shape, lengths):
    """Cut an array into boxes."""
    ends = zip(shape, lengths, strict=True)
    return itertools.product(*[[slice(i, min(n, i + step)) for i in range(0, n, step)] for n, step in ends])


def run(job):
    """Read, label, write in shards of 2048 or 256 pixels along each axis."""
    image = zarr.open_array(job["image"], mode="r")
    pixels = np.empty(image.shape, image.dtype)
    with ThreadPoolExecutor(job["workers"]) as pool:

        def read(box):
            pixels[box] = image[box]

        list(pool.map(read, boxes(image.shape, image.chunks)))
        labels = cc3d.connected_components(pixels > 0, connectivity=4 if image.ndim == 2 else 6)
        labels = labels.astype("int32", copy=False)
        chunks, side = tuple(job["chunk"]), 2048 if image.ndim == 2 else 256
        shards = tuple(-(-min(side, n) // chunk) * chunk for n, chunk in zip(image.shape, chunks, strict=True))
        out = zarr.create_array(job["out"], shape=image.shape, dtype="int32", chunks=chunks, shards=shards)

        def write(box):
            out[box] = labels[box]

        list(pool.map(write, boxes(image.shape, shards)))
    return job["out"]
