"""Whatever goes over an image decodes a chunk as often as a run does, and not once for every tile."""

import dask.array as da
import numpy as np
import pytest
from chunk_reads import counted
from scipy import ndimage

from blockbuster import (
    estimate_empty_tiles,
    intensity_percentiles,
    plan_run,
    suggest_overlap,
    tile_process,
)
from blockbuster.advise import crop
from blockbuster.stage import sample

IMAGE = np.random.default_rng(0).poisson(20, (320, 400)).astype("uint16")
IMAGE[ndimage.binary_dilation(np.random.default_rng(1).random(IMAGE.shape) < 0.001, iterations=3)] = 900
TILE = (16, 16)


def components(tile):
    return ndimage.label(tile > 400)[0]


GOING_OVER = {
    "estimate_empty_tiles": lambda image: estimate_empty_tiles(image, TILE, overlap=2),
    "estimate_empty_tiles, threshold": lambda image: estimate_empty_tiles(image, TILE, threshold=100),
    "suggest_overlap": lambda image: suggest_overlap(image, components, TILE),
    "intensity_percentiles": intensity_percentiles,
}


@pytest.fixture(params=[False, True], ids=["small", "large"])
def large(request, monkeypatch):
    """Whether the image is larger than a sample."""
    if request.param:
        monkeypatch.setattr(sample, "SAMPLE_VOXELS", 2**14)
        monkeypatch.setattr(crop, "GLANCE_VOXELS", 2**8)
    return request.param


@pytest.mark.parametrize("chunks", [(320, 400), (320, 100), (80, 80), (33, 57)])
@pytest.mark.parametrize("name", GOING_OVER)
def test_a_chunk_is_decoded_as_often_as_a_run_does_it_and_not_for_every_tile(name, chunks, large, tmp_path):
    array, reads = counted(tmp_path / "image.zarr", IMAGE, chunks)
    n_chunks = int(np.prod([-(-n // chunk) for n, chunk in zip(IMAGE.shape, chunks, strict=True)]))
    tile_process(array, components, tile_shape=TILE, overlap=2, skip_empty=True, empty_threshold=100)
    of_run = sum(reads.values())
    assert of_run >= n_chunks
    reads.clear()
    GOING_OVER[name](array)
    # Crops are chosen by glances.
    glances = min(n_chunks, sample.SAMPLE_PIECES) if large and name == "suggest_overlap" else 0
    assert 0 < sum(reads.values()) <= of_run + glances


@pytest.mark.parametrize("chunks", [(320, 400), (80, 80)])
def test_a_small_image_is_read_once_in_all_for_its_threshold_and_its_tiles(chunks, tmp_path):
    array, reads = counted(tmp_path / "image.zarr", IMAGE, chunks)
    estimate_empty_tiles(array, TILE, overlap=2)
    assert set(reads.values()) == {1}


def test_chunks_of_a_dask_image_are_computed_as_often_as_the_plan_says():
    made = []

    def load(block, block_info=None):
        made.append(block_info[0]["chunk-location"])
        return block

    image = da.from_array(IMAGE, chunks=(80, 80)).map_blocks(load, dtype=IMAGE.dtype, meta=np.empty((0, 0), "u2"))
    found = estimate_empty_tiles(image, TILE, threshold=100)
    plan = plan_run(image, tile_shape=TILE, skip_empty=True, empty_threshold=100)
    assert found.n_tiles == 500
    assert len(set(made)) == 20
    assert len(made) == pytest.approx(20 * plan.chunk_reads)
    assert plan.chunk_reads <= 2


@pytest.mark.parametrize("chunks", [(2400, 2500), (2400, 50)])
def test_a_picture_decodes_a_chunk_once(chunks, tmp_path, monkeypatch):
    from blockbuster.plot import view as views

    monkeypatch.setattr(views, "BAND_VOXELS", 2**16)
    image = np.broadcast_to(np.arange(2500, dtype="uint16"), (2400, 2500))
    array, reads = counted(tmp_path / "image.zarr", image, chunks)
    opened = views.open_image(array)
    picture = views.read_picture(opened, views.choose_view(opened))
    assert np.array_equal(picture.pixels, image[:: picture.step, :: picture.step])
    assert set(reads.values()) == {1}
