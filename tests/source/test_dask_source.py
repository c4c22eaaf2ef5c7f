import itertools
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, WrapperStore

from blockbuster.compat import own_graph
from blockbuster.source import DaskSource, pixel_digest

pytestmark = pytest.mark.usefixtures("one_at_a_time")

IMAGE = np.arange(31 * 17).reshape(31, 17)
CHUNKS = ((10, 1, 20), (5, 12))
REGIONS = [
    (slice(y, min(31, y + 11)), slice(x, min(17, x + 7)))
    for y, x in itertools.product(range(0, 31, 8), range(0, 17, 5))
]


def counting_image(chunks=CHUNKS):
    """An image that counts how often each of its chunks is computed."""
    calls = Counter()

    def count(block, block_info=None):
        calls[tuple(block_info[None]["chunk-location"])] += 1
        return block

    return da.from_array(IMAGE, chunks=chunks).map_blocks(count, dtype=IMAGE.dtype), calls


def touched(region, chunks=CHUNKS):
    """Chunks that share a voxel with the region, by looking at every voxel."""
    number = [np.repeat(np.arange(len(lengths)), lengths) for lengths in chunks]
    return set(itertools.product(*(np.unique(n[part]).tolist() for n, part in zip(number, region, strict=True))))


def test_a_chunk_is_computed_once_for_each_region_that_touches_it():
    image, calls = counting_image()
    source = DaskSource(image)
    lazy = [source.lazy(region) for region in REGIONS]
    assert not calls
    computed = dask.compute(*lazy)
    for region, got in zip(REGIONS, computed, strict=True):
        np.testing.assert_array_equal(got, IMAGE[region])
    assert calls == Counter(itertools.chain.from_iterable(touched(region) for region in REGIONS))
    assert source.chunk_reads(REGIONS) == calls.total() / 6


def test_a_region_computes_no_chunk_that_it_does_not_touch():
    image, calls = counting_image()
    region = (slice(3, 9), slice(5, 17))
    np.testing.assert_array_equal(DaskSource(image).read(region), IMAGE[region])
    assert calls == {(0, 1): 1}


def test_no_task_is_shared_between_the_graphs_of_two_regions():
    shapes = [
        da.from_array(IMAGE, chunks=CHUNKS),
        da.from_array(IMAGE, chunks=CHUNKS).rechunk((6, 6)) + 1,
        da.from_array(IMAGE, chunks=CHUNKS).persist() * 2,
        da.from_array(IMAGE, chunks=-1),
        da.from_array(IMAGE, chunks=CHUNKS) // da.from_array(IMAGE, chunks=CHUNKS).max(),
    ]
    for image in shapes:
        source = DaskSource(image)
        keys = [set(own_graph(source.lazy(region), str(region))[0]) for region in REGIONS]
        assert all(keys)
        assert sum(map(len, keys)) == len(set.union(*keys))
        assert not set.union(*keys) & set(dict(image.__dask_graph__()))


def test_a_region_has_the_same_keys_every_time():
    image, _ = counting_image()
    first, second = (DaskSource(image).lazy(REGIONS[3]) for _ in range(2))
    assert first.name == second.name
    assert set(dict(first.__dask_graph__())) == set(dict(second.__dask_graph__()))


def test_a_region_is_one_chunk_and_can_be_built_upon():
    source = DaskSource(da.from_array(IMAGE, chunks=CHUNKS))
    region = source.lazy(REGIONS[5])
    assert region.npartitions == 1
    blocks = [source.lazy(part).map_blocks(lambda block: block.sum(keepdims=True)) for part in REGIONS]
    got = np.ravel(dask.compute(*blocks))
    np.testing.assert_array_equal(got, [IMAGE[part].sum() for part in REGIONS])


@pytest.mark.parametrize("fuse", [True, False])
def test_regions_are_right_whether_or_not_dask_fuses_tasks(fuse):
    with dask.config.set({"optimization.fuse.active": fuse}):
        source = DaskSource(da.from_array(IMAGE, chunks=CHUNKS).map_blocks(np.negative).rechunk((7, 4)))
        for region in REGIONS[::3]:
            np.testing.assert_array_equal(source.read(region), -IMAGE[region])


def test_graphs_of_plain_tuples_are_understood():
    graph = {("a", 0): (np.add, ("b", 0), 1), ("a", 1): (np.add, ("b", 1), 1)}
    graph |= {("b", 0): (np.arange, 3), ("b", 1): (np.arange, 4)}
    source = DaskSource(da.Array(graph, "a", ((3, 4),), dtype=np.arange(3).dtype))
    np.testing.assert_array_equal(source.read((slice(1, 6),)), [2, 3, 1, 2, 3])


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_chunk_reads_counts_the_chunks_that_share_a_voxel(data):
    lengths = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)
    chunks = (data.draw(lengths), data.draw(lengths))
    shape = tuple(map(sum, chunks))
    parts = [
        [slice(*sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))) for n in shape]
        for _ in range(3)
    ]
    full = [tuple(n for n in axis if n) or (0,) for axis in chunks]
    want = sum(len(touched(part, full)) for part in parts) / (len(full[0]) * len(full[1]))
    assert DaskSource(da.zeros(shape, chunks=chunks)).chunk_reads(map(tuple, parts)) == want


