import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from blockbuster import tile_process
from blockbuster.grid import BrickGrid, TileGrid
from blockbuster.source import chunk_files
from blockbuster.source.kept_chunks import KeptChunks

PLENTY = 10**9


def boxes_of(shape, chunk_shape):
    """Every chunk by its name, those at the end as long as the others."""
    for index in itertools.product(*(range(-(-n // chunk)) for n, chunk in zip(shape, chunk_shape, strict=True))):
        yield str(index), tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunk_shape, strict=True))


class Image:
    """An image in chunks that counts how often each is decoded."""

    def __init__(self, bricks, chunk_shape, max_bytes):
        shape = bricks.grid.shape
        self.pixels = np.arange(np.prod(shape), dtype="u4").reshape(shape)
        whole = [-(-n // chunk) * chunk for n, chunk in zip(shape, chunk_shape, strict=True)]
        self.padded = np.pad(self.pixels, [(0, n - m) for n, m in zip(whole, shape, strict=True)])
        self.chunks = dict(boxes_of(shape, chunk_shape))
        self.decoded = Counter()
        self.kept = KeptChunks(bricks.spans(), chunk_shape, 4, max_bytes)

    def decode(self, name):
        self.decoded[name] += 1
        return self.padded[self.chunks[name]].copy()

    def read(self, region):
        found = np.zeros(self.pixels.shape, "u4")
        for name, chunk in self.chunks.items():
            common = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(chunk, region, strict=True)
            )
            if all(part.start < part.stop for part in common):
                found[common] = self.kept.read(name, chunk, region, lambda name=name: self.decode(name))
        return found[region]

    def held(self):
        return sum(part.nbytes for chunk in self.kept._chunks.values() for _, part in chunk.parts)


@st.composite
def layouts(draw):
    ndim = draw(st.integers(1, 3))
    axes = [draw(st.tuples(st.integers(1, 14), *[st.integers(1, 6)] * 3, st.integers(0, 3))) for _ in range(ndim)]
    shape, tile, per_brick, chunk, halo = zip(*axes, strict=True)
    bricks = BrickGrid(TileGrid.regular(shape, tile, halo), per_brick)
    return bricks, chunk, draw(st.permutations(range(bricks.n_bricks)))


@settings(max_examples=examples(200), deadline=None)
@given(layouts(), st.sampled_from([0, 40, 400, PLENTY]))
# Two bricks see the same.
@example((BrickGrid(TileGrid.regular((4,), (1,), (2,)), (1,)), (1,), [0, 1, 2, 3]), 40)
@example((BrickGrid(TileGrid.regular((4, 4), (2, 2), (4, 4)), (1, 1)), (2, 2), [3, 1, 2, 0]), PLENTY)
def test_bricks_in_any_order_are_read_right_within_the_room_and_nothing_is_left(layout, max_bytes):
    bricks, chunk_shape, order = layout
    image = Image(bricks, chunk_shape, max_bytes)
    readers = Counter()
    for number in order:
        region = bricks.region(bricks.index(number))
        np.testing.assert_array_equal(image.read(region), image.pixels[region])
        assert image.held() <= max_bytes
        for name, chunk in image.chunks.items():
            readers[name] += all(
                a.start < b.stop and b.start < a.stop for a, b in zip(chunk, region, strict=True)
            )
    assert image.held() == 0
    assert image.kept._room == max_bytes
    assert image.kept._chunks == {}
    assert image.decoded == (readers if max_bytes == 0 else image.decoded & readers)
    if max_bytes == PLENTY:
        assert set(image.decoded.values()) == {1}


def test_a_brick_that_is_read_again_counts_once():
    bricks = BrickGrid(TileGrid.regular((10,), (5,), (1,)), (1,))
    image = Image(bricks, (5,), PLENTY)
    for number in (0, 0, 0, 1):
        image.read(bricks.region((number,)))
    assert image.held() == 0
    assert image.kept._room == PLENTY


def test_where_a_layer_finds_no_room_rims_and_chunks_along_later_axes_do():
    bricks = BrickGrid(TileGrid.regular((64, 64), (16, 16), (2, 2)), (1, 1))
    image = Image(bricks, (8, 8), 4 * (4 * 64 + 12 * 28))
    for number in range(bricks.n_bricks):
        image.read(bricks.region(bricks.index(number)))
    # A row of bricks reads two voxels of the chunks below, which the next row decodes again.
    assert image.decoded == {str((y, x)): 1 + (y in (2, 4, 6)) for y in range(8) for x in range(8)}


def test_what_is_no_brick_is_read_and_counts_for_nothing():
    bricks = BrickGrid(TileGrid.regular((16, 16), (8, 8), (1, 1)), (1, 1))
    image = Image(bricks, (8, 8), PLENTY)
    for number in range(bricks.n_bricks):
        image.read((slice(3, 6), slice(5, 13)))
        image.read(bricks.region(bricks.index(number)))
    assert image.held() == 0
    assert sum(image.decoded.values()) == 4 + 2 * 4


def test_threads_read_the_same():
    bricks = BrickGrid(TileGrid.regular((60, 70), (6, 7), (2, 3)), (1, 1))
    image = Image(bricks, (9, 5), 3000)
    regions = [bricks.region(bricks.index(number)) for number in range(bricks.n_bricks)]
    with ThreadPoolExecutor(4) as pool:
        for region, found in zip(regions, pool.map(image.read, regions), strict=True):
            np.testing.assert_array_equal(found, image.pixels[region])
    assert image.held() == 0


def test_bricks_wait_for_each_other_only_where_something_is_kept():
    bricks = BrickGrid(TileGrid.regular((8, 8), (8, 4), (1, 1)), (1, 1))
    for max_bytes, n_decoded in ((0, 2), (PLENTY, 1)):
        image = Image(bricks, (8, 8), max_bytes)
        both, decode = threading.Barrier(n_decoded), image.decode
        # With nothing kept, neither goes on before both decode.
        image.decode = lambda name, both=both, decode=decode: (both.wait(60), decode(name))[1]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(image.read, [bricks.region(bricks.index(number)) for number in range(2)]))
        assert image.decoded.total() == n_decoded


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("channel", [None, 1])
def test_a_run_decodes_each_chunk_of_a_local_image_once(scheduler, channel, tmp_path, monkeypatch):
    pixels = (np.random.default_rng(0).random((3, 90, 80)) < 0.4).astype("uint8")
    axes = {} if channel is None else {"channel": channel, "axes": "cyx"}
    zarr.create_array(
        tmp_path / "image", data=pixels if axes else pixels[1], chunks=(2, 16, 16) if axes else (16, 16)
    )
    decoded, plain = Counter(), chunk_files.plain_decoder

    def counting(array):
        decode = plain(array)
        return lambda data: (decoded.update([bytes(data)]), decode(data))[1]

    monkeypatch.setattr(chunk_files, "plain_decoder", counting)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        labels = tile_process(
            tmp_path / "image", lambda tile: ndimage.label(tile)[0], tile_shape=(16, 16), overlap=3,
            tiles_per_task=1, **axes,
        )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(labels) > 0, pixels[1] > 0)
    assert len(decoded) == 6 * 5
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("shape", [(0, 10), (10, 0), (0,)])
def test_an_image_without_voxels_has_no_labels(shape, tmp_path):
    zarr.create_array(tmp_path / "image", shape=shape, chunks=(4,) * len(shape), dtype="u1")
    labels = tile_process(tmp_path / "image", lambda tile: tile, tile_shape=(4,) * len(shape))
    assert np.asarray(labels).shape == shape
