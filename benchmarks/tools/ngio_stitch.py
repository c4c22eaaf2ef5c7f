"""ngio's segmentation iterator with its stitching, on a copy of the image as OME-Zarr."""

import ngio
import zarr
from ngio.iterators import SegmentationIterator, ThreadedMapper
from scipy import ndimage


def label(tile):
    """Number the connected components."""
    return ndimage.label(tile > 0)[0].astype("uint32")


def prepared(job):
    """Copy the image, and make an empty label image."""
    image = zarr.open_array(job["image"], mode="r")
    axes = "zyx"[-image.ndim :]
    store = job["out"] + ".image.zarr"
    container = ngio.create_ome_zarr_from_array(
        store, image[...], pixelsize=1.0, levels=1, axes_names=list(axes), chunks=image.chunks
    )
    container.derive_label("labels", chunks=tuple(job["tile"]))
    return {**job, "store": store, "axes": axes}


def run(job):
    """Segment an image."""
    container = ngio.open_ome_zarr_container(job["store"])
    tiles = dict(zip(job["axes"], job["tile"], strict=True))
    iterator = SegmentationIterator(container.get_image(), container.get_label("labels"))
    iterator = iterator.by_grid(**{f"size_{axis}": n for axis, n in tiles.items()})
    iterator = iterator.with_halo(**dict.fromkeys(job["axes"], job["overlap"])).with_stitch()
    iterator.segment(label, mapper=ThreadedMapper(job["workers"]))
    return f"{job['store']}/labels/labels/0"
