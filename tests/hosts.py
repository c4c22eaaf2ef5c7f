"""Hosts of one machine: network namespaces on a bridge, each with an address, and a folder that all share."""

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NETWORK = "10.213.77"
PORT = 8786


@dataclass
class Hosts:
    """Network namespaces that see each other, and nothing else."""

    prefix: str = field(default_factory=lambda: f"bb{uuid.uuid4().hex[:6]}")
    names: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __enter__(self):
        self._namespace("hub")
        self._in("hub", "ip link add bridge type bridge")
        self._in("hub", "ip link set bridge up")
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            _end(process)
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", self._full(name)], check=False)

    def add(self, name):
        """Add a host; gives its address."""
        address = f"{NETWORK}.{len(self.names)}"
        self._namespace(name)
        here, there = f"{self.prefix}a{len(self.names)}", f"{self.prefix}b{len(self.names)}"
        _do(f"ip link add {here} type veth peer name {there}")
        _do(f"ip link set {here} netns {self._full('hub')}")
        _do(f"ip link set {there} netns {self._full(name)}")
        self._in("hub", f"ip link set {here} master bridge")
        self._in("hub", f"ip link set {here} up")
        self._in(name, f"ip link set {there} name eth0")
        self._in(name, f"ip address add {address}/24 dev eth0")
        self._in(name, "ip link set eth0 up")
        self.names[name] = address
        return address

    def start(self, host, *command, hide=None, **environment):
        """Start a command on a host, in a session of its own; `hide` is a folder that it sees empty."""
        words = [str(word) for word in command]
        if hide is not None:
            words = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{hide}" && exec "$@"', "-", *words]
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        with Path(f"{host}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._full(host), *words],
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[f"{host}-{len(self.processes)}"] = process
        return process

    def unplug(self, host):
        """Cut a host off: nothing arrives, and nobody is told."""
        self._in(host, "ip link set eth0 down")

    def _namespace(self, name):
        _do(f"ip netns add {self._full(name)}")
        self.names[name] = ""
        self._in(name, "ip link set lo up")

    def _in(self, name, command):
        _do(f"ip netns exec {self._full(name)} {command}")

    def _full(self, name):
        return f"{self.prefix}-{name}"


def dask_command(*words):
    """The `dask` command of this environment."""
    command = Path(sys.executable).with_name("dask")
    return [str(command) if command.exists() else shutil.which("dask"), *map(str, words)]


def kill(process):
    """Kill a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)


def _end(process):
    kill(process)
    process.wait()


def _do(command):
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


def missing():
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (Debian: iproute2)"
    try:
        with Hosts() as hosts:
            hosts.add("trial")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return ""


@contextlib.contextmanager
def hosts_or_skip():
    """Hosts, or a test that is skipped with the reason."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Hosts() as hosts:
        yield hosts