def test_chunks_of_length_zero_are_no_tiles():
    source = DaskSource(da.concatenate([da.ones(3, chunks=3), da.ones(0, chunks=1), da.ones(2, chunks=2)]))
    assert source.chunks == ((3, 2),)
    assert source.read_unit == (3,)
    np.testing.assert_array_equal(source.read((slice(2, 5),)), np.ones(3))


def test_chunks_of_unknown_size_are_refused_with_the_remedy():
    values = da.arange(10, chunks=3)
    with pytest.raises(ValueError, match=r"image\.compute_chunk_sizes\(\)"):
        DaskSource(values[values > 4])


def test_a_dtype_that_will_not_do_is_said_before_sizes_are_asked_for():
    texts = da.from_array(np.array(["a", "b", "c"]), chunks=2)
    with pytest.raises(TypeError, match="has dtype <U1"):
        DaskSource(texts[texts != "b"])


def test_masked_chunks_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"dask\.array\.ma\.filled"):
        DaskSource(da.ma.masked_equal(da.arange(10, chunks=3), 2))


def test_chunks_that_are_no_numpy_arrays_are_refused():
    class Foreign:
        dtype, ndim, shape = np.dtype("u1"), 1, (0,)
        __array_function__ = __array_ufunc__ = None

        def __getitem__(self, index):
            return self

    image = da.Array({("a", 0): 0}, "a", ((3,),), meta=Foreign())
    with pytest.raises(TypeError, match=r"Foreign; they must be NumPy arrays.*cupy\.asnumpy"):
        DaskSource(image)


def test_a_graph_that_makes_another_dtype_than_promised_is_refused_not_cast():
    image = da.from_array(IMAGE, chunks=CHUNKS).map_blocks(lambda block: block / 2, dtype="uint8")
    with pytest.raises(ValueError, match=r"ndarray of float64.*announced as ndarray of uint8"):
        DaskSource(image).read(REGIONS[0])


def test_a_graph_that_makes_another_shape_than_promised_is_refused():
    image = da.from_array(IMAGE, chunks=CHUNKS).map_blocks(lambda block: block[:1])
    with pytest.raises(ValueError, match=r"shape \(1, 5\).*announced.*shape \(4, 5\)"):
        DaskSource(image).read((slice(0, 4), slice(0, 5)))


def test_masked_values_that_appear_in_a_chunk_are_refused():
    image = da.from_array(IMAGE, chunks=CHUNKS).map_blocks(
        lambda block: np.ma.masked_equal(block, 3), dtype=IMAGE.dtype, meta=np.empty((0, 0), IMAGE.dtype)
    )
    with pytest.raises(ValueError, match="MaskedArray"):
        DaskSource(image).read(REGIONS[0])


def test_F13_a_dask_image_is_known_by_its_graph_and_chunks(identities):
    def known(values, chunks):
        return DaskSource(da.from_array(values, chunks=chunks)).identity()

    base = known(IMAGE, CHUNKS)
    assert known(IMAGE.copy(), CHUNKS) == base
    changed = IMAGE.copy()
    changed[3, 3] += 1
    assert identities.differing(base, known(changed, CHUNKS)) == {"graph"}
    assert identities.differing(base, known(IMAGE, (10, 10))) == {"graph", "chunks"}
    assert {"graph", "dtype"} <= identities.differing(base, known(IMAGE.astype("uint8"), CHUNKS))
    assert {"graph", "shape"} <= identities.differing(base, known(IMAGE[:, :9], (10, 5)))


def test_F13_a_sample_of_the_pixels_notices_what_a_dask_identity_does_not(tmp_path, write):
    stored = write.array(WrapperStore(LocalStore(tmp_path / "a")), IMAGE, chunks=(8, 8))
    source = DaskSource(da.from_array(stored, chunks=(8, 8), name="stored"))
    known, sample = source.identity(), pixel_digest(source.read(REGIONS[0]))
    stored[0, 0] = 99
    again = DaskSource(da.from_array(stored, chunks=(8, 8), name="stored"))
    assert again.sampled
    assert again.identity() == known
    assert pixel_digest(again.read(REGIONS[0])) != sample


def test_F13_a_dask_image_of_zarr_files_is_known_by_them(tmp_path, write, identities):
    stored = write.array(tmp_path / "a", IMAGE, chunks=(8, 8))
    images = [da.from_zarr(str(tmp_path / "a")), da.from_array(stored, chunks=(8, 8), name="stored") + 1]
    known = [DaskSource(image).identity() for image in images]
    assert [DaskSource(image).identity() for image in images] == known
    stored[0, 0] = 99
    for image, before in zip(images, known, strict=True):
        assert identities.differing(before, DaskSource(image).identity()) == {"content"}


def test_an_identity_computes_no_chunk():
    image, calls = counting_image()
    DaskSource(image).identity()
    assert not calls
