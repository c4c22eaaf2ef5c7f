"""Two functions are told apart by what they do, in any process; every change has a name."""

import argparse
import collections
import datetime
import decimal
import dis
import enum
import functools
import importlib
import json
import logging
import operator
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time
import types

import cloudpickle
import numba
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import skimage.filters
import skimage.measure

from blockbuster.grid import TileGrid
from blockbuster.identity import graph, growth
from blockbuster.identity.code import instructions
from blockbuster.identity.function import FunctionIdentity, differing_parts, identify_function


def define(source, name="fn", **space):
    """Run a source, as a notebook would, and give one of its names."""
    space.setdefault("__name__", "__main__")
    exec(compile(source, "<cell>", "exec", dont_inherit=True), space)
    return space[name]


def differences(old, new):
    """Name what differs between two functions, or two sources of ``fn``."""
    old, new = (define(item) if isinstance(item, str) else item for item in (old, new))
    return differing_parts(identify_function(old).parts, identify_function(new).parts)


def unreadable(fn):
    return identify_function(fn).unreadable


# What is noticed


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("def fn(t): return t + 1", "def fn(t): return t - 1", "code"),
        ("def fn(t): return t + 1", "def fn(t): return t + 2", "code"),
        ("def fn(t): return t + 1", "def fn(t): return t + 1.0", "code"),
        ("def fn(t): return t + 1", "def fn(t): return t + True", "code"),
        ("def fn(t): return t * 0.0", "def fn(t): return t * -0.0", "code"),
        ("def fn(t): return t.min()", "def fn(t): return t.max()", "code"),
        ("def fn(t): return t in {1, 2}", "def fn(t): return t in {1, 3}", "code"),
        ("def fn(t, u=1): return t", "def fn(t, *, u=1): return t", "code"),
        ("def fn(t): return t", "def fn(t): yield t", "code"),
        ("def fn(t): return [x for x in t if x > 1]", "def fn(t): return [x for x in t if x > 2]", "code"),
        (
            "def fn(t):\n try: t += 1; t += 2\n except E: t = 0\n return t",
            "def fn(t):\n t += 1\n try: t += 2\n except E: t = 0\n return t",
            "code",
        ),
        (
            "def fn(t):\n def inner(x): return x + 1\n return inner(t)",
            "def fn(t):\n def inner(x): return x + 2\n return inner(t)",
            "code",
        ),
        (
            "def fn(t):\n class A:\n  x = 1\n return A",
            "def fn(t):\n class A:\n  x = 2\n return A",
            "code",
        ),
        ("def fn(t, radius=1): return t", "def fn(t, radius=2): return t", "default radius"),
        ("def fn(t, a, radius=1, b=3): return t", "def fn(t, a, radius=2, b=3): return t", "default radius"),
        ("def fn(t, *, radius=1): return t", "def fn(t, *, radius=2): return t", "default radius"),
        ("S = 1\ndef fn(t): return t * S", "S = 2\ndef fn(t): return t * S", "global S"),
        ("S = [1, 2]\ndef fn(t): return S", "S = [2, 1]\ndef fn(t): return S", "global S"),
        ("S = {1: 'a'}\ndef fn(t): return S", "S = {1: 'b'}\ndef fn(t): return S", "global S"),
        ("S = {1, 2}\ndef fn(t): return S", "S = {1, 2, 3}\ndef fn(t): return S", "global S"),
        ("S = {1: 2, 3: 4}\ndef fn(t): return S", "S = {3: 4, 1: 2}\ndef fn(t): return S", "global S"),
        ("S = {'a': 2, 'b': 4}\ndef fn(t): return S", "S = {'b': 4, 'a': 2}\ndef fn(t): return S", "global S"),
        ("S = {1: 2}\ndef fn(t): return S", "S = {True: 2}\ndef fn(t): return S", "global S"),
        ("S = {1}\ndef fn(t): return S", "S = frozenset({1})\ndef fn(t): return S", "global S"),
        ("S = (1,)\ndef fn(t): return S", "S = [1]\ndef fn(t): return S", "global S"),
        ("S = 'x'\ndef fn(t): return S", "S = b'x'\ndef fn(t): return S", "global S"),
        ("S = 10**5000\ndef fn(t): return S", "S = 10**5000 + 1\ndef fn(t): return S", "global S"),
        ("S = slice(1, 2)\ndef fn(t): return S", "S = slice(1, 3)\ndef fn(t): return S", "global S"),
        ("S = range(2)\ndef fn(t): return S", "S = range(3)\ndef fn(t): return S", "global S"),
        (
            "S = 1\ndef fn(t): return [x * S for x in t]",
            "S = 2\ndef fn(t): return [x * S for x in t]",
            "global S",
        ),
        (
            "S = 1\ndef fn(t):\n class A:\n  x = S\n return A",
            "S = 2\ndef fn(t):\n class A:\n  x = S\n return A",
            "global S",
        ),
        (
            "def helper(t): return t + 1\ndef fn(t): return helper(t)",
            "def helper(t): return t + 2\ndef fn(t): return helper(t)",
            "global helper",
        ),
        (
            "def low(t): return t + 1\ndef helper(t): return low(t)\ndef fn(t): return helper(t)",
            "def low(t): return t + 2\ndef helper(t): return low(t)\ndef fn(t): return helper(t)",
            "global helper",
        ),
        (
            "S = 1\ndef helper(t): return t * S\ndef fn(t): return helper(t)",
            "S = 2\ndef helper(t): return t * S\ndef fn(t): return helper(t)",
            "global helper",
        ),
        ("def fn(t): return t\nfn.sigma = 1", "def fn(t): return t\nfn.sigma = 2", "attribute sigma"),
        ("def fn(t): return len(t)", "len = max\ndef fn(t): return len(t)", "global len"),
        ("def fn(t): return t", "def gn(t): return t\nfn = gn", "name"),
    ],
)
def test_F13_a_change_of_the_source_is_named(old, new, named):
    assert differences(old, new) == [named]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def fn(t): return t + 1", "\n\n# said\ndef fn(t):\n    # why\n    return t + 1"),
        ("def fn(t):\n 'one'\n return t + 1", "def fn(t):\n 'two'\n return t + 1"),
        ("def fn(t):\n 'one'\n return t + 1, None, 'a'", "def fn(t):\n return t + 1, None, 'a'"),
        ("def fn(t: int) -> int: return t", "def fn(t): return t"),
        ("S = 1\ndef fn(t): return t", "S = 2\ndef fn(t): return t"),
        ("shape = 1\ndef fn(t): return t.shape", "shape = 2\ndef fn(t): return t.shape"),
        ("S = [1]\nR = [S, S]\ndef fn(t): return R", "R = [[1], [1]]\ndef fn(t): return R"),
        (
            "def fn(t):\n class A:\n  'one'\n  def f(self): 'one'\n return A",
            "\n\ndef fn(t):\n\n class A:\n  'two'\n  def f(self): 'two'\n return A",
        ),
        (
            "class A:\n 'one'\n def f(self): 'x'\n def __call__(self, t): return t\nfn = A()",
            "\n\nclass A:\n 'two'\n def __call__(self, t): return t\n def f(self): 'y'\nfn = A()",
        ),
    ],
)
def test_what_has_no_influence_is_not_noticed(old, new):
    assert identify_function(define(old)) == identify_function(define(new))


