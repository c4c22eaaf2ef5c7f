"""Where an image lies: a path made absolute at once, or a URL; and what zarr finds there."""

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import zarr
from fsspec.core import url_to_fs

from blockbuster.errors import hide_secrets, show_url
from blockbuster.source.advice import advise_on_file

# One of them lies in every array and group.
NODE_FILES = ("zarr.json", ".zarray", ".zgroup")
MAX_LISTED = 6
# What file systems allow, with Linux for the whole of a path.
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
MAX_SHOWN = 100
REMEDY = (
    "See that the URL is right, that its server can be reached from here, and that fsspec finds the credentials "
    "that it asks for, as a rule in the environment or in a file of the store's own."
)
IN_MEMORY = " What lies at memory:// exists only in the process that wrote it."
REMEDY_HERE = "See that the URL is right, and that what it leads to is whole."
# Of parts of a chain that lead to no server.
HERE = re.compile("(zip|tar|memory|file|local)://|(?!.*://)")
# What zarr raises for metadata that it cannot read, however absurd.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Location:
    """An absolute local path, or the URL of something that is not local.

    Examples
    --------
    >>> location = Location("s3://key:secret@bucket/a.zarr")
    >>> print(location / "s0")
    s3://bucket/a.zarr/s0
    >>> location.url
    's3://key:secret@bucket/a.zarr'
    """

    root: Path | str

    def __str__(self) -> str:
        """Return what may be shown and stored."""
        return show_url(self.root) if isinstance(self.root, str) else str(self.root)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    def __truediv__(self, inner: str) -> "Location":
        """The location of the array or group `inner` of the group here."""
        if isinstance(self.root, Path):
            return Location(self.root / inner)
        return Location(f"{self.root}/{inner.strip('/')}")

    @property
    def url(self) -> str:
        """What zarr and fsspec open, secrets included; a path for what is local."""
        return str(self.root)

    @property
    def local_path(self) -> str | None:
        """The path as text, None for a URL."""
        return str(self.root) if isinstance(self.root, Path) else None


def locate(image: str | os.PathLike[str]) -> Location:
    """Turn what the user gave into a location that no change of folder can alter.

    Parameters
    ----------
    image : str or path-like
        A path (``~`` is the home folder), a ``file://`` URL, or any other URL that fsspec knows.

    Raises
    ------
    ValueError
        If it is empty.

    Notes
    -----
    A ``file://`` URL is taken as fsspec takes it, literally; where nothing lies there, percent
    escapes are decoded (``Path.as_uri()`` writes them).

    Examples
    --------
    >>> str(locate("memory://images/a.zarr/"))
    'memory://images/a.zarr'
    >>> locate("a.zarr").root.is_absolute()
    True
    """
    text = os.fspath(image)
    if not isinstance(text, str) or not text:
        raise ValueError(f"image is {image!r}; a path or URL must be text that is not empty.")
    if "://" not in text and (len(os.fsencode(text)) > MAX_PATH_BYTES or has_long_name(text)):
        raise ValueError(f"image is {text[:MAX_SHOWN]!r}..., a path that is longer than file systems allow.")
    if "://" not in text:
        return Location(Path(os.path.expanduser(text)).absolute())
    if not text.startswith(("file://", "local://")):
        return Location(text.rstrip("/"))
    path = url_to_fs(text)[1]
    return Location(Path(path if os.path.exists(path) else unquote(path)))


def has_long_name(path: str) -> bool:
    """Return whether a name in a path is longer than file systems allow."""
    return any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in path.split(os.sep))


