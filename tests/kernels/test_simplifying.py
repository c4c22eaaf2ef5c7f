"""Whether segments meet, and what is left of an arc, by kernels that are compiled and by plain Python."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from blockbuster.kernels import simplifying as kernels


def number(y, x, node=0):
    return (y << 32) + 2 * x + node


def ring_of(*corners, nodes=()):
    return np.array([number(y, x, (x, y) in nodes) for x, y in corners])


SQUARE = [(0, 0), (4, 0), (4, 4), (0, 4)]
HOLE = [(1, 1), (1, 2), (2, 2), (2, 1)]


@pytest.mark.parametrize(
    ("rings", "shells", "expected"),
    [
        ([SQUARE], [0], True),
        ([[(0, 0), (4, 4), (4, 0), (0, 4)]], [0], False),
        ([SQUARE, HOLE], [0, 0], True),
        # A hole outside of its ring, in another hole, and across its ring.
        ([SQUARE, [(5, 1), (5, 2), (6, 2), (6, 1)]], [0, 0], False),
        (
            [
                [(0, 0), (9, 0), (9, 9), (0, 9)],
                [(1, 1), (1, 8), (8, 8), (8, 1)],
                [(3, 3), (3, 4), (4, 4), (4, 3)],
            ],
            [0, 0, 0],
            False,
        ),
        ([SQUARE, [(3, 1), (3, 2), (6, 2), (6, 1)]], [0, 0], False),
        # Parts that touch at a corner, overlap along a side, and lie one in the other.
        ([SQUARE, [(4, 4), (8, 4), (8, 8), (4, 8)]], [0, 1], True),
        ([SQUARE, [(4, 0), (8, 0), (8, 4), (4, 4)]], [0, 1], False),
        ([[(0, 0), (9, 0), (9, 9), (0, 9)], [(1, 1), (4, 1), (4, 4), (1, 4)]], [0, 1], False),
        # An island in a hole.
        (
            [
                [(0, 0), (9, 0), (9, 9), (0, 9)],
                [(1, 1), (1, 8), (8, 8), (8, 1)],
                [(3, 3), (4, 3), (4, 4), (3, 4)],
            ],
            [0, 0, 2],
            True,
        ),
        # A vertex on the middle of a side, and a spike.
        ([[(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)]], [0], False),
        ([[(0, 0), (6, 0), (4, 0), (4, 4)]], [0], False),
        # Through a common corner, from one side to the other.
        ([[(0, 0), (4, 0), (4, 4), (0, 4)], [(4, 4), (2, 2), (2, 7), (8, 8)]], [0, 1], False),
    ],
)
def test_rings_are_valid_together_as_ogc_has_it(as_run, rings, shells, expected):
    vertices = np.concatenate([ring_of(*ring) for ring in rings])
    starts = np.cumsum([0, *map(len, rings)])
    assert as_run(kernels.is_valid)(vertices, starts, np.array(shells)) == expected


def square_distance(point, begin, end):
    """Exact, in fractions."""
    (x, y), (x0, y0), (x1, y1) = point, begin, end
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = Fraction((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0), length) if length else Fraction(0)
    along = min(max(along, Fraction(0)), Fraction(1))
    return (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2


def douglas_peucker(arc, limit):
    if len(arc) < 3:
        return arc
    distances = [square_distance(point, arc[0], arc[-1]) for point in arc[1:-1]]
    if max(distances) <= limit:
        return [arc[0], arc[-1]]
    k = distances.index(max(distances)) + 1
    return douglas_peucker(arc[: k + 1], limit)[:-1] + douglas_peucker(arc[k:], limit)


@pytest.mark.parametrize("seed", range(20))
def test_an_arc_keeps_the_same_vertices_from_both_of_its_ends(as_run, seed):
    rng = np.random.default_rng(seed)
    steps = [(1, 0), (0, 1)] * 10
    rng.shuffle(steps)
    arc = [(0, 0), *itertools.accumulate(steps, lambda a, b: (a[0] + b[0], a[1] + b[1]))]
    # Both ends are nodes, and so is a third one on the way back.
    closed, nodes = [*arc, (0, 10)], [arc[0], arc[-1], (0, 10)]
    expected = {*douglas_peucker(arc, 1), (0, 10)}
    for ring in (closed, closed[::-1], closed[7:] + closed[:7]):
        kept = np.zeros(len(ring), bool)
        as_run(kernels.mark_kept)(ring_of(*ring, nodes=nodes), 1.0, kept)
        assert {corner for corner, is_kept in zip(ring, kept, strict=True) if is_kept} == expected
