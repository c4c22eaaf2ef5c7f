"""What one value is: a text of its own, and the values that it is made of."""

from __future__ import annotations

import builtins
import copyreg
import enum
import functools
import hashlib
import inspect
import logging
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from blockbuster.compat import jit_compiled_function
from blockbuster.identity.code import (
    DESCRIPTIONS,
    HAS_CONSTANT,
    LEFT_OUT,
    MAKERS,
    Import,
    assigned_by,
    compile_source,
    imported_modules,
    instructions,
    nested_code,
    references_of,
)
from blockbuster.identity.growth import WatchedFiles, digest_file
from blockbuster.identity.packages import find_spec, owner_of

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})
STATELESS = (threading.Event, threading.Condition, threading.local, logging.Logger, logging.LoggerAdapter)
# Their pickles hold addresses or times, or copy a model from a device.
OPAQUE_PACKAGES = frozenset({"torch", "keras", "tf_keras", "tensorflow"})
OPAQUE_CLASSES = frozenset({"Module", "Tensor", "TypedStorage", "UntypedStorage", "Generator", "Model", "Layer"})
# scipy's ufuncs do not say where they are from.
UFUNC_MODULES = ("numpy", "scipy.special")
NO_HOME = "builtins"  # what dataclasses of `exec` without a `__name__` take theirs to be
MADE_BY_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
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
ENUM_NAME = re.compile("_[^_].*_")
# What a masked array is read by, and what is the same for its purpose.
MASK_STATE = frozenset({"_mask", "_data", "_fill_value", "_sharedmask", "_isfield", "_baseclass", "_basedict"})
METHODS = (types.FunctionType, staticmethod, classmethod, property)


def type_name(value: Any) -> str:
    """Name the class of a value, with its module where that is not Python's own."""
    module, name = (type.__getattribute__(type(value), key) for key in ("__module__", "__qualname__"))
    return str(name) if module == "builtins" else f"{module}.{name}"


def digest_parts(*parts: Any) -> str:
    """Digest what is the same text in every process."""
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


class Content(NamedTuple):
    """What a value is: a text of its own, and the named values it is made of, whose order may not
    count.
    """

    label: str
    edges: Sequence[tuple[str, Any]] = ()
    ordered: bool = True


class Notes:
    """What is met in one value: versions of what is installed, and what cannot be read."""

    def __init__(self, files: WatchedFiles) -> None:
        self.files = files
        self.versions: dict[str, str] = {}
        self.unreadable: list[str] = []

    def add_python(self) -> None:
        self.versions["python"] = f"{sys.version_info.major}.{sys.version_info.minor}"

    def add_owner(self, module: str) -> bool:
        """Note the version of what a module is part of; false if it is the user's own."""
        owner, version = owner_of(module)
        if owner == "python":
            self.add_python()
        elif owner:
            self.versions[f"version of {owner}"] = version
        return owner != ""

    def add_file(self, text: str) -> None:
        """Note the content of a file, if the text is the path of one."""
        if not self.files.add(text):
            self.unreadable.append(f"file {text}")


def read_value(value: Any, notes: Notes) -> Content:
    """Read one value, by its very type or else by the first kind that its class belongs to."""
    kind = type(value)
    reader = READERS.get(kind) or next(read for kinds, read in KINDS if issubclass(kind, kinds))
    reference = _refer(value, notes) if reader in READERS_OF_NAMED else None
    return Content(reference) if reference else reader(value, notes)


