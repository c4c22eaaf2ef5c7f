import contextlib
import errno
import json
import os
import re
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from interrupted import dead_pid

from blockbuster.rundir import lock as lock_module
from blockbuster.rundir.lock import RunLock, hold_lock

NAME = "x.zarr.labels.blockbuster-lock"
WHAT = "the output x.zarr/labels"

# A process without threads forks what competes for the lock: each is a process of its own.
PRELUDE = """
import multiprocessing, os, resource, signal, sys, threading, time
from blockbuster.rundir import lock
from blockbuster.rundir.lock import hold_lock

fork = multiprocessing.get_context("fork")
path = sys.argv[1]
log = os.open(path + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(word):
    os.write(log, f"{word} {os.getpid()}\\n".encode())


def run(target, *arguments, n=1):
    children = [fork.Process(target=target, args=arguments) for _ in range(n)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def enter_together(barrier):
    barrier.wait(60)
    try:
        with hold_lock(path, "the output x") as held:
            note("in")
            barrier.wait(60)
            held.check()
            note("out")
    except RuntimeError:
        note("refused")
        barrier.wait(60)


def take_turns(barrier):
    barrier.wait(60)
    for _ in range(2):
        with hold_lock(path, "the output x", wait_seconds=100) as held:
            note("in")
            held.check()
            note("out")


def compete(target, n=8):
    assert run(target, fork.Barrier(n), n=n) == [0] * n


def die_holding():
    with hold_lock(path, "the output x"):
        os.kill(os.getpid(), signal.SIGKILL)


def without_links(*arguments):
    raise OSError(95, "Operation not supported")
"""


