"""The table of the objects of a label image, also where ngio and Fractal look for one.

What lies with the labels is the table; ``tables/NAME`` in their image is a copy of it in a group
that says of which labels it is. A copy, and no link: others rewrite such files in place.
"""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr

from blockbuster.output.nodes import METADATA_NAMES, names_in, read_attributes, with_attributes, zarr_node
from blockbuster.rundir.durable import flush_folder, flush_path, full_disk_explained
from blockbuster.rundir.failpoints import reach

TABLES, FILE = "tables", "table.parquet"
# In the attributes of the group, with the digest of the file as we wrote it.
MARK = "blockbuster"
# In the folder of unfinished labels: the table that will be shown, and the one that it replaces.
NEW, REPLACED = "table-new", "table-replaced"
# The end of a Parquet file says what lies where in it.
END_BYTES = 2**16


@dataclass(frozen=True)
class FeatureTable:
    """The table of a label image in its OME-Zarr image.

    Parameters
    ----------
    store : str
        Folder of the image.
    name : str
        Of the label image, and of the table.
    zarr_format : {2, 3}
        Of the image.
    objects : str
        The table that lies with the labels, once they are visible.
    partial : str
        Folder of the unfinished labels.

    References
    ----------
    Fractal table specification, version 1: feature tables,
    https://fractal-analytics-platform.github.io/fractal-tasks-core/tables/
    """

    store: str
    name: str
    zarr_format: Literal[2, 3]
    objects: str
    partial: str

    @property
    def group(self) -> str:
        """Folder of the tables of the image."""
        return os.path.join(self.store, TABLES)

    @property
    def path(self) -> str:
        """Folder of the table."""
        return os.path.join(self.group, self.name)

    @property
    def _new(self) -> str:
        return os.path.join(self.partial, NEW)

    @property
    def _replaced(self) -> str:
        return os.path.join(self.partial, REPLACED)

    def fault(self, *, wanted: bool, overwrite: bool) -> str:
        """Describe why the table cannot be written, or be taken away; empty when it can."""
        if wanted and (os.path.islink(self.group) or zarr_node(Path(self.group)) not in ("group", "")):
            return f"measure: {self.group} is not a zarr group, in which the table is to be; move it elsewhere."
        if not os.path.lexists(self.path):
            return ""
        if not self._is_whole(self.path):
            if not wanted and not _mark_of(self.path):
                return ""
            return (
                f"measure: {self.path} exists and is not from blockbuster, or was changed since; move it "
                "elsewhere, or choose another output_component."
            )
        return "" if overwrite or not wanted else f"{self.path} exists; pass overwrite=True to replace it."

    def prepare(self, objects: str) -> None:
        """Make the table that will be shown of a table of objects, unless that is done, or there is
        none.
        """
        if not os.path.isfile(objects) or self._is_of(self._prepared, objects):
            return
        shutil.rmtree(self._new, ignore_errors=True)
        with full_disk_explained(self._new, os.path.getsize(objects)):
            group = zarr.create_group(
                Path(self._new, TABLES), zarr_format=self.zarr_format, attributes={TABLES: [self.name]}
            )
            group.create_group(self.name, attributes=self._attributes(objects))
            shutil.copyfile(objects, os.path.join(self._prepared, FILE))
        flush_folder(self._new)
        reach("table prepared")

    def withdraw(self) -> None:
        """Take away the table of the labels that are about to be replaced."""
        if not self._is_whole(self.path):
            return
        shutil.rmtree(self._replaced, ignore_errors=True)
        os.rename(self.path, self._replaced)
        flush_path(self.partial)
        flush_path(self.group)
        reach("old table aside")

    def show(self) -> None:
        """Move the prepared table to its place, if it is of the labels that are visible."""
        if os.path.lexists(self.path) or not self._is_of(self._prepared, self.objects):
            return
        if os.path.lexists(self.group):
            os.rename(self._prepared, self.path)
            flush_path(self.group)
        else:
            os.rename(os.path.join(self._new, TABLES), self.group)
            flush_path(self.store)
        reach("table in place")

    def put_back(self) -> None:
        """Put a table back that was taken away, if its labels are visible and nothing took its
        place.
        """
        if (
            os.path.isdir(self._replaced)
            and not os.path.lexists(self.path)
            and self._is_of(self._replaced, self.objects)
        ):
            os.rename(self._replaced, self.path)

    def listing(self, *, wanted: bool) -> dict[Path, dict[str, Any]]:
        """Return what to write into which file for the table to be listed, or not any more."""
        is_there = os.path.lexists(self.path)
        try:
            file, attributes = read_attributes(self.group, self.zarr_format)
            names = names_in(attributes, TABLES, file)
        except ValueError:
            if wanted or is_there:
                raise
            # It concerns us as little as what is in it.
            return {}
        if is_there and self.name not in names and self._is_whole(self.path):
            names = [*names, self.name]
        elif not is_there and self.name in names:
            names = [other for other in names if other != self.name]
        else:
            return {}
        return {file: with_attributes(self.group, self.zarr_format, {**attributes, TABLES: names})}

    @property
    def _prepared(self) -> str:
        return os.path.join(self._new, TABLES, self.name)

    def _attributes(self, objects: str) -> dict[str, Any]:
        return {
            "type": "feature_table",
            "table_version": "1",
            "region": {"path": f"../labels/{self.name}"},
            "instance_key": "label",
            "backend": "parquet",
            "index_key": "label",
            "index_type": "int",
            MARK: {"digest": _digest(objects)},
        }

    def _is_of(self, folder: str, objects: str) -> bool:
        """Return whether a folder holds the whole table that is made of a table of objects."""
        return self._is_whole(folder) and os.path.isfile(objects) and _mark_of(folder) == _digest(objects)

    def _is_whole(self, folder: str) -> bool:
        """Return whether a folder holds a table of ours, and nothing of others."""
        if os.path.islink(folder) or not os.path.isdir(folder):
            return False
        names = {FILE, *METADATA_NAMES[self.zarr_format]}
        return set(os.listdir(folder)) == names and _mark_of(folder) == _digest(os.path.join(folder, FILE))


def _mark_of(folder: str) -> str:
    """Return the digest that the metadata of a table have; empty where it is not ours."""
    for zarr_format in METADATA_NAMES:
        try:
            mark = read_attributes(folder, zarr_format)[1].get(MARK)
        except ValueError:
            continue
        if isinstance(mark, dict):
            return str(mark.get("digest", "damaged"))
    return ""


def _digest(file: str) -> str:
    """Tell files apart by their size and their end, in which a Parquet file describes itself."""
    with open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - END_BYTES))
        return f"{size}-{zlib.crc32(opened.read()):08x}"
