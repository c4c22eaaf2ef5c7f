"""Runs in processes of their own, forked from one that has imported everything, so that many can be killed.

A run costs what it does, and not a second of imports. The parent of all has one thread only, and so each
child is as sound as a new process.
"""

import contextlib
import functools
import gc
import itertools
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

HEAD = struct.Struct("<Q")
SECONDS_BETWEEN_LOOKS = 0.005


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    status : int
        Exit status; the number of a signal that killed it, negative.
    value : object
        What the function returned.
    error : str
        Name of the class of what it raised; empty if nothing.
    message : str
        Text and notes of that.
    output : str
        What it printed.
    """

    status: int
    value: Any = None
    error: str = ""
    message: str = ""
    output: str = ""

    @property
    def killed(self):
        return self.status == -signal.SIGKILL

    def result(self):
        """What the function returned, or why there is nothing."""
        assert (self.status, self.error) == (0, ""), f"{self.status} {self.error}: {self.message}\n{self.output}"
        return self.value


class Zygote:
    """The process that has imported everything; leave its block to end it and what still runs."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="zygote-")
        # Masks of noise are one object of thousands of labels, as if cells were fused.
        warnings = ["-W", "error", "-W", "ignore:runaway merging"]
        command = [sys.executable, *warnings, "-c", "import zygote; zygote.serve()"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        environment = {**os.environ, **parent_environment()}
        # The working directory may be that of a test, which is removed.
        self._process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parent, **pipes)
        self._tickets = itertools.count()
        self._replies = {}
        assert self._reply("ready", timeout=600) is not None, "the zygote did not start"
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._folder.cleanup()

    def start(self, function, *arguments, environment=None, **keywords):
        """Call a function in a process of its own; environment variables are added to the present ones."""
        ticket = next(self._tickets)
        module = sys.modules[function.__module__]
        if module.__name__.rpartition(".")[2].startswith("test_"):
            # The zygote cannot import a test module.
            cloudpickle.register_pickle_by_value(module)
        call = cloudpickle.dumps((function, arguments, keywords))
        child = Child(self, ticket, Path(self._folder.name, str(ticket)))
        self.send("start", ticket, (str(child.path), environment or {}, call))
        child.pid = self._reply(("started", ticket), timeout=600)
        return child

    def run(self, function, *arguments, **keywords):
        """Call a function in a process of its own and wait for its end."""
        return self.start(function, *arguments, **keywords).wait()

    def send(self, *request):
        _write(self._process.stdin.fileno(), request)

    def reply_of(self, child, timeout):
        return self._reply(("ended", child.ticket), timeout)

    def _reply(self, key, timeout):
        end = time.monotonic() + timeout
        while key not in self._replies:
            source = self._process.stdout.fileno()
            if not select.select([source], [], [], max(0, end - time.monotonic()))[0]:
                return None
            reply = _read(source)
            assert reply is not None, "the zygote ended"
            self._replies[reply[0]] = reply[1]
        return self._replies.pop(key)


@dataclass
class Child:
    """A run under way; it leads a session of its own, to which the processes belong that it starts."""

    zygote: Zygote
    ticket: int
    path: Path
    pid: int = 0

    def kill(self, number=signal.SIGKILL):
        """Send a signal, unless it has ended."""
        self.zygote.send("kill", self.ticket, number)

    def wait(self, timeout=600):
        """Wait for the end; a run that hangs is killed, and fails the test."""
        status = self.zygote.reply_of(self, timeout)
        if status is None:
            self.kill()
            raise AssertionError(f"the run did not end within {timeout} s:\n{self.output()}")
        ended = {}
        # A child that is killed as it ends has told nothing, or a part of it.
        with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError):
            ended = pickle.loads(self.path.with_suffix(".pickle").read_bytes())
        return Outcome(status, output=self.output(), **ended)

    def output(self):
        return self.path.with_suffix(".txt").read_text()


