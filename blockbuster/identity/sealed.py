"""JSON objects that files hold: whatever a file holds, it is such an object, or known to be
damaged.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

SEAL = "crc"


def parse_object(data: bytes | str) -> dict[str, Any] | None:
    """Parse a JSON object; ``None`` for what is none.

    Examples
    --------
    >>> parse_object(b'{"a": 1}'), parse_object("[1]"), parse_object(bytes([255]))
    ({'a': 1}, None, None)
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def seal(found: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum to an object.

    Examples
    --------
    >>> seal({"a": 1})
    {'a': 1, 'crc': 'fba18e97'}
    """
    return {**found, SEAL: _checksum(found)}


def unseal(data: bytes | str, *, optional: bool = False) -> dict[str, Any]:
    """Parse an object and check its checksum, which is left out.

    Parameters
    ----------
    data : bytes or str
        JSON.
    optional : bool
        Whether earlier versions wrote it without a checksum.

    Raises
    ------
    ValueError
        That says in what it is damaged.
    """
    found = parse_object(data)
    if found is None:
        raise ValueError("it holds no JSON object")
    if SEAL not in found and optional:
        return found
    expected = found.pop(SEAL, None)
    if expected != _checksum(found):
        raise ValueError("its checksum differs")
    return found


def _checksum(found: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(found).encode()):08x}"
