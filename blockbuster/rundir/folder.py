"""The stage directory as a whole: made with a manifest for its user alone, recognised by it, and
removed.

::

    <target>.<component>.blockbuster-stage/
        manifest.json     that the folder is ours, and the fingerprint of the run
        layout.json       grid, bricks, merge rule and threshold, once fn was tried
        journal.jsonl     one line for each finished task
        part-ID/          what tasks write; a task that outlives a run which failed does not know
                          the name of the next run's part
            N.tiles       the brick with this number (`sections`): stretches of its tiles, ids 1..n
                          in each, pairs that touch inside it, and border planes, or halo strips,
                          for its neighbours; N-K.tiles of the K-th of several results of fn
        counts.npy, failed.npy, offsets.npy, border.npy, roots.npy, numbers.npy, completed.npy,
        weakest_ids.npy, weakest.npy
                          labels per tile, which failed, the remap table, and bricks with a file of
        completed-N.tiles what completes objects in the brick with this number
        ends-N.tiles      ends of objects that may do so, until that is decided
        result-K/         the same arrays and files of the K-th of several results of fn
        tasks-ID/         what tasks on other processes share, and their results until they are
                          journalled
        attempts/         which tile each process is at
        stop              asks running tasks to end after their tile
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blockbuster.errors import warn_user
from blockbuster.identity.sealed import seal, unseal
from blockbuster.rundir.durable import WRITING, read_object, write_durably
from blockbuster.rundir.journal import JOURNAL, read_journal

MANIFEST = "manifest.json"
MARK = "blockbuster-stage"
FORMAT = 7
PRIVATE = 0o700
TIMES_TO_REMOVE = 5
# In the order of removal: a stage that is removed in part has no finished work, and is ours until
# it is empty.
OWN = (
    JOURNAL,
    "*.npy",
    "ends-*.tiles",
    "completed-*.tiles",
    "tasks-*",
    "attempts",
    "result-*",
    "stop",
    "part-*",
    "layout.json",
    f"{WRITING}*",
    MANIFEST,
)
# What a folder may hold that a process was killed in as it marked it.
UNFINISHED = re.compile(re.escape(WRITING) + "[0-9a-f]{32}")
# Files of tasks, earlier versions' sidecars; metadata and chunks of zarr arrays, reports, tables,
# and what a process was writing when it was killed.
OWN_INSIDE = re.compile(
    r"zarr\.json|\.z(array|attrs|group|metadata)|[0-9.]+|[0-9]+(-[0-9]+)?\.(tiles|npz)|blockbuster-report\.json"
    r"|[a-z][a-z_-]*\.npy|(ends|completed)-[0-9]+\.tiles"
    r"|(objects|table)\.parquet|.*\.partial|batch\.pickle|[0-9]+\.result.*|.*\.attempt|"
    + re.escape(WRITING)
    + ".*"
)


def create_stage(path: str | os.PathLike[str], manifest: dict[str, Any], mode: int = PRIVATE) -> None:
    """Make a stage directory.

    Parameters
    ----------
    path : path
        The directory; folders above it are made.
    manifest : dict
        What to keep in the manifest besides the mark; fit for JSON.
    mode : int
        Who may do what in the directory, less what the umask takes away: nobody but the user,
        unless told else.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     create_stage(f"{folder}/stage", {"made": "today"})
    ...     is_stage(f"{folder}/stage"), read_manifest(f"{folder}/stage")["made"]
    (True, 'today')
    """
    text = json.dumps(seal({"kind": MARK, "format": FORMAT, **manifest}), indent=1)
    make_marked_folder(path, MANIFEST, text, mode)


def make_marked_folder(path: str | os.PathLike[str], name: str, text: str, mode: int) -> None:
    """Make a folder with a file by which it is known as ours.

    Parameters
    ----------
    path : path
        The folder, where there is nothing, or what `is_abandoned`; folders above it are made.
    name, text : str
        The file that marks it.
    mode : int
        Of the folder, less what the umask takes away.

    Raises
    ------
    FileExistsError
        If something is there.
    """
    clear_abandoned(path)
    check_free(path)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    os.mkdir(path, mode)
    try:
        write_durably(Path(path, name), text.encode())
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise


def check_free(path: str | os.PathLike[str]) -> None:
    """Refuse a place of ours where something of others is left, after what is ours was removed."""
    if os.path.lexists(path):
        raise FileExistsError(
            f"{os.fspath(path)} is in the way: it holds what blockbuster did not make; move it elsewhere."
        )


def is_abandoned(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder, at a name that we give, is what a killed process left that made or
    removed it.

    Notes
    -----
    Then it holds nothing, or only what was to become its mark. The mark comes first and goes last.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return all(UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries)


def clear_abandoned(path: str | os.PathLike[str]) -> None:
    """Remove a folder that `is_abandoned`, and nothing else."""
    if is_abandoned(path):
        for name in os.listdir(path):
            Path(path, name).unlink(missing_ok=True)
        os.rmdir(path)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a stage.

    Raises
    ------
    OSError
        If it is damaged, or there is none of ours.
    """
    file = Path(path, MANIFEST)
    manifest = read_object(file)
    if manifest is None or manifest.get("kind") != MARK:
        raise OSError(f"{file} is damaged or missing, so that {os.fspath(path)} is not known as a stage.")
    if manifest.get("format") != FORMAT:
        # What it holds is as another version of blockbuster would have it.
        return manifest
    try:
        return unseal(file.read_bytes())
    except ValueError as error:
        raise OSError(
            f"{file} is damaged ({error}), without which the stage cannot be continued; pass overwrite=True and "
            "not resume=True to start anew."
        ) from error


