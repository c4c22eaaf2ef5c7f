"""Real microscopy, segmented with one global threshold: the tiled result is the untiled one."""

import naive
import numpy as np
import pytest
import tifffile
import zarr
from skimage import measure
from skimage.filters import threshold_otsu

from blockbuster import load_ome_zarr, tile_process

# A threshold leaves nuclei that touch in one piece, in the whole image as well; plane by plane they look fused.
pytestmark = pytest.mark.filterwarnings("ignore:runaway merging")

# Store, and how many channels it has.
STORES = {
    "ngffzarr_v04_hela_cyx.zarr": 3,
    "ngffzarr_v05_hela_cyx.zarr": 3,
    "omezarrpy_v04_hela_cyx.zarr": 3,
    "ngffzarr_v05_nuclei3d_zyx.zarr": 1,
    "omezarrpy_v04_nuclei3d_zyx.zarr": 1,
    "omezarrpy_v05_nuclei3d_zyx.zarr": 1,
    "tensorstore_zarr2_Forder_nuclei3d.zarr": 1,
}
CHANNELS = [(store, channel) for store, n in STORES.items() for channel in range(n)]
# Tile, overlap, connectivity; the halo is sometimes longer than the last tile, and the tile than the image.
PLANE_TILES = [((100, 131), 0, 1), ((256, 256), 32, 2), ((37, 700), (40, 3), 1)]
VOLUME_TILES = [((8, 16, 16), 0, 1), ((1, 64, 64), 5, 3), ((10, 60, 19), (3, 8, 0), 2), ((64, 13, 28), 4, 3)]


def segment_tiled_and_whole(image, pixels, tiles, fn=measure.label, **options):
    """Compare the partitions, for every way to cut the image."""
    threshold = threshold_otsu(pixels)
    for tile_shape, overlap, connectivity in tiles:

        def segment(tile, connectivity=connectivity):
            return fn(tile > threshold, connectivity=connectivity)

        whole = segment(pixels)
        assert whole.max() > 10
        settings = {"tile_shape": tile_shape, "overlap": overlap, "connectivity": connectivity}
        labels = np.asarray(tile_process(image, segment, **settings, **options))
        assert labels.dtype == np.int32
        assert naive.partition_fault(labels, whole) == ""


def test_every_store_that_is_there_is_tested(real_images):
    assert {path.name for path in (real_images / "ome_zarr_third_party").glob("*.zarr")} == set(STORES)


@pytest.mark.parametrize(("store", "channel"), CHANNELS)
def test_store_of_another_program_is_segmented_like_the_whole_image(real_images, store, channel, tmp_path):
    path = real_images / "ome_zarr_third_party" / store
    pixels = np.asarray(load_ome_zarr(path, channel=channel))
    tiles = PLANE_TILES if pixels.ndim == 2 else VOLUME_TILES
    segment_tiled_and_whole(path, pixels, [(None, 6, 1), *tiles], channel=channel, stage_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("store", ["ngffzarr_v04_hela_cyx.zarr", "omezarrpy_v05_nuclei3d_zyx.zarr"])
def test_segmented_store_is_the_same_from_a_stored_result(real_images, store, tmp_path):
    path = real_images / "ome_zarr_third_party" / store
    pixels = np.asarray(load_ome_zarr(path))
    tiles = (PLANE_TILES if pixels.ndim == 2 else VOLUME_TILES)[:1]
    segment_tiled_and_whole(path, pixels, tiles, write_to=tmp_path / "labels.zarr")
    stored = zarr.open_array(tmp_path / "labels.zarr" / "labels", mode="r")
    assert stored.metadata.dimension_names == tuple("yx" if pixels.ndim == 2 else "zyx")


def test_nuclei_in_a_plane(real_images):
    image = tifffile.imread(real_images / "stardist_samples" / "img2d.tif")
    segment_tiled_and_whole(image, image, PLANE_TILES)


def test_nuclei_in_a_volume(real_images):
    image = tifffile.imread(real_images / "stardist_samples" / "img3d.tif")
    segment_tiled_and_whole(image, image, VOLUME_TILES)


@pytest.mark.parametrize("write", [False, True])
def test_mosaic_of_thousands_of_nuclei(real_images, write, tmp_path):
    image = tifffile.imread(real_images / "dsb2018_mosaic" / "mosaic_image.tif")
    tiles = [((500, 700), 16, 2)] if write else [((1000, 1000), 0, 1), ((300, 900), (20, 7), 2)]
    options = {"write_to": tmp_path / "labels.zarr"} if write else {}
    segment_tiled_and_whole(image, image, tiles, **options)
