"""Along axes that are not merged an id counts for each position by itself, however long tiles are there (B21)."""

import dataclasses
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask
import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from strategies import Unsteady, subsets, unsteady_functions

from blockbuster import tile_process

pytestmark = [
    pytest.mark.usefixtures("one_at_a_time"),
    pytest.mark.filterwarnings("ignore:merge=.agree. without a halo"),
    pytest.mark.filterwarnings("ignore:runaway merging"),
    # In images as small as these few tiles have two objects, and noise makes pieces of those.
    pytest.mark.filterwarnings("ignore:all objects have the same id"),
]
TOP = 2**64 - 1


@dataclass(frozen=True)
class ByPlane:
    """A function that is applied to each plane of a tile, that is to each position along the other axes.

    `names`: ids begin anew in every plane, as `fn` gives them (``"anew"``), or from the top of 64 bits down
    (``"top"``); or they differ from plane to plane (``"through"``). `dropped`: an axis that is first added up.
    """

    fn: Any
    axes: tuple[int, ...]
    names: str = "anew"
    dropped: int | None = None

    def __call__(self, tile):
        if self.dropped is not None:
            tile = tile.sum(axis=self.dropped, dtype=tile.dtype)
        labels = np.zeros(tile.shape, np.uint64)
        last = 0
        for place in itertools.product(*(self._steps(axis, n) for axis, n in enumerate(tile.shape))):
            found = self.fn(np.ascontiguousarray(tile[place])).astype(np.uint64)
            labels[place] = np.where(found > 0, found + np.uint64(last), np.uint64(0))
            last += int(found.max(initial=0)) if self.names == "through" else 0
        return np.where(labels > 0, np.uint64(TOP) - labels, labels) if self.names == "top" else labels

    def _steps(self, axis, n):
        return [slice(None)] if axis in self.axes else [slice(i, i + 1) for i in range(n)]


@dataclass(frozen=True)
class PlaneCase:
    """An image with axes of any kind and order, and how it is cut and merged; `channel` ``None``: fn sees all."""

    axes: str
    shape: tuple[int, ...]
    tile_shape: tuple[int, ...]
    overlap: tuple[int, ...]
    merge_axes: str | None = None
    connectivity: int = 1
    merge: str = "touch"
    channel: int | None = 0
    drops_channels: bool = False
    names: str = "anew"
    tiles_per_task: int | None = None
    sequential: bool = False
    density: float = 0.6
    seed: int = 0

    @cached_property
    def image(self):
        return (np.random.default_rng(self.seed).random(self.shape) < self.density).astype(np.uint8)

    @property
    def uncut(self):
        """The number of the channel axis where fn sees all channels."""
        return self.axes.index("c") if self.channel is None else None

    @property
    def dropped(self):
        return self.uncut if self.drops_channels else None

    @property
    def label_axes(self):
        return self.axes.replace("c", "") if self.drops_channels else self.axes

    @property
    def merged(self):
        """Numbers of the merged axes in the labels."""
        names = set(self.axes) - {"t", "c"} if self.merge_axes is None else self.merge_axes
        return tuple(axis for axis, letter in enumerate(self.label_axes) if letter in names)

    @cached_property
    def components(self):
        """A function without a fault: the connected components of each plane."""
        steps = np.abs(np.indices((3,) * len(self.label_axes)) - 1)
        others = [axis for axis in range(len(steps)) if axis not in self.merged]
        structure = (steps.sum(axis=0) <= self.connectivity) & ~steps[others].any(axis=0)
        return self.by_plane(lambda plane: ndimage.label(plane, structure)[0])

    def by_plane(self, fn):
        return ByPlane(fn, self.merged, self.names, self.dropped)

    @property
    def whole(self):
        """Components of every plane of the whole image, all with ids of their own."""
        fn = dataclasses.replace(self.components, names="through")
        return fn(self.image).astype(np.int64)

    def run(self, fn, **options):
        tile_shape = [1 if axis == self.uncut else n for axis, n in enumerate(self.tile_shape)]
        return tile_process(
            self.image,
            fn,
            **{
                "axes": self.axes,
                "tile_shape": tuple(tile_shape),
                "overlap": self.overlap,
                "merge_axes": self.merge_axes,
                "connectivity": self.connectivity,
                "merge": self.merge,
                "channel": self.channel,
                "tiles_per_task": self.tiles_per_task,
                "sequential_labels": self.sequential,
                **options,
            },
        )

    @property
    def in_planes(self):
        """The same, cut into planes, which fn sees one by one."""
        is_merged = [letter in {self.label_axes[axis] for axis in self.merged} for letter in self.axes]
        tile = tuple(n if merged else 1 for n, merged in zip(self.tile_shape, is_merged, strict=True))
        halo = tuple(n if merged else 0 for n, merged in zip(self.overlap, is_merged, strict=True))
        return dataclasses.replace(self, tile_shape=tile, overlap=halo)


