"""Files that are complete or absent, checksums of files, and what is said when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from blockbuster.identity.sealed import parse_object

WRITING = ".writing-"
# A zarr.json, for the message that not even that fits.
METADATA_BYTES = 4096
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    with replaced_file(path, len(data)) as file:
        file.write(data)


def write_durably(path: str | os.PathLike[str], data: bytes, *, owner: str = "") -> None:
    """Write a small file that after a power cut is as it was, or complete, and from the return on
    complete.

    Parameters
    ----------
    path : path
        The file.
    data : bytes
        What it will hold.
    owner : str
        Word in the name that it has until it is complete, by which `sweep_unfinished` knows it.
    """
    with replaced_file(path, len(data), owner=owner) as file:
        file.write(data)
        file.flush()
        # Otherwise the new name may reach the disk before what it stands for.
        os.fsync(file.fileno())
    flush_path(os.path.dirname(path))


def sweep_unfinished(folder: str | os.PathLike[str], owner: str) -> None:
    """Remove what processes left that were killed while they wrote into a folder durably, with this
    owner.

    Nobody else may write there with this owner now.
    """
    unfinished = re.compile(re.escape(f"{WRITING}{owner}-") + "[0-9a-f]{32}")
    # One may be allowed to make files in a folder, and not to see which there are.
    with contextlib.suppress(PermissionError):
        for name in filter(unfinished.fullmatch, os.listdir(folder)):
            os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def replaced_file(
    path: str | os.PathLike[str], n_bytes: int, *, owner: str = "", folder: str = ""
) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` when the block ends well, and else is removed.

    Parameters
    ----------
    path : path
        What a reader finds as it was, or complete.
    n_bytes : int
        How much will be written, for the message that the disk is full.
    owner : str
        Word in its name until then.
    folder : str
        Where it lies until then, on the same file system; unless given, beside `path`.
    """
    with full_disk_explained(path, n_bytes), contextlib.ExitStack() as failed:
        # Not a file of `tempfile`, which nobody else could read. Closing it writes the rest, and
        # finds the disk full once more.
        unique = f"{owner}-{uuid.uuid4().hex}" if owner else uuid.uuid4().hex
        new = os.path.join(folder or os.path.dirname(path), WRITING + unique)
        # Ctrl-C may come as the file is made, or when it has just taken its place.
        failed.callback(Path(new).unlink, missing_ok=True)
        with open(new, "xb") as file:
            yield file
        os.replace(new, path)
        failed.pop_all()


def read_object(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read a JSON object from a file; ``None`` where there is none, whatever the file holds."""
    try:
        return parse_object(Path(path).read_bytes())
    except OSError:
        return None


def checksum_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """CRC-32 over the sizes and bytes of some files, eight hex digits; empty if one is not there.

    Notes
    -----
    Reads every file once, at about 4 GB/s from the system's cache. A CRC finds every damage within
    32 bits in a row, and any other with a probability of 1 - 2**-32.
    """
    try:
        return checksum_parts(Path(path).read_bytes() for path in paths)
    except FileNotFoundError:
        return ""


def checksum_parts(parts: Iterable[bytes]) -> str:
    """CRC-32 over the sizes and bytes of what some files hold, as `checksum_files` gives it."""
    crc = 0
    for data in parts:
        crc = zlib.crc32(data, zlib.crc32(len(data).to_bytes(8, "little"), crc))
    return f"{crc:08x}"


def flush_folder(folder: str | os.PathLike[str]) -> None:
    """Have the system write every file below a folder to the disk, so that a power cut loses
    none.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            flush_path(os.path.join(parent, name))
        flush_path(parent)


def flush_path(path: str | os.PathLike[str]) -> None:
    """Have the system write a file, or the names in a folder, to the disk, where this user may open
    it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        # Some file systems cannot flush a folder, or what was opened for reading.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it that are missing, such that a power cut does not take them
    away.
    """
    missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    os.makedirs(path, exist_ok=True)
    for folder in missing:
        flush_path(folder.parent)


@contextlib.contextmanager
def folders_made(*paths: str | os.PathLike[str]) -> Iterator[None]:
    """Make folders, and remove in the end those of them that were missing and are empty."""
    missing = [folder for path in paths for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    try:
        for path in paths:
            make_folders(path)
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Free space on the file system of a path, or of the nearest folder above it that exists."""
    return shutil.disk_usage(existing_folder(path)).free


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder, or the nearest one above a path that exists."""
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


@contextlib.contextmanager
def full_disk_explained(path: str | os.PathLike[str], n_bytes: int) -> Iterator[None]:
    """Say where space is missing, and how much, when a block that writes finds the disk full.

    Parameters
    ----------
    path : path
        What is being written.
    n_bytes : int
        How much that is at most, before compression.

    Raises
    ------
    OSError
        With the number of the original error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"there is no room for {os.fspath(path)}: {n_bytes:,} bytes are needed at most, "
            f"{free_bytes(path):,} are free ({os.strerror(error.errno or 0)}). Make room there and run again; "
            "with resume=True what is finished is kept.",
        ) from error