def run_script(path, script):
    """Run a script in a new process and give the words that it noted, each with the process that did."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    log = Path(f"{path}.log")
    noted = [tuple(line.split()) for line in log.read_text().splitlines()]
    log.unlink()
    return noted


@pytest.fixture
def path(tmp_path):
    """A place for a lock, in a folder that holds nothing after the test."""
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder / NAME
    assert os.listdir(folder) == []


def fake(path, *, age=0.0, **changes):
    """Write the lock of another process, `age` seconds after its last heartbeat."""
    fields = json.loads(RunLock(path, WHAT).content)
    write(path, json.dumps({**fields, **changes}).encode() + b"\n", age)


def write(path, content, age=0.0):
    Path(path).write_bytes(content)
    grow_old(path, age)


def grow_old(path, age):
    now = time.time()
    os.utime(path, (now - age, now - age))


def assert_taken_over(path):
    with hold_lock(path, WHAT) as lock:
        lock.check()
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
        assert os.listdir(path.parent) == [path.name]


def assert_refused(path, *words):
    """Refused, the message has the words and the path, and the file stays as it is, which is then removed."""
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(RuntimeError, match=re.escape(WHAT)) as caught, hold_lock(path, WHAT):
        pass
    assert [word for word in (*words, str(path)) if word not in str(caught.value)] == []
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    path.unlink()


@pytest.fixture
def impatient(monkeypatch):
    """Look at what makes no sense for a moment only."""
    monkeypatch.setattr(lock_module, "SETTLE_SECONDS", 0.1)


def test_F16_of_eight_processes_at_once_exactly_one_gets_the_lock(path):
    noted = run_script(
        path,
        """
        for _ in range(10):
            compete(enter_together)
            note("round")
        """,
    )
    words = [word for word, _ in noted]
    rounds = " ".join(words).split("round")[:-1]
    assert [sorted(words.split()) for words in rounds] == [["in", "out"] + ["refused"] * 7] * 10


@pytest.mark.parametrize("links", [True, False])
def test_F16_processes_that_wait_are_in_the_critical_section_one_at_a_time(path, links):
    noted = run_script(
        path,
        f"""
        os.link = os.link if {links} else without_links
        compete(take_turns)
        """,
    )
    assert [word for word, _ in noted] == ["in", "out"] * 16
    assert all(noted[i][1] == noted[i + 1][1] for i in range(0, 32, 2))
    assert len({pid for _, pid in noted}) == 8


@pytest.mark.parametrize("links", [True, False])
def test_F28_of_eight_processes_exactly_one_takes_over_the_lock_of_a_killed_one(path, links):
    noted = run_script(
        path,
        f"""
        os.link = os.link if {links} else without_links
        for _ in range(6):
            assert run(die_holding) == [-signal.SIGKILL]
            assert os.path.exists(path)
            compete(enter_together)
        """,
    )
    words = [word for word, _ in noted]
    assert {word: words.count(word) for word in words} == {"in": 6, "out": 6, "refused": 42}


def test_F28_a_process_killed_at_any_step_of_a_take_over_stops_nobody(path):
    noted = run_script(
        path,
        """
        def dying(call, left):
            def wrapped(*arguments):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)
            return wrapped

        def die_at(step):
            left = [step]
            os.link, os.unlink, os.listdir = (dying(call, left) for call in (os.link, os.unlink, os.listdir))
            with hold_lock(path, "the output x"):
                pass

        step = 0
        while True:
            run(die_holding)
            if run(die_at, step) == [0]:
                break
            compete(enter_together, 4)
            assert os.listdir(os.path.dirname(path)) == [os.path.basename(path) + ".log"], step
            step += 1
        assert step >= 7
        """,
    )
    words = [word for word, _ in noted]
    assert words.count("in") == words.count("out") == len(words) / 5


def test_F28_a_killed_process_that_nobody_waited_for_is_dead(path):
    noted = run_script(
        path,
        """
        if os.fork() == 0:
            die_holding()
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        with hold_lock(path, "the output x"):
            note("in")
        """,
    )
    assert [word for word, _ in noted] == ["in"]


def test_F28_the_lock_of_a_dead_process_is_taken_over(path):
    fake(path, pid=dead_pid())
    assert_taken_over(path)


def test_F28_a_pid_that_another_process_got_since_is_no_owner(path):
    fake(path, start_time=1)
    assert_taken_over(path)


def test_F28_a_living_process_is_refused_however_old_its_heartbeat(path):
    fake(path, age=3600, what="the output y")
    assert_refused(path, str(os.getpid()), "since", "3600 s ago", "Wait for that run or stop it")


def test_F28_the_lock_of_a_rebooted_host_is_taken_over(path, monkeypatch):
    monkeypatch.setattr(lock_module, "_uptime", lambda: 20.0)
    fake(path, boot_id="another", age=30)
    assert_taken_over(path)


def test_F28_a_heartbeat_later_than_the_boot_is_that_of_another_host_with_this_name(path, monkeypatch):
    monkeypatch.setattr(lock_module, "_uptime", lambda: 120.0)
    fake(path, boot_id="another", age=30, pid=dead_pid())
    assert_refused(path)


def test_F28_uptime_is_that_of_the_system():
    psutil = pytest.importorskip("psutil")
    assert lock_module._uptime() == pytest.approx(time.time() - psutil.boot_time(), abs=10)


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere", "boot_id": "another"},
        {"host": "elsewhere"},
        {"namespace": "pid:[1]"},
        {"boot_id": None},
        {"namespace": None},
    ],
)
def test_F28_where_the_pid_says_nothing_the_heartbeat_decides(path, changes):
    pid = dead_pid()
    fake(path, age=200, pid=pid, **changes)
    host = json.loads(path.read_bytes())["host"]
    assert_refused(path, f"process {pid} on {host}", "200 s ago", "delete", "five minutes")
    fake(path, age=400, pid=pid, **changes)
    assert_taken_over(path)


def test_F28_the_heartbeat_decides_where_other_users_processes_are_hidden(path, monkeypatch):
    fake(path, age=200)
    monkeypatch.setattr(lock_module, "process_status", lambda pid: None)
    assert_refused(path)
    fake(path, age=400)
    assert_taken_over(path)
    fake(path, pid=dead_pid())
    assert_taken_over(path)


def test_F28_the_clock_of_this_host_does_not_matter(path, monkeypatch):
    fake(path, host="elsewhere", age=200)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(RuntimeError, match="200 s ago"), hold_lock(path, WHAT):
        pass
    monkeypatch.setattr(time, "time", lambda: 1e10)
    with pytest.raises(RuntimeError, match="200 s ago"), hold_lock(path, WHAT):
        pass
    path.unlink()


@pytest.mark.parametrize("kept", [0, 31, 60, -3])
def test_F28_an_empty_or_torn_lock_is_stale_when_it_is_old(path, impatient, kept):
    torn = RunLock(path, WHAT).content[:kept]
    write(path, torn, age=200)
    assert_refused(path, "torn")
    write(path, torn, age=400)
    assert_taken_over(path)


def test_F28_a_lock_that_is_just_being_written_is_looked_at_again(path):
    path.touch()
    writer = threading.Timer(0.3, fake, (path,), {"pid": dead_pid()})
    writer.start()
    assert_taken_over(path)
    writer.join()


FOREIGN = [
    b"not a lock",
    b"{",
    b"\0" * 40,
    b"\xff\xfe",
    b"[1, 2]",
    b"[" * 100_000,
    b'{"kind": "lock", "pid": 3}',
    b'{"owner": "me", "pid": 3}\n',
    b'{"kind": "blockbuster-lock", "pid": "3"}\n',
    b"x" * 1_000_000,
]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_F28_a_file_of_others_is_refused_and_stays_as_it_is(path, impatient, content):
    write(path, content, age=1e6)
    assert_refused(path, "move or delete it")


@pytest.mark.parametrize(
    "changes", [{"pid": True}, {"pid": 0}, {"pid": -1}, {"pid": 2**40}, {"host": None}, {"start_time": "now"}]
)
def test_F28_a_lock_with_fields_of_wrong_types_is_refused(path, impatient, changes):
    fake(path, age=1e6, **changes)
    assert_refused(path, "not a complete lock file")


def test_F28_a_folder_at_the_path_is_refused_and_stays(path):
    path.mkdir()
    (path / "file").touch()
    with pytest.raises(RuntimeError, match="is in the way"), hold_lock(path, WHAT):
        pass
    (path / "file").unlink()
    path.rmdir()


def test_F28_a_pipe_at_the_path_is_refused_without_waiting_for_its_other_end(path):
    os.mkfifo(path)
    with pytest.raises(RuntimeError, match="is in the way"), hold_lock(path, WHAT):
        pass
    assert stat.S_ISFIFO(path.stat().st_mode)
    path.unlink()


@pytest.mark.parametrize("exists", [True, False])
def test_F28_a_symbolic_link_is_refused_even_to_a_stale_lock(path, tmp_path, exists):
    target = tmp_path / "target"
    if exists:
        fake(target, pid=dead_pid())
    path.symlink_to(target)
    with pytest.raises(RuntimeError, match="is in the way"), hold_lock(path, WHAT):
        pass
    assert path.is_symlink()
    assert target.exists() == exists
    path.unlink()


def test_F28_what_killed_processes_left_beside_the_lock_is_removed_and_nothing_else(path):
    left = path.with_name(f"{NAME}-0123456789abcdef")
    others = [path.with_name(f"{NAME}-mine"), path.with_name(f"{NAME}-fedcba9876543210"), path.with_name("y")]
    fake(left, pid=dead_pid())
    for other in others:
        write(other, b"mine", age=1e6)
    with hold_lock(path, WHAT):
        assert not left.exists()
    assert [other.read_bytes() for other in others] == [b"mine"] * 3
    for other in others:
        other.unlink()


def test_F16_threads_of_one_process_exclude_each_other(path):
    barrier = threading.Barrier(5)
    inside, refused = [], []

    def enter():
        barrier.wait(60)
        try:
            with hold_lock(path, WHAT) as lock:
                barrier.wait(60)
                inside.append(lock)
        except RuntimeError as error:
            refused.append(str(error))
            barrier.wait(60)

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1
    assert len(refused) == 4
    assert all(f"process {os.getpid()} on " in message for message in refused)


def test_F16_a_lock_can_be_waited_for(path):
    held, release = threading.Event(), threading.Event()

    def hold():
        with hold_lock(path, WHAT):
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with pytest.raises(RuntimeError, match="is locked by process"), hold_lock(path, WHAT, wait_seconds=0.2):
        pass
    threading.Timer(0.2, release.set).start()
    with hold_lock(path, WHAT, wait_seconds=60) as lock:
        assert release.is_set()
        lock.check()
    thread.join()


def test_F16_a_lock_that_was_deleted_is_noticed_before_publishing_and_at_the_end(path, caplog):
    with hold_lock(path, WHAT) as lock:
        lock.check()
        path.unlink()
        with pytest.raises(RuntimeError, match="another run") as caught:
            lock.check()
    assert str(path) in str(caught.value)
    assert [(record.name, record.levelname) for record in caplog.records] == [("blockbuster", "WARNING")]
    assert str(path) in caplog.text


@pytest.mark.parametrize("other", ["lock", "file", "folder"])
def test_F16_what_took_the_place_of_the_lock_is_left_alone(path, caplog, other):
    with hold_lock(path, WHAT) as lock:
        path.unlink()
        {"lock": fake, "file": Path.touch, "folder": Path.mkdir}[other](path)
        grow_old(path, 100)
        before = path.stat().st_mtime_ns
        with pytest.raises(RuntimeError, match="lost"):
            lock.check()
    assert path.stat().st_mtime_ns == before
    assert "was lost while it was held" in caplog.text
    path.rmdir() if other == "folder" else path.unlink()


def test_F16_an_owner_whose_lock_another_run_took_over_notices(path, caplog):
    with hold_lock(path, WHAT) as first:
        fields = json.loads(first.content)
        first.content = json.dumps({**fields, "host": "elsewhere"}).encode() + b"\n"
        write(path, first.content, age=400)
        with hold_lock(path, WHAT) as second:
            with pytest.raises(RuntimeError, match="lost"):
                first.check()
            second.check()
        assert caplog.text == ""
    assert "was lost while it was held" in caplog.text


def test_F16_the_lock_is_free_after_an_error(path):
    with pytest.raises(ZeroDivisionError), hold_lock(path, WHAT):
        raise ZeroDivisionError
    assert_taken_over(path)


def test_F16_an_interruption_just_after_the_file_was_made_leaves_none(path, monkeypatch):
    link = os.link

    def interrupted(*arguments):
        link(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt), hold_lock(path, WHAT):
        pass


def test_F16_an_interruption_while_the_heartbeat_is_waited_for_frees_the_lock(path, monkeypatch):
    beats = threading.Event()

    def interrupted(thread, *arguments):
        raise KeyboardInterrupt

    def until_then(lock, ended):
        beats.wait(60)

    monkeypatch.setattr(lock_module, "_beat", until_then)
    try:
        with pytest.raises(KeyboardInterrupt), hold_lock(path, WHAT):
            monkeypatch.setattr(threading.Thread, "join", interrupted)
    finally:
        monkeypatch.undo()
        beats.set()
    assert not os.path.lexists(path)


def test_F16_a_link_whose_success_was_reported_as_failure_is_ours(path, monkeypatch):
    link = os.link

    def repeated(*arguments):
        link(*arguments)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", repeated)
    assert_taken_over(path)


def test_F16_the_working_directory_may_change_while_a_lock_is_held(path, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with hold_lock(NAME, WHAT) as lock:
        monkeypatch.chdir(tmp_path)
        lock.check()


def test_F16_a_forked_child_neither_renews_nor_frees_the_lock(path):
    noted = run_script(
        path,
        """
        try:
            with hold_lock(path, "the output x") as held:
                child = os.fork()
                if child == 0:
                    note(f"threads-{threading.active_count()}")
                    raise SystemExit
                os.waitpid(child, 0)
                held.check()
                note("kept")
        finally:
            note("end")
        """,
    )
    assert [word for word, _ in noted] == ["threads-1", "end", "kept", "end"]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_fresh(path):
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime < 1000
    return False


def test_F28_the_heartbeat_goes_on_after_errors_and_ends_with_the_block(path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.01)
    aside = path.with_name("aside")
    with hold_lock(path, WHAT) as lock:
        grow_old(path, 5000)
        wait_for(lambda: is_fresh(path))
        path.rename(aside)
        path.mkdir()
        time.sleep(0.1)
        path.rmdir()
        aside.rename(path)
        grow_old(path, 5000)
        wait_for(lambda: is_fresh(path))
        lock.check()
    assert lock_module.KIND not in [thread.name for thread in threading.enumerate()]


def test_F28_the_end_of_the_block_does_not_wait_for_a_heartbeat(path):
    begin = time.monotonic()
    with hold_lock(path, WHAT):
        pass
    assert time.monotonic() - begin < lock_module.HEARTBEAT_SECONDS / 2


def test_F28_a_check_renews_the_heartbeat(path):
    with hold_lock(path, WHAT) as lock:
        grow_old(path, 5000)
        lock.check()
        assert is_fresh(path)


@pytest.mark.parametrize("folder", ["missing", "/sys"])
def test_F16_a_folder_that_takes_no_file_is_an_os_error_with_the_path(tmp_path, folder):
    path = tmp_path / folder / NAME
    with pytest.raises((FileNotFoundError, PermissionError), match=re.escape(str(path))), hold_lock(path, WHAT):
        pass


def test_F16_a_file_that_cannot_be_written_is_an_os_error_with_the_path_and_leaves_nothing(path):
    noted = run_script(
        path,
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        try:
            with hold_lock(path, "the output x"):
                pass
        except OSError as error:
            named = path in str(error)
            os.truncate(path + ".log", 0)
            note("named" if named else "not")
        """,
    )
    assert [word for word, _ in noted] == ["named"]


def test_F16_a_lock_that_cannot_be_removed_does_not_hide_how_the_block_ended(path, monkeypatch, caplog):
    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    def work():
        monkeypatch.setattr(os, "unlink", fail)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hold_lock(path, WHAT):
        work()
    monkeypatch.undo()
    assert "could not be removed" in caplog.text
    path.unlink()


def test_F16_others_may_read_who_holds_the_lock(path):
    umask = os.umask(0o022)
    try:
        with hold_lock(path, WHAT):
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
            assert json.loads(path.read_bytes())["what"] == WHAT
    finally:
        os.umask(umask)
