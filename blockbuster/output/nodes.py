"""Nodes of a zarr store on disk: what lies at a path, and the attributes of a group."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any, Literal

from blockbuster.rundir.durable import read_object

# Of a group with attributes.
METADATA_NAMES: dict[Literal[2, 3], tuple[str, ...]] = {3: ("zarr.json",), 2: (".zgroup", ".zattrs")}


def zarr_node(path: Path) -> str:
    """Describe what lies at a path: ``"array"``, ``"group"``, ``"other"``, or nothing."""
    if not os.path.lexists(path):
        return ""
    if (path / "zarr.json").is_file():
        return str((read_object(path / "zarr.json") or {}).get("node_type", "other"))
    if (path / ".zarray").is_file():
        return "array"
    return "group" if (path / ".zgroup").is_file() else "other"


def read_attributes(folder: str, zarr_format: Literal[2, 3]) -> tuple[Path, dict[str, Any]]:
    """Return the file that has the attributes of a group, and these; none where there is no file.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    file, document = _read_metadata(folder, zarr_format)
    return file, document if zarr_format == 2 else object_in(document, "attributes", file)


def with_attributes(folder: str, zarr_format: Literal[2, 3], attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what the file with the attributes of a group must hold, given new ones."""
    if zarr_format == 2:
        return attributes
    return {**_read_metadata(folder, zarr_format)[1], "attributes": attributes}


def _read_metadata(folder: str, zarr_format: Literal[2, 3]) -> tuple[Path, dict[str, Any]]:
    file = Path(folder, METADATA_NAMES[zarr_format][-1])
    document = read_object(file) if os.path.exists(file) else {}
    if document is None:
        raise ValueError(f"{file} is not a JSON object; repair or remove it.")
    return file, document


def object_in(holder: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """Return a JSON object of another, in a file; an empty one where there is none."""
    found = holder.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f'{file}: "{name}" is {reprlib.repr(found)}; it is a JSON object. Repair the file.')
    return found


def names_in(holder: dict[str, Any], key: str, file: Path) -> list[str]:
    """Return the list of names under a key of an object in a file."""
    names = holder.get(key, [])
    if not isinstance(names, list) or not all(isinstance(other, str) for other in names):
        raise ValueError(f'{file}: "{key}" is {reprlib.repr(names)}; it is a list of names. Repair the file.')
    return names
