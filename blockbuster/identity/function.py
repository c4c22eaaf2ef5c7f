"""What a function is, as a few texts that are the same in every process that runs the same program."""

from __future__ import annotations

import builtins
import collections
import copy
import copyreg
import dis
import enum
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import re
import stat
import sys
import sysconfig
import threading
import types
from collections import ChainMap
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from blockbuster.errors import muted

__all__ = ["FunctionIdentity", "Growth", "differing_parts", "identify_function"]

MAX_OBJECTS = 100_000
MAX_WATCHED = {"file": 100, "container": 250}
MAX_ROUNDS = 64
MAX_TEXT = 80
BLOCK_BYTES = 2**20
MAX_PATH = 1024
# A text that is no file yet may be the path of one if it has a separator or a suffix.
PATH_LIKE = re.compile(r"[/\\]|\.\w+\Z")
# The size of a file that is not there.
ABSENT = -1

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})
STATELESS = (threading.Event, threading.Condition, threading.local, logging.Logger, logging.LoggerAdapter)
# Their pickles hold addresses or times, or copy a model from a device.
OPAQUE_PACKAGES = frozenset({"torch", "keras", "tf_keras", "tensorflow"})
OPAQUE_CLASSES = frozenset({"Module", "Tensor", "TypedStorage", "UntypedStorage", "Generator", "Model", "Layer"})
# What describes a module or a class, and what Python itself keeps there (3.13: line numbers).
DESCRIPTIONS = (
    {"__name__", "__qualname__", "__module__", "__package__", "__file__", "__cached__", "__doc__", "__builtins__"}
    | {"__loader__", "__spec__", "__warningregistry__", "__firstlineno__", "__static_attributes__", "__dict__"}
    | {"__weakref__", "__slotnames__", "__abstractmethods__", "_abc_impl", "__annotations__", "__annotate__"}
    | {"__annotate_func__", "__annotations_cache__", "__type_params__", "__parameters__", "__orig_bases__"}
    | {"__dataclass_fields__", "__dataclass_params__"}
)
LEFT_OUT = "unpickled "  # begins the name of an attribute that its class leaves out of pickles
# What these hold is a part of the function itself.
TRANSPARENT = frozenset({"function", "instance", "class"})
# scipy's ufuncs do not say where they are from.
UFUNC_MODULES = ("numpy", "scipy.special")
# Distributions are found at once by their own name, and others by a search that takes 50 ms.
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn", "PIL": "pillow"}
NO_HOME = "builtins"  # what dataclasses of `exec` without a `__name__` take theirs to be
MADE_BY_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
HAS_CONSTANT = frozenset(dis.hasconst)
NO_STEP = frozenset({dis.EXTENDED_ARG, dis.opmap["NOP"]})  # 3.11 leaves a NOP where a module's docstring was
FLAGS = (
    inspect.CO_OPTIMIZED
    | inspect.CO_NEWLOCALS
    | inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


@dataclass
class Growth:
    """What a function holds or names that may grow while it runs: lists, dictionaries and files.

    Parameters
    ----------
    sizes : dict of str to int
        The way to each, e.g. ``"closure log"``, ``"function > closure log"`` or ``"file k0.log"``, and its
        length, or its size in bytes, when the function was read; -1 for a file that was not there.
    looks : dict of str to callable
        Gives the size that it has now.
    grown : dict of str to int
        What was seen to grow, and the size that it had at first.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    looks: dict[str, Callable[[], int]] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)

    def look(self) -> dict[str, int]:
        """Return what has grown and was not returned before, with the size that it had.

        Examples
        --------
        >>> def appending(log):
        ...     return lambda tile: log.append(tile)
        >>> log = []
        >>> growth = identify_function(appending(log)).growth
        >>> log.append(1)
        >>> growth.look(), growth.look()
        ({'closure log': 0}, {})
        """
        grown = {name: size for name, size in self.sizes.items() if self.looks[name]() > size}
        for name in grown:
            del self.sizes[name]
        self.grown = grown | self.grown
        return grown


@dataclass(frozen=True)
class FunctionIdentity:
    """What `identify_function` found; equal to another one if the parts are equal.

    Parameters
    ----------
    parts : dict of str to str
        The name of each part, e.g. ``"code"``, ``"default radius"``, ``"closure threshold"``,
        ``"global helper"``, ``"file weights.npz"``, ``"version of scipy"``; and its value, or a
        digest of 16 hexadecimal digits. Ready for JSON.
    unreadable : tuple of str
        The parts whose state could not be read, with their type: ``"closure net (torch.nn.Linear)"``.
        Empty: the function is known completely.
    frame : str
        A digest of all that the function does not change itself: of its code and of the values that it is made
        of, but not of the contents of files, of lists, dictionaries, sets and arrays, or of variables and
        attributes that the code assigns, and not of code and versions that are met only in the latter. Empty
        where `fn_version` stands for it.
    growth : Growth
        What may grow while the function runs.

    Examples
    --------
    >>> FunctionIdentity({"name": "f"}) == FunctionIdentity({"name": "f"}, ("closure net (Net)",))
    True
    """

    parts: dict[str, str]
    unreadable: tuple[str, ...] = field(default=(), compare=False)
    frame: str = field(default="", compare=False)
    growth: Growth = field(default_factory=Growth, compare=False)


def identify_function(
    fn: Any, fn_version: str | None = None, *, before: Mapping[str, int] = MappingProxyType({})
) -> FunctionIdentity:
    """Return what a function is, so that a later run can tell whether it was given the same one.

    Parameters
    ----------
    fn : callable
        A function of Python or of an installed package, a partial, a bound method, an object that can be called.
    fn_version : str, optional
        Stands for `fn` in place of all that can be read of it. ``None``: `fn` is read.
    before : dict of str to int
        What has grown, and the size that it had, as `Growth` names it: `fn` is read as if it still had it.

    Returns
    -------
    FunctionIdentity
        The same in another process, with another hash seed, and for a `fn` that was pickled on the way.

    Notes
    -----
    It never raises, and never calls `fn`. It reads

    * code: instructions, constants, names, nested functions; not comments, docstrings, file or line numbers;
    * defaults, closures, attributes, and the globals that the code refers to, by value; the order of a
      dictionary counts, that of a set does not;
    * functions and classes of the user's own by their code, and so on from there. A module of the user's own
      counts with its source, with the modules that it imports, and with what the code takes from it;
    * what an installed distribution holds by name and version; what Python itself holds by name;
    * other objects by their class and by what they would be pickled as, and those of the user's own also by
      what a pickle leaves out, by class where that cannot be read, unless their methods assign it;
      locks and loggers have no state;
    * files that are named by a text or a path, by content. Folders are not read.

    What changes while `fn` runs, a list that it appends to or a file that it writes, changes its identity,
    unless it has only grown and `before` says from where.

    It takes about 0.2 ms for a function with a few helpers, and once 1 to 50 ms per distribution for its version.
    Arrays and files are hashed once with sha256 (about 1 GB/s), in blocks. A module of the user's own costs
    about 20 µs per line. What is left after 100,000 objects is unreadable.

    Examples
    --------
    >>> def above(threshold):
    ...     return lambda tile: (tile > threshold).astype("int32")
    >>> old, new = identify_function(above(3)), identify_function(above(4))
    >>> differing_parts(old.parts, new.parts)
    ['closure threshold']
    >>> old.parts["closure threshold"], new.unreadable
    ('3', ())
    >>> identify_function(above(3), fn_version="2").parts
    {'name': 'above.<locals>.<lambda>', 'fn_version': '2'}
    """
    if fn_version is not None:
        return FunctionIdentity({"name": _name(fn), "fn_version": fn_version})
    graph = _Graph(fn, before)
    parts = {"name": _name(fn)}
    for name, text in graph.parts():
        parts[name] = f"{parts[name]}, {text}" if name in parts else text
    parts |= {f"file {text}": digest for text, digest in sorted(graph.files.digests.items())}
    parts |= graph.versions(range(len(graph.values)))
    return FunctionIdentity(parts, graph.unreadable(), graph.frame(), graph.files.growth)


def differing_parts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the parts that differ between two identities, or that only one of them has.

    Examples
    --------
    >>> differing_parts({"name": "f", "code": "1a"}, {"name": "f", "code": "2b", "global np": "numpy"})
    ['code', 'global np']
    """
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _name(fn: Any) -> str:
    while type(fn) is functools.partial:
        fn = fn.func
    try:
        name = fn.__qualname__
    except Exception:
        name = None
    return name if type(name) is str else _type_name(fn).rpartition(".")[2]


def _type_name(value: Any) -> str:
    module, name = (type.__getattribute__(type(value), key) for key in ("__module__", "__qualname__"))
    return str(name) if module == "builtins" else f"{module}.{name}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else _digest(text)


class _Content(NamedTuple):
    """What a value is: a text of its own, and the named values it is made of, whose order may not count."""

    label: str
    edges: Sequence[tuple[str, Any]] = ()
    ordered: bool = True


class _Described(NamedTuple):
    """What a value is, with the number or the text of each value that it is made of in its place."""

    label: str
    links: Sequence[tuple[str, int | str]]
    ordered: bool


class _Import(NamedTuple):
    """A module that code imports when it runs, and that may not be loaded yet."""

    name: str


class _Files:
    """The files that a function names, and what of it may grow."""

    def __init__(self, before: Mapping[str, int]) -> None:
        self.before = before
        self.growth = Growth()
        self.room = dict(MAX_WATCHED)
        self.digests: dict[str, str] = {}

    def add(self, text: str) -> bool:
        """Note the content of a file, if the text is the path of one; false if it cannot be read."""
        name = f"file {text}"
        if name not in self.growth.looks and text not in self.digests and 0 < len(text) <= MAX_PATH:
            size = _file_size(text)
            if size != ABSENT or PATH_LIKE.search(text):
                self._watch("file", name, size, functools.partial(_file_size, text))
            size = min(size, self.before.get(name, size))
            if size != ABSENT:
                try:
                    self.digests[text] = _digest_file(text, size)
                except OSError:
                    self.digests[text] = "unreadable"
        return self.digests.get(text) != "unreadable"

    def as_before(self, name: str, value: Any) -> Any:
        """Return a container, or a copy of it that is as long as it was."""
        is_watched = self._watch("container", name, len(value), functools.partial(len, value))
        size = self.before.get(name) if is_watched else None
        if size is None or size >= len(value):
            return value
        cut = copy.copy(value)
        while len(cut) > size:
            cut.popitem() if isinstance(cut, dict) else cut.pop()
        return cut

    def _watch(self, kind: str, name: str, size: int, look: Callable[[], int]) -> bool:
        """Watch one more thing, unless its name is taken, or there are many of its kind already."""
        if name in self.growth.looks or not self.room[kind]:
            return False
        self.room[kind] -= 1
        self.growth.sizes[name], self.growth.looks[name] = size, look
        return True


class _Notes:
    """What is met in one value: versions of what is installed, and what cannot be read."""

    def __init__(self, files: _Files) -> None:
        self.files = files
        self.versions: dict[str, str] = {}
        self.unreadable: list[str] = []

    def add_python(self) -> None:
        self.versions["python"] = f"{sys.version_info.major}.{sys.version_info.minor}"

    def add_owner(self, module: str) -> bool:
        """Note the version of what a module is part of; false if it is the user's own."""
        owner, version = _owner(module)
        if owner == "python":
            self.add_python()
        elif owner:
            self.versions[f"version of {owner}"] = version
        return owner != ""

    def add_file(self, text: str) -> None:
        """Note the content of a file, if the text is the path of one."""
        if not self.files.add(text):
            self.unreadable.append(f"file {text}")


def _file_size(path: str) -> int:
    """Return the size of a regular file in bytes; what is none has no size."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ABSENT
    return status.st_size if stat.S_ISREG(status.st_mode) else ABSENT


def _digest_file(path: str, size: int | None = None) -> str:
    """Digest a file, or as many bytes of it."""
    digest = hashlib.sha256()
    left = sys.maxsize if size is None else size
    with open(path, "rb") as file:
        while block := file.read(min(left, BLOCK_BYTES)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()[:16]


class _Graph:
    """All values that a function consists of, numbered as they are met, and a digest for each.

    A digest depends on what can be reached from a value, not on the way to it or on what is shared.
    """

    def __init__(self, fn: Any, before: Mapping[str, int]) -> None:
        self.files = _Files(before)
        self.notes: list[_Notes] = []
        self.values: list[Any] = [fn]  # kept alive, or their ids would be given to others
        self.ways: list[tuple[int, str]] = [(-1, "")]  # from which value each was met, and its name there
        self.nodes = {id(fn): 0}
        self.described: list[_Described] = []
        for node, value in enumerate(self.values):  # grows meanwhile
            self.notes.append(_Notes(self.files))
            label, edges, ordered = self._read(value, node)
            links = [(name, self._link(child, node, name)) for name, child in edges]
            self.described.append(_Described(label, links, ordered))
        self.digests = _digest_all(self.described)

    def parts(self) -> Iterator[tuple[str, str]]:
        """Name the parts of the function, and of what it is made of itself."""
        own = [0]
        for node in own:  # grows meanwhile
            yield "kind", _shorten(self.described[node].label)
            for name, link in self.described[node].links:
                if name not in TRANSPARENT or isinstance(link, str):
                    yield name, self._show(link)
                elif link not in own:
                    own.append(link)

    def _show(self, link: int | str) -> str:
        if isinstance(link, str):
            return _shorten(link)
        return self.digests[link] if self.described[link].links else _shorten(self.described[link].label)

    def _read(self, value: Any, node: int) -> _Content:
        try:
            if type(value) in GROWING and self.files.room["container"]:
                way = self._way(node)
                if "item" not in way:  # items of a set, which no process has in the same order
                    value = self.files.as_before(" > ".join(way) or "fn", value)
            return _read(value, self.notes[node])
        except (Exception, SystemExit):
            self.notes[node].unreadable.append(f"{self._path(node)} ({_type_name(value)})")
            return _Content(f"unreadable {_type_name(value)}")

    def _way(self, node: int) -> list[str]:
        """Name the steps from the function to a value."""
        names = []
        while node > 0:
            node, name = self.ways[node]
            names.append(name)
        return names[::-1]

    def _path(self, node: int) -> str:
        """Name the way to a value for people, without its middle where it is long."""
        names = [name for name in self._way(node) if name not in TRANSPARENT] or ["fn"]
        return " > ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])

    def _link(self, child: Any, node: int, name: str) -> int | str:
        """Return the number of a value, or the text of a plain one."""
        if type(child) in PLAIN:
            return _read_plain(child, self.notes[node]).label
        if id(child) not in self.nodes:
            if len(self.values) == MAX_OBJECTS:
                self.notes[node].unreadable.append(f"fn (more than {MAX_OBJECTS} objects)")
                return "not read"
            self.nodes[id(child)] = len(self.values)
            self.values.append(child)
            self.ways.append((node, name))
        return self.nodes[id(child)]

    def versions(self, nodes: Iterable[int]) -> dict[str, str]:
        """Return the versions of what is installed that these values are made of."""
        return dict(sorted(version for node in nodes for version in self.notes[node].versions.items()))

    def unreadable(self) -> tuple[str, ...]:
        """Name what cannot be read, other than below what a class leaves out of its pickles."""
        nodes = self._reach(lambda name: not name.startswith(LEFT_OUT))
        return tuple(dict.fromkeys(text for node in sorted(nodes) for text in self.notes[node].unreadable))

    def frame(self) -> str:
        """Digest all that the function does not change itself."""
        assigned = self._assigned_in(range(len(self.values)))
        # Code that came with what was assigned says nothing of what the function assigns.
        assigned = self._assigned_in(self._reach(lambda name: name not in assigned))
        nodes = self._reach(lambda name: name not in assigned)

        described = [self._framed(node, assigned) for node in range(len(self.values))]
        # Code in a list is code all the same.
        codes = {self.digests[node] for node in nodes if type(self.values[node]) is types.CodeType}
        return _digest(_digest_all(described)[0], sorted(codes), sorted(self.versions(nodes).items()))

    def _framed(self, node: int, assigned: Container[str]) -> _Described:
        """Describe a value without what code can change."""
        if issubclass(type(self.values[node]), CHANGEABLE):
            return _Described(_type_name(self.values[node]), [], True)
        label, links, ordered = self.described[node]
        return _Described(label, [(name, link) for name, link in links if name not in assigned], ordered)

    def _assigned_in(self, nodes: Iterable[int]) -> set[str]:
        """Name the parts that code among these values assigns."""
        values = [self.values[node] for node in nodes]
        cached = {f"attribute {value.attrname}" for value in values if type(value) is functools.cached_property}
        return cached.union(*(_assigned(value) for value in values if type(value) is types.CodeType))

    def _reach(self, follows: Callable[[str], bool]) -> list[int]:
        """List the values that are reached by the names that are followed."""
        walk, found = [0], {0}
        for node in walk:  # grows meanwhile
            for name, link in self.described[node].links:
                if isinstance(link, int) and link not in found and follows(name):
                    found.add(link)
                    walk.append(link)
        return walk


def _digest_all(described: Sequence[_Described]) -> dict[int, str]:
    """Digest the first value, and all that it reaches."""
    targets = [[link for _, link in links if isinstance(link, int)] for _, links, _ in described]
    digests: dict[int, str] = {}
    for members in _components(targets):
        if len(members) == 1 and members[0] not in targets[members[0]]:
            digests[members[0]] = _digest_node(described[members[0]], digests)
        else:
            digests |= _digest_cycle({node: described[node] for node in members}, digests)
    return digests


def _digest_cycle(members: Mapping[int, _Described], digests: dict[int, str]) -> dict[int, str]:
    """Digest values that reach each other: again and again, until no round tells more of them apart."""
    found, n_found = dict.fromkeys(members, ""), 0
    for _ in range(MAX_ROUNDS):
        if len(set(found.values())) == n_found:
            break
        n_found, known = len(set(found.values())), ChainMap(found, digests)
        found = {node: _digest_node(members[node], known) for node in members}
    everything = sorted(set(found.values()))
    return {node: _digest(found[node], everything) for node in members}


def _digest_node(described: _Described, digests: Mapping[int, str]) -> str:
    label, links, ordered = described
    inner = [(name, link if isinstance(link, str) else digests[link]) for name, link in links]
    return _digest(label, inner if ordered else sorted(inner))


def _components(targets: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield groups of nodes that reach each other, each group after those that it reaches (Gabow's algorithm)."""
    numbers = {0: 0}
    done: set[int] = set()
    walk, unassigned, starts = [(0, iter(targets[0]))], [0], [0]
    while walk:
        node, rest = walk[-1]
        for target in rest:
            if target not in numbers:
                numbers[target] = len(numbers)
                walk.append((target, iter(targets[target])))
                unassigned.append(target)
                starts.append(target)
                break
            while target not in done and numbers[starts[-1]] > numbers[target]:
                starts.pop()
        else:
            walk.pop()
            if starts[-1] == node:
                starts.pop()
                members = [unassigned.pop()]
                while members[-1] != node:
                    members.append(unassigned.pop())
                done.update(members)
                yield members


def _read(value: Any, notes: _Notes) -> _Content:
    """Read one value, by its very type or else by the first kind that its class belongs to."""
    kind = type(value)
    reader = READERS.get(kind) or next(read for kinds, read in KINDS if issubclass(kind, kinds))
    return reader(value, notes)


def _read_plain(value: Any, notes: _Notes) -> _Content:
    if isinstance(value, str):
        notes.add_file(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return _Content(hex(value))  # Python refuses to write very long ones in decimal
    return _Content(repr(value))


def _read_sequence(value: Sequence[Any], notes: _Notes) -> _Content:
    return _Content(type(value).__name__, [(f"item {i}", item) for i, item in enumerate(value)])


def _read_set(value: Any, notes: _Notes) -> _Content:
    return _Content(type(value).__name__, [("item", item) for item in value], ordered=False)


def _read_mapping(value: Mapping[Any, Any], notes: _Notes) -> _Content:
    """Read a dictionary: its order counts, since code may go through it."""
    if all(type(key) is str for key in value):
        return _Content("dict", [(f"item {key!r}", value[key]) for key in value])
    return _Content("dict", [(f"item {i}", pair) for i, pair in enumerate(value.items())])


def _read_array(value: np.ndarray, notes: _Notes) -> _Content:
    label = f"array {value.dtype} {value.shape}"
    if value.dtype.names:
        return _Content(label, [(f"field {name}", value[name]) for name in value.dtype.names])
    if value.dtype.kind in "OT":  # their memory holds addresses
        return _Content(label, [("items", value.tolist())])
    content = hashlib.sha256()
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    for block in np.nditer(value, flags, order="C", buffersize=2**16):
        content.update(np.asarray(block).tobytes())
    return _Content(f"{label} {content.hexdigest()[:16]}")


def _read_masked_array(value: np.ma.MaskedArray, notes: _Notes) -> _Content:
    # An array that is asked for a value that it lacks sets it, which `np.ma.masked` refuses.
    own = value if vars(value).get("_fill_value") is not None else value.view(np.ma.MaskedArray)
    mask, fill = np.ma.getmaskarray(value), own.fill_value
    edges = [("class", type(value)), ("data", value.data.view(np.ndarray)), ("mask", mask), ("fill_value", fill)]
    return _Content("masked array", [*edges, *_attributes(vars(value), MASK_STATE)])


def _read_array_subclass(value: np.ndarray, notes: _Notes) -> _Content:
    """Read an array of a class of its own, whose pickle would be without its attributes."""
    edges = [("class", type(value)), ("data", value.view(np.ndarray))]
    return _Content("array", [*edges, *_attributes(_instance_state(value))])


def _read_scalar(value: np.generic, notes: _Notes) -> _Content:
    if isinstance(value, str):
        notes.add_file(str(value))
    if value.dtype.kind == "V":  # it may hold objects, whose text is an address
        return _Content("record", [("data", np.array(value))])
    return _Content(f"{value.dtype} {value.item()!r}")


def _read_dtype(value: np.dtype, notes: _Notes) -> _Content:
    return _Content(repr(value))


def _read_ufunc(value: np.ufunc, notes: _Notes) -> _Content:
    for module in UFUNC_MODULES:
        if getattr(sys.modules.get(module), value.__name__, None) is value:
            notes.add_owner(module)
            return _Content(f"{module}.{value.__name__}")
    raise TypeError("the function inside a ufunc cannot be reached")


def _read_vectorized(value: np.vectorize, notes: _Notes) -> _Content:
    names = ("otypes", "signature", "excluded", "cache")
    return _Content("vectorize", [("function", value.pyfunc), *((n, getattr(value, n)) for n in names)])


def _read_path(value: PurePath, notes: _Notes) -> _Content:
    notes.add_file(os.fspath(value))
    return _Content(f"path {os.fspath(value)!r}")


def _read_stateless(value: Any, notes: _Notes) -> _Content:
    return _Content("no state")


def _read_cell(value: types.CellType, notes: _Notes) -> _Content:
    """Read a closure's empty cell; a full one is passed over for what is in it."""
    return _Content("empty cell")


def _read_enum(value: enum.Enum, notes: _Notes) -> _Content:
    edges = [("type", type(value)), ("value", value._value_)]
    state = {name: part for name, part in vars(value).items() if not name.startswith("_")}
    return _Content(f"member {value._name_}", [*edges, *_attributes(state)])


def _read_partial(value: functools.partial[Any], notes: _Notes) -> _Content:
    edges = [(f"argument {i}", argument) for i, argument in enumerate(value.args)]
    edges += [(f"keyword {name}", value.keywords[name]) for name in value.keywords]
    if len(value.keywords) > 1 and _takes_any_keyword(value.func):
        edges.append(("order of keywords", tuple(value.keywords)))
    return _Content("partial", [*edges, *_attributes(vars(value)), ("function", value.func)])


def _takes_any_keyword(function: Any) -> bool:
    """Return whether a function may see the order of the keywords that it is given."""
    code = getattr(function, "__code__", None)
    return code is None or bool(code.co_flags & inspect.CO_VARKEYWORDS)


def _read_method(value: types.MethodType, notes: _Notes) -> _Content:
    reference = _refer(value, notes)
    edges = [("function", value.__func__), ("instance", value.__self__)]
    return _Content(reference) if reference else _Content("method", edges)


def _read_wrapper(value: Any, notes: _Notes) -> _Content:
    """Read a static method, a class method, or a function with a cache."""
    if reference := _refer(value, notes):
        return _Content(reference)
    state = _attributes(vars(value), {"__wrapped__"})
    return _Content(type(value).__name__, [("function", value.__wrapped__), *state])


def _read_property(value: property, notes: _Notes) -> _Content:
    return _Content("property", [("get", value.fget), ("set", value.fset), ("delete", value.fdel)])


def _read_function(value: types.FunctionType, notes: _Notes) -> _Content:
    if reference := _refer(value, notes):
        return _Content(reference)
    edges = [*_defaults(value), *_closure(value), *_attributes(vars(value))]
    home = value.__globals__.get("__name__")
    if isinstance(home, str) and home != NO_HOME and notes.add_owner(home):
        return _Content(f"{home}.{value.__code__.co_qualname}", edges)
    return _Content("function", [("code", value.__code__), *edges, *_globals(value)])


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    named = dict(zip(names, defaults, strict=True)) | (function.__kwdefaults__ or {})
    yield from ((f"default {name}", default) for name, default in named.items())


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"closure {name}", cell.cell_contents
        except ValueError:
            yield f"closure {name}", cell


def _attributes(state: Mapping[str, Any], without: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    names = sorted(name for name in state if name not in DESCRIPTIONS and name not in without)
    yield from ((f"attribute {name}", state[name]) for name in names)


def _globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Name the globals and modules that code and nested code refer to."""
    space, references = function.__globals__, _refer_from(function.__code__)
    seen: set[int] = set()
    for name in sorted(references.globals - DESCRIPTIONS):
        if name in space and space[name] is not vars(builtins).get(name):
            yield from _taken(f"global {name}", space[name], references.names, seen)
    package = space.get("__package__") or str(space.get("__name__")).rpartition(".")[0]
    yield from _imports(references, package)


def _taken(path: str, value: Any, names: set[str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Name a global, and of a module of the user's own also what the code takes from it."""
    yield path, value
    if type(value) is not types.ModuleType or _owner(value.__name__)[0] or id(value) in seen:
        return
    seen.add(id(value))
    for name in sorted((names & vars(value).keys()) - DESCRIPTIONS):
        yield from _taken(f"{path}.{name}", vars(value)[name], names, seen)


def _read_class(value: type, notes: _Notes) -> _Content:
    if reference := _refer(value, notes):
        return _Content(reference)
    if not value.__flags__ & MADE_BY_PYTHON:
        return _read_named(value, value.__qualname__, notes)
    bases = [(f"base {base.__qualname__}", base) for base in value.__bases__ if base is not object]
    metaclass = [("metaclass", type(value))] if type(value) is not type else []
    return _Content(f"class {value.__qualname__}", [*bases, *metaclass, *_members(value)])


def _members(value: type) -> Iterator[tuple[str, Any]]:
    members = {name: member for name, member in vars(value).items() if name not in DESCRIPTIONS}
    if issubclass(value, enum.Enum):
        values = {name: member._value_ for name, member in value._member_map_.items()}
        members = {name: member for name, member in members.items() if not ENUM_NAME.fullmatch(name)} | values
        yield "order of members", tuple(values)
    for name in sorted(members):
        if not isinstance(members[name], types.MemberDescriptorType | types.GetSetDescriptorType):
            yield f"{'method' if isinstance(members[name], METHODS) else 'class attribute'} {name}", members[name]


def _read_object(value: Any, notes: _Notes) -> _Content:
    """Read an object by its name, if it is an installed one, or by what it would be pickled as."""
    if _is_lock(type(value)):
        return _Content("no state")
    if reference := _refer(value, notes):
        return _Content(reference)
    own = not _owner(type(value).__module__)[0]
    if _is_opaque(type(value)) or (not own and hasattr(type(value), "__next__")):
        raise TypeError("its state cannot be compared")
    by_numba = type(value).__module__.startswith("numba.")
    function = getattr(getattr(value, "_dispatcher", value), "py_func", None) if by_numba else None
    if function is not None:
        options = tuple((getattr(value, "targetoptions", None) or {}).items())
        return _Content("compiled", [("function", function), ("options", options)])
    return _read_reduced(value, notes)


def _is_opaque(kind: type) -> bool:
    opaque = (base for base in kind.__mro__ if base.__name__ in OPAQUE_CLASSES)
    return any(base.__module__.partition(".")[0] in OPAQUE_PACKAGES for base in opaque)


def _is_lock(kind: type) -> bool:
    has_both = hasattr(kind, "acquire") and hasattr(kind, "release")
    return kind.__module__ == "multiprocessing.synchronize" or (has_both and _owner(kind.__module__)[0] != "")


def _read_reduced(value: Any, notes: _Notes) -> _Content:
    reducer = copyreg.dispatch_table.get(type(value))
    reduced = reducer(value) if reducer else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return _read_named(value, reduced, notes)
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    edges: list[tuple[str, Any]] = [("class", type(value))]
    if make in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
        arguments = arguments[1:]
    else:
        edges.append(("constructor", make))
    if isinstance(value, set | frozenset):
        arguments = (frozenset(value),)  # or they would be in the order of their hashes
    edges += [(f"argument {i}", argument) for i, argument in enumerate(arguments)]
    edges += _state(state, {} if _owner(type(value).__module__)[0] else _instance_state(value), type(value))
    edges += [("items", list(items))] if items is not None else []
    edges += [("items", dict(pairs))] if pairs is not None else []
    return _Content("object", edges)


def _state(state: Any, instance: Mapping[str, Any], kind: type) -> Iterator[tuple[str, Any]]:
    """Name the attributes in the state of an object, those in slots as well, and others that threads use.

    What the class leaves out of its state counts, as far as it can be read, except what its methods assign
    while they run: a network that the first call loads, e.g.
    """
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    is_plain = all(part is None or type(part) is dict for part in parts)
    stated = {name: part[name] for part in parts if part for name in part} if is_plain else {}
    left_out = {n: value for n, value in instance.items() if n not in stated or stated[n] is not value}
    yield from _attributes(stated)
    if left_out:
        assigned = _assigned_by_methods(kind)
        yield from ((LEFT_OUT + name, value) for name, value in _attributes(left_out) if name not in assigned)
    if not is_plain:
        yield "state", state


def _instance_state(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots as well."""
    slots = [
        name
        for kind in type(value).__mro__
        for name, member in vars(kind).items()
        if isinstance(member, types.MemberDescriptorType) and name not in DESCRIPTIONS
    ]
    state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return state | dict(getattr(value, "__dict__", {}))


def _assigned_by_methods(kind: type) -> set[str]:
    """Name the attributes that methods of a class assign after it was made."""
    found: set[str] = set()
    for name, member in ((name, member) for base in kind.__mro__ for name, member in vars(base).items()):
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member
        code = getattr(inspect.unwrap(function), "__code__", None)
        if isinstance(member, functools.cached_property):
            found.add(f"attribute {name}")
        if isinstance(code, types.CodeType) and name not in MAKERS:
            found.update(*map(_assigned, _nested(code)))
    return found


def _read_named(value: Any, name: str, notes: _Notes) -> _Content:
    """Read what is pickled as a name in its module."""
    module = value.__module__
    if notes.add_owner(module):
        return _Content(f"{module}.{name}")
    if _find_spec(module) is None:
        raise TypeError("its module has no source")
    return _Content(f"{module}.{name}", [("module", _Import(module))])


def _refer(value: Any, notes: _Notes) -> str | None:
    """Return the name under which an installed distribution or Python itself has a value."""
    module, name = _claimed_place(value)
    # A decorator may have given a user's function the name of the installed one that it wraps.
    homes = [module, value.__globals__.get("__name__")] if type(value) is types.FunctionType else [module]
    if not isinstance(name, str) or not all(isinstance(home, str) and _owner(home)[0] for home in homes):
        return None
    found = sys.modules.get(module)
    for step in name.split("."):
        found = getattr(found, step, None)
    if found is not value:
        return None
    notes.add_owner(module)
    return f"{module}.{name}"


def _claimed_place(value: Any) -> tuple[Any, Any]:
    """Return the module and the name in it that a value claims; ``random.random`` is a hidden object's method."""
    holder = getattr(value, "__self__", None)
    if holder is None or isinstance(holder, type | types.ModuleType):
        return getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return type(holder).__module__, getattr(value, "__name__", None)


def _read_code(code: types.CodeType, notes: _Notes) -> _Content:
    """Read code; constants are numbered by their first use, so that a docstring is not among them."""
    notes.add_python()
    ranks: dict[int, int] = {}
    steps = [
        (op, ranks.setdefault(arg, len(ranks)) if op in HAS_CONSTANT else arg) for op, arg in _instructions(code)
    ]
    names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & FLAGS)
    label = _digest(steps, names, counts, code.co_exceptiontable)
    return _Content(label, [("constant", code.co_consts[index]) for index in ranks])


def _instructions(code: types.CodeType) -> list[tuple[int, int]]:
    """List operations and their arguments, less what describes a class (`dis` takes ten times as long)."""
    found: list[tuple[int, int]] = []
    extended = 0
    for op, low in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        arg = extended | low
        extended = arg << 8 if op == dis.EXTENDED_ARG else 0
        if dis.opname[op] == "STORE_NAME" and code.co_names[arg] in DESCRIPTIONS and found[-1][0] in HAS_CONSTANT:
            found.pop()
        elif op not in NO_STEP:
            found.append((op, arg))
    return found


class _References(NamedTuple):
    """Globals that code and nested code load, all names in it, and its imports (level, module, items)."""

    globals: set[str]
    names: set[str]
    imports: set[tuple[Any, ...]]


def _refer_from(code: types.CodeType) -> _References:
    found = _References(set(), set(), set())
    for inner in _nested(code):
        found.names.update(inner.co_names)
        steps = _instructions(inner)
        for i, (op, arg) in enumerate(steps):
            match dis.opname[op]:
                case "LOAD_GLOBAL":
                    found.globals.add(inner.co_names[arg >> 1])
                case "LOAD_NAME" | "LOAD_FROM_DICT_OR_GLOBALS":
                    found.globals.add(inner.co_names[arg])
                case "IMPORT_NAME":
                    level, items = (inner.co_consts[a] if o in HAS_CONSTANT else a for o, a in steps[i - 2 : i])
                    found.imports.add((level, inner.co_names[arg], items))
    return found


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield code and the code in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _assigned(code: types.CodeType) -> set[str]:
    """Name the parts of a function that its code assigns, other than where an object is made."""
    found = set()
    for op, arg in _instructions(code) if code.co_name not in MAKERS else ():
        match dis.opname[op]:
            case "STORE_ATTR":
                found |= {f"{prefix}attribute {code.co_names[arg]}" for prefix in ("", "class ", LEFT_OUT)}
            case "STORE_GLOBAL":
                found.add(f"global {code.co_names[arg]}")
            case "STORE_DEREF":
                # Numbered after all variables of the function's own.
                n_own = len({*code.co_varnames, *code.co_cellvars})
                found |= {f"closure {name}" for name in code.co_freevars[arg - n_own :][:1] if arg >= n_own}
    return found


def _imports(references: _References, package: str) -> Iterator[tuple[str, Any]]:
    """Name the modules that code imports, loaded already or not."""
    found = set()
    for level, name, items in references.imports:
        base = _absolute(level, name, package)
        inside = [f"{base}.{item}" for item in items or () if not _owner(base)[0]]
        found.update([base, *(module for module in inside if _find_spec(module))])
    yield from ((f"import {module}", _Import(module)) for module in sorted(found))


def _absolute(level: int, name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, package)
    except ImportError:
        return "." * level + name


def _read_module(value: Any, notes: _Notes) -> _Content:
    name = value.name if isinstance(value, _Import) else value.__name__
    if notes.add_owner(name):
        return _Content(name)
    spec = _find_spec(name)
    if spec is None or not spec.has_location or not spec.origin:
        return _Content(f"module {name}")
    code = _compile(spec.origin)
    if code is None:
        return _Content(f"module {name} {_digest_file(spec.origin)}")
    return _Content(f"module {name}", [("code", code), *_imports(_refer_from(code), spec.parent or "")])


def _compile(path: str) -> types.CodeType | None:
    """Compile a module's source without its docstrings; ``None`` if it is no source."""
    with muted(Warning):  # which would depend on the warnings that are errors here
        try:
            code: types.CodeType = compile(Path(path).read_bytes(), "", "exec", dont_inherit=True, optimize=2)
        except (SyntaxError, ValueError):
            return None
    return code


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find where a module is, without importing anything."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, importlib.machinery.ModuleSpec):
        return loaded
    parent = name.rpartition(".")[0]
    try:
        if not parent:
            return importlib.util.find_spec(name)
        above = _find_spec(parent)
        folders = above.submodule_search_locations if above else None
        return importlib.machinery.PathFinder.find_spec(name, folders) if folders else None
    except KeyError:  # a namespace package in one that is not imported either
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        inner = (Path(folder, name.rpartition(".")[2]) for folder in folders or ())
        spec.submodule_search_locations = [str(folder) for folder in inner if folder.is_dir()]
        return spec
    except (ImportError, ValueError, AttributeError):
        return None


@functools.cache
def _owner(module: str) -> tuple[str, str]:
    """Return what a module is part of: ``"python"``, an installed package and its version, or nothing ("")."""
    top = module.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return top, str(vars(sys.modules[top])["__version__"])
    spec = _find_spec(module) if top != "__main__" else None
    place = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    if place in ("built-in", "frozen"):
        return "python", ""
    if not place:
        return "", ""
    if _is_installed(Path(place), module):
        version = _version(top)
        return (top, version) if version else ("", "")
    return ("python" if Path(place).is_relative_to(sysconfig.get_path("stdlib")) else "", "")


def _is_installed(place: Path, module: str) -> bool:
    """Return whether pip installed a file; an editable install points to the user's own files."""
    if {"site-packages", "dist-packages"} & set(place.parts):
        return True
    depth = module.count(".") + (place.stem == "__init__")
    return any(place.parents[min(depth, len(place.parents) - 1)].glob("*.dist-info"))


def _version(package: str) -> str:
    """Return the version of the distribution that holds a package; empty if there is none."""
    try:
        return str(importlib.metadata.version(DISTRIBUTIONS.get(package, package)))
    except importlib.metadata.PackageNotFoundError:
        found = {d.version for d in importlib.metadata.distributions() if _holds(d, package)}
    return ", ".join(sorted(found)) or str(getattr(sys.modules.get(package), "__version__", ""))


def _holds(distribution: importlib.metadata.Distribution, package: str) -> bool:
    files = "\n" + (distribution.read_text("RECORD") or "")
    names = (distribution.read_text("top_level.txt") or "").split()
    return package in names or f"\n{package}/" in files or f"\n{package}." in files


ENUM_NAME = re.compile("_[^_].*_")
# Methods that make an object, and do not change it later.
MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__setstate__"})
# What a masked array is read by, and what is the same for its purpose.
MASK_STATE = frozenset({"_mask", "_data", "_fill_value", "_sharedmask", "_isfield", "_baseclass", "_basedict"})
METHODS = (types.FunctionType, staticmethod, classmethod, property)
# What may grow, and be cut to the length that it had.
GROWING = frozenset({list, dict, collections.OrderedDict, collections.defaultdict, collections.deque})
# What code may change without being another.
CHANGEABLE = (list, dict, set, bytearray, collections.deque, np.ndarray)
Reader = Callable[[Any, _Notes], _Content]
READERS: dict[type, Reader] = {
    **dict.fromkeys(PLAIN, _read_plain),
    **dict.fromkeys((list, tuple), _read_sequence),
    **dict.fromkeys((set, frozenset), _read_set),
    **dict.fromkeys((dict, types.MappingProxyType), _read_mapping),
    **dict.fromkeys((np.ndarray, np.memmap), _read_array),
    **dict.fromkeys((staticmethod, classmethod, functools._lru_cache_wrapper), _read_wrapper),
    **dict.fromkeys((types.ModuleType, _Import), _read_module),
    np.vectorize: _read_vectorized,
    property: _read_property,
    functools.partial: _read_partial,
    types.CellType: _read_cell,
    types.MethodType: _read_method,
    types.FunctionType: _read_function,
    types.CodeType: _read_code,
}
KINDS: tuple[tuple[type | tuple[type, ...], Reader], ...] = (
    (type, _read_class),
    (enum.Enum, _read_enum),
    (types.ModuleType, _read_module),
    (np.ma.MaskedArray, _read_masked_array),
    (np.ndarray, _read_array_subclass),
    (np.generic, _read_scalar),
    (np.dtype, _read_dtype),
    (np.ufunc, _read_ufunc),
    (PurePath, _read_path),
    (STATELESS, _read_stateless),
    (object, _read_object),
)