def open_node(location: Location) -> zarr.Array[Any] | zarr.Group:
    """Open the zarr array or group at `location`, read-only.

    Parameters
    ----------
    location : Location
        Of the array or group itself.

    Returns
    -------
    zarr.Array or zarr.Group
        Of zarr format 2 or 3. Consolidated metadata are not used: they may be stale.

    Raises
    ------
    FileNotFoundError
        If there is nothing; the message names what lies beside it.
    ValueError
        If there is something else than zarr, or zarr cannot read its metadata.
    """
    if isinstance(location.root, Path):
        _check_local(location.root)
    try:
        with store_faults_explained(location.url, f"image {location}"):
            return _open_by_format(location.root)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"image {location} is not there, or is no zarr array or group: none of {', '.join(NODE_FILES)} "
            f"can be read.{IN_MEMORY if location.url.startswith('memory://') else ''}"
        ) from None
    except UNREADABLE as error:
        text = hide_secrets(f"{type(error).__name__}: {error}", location.url)
        raise ValueError(f"image {location} cannot be opened by zarr {zarr.__version__}: {text}") from None


def _open_by_format(root: Path | str) -> zarr.Array[Any] | zarr.Group:
    if isinstance(root, Path):
        return zarr.open(root, mode="r", use_consolidated=False)
    # One format after the other: where there are both, zarr warns of it with the whole URL.
    try:
        return zarr.open(root, mode="r", zarr_format=3, use_consolidated=False)
    except FileNotFoundError:
        return zarr.open(root, mode="r", zarr_format=2, use_consolidated=False)


def name_of_group(group: zarr.Group) -> str:
    """Name a group in a message."""
    return f"image {show_url(str(group.store_path))}"


@contextlib.contextmanager
def store_faults_explained(url: str, name: str) -> Iterator[None]:
    """Put errors of object stores and HTTP into words of one line, without the secrets of the URL.

    Parameters
    ----------
    url : str
        What is read; that of a local path is left alone.
    name : str
        Of it in a message, e.g. the argument and what it is.

    Raises
    ------
    FileNotFoundError, PermissionError, ImportError, OSError
        As the store says; whatever is of none of these classes is an OSError.
    """
    try:
        yield
    except UNREADABLE:
        # That something is not as it should be, which the caller puts into words.
        raise
    except Exception as error:
        # A local store has no secrets, and says in few words what is wrong.
        if "://" not in url or url.startswith("file://"):
            raise
        kinds = (FileNotFoundError, PermissionError, ImportError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), OSError)
        said = hide_secrets(f"{type(error).__name__}: {error}", url).rstrip(".")
        remedy = REMEDY_HERE if all(map(HERE.match, url.split("::"))) else REMEDY
        raise kind(f"{name} cannot be read: {said}. {remedy}") from None


def _check_local(path: Path) -> None:
    """Refuse what zarr's errors do not explain: nothing, a file, a folder that is not zarr."""
    if not path.exists():
        raise FileNotFoundError(f"image {path} does not exist. {_what_is_beside(path)}")
    if not path.is_dir():
        raise ValueError(
            f"image {path} is a file; a path must be that of the folder of a zarr array or an OME-Zarr image: "
            f"{advise_on_file(str(path))}."
        )
    if not _is_zarr(path):
        inside = [str(entry) for entry in _folders(path) if _is_zarr(entry)][:MAX_LISTED]
        hint = f" It contains: {', '.join(inside)}." if inside else ""
        raise ValueError(
            f"image {path} is a folder, but no zarr array or group: it has none of {', '.join(NODE_FILES)}.{hint}"
        )


def _what_is_beside(path: Path) -> str:
    """Name folders like the missing one, else some folders, else the first missing parent."""
    if not path.parent.is_dir():
        missing = next(child for child in path.parents if child.parent.is_dir())
        return f"There is no folder {missing} either."
    names = [entry.name for entry in _folders(path.parent)]
    # Without suffixes, since ".ome.zarr" would make all names alike.
    stem = path.name.split(".")[0]
    similar = [n for n in names if difflib.SequenceMatcher(None, n.split(".")[0], stem).ratio() > 0.6]
    listed = (similar or names)[:MAX_LISTED]
    return f"{path.parent} has: {', '.join(listed)}." if listed else f"{path.parent} has no folders."


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def _is_zarr(path: Path) -> bool:
    # Not Path.is_file, which raises where nobody else may look into the folder.
    return any(os.path.isfile(path / name) for name in NODE_FILES)
