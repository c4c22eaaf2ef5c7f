"""Metadata of the groups that labels lie in, which a run changes when it publishes them.

These files are the user's. They are written whole, flushed, and until then under names that the
next run knows for ours; and whatever would keep them from being written is found before work.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from blockbuster.errors import muted
from blockbuster.rundir.durable import read_object, sweep_unfinished, write_durably

OME_VERSION = "0.5"
# What lies beside an output while it is made.
RUN_FOLDER = re.compile(r"\.blockbuster-[a-z]+/")
CONSOLIDATED = ("zarr.json", ".zmetadata")


def zarr_node(path: Path) -> str:
    """Describe what lies at a path: ``"array"``, ``"group"``, ``"other"``, or nothing."""
    if not os.path.lexists(path):
        return ""
    if (path / "zarr.json").is_file():
        return str((read_object(path / "zarr.json") or {}).get("node_type", "other"))
    if (path / ".zarray").is_file():
        return "array"
    return "group" if (path / ".zgroup").is_file() else "other"


def is_ome_image(folder: str) -> bool:
    """Return whether a folder holds the metadata of an OME-Zarr image."""
    return any("multiscales" in stated for stated in _ome_metadata(folder))


def is_ome_labels(folder: str) -> bool:
    """Return whether a folder holds the metadata of an OME-NGFF label image.

    In doubt it does not, and is left alone: what readers would take first decides.
    """
    stated = next(filter(None, _ome_metadata(folder)), {})
    stated = stated["ome"] if isinstance(stated.get("ome"), dict) else stated
    return "multiscales" in stated and "image-label" in stated


def _ome_metadata(folder: str) -> list[dict[str, Any]]:
    """Read what may describe an image: attributes, and what they hold under ``"ome"``."""
    zarr_json = read_object(Path(folder, "zarr.json")) or {}
    attributes = [read_object(Path(folder, ".zattrs")), zarr_json.get("attributes")]
    found = [stated for stated in attributes if isinstance(stated, dict)]
    return found + [stated["ome"] for stated in found if isinstance(stated.get("ome"), dict)]


@dataclass(frozen=True)
class EnclosingGroups:
    """The groups of a store that labels lie in, and those that the store lies in.

    Parameters
    ----------
    store : str
        The store's own group.
    path : str
        Folder of the labels.
    zarr_format : {2, 3}
        Of the store.
    """

    store: str
    path: str
    zarr_format: Literal[2, 3]

    @property
    def folders(self) -> list[str]:
        """Folders of the groups that are there, the innermost first."""
        *inside, _ = Path(self.path).relative_to(self.store).parts
        folders = [str(Path(self.store, *inside[:n])) for n in range(len(inside), -1, -1)]
        for parent in Path(self.store).parents:
            if zarr_node(parent) != "group":
                break
            folders.append(str(parent))
        return [folder for folder in folders if os.path.isdir(folder)]

    @property
    def outermost(self) -> str:
        """The outermost group that tells of the labels: runs that end at once take turns there."""
        return min([self.store, *filter(_is_consolidated, self.folders)], key=len)

    def check(self) -> None:
        """Raise ValueError if their metadata are damaged, or could not be written in the end."""
        try:
            self.listing()
        except ValueError as error:
            raise ValueError(f"write_to: {error}") from error
        for folder in filter(_is_consolidated, self.folders):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ValueError(
                    f"write_to: {folder} is not writable, and its consolidated metadata must be written anew "
                    "for the labels to be seen; give another path."
                )
            try:
                _consolidate(folder, hidden=self.path)
            except Exception as error:
                raise ValueError(
                    f"write_to: the consolidated metadata of {folder} cannot be written anew, without which the "
                    f"labels are not seen ({type(error).__name__}: {error}); repair what lies there, remove its "
                    "consolidated metadata, or give another path."
                ) from error

    def update(self) -> None:
        """List the labels, and rewrite consolidated metadata; the caller holds the lock."""
        for folder in self.folders:
            sweep_unfinished(folder, self._owner(folder))
        for file, document in self.listing().items():
            self._write(file, json.dumps(document, indent=2).encode())
        for folder in filter(_is_consolidated, self.folders):
            for name, data in _consolidate(folder).items():
                self._write(Path(folder, name), data)

    def listing(self) -> dict[Path, dict[str, Any]]:
        """Return what to write into which file for the labels to be listed; an array is not."""
        return {}

    def _write(self, file: Path, data: bytes) -> None:
        write_durably(file, data, owner=self._owner(str(file.parent)))

    def _owner(self, folder: str) -> str:
        """Name the store as seen from a folder, in which runs on other stores may write too."""
        return hashlib.sha256(os.path.relpath(self.store, folder).encode()).hexdigest()[:12]


class LabelImageGroups(EnclosingGroups):
    """The groups around a label image, of which the innermost lists it."""

    def listing(self) -> dict[Path, dict[str, Any]]:
        """Return the file that lists labels with what it must hold; nothing where it does."""
        parent, name = os.path.split(self.path)
        file = Path(parent, ".zattrs" if self.zarr_format == 2 else "zarr.json")
        document = read_object(file) if file.exists() else {}
        if document is None:
            raise ValueError(f"{file} is not a JSON object; repair or remove it.")
        if self.zarr_format == 2:
            new = _listed(document, name, file)
        else:
            attributes = _object_in(document, "attributes", file)
            ome = {"version": OME_VERSION, **_object_in(attributes, "ome", file)}
            new = {**document, "attributes": {**attributes, "ome": _listed(ome, name, file)}}
        return {} if new == document else {file: new}


def _object_in(holder: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    found = holder.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f'{file}: "{name}" is {reprlib.repr(found)}; it is a JSON object. Repair the file.')
    return found


def _listed(holder: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """Add a name to the labels that are listed."""
    names = holder.get("labels", [])
    if not isinstance(names, list) or not all(isinstance(other, str) for other in names):
        raise ValueError(f'{file}: "labels" is {reprlib.repr(names)}; it is a list of names. Repair the file.')
    return holder if name in names else {**holder, "labels": [*names, name]}


def _is_consolidated(folder: str) -> bool:
    stated = (read_object(Path(folder, "zarr.json")) or {}).get("consolidated_metadata")
    return bool(stated) or Path(folder, ".zmetadata").is_file()


class _Overlay(LocalStore):
    """A store on disk that keeps what is written to it in memory.

    It does not show what lies in one folder, nor runs of other users, which nobody else may look
    into.
    """

    def __init__(self, root: Path, hidden: str = "") -> None:
        super().__init__(root)
        self.written: dict[str, bytes] = {}
        self._hidden = hidden

    async def get(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        folder = os.path.dirname(os.path.join(self.root, key))
        if self._hidden and os.path.commonpath([folder, self._hidden]) == self._hidden:
            return None
        try:
            return await super().get(key, *arguments, **keywords)
        except PermissionError:
            if not RUN_FOLDER.search(key):
                raise
            return None

    async def set(self, key: str, value: Any) -> None:
        self.written[key] = value.to_bytes()

    set_if_not_exists = set


def _consolidate(folder: str, hidden: str = "") -> dict[str, bytes]:
    """Return the file that holds the consolidated metadata of a group, as it must be now."""
    store = _Overlay(Path(folder), hidden)
    # That zarr may change them, and that files of others lie in the group, is no news to the user.
    with muted(ZarrUserWarning):
        zarr.consolidate_metadata(store)
    # In format 2 the group's own files are written as well, in zarr's layout and not in the user's.
    return {name: data for name, data in store.written.items() if name in CONSOLIDATED}