def is_stage(path: str | os.PathLike[str]) -> bool:
    """Return whether a directory is a stage that blockbuster made, be its manifest damaged or
    not.
    """
    folder = Path(path)
    return not folder.is_symlink() and (read_object(folder / MANIFEST) or {}).get("kind") == MARK


def has_finished_work(path: str | os.PathLike[str]) -> bool:
    """Return whether a stage holds something that is worth continuing."""
    return any("task" in record for record in read_journal(path))


def remove_stage(path: str | os.PathLike[str], keep: Iterable[str] = ()) -> None:
    """Delete a stage directory; anything else is refused, and files of others in it stay.

    Parameters
    ----------
    path : path
        The directory.
    keep : iterable of str
        Paths that it must not hold, such as the input and the output.

    Raises
    ------
    ValueError
        If the path is not a stage that blockbuster made, a symbolic link, a mount point, or holds
        the working directory, the home folder, or a path of `keep`.
    """
    if not is_stage(path):
        raise ValueError(f"{os.fspath(path)} is not a stage of blockbuster and is left alone.")
    check_removable(path, keep)
    remove_entries(path, OWN)


def check_removable(path: str | os.PathLike[str], keep: Iterable[str] = ()) -> None:
    """Refuse to delete a mount point or a folder that holds something that must stay."""
    real = os.path.realpath(path)
    kept = {os.path.realpath(other) for other in (*keep, os.path.expanduser("~"), os.getcwd())}
    if os.path.ismount(real) or any(os.path.commonpath([real, other]) == real for other in kept):
        raise ValueError(
            f"{os.fspath(path)} is a mount point, or holds the input, the output, the working directory or the "
            "home folder; it is left alone."
        )


def remove_entries(path: str | os.PathLike[str], own: Iterable[str]) -> None:
    """Delete the entries of a folder whose names match, in that order, and then the folder itself.

    The last one is its mark, which goes when nothing else is left: a folder that a process was
    killed in, or that holds what cannot be removed yet (files that NFS keeps while they are open),
    is ours, or empty.
    """
    *patterns, mark = own
    # A task that outlived its run may be writing just now.
    for _ in range(TIMES_TO_REMOVE):
        for pattern in patterns:
            for name in fnmatch.filter(os.listdir(path), pattern):
                _remove_entry(os.path.join(path, name))
        left = sorted(set(os.listdir(path)) - {mark})
        if not left:
            _remove_entry(os.path.join(path, mark))
            with contextlib.suppress(OSError):
                os.rmdir(path)
                return
        elif not any(fnmatch.fnmatch(name, pattern) for name in left for pattern in patterns):
            break
    warn_user(f"{os.fspath(path)} is left: it holds what blockbuster did not make: {', '.join(left[:5])}.")


def _remove_entry(path: str) -> None:
    """Delete a file, or what is ours in a folder, and the folder if nothing else is in it."""
    if os.path.islink(path):
        return
    if not os.path.isdir(path):
        Path(path).unlink(missing_ok=True)
        return
    for parent, _, names in os.walk(path, topdown=False):
        for name in filter(OWN_INSIDE.fullmatch, names):
            Path(parent, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.rmdir(parent)
