"""Hypothesis strategies: small images of any geometry, and ways to cut and store them."""

import contextlib
import itertools
import math
import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask.array as da
import naive
import numpy as np
import zarr
from hypothesis import strategies as st

from blockbuster import tile_process

MOST_TILES = 48
LONGEST = {1: 97, 2: 31, 3: 13, 4: 7}
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97]
DENSITIES = [0.02, 0.2, 0.35, 0.5, 0.65, 0.9, 1.0]


@dataclass(frozen=True)
class Case:
    """A random mask, the form in which it is given, and the settings of a run.

    `chunks` has one length per axis, or a tuple of lengths; `stored`: the labels go through a zarr array.
    """

    shape: tuple[int, ...]
    tile_shape: tuple[int, ...] | None
    overlap: int | tuple[int, ...] = 0
    connectivity: int = 1
    tiles_per_task: int | None = None
    kind: str = "numpy"
    chunks: tuple[Any, ...] | None = None
    density: float = 0.5
    seed: int = 0
    stored: bool = False

    @cached_property
    def mask(self):
        return (np.random.default_rng(self.seed).random(self.shape) < self.density).astype(np.uint8)

    @property
    def lengths(self):
        """Lengths of the tiles that are asked for."""
        return self.chunks if self.tile_shape is None else naive.cut(self.shape, self.tile_shape)

    @property
    def halo(self):
        return naive.spread_halo(self.overlap, [max(axis) for axis in self.lengths])

    def run(self, fn, image=None, **options):
        """Labels of the mask, or of another image, in tiles."""
        image = self.mask if image is None else image
        options = {"connectivity": self.connectivity, "tiles_per_task": self.tiles_per_task, **options}
        with tempfile.TemporaryDirectory() as folder, given_as(image, self.kind, self.chunks) as opened:
            if self.stored:
                options |= {"write_to": f"{folder}/labels.zarr", "compute": True}
            return tile_process(opened, fn, tile_shape=self.tile_shape, overlap=self.overlap, **options)


@contextlib.contextmanager
def given_as(image, kind, chunks=None):
    """Give an image in one of the forms that are accepted."""
    if kind == "numpy":
        yield image
    elif kind == "dask":
        yield da.from_array(image, chunks=chunks or image.shape)
    else:
        with tempfile.TemporaryDirectory() as folder:
            zarr.create_array(f"{folder}/image.zarr", data=image, chunks=chunks or image.shape)
            yield f"{folder}/image.zarr"


def lengths_up_to(longest):
    """Lengths of an axis: 1, primes and anything."""
    primes = [p for p in PRIMES if p <= longest]
    return st.one_of(st.just(1), st.sampled_from(primes), st.integers(1, longest))


@st.composite
def shapes(draw, ndims=(1, 2, 3, 4)):
    ndim = draw(st.sampled_from(ndims))
    return tuple(draw(st.lists(lengths_up_to(LONGEST[ndim]), min_size=ndim, max_size=ndim)))


@st.composite
def tile_shapes(draw, shape, most_tiles=MOST_TILES):
    """Tiles of any size, also such that the last has one voxel, and larger than the image."""
    tile = [draw(st.one_of(st.just(max(1, n - 1)), st.integers(1, n + 3))) for n in shape]
    while math.prod(counts := [-(-n // t) for n, t in zip(shape, tile, strict=True)]) > most_tiles:
        tile[counts.index(max(counts))] *= 2
    return tuple(tile)


def overlaps(shape):
    """A number, or one for each axis; up to more than the image is long."""
    return st.one_of(st.integers(0, max(shape) + 2), st.tuples(*(st.integers(0, n + 2) for n in shape)))


@st.composite
def partitions(draw, length, most_parts=4):
    """Irregular lengths that add up to `length`."""
    cuts = draw(st.sets(st.integers(1, length - 1), max_size=most_parts - 1)) if length > 1 else set()
    edges = [0, *sorted(cuts), length]
    return tuple(b - a for a, b in itertools.pairwise(edges))


@st.composite
def cases(draw, ndims=(1, 2, 3, 4), kinds=("numpy", "dask", "zarr")):
    """Images, tiles, halos, connectivities, tasks and forms of input, all that may be combined."""
    shape = draw(shapes(ndims))
    kind = draw(st.sampled_from(kinds))
    irregular = st.tuples(*(partitions(n, most_parts=3) for n in shape))
    chunks = {"numpy": st.none(), "dask": irregular, "zarr": tile_shapes(shape)}[kind]
    return Case(
        shape=shape,
        tile_shape=draw(tile_shapes(shape)),
        overlap=draw(overlaps(shape)),
        connectivity=draw(st.integers(1, len(shape))),
        tiles_per_task=draw(st.sampled_from([None, 1, 2, 5])),
        kind=kind,
        chunks=draw(chunks),
        density=draw(st.sampled_from(DENSITIES)),
        seed=draw(st.integers(0, 2**32 - 1)),
        stored=draw(st.booleans()),
    )


@st.composite
def chunked_cases(draw):
    """Images whose irregular dask chunks are the tiles."""
    shape = draw(shapes())
    return Case(
        shape=shape,
        tile_shape=None,
        overlap=draw(overlaps(shape)),
        connectivity=draw(st.integers(1, len(shape))),
        tiles_per_task=draw(st.sampled_from([None, 1, 2, 5])),
        kind="dask",
        chunks=draw(st.tuples(*(partitions(n, most_parts=2 + 2 // len(shape)) for n in shape))),
        density=draw(st.sampled_from(DENSITIES)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
