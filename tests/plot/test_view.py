"""Which part of an image is drawn, and that no more of it is read."""

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore, WrapperStore

from blockbuster.plot import view as views
from blockbuster.plot.view import choose_view, limit_view, open_image, open_labels, read_picture


class Watched:
    """A dask array that counts the chunks that are computed."""

    def __init__(self, shape, chunks, dtype="int32"):
        self.computed = []
        self.array = da.map_blocks(
            self._block, da.zeros(shape, chunks=chunks, dtype=dtype), dtype=dtype, meta=np.empty(0, dtype)
        )

    def _block(self, block, block_info=None):
        place = block_info[0]["array-location"] if block_info else [(0, n) for n in block.shape]
        self.computed.append(tuple(start for start, _ in place))
        grids = np.meshgrid(*(np.arange(*part) for part in place), indexing="ij", sparse=True)
        return (1 + sum(grid % 1000 * (axis + 1) for axis, grid in enumerate(grids))).astype(block.dtype)


def write_pyramid(path, image, axes, factor=2, n_levels=3):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    datasets = []
    for number in range(n_levels):
        step = tuple(1 if letter in "tcz" else factor**number for letter in axes)
        level = image[tuple(slice(None, None, n) for n in step)]
        chunks = tuple(min(n, 64) for n in level.shape)
        array = group.create_array(str(number), shape=level.shape, chunks=chunks, dtype=level.dtype)
        array[...] = level
        scale = [float(n) for n in step]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": letter, "type": kinds.get(letter, "space")} for letter in axes]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": named, "datasets": datasets}]}
    return str(path)


def numbered(*shape):
    return np.arange(1, np.prod(shape) + 1, dtype="int32").reshape(shape)


def test_the_middle_plane_is_drawn_and_nothing_else_is_read():
    watched = Watched((40, 3, 60, 80), (4, 1, 30, 40))
    image = open_image(watched.array)
    view = choose_view(image)
    assert (view.at, view.rows, view.columns) == ((20, 1), slice(0, 60), slice(0, 80))
    picture = read_picture(image, view)
    assert {place[:2] for place in watched.computed} == {(20, 1)}
    assert len(watched.computed) == 4
    np.testing.assert_array_equal(picture.pixels, watched.array[20, 1].compute())
    assert picture.extent == (0, 80, 60, 0)


def test_of_a_region_only_the_chunks_that_it_touches_are_read():
    watched = Watched((1000, 10**4, 10**4), (10, 500, 500))
    image = open_image(watched.array)
    picture = read_picture(image, choose_view(image, 777, np.s_[9100:9700, 100:300]))
    assert set(watched.computed) == {(770, 9000, 0), (770, 9500, 0)}
    assert picture.pixels.shape == (600, 200)
    assert picture.extent == (100, 300, 9700, 9100)


class Asked(WrapperStore):
    """A store that remembers which chunks were asked for."""

    async def get(self, key, prototype, byte_range=None):
        self.__dict__.setdefault("chunks", set()).add(key)
        return await super().get(key, prototype, byte_range)


def test_of_terabytes_without_coarser_levels_the_middle_is_read_in_part():
    store = Asked(MemoryStore())
    array = zarr.create_array(store, shape=(100, 10**6, 10**6), chunks=(1, 2048, 2048), dtype="uint16")
    array[50, 500_000:500_100, 500_000:500_200] = numbered(100, 200)
    image = open_image(array)
    view = limit_view(choose_view(image), image)
    assert view.is_middle
    assert view.sides == (8192, 8192)
    assert view.rows.start == view.columns.start == (10**6 - 8192) // 2
    store.chunks.clear()
    picture = read_picture(image, view)
    assert len({key for key in store.chunks if key.startswith("c/")}) == 5 * 5
    assert max(picture.pixels.shape) <= 2000
    rows, columns = (
        np.arange(part.start, part.stop, picture.step) - 500_000 for part in (view.rows, view.columns)
    )
    inside = np.ix_((rows >= 0) & (rows < 100), (columns >= 0) & (columns < 200))
    assert picture.pixels[inside].size == 20 * 40
    np.testing.assert_array_equal(
        picture.pixels[inside], numbered(100, 200)[rows[0] % 5 :: 5, columns[0] % 5 :: 5]
    )
    picture.pixels[inside] = 0
    assert not picture.pixels.any()


