"""A function without a fault: agreement joins what is one object, and nothing else.

The image is a label image, and the function finds its labels under names that are others in every tile. What must
come of it follows from the labels alone: the part of an object in a tile is one label, and two of its parts
are joined where they touch across a seam.
"""

import dataclasses
import warnings

import h5py
import naive
import numpy as np
import pytest
import tifffile
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapes import Renamed, tissue
from strategies import tissue_cases

from blockbuster import tile_process

pytestmark = [
    pytest.mark.slow,
    # In small images few tiles have two labels.
    pytest.mark.filterwarnings("ignore:all objects have the same id"),
]

# Two tile shapes, each with the halo that it gets, which may be longer than the tile.
PLANE_TILES = [((300, 300), 7), ((190, 333), 1), ((61, 97), 70)]
VOLUME_TILES = [((25, 40, 33), 2), ((13, 17, 101), 1), ((30, 11, 19), 20)]


def parts_in_tiles(truth, lengths):
    """Number every label of every tile, and every tile: two images; and the label of each number."""
    tile_of_voxel = np.zeros(truth.shape, np.int32)
    for number, (_, core, _) in enumerate(naive.tiles(lengths, (0,) * truth.ndim)):
        tile_of_voxel[core] = number
    n = int(truth.max(initial=0)) + 1
    codes = tile_of_voxel * n + truth
    is_there = np.zeros(int(codes.max(initial=0)) + 1, bool)
    is_there[codes] = True
    is_there[::n] = False
    numbers = np.where(is_there, np.cumsum(is_there), 0)
    labels = np.concatenate([[0], np.flatnonzero(is_there) % n])
    return numbers[codes], tile_of_voxel, labels


def join_parts(truth, lengths, connectivity, merge_axes=None, same_object=True):
    """Join the parts of objects, or any labels whatever, that touch across a seam."""
    parts, tile_of_voxel, labels = parts_in_tiles(truth, lengths)
    pairs = [np.empty((0, 2), np.int64)]
    for step in naive.steps(truth.ndim, connectivity, merge_axes):
        here, there = naive.shifted(parts, step)
        touch = np.not_equal(*naive.shifted(tile_of_voxel, step)) & (here > 0) & (there > 0)
        pairs.append(np.column_stack([here[touch], there[touch]]))
    found = np.concatenate(pairs)
    if same_object:
        found = found[labels[found[:, 0]] == labels[found[:, 1]]]
    graph = coo_array((np.ones(len(found)), (found[:, 0], found[:, 1])), shape=(len(labels),) * 2)
    objects = connected_components(graph, directed=False)[1] + 1
    # Background is a part that nothing touches.
    objects[0] = 0
    return objects[parts]


def n_objects(labels):
    return int(np.count_nonzero(np.bincount(labels.ravel())[1:]))


def check(truth, tile_shape, overlap, merge="agree", largest=2**40):
    """Assert which labels are joined: all that touch, or with agreement those of one object; count the objects.

    By touching, any number of cells may become one, and the warning about that is right.
    """
    agree = merge == "agree"
    connectivity = truth.ndim if agree else 1
    expected = join_parts(truth, naive.cut(truth.shape, tile_shape), connectivity, same_object=agree)
    with warnings.catch_warnings():
        if not agree:
            warnings.filterwarnings("ignore", "runaway merging")
        labels = tile_process(truth, Renamed(largest), tile_shape=tile_shape, overlap=overlap, merge=merge)
    assert naive.partition_fault(labels, expected) == ""
    return n_objects(expected)


def compare(truth, tile_shape, overlap):
    """How many objects agreement gives, and how many touching."""
    return check(truth, tile_shape, overlap), check(truth, tile_shape, overlap, "touch")


