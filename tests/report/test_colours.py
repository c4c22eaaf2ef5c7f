"""Colours of labels, outlines and seams as arrays."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.color import rgb2lab
from skimage.segmentation import expand_labels

from blockbuster.report.colours import (
    APART,
    BACKGROUND,
    JOINED,
    NOTHING,
    OUTLINE,
    PALETTE,
    SEAM_COLOURS,
    colour_labels,
    draw_seams,
    enlarge,
    mark_outlines,
    paint_labels,
    seam_states,
    to_grey,
)

CLEARLY = 40
few_labels = arrays("int32", st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 9))


def distance(one, other):
    """How far two colours are apart in CIELAB."""
    return np.linalg.norm(rgb2lab(np.uint8([[one]])) - rgb2lab(np.uint8([[other]])))


def cells(n, side, seed=1):
    """Labels that fill a plane, as in dense tissue."""
    points = np.random.default_rng(seed).random((n, 2)) * side
    voxels = np.stack(np.indices((side, side)), -1).reshape(-1, 2)
    return (cKDTree(points).query(voxels)[1] + 1).reshape(side, side)


def discs(n, side, radius, seed=2):
    """Round objects that do not touch, of which many nearly do."""
    labels = np.zeros((side, side), "int64")
    rows, columns = np.indices(labels.shape)
    for number, (y, x) in enumerate(np.random.default_rng(seed).integers(0, side, (n, 2)), 1):
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        if not labels[ndimage.binary_dilation(disc, iterations=2)].any():
            labels[disc] = 7 * number
    return labels


def touching_pairs(labels):
    """Pairs of objects that share a face or a corner, found object by object."""
    pairs = set()
    for label in np.unique(labels[labels > 0]):
        around = ndimage.binary_dilation(labels == label, np.ones((3, 3)))
        pairs |= {(label, other) for other in np.unique(labels[around]) if other > label}
    return pairs


def least_distance(labels, pairs):
    colours = colour_labels(labels)
    of_label = {label: colours[tuple(np.argwhere(labels == label)[0])] for pair in pairs for label in pair}
    return min((distance(of_label[one], of_label[other]) for one, other in pairs), default=np.inf)


def test_colours_of_the_palette_are_clearly_different():
    lab = rgb2lab(PALETTE[None])[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=2) + np.diag(np.full(len(lab), np.inf))
    assert distances.min() >= CLEARLY
    for other in (BACKGROUND, OUTLINE, SEAM_COLOURS[JOINED], SEAM_COLOURS[APART]):
        assert min(distance(colour, other) for colour in PALETTE) >= 30


@pytest.mark.parametrize("n", [30, 300, 2000])
def test_cells_that_touch_have_clearly_different_colours(n):
    labels = cells(n, 200)
    pairs = touching_pairs(labels)
    assert len(pairs) > 2 * n
    assert least_distance(labels, pairs) >= CLEARLY


def test_objects_next_to_each_other_across_background_have_clearly_different_colours():
    labels = discs(600, 300, 6)
    pairs = touching_pairs(expand_labels(labels, 6))
    assert not touching_pairs(labels)
    assert len(pairs) > 100
    assert least_distance(labels, pairs) >= CLEARLY


@given(few_labels)
def test_objects_in_many_pieces_differ_too_where_they_touch(labels):
    assert least_distance(labels, touching_pairs(labels)) >= CLEARLY


@given(few_labels)
def test_a_label_has_one_colour_of_the_palette_and_background_another(labels):
    colours = colour_labels(labels)
    of_label = {label: tuple(colours[place].tolist()) for place, label in np.ndenumerate(labels)}
    assert all(tuple(colours[place].tolist()) == of_label[label] for place, label in np.ndenumerate(labels))
    palette = set(map(tuple, PALETTE.tolist()))
    assert all(colour == BACKGROUND if label == 0 else colour in palette for label, colour in of_label.items())


def test_a_label_keeps_its_colour_where_its_neighbours_allow_it():
    labels = np.zeros((60, 200), "int64")
    labels[5:15, ::40] = [101, 102, 103, 104, 105]
    together = colour_labels(labels)
    for column, label in zip(range(0, 200, 40), range(101, 106), strict=True):
        assert (colour_labels(np.full((2, 2), label)) == together[5, column]).all()


@pytest.mark.parametrize("n", [10**9, 25_000, 9000])
def test_labels_without_number_are_coloured_by_number(n):
    labels = np.random.default_rng(0).integers(0, n, (400, 400))
    labels[:, 100:120] = labels[0, 0] = 0
    labels[5] = 77
    colours = colour_labels(labels)
    assert (colours[labels == 0] == BACKGROUND).all()
    assert len(np.unique(colours[labels == 77], axis=0)) == 1
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == len(PALETTE) + 1


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 30), (30, 1)])
def test_thin_and_empty_labels_are_coloured(shape):
    labels = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    assert colour_labels(labels).shape == (*shape, 3)
    assert least_distance(labels, touching_pairs(labels)) >= CLEARLY


@given(few_labels)
def test_outlines_lie_on_the_last_pixel_of_an_object_before_another(labels):
    marked = mark_outlines(labels)
    for (row, column), label in np.ndenumerate(labels):
        ahead = [*labels[row + 1 : row + 2, column], *labels[row, column + 1 : column + 2]]
        assert marked[row, column] == any(label and other and label != other for other in ahead)


@given(few_labels, st.integers(1, 4))
def test_painted_labels_are_enlarged_and_their_outlines_stay_thin(labels, zoom):
    plain, outlined = (paint_labels(labels, zoom=zoom, outlines=outlines) for outlines in (False, True))
    np.testing.assert_array_equal(plain, enlarge(colour_labels(labels), zoom))
    changed = (plain != outlined).any(axis=2)
    np.testing.assert_array_equal(changed, mark_outlines(enlarge(labels, zoom)))
    assert (outlined[changed] == OUTLINE).all()


def test_an_image_shines_through_the_colours_and_shows_between_them():
    labels = np.array([[0, 3, 3, 0]])
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 3)).astype("uint8")
    before, colour = image.copy(), colour_labels(labels)[0, 1].astype(float)
    for alpha in (0, 0.25, 1):
        painted = paint_labels(labels, image, alpha=alpha)
        np.testing.assert_array_equal(painted[0, [0, 3]], image[0, [0, 3]])
        np.testing.assert_allclose(painted[0, 1:3], alpha * colour + (1 - alpha) * image[0, 1:3], atol=0.5)
    np.testing.assert_array_equal(image, before)


@given(arrays("int64", (2, 30), elements=st.integers(0, 3)))
def test_a_seam_is_joined_between_equal_labels_and_apart_between_different_ones(sides):
    for one, other, state in zip(*sides.tolist(), seam_states(*sides).tolist(), strict=True):
        assert state == (NOTHING if 0 in (one, other) else JOINED if one == other else APART)


@st.composite
def labels_and_seams(draw):
    labels = draw(few_labels)
    return labels, [draw(st.lists(st.integers(-1, n + 1), unique=True)) for n in labels.shape]


@example((np.array([[0, 0]]), [[], [0, 1]]), 1, 4)
@given(labels_and_seams(), st.integers(1, 3), st.integers(1, 4))
def test_drawn_seams_have_the_colour_of_what_the_labels_are_on_both_sides(case, zoom, width):
    labels, (rows, columns) = case
    blank = np.full((zoom * labels.shape[0], zoom * labels.shape[1], 3), 7, np.uint8)
    drawn = draw_seams(blank, labels, rows, columns, zoom=zoom, width=width)
    assert (blank == 7).all()
    wanted = np.full(blank.shape[:2], -1)
    for axis, cuts in ((0, rows), (1, columns)):
        lines, found = np.moveaxis(wanted, axis, 0), np.moveaxis(labels, axis, 0)
        for cut in cuts:
            for place in range(found.shape[1] if 0 < cut < len(found) else 0):
                one, other = found[cut - 1, place], found[cut, place]
                state = 0 if 0 in (one, other) else 1 if one == other else 2
                top, part = zoom * cut - width // 2, np.s_[zoom * place : zoom * (place + 1)]
                here = lines[max(0, top) : top + width, part]
                here[...] = np.maximum(here, state)
    expected = np.where(wanted[..., None] < 0, 7, SEAM_COLOURS[wanted])
    np.testing.assert_array_equal(drawn, expected)


def test_dashes_leave_half_of_what_lies_below():
    labels = np.ones((10, 120), int)
    drawn = draw_seams(np.zeros((10, 120, 3), np.uint8), labels, rows=[5], dashed=True)
    assert (drawn[5] == SEAM_COLOURS[JOINED]).all(axis=1).mean() == 0.5
    assert not drawn[[*range(5), *range(6, 10)]].any()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint64", "float16", "float64", "complex64"])
def test_grey_is_brighter_where_the_image_is(dtype):
    image = np.linspace(0, 200, 1000).reshape(20, 50).astype(dtype)
    grey = to_grey(image)
    assert grey.shape == (20, 50, 3)
    assert (grey[..., :1] == grey).all()
    assert (np.diff(grey[..., 0].ravel().astype(int)) >= 0).all()
    assert (grey.min(), grey.max()) == (0, 255)


@pytest.mark.parametrize("value", [0, -3.5, np.nan, np.inf])
def test_an_image_of_one_value_has_one_grey(value):
    assert np.ptp(to_grey(np.full((4, 5), value))) == 0


def test_grey_survives_pixels_that_are_no_numbers_and_the_largest_ones():
    image = np.array([[np.nan, -np.inf, 0, 1, np.inf]])
    assert to_grey(image)[0, :, 0].tolist() == [0, 0, 0, 255, 255]
    largest = np.finfo("float64").max
    assert to_grey(np.array([[-largest, 0, largest]]))[0, ::2, 0].tolist() == [0, 255]