def above(threshold, later=False):
    if later:
        return lambda tile: tile > unset  # noqa: F821
    return lambda tile: tile > threshold


def late(kind):
    def inner(tile):
        return tile > threshold

    if kind == "full":
        threshold = None
    return inner


def test_F13_a_change_in_a_closure_is_named():
    assert differences(above(1), above(2)) == ["closure threshold"]
    assert differences(above([1]), above([2])) == ["closure threshold"]
    assert differences(above(len), above(max)) == ["closure threshold"]
    assert differences(above(above(1)), above(above(2))) == ["closure threshold"]
    assert differences(above(1), above(1)) == []


def test_an_empty_cell_is_not_the_same_as_none():
    assert differences(late("empty"), late("full")) == ["closure threshold"]
    assert identify_function(late("empty")).parts["closure threshold"] == "empty cell"
    assert unreadable(late("empty")) == ()


def doubled(function):
    @functools.wraps(function)
    def wrapper(tile):
        return function(tile) * 2

    return wrapper


def test_F13_a_change_under_a_decorator_is_named():
    @doubled
    def fn(t):
        return t + 1

    old = fn

    @doubled
    def fn(t):
        return t + 2

    assert differences(old, fn) == ["closure function", "attribute __wrapped__"]


def test_a_decorator_around_an_installed_function_is_read_as_own_code():
    wrapped = doubled(skimage.measure.label)
    assert wrapped.__module__.startswith("skimage")
    assert identify_function(wrapped).parts["code"] == identify_function(doubled(len)).parts["code"]


def test_F13_arguments_of_a_partial_are_named():
    def fn(tile, *models, sigma=0):
        return tile

    old = functools.partial(fn, 1, 2, sigma=3)
    assert differences(old, functools.partial(fn, 1, 9, sigma=3)) == ["argument 1"]
    assert differences(old, functools.partial(fn, 1, 2, sigma=9)) == ["keyword sigma"]
    assert differences(old, functools.partial(fn, 1, 2)) == ["keyword sigma"]
    assert differences(old, functools.partial(functools.partial(fn, 1), 2, sigma=3)) == []
    assert identify_function(old).parts["name"] == fn.__qualname__


MODEL = """
class Base:
    __slots__ = ()
    def smooth(self, t): return t * {smooth}
class Model(Base):
    kernel = {kernel}
    __slots__ = ("radius", "__dict__")
    def __init__(self): self.sigma, self.radius = {sigma}, {radius}
    def __call__(self, t): return self.smooth(t) + {call}
    @staticmethod
    def still(t): return {still}
    @property
    def size(self): return {size}
fn = Model()
method = fn.__call__
"""
SAME = {"smooth": 1, "kernel": 1, "sigma": 1, "radius": 1, "call": 1, "still": 1, "size": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("smooth", "base Base"),
        ("kernel", "class attribute kernel"),
        ("sigma", "attribute sigma"),
        ("radius", "attribute radius"),
        ("call", "method __call__"),
        ("still", "method still"),
        ("size", "method size"),
    ],
)
def test_F13_a_change_in_a_class_or_its_object_is_named(change, named):
    old, new = (MODEL.format(**SAME), MODEL.format(**SAME | {change: 2}))
    assert named in differences(old, new)
    assert set(differences(old, new)) <= {named, "method __init__"}
    assert named in differences(define(old, "method"), define(new, "method"))
    assert unreadable(define(old)) == ()


@pytest.mark.parametrize("how", ["__getstate__", "__reduce__"])
def test_F13_what_a_pickle_leaves_out_and_threads_use_is_a_part(how):
    class Model:
        def __init__(self, path, net):
            self.path, self.net = path, net

        def __call__(self, tile):
            return tile

    leave_out = {
        "__getstate__": lambda self: {"path": self.path},
        "__reduce__": lambda self: (Model, (self.path, None)),
    }
    setattr(Model, how, leave_out[how])
    assert differences(Model("a", [1]), Model("a", [2])) == ["unpickled attribute net"]
    assert differences(Model("a", 1), Model("b", 1))[-1].endswith("attribute path")
    assert differences(Model("a", [1]), Model("a", [1])) == []


