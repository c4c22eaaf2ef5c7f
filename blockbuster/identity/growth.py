"""What a function holds or names that may grow while it runs: lists, dictionaries and files."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_WATCHED = {"file": 100, "container": 250}
BLOCK_BYTES = 2**20
MAX_PATH = 1024
# A text that is no file yet may be the path of one if it has a separator or a suffix.
PATH_LIKE = re.compile(r"[/\\]|\.\w+\Z")
# The size of a file that is not there.
ABSENT = -1


@dataclass
class Growth:
    """What a function holds or names that may grow while it runs: lists, dictionaries and files.

    Parameters
    ----------
    sizes : dict of str to int
        The way to each, e.g. ``"closure log"``, ``"function > closure log"`` or ``"file k0.log"``,
        and its length, or its size in bytes, when the function was read; -1 for a file that was not
        there.
    looks : dict of str to callable
        Gives the size that it has now.
    grown : dict of str to int
        What was seen to grow, and the size that it had at first.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    looks: dict[str, Callable[[], int]] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)

    def look(self) -> dict[str, int]:
        """Return what has grown and was not returned before, with the size that it had.

        Examples
        --------
        >>> from blockbuster.identity.function import identify_function
        >>> def appending(log):
        ...     return lambda tile: log.append(tile)
        >>> log = []
        >>> growth = identify_function(appending(log)).growth
        >>> log.append(1)
        >>> growth.look(), growth.look()
        ({'closure log': 0}, {})
        """
        grown = {name: size for name, size in self.sizes.items() if self.looks[name]() > size}
        for name in grown:
            del self.sizes[name]
        self.grown = grown | self.grown
        return grown


class WatchedFiles:
    """The files that a function names, and what of it may grow."""

    def __init__(self, before: Mapping[str, int]) -> None:
        self.before = before
        self.growth = Growth()
        self.room = dict(MAX_WATCHED)
        self.digests: dict[str, str] = {}

    def add(self, text: str) -> bool:
        """Note the content of a file, if the text is the path of one; false if it cannot be
        read.
        """
        name = f"file {text}"
        if name not in self.growth.looks and text not in self.digests and 0 < len(text) <= MAX_PATH:
            size = _file_size(text)
            if size != ABSENT or PATH_LIKE.search(text):
                self._watch("file", name, size, functools.partial(_file_size, text))
            size = min(size, self.before.get(name, size))
            if size != ABSENT:
                try:
                    self.digests[text] = digest_file(text, size)
                except OSError:
                    self.digests[text] = "unreadable"
        return self.digests.get(text) != "unreadable"

    def as_before(self, name: str, value: Any) -> Any:
        """Return a container, or a copy of it that is as long as it was."""
        is_watched = self._watch("container", name, len(value), functools.partial(len, value))
        size = self.before.get(name) if is_watched else None
        if size is None or size >= len(value):
            return value
        cut = copy.copy(value)
        while len(cut) > size:
            cut.popitem() if isinstance(cut, dict) else cut.pop()
        return cut

    def _watch(self, kind: str, name: str, size: int, look: Callable[[], int]) -> bool:
        """Watch one more thing, unless its name is taken, or there are many of its kind already."""
        if name in self.growth.looks or not self.room[kind]:
            return False
        self.room[kind] -= 1
        self.growth.sizes[name], self.growth.looks[name] = size, look
        return True


def _file_size(path: str) -> int:
    """Return the size of a regular file in bytes; what is none has no size."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ABSENT
    return status.st_size if stat.S_ISREG(status.st_mode) else ABSENT


def digest_file(path: str, size: int | None = None) -> str:
    """Digest a file, or as many bytes of it."""
    digest = hashlib.sha256()
    left = sys.maxsize if size is None else size
    with open(path, "rb") as file:
        while block := file.read(min(left, BLOCK_BYTES)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()[:16]
