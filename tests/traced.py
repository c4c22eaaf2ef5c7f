"""Memory that a call allocates, without what the interpreter allocates for itself meanwhile."""

import tracemalloc
from typing import Any, NamedTuple


class Traced(NamedTuple):
    """What a call returned, the bytes that it left allocated, and the most that it had at a time."""

    result: Any
    held: int
    peak: int


def traced(call):
    """The least of three calls: a table of the interpreter's own, such as that of interned strings, grows by
    megabytes in whichever call adds the one entry too many, and in no other for long.
    """
    found = []
    for _ in range(3):
        tracemalloc.start()
        try:
            result = call()
            found.append(tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
    held, peaks = zip(*found, strict=True)
    return Traced(result, min(held), min(peaks))