@pytest.mark.parametrize("inside", [lambda net: net, lambda net: [{"net": net}]])
def test_F13_what_a_pickle_leaves_out_and_nobody_can_read_counts_by_its_class(inside):
    class Model:
        def __init__(self, net):
            self.net = inside(net)

        def __getstate__(self):
            return {}

        def __call__(self, tile):
            return tile

    def a_model(net, **others):
        return [Model(net), others]

    net = a_torch_module()
    assert unreadable(above(a_model(net))) == ()
    assert differences(above(a_model(net)), above(a_model(a_torch_module()))) == []
    assert differences(above(a_model(net)), above(a_model(n for n in "ab"))) == ["closure threshold"]
    # Unless there is another way to it.
    assert len(unreadable(above(a_model(net, also=net)))) == 1


def test_what_a_pickle_leaves_out_and_a_call_loads_is_no_part():
    class Model:
        def __init__(self, path):
            self.path, self.net = path, None

        def __getstate__(self):
            return self.__dict__ | {"net": None, "size": None}

        def __call__(self, tile):
            self.net = self.net or (n for n in "ab")
            return self.size

        @functools.cached_property
        def size(self):
            return 3

    model = Model("a")
    old = identify_function(model)
    model(1)
    assert identify_function(model) == old
    assert identify_function(model).unreadable == ()


class Calibrated(np.ndarray):
    """An array with a unit, which its pickle is without."""


def calibrated(values, **state):
    array = np.array(values).view(Calibrated)
    vars(array).update(state)
    return array


def test_F13_attributes_of_arrays_of_other_classes_are_parts():
    base = calibrated([1, 2], unit="um")
    assert differences(above(base), above(calibrated([1, 2], unit="um"))) == []
    for other in (calibrated([1, 2], unit="nm"), calibrated([1, 3], unit="um"), calibrated([1, 2])):
        assert differences(above(base), above(other)) == ["closure threshold"]
    assert "closure threshold" in differences(above(calibrated([1, 2])), above(np.array([1, 2])))
    masked, tagged = np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [0, 1])
    assert differences(above(masked), above(tagged)) == []
    tagged.unit = "um"
    assert differences(above(masked), above(tagged)) == ["closure threshold"]
    assert differences(above(masked), above(masked.copy().harden_mask())) == ["closure threshold"]


def test_F13_masked_arrays_are_read_and_left_alone():
    assert unreadable(above(np.ma.masked)) == ()
    assert differences(above(np.ma.masked), above(np.ma.masked)) == []
    assert differences(above(np.ma.masked), above(np.ma.masked_array(0.0, True))) == ["closure threshold"]
    for dtype in ("int8", "float32", "<U3", "datetime64[s]", [("a", int), ("b", float)]):
        array, filled = np.ma.zeros(3, dtype), np.ma.zeros(3, dtype)
        before = dict(vars(array))
        assert unreadable(above(array)) == ()
        assert vars(array) == before
        assert filled.fill_value is not None
        assert differences(above(array), above(filled)) == []
        filled.fill_value = np.ones(1, dtype)[0]
        assert differences(above(array), above(filled)) == ["closure threshold"]


def test_F13_attributes_of_whatever_wraps_a_function_are_parts():
    def fn(tile, **others):
        return tile

    for wrap in (functools.partial, functools.cache, staticmethod):
        old, new = wrap(fn), wrap(fn)
        assert differences(old, new) == []
        old.sigma, new.sigma = 1, 2
        assert differences(old, new) == ["attribute sigma"]


def test_F13_the_order_of_keywords_is_a_part_where_it_can_be_seen():
    def sees(tile, **others):
        return tile

    def does_not(tile, a, b):
        return tile

    old, new = (functools.partial(sees, **dict.fromkeys(names, 1)) for names in ("ab", "ba"))
    assert differences(old, new) == ["order of keywords"]
    old, new = (functools.partial(does_not, **dict.fromkeys(names, 1)) for names in ("ab", "ba"))
    assert differences(old, new) == []


def test_F13_the_order_of_members_is_a_part():
    source = "import enum\nclass Colour(enum.Enum):\n {} = 1\n {} = 2\ndef fn(t): return list(Colour)"
    swapped = "import enum\nclass Colour(enum.Enum):\n b = 2\n a = 1\ndef fn(t): return list(Colour)"
    assert differences(source.format("a", "b"), source.format("a", "b")) == []
    assert differences(source.format("a", "b"), swapped) == ["global Colour"]


def test_reduce_is_honoured_and_the_class_read_as_well():
    source = "class A:\n def __reduce__(self): return make, (1,)\n def __call__(self, t): return {}\nfn = A()"
    old, new = (define(source.format(i), make=dict) for i in (1, 2))
    assert differences(old, new) == ["method __call__"]
    assert identify_function(old).parts["argument 0"] == "1"


@pytest.mark.parametrize("kind", ["str", "Path", "constant", "partial", "in a list"])
def test_F13_the_content_of_a_file_is_a_part(tmp_path, kind):
    path = tmp_path / "weights.npz"
    fn = {
        "str": lambda: above(str(path)),
        "Path": lambda: above(path),
        "constant": lambda: define(f"def fn(t): return load({str(path)!r})"),
        "partial": lambda: functools.partial(above, str(path)),
        "in a list": lambda: above([{"weights": str(path)}]),
    }[kind]
    none = identify_function(fn()).parts
    path.write_bytes(b"a" * 100_000)
    old = identify_function(fn()).parts
    path.write_bytes(b"a" * 99_999 + b"b")
    new = identify_function(fn()).parts
    assert differing_parts(none, old) == differing_parts(old, new) == [f"file {path}"]
    assert differing_parts(new, identify_function(fn()).parts) == []


@pytest.mark.parametrize("text", ["", "\0", "a\nb", "x" * 5000, "\ud800", os.sep])
def test_a_text_that_is_no_file_is_only_a_text(text):
    found = identify_function(above(text))
    assert not any(name.startswith("file ") for name in found.parts)
    assert found.unreadable == ()
    json.dumps(found.parts).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_cannot_be_read_is_unreadable(tmp_path):
    (tmp_path / "weights").touch(mode=0o000)
    assert unreadable(above(str(tmp_path / "weights"))) == (f"file {tmp_path / 'weights'}",)


