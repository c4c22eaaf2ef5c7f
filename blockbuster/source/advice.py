"""How an image that is not accepted as it is becomes one that is, without being read as a whole."""

from pathlib import Path
from typing import Any

TIFF = "dask.array.from_zarr(tifffile.imread({path!r}, aszarr=True, level=0))"
# By the end of a file's name.
FILES = {
    (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn", ".qptiff", ".lsm"): TIFF,
    (".nd2",): "nd2.imread({path!r}, dask=True)",
    (".czi", ".lif", ".oib", ".oif", ".vsi", ".ims", ".dv", ".sldy"): (
        "bioio.BioImage({path!r}).get_image_dask_data()"
    ),
    (".h5", ".hdf5", ".hdf"): 'dask.array.from_array(h5py.File({path!r})["name of the data set"])',
    (".npy",): 'numpy.load({path!r}, mmap_mode="r")',
    (".zip",): 'zarr.open(zarr.storage.ZipStore({path!r}, mode="r"), mode="r")',
    (".png", ".jpg", ".jpeg", ".bmp"): "skimage.io.imread({path!r})",
}
# By the first part of a type's module, and its name.
OBJECTS = {
    ("xarray", "DataArray"): "Give image.data, which is a dask array where it was opened with chunks={}",
    ("xarray", "Dataset"): 'Give image["name of the variable"].data, which is a dask array where it was opened '
    "with chunks={}",
    ("tifffile", "TiffFile"): "Give dask.array.from_zarr(image.aszarr(level=0))",
    ("tifffile", "TiffPageSeries"): "Give dask.array.from_zarr(image.aszarr(level=0))",
    ("tifffile", "TiffPage"): "Give dask.array.from_zarr(image.aszarr())",
    ("tifffile", "ZarrTiffStore"): "Give dask.array.from_zarr(image)",
    ("zarr", "Group"): 'Give one of its arrays, image["path"], or its own path',
    ("h5py", "Dataset"): "Give dask.array.from_array(image)",
}


def advise_on_file(path: str) -> str:
    """Describe how a file of another format is opened piece by piece.

    Parameters
    ----------
    path : str
        As the user can type it.

    Examples
    --------
    >>> advise_on_file("/data/a.tif")
    "give dask.array.from_zarr(tifffile.imread('/data/a.tif', aszarr=True, level=0))"
    """
    suffix = Path(path).suffix.lower()
    call = next((call for suffixes, call in FILES.items() if suffix in suffixes), None)
    if call is None:
        return "open it with a reader of its format that makes a dask array, and give that"
    return f"give {call.format(path=path)}"


def advise_on_object(image: Any) -> str:
    """Describe how an object of another kind is handed over without being read.

    Examples
    --------
    >>> advise_on_object([[1, 2], [3, 4]])
    'Convert it with numpy.asarray(image)'
    """
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(image).__mro__}
    known = next((advice for kind, advice in OBJECTS.items() if kind in kinds), None)
    if known is not None:
        return known
    if all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__")):
        return "Give dask.array.from_array(image), which reads it piece by piece"
    return "Convert it with numpy.asarray(image)"
