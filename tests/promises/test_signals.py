"""Ctrl-C and SIGTERM: no new work, the running calls end, and the next call continues."""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from fatal import wait_until
from naive import partition_fault
from outcomes import blobs, write_image
from scipy import ndimage
from zygote import processes_of_session

from blockbuster import tile_process

pytestmark = pytest.mark.slow

N_TILES, TILES_PER_TASK, N_WORKERS = 16, 4, 2
# So many calls of fn end at once; later ones wait until they may.
N_FREE = 8
N_BEGUN = N_FREE + N_WORKERS
OPTIONS = {"tile_shape": (16, 16), "tiles_per_task": TILES_PER_TASK, "write_to": "out.zarr"}
ARGV = "image.zarr --fn slow:find --tile-shape 16,16 --tiles-per-task 4 --write-to out.zarr --workers 2"
# fn's own wait is longer: who leaves before did not wait for it.
SOON, FN_SECONDS = 45, 120
SLOW = f"""
import os, time
from scipy import ndimage

def find(tile):
    n = 0
    while True:
        try:
            os.close(os.open(os.path.join("begun", str(n)), os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            n += 1
    end = time.monotonic() + {FN_SECONDS}
    while n >= {N_FREE} and not os.path.exists(os.path.join("state", "go")) and time.monotonic() < end:
        time.sleep(0.01)
    with open(os.path.join("ended", str(n)), "x"):
        return ndimage.label(tile)[0]
"""


@pytest.fixture
def here(folder, monkeypatch):
    """The working directory, with an image and a function that waits for leave."""
    write_image("image.zarr", blobs((64, 64), density=0.5))
    (folder / "slow.py").write_text(SLOW)
    for name in ("begun", "ended", "state"):
        (folder / name).mkdir()
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return folder


def count(name):
    return len(os.listdir(name))


def let_go():
    Path("state/go").touch()


def wait_until_waiting(n_begun=N_BEGUN):
    """Wait until so many calls of fn have begun, and the main thread waits for them.

    Python does not see a signal that comes just before that until it has waited.
    """
    wait_until(lambda: count("begun") == n_begun)
    time.sleep(0.3)


def wait_until_stopped():
    """Wait until tasks are asked to stop; they look a quarter of a second after they last did, or later."""
    wait_until(lambda: os.path.exists("out.zarr.labels.blockbuster-stage/stop"))
    time.sleep(0.3)


class Command:
    """`blockbuster segment` in a process of its own."""

    def __init__(self, argv, *within):
        command = [*within, sys.executable, "-m", "blockbuster", "segment", *shlex.split(argv)]
        with open("log.txt", "w") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        self.within = within

    @property
    def pid(self):
        """Of the command itself, once it runs."""
        own = self.process.pid
        return int(Path(f"/proc/{own}/task/{own}/children").read_text()) if self.within else own

    def text(self):
        return Path("log.txt").read_text()

    def interrupt(self, number, n_begun=N_BEGUN):
        """Send a signal while calls of fn wait, and see it arrive."""
        wait_until(lambda: count("begun") == n_begun or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()
        wait_until_waiting(n_begun)
        assert self.process.poll() is None, self.text()
        os.kill(self.pid, number)
        wait_until(lambda: "ending after the running calls" in self.text())

    def end(self):
        """Give the exit status and what was said."""
        try:
            return self.process.wait(SOON), self.text()
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def check_labels():
    image = zarr.open_array("image.zarr", mode="r")[...]
    labels = zarr.open_array("out.zarr/labels", mode="r")[...]
    assert partition_fault(labels, ndimage.label(image)[0]) == ""
    assert sorted(path for path in os.listdir() if "blockbuster" in path) == []


def check_kept(n_begun=N_BEGUN):
    """See that no call began after the signal, and that what is finished is kept, unseen."""
    assert count("begun") == n_begun
    assert not os.path.exists("out.zarr")
    assert os.path.isfile("out.zarr.labels.blockbuster-stage/manifest.json")
    assert not os.path.exists("out.zarr.labels.blockbuster-lock")


def check_calls():
    """See that only tiles of the tasks that were under way were shown to fn again."""
    assert N_TILES < count("begun") <= N_TILES + N_WORKERS * TILES_PER_TASK


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_F6_a_signal_ends_the_command_after_the_running_calls_and_the_printed_command_continues(
    here, number, status
):
    command = Command(ARGV)
    command.interrupt(number)
    wait_until_stopped()
    assert command.process.poll() is None
    assert count("ended") == N_FREE
    let_go()
    ended, text = command.end()
    assert (ended, count("ended")) == (status, N_BEGUN), text
    check_kept()
    assert "Traceback" not in text
    (again,) = (line.removeprefix("To continue: ") for line in text.splitlines() if "To continue" in line)
    assert shlex.split(again)[0] == "blockbuster"
    again = [sys.executable, "-m", *shlex.split(again)]
    done = subprocess.run(again, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    check_calls()
    check_labels()


def signal_thread(pid, thread, number):
    """Send a signal to one thread of a process."""
    assert ctypes.CDLL(None, use_errno=True).tgkill(pid, thread, number) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("reaches", ["the main thread", "another thread"])
@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT,) * 2, (signal.SIGINT, signal.SIGTERM)])
def test_F6_a_second_signal_ends_the_command_while_fn_still_runs(here, first, second, reaches):
    command = Command(ARGV)
    pid = command.pid
    command.interrupt(first)
    if reaches == "another thread":
        # It does not wake the main thread, as one does not that comes just before that begins to wait.
        wait_until_stopped()
    threads = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    signal_thread(pid, pid if reaches == "the main thread" else threads[-1], second)
    status, text = command.end()
    assert status == -second
    assert "Traceback" not in text
    assert (count("begun"), count("ended")) == (N_BEGUN, N_FREE)
    assert not os.path.exists("out.zarr")
    let_go()
    done = Command(f"{ARGV} --resume").end()
    assert done == (0, "")
    check_calls()
    check_labels()


