"""Anything that holds an image, opened as something that can read a region of it."""

from blockbuster.source.base import Source
from blockbuster.source.dask_source import DaskSource
from blockbuster.source.digest import pixel_digest
from blockbuster.source.numpy_source import NpyFileSource, NumpySource
from blockbuster.source.opening import load_ome_zarr, open_source
from blockbuster.source.zarr_source import ZarrSource

__all__ = [
    "DaskSource",
    "NpyFileSource",
    "NumpySource",
    "Source",
    "ZarrSource",
    "load_ome_zarr",
    "open_source",
    "pixel_digest",
]