def test_parts_are_joined_by_hand_as_by_the_rule():
    """In four tiles: 6 twice in the first and far off in the second; 5 and 7 across corners, others beside."""
    truth = np.array([[6, 0, 6, 0, 0, 6], [0, 0, 0, 5, 0, 0], [0, 0, 5, 0, 7, 0], [0, 8, 0, 7, 0, 0]])
    by_faces = [[1, 0, 1, 0, 0, 2], [0, 0, 0, 3, 0, 0], [0, 0, 4, 0, 5, 0], [0, 6, 0, 7, 0, 0]]
    by_corners = [[1, 0, 1, 0, 0, 2], [0, 0, 0, 3, 0, 0], [0, 0, 3, 0, 4, 0], [0, 5, 0, 4, 0, 0]]
    any_labels = [[3, 0, 3, 0, 0, 2], [0, 0, 0, 3, 0, 0], [0, 0, 3, 0, 3, 0], [0, 3, 0, 3, 0, 0]]
    for expected, *rule in (by_faces, 1), (by_corners, 2), (any_labels, 2, None, False):
        assert naive.partition_fault(join_parts(truth, ((3, 1), (3, 3)), *rule), np.array(expected)) == ""
    for overlap in (1, 2, 3):
        assert check(truth, (3, 3), overlap) == 5


def with_tiles(*cases):
    """Ways to cut an image, each with the objects that agreement gives, and that touching gives."""
    return pytest.mark.parametrize(("tile_shape", "overlap", "counts"), cases)


@pytest.fixture(scope="module")
def mosaic(real_images):
    return tifffile.imread(real_images / "dsb2018_mosaic" / "mosaic_mask.tif")


@with_tiles(((300, 300), 7, (486, 485)), ((190, 333), 1, (486, 485)), ((61, 97), 70, (486, 478)))
def test_nuclei_of_a_mosaic(mosaic, tile_shape, overlap, counts):
    """A part of the mosaic; seams lie off the multiples of 256, at which nuclei are cut."""
    assert compare(mosaic[:1024, :1024], tile_shape, overlap) == counts


def test_nuclei_of_the_whole_mosaic(mosaic):
    assert check(mosaic, (300, 300), 16) == n_objects(mosaic)


@with_tiles(
    ((13, 17, 101), 1, ((54, 53), (30, 30))),
    ((40, 21, 26), 30, ((54, 54), (30, 30))),
)
def test_nuclei_of_a_plant(real_images, tile_shape, overlap, counts):
    pairs = []
    for name in ("1135_mini.h5", "1137_mini.h5"):
        with h5py.File(real_images / "plantseg_nuclei" / name) as file:
            pairs.append(compare(file["label"][...].astype(np.int32), tile_shape, overlap))
    assert tuple(pairs) == counts


@with_tiles(((8, 16, 16), 2, (51, 34)), ((11, 13, 57), 1, (51, 44)), ((7, 30, 9), 20, (51, 38)))
def test_nuclei_of_a_volume(real_images, tile_shape, overlap, counts):
    truth = tifffile.imread(real_images / "stardist_samples" / "mask3d.tif").astype(np.int32)
    assert compare(truth, tile_shape, overlap) == counts


@with_tiles(
    ((100, 100), 2, (500, 407)), ((57, 71), 1, (500, 331)), ((400, 33), 7, (500, 313)), ((19, 23), 30, (500, 59))
)
def test_cells_that_fill_a_plane(tile_shape, overlap, counts):
    truth = tissue((400, 400), 500)
    assert compare(truth, tile_shape, overlap) == counts


@with_tiles(((20, 20, 20), 2, (400, 36)), ((60, 17, 31), 1, (400, 82)), ((13, 11, 19), 14, (400, 1)))
def test_cells_that_fill_a_volume(tile_shape, overlap, counts):
    truth = tissue((60, 64, 68), 400)
    assert compare(truth, tile_shape, overlap) == counts


@st.composite
def perfect_cases(draw):
    """Labels in any order and in pieces, tiles of any kind, and a halo along every axis."""
    case = draw(tissue_cases((1, 2, 3)))
    return dataclasses.replace(
        case,
        overlap=tuple(depth + 1 for depth in case.halo),
        min_agreement=max(0.01, case.min_agreement),
        fn=Renamed(draw(st.sampled_from([0, 1000, 2**62]))),
    )


@pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed")
@settings(max_examples=examples(40))
@given(perfect_cases())
def test_parts_of_any_labels_are_joined_where_they_touch(case):
    truth = naive.keep_apart(case.mask, case.merged)
    expected = join_parts(truth, case.lengths, case.connectivity or case.mask.ndim, case.merged)
    assert naive.partition_fault(np.asarray(case.run()), expected) == ""