@st.composite
def plane_cases(draw, merges=("touch", "agree", "none")):
    """Axes in any order, of which some are merged, and tiles of any length along all of them."""
    axes = "".join(draw(st.permutations("tczyx")))[: draw(st.integers(1, 4))]
    longest = {1: 30, 2: 9, 3: 6, 4: 4}[len(axes)]
    shape = tuple(draw(st.integers(1, longest)) for _ in axes)
    joinable = [letter for letter in axes if letter not in "tc"]
    merge = draw(st.sampled_from(merges))
    # Tiles of a function without a fault agree where both see beyond the seam, and one plane alone is no halo.
    least = 1 if merge == "agree" else 0
    channel = draw(st.sampled_from([0, None])) if "c" in axes else 0
    return PlaneCase(
        axes=axes,
        shape=shape,
        tile_shape=tuple(draw(st.integers(1, n + 1)) for n in shape),
        overlap=tuple(0 if letter in "tc" else draw(st.integers(least, 3)) for letter in axes),
        merge_axes=draw(st.one_of(st.none(), subsets(joinable))) if joinable else None,
        connectivity=draw(st.integers(1, len(axes))),
        merge=merge,
        channel=channel,
        drops_channels=channel is None and len(axes) > 1 and draw(st.booleans()),
        names=draw(st.sampled_from(["anew", "through", "top"])),
        tiles_per_task=draw(st.sampled_from([None, 1, 3])),
        sequential=draw(st.booleans()),
        density=draw(st.sampled_from([0.3, 0.6, 0.9])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


TWO_CHANNELS = PlaneCase("cyx", (2, 1, 4), (1, 1, 2), (0, 0, 0), channel=None)
FRAMES = PlaneCase("tyx", (8, 9, 9), (8, 4, 4), (0, 1, 1), connectivity=3, names="top")
STACK_WITH_HALO = PlaneCase(
    "zyx", (7, 9, 8), (3, 4, 4), (2, 2, 2), merge_axes="xy", connectivity=3, merge="agree"
)
CHANNELS_LAST = PlaneCase("yxc", (9, 8, 3), (4, 3, 1), (1, 1, 0), connectivity=2, channel=None, tiles_per_task=1)
TWO_AXES_APART = PlaneCase("tyzxc", (3, 4, 2, 5, 2), (2, 2, 2, 2, 2), (0, 1, 0, 1, 0), merge_axes="yx")
CHANNELS_DROPPED = PlaneCase(
    "tycx", (4, 6, 3, 7), (3, 3, 1, 3), (0, 1, 0, 1), channel=None, drops_channels=True, density=0.3
)


@settings(max_examples=examples(3) * settings().max_examples)
@given(plane_cases(merges=("touch", "agree")))
@example(TWO_CHANNELS)
@example(FRAMES)
@example(STACK_WITH_HALO)
@example(CHANNELS_LAST)
@example(TWO_AXES_APART)
@example(CHANNELS_DROPPED)
def test_B21_tiled_labels_are_those_of_every_plane_of_the_whole_image(case):
    labels = case.run(case.components, min_agreement=1)
    assert naive.partition_fault(labels, case.whole) == ""


@settings(max_examples=examples(2) * settings().max_examples)
@given(plane_cases(), unsteady_functions())
@example(FRAMES, Unsteady(noise=0.1))
@example(STACK_WITH_HALO, Unsteady(noise=0.1, cuts=True))
@example(dataclasses.replace(CHANNELS_LAST, merge="agree"), Unsteady(noise=0.1))
@example(dataclasses.replace(TWO_AXES_APART, merge="none"), Unsteady(noise=0.1))
def test_B21_tiles_of_many_planes_give_what_tiles_of_one_plane_give(case, fn):
    """Whatever fn finds in a plane, and however seams are joined; what the report counts is the same too."""
    fn = case.by_plane(fn)
    labels, report = case.run(fn, return_report=True)
    expected, expected_report = case.in_planes.run(fn, return_report=True)
    assert naive.partition_fault(labels, expected.astype(np.int64)) == ""
    assert report.n_objects == expected_report.n_objects
    assert report.n_provisional == expected_report.n_provisional
    counts = [
        {axis.name: (axis.touching, axis.joined, axis.histogram) for axis in seams.axes if axis.touching}
        for seams in (report.seams, expected_report.seams)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ("cyx", {"channel": None, "tile_shape": (1, 2)}),
        ("tyx", {"tile_shape": (2, 1, 2)}),
        ("tyx", {}),
        ("zyx", {"merge_axes": "yx", "tile_shape": (2, 1, 2)}),
        ("cyx", {"tile_shape": (2, 1, 4), "merge": "none"}),
    ],
)
@pytest.mark.parametrize("tiles_per_task", [None, 1])
def test_B21_ids_that_begin_anew_in_every_plane_are_different_objects(axes, options, tiles_per_task):
    image = np.array([[[1, 0, 0, 1]], [[0, 1, 1, 0]]])
    fn = ByPlane(naive.label, (1, 2))
    labels = tile_process(image, fn, axes=axes, **options, tiles_per_task=tiles_per_task)
    assert naive.partition_fault(labels, np.array([[[1, 0, 0, 2]], [[0, 3, 3, 0]]])) == ""


def test_B21_without_names_of_axes_all_are_merged():
    image = np.array([[[1, 0, 0, 1]], [[0, 1, 1, 0]]])
    labels = tile_process(image, lambda tile: tile, tile_shape=(2, 1, 2))
    assert labels.tolist() == image.tolist()


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
@pytest.mark.parametrize("overlap", [0, 8])
def test_B21_objects_of_two_channels_are_counted_by_channel(scheduler, overlap, pool, tmp_path):
    random = np.random.default_rng(7)
    mask = ndimage.gaussian_filter(random.random((2, 128, 128)), (0, 2, 2)) > 0.515
    expected = [ndimage.label(channel)[1] for channel in mask]
    fn = ByPlane(ndimage_label, (1, 2))
    with dask.config.set(scheduler=scheduler, pool=pool if scheduler == "processes" else None):
        labels, report = tile_process(
            mask.astype(np.uint8),
            fn,
            tile_shape=(32, 32),
            overlap=overlap,
            axes="cyx",
            channel=None,
            write_to=tmp_path / "out.zarr",
            return_report=True,
        )
    assert [len(np.unique(channel)) - 1 for channel in np.asarray(labels)] == expected
    assert report.n_objects == sum(expected)


def ndimage_label(plane):
    return ndimage.label(plane)[0]
