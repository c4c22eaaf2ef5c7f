"""What a function is, as a few texts that are the same in every process that runs the same
program.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from blockbuster.identity.graph import Graph
from blockbuster.identity.growth import Growth
from blockbuster.identity.readers import type_name


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
        The parts whose state could not be read, with their type: ``"closure net
        (torch.nn.Linear)"``. Empty: the function is known completely.
    frame : str
        A digest of all that the function does not change itself: of its code and of the values that
        it is made of, but not of the contents of files, of lists, dictionaries, sets and arrays, or
        of variables and attributes that the code assigns, and not of code and versions that are met
        only in the latter. Empty where `fn_version` stands for it.
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
        A function of Python or of an installed package, a partial, a bound method, an object that
        can be called.
    fn_version : str, optional
        Stands for `fn` in place of all that can be read of it. ``None``: `fn` is read.
    before : dict of str to int
        What has grown, and the size that it had, as `Growth` names it: `fn` is read as if it still
        had it.

    Returns
    -------
    FunctionIdentity
        The same in another process, with another hash seed, and for a `fn` that was pickled on the
        way.

    Notes
    -----
    It never raises, and never calls `fn`. It reads

    * code: instructions, constants, names, nested functions; not comments, docstrings, file or line
      numbers;
    * defaults, closures, attributes, and the globals that the code refers to, by value; the order
      of a dictionary counts, that of a set does not;
    * functions and classes of the user's own by their code, and so on from there. A module of the
      user's own counts with its source, with the modules that it imports, and with what the code
      takes from it;
    * what an installed distribution holds by name and version; what Python itself holds by name;
    * other objects by their class and by what they would be pickled as, and those of the user's own
      also by what a pickle leaves out, by class where that cannot be read, unless their methods
      assign it; locks and loggers have no state;
    * files that are named by a text or a path, by content. Folders are not read.

    What changes while `fn` runs, a list that it appends to or a file that it writes, changes its
    identity, unless it has only grown and `before` says from where.

    It takes about 0.2 ms for a function with a few helpers, and once 1 to 50 ms per distribution
    for its version. Arrays and files are hashed once with sha256 (about 1 GB/s), in blocks. A
    module of the user's own costs about 20 µs per line. What is left after 100,000 objects is
    unreadable.

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
    graph = Graph(fn, before)
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
    >>> now = {"name": "f", "code": "2b", "global np": "numpy"}
    >>> differing_parts({"name": "f", "code": "1a"}, now)
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
    return name if type(name) is str else type_name(fn).rpartition(".")[2]
