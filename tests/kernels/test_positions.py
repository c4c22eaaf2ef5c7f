import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from stretches import labels_of_any_kind

from blockbuster.kernels.positions import MAX_SPARSE, keep_positions_apart

# Numba wraps silently; plain Python, which runs with NUMBA_DISABLE_JIT=1, says so.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@settings(max_examples=examples(150))
@given(labels_of_any_kind(), st.data())
def test_B21_ids_count_for_each_position_along_axes_that_are_kept_apart(labels, data):
    axes = data.draw(st.sets(st.sampled_from(range(labels.ndim))))
    before = labels.copy()
    apart = keep_positions_apart(labels, tuple(axes))
    merged = [axis for axis in range(labels.ndim) if axis not in axes]
    expected = naive.keep_apart(labels, merged)
    assert np.array_equal(naive.number_by_appearance(apart)[0], naive.number_by_appearance(expected)[0])
    assert np.array_equal(labels, before)


def test_labels_of_one_position_are_handed_on_as_they_are():
    labels = np.arange(12, dtype=np.int16).reshape(1, 4, 3)
    assert keep_positions_apart(labels, (0,)) is labels
    assert keep_positions_apart(labels, ()) is labels


def test_B21_ids_and_positions_whose_product_needs_more_than_32_bits_stay_apart():
    labels = np.full(2**16, 2**17)
    assert len(np.unique(keep_positions_apart(labels, (0,)))) == labels.size


@pytest.mark.parametrize("dtype", [np.uint64, ">u8"])
@pytest.mark.parametrize("largest", [2 * 6 + MAX_SPARSE, 2 * 6 + MAX_SPARSE + 1, 2**63 - 1, 2**64 - 1])
def test_B21_ids_become_dense_where_they_would_not_fit_a_product(largest, dtype):
    """Of six voxels, ids up to a limit stay what they are at the first position."""
    labels = np.array([[largest, 0, 5], [5, largest, 0]], dtype)
    apart = keep_positions_apart(labels, (0,))
    is_dense = largest <= 2 * 6 + MAX_SPARSE
    a, b, n = (largest, 5, largest) if is_dense else (1, 2, 2)
    assert apart.tolist() == [[a, 0, b], [b + n, a + n, 0]]
    assert apart.dtype == np.uint32


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 4)])
def test_no_voxels_have_no_labels(shape):
    assert keep_positions_apart(np.zeros(shape, np.int64), (0,)).shape == shape
