"""Where a module is, and which installed package, if any, it is part of."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import sysconfig
from pathlib import Path

# Distributions are found at once by their own name, and others by a search that takes 50 ms.
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn", "PIL": "pillow"}


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find where a module is, without importing anything."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, importlib.machinery.ModuleSpec):
        return loaded
    parent, folders = name.rpartition(".")[0], None
    try:
        if not parent:
            return importlib.util.find_spec(name)
        above = find_spec(parent)
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
def owner_of(module: str) -> tuple[str, str]:
    """Return what a module is part of: ``"python"``, an installed package and its version, or
    nothing ("").
    """
    top = module.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return top, str(vars(sys.modules[top])["__version__"])
    spec = find_spec(module) if top != "__main__" else None
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
