"""Lock files that keep two runs apart, on a file system that several machines may share.

A lock is one JSON file that says which process holds it; its modification time is a heartbeat. It
appears complete or not at all (written beside, then linked to its name), and a process that dies
leaves it. The next process judges it:

- same boot of the same host, same pid namespace: held while that process lives;
- same host, last heartbeat before this host was booted: stale;
- anything else: stale once the heartbeat is older than five minutes by the clock of the file
  system.

A stale file is removed only by the process that holds the claim to it: a second lock file beside
it, named after a checksum of the stale one's content. However many processes judge the same file,
one at a time looks at it again and removes it, and none can remove the lock that took its place.
The claim of a process that died is stale in turn and removed in the same way. All of this rests on
links that fail where something exists, which every file system of a cluster has, and not on
``flock``, which some lack and some keep to one host.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args, get_type_hints

from blockbuster.compat import process_status
from blockbuster.identity.sealed import parse_object
from blockbuster.rundir.durable import full_disk_explained

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0
# How long a file that makes no sense may be one that somebody is just writing.
SETTLE_SECONDS = 2.0
KIND = "blockbuster-lock"
HEAD = f'{{"kind": "{KIND}", '.encode()
READ_BYTES = 2**16
DEAD = -1
# On NFS an open file that another host removes fails with the last of them.
GONE = (errno.ENOENT, errno.EISDIR, errno.ESTALE)

_logger = logging.getLogger("blockbuster")


@contextlib.contextmanager
def hold_lock(path: str | os.PathLike[str], what: str, *, wait_seconds: float = 0.0) -> Iterator[RunLock]:
    """Hold a lock file while the block runs; threads of one process exclude each other as well.

    Parameters
    ----------
    path : path
        The lock file; its folder exists.
    what : str
        What is locked, for messages, such as ``"the output /data/x.zarr/labels"``.
    wait_seconds : float
        How long to wait for another run to release it.

    Yields
    ------
    RunLock
        The lock; call its `check` before what must not happen twice.

    Raises
    ------
    RuntimeError
        If another run holds the lock, or what lies at `path` is not a lock file.
    OSError
        If the folder cannot be written to.

    Notes
    -----
    A dozen operations on small files, and a thread that renews the heartbeat every 30 s. A process
    that is killed leaves the file; on the same host the next run takes it over at once, on another
    one five minutes after the last heartbeat.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/x.zarr.labels.blockbuster-lock"
    ...     with hold_lock(path, "the output x.zarr/labels") as lock:
    ...         lock.check()
    ...     os.listdir(folder)
    []
    """
    lock = RunLock(path, what)
    held, ended = False, threading.Event()
    beating = threading.Thread(target=_beat, args=(lock, ended), name=KIND, daemon=True)
    try:
        _acquire(lock, wait_seconds)
        held = True
        _sweep(lock)
        beating.start()
        yield lock
    finally:
        try:
            ended.set()
            if beating.is_alive():
                beating.join()
        finally:  # Ctrl-C may come while the thread is waited for
            _release(lock, held)


class RunLock:
    """A lock file of this process.

    Parameters
    ----------
    path : path
        The lock file.
    what : str
        What is locked, for messages.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with folder as path, hold_lock(f"{path}/lock", "the output x") as lock:
    ...     os.unlink(lock.path)
    ...     try:
    ...         lock.check()
    ...     except RuntimeError as error:
    ...         print("lost" in str(error))
    True
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        # The working directory may change while the lock is held.
        self.path = os.path.abspath(path)
        self.holder = _Holder(
            owner=secrets.token_hex(16),
            host=socket.gethostname(),
            boot_id=_boot_id(),
            namespace=_namespace(),
            pid=os.getpid(),
            start_time=_start_time(os.getpid()),
            since=datetime.now().astimezone().isoformat(" ", "seconds"),
            what=what,
        )
        self.content = json.dumps({"kind": KIND, **asdict(self.holder)}).encode() + b"\n"

    def __str__(self) -> str:
        return f"The lock {self.path} of {self.holder.what}"

    def check(self) -> None:
        """Raise if the lock is no longer ours; otherwise renew its heartbeat.

        Raises
        ------
        RuntimeError
            If the file is gone, or is not the one that this run made.
        """
        try:
            ours = self.touch()
        except OSError as error:
            if error.errno not in GONE:
                raise
            ours = False
        if not ours:
            raise RuntimeError(
                f"{self} was lost: the file is gone or belongs to another "
                "run, as happens when somebody deleted it, or when this process or its file system stood still "
                "for over five minutes. Another run may be at work there; see that it has ended, then run again."
            )

    def touch(self) -> bool:
        """Renew the heartbeat if the file is still ours, and say whether it is."""
        with open(self.path, "r+b") as file:
            if file.read(READ_BYTES) != self.content:
                return False
            # A write takes the server's clock, where utime on some network file systems takes the
            # client's.
            file.seek(0)
            file.write(self.content[:1])
        return True


