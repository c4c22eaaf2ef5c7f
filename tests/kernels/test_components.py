"""Labels that touch are one object, named by its smallest label."""

import naive
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockbuster.kernels.components import join_pairs, join_places

LABELS = st.sampled_from([1, 2, 3, 7, 8, 2**31, 2**40, 2**40 + 1, 2**62])


@given(st.lists(st.tuples(LABELS, LABELS), max_size=12))
@example([(8, 7), (7, 3), (3, 2), (2, 1)])
@example([(7, 7)])
def test_joined_labels_have_the_smallest_of_their_object(pairs):
    labels, roots = join_pairs(np.array(pairs, np.int64).reshape(-1, 2))
    nodes = sorted({label for pair in pairs for label in pair})
    assert labels.tolist() == nodes
    place = {label: i for i, label in enumerate(nodes)}
    smallest = naive.join(len(nodes), [(place[a], place[b]) for a, b in pairs])
    assert roots.tolist() == [nodes[i] for i in smallest]


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_long_chain_is_one_object(order):
    steps = np.arange(1, 200_000)
    steps = {
        "ascending": steps,
        "descending": steps[::-1],
        "shuffled": np.random.default_rng(0).permutation(steps),
    }
    labels, roots = join_pairs(np.column_stack([steps[order], steps[order] + 1]))
    assert labels.tolist() == list(range(1, 200_001))
    assert np.all(roots == 1)


# `as_run` is the same for all examples.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.sampled_from([np.int32, np.int64])
)
def test_each_place_gets_the_first_of_its_object(as_run, pairs, dtype):
    labels, firsts = np.arange(100, 110, dtype=dtype), np.arange(10, dtype=dtype)
    as_run(join_places)(labels, np.array(pairs, dtype).reshape(-1, 2) + dtype(100), firsts)
    assert firsts.tolist() == naive.join(10, pairs)


def test_ids_up_to_the_last_of_int32_stay_int32():
    last = 2**31 - 1
    labels, roots = join_pairs(np.array([[last, 5], [last - 1, last]], np.int32))
    assert (labels.tolist(), roots.tolist()) == ([5, last - 1, last], [5, 5, 5])
    assert labels.dtype == roots.dtype == np.int32


def test_nothing_touches_nothing():
    labels, roots = join_pairs(np.empty((0, 2), np.int64))
    assert (labels.shape, roots.shape) == ((0,), (0,))
    assert labels.dtype == roots.dtype == np.int64
