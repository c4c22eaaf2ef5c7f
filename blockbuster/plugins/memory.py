"""A device that runs out of memory: the tile is tried again in smaller parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from blockbuster.predict.memory import give_back_device_memory, is_out_of_memory

logger = logging.getLogger("blockbuster")


def evaluate_within_memory(evaluate: Callable[[Any], Any], settings: Iterable[Any], remedy: str) -> Any:
    """Evaluate a model, and again with the next setting while its device runs out of memory.

    Parameters
    ----------
    evaluate : callable
        Takes a setting; it must start over at each call.
    settings : iterable
        From the one that is wanted to the one that takes least memory, e.g. batch sizes 8, 4, 2, 1.
    remedy : str
        What to do where none suffices.

    Returns
    -------
    object
        What `evaluate` returned.

    Raises
    ------
    MemoryError
        If the device ran out of memory with all settings; the message has `remedy`.

    Examples
    --------
    >>> def evaluate(batch_size):
    ...     if batch_size > 2:
    ...         raise RuntimeError("CUDA out of memory.")
    ...     return batch_size
    >>> evaluate_within_memory(evaluate, (8, 4, 2, 1), "choose smaller tiles")
    2
    """
    said = ""
    for setting in settings:
        try:
            return evaluate(setting)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).strip().partition("\n")[0]
        # Only now is the error gone, whose traceback held the arrays of the evaluation.
        give_back_device_memory()
        logger.warning("a model ran out of memory with %r: %s", setting, said)
    raise MemoryError(f"the device ran out of memory ({said}), in the smallest parts too; {remedy}")
