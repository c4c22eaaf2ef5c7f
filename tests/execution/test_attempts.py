"""Marks of tasks whose processes died, left by processes that are really killed."""

import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from blockbuster.execution import Attempt, attempts, clear_attempts, dead_attempts

DYING = """
import os, signal, sys
from blockbuster.execution import Attempt
for task, step in zip(sys.argv[2::2], map(int, sys.argv[3::2])):
    attempt = Attempt(sys.argv[1], task).__enter__()
    if step >= 0:
        attempt.at(step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def directory(tmp_path):
    clear_attempts(str(tmp_path))
    return str(tmp_path)


def die(directory, *tasks_and_steps):
    """Have a process killed that is at these steps of these tasks."""
    command = [sys.executable, "-c", DYING, directory, *map(str, tasks_and_steps)]
    assert subprocess.run(command).returncode == -9


def test_a_task_that_ends_leaves_nothing(directory, tmp_path):
    with Attempt(directory, "brick-3") as attempt:
        attempt.at(7)
        assert dead_attempts(directory) == []
    with pytest.raises(ValueError, match="fn failed"), Attempt(directory, "brick-3"):
        raise ValueError("fn failed")
    assert list((tmp_path / "attempts").iterdir()) == []


def test_deaths_are_counted_at_the_step_where_they_happened(directory):
    for step in (7, 7, -1):
        die(directory, "brick-3", step)
    die(directory, "brick-33", 7)
    with Attempt(directory, "brick-3") as attempt:
        assert [attempt.deaths_at(step) for step in (7, -1, 6)] == [2, 1, 0]
    assert sorted((dead.task, dead.step, dead.alone) for dead in dead_attempts(directory)) == [
        ("brick-3", -1, True),
        ("brick-3", 7, True),
        ("brick-3", 7, True),
        ("brick-33", 7, True),
    ]
    clear_attempts(directory)
    assert dead_attempts(directory) == []


def test_of_tasks_that_died_together_none_is_blamed(directory):
    die(directory, "brick-3", 7, "brick-4", 2)
    assert [dead.alone for dead in dead_attempts(directory)] == [False, False]
    with Attempt(directory, "brick-3") as attempt:
        assert attempt.deaths_at(7) == 0


def test_a_task_that_died_before_runs_alone(directory):
    die(directory, "brick-3", 7)
    order = []

    def again():
        with Attempt(directory, "brick-3"):
            order.append("suspect begins")
            time.sleep(0.2)
            order.append("suspect ends")

    def other():
        with Attempt(directory, "brick-5"):
            order.append("other")

    with Attempt(directory, "brick-4"):
        threads = [threading.Thread(target=again)]
        threads[0].start()
        time.sleep(0.2)
        # Those that are not suspects need not wait for one another.
        with Attempt(directory, "brick-6"):
            order.append("first ends")
    while "suspect begins" not in order:
        time.sleep(0.01)
    threads.append(threading.Thread(target=other))
    threads[1].start()
    for thread in threads:
        thread.join()
    assert order == ["first ends", "suspect begins", "suspect ends", "other"]


def test_a_task_that_waits_for_its_turn_is_no_suspect(directory):
    """Its thread does nothing; counted, it would hide that the one that dies did so alone, time after time."""
    die(directory, "brick-3", 7)
    waiting = f"""
import os, signal, threading, time
from blockbuster.execution import Attempt, attempts
with Attempt({directory!r}, "brick-3") as attempt:
    attempt.at(7)
    thread = threading.Thread(target=Attempt({directory!r}, "brick-4").__enter__, daemon=True)
    thread.start()
    while not attempts._turns._changed._waiters:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", waiting]).returncode == -9
    with Attempt(directory, "brick-3") as attempt:
        assert attempt.deaths_at(7) == 2
    assert {dead.task for dead in dead_attempts(directory)} == {"brick-3"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says so")
def test_a_process_that_is_being_removed_is_known():
    assert not attempts._is_exiting(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)
        assert attempts._is_exiting(process.pid)
    assert not attempts._is_exiting(process.pid)


def test_without_a_directory_or_after_its_end_nothing_is_marked(tmp_path):
    with Attempt(None, "brick-3") as attempt:
        attempt.at(1)
        assert attempt.deaths_at(1) == 0
    with Attempt(str(tmp_path / "gone"), "brick-3") as attempt:
        attempt.at(1)
    assert list(tmp_path.iterdir()) == []
