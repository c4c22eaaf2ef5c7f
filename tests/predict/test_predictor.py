"""Predictor by itself: batches, strides, and what is no batch."""

import re

import numpy as np
import pytest

from blockbuster import Predictor


def test_a_tile_by_itself_is_predicted_and_decoded():
    fn = Predictor(lambda tile: tile * 2, lambda tile: tile + 1)
    assert fn(np.array([1, 2])).tolist() == [3, 5]
    batched = Predictor(
        lambda tiles: (tiles * 2, tiles.sum(axis=1)), lambda maps: maps[0] + maps[1], batch_size=3
    )
    assert batched(np.array([1, 2])).tolist() == [5, 7]


@pytest.mark.parametrize("stride", [4, (4, 4), [2, 4]])
def test_a_tile_is_padded_by_reflection_and_cut_again(stride):
    seen = []

    def predict(tile):
        seen.append(tile)
        return tile

    tile = np.arange(30).reshape(5, 6)
    fn = Predictor(predict, lambda tile: {"one": tile, "two": tile.tolist()}, stride=stride)
    found = fn(tile)
    assert np.array_equal(found["one"], tile)
    steps = (4, 4) if stride == 4 else tuple(stride)
    assert np.array_equal(
        seen[0], np.pad(tile, [(0, -n % step) for n, step in zip((5, 6), steps, strict=True)], "reflect")
    )
    assert np.shape(found["two"]) == seen[0].shape


def test_axes_before_those_of_the_stride_are_left_alone():
    fn = Predictor(np.copy, np.copy, stride=4)
    assert fn(np.zeros((3, 5, 6))).shape == (3, 5, 6)
    assert fn.padded(np.zeros((3, 5, 6))).shape == (3, 8, 8)
    assert fn.padded(np.ones((1, 1))).tolist() == np.ones((4, 4)).tolist()


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (np.zeros((3, 4)), "an array of shape (3, 4) for 2 tiles"),
        ((np.zeros((2, 4)), np.zeros(())), "an array of shape () for 2 tiles"),
        (None, "NoneType for 2 tiles"),
    ],
)
def test_what_is_no_batch_is_refused(result, what):
    fn = Predictor(lambda tiles: result, np.copy, batch_size=2)
    with pytest.raises(ValueError, match=re.escape(what)):
        fn.predict_tiles([np.zeros(3), np.zeros(3)])


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"predict": 3}, TypeError, "predict is 3"),
        ({"decode": None}, TypeError, "decode is None"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"batch_size": True}, TypeError, "batch_size is True"),
        ({"batch_size": 2.5}, TypeError, "batch_size is 2.5"),
        ({"stride": 0}, ValueError, "stride is 0"),
        ({"stride": ()}, ValueError, "stride is ()"),
        ({"stride": "88"}, TypeError, "stride is '88'"),
        ({"receptive_field": (3, -1)}, ValueError, "receptive_field is -1"),
    ],
)
def test_arguments_that_are_wrong_are_named(options, kind, text):
    given = {"predict": np.copy, "decode": np.copy, **options}
    with pytest.raises(kind, match=re.escape(text)):
        Predictor(**given)
