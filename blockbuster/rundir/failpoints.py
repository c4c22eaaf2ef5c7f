"""Points of a run at which a test can kill it; without its environment variable nothing happens."""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "BLOCKBUSTER_FAIL_POINT"
_times: Counter[str] = Counter()


def reach(point: str) -> None:
    """Pass a point of the run.

    Parameters
    ----------
    point : str
        Its name.

    Notes
    -----
    ``BLOCKBUSTER_FAIL_POINT=NAME:N`` kills the process with SIGKILL when the point is passed for
    the N-th time, counted from 1; ``list:FILE`` adds the names of all points that are passed to a
    file.
    """
    plan = os.environ.get(VARIABLE)
    if plan:
        _act(plan, point)


def _act(plan: str, point: str) -> None:
    name, _, value = plan.partition(":")
    if name == "list":
        with open(value, "a") as file:
            file.write(point + "\n")
        return
    _times[point] += 1
    if name == point and _times[point] == int(value):
        os.kill(os.getpid(), signal.SIGKILL)
