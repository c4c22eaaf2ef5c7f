"""What code does, which globals and modules it refers to, and what it assigns."""

from __future__ import annotations

import dis
import importlib.util
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from blockbuster.errors import muted
from blockbuster.identity.packages import find_spec, owner_of

# What describes a module or a class, and what Python itself keeps there (3.13: line numbers).
DESCRIPTIONS = (
    {"__name__", "__qualname__", "__module__", "__package__", "__file__", "__cached__", "__doc__", "__builtins__"}
    | {"__loader__", "__spec__", "__warningregistry__", "__firstlineno__", "__static_attributes__", "__dict__"}
    | {"__weakref__", "__slotnames__", "__abstractmethods__", "_abc_impl", "__annotations__", "__annotate__"}
    | {"__annotate_func__", "__annotations_cache__", "__type_params__", "__parameters__", "__orig_bases__"}
    | {"__dataclass_fields__", "__dataclass_params__"}
)
LEFT_OUT = "unpickled "  # begins the name of an attribute that its class leaves out of pickles
HAS_CONSTANT = frozenset(dis.hasconst)
NO_STEP = frozenset({dis.EXTENDED_ARG, dis.opmap["NOP"]})  # 3.11 leaves a NOP where a module's docstring was
# Methods that make an object, and do not change it later.
MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__setstate__"})


class Import(NamedTuple):
    """A module that code imports when it runs, and that may not be loaded yet."""

    name: str


def instructions(code: types.CodeType) -> list[tuple[int, int]]:
    """List operations and their arguments, less what describes a class (`dis` takes ten times as
    long).
    """
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


class References(NamedTuple):
    """Globals that code and nested code load, all names in it, and its imports (level, module,
    items).
    """

    globals: set[str]
    names: set[str]
    imports: set[tuple[Any, ...]]


def references_of(code: types.CodeType) -> References:
    """Find what code, and the code in it, refers to."""
    found = References(set(), set(), set())
    for inner in nested_code(code):
        found.names.update(inner.co_names)
        steps = instructions(inner)
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


def nested_code(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield code and the code in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_code(constant)


def assigned_by(code: types.CodeType) -> set[str]:
    """Name the parts of a function that its code assigns, other than where an object is made."""
    found = set()
    for op, arg in instructions(code) if code.co_name not in MAKERS else ():
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


def imported_modules(references: References, package: str) -> Iterator[tuple[str, Any]]:
    """Name the modules that code imports, loaded already or not."""
    found = set()
    for level, name, items in references.imports:
        base = _absolute(level, name, package)
        inside = [f"{base}.{item}" for item in items or () if not owner_of(base)[0]]
        found.update([base, *(module for module in inside if find_spec(module))])
    yield from ((f"import {module}", Import(module)) for module in sorted(found))


def _absolute(level: int, name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, package)
    except ImportError:
        return "." * level + name


def compile_source(path: str) -> types.CodeType | None:
    """Compile a module's source without its docstrings; ``None`` if it is no source."""
    with muted(Warning):  # which would depend on the warnings that are errors here
        try:
            code: types.CodeType = compile(Path(path).read_bytes(), "", "exec", dont_inherit=True, optimize=2)
        except (SyntaxError, ValueError):
            return None
    return code
