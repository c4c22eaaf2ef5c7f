"""All values that a function consists of, and a digest for each."""

from __future__ import annotations

import collections
import functools
import types
from collections import ChainMap
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from blockbuster.identity.code import LEFT_OUT, assigned_by
from blockbuster.identity.growth import WatchedFiles
from blockbuster.identity.readers import PLAIN, Content, Notes, digest_parts, read_plain, read_value, type_name

MAX_OBJECTS = 100_000
MAX_ROUNDS = 64
MAX_TEXT = 80
# What these hold is a part of the function itself.
TRANSPARENT = frozenset({"function", "instance", "class"})
# What code may change without being another.
CHANGEABLE = (list, dict, set, bytearray, collections.deque, np.ndarray)
# What may grow, and be cut to the length that it had.
GROWING = frozenset({list, dict, collections.OrderedDict, collections.defaultdict, collections.deque})


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else digest_parts(text)


class _Described(NamedTuple):
    """What a value is, with the number or the text of each value that it is made of in its
    place.
    """

    label: str
    links: Sequence[tuple[str, int | str]]
    ordered: bool


class Graph:
    """All values that a function consists of, numbered as they are met, and a digest for each.

    A digest depends on what can be reached from a value, not on the way to it or on what is shared.
    """

    def __init__(self, fn: Any, before: Mapping[str, int]) -> None:
        self.files = WatchedFiles(before)
        self.notes: list[Notes] = []
        self.values: list[Any] = [fn]  # kept alive, or their ids would be given to others
        self.ways: list[tuple[int, str]] = [(-1, "")]  # from which value each was met, and its name there
        self.nodes = {id(fn): 0}
        self.described: list[_Described] = []
        for node, value in enumerate(self.values):  # grows meanwhile
            self.notes.append(Notes(self.files))
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

    def _read(self, value: Any, node: int) -> Content:
        try:
            if type(value) in GROWING and self.files.room["container"]:
                way = self._way(node)
                if "item" not in way:  # items of a set, which no process has in the same order
                    value = self.files.as_before(" > ".join(way) or "fn", value)
            return read_value(value, self.notes[node])
        except (Exception, SystemExit):
            self.notes[node].unreadable.append(f"{self._path(node)} ({type_name(value)})")
            return Content(f"unreadable {type_name(value)}")

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
            return read_plain(child, self.notes[node]).label
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
        return digest_parts(_digest_all(described)[0], sorted(codes), sorted(self.versions(nodes).items()))

    def _framed(self, node: int, assigned: Container[str]) -> _Described:
        """Describe a value without what code can change."""
        if issubclass(type(self.values[node]), CHANGEABLE):
            return _Described(type_name(self.values[node]), [], True)
        label, links, ordered = self.described[node]
        return _Described(label, [(name, link) for name, link in links if name not in assigned], ordered)

    def _assigned_in(self, nodes: Iterable[int]) -> set[str]:
        """Name the parts that code among these values assigns."""
        values = [self.values[node] for node in nodes]
        cached = {f"attribute {value.attrname}" for value in values if type(value) is functools.cached_property}
        return cached.union(*(assigned_by(value) for value in values if type(value) is types.CodeType))

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
    """Digest values that reach each other: again and again, until no round tells more of them
    apart.
    """
    found, n_found = dict.fromkeys(members, ""), 0
    for _ in range(MAX_ROUNDS):
        if len(set(found.values())) == n_found:
            break
        n_found, known = len(set(found.values())), ChainMap(found, digests)
        found = {node: _digest_node(members[node], known) for node in members}
    everything = sorted(set(found.values()))
    return {node: digest_parts(found[node], everything) for node in members}


def _digest_node(described: _Described, digests: Mapping[int, str]) -> str:
    label, links, ordered = described
    inner = [(name, link if isinstance(link, str) else digests[link]) for name, link in links]
    return digest_parts(label, inner if ordered else sorted(inner))


def _components(targets: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield groups of nodes that reach each other, each group after those that it reaches (Gabow's
    algorithm).
    """
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
