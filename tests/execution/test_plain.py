"""Results of tasks as plain data: they come back as they were, and nothing runs as they are read (F34)."""

import json
import os
import pickle
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from users import Planted

from blockbuster import TileError
from blockbuster.execution.plain import decode, encode
from blockbuster.merge.matching import MatchResult
from blockbuster.merge.tally import SeamTally
from blockbuster.report import WorstSeam
from blockbuster.stage.probes import Probe
from blockbuster.stage.task import BrickResult
from blockbuster.stage.tile_call import TileOutcome

numbers = hnp.arrays(
    st.sampled_from(["bool", "uint8", ">i4", "int64", "float32"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
single = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.slices(9)
keys = st.integers() | st.text() | st.tuples(st.integers(), st.integers())
values = st.recursive(
    single | numbers,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=12,
)


def assert_same(a, b):
    """Equal, of the same types all the way down, and arrays of the same dtype."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes(), b.flags.writeable) == (b.dtype, b.shape, b.tobytes(), True)
    elif isinstance(a, dict):
        assert_same(list(a.items()), list(b.items()))
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for parts in zip(a, b, strict=True):
            assert_same(*parts)
    elif hasattr(a, "__dataclass_fields__"):
        assert_same(vars(a), vars(b))
    elif isinstance(a, TileError):
        assert_same(vars(a), vars(b))
        assert str(a) == str(b)
    else:
        assert a == b


@given(values)
def test_values_come_back_as_they_were(value):
    assert_same(value, decode(encode(value)))


def test_results_of_all_phases_come_back_as_they_were():
    try:
        raise OSError("no such chunk \udcff\x1b[31m")
    except OSError as cause:
        error = TileError.from_exception("reading the image", cause, (0, 1), (slice(0, 4), slice(4, 8)))
    counts = np.array([[3, 0, 7]])
    brick = BrickResult(4, counts, 1, 2, 0.25, "5d1e9c20", failed=[error, TileError("None", (0,), (slice(3),))])
    worst = WorstSeam([[0, 0], [0, 1]], "1", touching=2, joined=1, doubtful=1, at=[3, 4], agreement=0.25)
    doubtful = [(0.05, 7, 3, 9, 0.35)]
    tally = SeamTally(counts, counts[::-1], np.zeros((3, 10), np.int64), [worst], doubtful, 1, 2, 3, 4)
    matched = MatchResult(
        np.arange(6).reshape(3, 2), *np.float32([[1, 0.5, 0.25], [1, 0.9, 0.4]]), tally, 3, 5, [0, 2]
    )
    for result in (
        brick,
        Probe(7, TileOutcome({"cells": np.ones((2, 3), ">u2"), "nuclei": np.zeros((2, 3), "u1")})),
        Probe(8, TileOutcome(error=error)),
        matched,
        (3, "ab"),
        (4, True),
    ):
        assert_same(result, decode(encode(result)))


def test_numbers_of_numpy_become_those_of_python():
    assert_same(decode(encode((np.int64(3), np.float32(0.5), np.bool_(True)))), (3, 0.5, True))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", np.array([None]), np.array(["a"]), 1j, pytest])
def test_what_is_not_plain_is_not_written(value):
    with pytest.raises(TypeError, match="the result of a task holds"):
        encode([value])


@pytest.mark.parametrize(
    "planted",
    [
        pickle.dumps(Planted()),
        b"",
        b"\n",
        b"[" * 10**6,
        b'{"array":["O",[1]]}\n' + bytes(8),
        b'{"array":["<i8",[9999999999999]]}\n' + bytes(8),
        b'{"array":["<i8",[2]]}\n',
        b'{"array":["<i8",[-1]]}\n' + bytes(8),
        b'{"array":["<i8",[true]]}\n' + bytes(8),
        b'{"array":["(((",[1]]}\n' + bytes(8),
        b'{"array":[["a","<i8"],[1]]}\n' + bytes(8),
        b'{"array":["<i8",[0,%d]]}\n' % 10**30,
        b'{"os:mkdir":["ran"]}\n',
        b'{"planted:made":["ran"]}\n',
        b'{"blockbuster.errors:warn_user":["ran"]}\n',
        b'{"blockbuster.stage.task:os.mkdir":["ran"]}\n',
        b'{"blockbuster.no.such:BrickResult":[]}\n',
        b'{"blockbuster.stage.task:BrickResult":[1]}\n',
        b'{"blockbuster.stage.task:BrickResult":[["number",1]]}\n',
        b'{"blockbuster.execution.attempts:Attempt":[["task","a"],["directory","b"]]}\n',
        b'{"tuple":[],"slice":[1]}\n',
        b'{"dict":[[[1],2]]}\n',
    ],
)
def test_F34_what_somebody_else_put_there_is_refused_and_never_run(folder, planted, monkeypatch):
    module = types.ModuleType("planted")
    # Called for whatever it does not have.
    module.__getattr__ = os.mkdir
    monkeypatch.setitem(sys.modules, "planted", module)
    with pytest.raises(ValueError, match=r"^\w+Error: "):
        decode(planted)
    assert os.listdir(folder) == []


def test_F34_our_own_classes_are_made_without_a_call(folder):
    name = "blockbuster.execution.attempts:Attempt"
    made = decode(json.dumps({name: [["directory", str(folder)], ["task", "brick-7"]]}).encode() + b"\n")
    assert (vars(made), os.listdir(folder)) == ({"directory": str(folder), "task": "brick-7"}, [])
