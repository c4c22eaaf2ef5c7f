"""Tasks that take turns: for a device that one process has, and that two evaluations must not share."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

__all__ = ["ONE_AT_A_TIME", "take_turns"]

# In the environment of a worker: all its tasks take turns.
ONE_AT_A_TIME = "BLOCKBUSTER_ONE_AT_A_TIME"
_turn = threading.Lock()


def take_turns(wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Return what only one thread of this process can be in, where that is wanted here or by the environment.

    Examples
    --------
    >>> with take_turns(True):
    ...     _turn.locked()
    True
    >>> with take_turns(False):
    ...     _turn.locked()
    False
    """
    return _turn if wanted or os.environ.get(ONE_AT_A_TIME) else contextlib.nullcontext()