@pytest.mark.parametrize(("sides", "middle"), [((10, 10**9), (10, 2**26 // 10)), ((10**9, 3), (2**26 // 3, 3))])
def test_a_long_plane_keeps_its_short_side(sides, middle):
    image = open_image(da.zeros(sides, chunks=10**8))
    assert limit_view(choose_view(image), image).sides == middle


def test_a_large_plane_is_read_from_the_coarser_level_that_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "MAX_PIXELS", 100)
    pixels = numbered(2, 3, 330, 250)
    path = write_pyramid(tmp_path / "image.zarr", pixels, "czyx")
    image = open_image(path, channel=1)
    assert (image.shape, image.letters) == ((3, 330, 250), ("z", "y", "x"))
    whole = read_picture(image, choose_view(image, 2))
    assert (whole.level, whole.step) == (2, 1)
    np.testing.assert_array_equal(whole.pixels, pixels[1, 2, ::4, ::4])
    part = read_picture(image, choose_view(image, 2, np.s_[100:260, 40:100]))
    assert part.level == 1
    np.testing.assert_array_equal(part.pixels, pixels[1, 2, 100:260:2, 40:100:2])
    assert part.extent == pytest.approx((40, 100, 260, 100))
    fine = read_picture(image, choose_view(image, 2, np.s_[100:200, 40:100]))
    assert fine.level == 0
    np.testing.assert_array_equal(fine.pixels, pixels[1, 2, 100:200, 40:100])


def test_levels_are_counted_from_that_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "MAX_PIXELS", 100)
    pixels = numbered(330, 250)
    image = open_image(write_pyramid(tmp_path / "image.zarr", pixels, "yx"), level=1)
    assert image.shape == (165, 125)
    picture = read_picture(image, choose_view(image))
    assert picture.level == 1
    np.testing.assert_array_equal(picture.pixels, pixels[::4, ::4])
    assert picture.extent == pytest.approx((0, 125, 165, 0), abs=1)


@given(st.data())
def test_lines_beside_seams_are_whole_however_the_plane_is_read(data):
    shape = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    rows, columns = (
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )
    cuts = [data.draw(st.lists(st.integers(0, n), unique=True)) for n in shape]
    chunks = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    labels = numbered(*shape)
    image = open_image(da.from_array(labels, chunks=chunks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "MAX_PIXELS", data.draw(st.integers(1, 30)))
        patch.setattr(views, "BAND_VOXELS", data.draw(st.integers(1, 300)))
        picture = read_picture(
            image, choose_view(image, None, (rows, columns)), rows=cuts[0], columns=cuts[1], exact=True
        )
    np.testing.assert_array_equal(picture.pixels, labels[rows, columns][:: picture.step, :: picture.step])
    inside = [
        {c for c in axis if part.start < c < part.stop} for axis, part in zip(cuts, (rows, columns), strict=True)
    ]
    assert [set(picture.beside_rows), set(picture.beside_columns)] == inside
    for cut, lines in picture.beside_rows.items():
        np.testing.assert_array_equal(lines, labels[cut - 1 : cut + 1, columns])
    for cut, lines in picture.beside_columns.items():
        np.testing.assert_array_equal(lines, labels[rows, cut - 1 : cut + 1].T)


def test_a_channel_of_an_array_is_drawn_by_its_axes():
    pixels = numbered(7, 9, 3)
    image = open_image(pixels, axes="yxc", channel=2)
    np.testing.assert_array_equal(read_picture(image, choose_view(image)).pixels, pixels[..., 2])


@pytest.mark.parametrize("axes", [None, "cyx"])
def test_labels_may_have_the_channel_axis_of_the_image_or_not(axes):
    image = open_image(numbered(2, 5, 6), axes="cyx", channel=1)
    labels = numbered(2, 5, 6) if axes else numbered(5, 6)
    found = open_labels(labels, image)
    expected = labels[1] if axes else labels
    np.testing.assert_array_equal(read_picture(found, choose_view(found)).pixels, expected)


def test_labels_that_are_not_those_of_the_image_are_refused():
    image = open_image(np.zeros((5, 6)))
    with pytest.raises(ValueError, match=r"labels have shape \(5, 7\), and the image has \(5, 6\)"):
        open_labels(numbered(5, 7), image)
    with pytest.raises(TypeError, match="labels have dtype float64; they must be integers"):
        open_labels(np.zeros((5, 6)), image)


@pytest.mark.parametrize("plane", [3, -4, (1, 1), 1.0, "z"])
def test_a_plane_that_is_not_there_is_refused(plane):
    with pytest.raises(ValueError, match="one index for each axis before the last two"):
        choose_view(open_image(np.zeros((3, 5, 6))), plane)


@pytest.mark.parametrize(
    "region", [np.s_[3:3, :], np.s_[::2, :], (slice(None),), (1, 2), 5, np.s_[9:, :]], ids=str
)
def test_a_region_that_is_not_there_is_refused(region):
    with pytest.raises(ValueError, match="it is a pair of slices without steps"):
        choose_view(open_image(np.zeros((5, 6))), None, region)


def test_an_image_of_one_axis_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"image has shape \(5,\); it must have at least two axes"):
        choose_view(open_image(np.zeros(5)))


def test_planes_are_counted_from_the_end_too():
    assert choose_view(open_image(np.zeros((4, 3, 5, 6))), (-1, 1)).at == (3, 1)
