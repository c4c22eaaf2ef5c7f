"""Whose a folder is: stages are for one user alone, and one that somebody else made is not trusted.

On a machine or a file system that people share, others may put files where a run will look for its
own. Nothing of a stage is run that can be changed there; but what lies in it decides the labels,
and where files are written.
"""

from __future__ import annotations

import os
import stat
import tempfile

SHARE = "BLOCKBUSTER_SHARE_STAGE"
TRUST = "BLOCKBUSTER_TRUST_STAGE"
# Where the system has none, it has no other users of a kind that this is about.
O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def private_mode() -> int:
    """Return the mode of a stage's folders: for the user, or where the environment asks for it the
    group too.

    Raises
    ------
    ValueError
        If the variable says something else.

    Notes
    -----
    The umask takes its part away, so that with 022 the group may read a shared stage, and with 002
    go on with it.

    Examples
    --------
    >>> oct(private_mode())
    '0o700'
    """
    shared = os.environ.get(SHARE, "")
    if shared not in ("", "group"):
        raise ValueError(f"{SHARE} is {shared!r} in the environment; it is 'group', or not set.")
    return 0o770 if shared else 0o700


def refuse_foreign(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that another user made where a run keeps its own, unless the environment
    trusts it.

    Raises
    ------
    PermissionError
        If `is_foreign`.
    """
    if is_foreign(path):
        owner, user = os.stat(path, follow_symlinks=False).st_uid, os.geteuid()
        raise PermissionError(
            f"{os.fspath(path)} belongs to {_user_name(owner)}, and you are {_user_name(user)}: what somebody "
            "else left there is neither continued nor removed. Give another stage_dir or write_to, or, if you "
            f"trust all who can write there, set {TRUST}={os.fspath(path)} in the environment."
        )


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Return whether somebody else made a folder, and the environment does not trust it.

    Notes
    -----
    ``BLOCKBUSTER_TRUST_STAGE`` holds a folder, or several, separated as in ``PATH``, or ``*``.
    """
    owner = os.stat(path, follow_symlinks=False).st_uid
    if not hasattr(os, "geteuid") or owner == os.geteuid():
        return False
    named = os.environ.get(TRUST, "")
    # A folder with a colon in its path can be named alone.
    trusted = filter(None, (named, *named.split(os.pathsep)))
    if any(entry == "*" or os.path.realpath(entry) == os.path.realpath(path) for entry in trusted):
        return False
    return owner != _owner_of_new(path)


def _owner_of_new(path: str | os.PathLike[str]) -> int:
    """Return the owner of what this process makes beside a path: some file systems have users of
    their own.
    """
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return os.geteuid()


def _user_name(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def refuse_links(path: str | os.PathLike[str]) -> None:
    """Refuse a stage in which somebody put a symbolic link, through which a run would write
    elsewhere.

    Raises
    ------
    ValueError
        With the first link found.

    Notes
    -----
    Lists every folder of the stage, a million files in a second or two on a local disk.
    """
    folders = [os.fspath(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise ValueError(
                        f"{entry.path} is a symbolic link, which blockbuster never puts into a stage; see who "
                        "made it, and remove it."
                    )
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def is_open_to_others(path: str | os.PathLike[str]) -> bool:
    """Return whether other users may write to a folder, where the environment does not ask for
    it.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    return hasattr(os, "geteuid") and bool(mode & 0o022 & ~private_mode())
