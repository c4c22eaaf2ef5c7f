"""A file of results that appears complete: made in a folder of ours beside it, and renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from blockbuster.identity.owners import is_foreign, private_mode
from blockbuster.rundir.durable import WRITING, flush_path, folders_made
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.folder import (
    check_removable,
    clear_abandoned,
    is_abandoned,
    make_marked_folder,
    remove_entries,
)
from blockbuster.rundir.lock import hold_lock

COMPLETE = "complete"
MARK = "blockbuster-export"
# In the order of removal.
OWN = ("tasks-*", "*.outlines", "*.features", "*.npy", "*.parquet", "stop", COMPLETE, f"{WRITING}*", MARK)


@contextlib.contextmanager
def published_file(path: str, *, replaces: bool) -> Iterator[str]:
    """Yield a folder that takes the file `COMPLETE`, which becomes `path` when the block ends well.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    replaces : bool
        Whether a file that is there then is replaced.

    Yields
    ------
    str
        A folder beside it, on the same file system; what else is made there goes with it.

    Raises
    ------
    FileExistsError
        If something of others lies in the way, or at `path` at the end.
    RuntimeError
        If another process is at work on the same file.

    Notes
    -----
    What a killed process leaves is removed by the next call for the same path.
    """
    folder, lock = f"{path}.blockbuster-partial", f"{path}.blockbuster-lock"
    with folders_made(os.path.dirname(path)), hold_lock(lock, f"the file {path}") as held:
        _clear(folder)
        make_marked_folder(folder, MARK, os.path.basename(path), private_mode())
        reach("export begun")
        try:
            yield folder
            complete = os.path.join(folder, COMPLETE)
            flush_path(complete)
            reach("export flushed")
            held.check()
            if not replaces:
                check_absent(path)
            os.replace(complete, path)
            flush_path(os.path.dirname(path))
            reach("export in place")
        finally:
            _clear(folder)


def check_absent(path: str) -> None:
    """Refuse a path where something lies."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; give another path, or pass overwrite=True to replace it.")


def check_clear(path: str) -> None:
    """Refuse a path beside which something of others lies where the file would be made."""
    folder = f"{path}.blockbuster-partial"
    if os.path.lexists(folder) and not _is_ours(folder) and not is_abandoned(folder):
        raise FileExistsError(f"{folder} is in the way and not from blockbuster; move it elsewhere.")


def _is_ours(folder: str) -> bool:
    is_folder = os.path.isdir(folder) and not os.path.islink(folder)
    return is_folder and not is_foreign(folder) and Path(folder, MARK).is_file()


def _clear(folder: str) -> None:
    """Remove what an earlier call left, or this one."""
    if os.path.lexists(folder) and not is_foreign(folder):
        clear_abandoned(folder)
    if not os.path.lexists(folder):
        return
    check_clear(folder.removesuffix(".blockbuster-partial"))
    check_removable(folder)
    remove_entries(folder, OWN)
