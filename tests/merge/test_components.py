"""Labels that touch are one object, named by its smallest label."""

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blockbuster.merge.components import join_pairs

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


def test_nothing_touches_nothing():
    labels, roots = join_pairs(np.empty((0, 2), np.int64))
    assert (labels.shape, roots.shape) == ((0,), (0,))
    assert labels.dtype == roots.dtype == np.int64