# Values


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


class Tagged(list):
    pass


class Bag(set):
    pass


def structured(value):
    return np.array([(1, value)], dtype=[("a", "i2"), ("b", object)])


VALUES = [
    *(None, True, 1, 1.0, -0.0, 0.0, 1j, "1", b"1", ..., NotImplemented, float("inf"), 2**70),
    *((1,), [1], {1}, frozenset({1}), {1: 2}, {2: 1}, {"1": 2}, [[1]], slice(1), range(1)),
    *(Colour.RED, Colour.BLUE, Colour, Point, Point(1, 2), Point(2, 1), (1, 2), pathlib.PurePosixPath("1")),
    *(Tagged([1]), Tagged([2]), Bag({1}), Bag({2}), collections.OrderedDict(a=1), collections.Counter("a")),
    *(collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    *(collections.defaultdict(int, a=1, b=2), collections.defaultdict(int, b=2, a=1)),
    *(np.str_("1"), np.array([(1, 2)], "i2,i2")[0], structured("a")[0], structured("b")[0]),
    *(collections.defaultdict(int), collections.defaultdict(list), collections.deque([1]), bytearray(b"1")),
    *(np.float32(1), np.float64(1), np.int64(1), np.datetime64("2020-01-01"), np.bool_(True)),
    *(np.dtype("f4"), np.dtype("f8"), np.dtype([("a", "i4")]), np.float32, np.add, scipy.special.expit),
    *(
        np.zeros(4),
        np.ones(4),
        np.zeros(4, "f4"),
        np.zeros(4, ">f8"),
        np.zeros((2, 2)),
        np.zeros(0),
        np.array(0.0),
    ),
    *(np.array(["a"]), np.array(["b"]), np.array(["a"], object), np.array([None]), np.zeros((0, 3))),
    *(np.array([1], "M8[s]"), np.array([2], "M8[s]"), structured("a"), structured("b")),
    *(np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 1])),
    *(np.random.default_rng(1), np.random.default_rng(2), random.Random(1), random.Random(2)),
    *(re.compile("a"), re.compile("a", re.I), decimal.Decimal("1"), decimal.Decimal("1.0")),
    *(datetime.date(2020, 1, 1), datetime.timedelta(1), operator.itemgetter(1), operator.itemgetter(2)),
    *(operator.attrgetter("a"), operator.methodcaller("a"), types.MappingProxyType({1: 3}), "a".join, "b".join),
    *(len, max, str, str.upper, np, scipy.ndimage, os, os.path, skimage.filters.gaussian, print),
    *(functools.partial(len), functools.partial(max), threading.Lock, logging, TileGrid),
]


def test_values_are_told_apart_and_readable():
    seen = {}
    for value in VALUES:
        found = identify_function(above(value))
        text = found.parts["closure threshold"]
        assert found.unreadable == ()
        assert text not in seen, (value, seen[text])
        seen[text] = value


def test_values_are_known_again_after_a_pickle():
    for value in VALUES:
        old, new = above(value), cloudpickle.loads(cloudpickle.dumps(above(value)))
        assert differences(old, new) == [], value


@pytest.mark.parametrize("change", [lambda a: a[::-1], lambda a: a.T, np.asfortranarray, lambda a: a[:, ::2]])
def test_an_array_counts_by_content_not_by_its_place_in_memory(change):
    array = change(np.arange(1200.0).reshape(30, 40))
    assert differences(above(array), above(array.copy(order="C"))) == []
    other = array.copy()
    other[-1, -1] += 1
    assert differences(above(array), above(other)) == ["closure threshold"]


def test_a_large_array_is_hashed_in_blocks(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "u1", (300_000,))
    array[-1] = 1
    assert differences(above(array), above(np.array(array))) == []
    assert differences(above(array), above(np.zeros(300_000, "u1"))) == ["closure threshold"]


def test_locks_and_loggers_have_no_state():
    class Local(threading.local):
        pass

    for make in (
        *(threading.Lock, threading.RLock, threading.Condition, threading.Event, threading.Semaphore, Local),
        *(lambda: logging.getLogger("a"), logging.NullHandler),
    ):
        found = identify_function(above(make()))
        assert found.unreadable == ()
        assert found.parts["closure threshold"] == "no state"


# Modules


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Write modules of the user's own, and forget them afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(load=True, **sources):
        for name, source in sources.items():
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return [importlib.import_module(name) for name in sources] if load else None

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


USES_MODULE = "import own_low\ndef fn(t): return own_low.smooth(t)"


def test_F13_a_module_of_the_user_counts_with_its_source(own_module):
    def fn():
        return define(USES_MODULE)

    own_module(own_low="def smooth(t): return t + 1")
    old = identify_function(fn()).parts
    own_module(own_low="'doc'\n# said\n\ndef smooth(t):\n 'doc'\n return t + 1")
    assert identify_function(fn()).parts == old
    own_module(own_low="def smooth(t): return t + 2")
    assert differing_parts(old, identify_function(fn()).parts) == ["global own_low", "global own_low.smooth"]


def test_F13_what_was_set_in_a_module_counts_if_the_code_takes_it(own_module):
    (module,) = own_module(own_low="sigma = 1\nother = 1")
    fn = define("import own_low\ndef fn(t): return own_low.sigma")
    old = identify_function(fn).parts
    module.other = 2
    assert identify_function(fn).parts == old
    module.sigma = 2
    assert differing_parts(old, identify_function(fn).parts) == ["global own_low.sigma"]


def test_F13_a_helper_imported_from_a_module_counts_by_its_code(own_module):
    source = "from own_low import smooth\ndef fn(t): return smooth(t)"
    own_module(own_low="def smooth(t): return t + 1\ndef other(t): return 1")
    old = define(source)
    own_module(own_low="# said\ndef smooth(t): return t + 1\ndef other(t): return 2")
    assert differences(old, source) == []
    own_module(own_low="def smooth(t): return t + 2")
    assert differences(old, source) == ["global smooth"]


