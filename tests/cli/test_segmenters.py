"""The functions that need no model: a threshold, and a watershed that splits blobs that touch."""

import pickle

import numpy as np
import pytest
from collections_of_images import write_pyramid
from commands import read, run, spots, write_array
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial import cKDTree

import blockbuster
from blockbuster.cli import ThresholdAndLabel, ThresholdAndSplit
from blockbuster.identity.function import identify_function

DIAMETER = 20


def pairs_of_discs(shape, diameter, apart=0.85, spacing=None, seed=0):
    """A mask of balls that touch in pairs, pairs far from each other; and their middles, in voxels."""
    spacing = np.ones(len(shape)) if spacing is None else np.array(spacing)
    random = np.random.default_rng(seed)
    # In the unit of the last axis, in which a ball is round.
    size = np.array(shape) * spacing / spacing[-1]
    step = np.full(len(shape), 2.2 * diameter)
    counts = np.maximum(1, (size // step).astype(int))
    middles = []
    for cell in np.ndindex(*counts):
        centre = (np.array(cell) + 0.5) * size / counts
        direction = random.normal(size=len(shape))
        direction *= apart * diameter / 2 / np.linalg.norm(direction)
        middles += [centre - direction, centre + direction]
    places = np.stack(np.indices(shape), axis=-1) * spacing / spacing[-1]
    mask = cKDTree(middles).query(places, distance_upper_bound=diameter / 2)[0] < diameter / 2
    return mask, np.array(middles) * spacing[-1] / spacing


def labels_at(labels, middles):
    return [int(labels[tuple(place)]) for place in np.round(middles).astype(int)]


@pytest.mark.parametrize(
    ("shape", "spacing"), [((180, 200), None), ((60, 90, 100), None), ((20, 90, 100), (3.0, 1.0, 1.0))]
)
@pytest.mark.parametrize("guess", [0.8, 1.0, 1.2])
def test_every_ball_of_a_touching_pair_is_an_object(shape, spacing, guess):
    mask, middles = pairs_of_discs(shape, DIAMETER, spacing=spacing)
    axes = tuple(range(len(shape)))
    assert ndimage.label(mask)[1] == len(middles) // 2
    labels = ThresholdAndSplit(0, DIAMETER * guess, axes, len(shape), spacing)(mask.astype("uint8"))
    assert len(set(labels_at(labels, middles))) == len(middles) == len(np.unique(labels)) - 1
    assert ((labels > 0) == mask).all()
    volumes = np.bincount(labels.ravel())[1:]
    assert volumes.max() < 1.15 * volumes.min()


def test_middles_nearer_than_a_radius_are_one_object():
    mask, middles = pairs_of_discs((180, 200), DIAMETER, apart=0.4)
    labels = ThresholdAndSplit(0, DIAMETER, (0, 1))(mask)
    assert len(np.unique(labels)) - 1 == len(middles) // 2


@settings(max_examples=examples(60))
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=9),
        elements=st.sampled_from([0.0, 1.0, np.nan]),
    ),
    st.integers(1, 3),
    st.sampled_from([1, 3, 8]),
)
def test_objects_are_connected_and_cover_what_is_above_the_threshold(tile, connectivity, diameter):
    axes = tuple(range(tile.ndim))
    labels = ThresholdAndSplit(0.5, diameter, axes, connectivity)(tile)
    assert (labels.shape, labels.dtype) == (tile.shape, np.int32)
    assert ((labels > 0) == (tile > 0.5)).all()
    neighbours = ndimage.generate_binary_structure(tile.ndim, min(connectivity, tile.ndim))
    components = ndimage.label(tile > 0.5, neighbours)[0]
    for label in np.unique(labels[labels > 0]):
        assert ndimage.label(labels == label, neighbours)[1] == 1
        assert len(np.unique(components[labels == label])) == 1


@pytest.mark.parametrize("axes", [(1, 2), (0, 2), (0, 1), (2,)])
def test_planes_along_the_other_axes_are_split_by_themselves(axes):
    tile = spots((30, 40, 50))
    found = ThresholdAndSplit(100, 6, axes)(tile)
    apart = [axis for axis in range(3) if axis not in axes]
    planes, alone = (np.moveaxis(each, apart, range(len(apart))) for each in (found, tile))
    split = ThresholdAndSplit(100, 6, tuple(range(len(axes))))
    seen = set()
    for index in np.ndindex(planes.shape[: len(apart)]):
        expected = split(alone[index])
        pairs = set(zip(planes[index].ravel().tolist(), expected.ravel().tolist(), strict=True)) - {(0, 0)}
        assert len(pairs) == expected.max(initial=0) == len({label for label, _ in pairs})
        assert not seen & {label for label, _ in pairs}
        seen |= {label for label, _ in pairs}


