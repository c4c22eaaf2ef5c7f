"""Paths that a run may write to: on the file system, apart from the image, and nobody else's."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from blockbuster.errors import show_url
from blockbuster.output import places
from blockbuster.output.groups import is_ome_image
from blockbuster.output.nodes import zarr_node
from blockbuster.output.places import OutputPlace, check_apart, lies_in
from blockbuster.report import OBJECTS
from blockbuster.source.location import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_SHOWN, has_long_name

URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
# Two names are left to what lies inside.
MAX_STORE_BYTES = MAX_PATH_BYTES - 2 * MAX_NAME_BYTES
COMPONENT_RULE = "it is the name of an array inside write_to, e.g. 'labels' or 'run1/labels'"


def resolve_place(write_to: Any, output_component: Any) -> OutputPlace:
    """Turn the path and the name of a label array into its place.

    Parameters
    ----------
    write_to : str or path-like
        Of a zarr group, which need not exist; ``~`` is the home folder.
    output_component : str
        Name of the array inside it.

    Returns
    -------
    OutputPlace
        With an absolute path, so that nothing changes when fn changes the working directory.

    Raises
    ------
    TypeError
        For what is no path or name.
    ValueError
        For a URL, a symbolic link, a folder that is not for labels alone (the working directory,
        the home folder, a mount point), and names that a zarr array cannot have.

    Examples
    --------
    >>> resolve_place("/data/out.zarr/", "nuclei/labels").array_path
    '/data/out.zarr/nuclei/labels'
    """
    component = resolve_component(output_component)
    store = _local_path(write_to, "write_to")
    _check_text(store, "write_to")
    _check_text(component, "output_component")
    own = {os.path.realpath(folder) for folder in (os.getcwd(), os.path.expanduser("~"))}
    if _is_mount_point(store) or os.path.realpath(store) in own:
        raise ValueError(
            f"write_to is {os.fspath(write_to)!r}; give the labels a name of their own, e.g. 'labels.zarr'."
        )
    place = next(kind for kind in places.KINDS if kind.suits(store, component))(store, component)
    longest = max([os.path.basename(place.sibling("partial")), *component.split("/")], key=len)
    if len(os.fsencode(longest)) > MAX_NAME_BYTES:
        raise ValueError(
            f"write_to and output_component give the name {longest!r}, which is longer than the "
            f"{MAX_NAME_BYTES} bytes that file systems allow; choose shorter names."
        )
    return place


def resolve_component(component: Any) -> str:
    """Check the name of an array inside a group, which must hide no metadata."""
    if not isinstance(component, str):
        raise TypeError(f"output_component is {component!r}; {COMPONENT_RULE}.")
    for part in component.split("/"):
        if part in ("", "zarr.json") or part.startswith((".", "__")) or "\\" in part or "\0" in part:
            raise ValueError(f"output_component is {component!r}; {COMPONENT_RULE}.")
    return component


def resolve_output(
    write_to: Any, output_component: Any, image: str | None, *, overwrite: bool, has_table: bool = False
) -> OutputPlace:
    """Turn `write_to` into a place that can be written to and holds nothing of anybody else.

    Parameters
    ----------
    write_to, output_component
        As in `resolve_place`.
    image : str or None
        Path of the input.
    overwrite : bool
        Whether an array that lies there may be replaced.
    has_table : bool
        Whether a table of the objects comes with the labels.

    Raises
    ------
    ValueError
        If the path is the image, lies in it or holds it, or lies in another array or image.
    FileExistsError
        If something lies there.
    NotADirectoryError, PermissionError
        If the folder cannot be written to.
    """
    place = dataclasses.replace(resolve_place(write_to, output_component), has_table=has_table)
    place.check_image(image)
    _refuse_nodes(os.path.dirname(place.store), "write_to", place.store, ("array", "image"))
    _check_writable(os.path.dirname(place.store), "write_to")
    fault = place.fault(overwrite=overwrite)
    if fault:
        raise FileExistsError(fault)
    _check_writable(place.store, "write_to")
    _check_writable(os.path.dirname(place.path), "write_to")
    if has_table and place.feature_table is not None:
        _check_writable(place.feature_table.group, "write_to")
    place.groups.check()
    return dataclasses.replace(place, replaces=overwrite)


def resolve_file(path: Any, name: str, image: str | None) -> str:
    """Turn a path into that of a file that can be written; it need not exist.

    Parameters
    ----------
    path : str or path-like
        Of the file; ``~`` is the home folder.
    name : str
        Of the argument, for messages.
    image : str or None
        Path of the input.

    Returns
    -------
    str
        Absolute.

    Raises
    ------
    TypeError, ValueError
        For what is no path, a URL, a symbolic link, and what lies in the input or in a zarr store.
    IsADirectoryError, NotADirectoryError, PermissionError
        If there is a folder, or the file cannot be written.
    """
    found = _local_path(path, name)
    _check_text(found, name)
    if image is not None:
        check_apart(found, name, image)
    _refuse_nodes(os.path.dirname(found), name, found, ("array", "image", "group"))
    if os.path.isdir(found):
        raise IsADirectoryError(f"{name}: {found} is a folder; give the path of a file.")
    _check_writable(os.path.dirname(found), name)
    return found


def check_table(place: OutputPlace, *, overwrite: bool) -> OutputPlace:
    """Check that a table can be written of labels that are there; return their place with it.

    Raises
    ------
    ValueError
        If metadata of the image could not tell of it.
    FileExistsError
        If there is one already, or something of others.
    PermissionError
        If it cannot be written.
    """
    place = dataclasses.replace(place, has_table=True)
    path, table = os.path.join(place.array_path, OBJECTS), place.feature_table
    fault = place.partial.fault()
    if os.path.lexists(path) and not overwrite:
        fault = fault or f"{path} exists; pass overwrite=True to replace it."
    if table is not None:
        fault = fault or table.fault(wanted=True, overwrite=overwrite)
    if fault:
        raise FileExistsError(fault)
    _check_writable(place.array_path, "labels")
    _check_writable(os.path.dirname(place.store), "labels")
    if table is not None:
        _check_writable(table.group, "labels")
        place.groups.check()
    return place


def check_stage_dir(stage_dir: Any, image: str | None, place: OutputPlace | None) -> str:
    """Turn `stage_dir` into a folder that can take a stage; it need not exist.

    Raises
    ------
    ValueError
        If it lies in the image, in the output, or in another zarr store.
    NotADirectoryError, PermissionError
        If it cannot be written to.
    """
    path = _local_path(stage_dir, "stage_dir")
    if image is not None:
        check_apart(os.path.join(path, "stage"), "stage_dir", image)
    if place is not None and lies_in(path, place.store):
        raise ValueError(f"stage_dir: {path} is the output or lies in it; give another folder.")
    _refuse_nodes(path, "stage_dir", path, ("array", "image", "group"))
    _check_writable(path, "stage_dir")
    return path


def default_stage_parent(image: str | None, place: OutputPlace | None) -> str:
    """Return the folder of the output, else of the store of the image, else for temporary files."""
    if place is not None:
        return os.path.dirname(place.store)
    if image is not None:
        # Links are not followed: a user's folder of links to images is where the user can write.
        above = [str(folder) for folder in Path(image).parents if zarr_node(folder) in ("array", "group")]
        beside = os.path.dirname([image, *above][-1])
        if os.access(beside, os.W_OK | os.X_OK):
            return beside
    return tempfile.gettempdir()


def _local_path(path: Any, name: str) -> str:
    """Make a path absolute now: fn may change the working directory."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"{name} is {path!r}; it is a path on the file system.")
    text = os.fspath(path)
    if not isinstance(text, str) or "\0" in text:
        raise ValueError(f"{name} is {text!r}; it is a path on the file system, as text.")
    if URL.match(text):
        raise ValueError(
            f"{name} is {show_url(text)!r}; output and stage need a path on a file system, not a URL."
        )
    absolute = _absolute(Path(os.path.expanduser(text)))
    # What cannot be made is refused before it is looked for.
    if has_long_name(absolute):
        raise ValueError(
            f"{name} is {absolute[:MAX_SHOWN]!r}..., with a name that is longer than the {MAX_NAME_BYTES} bytes "
            "that file systems allow; choose shorter names."
        )
    if len(os.fsencode(absolute)) > MAX_STORE_BYTES:
        raise ValueError(
            f"{name} is {absolute[:MAX_SHOWN]!r}..., a path of {len(os.fsencode(absolute)):,} bytes; with the "
            f"names of files inside it would be longer than file systems allow. Choose one of at most "
            f"{MAX_STORE_BYTES:,}."
        )
    if os.path.islink(absolute):
        real = os.path.realpath(absolute)
        raise ValueError(f"{name}: {absolute} is a symbolic link; to write there, give {real} itself.")
    return absolute


