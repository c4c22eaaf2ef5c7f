"""The journal: one line for each finished piece of work, added by the driver alone.

A line is a CRC-32 in hex, a blank and a JSON object::

    1f0c9a3e {"task":3,"counts":[4,0,7,1],"crc":"5d1e9c20","fn":0.8}

A line that was torn by a crash, or damaged later, fails its CRC and counts as never written: the
work it stood for is done again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from blockbuster.identity.owners import O_NOFOLLOW
from blockbuster.identity.sealed import parse_object
from blockbuster.rundir.durable import full_disk_explained

JOURNAL = "journal.jsonl"


class Journal:
    """Append records to the journal of a stage directory.

    Parameters
    ----------
    directory : str
        The stage directory; the journal is made where there is none.

    Notes
    -----
    A record costs one system call, however many there are. It survives the death of the process at
    once, and that of the machine from the next `flush` on; a record that was lost, or that outlived
    the files it stands for, is noticed, since it holds their checksum.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Journal(folder) as journal:
    ...         journal.append({"task": 3})
    ...     list(read_journal(folder))
    [{'task': 3}]
    """

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, JOURNAL)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | O_NOFOLLOW, 0o666)
        # A line that was torn is not to take the next one with it.
        if os.fstat(self._file).st_size:
            os.lseek(self._file, -1, os.SEEK_END)
            if os.read(self._file, 1) != b"\n":
                self._write(b"\n")

    def append(self, record: dict[str, Any]) -> None:
        """Add a record."""
        text = json.dumps(record, separators=(",", ":")).encode()
        self._write(b"%08x %s\n" % (zlib.crc32(text), text))

    def _write(self, line: bytes) -> None:
        with full_disk_explained(self.path, len(line)):
            while line:
                line = line[os.write(self._file, line) :]

    def flush(self) -> None:
        """Have the system write the journal to the disk."""
        os.fsync(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)


def read_journal(directory: str | os.PathLike[str], key: str = "") -> Iterator[dict[str, Any]]:
    """Iterate over the records of a journal that are whole, oldest first; none where there is none.

    `key`: only those that have it; lines without the word are not parsed.
    """
    path = os.path.join(directory, JOURNAL)
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        for line in file:
            record = _parse(line) if key.encode() in line else None
            if record is not None and (not key or key in record):
                yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not text or not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    return parse_object(text)
