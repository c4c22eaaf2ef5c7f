"""Metadata of the groups that labels lie in, which a run changes when it publishes them.

These files are the user's. They are written whole, flushed, and until then under names that the
next run knows for ours; and whatever would keep them from being written is found before work.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from blockbuster.errors import muted
from blockbuster.output.feature_table import FeatureTable
from blockbuster.output.nodes import names_in, object_in, read_attributes, with_attributes, zarr_node
from blockbuster.rundir.durable import read_object, sweep_unfinished, write_durably

OME_VERSION = "0.5"
# What lies beside an output while it is made.
RUN_FOLDER = re.compile(r"\.blockbuster-[a-z]+/")
CONSOLIDATED = ("zarr.json", ".zmetadata")


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


@dataclass(frozen=True)
class LabelImageGroups(EnclosingGroups):
    """The groups around a label image, of which the innermost lists it, and that of its table.

    Parameters
    ----------
    table : FeatureTable
        The table of its objects, be it there or not.
    has_table : bool
        Whether there will be one.
    """

    table: FeatureTable
    has_table: bool = False

    @property
    def folders(self) -> list[str]:
        """Folders of the groups that are there, the innermost first."""
        return [*filter(os.path.isdir, [self.table.group]), *super().folders]

    def listing(self) -> dict[Path, dict[str, Any]]:
        """Return the files that list labels and tables with what they must hold, but for those that
        do.
        """
        parent, name = os.path.split(self.path)
        file, attributes = read_attributes(parent, self.zarr_format)
        if self.zarr_format == 2:
            new = _with_label(attributes, name, file)
        else:
            ome = {"version": OME_VERSION, **object_in(attributes, "ome", file)}
            new = {**attributes, "ome": _with_label(ome, name, file)}
        tables = self.table.listing(wanted=self.has_table)
        if new == attributes:
            return tables
        return {file: with_attributes(parent, self.zarr_format, new), **tables}


def _with_label(holder: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """Add a name to the labels that are listed."""
    names = names_in(holder, "labels", file)
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