@pytest.mark.parametrize("statement", ["import own_top", "from own_top import smooth", "from own_top import *"])
def test_F13_modules_imported_when_fn_runs_count_whether_loaded_or_not(own_module, statement):
    body = f"def fn(t):\n {statement}" if "*" not in statement else "def fn(t):\n import own_star"
    own_module(load=False, own_star="from own_top import *", own_top="from own_low import smooth")
    own_module(load=False, own_low="def smooth(t): return t + 1")
    old = identify_function(define(body)).parts
    assert "own_low" not in sys.modules
    importlib.import_module("own_star")
    assert identify_function(define(body)).parts == old
    own_module(load=False, own_low="def smooth(t): return t + 2")
    importlib.invalidate_caches()
    (named,) = differing_parts(old, identify_function(define(body)).parts)
    assert named == ("import own_star" if "*" in statement else "import own_top")


def test_F13_a_package_of_the_user_is_followed_through_relative_imports(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from .core import seg")
    (package / "core.py").write_text("from .deep import low\ndef seg(t): return low.smooth(t)")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "low.py").write_text("def smooth(t): return t + 1")
    monkeypatch.syspath_prepend(tmp_path)
    fn = define("def fn(t):\n from own_package import seg\n return seg(t)")
    old = identify_function(fn)
    (package / "deep" / "low.py").write_text("def smooth(t): return t + 2")
    assert differing_parts(old.parts, identify_function(fn).parts) == ["import own_package"]
    assert old.unreadable == ()
    assert "own_package" not in sys.modules


def test_a_module_that_cannot_be_compiled_counts_by_its_file(own_module, tmp_path):
    fn = define("def fn(t): import own_broken")
    own_module(load=False, own_broken="def (")
    old = identify_function(fn)
    own_module(load=False, own_broken="def [")
    assert differing_parts(old.parts, identify_function(fn).parts) == ["import own_broken"]
    assert old.unreadable == ()


def test_warnings_of_a_module_are_not_given_again_and_do_not_count(own_module):
    own_module(load=False, own_odd="x = '\\d'")
    assert differences("def fn(t): import own_odd", "def fn(t): import own_odd") == []


def test_installed_things_count_by_name_and_version():
    def fn(tile):
        return scipy.ndimage.label(skimage.filters.gaussian(tile), np.ones(TileGrid))

    parts = identify_function(fn).parts
    assert parts["version of scipy"] == importlib.metadata.version("scipy")
    assert parts["version of skimage"] == importlib.metadata.version("scikit-image")
    assert parts["version of numpy"] == importlib.metadata.version("numpy")
    assert parts["version of blockbuster"] == importlib.metadata.version("blockbuster-tiles")
    assert parts["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("fn", "package"),
    [
        (scipy.ndimage.label, "scipy"),
        (scipy.ndimage.gaussian_filter, "scipy"),
        (scipy.special.expit, "scipy"),
        (skimage.measure.label, "skimage"),
        (np.add, "numpy"),
        (np.sum, "numpy"),
        (np.linalg.norm, "numpy"),
        (np.random.normal, "numpy"),
    ],
)
def test_an_installed_function_is_its_name_and_version_alone(fn, package):
    found = identify_function(fn)
    assert found.parts.keys() == {"name", "kind", f"version of {package}"}
    assert found.parts["kind"].startswith(f"{package}.")
    assert found.unreadable == ()


def test_a_package_whose_distribution_is_named_otherwise_is_found():
    def fn(tile):
        import dateutil
        import yaml

        return dateutil, yaml

    parts = identify_function(fn).parts
    assert parts["version of dateutil"] == importlib.metadata.version("python-dateutil")
    assert parts["version of yaml"] == importlib.metadata.version("PyYAML")


def test_what_pip_installed_into_another_folder_is_installed(tmp_path, monkeypatch):
    (tmp_path / "targeted.py").write_text("def smooth(t): return t + 1")
    information = tmp_path / "targeted-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: targeted\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    parts = identify_function(define("def fn(t): import targeted")).parts
    assert parts["version of targeted"] == "1.2"


def test_functions_of_python_count_by_name():
    for fn, name in ((len, "builtins.len"), (random.random, "random.random"), (json.dumps, "json.dumps")):
        found = identify_function(fn)
        assert (found.parts["kind"], found.unreadable) == (name, ())


# Other callables


@numba.njit(fastmath=True)
def compiled(x):
    return x + 1


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
def test_F13_compiled_functions_are_read_as_python():
    def make(number, **options):
        def fn(x):
            return x + number

        return numba.njit(**options)(fn)

    assert differences(make(1), make(1)) == []
    assert differences(make(1), make(2)) == ["closure number"]
    assert differences(make(1), make(1, fastmath=True)) == ["options"]
    old = identify_function(compiled)
    compiled(1)
    assert identify_function(compiled) == old
    assert old.unreadable == identify_function(numba.vectorize(lambda x: x + 1)).unreadable == ()
    assert differences(numba.vectorize(lambda x: x + 1), numba.vectorize(lambda x: x + 2)) == ["code"]


def test_a_cache_does_not_count():
    @functools.lru_cache
    def fn(t):
        return t + 1

    old = identify_function(fn)
    fn(1)
    assert identify_function(fn) == old
    assert old.unreadable == ()
    assert differences(fn, functools.lru_cache(define("def fn(t): return t + 2"))) == ["name", "code"]


def test_a_vectorized_function_is_the_same_after_a_call():
    fn = np.vectorize(lambda x: x + 1, otypes=[int])
    old = identify_function(fn)
    fn([1])
    assert identify_function(fn) == old
    assert old.unreadable == ()
    assert differences(fn, np.vectorize(lambda x: x + 2, otypes=[int])) == ["code"]
    assert differences(fn, np.vectorize(lambda x: x + 1, otypes=[float])) == ["otypes"]


