"""Groups that hold images: HCS plates, wells, bioformats2raw collections, other zarr groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import zarr
from fsspec.core import url_to_fs

from blockbuster.errors import escape_controls
from blockbuster.source.location import MAX_LISTED, UNREADABLE, Location, store_faults_explained
from blockbuster.source.ome_zarr import inner_path, ome_attributes, unknown_version

MAX_DEPTH = 4
# Groups and arrays that are opened for a list that is not asked to be complete.
MAX_OPENED = 48
# (path inside a group, what is known of it)
Found = tuple[str, str]


@dataclass(frozen=True)
class Collection:
    """The images and arrays in a group.

    Parameters
    ----------
    kind : str
        What the group is, with an article.
    found : tuple of (str, str)
        Path of each image or array inside the group, and type and shape of an array, or why an
        image cannot be read.
    is_complete : bool
        Whether these are all.
    """

    kind: str
    found: tuple[Found, ...]
    is_complete: bool


class _Visitor:
    """Opens what lies in a group, as often as it may."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.n_opened = 0

    @property
    def is_tired(self) -> bool:
        return self._most is not None and self.n_opened >= self._most

    def open(self, group: zarr.Group, path: str) -> zarr.Group | zarr.Array[Any] | None:
        """Open an array or group; None where there is none that zarr and this user can read."""
        self.n_opened += 1
        try:
            return group[path]
        except (*UNREADABLE, PermissionError):
            return None


def find_images(group: zarr.Group, location: Location, most: int | None = MAX_LISTED) -> Collection:
    """List the images in a group.

    Parameters
    ----------
    group : zarr.Group
        That is no image itself.
    location : Location
        Where it lies.
    most : int, optional
        How many images are listed. ``None``: all.

    Returns
    -------
    Collection
        In the order of the metadata of plates, wells and bioformats2raw collections, else by name.

    Notes
    -----
    What the metadata name is opened to see that it is there; where they name nothing, the folders
    are opened. With `most` that is about 50 times at most, however large a plate is.
    """
    kind, listing = _describe_kind(group)
    visitor = _Visitor(None if most is None else MAX_OPENED)
    # One more than are listed, to know whether there are more.
    enough = None if most is None else most + 1
    with store_faults_explained(location.url, f"image {location}"):
        found = list(islice(listing(group, visitor), enough))
        if not found and not visitor.is_tired:
            found = list(islice(_walk(group, location, MAX_DEPTH, visitor), enough))
    is_complete = not visitor.is_tired and (most is None or len(found) <= most)
    return Collection(kind, tuple(found[:most]), is_complete)


def describe_contents(group: zarr.Group, location: Location) -> str:
    """Return what kind of group this is, and the paths of the first images inside."""
    contents = find_images(group, location)
    if not contents.found:
        without = "without images or arrays inside" if contents.is_complete else "in which no image was found"
        return f"{contents.kind}, {without}"
    listed = [
        escape_controls(f"{location / path}{f' ({what})' if what else ''}") for path, what in contents.found
    ]
    more = [] if contents.is_complete else ["..."]
    return "\n  ".join([f"{contents.kind}; give the path of one image or array inside:", *listed, *more])


def _describe_kind(group: zarr.Group) -> tuple[str, Callable[[zarr.Group, _Visitor], Iterator[Found]]]:
    attributes = ome_attributes(group)
    if "plate" in attributes:
        wells, plate = _paths(group, "plate", "wells"), attributes["plate"]
        fields = plate.get("field_count") if isinstance(plate, dict) else None
        size = f" of {len(wells)} well{'s' * (len(wells) != 1)}" if wells else ""
        if wells and isinstance(fields, int):
            size += f", at most {fields} image{'s' * (fields != 1)} each"
        return f"an HCS plate{size}", _images_of_plate
    if "well" in attributes:
        return "a well of an HCS plate", _images_of_well
    if "bioformats2raw.layout" in attributes:
        return "a bioformats2raw collection of images", _images_of_bioformats2raw
    return "a zarr group that is no OME-Zarr image (no multiscales in its metadata)", lambda *_: iter(())


def _images_of_plate(group: zarr.Group, visitor: _Visitor) -> Iterator[Found]:
    for path in _paths(group, "plate", "wells"):
        if visitor.is_tired:
            return
        well = visitor.open(group, path)
        if isinstance(well, zarr.Group):
            yield from ((f"{path}/{image}", what) for image, what in _images_of_well(well, visitor))


def _images_of_well(group: zarr.Group, visitor: _Visitor) -> Iterator[Found]:
    return _images_at(group, _paths(group, "well", "images"), visitor)


def _images_of_bioformats2raw(group: zarr.Group, visitor: _Visitor) -> Iterator[Found]:
    described = visitor.open(group, "OME")
    series = ome_attributes(described).get("series") if isinstance(described, zarr.Group) else None
    if isinstance(series, list):
        yield from _images_at(group, [inner_path(group, path) for path in series], visitor)
        return
    number = 0
    while not visitor.is_tired and isinstance(image := visitor.open(group, str(number)), zarr.Group):
        yield str(number), _fault(image)
        number += 1


def _fault(image: zarr.Group) -> str:
    """Return why an image cannot be read, as far as its metadata tell; empty if it can."""
    version = unknown_version(image)
    return f"OME-Zarr {version}, which cannot be read" if version else ""


def _images_at(group: zarr.Group, paths: Iterable[str], visitor: _Visitor) -> Iterator[Found]:
    for path in paths:
        if visitor.is_tired:
            return
        image = visitor.open(group, path)
        if isinstance(image, zarr.Group):
            yield path, _fault(image)


def _paths(group: zarr.Group, name: str, key: str) -> list[str]:
    """Return the paths that a list in a group's metadata names."""
    stated = ome_attributes(group).get(name)
    items = stated.get(key) if isinstance(stated, dict) else None
    if not isinstance(items, list):
        return []
    return [inner_path(group, item["path"]) for item in items if isinstance(item, dict) and "path" in item]


def _walk(group: zarr.Group, location: Location, depth: int, visitor: _Visitor) -> Iterator[Found]:
    """Yield what inside a group can be opened as an image."""
    for name in _folders(location):
        if visitor.is_tired:
            return
        member = visitor.open(group, name)
        if isinstance(member, zarr.Array):
            yield name, f"{member.dtype}, shape {member.shape}"
        elif member is not None and ome_attributes(member).get("multiscales"):
            yield name, _fault(member)
        elif member is not None and depth > 1:
            inside = _walk(member, location / name, depth - 1, visitor)
            yield from ((f"{name}/{path}", what) for path, what in inside)


def _folders(location: Location) -> list[str]:
    """Name the folders at a location, numbers first and as numbers."""
    if location.local_path is not None:
        with os.scandir(location.local_path) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    else:
        files, path = url_to_fs(location.url)
        names = [
            os.path.basename(str(found["name"]).rstrip("/"))
            for found in files.ls(path, detail=True)
            if found["type"] == "directory"
        ]
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
