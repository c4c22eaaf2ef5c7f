"""Where the results of fn go: one array, or several by their names."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blockbuster.output.paths import resolve_component
from blockbuster.output.places import OutputPlace
from blockbuster.report import RunReport
from blockbuster.stage.results import UNNAMED, list_names

# Stands for the name of a result in `output_component`.
HOLE = "{}"
COMPONENTS = (
    "the name of an array inside write_to, e.g. 'labels'; where fn returns a dict, 'labels/{}', or a dict of "
    "name to place, e.g. {'cells': 'labels/cells'}"
)
PARENTS = "'CHILD:PARENT', two names of results of fn, or a list of such"
Component = str | dict[str, str]


def parse_component(value: Any, name: str) -> Component:
    """Check the name of an array, a template of names, or a dict of them.

    Examples
    --------
    >>> parse_component({"nuclei": "labels/dapi", "cells": "labels/cells"}, "output_component")
    {'cells': 'labels/cells', 'nuclei': 'labels/dapi'}
    """
    if not isinstance(value, Mapping):
        component = resolve_component(value)
        if component.count(HOLE) > 1:
            raise ValueError(f"{name} is {value!r}, with {component.count(HOLE)} times {{}}; it is {COMPONENTS}.")
        return component
    if not value or not all(isinstance(key, str) and key for key in value):
        raise ValueError(f"{name} is {value!r}; it is {COMPONENTS}.")
    found = {key: resolve_component(value[key]) for key in sorted(value)}
    parts = sorted(component.split("/") for component in found.values())
    for one, other in itertools.pairwise(parts):
        if other[: len(one)] == one:
            raise ValueError(
                f"{name} is {value!r}, where {'/'.join(other)!r} is {'/'.join(one)!r} or lies in it; give each "
                "result a place of its own."
            )
    return found


def parse_parents(value: Any, name: str) -> tuple[tuple[str, str], ...] | None:
    """Turn ``"nuclei:cells"``, or a list of such, into pairs of a child and its parent."""
    given = [value] if isinstance(value, str) else value
    if given is None:
        return None
    if not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise TypeError(f"{name} is {value!r}; it is {PARENTS}.")
    pairs = [tuple(text.split(":")) for text in given]
    if not all(len(pair) == 2 and all(pair) and pair[0] != pair[1] for pair in pairs):
        raise ValueError(f"{name} is {value!r}; it is {PARENTS}.")
    return tuple(dict.fromkeys((pair[0], pair[1]) for pair in pairs))


def names_known(component: Component, *, writes: bool) -> tuple[str, ...] | None:
    """Return the names of the results as far as the arguments tell: ``("",)`` for one array.

    Examples
    --------
    >>> names_known("labels", writes=True), names_known("labels/{}", writes=True)
    (('',), None)
    """
    if not isinstance(component, str):
        return tuple(component)
    return UNNAMED if writes and HOLE not in component else None


def component_of(component: Component, name: str) -> str:
    """Return the name of the array that takes a result.

    Raises
    ------
    ValueError
        If the name of the result cannot be a part of it.
    """
    if not isinstance(component, str):
        return component[name]
    if "/" in name:
        raise ValueError(
            f"fn returned a result {name!r}; names in place of {{}} have no slash. Give a dict of places."
        )
    return resolve_component(component.replace(HOLE, name))


def check_parents(parents: Iterable[tuple[str, str]] | None, names: tuple[str, ...]) -> None:
    """Refuse parents and children that are no results of fn.

    Raises
    ------
    ValueError
        If they are none.
    """
    for pair in parents or ():
        for name in pair:
            if name not in names:
                raise ValueError(f"parents names {name!r}; fn returns {list_names(names)}.")


def find_published(place: OutputPlace) -> tuple[str, ...] | None:
    """Return the names of the results of a run that lie where a template says; None where there are
    none.
    """
    before, _, after = place.path.partition(HOLE)
    for path in sorted(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}")):
        name = path[len(before) : len(path) - len(after)]
        try:
            report = RunReport.read(os.path.join(path, place.finest))
        except (OSError, ValueError):
            continue
        if name == report.name:
            return tuple(report.names)
    return None