def test_a_pickle_leaves_no_trace_on_a_class():
    class Model:
        def __call__(self, tile):
            return tile

    model = Model()
    old = identify_function(model)
    cloudpickle.dumps(model)
    assert identify_function(model) == old


# Cycles


def test_F13_mutual_recursion_ends_and_every_member_counts():
    source = "def a(t): return b(t) + {}\ndef b(t): return c(t) + {}\ndef c(t): return a(t) + {}\nfn = a"
    old = source.format(1, 1, 1)
    assert differences(old, old) == []
    assert differences(old, source.format(2, 1, 1)) == ["code", "global b"]
    assert differences(old, source.format(1, 2, 1)) == ["global b"]
    assert differences(old, source.format(1, 1, 2)) == ["global b"]


def test_values_that_hold_themselves_end():
    for length in (1, 2, 3):
        ring = [0]
        for _ in range(length):
            ring = [ring]
        deepest = ring
        while type(deepest[0]) is list:
            deepest = deepest[0]
        deepest.append(ring)
        assert unreadable(above(ring)) == ()
        assert differences(above(ring), cloudpickle.loads(cloudpickle.dumps(above(ring)))) == []


def test_functions_in_a_set_that_refer_to_the_set_end():
    source = "def a(t): return S\ndef b(t): return S, {}\nS = {{a, b}}\ndef fn(t): return S"
    assert differences(source.format(1), source.format(1)) == []
    assert differences(source.format(1), source.format(2)) == ["global S"]


def test_functions_that_all_refer_to_all_are_read_in_a_moment():
    names = [f"f{i}" for i in range(40)]
    source = "\n".join(f"def {name}(t): return {', '.join(names)}" for name in names)
    # Seconds of this thread, which other processes do not lengthen.
    began = time.thread_time()
    assert differences(source + "\nfn = f0", source + "\nfn = f0") == []
    assert time.thread_time() - began < 5


# What cannot be read


class Loose:
    """Fails at whatever it is asked."""

    def __getattr__(self, name):
        raise RuntimeError("no")

    def __reduce_ex__(self, protocol):
        raise RuntimeError("no")

    def __call__(self, tile):
        return tile


class Endless:
    """Is made of one more of its kind, and so on."""

    def __reduce__(self):
        return Endless, (Endless(),)


class Liar:
    @property
    def __class__(self):
        raise RuntimeError("no")


class Named:
    def __reduce__(self):
        return "SOMEWHERE"


def a_generator():
    yield 1


