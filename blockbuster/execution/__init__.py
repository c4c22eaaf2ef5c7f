"""Where tasks run: dask's configured scheduler, or the workers of an active client."""

from blockbuster.execution.attempts import Attempt, clear_attempts, dead_attempts
from blockbuster.execution.execution import (
    ONE_AT_A_TIME,
    Execution,
    find_execution,
    take_turns,
    with_workers,
)
from blockbuster.execution.running import TaskWatch, max_keys, run_tasks
from blockbuster.execution.stopping import RunStoppedError, StopCheck

__all__ = [
    "ONE_AT_A_TIME",
    "Attempt",
    "Execution",
    "RunStoppedError",
    "StopCheck",
    "TaskWatch",
    "clear_attempts",
    "dead_attempts",
    "find_execution",
    "max_keys",
    "run_tasks",
    "take_turns",
    "with_workers",
]
