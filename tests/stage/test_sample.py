"""The sample is bounded, spread, the same at every call, and decodes no chunk twice."""

import gc
import weakref
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
from chunk_reads import counted
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from strategies import cases, given_as
from traced import traced

from blockbuster.source import Source, open_source
from blockbuster.stage.sample import SAMPLE_PIECES, hold_small, sample_pixels


def sample_of(source, most):
    """Sample an image as if that many voxels were the most that are read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockbuster.stage.sample.SAMPLE_VOXELS", most)
        return sample_pixels(source)


class Counting(Source):
    """A source that counts what is read."""

    def __init__(self, image):
        super().__init__(image.shape, image.dtype)
        self.source = open_source(image)
        self.n_read = 0

    def read(self, region):
        pixels = self.source.read(region)
        self.n_read += pixels.size
        return pixels


@pytest.mark.parametrize("shape", [(100_003,), (331, 317), (7, 127, 113), (2, 3, 131, 137)])
def test_sample_is_bounded_spread_and_the_same_at_every_call(shape):
    most = 4096
    # The pixels are their own coordinates along the longest axis.
    axis = int(np.argmax(shape))
    along = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    image = Counting(np.broadcast_to(along, shape))
    pixels = sample_of(image, most)
    assert most / 8 <= pixels.size <= most
    assert image.n_read == pixels.size
    quarters = np.bincount(4 * pixels // shape[axis], minlength=4)
    assert quarters.min() >= pixels.size / 4 / 3
    assert np.array_equal(pixels, sample_of(image, most))


def test_sample_of_a_large_image_finds_otsus_threshold():
    random = np.random.default_rng(1)
    image = np.where(random.random((1000, 1000)) < 0.3, 800, 200) + random.integers(0, 200, (1000, 1000))
    sample = sample_of(open_source(image), 2**16)
    assert sample.size <= 2**16
    assert threshold_otsu(sample) == pytest.approx(threshold_otsu(image), abs=20)


def test_sample_reads_few_pieces_of_a_dask_image():
    seen = []

    def load(block):
        seen.append(block.shape)
        return block

    image = da.zeros((3000, 3000), chunks=(100, 100), dtype="uint8").map_blocks(load, meta=np.empty((0, 0), "u1"))
    sample_of(open_source(image), 2**14)
    assert len(seen) <= 4 * SAMPLE_PIECES


@pytest.mark.parametrize("chunks", [(600, 500), (300, 500), (150, 125), (128, 512)])
def test_no_chunk_is_decoded_twice_for_a_sample(tmp_path, chunks):
    image = np.random.default_rng(0).integers(0, 200, (600, 500)).astype("uint8")
    array, reads = counted(tmp_path / "image.zarr", image, chunks)
    pixels = sample_of(open_source(array), 2**14)
    assert 2**14 / 8 <= pixels.size <= 2**14
    assert 0 < sum(reads.values()) <= SAMPLE_PIECES
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("chunks", [(600, 500), (300, 500), (150, 125), (128, 512)])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_of_a_dask_image_a_chunk_is_computed_once_and_only_pieces_of_it_are_kept(chunks, scheduler, monkeypatch):
    made, kept = Counter(), []

    def load(block, block_info=None):
        made[tuple(block_info[0]["chunk-location"])] += 1
        chunk = block.copy()
        kept.append(weakref.ref(chunk))
        return chunk

    image = np.random.default_rng(0).integers(0, 200, (600, 500)).astype("uint8")
    blocks = da.from_array(image, chunks=chunks).map_blocks(load, dtype="u1", meta=np.empty((0, 0), "u1"))
    source = open_source(blocks)
    regions = []
    read = source.read
    monkeypatch.setattr(source, "read", lambda region: regions.append(region) or read(region))
    boxes = [(slice(i, i + 8), slice(j, j + 16)) for i in range(0, 590, 97) for j in range(0, 480, 83)]
    with dask.config.set(scheduler=scheduler):
        found = source.read_together(boxes)
        assert set(made.values()) == {1}
        assert not regions
        assert all(np.array_equal(pixels, image[box]) for pixels, box in zip(found, boxes, strict=True))
        assert all(pixels.base is None and pixels.flags.writeable for pixels in found)
        gc.collect()
        assert not any(reference() is not None for reference in kept)


def test_pieces_of_one_huge_dask_chunk_are_kept_without_it():
    made = []

    def load():
        made.append(1)
        return np.ones((4000, 4000), "u1")

    blocks = da.from_delayed(dask.delayed(load)(), (4000, 4000), "u1")
    with dask.config.set(scheduler="synchronous"):
        sample, _, most = traced(lambda: sample_of(open_source(blocks), 2**14))
    assert made == [1] * 3
    assert 0 < sample.size <= 2**14
    # The least box of all pieces would be nearly as much again.
    assert most < 1.5 * 4000**2


def test_edges_of_chunks_are_added_up_once_for_an_axis_and_not_for_every_piece(tmp_path, monkeypatch):
    array, _ = counted(tmp_path / "image.zarr", np.ones((600, 500), "uint8"), (60, 50))
    added, add = [], np.cumsum
    monkeypatch.setattr(np, "cumsum", lambda lengths: added.append(1) or add(lengths))
    sample_of(open_source(array), 2**14)
    assert len(added) == 2


@settings(max_examples=examples(40))
@given(cases(), st.data())
def test_boxes_are_read_as_they_are_asked_for(case, data):
    image = np.random.default_rng(case.seed).integers(0, 256, case.shape)
    ends = [
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in case.shape
    ]
    boxes = [tuple(slice(*end) for end in ends), tuple(slice(0, 1) for _ in case.shape)]
    with given_as(image, case.kind, case.chunks) as given_image:
        found = open_source(given_image).read_together([*boxes, *boxes])
    assert [pixels.tolist() for pixels in found] == [image[box].tolist() for box in [*boxes, *boxes]]


def test_a_small_image_that_is_held_is_not_read_again(tmp_path):
    image = np.arange(600, dtype="uint16").reshape(20, 30)
    array, reads = counted(tmp_path / "image.zarr", image, (10, 10))
    held = hold_small(open_source(array))
    for _ in range(3):
        assert np.array_equal(held.read((slice(3, 20), slice(0, 30))), image[3:])
    assert set(reads.values()) == {1}