def _check_text(text: str, name: str) -> None:
    """Refuse names that no text file, such as zarr's metadata, can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is {text!r}, which is not text in UTF-8; choose another name.") from error


def _absolute(path: Path) -> str:
    """Make a path absolute; ``..`` behind a symbolic link leads where it does for the system."""
    if ".." not in path.parts:
        return os.path.abspath(path)
    return os.path.realpath(path) if path.name == ".." else os.path.join(os.path.realpath(path.parent), path.name)


def _is_mount_point(path: str) -> bool:
    """Return whether another file system begins here, which an output cannot be renamed into."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    # A bind mount of the same device looks like any folder but here; blanks are written as \040.
    found = (re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), mount.split()[4]) for mount in mounts)
    return os.path.realpath(path) in found


def _refuse_nodes(folder: str, name: str, path: str, kinds: tuple[str, ...]) -> None:
    """Refuse a path where a folder is a part of a zarr store that the path would spoil."""
    real = Path(os.path.realpath(folder))
    for parent in (real, *real.parents):
        kind = "image" if is_ome_image(str(parent)) else zarr_node(parent)
        if kind in kinds:
            what = "OME-Zarr image" if kind == "image" else f"zarr {kind}"
            raise ValueError(f"{name}: {path} lies in the {what} {parent}; give a path outside of it.")


def _check_writable(folder: str, name: str) -> None:
    """Check the nearest folder that exists."""
    existing = Path(folder)
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(f"{name}: {existing} is not a folder; give another path.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: {existing} is not writable; give another path.")