@pytest.mark.parametrize(
    "fn", [ThresholdAndLabel(100, (0, 1), 2), ThresholdAndSplit(100, 12, (0, 1), 2, (1.0, 2.0))]
)
def test_functions_are_pickled_by_the_name_of_the_command_line(fn):
    text = pickle.dumps(fn)
    assert b"blockbuster.cli\x94" in text
    again = pickle.loads(text)
    assert again == fn
    tile = spots((60, 70))
    assert (again(tile) == fn(tile)).all()
    assert identify_function(again).parts == identify_function(fn).parts
    assert identify_function(fn).unreadable == ()


def test_another_diameter_is_another_function():
    one, other = (identify_function(ThresholdAndSplit(100, diameter, (0, 1))) for diameter in (12, 13))
    assert one.parts != other.parts


@pytest.fixture
def discs(here):
    """The middles of pairs of discs in discs.zarr, many of them across seams of 50 x 50."""
    mask, middles = pairs_of_discs((400, 420), DIAMETER)
    write_array("discs.zarr", mask.astype("uint8") * 90, (50, 50))
    return middles


@pytest.mark.parametrize("spelled", ["watershed", "watershed:20", "watershed:16.5"])
def test_watershed_keeps_touching_blobs_apart_also_at_seams(discs, capsys, spelled):
    assert run(f"segment discs.zarr --fn {spelled} --write-to out.zarr") == 0
    labels = read("out.zarr")
    assert len(set(labels_at(labels, discs))) == len(discs) == len(np.unique(labels)) - 1
    diameter = float(spelled.partition(":")[2] or 20)
    halo = -int(-diameter // 1)
    assert f"watershed diameter {diameter:g}, halo {halo} x {halo}, merge agree\n" in capsys.readouterr().out
    settings = blockbuster.read_report("out.zarr").settings
    assert (settings["merge"], settings["halo"]) == ("agree", [halo, halo])


def test_watershed_joined_by_touch_says_that_blobs_are_joined_at_seams(discs, capsys):
    assert run("segment discs.zarr --fn watershed --merge touch --overlap 7 --write-to out.zarr") == 0
    captured = capsys.readouterr()
    assert "hint: --merge touch joins all blobs that touch at a seam; --merge agree keeps" in captured.err
    assert "halo 7 x 7, merge touch" in captured.out
    assert len(np.unique(read("out.zarr"))) - 1 < len(discs)


@pytest.mark.filterwarnings("default:merge=.agree. without a halo")
def test_watershed_without_a_halo_warns(discs, capsys):
    assert run("segment discs.zarr --fn watershed --overlap 0 --write-to out.zarr") == 0
    assert 'warning: merge="agree" without a halo' in capsys.readouterr().err


def test_watershed_takes_its_halo_from_the_size_of_a_voxel(here, capsys):
    mask, middles = pairs_of_discs((20, 90, 100), DIAMETER, spacing=(3.0, 1.0, 1.0))
    write_pyramid("stack.zarr", mask.astype("uint8"), "zyx", chunk=45, scale={"z": 1.5, "y": 0.5, "x": 0.5})
    assert run("segment stack.zarr --fn watershed --tile-shape 10,45,50 --write-to out.zarr") == 0
    assert "halo 7 x 20 x 20, merge agree" in capsys.readouterr().out
    assert len(set(labels_at(read("out.zarr"), middles))) == len(middles)


def test_watershed_of_planes_has_no_halo_across_them(here, capsys):
    write_array("stack.zarr", spots((4, 60, 70)), (1, 30, 30))
    argv = "segment stack.zarr --fn watershed:9 --axes zyx --merge-axes yx --tile-shape 1,30,30 --write-to o"
    assert run(argv) == 0
    assert "halo 0 x 9 x 9, merge agree" in capsys.readouterr().out


def test_watershed_needs_an_axis(here, capsys):
    write_array("line.zarr", np.zeros(9, "uint8"), (9,))
    assert run("segment line.zarr --axes t --fn watershed --write-to out.zarr") == 2
    assert "--fn watershed needs an axis along which labels are joined" in capsys.readouterr().err
