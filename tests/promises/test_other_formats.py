"""An image of another format is refused with a call that opens it piece by piece, and the call runs."""

import contextlib
import re
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from naive import label
from outcomes import assert_same_objects, blobs, refused

from blockbuster import tile_process
from blockbuster.source import open_source

MASK = blobs((2, 64, 60), density=0.2)
TILES = {"tile_shape": (2, 32, 32)}


def advised(image):
    """The Python expression that the refusal of an image gives."""
    with pytest.raises((TypeError, ValueError), match="image") as caught:
        tile_process(image, label)
    return re.search(r"[Gg]ive (.*?)(, which|\.$)", str(caught.value))[1]


def assert_opened_lazily(expression, reads=(), **names):
    """Evaluate advice; its pixels are right, and none was read before they are asked for."""
    before = len(reads)
    # The names are those that anybody imports.
    opened = eval(expression, {"dask": dask, "numpy": np, "zarr": zarr, **names})
    assert len(reads) == before
    source = open_source(opened)
    assert len(reads) == before
    np.testing.assert_array_equal(source.read(tuple(slice(0, n) for n in MASK.shape)), MASK)
    with dask.config.set(scheduler="threads"):
        assert_same_objects(tile_process(opened, label, **TILES), label(MASK))


@pytest.fixture
def tifffile():
    return pytest.importorskip("tifffile")


def write_tiff(tifffile, path, pyramid=False):
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as tiff:
        options = {"tile": (16, 16), "photometric": "minisblack"}
        tiff.write(MASK, subifds=1 if pyramid else 0, **options)
        if pyramid:
            tiff.write(MASK[:, ::2, ::2], subfiletype=1, **options)
    return path


@pytest.mark.parametrize(("name", "pyramid"), [("a.tif", False), ("b.TIFF", False), ("c.ome.tif", True)])
def test_the_advice_for_a_tiff_file_opens_it_piece_by_piece(name, pyramid, tifffile, tmp_path):
    path = write_tiff(tifffile, tmp_path / name, pyramid)
    expression = advised(path)
    assert expression == f"dask.array.from_zarr(tifffile.imread({str(path)!r}, aszarr=True, level=0))"
    with contextlib.ExitStack() as stack:

        def imread(*arguments, **options):
            return stack.enter_context(contextlib.closing(tifffile.imread(*arguments, **options)))

        assert_opened_lazily(expression, tifffile=SimpleNamespace(imread=imread))


@pytest.mark.parametrize("pyramid", [False, True])
def test_the_advice_for_an_open_tiff_file_opens_it_piece_by_piece(pyramid, tifffile, tmp_path):
    path = write_tiff(tifffile, tmp_path / "a.ome.tif", pyramid)
    with tifffile.TiffFile(path) as image:
        assert_opened_lazily(advised(image), image=image)
        assert_opened_lazily(advised(image.series[0]), image=image.series[0])
        store = image.aszarr(level=0)
        assert_opened_lazily(advised(store), image=store)
        store.close()


def test_the_advice_for_hdf5_opens_it_piece_by_piece(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["name of the data set"] = MASK
        image = file["name of the data set"]
        assert_opened_lazily(advised(image), image=image)
    expression = advised(tmp_path / "a.h5")
    assert_opened_lazily(expression, h5py=h5py)


def test_the_advice_for_a_numpy_file_and_for_a_zip_file_opens_it_piece_by_piece(tmp_path):
    np.save(tmp_path / "a.npy", MASK)
    assert_opened_lazily(advised(tmp_path / "a.npy"))
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr.create_array(store, data=MASK, chunks=(1, 16, 16))
    assert_opened_lazily(advised(tmp_path / "a.zip"))


def test_the_advice_for_xarray_does_not_read_it():
    xarray = pytest.importorskip("xarray")
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    data = da.from_array(MASK, chunks=(1, 32, 32)).map_blocks(read, dtype=MASK.dtype, meta=MASK[:0, :0, :0])
    image = xarray.DataArray(data, dims=("z", "y", "x"))
    assert_opened_lazily(advised(image), reads, image=image)
    assert "with chunks={}" in str(refusal(image))
    assert 'image["name of the variable"].data' in str(refusal(image.to_dataset(name="a")))


def refusal(image):
    with pytest.raises(TypeError) as caught:
        tile_process(image, label)
    return caught.value


@pytest.mark.parametrize("name", ["a.czi", "a.lif", "a.nd2", "a.xyz", "a"])
def test_a_file_of_another_format_is_refused_with_a_reader_that_makes_a_dask_array(name, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    with refused(ValueError, f"image .*{name} is a file", "dask", folder=tmp_path):
        tile_process(tmp_path / name, label)


def test_whatever_can_be_indexed_is_given_to_dask_and_not_read():
    class Camera:
        shape, dtype, ndim = MASK.shape, MASK.dtype, MASK.ndim

        def __init__(self):
            self.reads = []

        def __getitem__(self, key):
            self.reads += [key] * bool(MASK[key].size)
            return MASK[key]

        def __array__(self, *arguments, **options):
            raise AssertionError("read as a whole")

    camera = Camera()
    assert_opened_lazily(advised(camera), camera.reads, image=camera)
    assert str(refusal([[1, 2]])).endswith("Convert it with numpy.asarray(image).")
    group = zarr.create_group({})
    assert advised(group).startswith('one of its arrays, image["path"]')
