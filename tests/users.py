"""Three users of one machine: processes with user ids of their own, a group, a sticky folder and a lab's."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

USERS = {"alice": 20001, "bob": 20002, "carol": 20003}
GROUP = 20100
ROOT = Path(__file__).parents[1]

# Where others may not enter folders, such as root's home and that of a new environment, they are shown what they
# need of them in a namespace: a folder to keep things in meanwhile, how many folders are hidden, these, how many
# paths inside them are shown, these, and what to run then.
SHOW = """
set -e
held=$1 n_hidden=$2; shift 2
hidden=
while [ $n_hidden -gt 0 ]; do hidden="$hidden $1"; n_hidden=$((n_hidden - 1)); shift; done
n=$1; shift
bind() { mkdir -p "$2"; mount --bind "$1" "$2"; }
if [ -n "$hidden" ]; then
    for i in $(seq $n); do eval "bind \\"\\$$i\\" $held/$i"; done
    for folder in $hidden; do mount -t tmpfs -o mode=755 none "$folder"; done
    for i in $(seq $n); do eval "bind $held/$i \\"\\$$i\\""; done
fi
shift $n
umask 002
exec "$@"
"""


@dataclass
class Machine:
    """A folder that all users see: ``scratch`` is sticky, ``lab`` belongs to the group of alice and bob."""

    folder: Path

    @property
    def scratch(self):
        return self.folder / "scratch"

    @property
    def lab(self):
        return self.folder / "lab"

    @property
    def ran(self):
        """Marks that planted code leaves: the ids of the users that it ran as."""
        return sorted(path.name for path in (self.folder / "ran").iterdir())

    def start(self, user, script, *arguments, **environment):
        """Start a script of Python, text or a file, as a user with umask 002 and without a home folder."""
        uid = USERS[user]
        groups = [str(GROUP)] if user != "carol" else [str(uid)]
        command = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={uid}",
            f"--groups={','.join(groups)}",
            "--inh-caps=-all",
        ]
        command += [sys.executable, "-W", "error::UserWarning"]
        command += [str(script)] if isinstance(script, Path) else ["-c", script]
        home = self.folder / user
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        settings = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "TMPDIR": str(home),
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_DISABLE_JIT": "1",
            "RAN": str(self.folder / "ran"),
        }
        return subprocess.Popen(
            [*_namespace(self.folder / "held"), *command, *map(str, arguments)],
            cwd=home,
            env=settings | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, user, script, *arguments, **environment):
        """Run a script to its end, and give what it prints."""
        process = self.start(user, script, *arguments, **environment)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
        return printed


def _namespace(held):
    hidden = sorted({str(folder) for folder in map(_hidden_folder, _needed()) if folder})
    shown = sorted({str(path) for path in _needed() if _hidden_folder(path)})
    words = ["unshare", "--mount", "--propagation", "private"] if hidden else []
    return [*words, "sh", "-c", SHOW, "-", str(held), str(len(hidden)), *hidden, str(len(shown)), *shown]


def _needed():
    return [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, ROOT)]


def _hidden_folder(path):
    """The folder that keeps other users from a path, None if they see it."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


@pytest.fixture
def machine():
    """Folders for three users, removed in the end."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can be three users")
    if not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("this system has no setpriv or unshare")
    # Nobody else can enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="blockbuster-users-"))
    try:
        folder.chmod(0o755)
        made = Machine(folder)
        for name, uid in USERS.items():
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, uid, uid)
        for name, mode in {"scratch": 0o1777, "lab": 0o2775, "ran": 0o1777}.items():
            (folder / name).mkdir()
            os.chown(folder / name, 0, GROUP)
            (folder / name).chmod(mode)
        try:
            made.run("carol", "import numpy, blockbuster")
        except AssertionError as error:
            pytest.skip(f"other users cannot import blockbuster here: {error}")
        yield made
    finally:
        shutil.rmtree(folder)


class Planted:
    """Somebody else's object, which leaves a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)
