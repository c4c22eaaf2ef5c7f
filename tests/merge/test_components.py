import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from blockbuster.merge.components import flatten_parents, join_pairs, union_pairs

# `as_run` is the same for all examples.
for_all = settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 40))
    node = st.integers(0, n - 1)
    return n, draw(st.lists(st.tuples(node, node), max_size=60))


@for_all
@given(graphs())
@example((5, [(4, 3), (3, 2), (2, 1), (1, 0)]))
@example((5, [(0, 0)]))
def test_root_of_a_set_is_its_smallest_element(as_run, graph):
    n, edges = graph
    first, second = np.array(edges, np.int64).reshape(-1, 2).T.copy()
    parents = np.arange(n)
    as_run(union_pairs)(first, second, parents)
    assert np.all(parents <= np.arange(n))
    as_run(flatten_parents)(parents)
    assert parents.tolist() == naive.join(n, edges)


@for_all
@given(st.integers(1, 50), st.data())
def test_flattening_points_every_element_at_its_root(as_run, n, data):
    parents = [data.draw(st.integers(0, i)) for i in range(n)]
    flat = np.array(parents)
    as_run(flatten_parents)(flat)
    for i in range(n):
        root = i
        while parents[root] != root:
            root = parents[root]
        assert flat[i] == root


@given(st.lists(st.tuples(*[st.sampled_from([1, 2, 3, 7, 8, 2**31, 2**40, 2**40 + 1, 2**62])] * 2), max_size=12))
def test_joined_labels_agree_with_connected_components(pairs):
    labels, roots = join_pairs(np.array(pairs, np.int64).reshape(-1, 2))
    nodes = sorted({label for pair in pairs for label in pair})
    assert labels.tolist() == nodes
    place = {label: i for i, label in enumerate(nodes)}
    ends = np.array([(place[a], place[b]) for a, b in pairs], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    component = connected_components(graph, directed=False)[1] if nodes else []
    members = {c: [label for label, own in zip(nodes, component, strict=True) if own == c] for c in component}
    assert roots.tolist() == [min(members[c]) for c in component]


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