def makes_containers():
    """Whether this process may have others that are the first of a namespace."""
    words = ("unshare", "--pid", "--fork", "true")
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.skipif(not makes_containers(), reason="needs unshare and the right to make namespaces of processes")
def test_F6_a_second_signal_ends_the_command_also_as_the_first_process_of_a_container(here):
    # The system keeps from it all signals that it has no handler for.
    command = Command(ARGV, "unshare", "--pid", "--fork", "--kill-child")
    command.interrupt(signal.SIGINT)
    os.kill(command.pid, signal.SIGTERM)
    assert command.end()[0] == 128 + signal.SIGTERM
    assert count("ended") == N_FREE


def test_F6_ctrl_c_at_a_terminal_reaches_worker_processes_too_and_the_next_command_continues(here):
    command = Command(f"{ARGV} --scheduler processes")
    wait_until_waiting()
    # A terminal sends it to all processes of the command.
    os.killpg(command.process.pid, signal.SIGINT)
    wait_until(lambda: "ending after the running calls" in command.text())
    wait_until_stopped()
    let_go()
    status, text = command.end()
    assert status == 130, text
    assert "Traceback" not in text
    check_kept()
    wait_until(lambda: not processes_of_session(command.process.pid))
    assert Command(f"{ARGV} --scheduler processes --resume").end() == (0, "")
    check_calls()
    check_labels()


def segment(folder, **options):
    """What a script does."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    import slow

    with dask.config.set(scheduler="threads", num_workers=N_WORKERS):
        tile_process("image.zarr", slow.find, **OPTIONS, **options)


def test_F6_ctrl_c_in_a_script_is_a_keyboard_interrupt_that_says_how_to_continue(zygote, here):
    child = zygote.start(segment, here)
    wait_until_waiting()
    child.kill(signal.SIGINT)
    wait_until_stopped()
    let_go()
    outcome = child.wait(SOON)
    assert outcome.error == "KeyboardInterrupt"
    assert "call again with resume=True" in outcome.message
    assert f"{here}/out.zarr.labels.blockbuster-stage" in outcome.message
    assert count("ended") == N_BEGUN
    check_kept()
    zygote.run(segment, here, resume=True).result()
    check_calls()
    check_labels()


def test_F6_sigterm_ends_a_script_like_sigkill_and_the_next_run_continues(zygote, here):
    child = zygote.start(segment, here)
    wait_until_waiting()
    child.kill(signal.SIGTERM)
    assert child.wait(SOON).status == -signal.SIGTERM
    assert (count("begun"), count("ended")) == (N_BEGUN, N_FREE)
    let_go()
    zygote.run(segment, here, resume=True).result()
    check_calls()
    check_labels()


def report_handlers(folder):
    """Give the handlers before a run and as fn sees them."""
    os.chdir(folder)
    numbers = (signal.SIGINT, signal.SIGTERM)
    seen = [str([signal.getsignal(number) for number in numbers])]

    def find(tile):
        seen.append(str([signal.getsignal(number) for number in numbers]))
        return ndimage.label(tile)[0]

    with dask.config.set(scheduler="synchronous"):
        tile_process(np.ones((8, 8), "uint8"), find, write_to="out.zarr")
    return seen


def test_F6_the_library_installs_no_signal_handlers(zygote, tmp_path):
    before, during = zygote.run(report_handlers, tmp_path).result()
    assert before == during