@dataclass(frozen=True)
class _Holder:
    """The process that a lock file names."""

    owner: str
    host: str
    boot_id: str | None
    namespace: str | None
    pid: int
    start_time: int | float | None
    since: str
    what: str


TYPES = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(_Holder).items()}


@dataclass(frozen=True)
class _Found:
    """What lies at the path of a lock; its modification time is in ns."""

    raw: bytes
    modified: int
    regular: bool = True

    @property
    def holder(self) -> _Holder | None:
        return _parse(self.raw) if self.regular else None

    @property
    def torn(self) -> bool:
        """Whether a process of ours died while it wrote this in place."""
        return self.regular and (not self.raw or (self.raw.startswith(HEAD) and not self.raw.endswith(b"}\n")))


def _parse(raw: bytes) -> _Holder | None:
    fields = parse_object(raw)
    if fields is None or fields.get("kind") != KIND:
        return None
    if any(type(fields.get(name)) not in types for name, types in TYPES.items()):
        return None
    # The range of pid_t, outside of which os.kill means a group of processes, or fails.
    return _Holder(**{name: fields[name] for name in TYPES}) if 0 < fields["pid"] < 2**31 else None


def _look(path: str) -> _Found | None:
    """See what lies at a path, ``None`` where nothing does."""
    try:
        # Opening a pipe or a device could hang.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return _Found(b"", 0, regular=False)
        with open(path, "rb") as file:
            return _Found(file.read(READ_BYTES), os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None


def _acquire(lock: RunLock, wait_seconds: float) -> None:
    end = time.monotonic() + wait_seconds
    pause = 0.05
    while True:
        found = _attempt(lock)
        if found is None:
            return
        left = end - time.monotonic()
        if left <= 0:
            raise RuntimeError(_refusal(lock, found))
        time.sleep(min(pause, left))
        pause = min(1.5 * pause, 1.0)


def _attempt(lock: RunLock) -> _Found | None:
    """Try to get the lock: give what is in the way, ``None`` when it is ours."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = _look(lock.path)
        if found is None:
            _create(lock, lock.path)
        elif found.raw == lock.content:
            return None
        elif not _clear(lock, found, time.monotonic() > deadline):
            return found


def _clear(lock: RunLock, found: _Found, settled: bool) -> bool:
    """Take a stale lock away, or give an unclear one a moment; say whether to look again."""
    if found.regular and found.holder is None and not settled:
        time.sleep(0.05)
        return True
    if not _is_stale(lock, found):
        return False
    if _take_away(lock, lock.path, found):
        _logger.info("%s is taken over: its run is gone.", lock)
        return True
    time.sleep(0.01)
    return not settled


def _create(lock: RunLock, path: str) -> None:
    """Put a complete lock file in place if nothing is there; whose it then is shows its content."""
    with _temporary(lock) as name:
        try:
            os.link(name, path)
        except FileExistsError:
            # Also NFS's answer when the reply to a first, successful request was lost.
            return
        except OSError:
            # No hard links here, or a fault that the next line meets as well and reports.
            with contextlib.suppress(FileExistsError):
                _write_new(path, lock.content)


@contextlib.contextmanager
def _temporary(lock: RunLock) -> Iterator[str]:
    """Yield the path of a complete lock file under another name, which is removed."""
    # By such a name `_sweep` knows a file for ours.
    name = f"{lock.path}-{secrets.token_hex(8)}"
    try:
        _write_new(name, lock.content)
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _write_new(path: str, data: bytes) -> None:
    with full_disk_explained(path, len(data)):
        try:
            with open(path, "xb") as file:
                try:
                    file.write(data)
                    file.flush()
                except BaseException:
                    os.unlink(path)
                    raise
        except OSError as error:
            error.filename = error.filename or path
            raise


def _is_stale(lock: RunLock, found: _Found) -> bool:
    """Return whether a run that ended, or died, left what lies there."""
    mine, other = lock.holder, found.holder
    if other is None:
        return found.torn and _age(lock, found) > STALE_SECONDS
    if _is_near(mine, other):
        alive = _is_alive(other)
        if alive is not None:
            return not alive
    age, boots = _age(lock, found), {mine.boot_id, other.boot_id}
    is_other_boot = mine.host == other.host and None not in boots and len(boots) == 2
    # A heartbeat after this host was booted is not from before: another host has its name.
    return (is_other_boot and age > _uptime()) or age > STALE_SECONDS


def _age(lock: RunLock, found: _Found) -> float:
    """Seconds since the last heartbeat by the file system's clock, as the clocks of hosts
    differ.
    """
    with _temporary(lock) as name:
        return max(0.0, (os.stat(name).st_mtime_ns - found.modified) / 1e9)


def _is_near(mine: _Holder, other: _Holder) -> bool:
    """Return whether a pid of the other means the same process here."""
    known = mine.boot_id is not None and (mine.namespace is not None or sys.platform != "linux")
    return known and (mine.host, mine.boot_id, mine.namespace) == (other.host, other.boot_id, other.namespace)


def _is_alive(holder: _Holder) -> bool | None:
    """Return whether a process of this host lives, ``None`` where that cannot be told."""
    start_time = _start_time(holder.pid)
    if start_time == DEAD:
        return False
    return None if start_time is None or holder.start_time is None else start_time == holder.start_time


def _boot_id() -> str | None:
    if sys.platform != "linux":
        import psutil

        return str(psutil.boot_time())
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _uptime() -> float:
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    import psutil

    return time.time() - psutil.boot_time()


def _start_time(pid: int) -> int | float | None:
    """When a process started, `DEAD`, or ``None`` where that cannot be told.

    On Linux in ticks since the boot: no change of the clock moves them.
    """
    if sys.platform == "linux":
        fields = process_status(pid)
        if fields is None:
            return None if _exists(pid) else DEAD
        state, n_threads, start = fields[0], int(fields[17]), int(fields[19])
        # Killed, but its parent has not asked for it yet. Threads may outlive the first one.
        return DEAD if state in (b"Z", b"X") and n_threads <= 1 else start
    import psutil

    try:
        process = psutil.Process(pid)
        return DEAD if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return DEAD
    except psutil.Error:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # psutil would look into /proc, which may hide it.
        pass
    return True


def _take_away(lock: RunLock, path: str, found: _Found) -> bool:
    """Remove a file if it is still what was found; say whether it was this call that did."""
    claim = f"{lock.path}-{hashlib.sha256(found.raw).hexdigest()[:16]}"
    try:
        if not _claim(lock, claim) or _look(path) != found:
            return False
        try:
            Path(path).unlink(missing_ok=True)
        except PermissionError as error:
            raise PermissionError(
                error.errno,
                f"{lock.holder.what} cannot be locked: {path} was left by a run of another user that has ended, "
                "and in this folder only they can remove it. Ask them, or give another write_to or stage_dir.",
            ) from error
        return True
    finally:
        _remove_ours(lock, claim)


def _claim(lock: RunLock, claim: str) -> bool:
    _create(lock, claim)
    other = _look(claim)
    if other is None or other.raw == lock.content:
        return other is not None
    if _is_stale(lock, other):
        _take_away(lock, claim, other)
    return False


def _remove_ours(lock: RunLock, path: str) -> bool:
    """Remove a file if this lock made it, and say whether it was there."""
    found = _look(path)
    ours = found is not None and found.raw == lock.content
    if ours:
        Path(path).unlink(missing_ok=True)
    return ours


def _sweep(lock: RunLock) -> None:
    """Remove what processes left that were killed while they made or took over this lock."""
    folder, name = os.path.split(lock.path)
    ours = re.compile(re.escape(name) + "-[0-9a-f]{16}")
    deadline = time.monotonic() + SETTLE_SECONDS
    with contextlib.suppress(OSError):
        for other in filter(ours.fullmatch, os.listdir(folder)):
            # Files of one process have the same content, and thus one claim, which another run may
            # hold.
            path = os.path.join(folder, other)
            while (found := _look(path)) is not None and _is_stale(lock, found):
                if _take_away(lock, path, found) or time.monotonic() >= deadline:
                    break
                time.sleep(0.01)


def _beat(lock: RunLock, ended: threading.Event) -> None:
    """Renew the heartbeat until the block has ended."""
    while not ended.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            lock.touch()


def _release(lock: RunLock, held: bool) -> None:
    """Remove the file if it is ours; what prevents that is not to hide how the block ended."""
    # A forked child leaves the block as well when an error ends it.
    if os.getpid() != lock.holder.pid:
        return
    try:
        # A host that has just judged the heartbeat too old looks at it again before it takes the
        # file.
        with contextlib.suppress(OSError):
            lock.touch()
        # Ctrl-C can come between making the file and knowing it.
        if not _remove_ours(lock, lock.path) and held:
            _logger.warning("%s was lost while it was held; another run may have worked at the same time.", lock)
    except OSError as error:
        _logger.warning("%s could not be removed (%s); it is stale once this process has ended.", lock, error)


def _refusal(lock: RunLock, found: _Found) -> str:
    what, holder = lock.holder.what, found.holder
    if holder is None:
        return (
            f"{what} cannot be locked: {lock.path} is in the way and is not a complete lock file of blockbuster; "
            "it is left alone. See what it is, then move or delete it; an empty or torn lock file is taken over "
            "when it is five minutes old."
        )
    remedy = f"The lock is the file {lock.path}, which the end of that process frees."
    if not _is_near(lock.holder, holder):
        remedy = (
            f"If it is certainly gone, delete the lock file {lock.path}, or wait: it is taken over five minutes "
            "after the last heartbeat."
        )
    return (
        f"{what} is locked by process {holder.pid} on {holder.host}, since {holder.since}, last heartbeat "
        f"{_age(lock, found):.0f} s ago. Wait for that run or stop it. {remedy}"
    )
