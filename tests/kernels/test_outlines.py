"""Outlines in bricks, joined to rings, by kernels that are compiled and by plain Python."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from outlined import sides, sides_of

from blockbuster.kernels import outlines as kernels
from blockbuster.objects.outlines import Chains, join_outlines, trace_chains

PINCHED = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]])


def bricks_of(labels, brick):
    """Bricks with a voxel around them, and where they begin; the last ones are a voxel longer."""
    padded = np.pad(labels, (1, 2))
    starts = [range(0, n, step) for n, step in zip(labels.shape, brick, strict=True)]
    for origin in itertools.product(*starts):
        stops = [min(a + step, n) for a, step, n in zip(origin, brick, labels.shape, strict=True)]
        stops = [stop + (stop == n) for stop, n in zip(stops, labels.shape, strict=True)]
        yield padded[origin[0] : stops[0] + 2, origin[1] : stops[1] + 2], origin


def trace(labels, brick, with_nodes=False):
    return join_outlines(
        Chains.concatenate(trace_chains(*part, with_nodes=with_nodes) for part in bricks_of(labels, brick))
    )


def rings_of(found, k):
    """The closed rings of an object, polygon by polygon."""
    x, y = (found.vertices & (kernels.Y - 1)) >> 1, found.vertices >> 32
    for polygon in range(found.polygons[k], found.polygons[k + 1]):
        for ring in range(found.rings[polygon], found.rings[polygon + 1]):
            part = slice(found.starts[ring], found.starts[ring + 1])
            corners = list(zip(x[part].tolist(), y[part].tolist(), strict=True))
            yield [*corners, corners[0]]


LABELS = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(0, 999)).map(
    lambda case: np.random.default_rng(case[3]).integers(0, case[2] + 1, case[:2])
)


@pytest.fixture
def by_python(as_run, monkeypatch):
    """Have the kernels run as they are wanted."""
    names = ("assign_holes", "gather_rings", "join_chains", "measure_rings", "split_rings", "trace_outlines")
    for name in names:
        monkeypatch.setattr(f"blockbuster.objects.outlines.{name}", as_run(getattr(kernels, name)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=LABELS,
    brick=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    dtype=st.sampled_from(["int32", "int64"]),
)
@example(labels=PINCHED, brick=(2, 2), dtype="int32")
def test_rings_have_the_sides_of_their_label(by_python, labels, brick, dtype):
    labels = labels.astype(dtype)
    found = trace(labels, brick)
    assert found.labels.tolist() == np.unique(labels[labels != 0]).tolist()
    assert found.areas.tolist() == [(labels == label).sum() for label in found.labels]
    for k, label in enumerate(found.labels):
        assert sum(map(sides_of, rings_of(found, k)), Counter()) == sides(labels, label)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=LABELS, brick=st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_nodes_are_where_more_than_two_labels_meet_or_two_at_a_corner(by_python, labels, brick):
    padded = np.pad(labels, 1)
    around = np.stack([padded[:-1, :-1], padded[:-1, 1:], padded[1:, 1:], padded[1:, :-1]])
    changes = (around != np.roll(around, 1, axis=0)).sum(axis=0)
    found = trace(labels, brick, with_nodes=True)
    x, y = (found.vertices & (kernels.Y - 1)) >> 1, found.vertices >> 32
    np.testing.assert_array_equal(found.vertices & 1, changes[y, x] > 2)
    expected = {(i, j) for i, j in np.argwhere(changes > 2).tolist()}
    assert {
        (i, j) for i, j, node in zip(y.tolist(), x.tolist(), found.vertices & 1, strict=True) if node
    } == expected


def test_noise_that_needs_more_room_than_is_tried_first_is_traced():
    labels = np.arange(1, 150 * 150 + 1).reshape(150, 150)
    found = trace(labels, (150, 150))
    assert found.areas.tolist() == [1] * labels.size
    assert len(found.vertices) == 4 * labels.size


def test_images_are_as_long_as_32_bits_allow():
    chains = trace_chains(np.pad(np.ones((2, 2), int), 2), (2**31 - 9, 2**31 - 9))
    found = join_outlines(chains)
    assert found.boxes.tolist() == [[2**31 - 8, 2**31 - 8, 2**31 - 6, 2**31 - 6]]
    assert found.areas.tolist() == [4]


def test_chains_are_read_back_for_some_labels(tmp_path):
    labels = np.random.default_rng(0).integers(0, 9, (20, 20))
    whole = trace_chains(np.pad(labels, (1, 2)), (0, 0))
    whole.save(str(tmp_path / "x"))
    for low, high in ((1, 8), (3, 5), (0, 0), (9, 2**63 - 1)):
        part = Chains.load(str(tmp_path / "x"), low, high)
        wanted = (whole.labels >= low) & (whole.labels <= high)
        np.testing.assert_array_equal(part.labels, whole.labels[wanted])
        expected = [whole.vertices[a:b] for a, b in zip(whole.starts, whole.starts[1:], strict=False)]
        expected = [one for one, is_wanted in zip(expected, wanted, strict=True) if is_wanted]
        found = [part.vertices[a:b].tolist() for a, b in zip(part.starts, part.starts[1:], strict=False)]
        assert found == [one.tolist() for one in expected]
