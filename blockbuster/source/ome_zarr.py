"""OME-NGFF metadata (0.1 to 0.5) of a zarr group: axes, pyramid levels, channel names."""

import re
from dataclasses import dataclass
from typing import Any

import zarr

from blockbuster.source.location import MAX_NAME_BYTES, name_of_group

# of space axes whose names are not letters, counted from the last axis
SPACE_LETTERS = "xyzwvu"
TYPE_LETTERS = {"time": "t", "channel": "c"}
TYPES = {"t": "time", "time": "time", "c": "channel", "channel": "channel"}
# not t or c, which mean something
FREE_LETTERS = "abdefghijklmnopqrsuvwxyz"
ASSUMED_AXES = "tczyx"
# A third number corrects a text, not metadata; what follows "-dev" names a writer.
KNOWN_VERSION = re.compile(r"(0\.[1-5])(\.\d+|-dev.*)?")
MAX_SHOWN = 300
# In these the axes have no names.
WITHOUT_AXES = ("", "0.1", "0.2")
# What may state a version where it has no place of its own, as up to 0.4.
WITH_VERSION = ("multiscales", "plate", "well")


@dataclass(frozen=True)
class OmeImage:
    """The first multiscale image that a group describes.

    Attributes
    ----------
    axes : str or None
        One letter per stored axis; None: the metadata do not tell (versions before 0.3).
    levels : tuple of str
        Paths of the pyramid's arrays inside the group, the finest first.
    channels : tuple of str
        Names of the channels, as far as they are given.
    version : str
        Of OME-NGFF, ``"0.1"`` to ``"0.5"``; empty: 0.1 or 0.2, which need not say.
    """

    axes: str | None
    levels: tuple[str, ...]
    channels: tuple[str, ...]
    version: str

    def axes_of(self, shape: tuple[int, ...]) -> str | None:
        """Return the letters of an array: without metadata, five axes are time to x, as in 0.1."""
        if self.axes is None and len(shape) == len(ASSUMED_AXES):
            return ASSUMED_AXES
        return self.axes


def read_ome_image(group: zarr.Group) -> OmeImage | None:
    """Read the image metadata of `group`.

    Parameters
    ----------
    group : zarr.Group
        Of zarr format 2 (OME-Zarr up to 0.4) or 3 (0.5).

    Returns
    -------
    OmeImage or None
        None if the group is not an image.

    Raises
    ------
    ValueError
        If its metadata are of a version that is not known, or say that it is an image, but not what
        its axes are or where its arrays are.
    """
    unknown = unknown_version(group)
    if unknown:
        raise ValueError(
            f"{name_of_group(group)} is of OME-Zarr version {unknown}; 0.1 to 0.5 can be read. Convert it, or "
            "give the path of an array inside, with its axes."
        )
    attributes = ome_attributes(group)
    multiscales = attributes.get("multiscales")
    if not multiscales:
        return None
    try:
        image = multiscales[0]
        axes = image.get("axes")
        known = KNOWN_VERSION.fullmatch(stated_version(group))
        # Axes have names from 0.3 on, types from 0.4.
        by_axes = "0.4" if any(isinstance(axis, dict) for axis in axes or ()) else "0.3"
        version = known[1] if known else "" if axes is None else by_axes
        if axes is None and (version not in WITHOUT_AXES or group.metadata.zarr_format != 2):
            raise KeyError("axes, which every image has that is not of version 0.1 or 0.2")
        omero = attributes.get("omero")
        channels = omero.get("channels") if isinstance(omero, dict) else None
        channels = channels if isinstance(channels, list) else []
        return OmeImage(
            axes=None if axes is None else axis_letters(axes),
            levels=tuple(inner_path(group, dataset["path"]) for dataset in image["datasets"]),
            channels=tuple(str(part.get("label", "")) if isinstance(part, dict) else "" for part in channels),
            version=version,
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{name_of_group(group)}: its OME-Zarr metadata (multiscales) are broken: "
            f"{type(error).__name__}: {error}. Give the path of the array inside."
        ) from error


