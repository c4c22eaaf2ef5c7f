import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from blockbuster.stage.results import check_labels

SHAPE = (3, 4)


class Subclass(np.ndarray):
    pass


class OnTheGpu:
    @property
    def __cuda_array_interface__(self):
        return {"shape": SHAPE}


def refusal(result, shapes=(SHAPE,)):
    with pytest.raises(ValueError) as caught:
        check_labels(result, shapes)
    return str(caught.value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integer_labels_are_taken_as_they_are(dtype, order):
    labels = np.full(SHAPE, np.iinfo(dtype).max, np.dtype(dtype).newbyteorder(order))
    checked = check_labels(labels, (SHAPE,))
    assert checked.dtype == labels.dtype
    assert np.shares_memory(checked, labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.asfortranarray(np.ones(SHAPE, int)),
        np.ones((6, 8), int)[::2, ::2],
        np.broadcast_to(np.int64(3), SHAPE),
        np.ones(SHAPE, int).view(Subclass),
    ],
    ids=["Fortran order", "view", "read-only", "subclass"],
)
def test_arrays_of_every_layout_are_plain_arrays_afterwards(labels):
    checked = check_labels(labels, (SHAPE,))
    assert type(checked) is np.ndarray
    assert np.array_equal(checked, labels)


@pytest.mark.parametrize(
    ("result", "named", "remedy"),
    [
        (None, "None", "integer array of shape (3, 4)"),
        (7, "int", "integer array of shape (3, 4)"),
        (np.int32(7), "int32", "integer array of shape (3, 4)"),
        ([[0] * 4] * 3, "list", "integer array of shape (3, 4)"),
        ((np.zeros(SHAPE, int), 5), "tuple of 2", "return labels"),
        (np.ma.zeros(SHAPE, int), "masked array", "labels.filled(0)"),
        (zarr.zeros(SHAPE, dtype=int), "zarr", "integer array"),
        (OnTheGpu(), "OnTheGpu on the GPU", "labels.get()"),
        (np.zeros(SHAPE, bool), "boolean mask", "skimage.measure.label(mask)"),
        (np.zeros(SHAPE), "float64", "labels.astype('int32')"),
        (np.full(SHAPE, np.nan), "float64", "labels.astype('int32')"),
        (np.zeros(SHAPE, complex), "complex128", "labels.astype('int32')"),
        (np.zeros(SHAPE, object), "object", "labels.astype('int32')"),
        (np.zeros((4, 3), int), "(4, 3)", "(3, 4)"),
        (np.zeros((1, 3, 4), int), "(1, 3, 4)", "(3, 4)"),
        (np.zeros((), int), "()", "(3, 4)"),
        (np.full(SHAPE, -1), "least -1", "0 is background"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_labels_is_refused_with_what_came_and_what_to_do(result, named, remedy):
    message = refusal(result)
    assert named in message
    assert remedy in message


def test_any_of_several_shapes_is_accepted_and_all_are_named():
    shapes = ((3, 4), (2, 3, 4))
    for shape in shapes:
        check_labels(np.zeros(shape, int), shapes)
    assert "(3, 4) or (2, 3, 4)" in refusal(np.zeros((3, 4, 2), int), shapes)


@given(st.lists(st.integers(-3, 3), min_size=1), st.sampled_from(["i1", "<i8", ">i2"]))
def test_one_negative_label_is_enough_to_refuse(values, dtype):
    labels = np.array(values, dtype)
    if min(values) < 0:
        assert f"least {min(values)}" in refusal(labels, (labels.shape,))
    else:
        assert check_labels(labels, (labels.shape,)).tolist() == values