def a_torch_module():
    """What the class of a network looks like from outside."""
    module = type("Module", (), {"__module__": "torch.nn.modules.module"})
    return type("Linear", (module,), {"__module__": "torch.nn"})()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Loose, f"{__name__}.Loose"),
        (Liar, f"{__name__}.Liar"),
        (a_generator, "generator"),
        (a_torch_module, "torch.nn.Linear"),
        (lambda: iter([1]), "list_iterator"),
        (lambda: memoryview(b"a"), "memoryview"),
        (lambda: np.frompyfunc(above, 1, 1), "numpy.ufunc"),
        (lambda: sys._getframe(), "frame"),
        (threading.Thread, "_io.TextIOWrapper"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_type(make, kind, tmp_path):
    if kind == "_io.TextIOWrapper":
        with open(tmp_path / "log", "w") as net:
            found = unreadable(above(net))
    else:
        found = unreadable(above(make()))
    assert found == (f"closure threshold ({kind})",)


def test_the_way_to_what_cannot_be_read_is_named():
    class Model:
        net = a_torch_module()

        def __call__(self, tile):
            return tile

    model = Model()
    model.layers = {"a": [1, a_torch_module()]}
    assert set(unreadable(model)) == {
        "attribute layers > item 'a' > item 1 (torch.nn.Linear)",
        "class attribute net (torch.nn.Linear)",
    }
    assert unreadable(above([[[[[[a_torch_module()]]]]]])) == (
        "closure threshold > item 0 > item 0 > ... > item 0 > item 0 (torch.nn.Linear)",
    )
    assert unreadable(functools.partial(len, net=a_torch_module())) == ("keyword net (torch.nn.Linear)",)
    fn = define("def helper(t): return net\ndef fn(t): return helper", net=a_torch_module())
    assert unreadable(fn) == ("global helper > global net (torch.nn.Linear)",)
    assert unreadable(a_torch_module()) == ("fn (torch.nn.Linear)",)


@pytest.mark.parametrize("make", [Loose, Named, Liar, a_generator, int, str, list, object, a_torch_module])
def test_nothing_makes_it_raise(make):
    fn = make()
    found = identify_function(fn)
    json.dumps(found.parts)
    assert found == identify_function(fn)
    assert identify_function(fn, fn_version="1").parts["fn_version"] == "1"


def test_an_endless_object_is_given_up(monkeypatch):
    monkeypatch.setattr(graph, "MAX_OBJECTS", 1000)
    assert unreadable(above(Endless())) == ("fn (more than 1000 objects)",)
    assert differences(above(Endless()), above(Endless())) == []


def test_a_deep_nesting_is_no_problem():
    deep = []
    for _ in range(20_000):
        deep = [deep]
    assert unreadable(above(deep)) == ()
    while deep:  # or it is freed by recursion
        deep = deep.pop()


# What grows while fn runs


def test_F33_what_has_grown_is_named_once_with_the_size_that_it_had(tmp_path):
    log, path = [1], tmp_path / "fn.log"
    state = {"times": log, "sizes": collections.deque()}
    growth = identify_function(above([state, str(path)])).growth
    assert growth.look() == {}
    log.append(2)
    state["sizes"].append(1)
    path.touch()
    name = "closure threshold > item 0 > item"
    expected = {f"file {path}": -1, f"{name} 'times'": 1, f"{name} 'sizes'": 0}
    assert growth.look() == expected
    log.append(3)
    assert growth.look() == {}
    assert growth.grown == expected


@pytest.mark.parametrize("make", [list, dict, collections.OrderedDict, lambda: collections.defaultdict(int)])
def test_F33_a_function_is_read_as_it_was_before_it_grew(make, tmp_path):
    path, held = tmp_path / "fn.log", make()
    fn = above([{"log": str(path), "held": held}])

    def grow(number):
        with path.open("a") as file:
            file.write(f"line {number}\n")
        if isinstance(held, dict):
            held[number] = number
        else:
            held.append(number)

    grow(1)
    old = identify_function(fn)
    grow(2)
    grown = old.growth.look()
    grow(3)
    assert len(held) == 3
    assert identify_function(fn) != old
    assert identify_function(fn, before=grown) == old
    assert len(held) == 3
    path.write_text("LINE 1\n")
    assert differing_parts(old.parts, identify_function(fn, before=grown).parts) == [f"file {path}"]


def test_F33_not_too_much_is_watched(monkeypatch):
    monkeypatch.setattr(growth, "MAX_WATCHED", {"file": 10, "container": 20})
    assert len(identify_function(above(tuple([i] for i in range(100)))).growth.looks) == 20
    assert len(identify_function(above(tuple(f"{i}.log" for i in range(100)))).growth.looks) == 10
    # Files leave room for containers, and texts that name nothing for files.
    texts = (*(f"tile number {i}" for i in range(100)), "fn.log", *(f"{i}.log" for i in range(100)))
    assert {"file fn.log", "closure threshold > item 1"} <= set(
        identify_function(above((texts, [1]))).growth.looks
    )


def test_F33_two_lists_are_never_taken_for_each_other():
    class Model:
        def __init__(self):
            self.log = [1, 2]

        def __call__(self, tile):
            return tile

    def fn(tile):
        return tile

    def grows(fn, log):
        old = identify_function(fn)
        log.append(3)
        grown = old.growth.look()
        return bool(grown) and identify_function(fn, before=grown) == old

    # Ways that differ in nothing but what is a part of fn itself.
    fn.log, outer = [1, 2], functools.partial(fn)
    outer.log = [1, 2, 3, 4]
    assert grows(outer, fn.log)
    assert grows(outer, outer.log)
    # Items of a set have no names, and each of them counts as it is.
    models = {Model(), Model()}
    assert identify_function(above(models)).growth.look() == {}
    assert not any(grows(above(models), model.log) for model in models)


def test_F13_a_frame_is_all_but_what_code_can_change():
    def frame(source):
        return identify_function(define(source)).frame

    held = "S = {}\nclass A: pass\nB = A()\nB.size = {}\ndef fn(t):\n global N\n N = {}\n return S, N, B"
    same = held.format("[1]", 1, "0")
    assert frame(same) == frame(held.format("[2, 3]", 1, "0")) == frame("N = 5\n" + same)
    for other in (held.format("{}", 1, "0"), held.format("[1]", 2, "0"), held.format("[1]", 1, "7")):
        assert frame(other) != frame(same)
    # What was loaded, or lies in a list, may hold what holds it.
    cycle = "class A:\n def __call__(self, t): self.net = S\nclass C: pass\nS, B = [], A()\n{}\nfn = B"
    for change in ("B.net = C()\nB.net.owner = B", "S.append(B)", "S += [C(), S]\nS[0].all = S"):
        assert frame(cycle.format(change)) == frame(cycle.format(""))
    steps = "def a(t): return t + {}\nS = [a]\ndef fn(t): return S[0](t)"
    assert frame(steps.format(1)) != frame(steps.format(2))
    assert frame("def fn(t):\n fn.n = 1\nfn.n = 0") == frame("def fn(t):\n fn.n = 1\nfn.n = 3")


# fn_version, and comparing


def test_fn_version_alone_stands_for_fn():
    found = identify_function(above(a_torch_module()), fn_version="3")
    assert found.parts == {"name": "above.<locals>.<lambda>", "fn_version": "3"}
    assert found.unreadable == ()
    assert found == identify_function(above(1), fn_version="3")
    assert found != identify_function(above(1), fn_version="4")


def test_identities_are_equal_if_their_parts_are():
    assert FunctionIdentity({"a": "1"}, ()) == FunctionIdentity({"a": "1"}, ("x",))
    assert FunctionIdentity({"a": "1"}) != FunctionIdentity({"a": "2"})


def test_parts_that_one_side_lacks_differ():
    assert differing_parts({"a": "1", "b": "1", "c": "1"}, {"c": "2", "b": "1", "d": "1"}) == ["a", "c", "d"]


def test_short_values_are_parts_themselves_and_long_ones_digests():
    parts = identify_function(define("def fn(t, a=1.5, b='x', c=(1, 2), d='y' * 200): return t")).parts
    assert (parts["default a"], parts["default b"]) == ("1.5", "'x'")
    assert all(re.fullmatch("[0-9a-f]{16}", parts[name]) for name in ("code", "default c", "default d"))


# Other processes

PROGRAM = '''
import collections, dataclasses, enum, functools, logging, os, re, threading
import numpy as np
import scipy.ndimage as ndi
from skimage.measure import label

LOCK, LOG, SIGMA, NAMES = threading.Lock(), logging.getLogger("x"), 2.0, {"a", "b", "c", "d", 1, None}
TABLE = {("a", 1): {"x", "y"}, frozenset({"p", "q"}): [1]}

class Colour(enum.Enum):
    RED = "red"
    @property
    def loud(self): return self.value.upper()

@dataclasses.dataclass
class Settings:
    sigma: float = 1.0
    colours: list = dataclasses.field(default_factory=lambda: [Colour.RED])

Pair = collections.namedtuple("Pair", "left right")

class Model:
    """Doc."""
    names = frozenset({"u", "v", "w"})
    def __init__(self):
        self.settings, self.lock, self.pair = Settings(), threading.RLock(), Pair(1, {"s", "t"})
    def __call__(self, tile):
        return even(tile) if tile in {"k", "l", "m"} else super().__call__(tile)
    @functools.cached_property
    def size(self): return self.settings

def even(n): return n == 0 or odd(n - 1)
def odd(n):
    class Inner:
        """Doc."""
        def __init__(self): self.a, self.b, self.c = SIGMA, 1, 2
    return n != 0 and even(n - 1), Inner

MODEL = Model()

def fn(tile, radius=(1, 2.5), *, kernel=np.ones((3, 3)), functions={even, odd, len}):
    """Doc."""
    with LOCK:
        LOG.info("tile")
        return label(ndi.gaussian_filter(tile, SIGMA)), MODEL(tile), NAMES, TABLE, re.compile("a+", re.I)
'''
PRINT = """
import json
from blockbuster.identity.function import identify_function
found = [identify_function(f) for f in (fn, MODEL, MODEL.__call__, functools.partial(fn, 1, kernel=odd))]
print(json.dumps([[f.parts, f.unreadable] for f in found]))
"""


def run(arguments, seed, **options):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, **options)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def in_this_process():
    return functions_of(PROGRAM)


