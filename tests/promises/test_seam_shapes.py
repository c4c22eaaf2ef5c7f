"""Objects of every shape at seams, for every connectivity, against scipy on the whole image (B20)."""

import functools

import naive
import numpy as np
import pytest

from blockbuster import tile_process

# One object of a thousand pieces in three tiles is what fused objects look like.
pytestmark = pytest.mark.filterwarnings("ignore:runaway merging")

EVERY_CONNECTIVITY = [(ndim, connectivity) for ndim in (1, 2, 3) for connectivity in range(1, ndim + 1)]
every_connectivity = pytest.mark.parametrize(("ndim", "connectivity"), EVERY_CONNECTIVITY)
every_task = pytest.mark.parametrize(
    ("tiles_per_task", "overlap"), [(None, 0), (1, 2)], ids=["large tasks", "one tile each, halo"]
)


def agrees(mask, tile, connectivity, **options):
    """Assert that tiles give the objects of the whole image, and count them."""
    fn = functools.partial(naive.label, connectivity=connectivity)
    expected = fn(mask)
    labels = tile_process(mask, fn, tile_shape=(tile,) * mask.ndim, connectivity=connectivity, **options)
    assert naive.partition_fault(labels, expected) == ""
    return expected.max()


def patterns_at_corners(ndim, tile):
    """Every way to fill the voxels around a corner where all tiles meet, each at a corner of its own."""
    n_voxels = 2**ndim
    per_axis = {1: [4], 2: [4, 4], 3: [8, 8, 4]}[ndim]
    mask = np.zeros([tile * (n + 1) for n in per_axis], np.uint8)
    for number, place in enumerate(np.ndindex(*per_axis)):
        corner = tuple(slice(tile * (i + 1) - 1, tile * (i + 1) + 1) for i in place)
        bits = [number >> bit & 1 for bit in range(n_voxels)]
        mask[corner] = np.reshape(bits, (2,) * ndim)
    return mask


@every_connectivity
@pytest.mark.parametrize(("tiles_per_task", "overlap"), [(None, 0), (5, 2)])
def test_B20_every_pattern_of_voxels_around_a_corner_of_2_4_and_8_tiles(
    ndim, connectivity, tiles_per_task, overlap
):
    mask = patterns_at_corners(ndim, tile=4)
    n_objects = agrees(mask, 4, connectivity, tiles_per_task=tiles_per_task, overlap=overlap)
    # With all neighbours every pattern but the empty one is one object; without, a square has two diagonals.
    by_hand = {(1, 1): 3, (2, 1): 17, (2, 2): 15, (3, 3): 255}
    assert n_objects == by_hand.get((ndim, connectivity), n_objects)


@pytest.mark.parametrize("ndim", [2, 3])
@every_task
def test_B20_block_across_all_tiles_at_a_corner_is_one_object(ndim, tiles_per_task, overlap):
    mask = np.zeros((12,) * ndim, np.uint8)
    mask[(slice(3, 9),) * ndim] = 1
    for connectivity in range(1, ndim + 1):
        assert agrees(mask, 6, connectivity, tiles_per_task=tiles_per_task, overlap=overlap) == 1


def lattice(ndim, n_moved, n_tiles=3, tile=5):
    """A line along every axis through every tile, moved aside in every other tile along some axes."""
    mask = np.zeros((n_tiles * tile,) * ndim, np.uint8)
    for place in np.ndindex((n_tiles,) * ndim):
        odd = sum(place) % 2
        through = [tile * i + 2 + odd * (axis < n_moved) for axis, i in enumerate(place)]
        for axis, i in enumerate(place):
            mask[(*through[:axis], slice(tile * i, tile * (i + 1)), *through[axis + 1 :])] = 1
    return mask


@pytest.mark.parametrize(
    ("ndim", "n_moved", "connectivity"),
    [(ndim, moved, c) for ndim in (2, 3) for moved in range(ndim + 1) for c in range(1, ndim + 1)],
)
@pytest.mark.parametrize("tiles_per_task", [None, 2])
def test_B20_object_across_all_tiles_by_faces_edges_or_corners(ndim, n_moved, connectivity, tiles_per_task):
    """Across a seam a line moves aside by `n_moved` steps, less the one along itself."""
    n_objects = agrees(lattice(ndim, n_moved), 5, connectivity, tiles_per_task=tiles_per_task)
    if n_moved == 0 or connectivity >= n_moved + (n_moved < ndim):
        assert n_objects == 1
    if n_moved == ndim and connectivity < ndim:
        assert n_objects == 3**ndim


@every_connectivity
@every_task
@pytest.mark.parametrize("side", [-1, 0])
def test_B20_gap_of_one_voxel_on_either_side_of_every_seam_is_kept(
    ndim, connectivity, side, tiles_per_task, overlap
):
    mask = np.ones((12,) * ndim, np.uint8)
    for axis in range(ndim):
        np.moveaxis(mask, axis, 0)[[4 + side, 8 + side]] = 0
    assert agrees(mask, 4, connectivity, tiles_per_task=tiles_per_task, overlap=overlap) == 3**ndim


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@every_task
def test_B20_gap_along_a_seam_with_one_hole_in_it_joins_what_is_on_both_sides(
    connectivity, tiles_per_task, overlap
):
    mask = np.ones((8, 8, 8), np.uint8)
    mask[:, 4] = 0
    mask[5, 4, 3] = 1
    assert agrees(mask, 4, connectivity, tiles_per_task=tiles_per_task, overlap=overlap) == 1


