"""Arguments as plain values, and their faults in one message; tiles and halo of any image (B13, B14)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockbuster.run.options import (
    Faults,
    RunOptions,
    resolve_connectivity,
    resolve_count,
    resolve_halo,
    resolve_merge_axes,
    resolve_threshold,
    resolve_tile_lengths,
)


def test_options_that_depend_on_nothing_else_become_plain_values():
    given = RunOptions(skip_empty=np.True_, retries=np.int8(2), min_agreement=1, tiles_per_task=np.uint8(3))
    faults = Faults()
    options = given.parsed(faults)
    faults.raise_all()
    found = [options.skip_empty, options.retries, options.min_agreement, options.tiles_per_task]
    assert [(type(value), value) for value in found] == [(bool, True), (int, 2), (int, 1), (int, 3)]
    assert options.parsed(faults) == options


def test_an_option_at_fault_has_its_default_so_that_nothing_else_stumbles_over_it():
    faults = Faults()
    assert RunOptions(tiles_per_task="all", resume="no", merge=None).parsed(faults) == RunOptions()
    with pytest.raises(ValueError, match=r"3 arguments are wrong:\n  - resume is 'no'.*\n  - merge is None"):
        faults.raise_all()


def test_faults_keep_a_single_error_as_it_is():
    faults, error = Faults(), FileExistsError("there")
    with faults.caught():
        raise error
    with pytest.raises(FileExistsError) as caught:
        faults.raise_all()
    assert caught.value is error


def test_faults_of_classes_that_need_more_than_a_message_are_raised_all_the_same():
    faults = Faults()
    for text in (b"\xff", b"\xfe"):
        with faults.caught():
            text.decode("utf-8")
    with pytest.raises(ValueError, match="2 arguments are wrong") as caught:
        faults.raise_all()
    assert caught.type is ValueError


def test_faults_said_twice_are_said_once():
    faults = Faults()
    for _ in range(2):
        with faults.caught():
            raise TypeError("overlap is None")
    with pytest.raises(TypeError, match="^overlap is None$"):
        faults.raise_all()


def test_other_exceptions_are_no_faults_of_arguments():
    with pytest.raises(KeyError), Faults().caught():
        raise KeyError("bug")


def test_no_faults_raise_nothing():
    Faults().raise_all()


def test_B14_channels_are_left_out_of_shorter_tuples():
    shape, whole = (3, 20, 30), ((3,), (20,), (30,))

    def lengths(tile_shape):
        return resolve_tile_lengths(tile_shape, shape, np.dtype("u1"), whole, "cyx", 0, lambda *_: (5, 6))

    assert lengths((10, 15)) == lengths((1, 10, 15)) == ((3,), (10, 10), (15, 15))
    assert lengths("auto") == ((3,), (5,) * 4, (6,) * 5)
    assert lengths((15,)) == ((3,), (1,) * 20, (15, 15))
    last = resolve_tile_lengths((10, 15), (20, 30, 3), np.dtype("u1"), whole, "yxc", 2, lambda *_: ())
    assert last == ((10, 10), (15, 15), (3,))
    assert resolve_halo((4,), ((20,), (30,), (3,)), "yxc", 2) == (0, 4, 0)
    assert resolve_halo(4, ((20,), (30,), (3,)), "yxc", 2) == (4, 4, 0)


def test_resolved_values_are_plain():
    assert type(resolve_count(np.uint8(3), "n", 0)) is int
    assert type(resolve_threshold(np.float32(3))) is float
    assert resolve_threshold(None) is None
    rules = [RunOptions(merge=name).rule for name in ("touch", "agree", "none")]
    assert [resolve_connectivity(None, 3, rule) for rule in rules] == [1, 3, 1]
    assert resolve_merge_axes(None, "tczyx", 5, None) == (2, 3, 4)
    assert resolve_merge_axes("xz", "tczyx", 5, None) == (2, 4)
    assert resolve_merge_axes(None, None, 3, None) == (0, 1, 2)


@given(data=st.data(), shape=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_B13_tiles_are_as_long_as_asked_but_for_the_last_and_cover_the_image(data, shape):
    tile = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=len(shape)))
    lengths = resolve_tile_lengths(tuple(tile), tuple(shape), np.dtype("u1"), (), None, None, lambda *_: ())
    assert [sum(axis) for axis in lengths] == shape
    for axis, asked in zip(lengths, [1] * (len(shape) - len(tile)) + tile, strict=True):
        assert all(length == asked for length in axis[:-1])
        assert all(0 < length <= asked for length in axis[-1:])


@given(
    lengths=st.lists(st.lists(st.integers(1, 9), max_size=3).map(tuple), min_size=1, max_size=4),
    depth=st.integers(0, 9),
)
def test_B13_a_number_is_a_halo_along_every_axis_that_is_cut_into_more_than_planes(lengths, depth):
    halo = resolve_halo(depth, tuple(lengths), None, None)
    assert halo == tuple(depth if max(axis, default=1) > 1 else 0 for axis in lengths)
