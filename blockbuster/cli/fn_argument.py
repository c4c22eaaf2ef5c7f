"""What ``--fn`` names: a function of ours, a model of a plugin, or a function of the user's own."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import operator
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from typing import Any

from blockbuster.cli.parsing import read_number

# Of a blob, in voxels.
DIAMETER = 20.0
OURS = ("otsu", "threshold", "watershed")
PLUGINS = ("cellpose", "stardist")
MAX_LISTED = 12


@dataclass(frozen=True)
class FnName:
    """A name as it was given.

    Parameters
    ----------
    kind : str
        ``"otsu"``, ``"threshold"``, ``"watershed"``, the name of a plugin, or that of a module.
    value : str
        What stands behind the colon; may be empty.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @property
    def is_ours(self) -> bool:
        """Whether the function is made once the image is known."""
        return self.kind in OURS

    @property
    def number(self) -> float:
        """The threshold, or the diameter."""
        return _read_value(self.kind, self.value or None)

    def load(self, *, use_gpu: bool) -> Any:
        """Import the user's function, or make that of a model."""
        if self.kind not in PLUGINS:
            return _import_function(self)
        plugin = importlib.import_module(f"blockbuster.plugins.{self.kind}")
        if self.kind == "cellpose":
            return plugin.cellpose_fn(self.value, gpu=use_gpu)
        return plugin.stardist_fn(self.value)


def fn_forms() -> str:
    """List the names that are accepted here."""
    models = [f"{name}:MODEL" for name in PLUGINS]
    forms = ["otsu", "threshold:VALUE", "watershed", "watershed:DIAMETER", *models]
    return f"{', '.join(forms)} or module:function"


def read_fn_name(text: str) -> FnName:
    """Read a name.

    The words for our own functions and for plugins always mean these, also where a module has the
    same name: what ``cellpose:cyto`` does must not depend on what is installed or lies in the
    current folder.
    """
    kind, colon, value = text.partition(":")
    if kind == "otsu":
        accepted = not colon
    elif kind in OURS:
        accepted = math.isfinite(_read_value(kind, value if colon else None))
    else:
        accepted = bool(kind and value)
    if not accepted:
        raise argparse.ArgumentTypeError(f"{text!r} is not {fn_forms()}.")
    return FnName(kind, value)


def _read_value(kind: str, value: str | None) -> float:
    if kind == "threshold":
        return read_number(value or "", f"threshold:{value or ''} needs a number, e.g. threshold:120.")
    if value is None:
        return DIAMETER
    rule = f"watershed:{value} needs the diameter of a blob in voxels, 1 or more, e.g. watershed:20."
    diameter = read_number(value, rule)
    if diameter < 1:
        raise argparse.ArgumentTypeError(rule)
    return diameter


@contextlib.contextmanager
def modules_found_in(folder: str) -> Iterator[None]:
    """Let modules of a folder be imported, in worker processes too, after all that is installed.

    If it came first, a file named like a module of ours or of Python would take its place.
    """
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_new and folder in sys.path:
            sys.path.remove(folder)


def _import_function(name: FnName) -> Any:
    """Import ``module:function`` of the current folder, or of what is installed."""
    here = os.getcwd()
    _refuse_name_of_installed(name, here)
    try:
        with modules_found_in(here):
            module = importlib.import_module(name.kind)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name.kind}.".startswith(f"{error.name}."):
            raise ImportError(f"--fn {name}: {name.kind} needs a module that is not there: {error}.") from error
        hint = f" Write {name.kind[:-3]}:{name.value}." if name.kind.endswith(".py") else ""
        raise ImportError(
            f"--fn {name}: there is no module {name.kind!r} in {here} or among the installed packages.{hint}"
        ) from error
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ImportError(
            f"--fn {name}: importing {name.kind} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error
    try:
        return operator.attrgetter(name.value)(module)
    except AttributeError:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        listed = f" It has: {', '.join(known[:MAX_LISTED])}." if known else " It has no functions."
        raise ImportError(f"--fn {name}: {module.__name__} has no {name.value!r}.{listed}") from None


def _refuse_name_of_installed(name: FnName, here: str) -> None:
    """Refuse a module of the current folder whose name means another module everywhere else."""
    top = name.kind.partition(".")[0]
    local = PathFinder.find_spec(top, [here])
    elsewhere = [path for path in sys.path if os.path.realpath(path) != os.path.realpath(here)]
    installed = (
        BuiltinImporter.find_spec(top) or FrozenImporter.find_spec(top) or PathFinder.find_spec(top, elsewhere)
    )
    if local is None or installed is None or local.origin is None or installed.origin is None:
        return
    if os.path.realpath(local.origin) != os.path.realpath(installed.origin):
        raise ImportError(
            f"--fn {name}: {local.origin} has the name of another module, {installed.origin}; rename it, so "
            "that it takes nobody's place."
        )