def parent_environment():
    """Environment variables of a process that others are forked from."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    # Threads of linear algebra would make it unfit for forks.
    return {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def serve():
    """Be the zygote: fork a child for each request, and tell when it ended."""
    import_all()
    # A child that collects garbage leaves alone what it shares with this process.
    gc.freeze()
    replies = os.dup(1)
    os.dup2(2, 1)
    _write(replies, ("ready", True))
    children = {}
    while True:
        if select.select([0], [], [], SECONDS_BETWEEN_LOOKS if children else None)[0]:
            request = _read(0)
            if request is None:
                break
            _obey(request, children, replies)
        for ticket, pid in list(children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del children[ticket]
                _write(replies, (("ended", ticket), os.waitstatus_to_exitcode(status)))
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)


def _obey(request, children, replies):
    verb, ticket, value = request
    if verb == "kill":
        if ticket in children:
            os.kill(children[ticket], value)
        return
    path, environment, call = value
    # What the call imports is imported here, once for all children.
    function, arguments, keywords = pickle.loads(call)
    assert threading.active_count() == 1
    # Here, since a child may be killed before its first step.
    output = os.open(f"{path}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    pid = os.fork()
    if not pid:
        os.close(replies)
        _live(path, output, environment, functools.partial(function, *arguments, **keywords))
    os.close(output)
    children[ticket] = pid
    _write(replies, (("started", ticket), pid))


def _live(path, output, environment, call):
    """Be a child: run, write down what came of it, and end without a look at what the parent has open."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.update(environment)
    try:
        ended = {"value": call()}
    except BaseException as error:
        traceback.print_exc()
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        ended = {"error": type(error).__name__, "message": text}
    sys.stdout.flush()
    sys.stderr.flush()
    Path(f"{path}.pickle").write_bytes(cloudpickle.dumps(ended))
    os._exit(0)


def import_all():
    """Import what a run imports, and load the kernels for the dtypes that runs of tests have."""
    import dask.array
    import dask.multiprocessing  # noqa: F401
    import distributed  # noqa: F401
    import numpy as np
    import scipy.ndimage
    import zarr.codecs.numcodecs  # noqa: F401

    import blockbuster.cli
    import blockbuster.native
    import blockbuster.process  # noqa: F401
    from blockbuster.grid import BrickGrid, TileGrid
    from blockbuster.kernels.components import join_pairs
    from blockbuster.kernels.stretches import StretchFinder, StretchGroup
    from blockbuster.merge.rules import RULES
    from blockbuster.report import installed_versions
    from blockbuster.rundir.staged import StagedLabels
    from blockbuster.stage.brick_labels import BrickLabels

    installed_versions()
    for ndim, rule in itertools.product((2, 3), ("touch", "agree")):
        grid, start = TileGrid.regular((4,) * ndim, (2,) * ndim, (1,) * ndim), (0,) * ndim
        staged = StagedLabels("", BrickGrid(grid, (2,) * ndim), (0, 1), 1, rule)
        brick = BrickLabels(staged, start, RULES[rule]())
        for tile in grid.indices():
            brick.add(tile, scipy.ndimage.label(np.ones((3,) * ndim))[0])
        brick.sections()
        found, count = StretchFinder().find(np.ones((3,) * ndim, "uint32"), grid.region(start))
        table, final = np.arange(count + 1, dtype="int32"), np.zeros((3,) * ndim, "int32")
        StretchGroup.of([found], np.array([[(0, 3)] * ndim])).fill(np.zeros(1, "int64"), found.box, table, final)
    join_pairs(np.array([[1, 2]]))


def _write(target, message):
    data = pickle.dumps(message)
    data = HEAD.pack(len(data)) + data
    while data:
        data = data[os.write(target, data) :]


def _read(source):
    """The next message; None at the end."""
    head = _read_bytes(source, HEAD.size)
    return pickle.loads(_read_bytes(source, HEAD.unpack(head)[0])) if head else None


def _read_bytes(source, n):
    data = b""
    while len(data) < n:
        part = os.read(source, n - len(data))
        if not part:
            return b""
        data += part
    return data


def processes_of_session(session):
    """Processes that a run started, and that live."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
