"""A kind of image that the package does not know is one class, which `tile_process` takes as it is."""

import threading

import dask
import dask.array as da
import numpy as np
import pytest
from outcomes import assert_same_objects
from scipy import ndimage

from blockbuster import estimate_empty_tiles, intensity_percentiles, plan_run, tile_process
from blockbuster.source import Source, open_source

TILES = {"tile_shape": (32, 24), "overlap": 3, "tiles_per_task": 4}


class Formula(Source):
    """Rings, computed from the coordinates of their voxels; nothing of them is stored anywhere."""

    kind = "formula"

    def __init__(self, shape, width=100, origin=(0, 0)):
        super().__init__(shape, "uint8", axes="yx", name="rings")
        self.width, self.origin = width, origin

    def read(self, box):
        y, x = (np.arange(part.start, part.stop) + n for part, n in zip(box, self.origin, strict=True))
        return rings(y[:, None], x[None, :], self.width).astype("uint8")


class InGraph(Formula):
    """The same, computed by a task of dask for every box."""

    through_graph = True

    def lazy(self, box):
        lengths = [part.stop - part.start for part in box]
        return da.from_delayed(dask.delayed(super().read)(box), lengths, dtype=self.dtype)

    def read(self, box):
        return np.array(self.lazy(box).compute())


class Locked(Formula):
    """The same, and no other process can have it."""

    in_memory = True

    def __init__(self, shape, width=100):
        super().__init__(shape, width)
        self.lock = threading.Lock()


def rings(y, x, width=100):
    return (7 * y * y + 5 * x * x + y * x) // width % 251


def components(tile):
    return ndimage.label(tile > 128)[0]


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.parametrize("kind", [Formula, InGraph, Locked])
def test_an_image_that_is_a_formula_is_segmented_like_the_whole_of_it(kind, scheduler, tmp_path):
    shape = (157, 131)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        labels = tile_process(kind(shape), components, **TILES, write_to=tmp_path / "out.zarr", compute=True)
    assert_same_objects(labels, components(np.fromfunction(rings, shape, dtype=int)))


def test_an_image_that_no_memory_holds_is_planned_and_sampled():
    image = Formula((2**29, 2**30))
    assert plan_run(image, tile_shape=(2**26, 2**26)).n_tiles == 2**7
    low, high = intensity_percentiles(image, (1, 99))
    assert 0 <= low < 10
    assert 240 < high <= 250


def test_coordinates_may_be_larger_than_any_image_in_memory():
    labels = tile_process(Formula((100, 90), origin=(2**29, 2**30)), components, **TILES)
    expected = np.fromfunction(lambda y, x: rings(y + 2**29, x + 2**30), (100, 90), dtype=int)
    assert_same_objects(labels, components(expected))


def test_empty_tiles_of_a_new_kind_are_those_of_its_pixels():
    found = estimate_empty_tiles(Formula((64, 72)), (8, 8), threshold=200).empty
    pixels = np.fromfunction(rings, (64, 72), dtype=int)
    assert np.array_equal(found, pixels.reshape(8, 8, 9, 8).max((1, 3)) <= 200)
    assert 0 < found.sum() < found.size


@pytest.mark.parametrize(("kind", "scheduler"), [(Formula, "threads"), (Locked, "processes")])
def test_a_new_kind_is_known_again_by_some_of_its_pixels(kind, scheduler, tmp_path):
    def run(width):
        options = {**TILES, "write_to": tmp_path / "out.zarr", "resume": True, "return_report": True}
        with dask.config.set(scheduler=scheduler, num_workers=2):
            return tile_process(kind((60, 50), width), components, **options)[1]

    n_objects = run(100).n_objects
    assert run(100).n_objects == n_objects > 0
    with pytest.raises(FileExistsError, match="image rings: its pixels in .* are not those"):
        run(101)


def test_axes_of_a_source_are_its_own():
    image = Formula((4, 5))
    assert open_source(image) is image is open_source(image, axes="yx")
    with pytest.raises(ValueError, match=r"axes is 'zy', but image \(rings\) says 'yx'"):
        open_source(image, axes="zy")


def test_a_kind_without_a_way_to_read_says_so():
    with pytest.raises(NotImplementedError, match="Source has no method read"):
        Source((3,), int).read((slice(0, 2),))