def axis_letters(axes: list[Any]) -> str:
    """Return one letter per axis.

    Parameters
    ----------
    axes : list of dict or of str
        As in the metadata: ``{"name": ..., "type": ...}`` from 0.4 on, names in 0.3.

    Returns
    -------
    str
        Different letters. Axes of type time and channel are ``t`` and ``c``; space axes keep a name
        of one letter, otherwise they are x, y, z, counted from the last; any other axis gets a
        letter that is free.

    Examples
    --------
    >>> space = [{"name": "Y", "type": "space"}, {"name": "X"}]
    >>> axis_letters([{"name": "c", "type": "channel"}, *space])
    'cyx'
    >>> axis_letters(["plane", "row", "column"])
    'zyx'
    """
    names = [str(axis.get("name", "") if isinstance(axis, dict) else axis).lower() for axis in axes]
    stated = [axis.get("type") if isinstance(axis, dict) else None for axis in axes]
    types = [str(kind or TYPES.get(name, "space")) for kind, name in zip(stated, names, strict=True)]
    space = [i for i, kind in enumerate(types) if kind == "space"]
    places = SPACE_LETTERS[: len(space)][::-1]
    wanted = [
        name if len(name) == 1 and "a" <= name <= "z" and name not in "tc" else place
        for name, place in zip([names[i] for i in space], places, strict=True)
    ]
    letters = dict(zip(space, wanted if len(set(wanted)) == len(wanted) else places, strict=True))
    for i, kind in enumerate(types):
        if kind != "space":
            by_name = "".join(letter for letter in names[i] if letter in FREE_LETTERS)
            candidates = TYPE_LETTERS.get(kind, "") + by_name + FREE_LETTERS
            letters[i] = next(letter for letter in candidates if letter not in letters.values())
    return "".join(letters[i] for i in range(len(axes)))


def ome_attributes(group: zarr.Group) -> dict[str, Any]:
    """Return the OME-NGFF metadata of a group, which 0.5 keeps under one key."""
    attributes = group.attrs.asdict()
    inner = attributes.get("ome")
    return {**attributes, **inner} if isinstance(inner, dict) else attributes


def inner_path(group: zarr.Group, path: Any) -> str:
    """Return a path that metadata name, without dots in it, if it leads inside the group.

    Raises
    ------
    ValueError
        If it leads elsewhere: metadata must not choose which files of this machine are read.
    """
    text = str(path)
    # Behind two colons fsspec takes what follows for the URL of another store.
    is_elsewhere = text.startswith("/") or ".." in text.split("/") or "::" in text
    if is_elsewhere or not all(map(_is_file_name, text.split("/"))):
        raise ValueError(
            f"{name_of_group(group)}: its metadata name {text[:MAX_SHOWN]!r}, which is no path inside; correct "
            "them."
        )
    # The file system takes ``./0``, through which pixels are read; zarr refuses it as a name.
    return "/".join(part for part in text.split("/") if part != ".")


def _is_file_name(text: str) -> bool:
    try:
        return "\0" not in text and len(text.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def stated_version(group: zarr.Group) -> str:
    """Return the version of OME-NGFF that a group says it is of; empty where it says nothing."""
    inner = group.attrs.get("ome")
    if isinstance(inner, dict) and inner.get("version"):
        return str(inner["version"])
    attributes = ome_attributes(group)
    for name in WITH_VERSION:
        part = attributes.get(name)
        part = part[0] if isinstance(part, list) and part else part
        if isinstance(part, dict) and part.get("version"):
            return str(part["version"])
    # The key is new in 0.5, which asks for a version.
    return "0.5" if isinstance(inner, dict) else ""


def unknown_version(group: zarr.Group) -> str:
    """Return the version of OME-NGFF that a group states if it is unknown; else nothing."""
    stated = stated_version(group)
    return stated if stated and not KNOWN_VERSION.fullmatch(stated) else ""