def functions_of(program):
    space = {"__name__": "__main__"}
    exec(compile(program, "<cell>", "exec", dont_inherit=True), space)
    fns = [space["fn"], space["MODEL"], space["MODEL"].__call__]
    return [*fns, functools.partial(space["fn"], 1, kernel=space["odd"])]


def test_a_function_is_the_same_in_other_processes_however_it_was_defined(tmp_path, in_this_process):
    script = tmp_path / "script.py"
    script.write_text("# said\n\n" + PROGRAM + PRINT)
    importing = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from script import *; import functools" + PRINT
    )
    found = [
        run(["-c", PROGRAM + PRINT], 1),
        run(["-c", f"exec({PROGRAM + PRINT!r}, {{}})"], 2),
        run([str(script)], 3),
        run(["-i", "-q"], 4, input=f"import sys; sys.ps1 = ''\nexec({PROGRAM!r})\n{PRINT}"),
    ]
    script.write_text(PROGRAM)
    found.append(run(["-B", "-c", importing], 5))
    expected = [[f.parts, list(f.unreadable)] for f in map(identify_function, in_this_process)]
    assert all(unread == [] for _, unread in expected)
    for process in found:
        assert process == expected


def test_a_class_that_was_sent_by_value_is_read_though_the_folders_of_its_module_are_not_imported(tmp_path):
    """Python looks for a folder without `__init__` that is inside another one in what it has imported."""
    folder = tmp_path / "lab" / "tools"
    folder.mkdir(parents=True)
    (folder / "blur.py").write_text("class Blur:\n    def __call__(self, tile):\n        return tile\n")
    sending = (
        "import cloudpickle, pathlib, lab.tools.blur; cloudpickle.register_pickle_by_value(lab.tools.blur);"
        "pathlib.Path('fn').write_bytes(cloudpickle.dumps(lab.tools.blur.Blur())); print('[]')"
    )
    reading = (
        "import cloudpickle, json, pathlib; from blockbuster.identity.function import identify_function;"
        "fn = cloudpickle.loads(pathlib.Path('fn').read_bytes());"
        "print(json.dumps([type(fn).__module__, identify_function(fn).unreadable]))"
    )
    assert run(["-c", sending], 0, cwd=tmp_path) == []
    assert run(["-c", reading], 0, cwd=tmp_path) == ["lab.tools.blur", []]


def test_a_function_is_the_same_after_cloudpickle_in_another_process(tmp_path):
    no_locks = PROGRAM.replace("threading.Lock()", "None").replace("threading.RLock()", "None")
    fns = functions_of(no_locks.replace("functools.cached_property", "property"))
    (tmp_path / "fns").write_bytes(cloudpickle.dumps(fns))
    loading = (
        "import cloudpickle, json, pathlib;"
        "from blockbuster.identity.function import identify_function as identify;"
        f"fns = cloudpickle.loads(pathlib.Path({str(tmp_path / 'fns')!r}).read_bytes());"
        "print(json.dumps([[identify(f).parts, identify(f).unreadable] for f in fns]))"
    )
    expected = [[f.parts, list(f.unreadable)] for f in map(identify_function, fns)]
    assert run(["-c", loading], 6) == expected
    here = cloudpickle.loads(cloudpickle.dumps(fns))
    assert [[f.parts, list(f.unreadable)] for f in map(identify_function, here)] == expected


# How it is read


def test_instructions_are_those_of_dis():
    codes = [
        member.__code__
        for module in (argparse, json.decoder, re, functools, dis)
        for member in vars(module).values()
        if isinstance(member, types.FunctionType)
    ]
    assert len(codes) > 50
    for code in codes:
        expected = [
            (i.opcode, i.arg or 0) for i in dis.get_instructions(code) if i.opname not in ("EXTENDED_ARG", "NOP")
        ]
        found = [(op, arg) for op, arg in instructions(code) if dis.opname[op] != "CACHE"]
        assert found == [(op, arg) for op, arg in expected if dis.opname[op] != "CACHE"]


def test_it_takes_a_moment(in_this_process):
    identify_function(in_this_process[0])
    taken = []
    for _ in range(10):
        began = time.thread_time()
        identify_function(in_this_process[0])
        taken.append(time.thread_time() - began)
    assert min(taken) < 0.03


def test_a_big_array_that_is_met_often_is_hashed_once(monkeypatch):
    array = np.zeros(1000)
    hashed = []
    original = np.nditer
    monkeypatch.setattr(np, "nditer", lambda *a, **k: hashed.append(1) or original(*a, **k))
    identify_function(above([array, array, {"a": array}, lambda: array]))
    assert hashed == [1]