def blocks_that_meet(ndim, n_apart, seam):
    """Two blocks that end and begin at `seam` along some axes, and lie side by side along the others."""
    objects = np.zeros((12,) * ndim, np.int64)
    first = [slice(seam - 2, seam)] * ndim
    second = [slice(seam, seam + 2) if axis < n_apart else part for axis, part in enumerate(first)]
    objects[tuple(first)], objects[tuple(second)] = 7, 3
    return objects


@pytest.mark.parametrize(
    ("ndim", "n_apart", "connectivity"),
    [(ndim, apart, c) for ndim, c in EVERY_CONNECTIVITY for apart in range(1, ndim + 1)],
)
@every_task
def test_B20_two_objects_that_abut_are_joined_at_a_seam_and_nowhere_else(
    ndim, n_apart, connectivity, tiles_per_task, overlap
):
    """They share a face, an edge or a corner; what counts as touching is the connectivity."""
    for seam in (6, 4):
        objects = blocks_that_meet(ndim, n_apart, seam)
        labels = tile_process(
            objects,
            np.copy,
            tile_shape=(6,) * ndim,
            connectivity=connectivity,
            tiles_per_task=tiles_per_task,
            overlap=overlap,
        )
        whole = naive.label(objects, connectivity) if seam == 6 else objects
        assert naive.partition_fault(labels, whole) == ""
        assert len(np.unique(labels)) == (2 if seam == 6 and connectivity >= n_apart else 3)


def spiral(turns):
    """One line of one voxel, with gaps of one voxel, round and round."""
    n = 4 * turns + 1
    image = np.zeros((n, n), np.uint8)
    for k in range(0, 2 * turns, 2):
        last = n - 1 - k
        image[k, k : last + 1] = image[k : last + 1, last] = image[last, k : last + 1] = 1
        image[k + 2 : last + 1, k] = 1
        image[k + 2, k + 1] = 1
    return image


def without_corners(image):
    """Take away every voxel where a line turns, so that its two sides meet by a corner alone."""
    around = np.pad(image, 1)
    beside = around[1:-1, :-2] | around[1:-1, 2:]
    above = around[:-2, 1:-1] | around[2:, 1:-1]
    return image & ~(beside & above)


@pytest.mark.parametrize("cut_corners", [False, True])
@pytest.mark.parametrize(("connectivity", "tiles_per_task", "overlap"), [(1, None, 0), (2, 1, 7)])
def test_B20_spiral_that_crosses_one_seam_a_thousand_times(cut_corners, connectivity, tiles_per_task, overlap):
    image = spiral(turns=500)
    image = without_corners(image) if cut_corners else image
    middle = image.shape[1] // 2
    assert np.count_nonzero(image[:, middle - 1] & image[:, middle]) >= 1000
    fn = functools.partial(naive.label, connectivity=connectivity)
    labels = tile_process(
        image,
        fn,
        tile_shape=(image.shape[0], middle),
        overlap=overlap,
        connectivity=connectivity,
        tiles_per_task=tiles_per_task,
    )
    expected = fn(image)
    assert naive.partition_fault(labels, expected) == ""
    assert (expected.max() == 1) == (connectivity == 2 or not cut_corners)


@pytest.mark.parametrize("cut_corners", [False, True])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_B20_spiral_in_many_tiles(cut_corners, connectivity):
    image = without_corners(spiral(turns=40)) if cut_corners else spiral(turns=40)
    agrees(image, 12, connectivity, tiles_per_task=4)


def between_two_planes(line, touching):
    """Let a line change the plane with every second voxel; `touching`: where it does, both planes have it."""
    step = np.indices(line.shape).sum(axis=0)
    stack = np.stack([line * (step // 2 % 2 == plane) for plane in (0, 1)])
    return stack | line * (step % 2) if touching else stack


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("touching", [False, True])
@pytest.mark.parametrize(("tiles_per_task", "overlap"), [(None, 0), (1, (1, 2, 2))])
def test_B20_spiral_that_changes_between_two_planes_thousands_of_times(
    connectivity, touching, tiles_per_task, overlap
):
    stack = between_two_planes(spiral(turns=40), touching)
    fn = functools.partial(naive.label, connectivity=connectivity)
    labels = tile_process(
        stack,
        fn,
        tile_shape=(1, 64, 64),
        overlap=overlap,
        connectivity=connectivity,
        tiles_per_task=tiles_per_task,
    )
    expected = fn(stack)
    assert naive.partition_fault(labels, expected) == ""
    assert (expected.max() == 1) == (touching or connectivity > 1)
    assert touching or connectivity > 1 or expected.max() > 1000
