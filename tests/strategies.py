"""Hypothesis strategies: small images of any geometry, and ways to cut and store them."""

import contextlib
import itertools
import math
import tempfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask.array as da
import naive
import numpy as np
import zarr
from hypothesis import strategies as st

from blockbuster import tile_process

MAX_TILES = 48
LONGEST = {1: 97, 2: 31, 3: 13, 4: 7}
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97]
MAX_LABEL = 12
NAMES = [("uint8", 255), ("uint16", 2**16 - 1), ("int32", 24), ("int64", 2**62), ("uint64", 2**62)]
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
def tile_shapes(draw, shape, most_tiles=MAX_TILES):
    """Tiles of any size, also such that the last has one voxel, and larger than the image."""
    tile = [draw(st.one_of(st.just(max(1, n - 1)), st.integers(1, n + 3))) for n in shape]
    while math.prod(counts := [-(-n // t) for n, t in zip(shape, tile, strict=True)]) > most_tiles:
        tile[counts.index(max(counts))] *= 2
    return tuple(tile)


@st.composite
def wide_shapes(draw, ndims=(1, 2, 3, 4)):
    """Images that can be cut into several tiles along every axis."""
    ndim = draw(st.sampled_from(ndims))
    return tuple(draw(st.integers(LONGEST[ndim] // 2 + 1, LONGEST[ndim])) for _ in range(ndim))


@st.composite
def small_tile_shapes(draw, shape, most_tiles=MAX_TILES // 2):
    """Tiles that cut an image along every axis, as far as it is long enough."""
    tile = [draw(st.integers(min(2, n), max(min(2, n), n // 2))) for n in shape]
    while math.prod(counts := [-(-n // t) for n, t in zip(shape, tile, strict=True)]) > most_tiles:
        tile[counts.index(max(counts))] += 1
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


@dataclass(frozen=True)
class Unsteady:
    """A function of an image of labels that depends on all it sees: two tiles need not agree on what they share.

    Labels are moved by up to `shift` voxels along every axis, some are cut in two where `cuts`, a share `noise`
    of the voxels is drawn anew, and all get names of their own, up to `largest`.
    """

    seed: int = 0
    noise: float = 0.0
    shift: int = 0
    cuts: bool = False
    dtype: str = "int64"
    largest: int = 100

    def __call__(self, tile):
        random = np.random.default_rng([self.seed, zlib.crc32(tile.tobytes()), *tile.shape])
        moves = random.integers(-self.shift, self.shift + 1, tile.ndim)
        labels = np.roll(tile.astype(np.int64), moves, range(tile.ndim))
        if self.cuts:
            axis = random.integers(tile.ndim)
            place = np.indices(tile.shape)[axis] < random.integers(tile.shape[axis] + 1)
            labels += np.where((labels > 0) & (labels % 2 == random.integers(2)) & place, MAX_LABEL, 0)
        labels = np.where(random.random(tile.shape) < self.noise, random.integers(0, 4, tile.shape), labels)
        return self._rename(labels, random).astype(self.dtype)

    def _rename(self, labels, random):
        n_names = 2 * MAX_LABEL
        if self.largest > 2**32:
            names = np.cumsum(random.integers(1, self.largest // n_names, n_names))
        else:
            names = random.permutation(self.largest)[:n_names] + 1
        return np.where(labels > 0, random.permutation(names)[labels - 1], 0)


@dataclass(frozen=True)
class TissueCase(Case):
    """An image of labels, a function that finds them again more or less, and how they are to be joined.

    `tissue` is "soup": each voxel has a label of its own; "mask": a label or none; or "cells": `n_cells` that
    fill the image, but for the background.
    """

    tissue: str = "soup"
    n_cells: int = 12
    fn: Unsteady = Unsteady()
    merge_axes: str | None = None
    min_agreement: float = 0.4

    @cached_property
    def mask(self):
        random = np.random.default_rng(self.seed)
        if self.tissue == "soup":
            return random.integers(0, 4, self.shape, np.uint8)
        if self.tissue == "mask":
            return (random.random(self.shape) < self.density).astype(np.uint8)
        centres = random.random((self.n_cells, len(self.shape))) * self.shape
        places = np.indices(self.shape)
        distances = [sum(abs(x - c) for x, c in zip(places, centre, strict=True)) for centre in centres]
        nearest = np.argmin(distances, axis=0)
        return np.where(nearest < self.n_cells * self.density, nearest + 1, 0).astype(np.uint8)

    @property
    def axes(self):
        return "wzyx"[-len(self.shape) :]

    def run(self, fn=None, image=None, **options):
        """Labels that the tiles are joined to."""
        defaults = {"merge": "agree", "min_agreement": self.min_agreement, "axes": self.axes}
        options = defaults | {"merge_axes": self.merge_axes} | options
        return super().run(fn or self.fn, image, **options)

    @property
    def merged(self):
        """Numbers of the axes that are merged, or None for all."""
        return None if self.merge_axes is None else [self.axes.index(letter) for letter in self.merge_axes]

    def seen(self, fn=None):
        """What the slow twin is asked with: the image and how it is cut, which voxels touch."""
        connectivity = self.connectivity or len(self.shape)
        return self.mask, fn or self.fn, self.lengths, self.halo, connectivity, self.merged

    def expected(self, fn=None, **options):
        """What `run` is to give, ids and all."""
        return naive.stitch(*self.seen(fn), **{"merge": "agree", "min_agreement": self.min_agreement, **options})


@st.composite
def unsteady_functions(draw):
    dtype, largest = draw(st.sampled_from(NAMES))
    return Unsteady(
        seed=draw(st.integers(0, 99)),
        noise=draw(st.sampled_from([0.1, 0.3, 0.0, 1.0])),
        shift=draw(st.sampled_from([0, 0, 0, 1, 2])),
        cuts=draw(st.booleans()),
        dtype=dtype,
        largest=largest,
    )


@st.composite
def tissue_cases(draw, ndims=(1, 2, 3, 4)):
    """Images of labels, found again by functions that are unsteady, in tiles with halos of any kind."""
    is_wide = draw(st.integers(0, 3)) < 3
    shape = draw(wide_shapes(ndims) if is_wide else shapes(ndims))
    irregular = draw(st.integers(0, 3)) == 3
    tile_shape = None if irregular else draw(small_tile_shapes(shape) if is_wide else tile_shapes(shape))
    parts = st.tuples(*(partitions(n, most_parts=2 + 2 // len(shape)) for n in shape))
    thin = st.one_of(st.integers(0, 3), st.tuples(*(st.integers(0, 2) for _ in shape)))
    letters = "wzyx"[-len(shape) :]
    return TissueCase(
        shape=shape,
        tile_shape=tile_shape,
        overlap=draw(st.one_of(thin, overlaps(shape))),
        connectivity=draw(st.sampled_from([None, *range(1, len(shape) + 1)])),
        tiles_per_task=draw(st.sampled_from([None, 1, 2, 5, 1000])),
        kind="dask" if irregular else "numpy",
        chunks=draw(parts) if irregular else None,
        density=draw(st.sampled_from([0.3, 0.7, 1.0])),
        seed=draw(st.integers(0, 2**32 - 1)),
        stored=draw(st.sampled_from([False, False, True])),
        tissue=draw(st.sampled_from(["soup", "mask", "cells"])),
        n_cells=draw(st.integers(1, MAX_LABEL)),
        fn=draw(unsteady_functions()),
        merge_axes=draw(st.one_of(st.none(), subsets(letters))),
        min_agreement=draw(st.sampled_from([0.4, 0.1, 0.6, 1, 0])),
    )


def subsets(letters):
    """Some of the letters, in their order or not."""
    return st.permutations(letters).flatmap(
        lambda order: st.integers(1, len(order)).map(lambda n: "".join(order[:n]))
    )
