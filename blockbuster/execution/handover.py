"""The way of results from the tasks to the phase that waits for them: each one once, and none missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Handover"]

MISSING = (
    "the scheduler has ended, but {n} of {total} tasks gave no result, the first of them {task}, and the run "
    "does not go on without it; use one of dask's own schedulers if this one is not."
)
TWICE = "the scheduler gave the result of {task} twice, or without having been asked for it"


class Handover:
    """Hand the result of each task to the phase that waits for it, once.

    Parameters
    ----------
    numbers : sequence of int
        One per task, 0 or more.
    on_result : callable
        Called with each result.
    describe : callable
        Name a task in a message.

    Notes
    -----
    Takes a byte for each number up to the largest one.

    Examples
    --------
    >>> handover = Handover([3, 7], print, "task {}".format)
    >>> handover.take(7, "seven")
    seven
    >>> try:
    ...     handover.close()
    ... except RuntimeError as error:
    ...     print(str(error)[:75])
    the scheduler has ended, but 1 of 2 tasks gave no result, the first of them
    """

    def __init__(
        self, numbers: Sequence[int], on_result: Callable[[Any], None], describe: Callable[[int], str]
    ) -> None:
        self._total = len(numbers)
        self._on_result = on_result
        self._describe = describe
        self._awaited = bytearray(max(numbers) + 1)
        for number in numbers:
            self._awaited[number] = 1

    def take(self, number: int, result: Any) -> None:
        """Take the result of a task, and pass it on.

        Raises
        ------
        RuntimeError
            If it was taken before.
        """
        if not self._awaited[number]:
            raise RuntimeError(TWICE.format(task=self._describe(number)))
        self._awaited[number] = 0
        self._on_result(result)

    def close(self) -> None:
        """Assert that every task has given its result.

        Raises
        ------
        RuntimeError
            If one has not.
        """
        n_missing = sum(self._awaited)
        if n_missing:
            first = self._describe(self._awaited.index(1))
            raise RuntimeError(MISSING.format(n=n_missing, total=self._total, task=first))
