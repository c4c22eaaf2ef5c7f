"""Objects longer than any halo: agreement joins them as touching does, and as the whole image has them."""

import naive
import numpy as np
import pytest
import shapes

from blockbuster import tile_process

pytestmark = pytest.mark.slow


def run(mask, tile_shape, overlap, merge):
    """Labels and report; a warning, as that of runaway merging, is an error."""
    options = {"connectivity": mask.ndim, "merge": merge, "return_report": True}
    return tile_process(mask, shapes.components, tile_shape=tile_shape, overlap=overlap, **options)


def put_together(mask, tile_shape, overlap):
    """Assert that both ways to join labels give the objects of the whole image; the reports of the two."""
    whole = shapes.components(mask)
    reports = []
    for merge in ("touch", "agree"):
        labels, report = run(mask, tile_shape, overlap, merge)
        assert naive.partition_fault(labels, whole) == "", merge
        reports.append(report)
    touch, agree = reports
    assert agree.seams.joined == touch.seams.joined > 0
    return touch, agree


def crossed_tiles(mask, tile_shape):
    """Number of tiles in which the largest object is."""
    objects = shapes.components(mask)
    largest = np.argwhere(objects == np.bincount(objects[mask > 0]).argmax())
    return len(np.unique(largest // tile_shape, axis=0))


@pytest.mark.parametrize(
    ("thickness", "tile_shape", "overlap"),
    [
        (1, (30, 30), 45),
        (1, (31, 40), 1),
        (2, (53, 17), (9, 4)),
        (3, (31, 40), 1),
        (4, (53, 17), 1),
        (5, (40, 40), 45),
    ],
)
def test_fibres_in_a_plane_are_put_together(thickness, tile_shape, overlap):
    mask = shapes.fibres((300, 250), length=450, thickness=thickness, n=2, seed=thickness)
    assert crossed_tiles(mask, tile_shape) >= 10
    put_together(mask, tile_shape, overlap)


@pytest.mark.parametrize(
    ("thickness", "tile_shape", "overlap"),
    [
        (1, (16, 16, 16), 20),
        (1, (9, 30, 11), 1),
        (2, (40, 13, 16), (2, 1, 5)),
        (3, (20, 20, 20), 1),
        (5, (16, 16, 16), 20),
    ],
)
def test_fibres_in_a_volume_are_put_together(thickness, tile_shape, overlap):
    mask = shapes.fibres((80, 48, 48), length=200, thickness=thickness, n=2, seed=thickness)
    assert crossed_tiles(mask, tile_shape) >= 10
    put_together(mask, tile_shape, overlap)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("tile_shape", "overlap"), [((40, 40), 30), ((25, 61), 1), ((19, 19), 4)])
def test_vessel_tree_in_a_plane_is_one_object(seed, tile_shape, overlap):
    mask = shapes.vessels((300, 300), n_levels=7, seed=seed)
    assert crossed_tiles(mask, tile_shape) >= 10
    for report in put_together(mask, tile_shape, overlap):
        assert report.n_objects == 1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("tile_shape", "overlap"), [((20, 20, 20), 10), ((13, 32, 21), 1)])
def test_vessel_tree_in_a_volume_is_one_object(seed, tile_shape, overlap):
    mask = shapes.vessels((96, 80, 80), n_levels=6, seed=seed)
    assert crossed_tiles(mask, tile_shape) >= 10
    for report in put_together(mask, tile_shape, overlap):
        assert report.n_objects == 1


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("ndim", "axis"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize(
    ("distance", "overlap", "n_labels"),
    [(4, 4, 2), (5, 4, 13), (12, 1, 13)],
    ids=["spine in the halo", "spine beyond it", "spine far beyond it"],
)
def test_twelve_teeth_of_a_rake_are_one_object(ndim, axis, backwards, distance, overlap, n_labels):
    mask = shapes.rake(ndim, axis, 16, distance)
    if backwards:
        mask = np.flip(mask, axis)
    tile_shape = [16 if a == axis else n for a, n in enumerate(mask.shape)]
    for report in put_together(mask, tile_shape, overlap):
        assert report.n_provisional == n_labels
        assert report.n_objects == 1


@pytest.mark.parametrize("distance", [1, 5])
def test_twelve_teeth_of_a_rake_are_one_object_where_seams_cut_them_too(distance):
    mask = shapes.rake(3, 1, 16, distance)
    put_together(mask, (2, 16, 7), (1, 4, 2))


# A hundred arcs in two tiles are what two fused tiles of cells look like.
@pytest.mark.filterwarnings("ignore:runaway merging")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("overlap", [1, 2, 15, 152])
def test_spiral_that_crosses_one_seam_a_hundred_times_is_one_object(axis, overlap):
    mask = np.moveaxis(shapes.spiral(n_turns=50), 0, axis)
    tile_shape = (151, 303) if axis == 0 else (303, 151)
    at_seam = mask[150:152] if axis == 0 else mask[:, 150:152]
    assert shapes.components(at_seam).max() == 100
    for report in put_together(mask, tile_shape, overlap):
        assert report.n_objects == 1


@pytest.mark.filterwarnings("ignore:runaway merging")
@pytest.mark.parametrize(("tile_shape", "overlap"), [((100, 100), 1), ((47, 300), 10), ((64, 64), 6)])
def test_spiral_across_many_tiles_is_one_object(tile_shape, overlap):
    put_together(shapes.spiral(n_turns=50), tile_shape, overlap)