def read_plain(value: Any, notes: Notes) -> Content:
    """Read a text, which may be the path of a file, or another plain value."""
    if isinstance(value, str):
        notes.add_file(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return Content(hex(value))  # Python refuses to write very long ones in decimal
    return Content(repr(value))


def _read_sequence(value: Sequence[Any], notes: Notes) -> Content:
    return Content(type(value).__name__, [(f"item {i}", item) for i, item in enumerate(value)])


def _read_set(value: Any, notes: Notes) -> Content:
    return Content(type(value).__name__, [("item", item) for item in value], ordered=False)


def _read_mapping(value: Mapping[Any, Any], notes: Notes) -> Content:
    """Read a dictionary: its order counts, since code may go through it."""
    if all(type(key) is str for key in value):
        return Content("dict", [(f"item {key!r}", value[key]) for key in value])
    return Content("dict", [(f"item {i}", pair) for i, pair in enumerate(value.items())])


def _read_array(value: np.ndarray, notes: Notes) -> Content:
    label = f"array {value.dtype} {value.shape}"
    if value.dtype.names:
        return Content(label, [(f"field {name}", value[name]) for name in value.dtype.names])
    if value.dtype.kind in "OT":  # their memory holds addresses
        return Content(label, [("items", value.tolist())])
    content = hashlib.sha256()
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    for block in np.nditer(value, flags, order="C", buffersize=2**16):
        content.update(np.asarray(block).tobytes())
    return Content(f"{label} {content.hexdigest()[:16]}")


def _read_masked_array(value: np.ma.MaskedArray, notes: Notes) -> Content:
    # An array that is asked for a value that it lacks sets it, which `np.ma.masked` refuses.
    own = value if vars(value).get("_fill_value") is not None else value.view(np.ma.MaskedArray)
    mask, fill = np.ma.getmaskarray(value), own.fill_value
    edges = [("class", type(value)), ("data", value.data.view(np.ndarray)), ("mask", mask), ("fill_value", fill)]
    return Content("masked array", [*edges, *_attributes(vars(value), MASK_STATE)])


def _read_array_subclass(value: np.ndarray, notes: Notes) -> Content:
    """Read an array of a class of its own, whose pickle would be without its attributes."""
    edges = [("class", type(value)), ("data", value.view(np.ndarray))]
    return Content("array", [*edges, *_attributes(_instance_state(value))])


def _read_scalar(value: np.generic, notes: Notes) -> Content:
    if isinstance(value, str):
        notes.add_file(str(value))
    if value.dtype.kind == "V":  # it may hold objects, whose text is an address
        return Content("record", [("data", np.array(value))])
    return Content(f"{value.dtype} {value.item()!r}")


def _read_ufunc(value: np.ufunc, notes: Notes) -> Content:
    for module in UFUNC_MODULES:
        if getattr(sys.modules.get(module), value.__name__, None) is value:
            notes.add_owner(module)
            return Content(f"{module}.{value.__name__}")
    raise TypeError("the function inside a ufunc cannot be reached")


def _read_vectorized(value: np.vectorize, notes: Notes) -> Content:
    names = ("otypes", "signature", "excluded", "cache")
    return Content("vectorize", [("function", value.pyfunc), *((n, getattr(value, n)) for n in names)])


def _read_path(value: PurePath, notes: Notes) -> Content:
    notes.add_file(os.fspath(value))
    return Content(f"path {os.fspath(value)!r}")


def _read_stateless(value: Any, notes: Notes) -> Content:
    return Content("no state")


def _read_cell(value: types.CellType, notes: Notes) -> Content:
    """Read a closure's empty cell; a full one is passed over for what is in it."""
    return Content("empty cell")


def _read_enum(value: enum.Enum, notes: Notes) -> Content:
    edges = [("type", type(value)), ("value", value._value_)]
    state = {name: part for name, part in vars(value).items() if not name.startswith("_")}
    return Content(f"member {value._name_}", [*edges, *_attributes(state)])


def _read_partial(value: functools.partial[Any], notes: Notes) -> Content:
    edges = [(f"argument {i}", argument) for i, argument in enumerate(value.args)]
    edges += [(f"keyword {name}", value.keywords[name]) for name in value.keywords]
    code = getattr(value.func, "__code__", None)
    # A function that takes any keyword may see their order.
    if len(value.keywords) > 1 and (code is None or code.co_flags & inspect.CO_VARKEYWORDS):
        edges.append(("order of keywords", tuple(value.keywords)))
    return Content("partial", [*edges, *_attributes(vars(value)), ("function", value.func)])


def _read_method(value: types.MethodType, notes: Notes) -> Content:
    return Content("method", [("function", value.__func__), ("instance", value.__self__)])


def _read_wrapper(value: Any, notes: Notes) -> Content:
    """Read a static method, a class method, or a function with a cache."""
    state = _attributes(vars(value), {"__wrapped__"})
    return Content(type(value).__name__, [("function", value.__wrapped__), *state])


def _read_property(value: property, notes: Notes) -> Content:
    return Content("property", [("get", value.fget), ("set", value.fset), ("delete", value.fdel)])


def _read_function(value: types.FunctionType, notes: Notes) -> Content:
    edges = [*_defaults(value), *_closure(value), *_attributes(vars(value))]
    home = value.__globals__.get("__name__")
    if isinstance(home, str) and home != NO_HOME and notes.add_owner(home):
        return Content(f"{home}.{value.__code__.co_qualname}", edges)
    return Content("function", [("code", value.__code__), *edges, *_globals(value)])


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
    space, references = function.__globals__, references_of(function.__code__)
    seen: set[int] = set()
    for name in sorted(references.globals - DESCRIPTIONS):
        if name in space and space[name] is not vars(builtins).get(name):
            yield from _taken(f"global {name}", space[name], references.names, seen)
    package = space.get("__package__") or str(space.get("__name__")).rpartition(".")[0]
    yield from imported_modules(references, package)


def _taken(path: str, value: Any, names: set[str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Name a global, and of a module of the user's own also what the code takes from it."""
    yield path, value
    if type(value) is not types.ModuleType or owner_of(value.__name__)[0] or id(value) in seen:
        return
    seen.add(id(value))
    for name in sorted((names & vars(value).keys()) - DESCRIPTIONS):
        yield from _taken(f"{path}.{name}", vars(value)[name], names, seen)


def _read_class(value: type, notes: Notes) -> Content:
    if not value.__flags__ & MADE_BY_PYTHON:
        return _read_named(value, value.__qualname__, notes)
    bases = [(f"base {base.__qualname__}", base) for base in value.__bases__ if base is not object]
    metaclass = [("metaclass", type(value))] if type(value) is not type else []
    return Content(f"class {value.__qualname__}", [*bases, *metaclass, *_members(value)])


def _members(value: type) -> Iterator[tuple[str, Any]]:
    members = {name: member for name, member in vars(value).items() if name not in DESCRIPTIONS}
    if issubclass(value, enum.Enum):
        values = {name: member._value_ for name, member in value._member_map_.items()}
        members = {name: member for name, member in members.items() if not ENUM_NAME.fullmatch(name)} | values
        yield "order of members", tuple(values)
    for name in sorted(members):
        if not isinstance(members[name], types.MemberDescriptorType | types.GetSetDescriptorType):
            yield f"{'method' if isinstance(members[name], METHODS) else 'class attribute'} {name}", members[name]


def _read_object(value: Any, notes: Notes) -> Content:
    """Read an object by what it would be pickled as."""
    if _is_lock(type(value)):
        return Content("no state")
    own = not owner_of(type(value).__module__)[0]
    if _is_opaque(type(value)) or (not own and hasattr(type(value), "__next__")):
        raise TypeError("its state cannot be compared")
    if compiled := jit_compiled_function(value):
        return Content("compiled", list(zip(("function", "options"), compiled, strict=True)))
    return _read_reduced(value, notes)


def _is_opaque(kind: type) -> bool:
    opaque = (base for base in kind.__mro__ if base.__name__ in OPAQUE_CLASSES)
    return any(base.__module__.partition(".")[0] in OPAQUE_PACKAGES for base in opaque)


def _is_lock(kind: type) -> bool:
    has_both = hasattr(kind, "acquire") and hasattr(kind, "release")
    return kind.__module__ == "multiprocessing.synchronize" or (has_both and owner_of(kind.__module__)[0] != "")


def _read_reduced(value: Any, notes: Notes) -> Content:
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
    edges += _state(state, {} if owner_of(type(value).__module__)[0] else _instance_state(value), type(value))
    edges += [("items", list(items))] if items is not None else []
    edges += [("items", dict(pairs))] if pairs is not None else []
    return Content("object", edges)


def _state(state: Any, instance: Mapping[str, Any], kind: type) -> Iterator[tuple[str, Any]]:
    """Name the attributes in the state of an object, those in slots as well, and others that
    threads use.

    What the class leaves out of its state counts, as far as it can be read, except what its methods
    assign while they run: a network that the first call loads, e.g.
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
            found.update(*map(assigned_by, nested_code(code)))
    return found


def _read_named(value: Any, name: str, notes: Notes) -> Content:
    """Read what is pickled as a name in its module."""
    module = value.__module__
    if notes.add_owner(module):
        return Content(f"{module}.{name}")
    if find_spec(module) is None:
        raise TypeError("its module has no source")
    return Content(f"{module}.{name}", [("module", Import(module))])


def _refer(value: Any, notes: Notes) -> str | None:
    """Return the name under which an installed distribution or Python itself has a value."""
    module, name = _claimed_place(value)
    # A decorator may have given a user's function the name of the installed one that it wraps.
    homes = [module, value.__globals__.get("__name__")] if type(value) is types.FunctionType else [module]
    if not isinstance(name, str) or not all(isinstance(home, str) and owner_of(home)[0] for home in homes):
        return None
    found = sys.modules.get(module)
    for step in name.split("."):
        found = getattr(found, step, None)
    if found is not value:
        return None
    notes.add_owner(module)
    return f"{module}.{name}"


def _claimed_place(value: Any) -> tuple[Any, Any]:
    """Return the module and the name in it that a value claims; ``random.random`` is a hidden
    object's method.
    """
    holder = getattr(value, "__self__", None)
    if holder is None or isinstance(holder, type | types.ModuleType):
        return getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return type(holder).__module__, getattr(value, "__name__", None)


def _read_code(code: types.CodeType, notes: Notes) -> Content:
    """Read code; constants are numbered by their first use, so that a docstring is not among
    them.
    """
    notes.add_python()
    ranks: dict[int, int] = {}
    steps = [
        (op, ranks.setdefault(arg, len(ranks)) if op in HAS_CONSTANT else arg) for op, arg in instructions(code)
    ]
    names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & FLAGS)
    label = digest_parts(steps, names, counts, code.co_exceptiontable)
    return Content(label, [("constant", code.co_consts[index]) for index in ranks])


def _read_module(value: Any, notes: Notes) -> Content:
    name = value.name if isinstance(value, Import) else value.__name__
    if notes.add_owner(name):
        return Content(name)
    spec = find_spec(name)
    if spec is None or not spec.has_location or not spec.origin:
        return Content(f"module {name}")
    code = compile_source(spec.origin)
    if code is None:
        return Content(f"module {name} {digest_file(spec.origin)}")
    return Content(f"module {name}", [("code", code), *imported_modules(references_of(code), spec.parent or "")])


Reader = Callable[[Any, Notes], Content]
# What an installed distribution or Python itself has under a name is read by that alone.
READERS_OF_NAMED = frozenset({_read_method, _read_wrapper, _read_function, _read_class, _read_object})
READERS: dict[type, Reader] = {
    **dict.fromkeys(PLAIN, read_plain),
    **dict.fromkeys((list, tuple), _read_sequence),
    **dict.fromkeys((set, frozenset), _read_set),
    **dict.fromkeys((dict, types.MappingProxyType), _read_mapping),
    **dict.fromkeys((np.ndarray, np.memmap), _read_array),
    **dict.fromkeys((staticmethod, classmethod, functools._lru_cache_wrapper), _read_wrapper),
    **dict.fromkeys((types.ModuleType, Import), _read_module),
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
    (np.dtype, read_plain),
    (np.ufunc, _read_ufunc),
    (PurePath, _read_path),
    (STATELESS, _read_stateless),
    (object, _read_object),
)
