"""Three users of one machine: whatever others put in a run's way, nothing of theirs runs as its user (F34)."""

import json
import os
import time

import numpy as np
import pytest
from users import machine  # noqa: F401

pytestmark = pytest.mark.slow

# What both sides share: an image of four bars, in tiles that a bar crosses.
COMMON = """
import functools, json, os, sys, time
from pathlib import Path
import numpy as np
from scipy import ndimage
from blockbuster import tile_process

IMAGE = np.zeros((8, 16), "uint8")
IMAGE[1::2, 2:14] = 1
TILES = {"tile_shape": (8, 4), "tiles_per_task": 1}


def bars(tile):
    return ndimage.label(tile)[0]


def said(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

# Alice's function waits in its first tile until bob is done, and then takes its process down, so that another
# one reads what the tasks share.
CLUSTER = (
    COMMON
    + """
from distributed import Client, LocalCluster


def waiting(folder, tile):
    started, go, died = (Path(folder, name) for name in ("started", "go", "died"))
    started.touch()
    while not go.exists():
        time.sleep(0.02)
    if "dies" in sys.argv and not died.exists():
        died.touch()
        os._exit(1)
    return bars(tile)


if __name__ == "__main__":
    folder, lab, *_ = sys.argv[1:]
    fn = functools.partial(waiting, folder)
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 60}
    with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster, Client(cluster):
        result = said(lambda: tile_process(IMAGE, fn, stage_dir=lab, **TILES).tolist())
    print(json.dumps(result))
"""
)

# Bob needs no blockbuster: he tries whatever could bring alice's processes to read a pickle of his.
PLANT = """
import json, os, pickle, sys
from pathlib import Path


class Planted:
    def __reduce__(self):
        return exec, ("import os, pathlib; pathlib.Path(os.environ['RAN'], str(os.getuid())).touch()",)


def attempt(act):
    try:
        act()
        return "done"
    except OSError as error:
        return type(error).__name__


def tasks():
    (stage,) = Path(sys.argv[1]).glob("*.blockbuster-stage")
    return next(path for path in stage.iterdir() if path.name.startswith("tasks-"))


def results():
    for number in (1, 2, 3):
        (tasks() / f"{number}.result").write_bytes(pickle.dumps(Planted()))


def batch():
    file = tasks() / "batch.pickle"
    file.rename(f"{file}-old")
    file.write_bytes(pickle.dumps(Planted()))


print(json.dumps([attempt(globals()[act]) for act in sys.argv[2:]]))
"""


def expected():
    labels = np.zeros((8, 16), int)
    for number, row in enumerate(range(1, 8, 2), start=1):
        labels[row, 2:14] = number
    return labels.tolist()


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


def run_beside_bob(machine, acts, *dies, **environment):  # noqa: F811
    """Run alice's tiles on a cluster of hers in the lab's folder, while bob tries something there."""
    home = machine.folder / "alice"
    script = home / "script.py"
    script.write_text(CLUSTER)
    alice = machine.start("alice", script, home, machine.lab, *dies, **environment)
    wait_for(home / "started", alice)
    done = json.loads(machine.run("bob", PLANT, machine.lab, *acts))
    (home / "go").touch()
    printed, _ = alice.communicate(timeout=600)
    assert alice.returncode == 0, printed
    return done, json.loads(printed.splitlines()[-1])


def test_F34_nobody_else_gets_into_a_stage_whatever_the_umask(machine):  # noqa: F811
    done, labels = run_beside_bob(machine, ["results", "batch"], "dies")
    assert machine.ran == []
    assert labels == expected()
    assert done == ["PermissionError", "PermissionError"]


def test_F34_a_planted_result_is_refused_and_not_run(machine):  # noqa: F811
    done, message = run_beside_bob(machine, ["results"], BLOCKBUSTER_SHARE_STAGE="group")
    assert machine.ran == []
    assert done == ["done"]
    assert message.startswith("RuntimeError: ")
    assert ".result is not what the run put there" in message


def test_F34_a_swapped_batch_is_refused_and_not_run(machine):  # noqa: F811
    done, message = run_beside_bob(machine, ["batch"], "dies", BLOCKBUSTER_SHARE_STAGE="group")
    assert machine.ran == []
    assert done == ["done"]
    assert message.startswith("RuntimeError: ")
    assert "batch.pickle is not what the run put there (its digest differs)" in message


# A run that is killed after two of its four tasks, in each of some folders, and has left its lock or not.
INTERRUPTED = (
    COMMON
    + """
os.environ["BLOCKBUSTER_FAIL_POINT"] = "task journalled:2"
for folder in sys.argv[1:]:
    child = os.fork()
    if not child:
        tile_process(IMAGE, bars, stage_dir=folder, resume=True, **TILES)
    os.waitpid(child, 0)
    for lock in Path(folder).glob("*.blockbuster-lock"):
        lock.unlink()
"""
)

CONTINUED = (
    COMMON
    + """
def run(**options):
    labels = tile_process(IMAGE, bars, **{**TILES, **options})
    return np.asarray(labels).tolist()


print(json.dumps([said(lambda: run(**options)) for options in json.loads(sys.argv[1])]))
"""
)


def calls(machine, user, *options, **environment):  # noqa: F811
    """Call with some options each, as a user; gives labels or messages."""
    printed = machine.run(user, CONTINUED, json.dumps(options), **environment)
    return json.loads(printed.splitlines()[-1])


def tree(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_F34_a_stage_that_somebody_else_made_is_neither_adopted_nor_removed(machine):  # noqa: F811
    machine.run("bob", INTERRUPTED, machine.scratch, machine.lab, BLOCKBUSTER_SHARE_STAGE="group")
    (stage,) = machine.scratch.glob("*.blockbuster-stage")
    # As somebody would who wants it to be taken.
    for path in [stage, *stage.rglob("*")]:
        path.chmod(0o777)
    before = tree(machine.scratch)
    scratch = {"stage_dir": str(machine.scratch)}
    messages = calls(machine, "alice", {**scratch, "resume": True}, {**scratch, "overwrite": True}, scratch)
    for message in messages:
        assert message.startswith(f"PermissionError: {stage} belongs to uid 20002, and you are uid 20001: ")
        assert f"set BLOCKBUSTER_TRUST_STAGE={stage} in the environment" in message
    assert tree(machine.scratch) == before


def test_F34_a_group_that_asks_for_it_continues_the_runs_of_its_members(machine):  # noqa: F811
    shared = {"BLOCKBUSTER_SHARE_STAGE": "group"}
    machine.run("bob", INTERRUPTED, machine.lab, **shared)
    (stage,) = machine.lab.glob("*.blockbuster-stage")
    call = {"stage_dir": str(machine.lab), "resume": True}
    assert calls(machine, "alice", call, **shared)[0].startswith(f"PermissionError: {stage} belongs to uid 20002")
    (labels,) = calls(machine, "alice", call, BLOCKBUSTER_TRUST_STAGE=str(stage), **shared)
    assert labels == expected()
    assert list(machine.lab.iterdir()) == []


@pytest.mark.parametrize(("pattern", "target"), [("*/part-*", ""), ("*/part-*/*.tiles", "3.tiles")])
def test_F34_links_in_a_stage_lead_nowhere(pattern, target, machine):  # noqa: F811
    machine.run("alice", INTERRUPTED, machine.lab, BLOCKBUSTER_SHARE_STAGE="group")
    precious = machine.folder / "alice" / "precious"
    precious.mkdir()
    (precious / "3.tiles").write_text("alice's own")
    for path in (precious, precious / "3.tiles"):
        os.chown(path, 20001, 20001)
    link = "import sys; from pathlib import Path; path, *_ = Path(sys.argv[1]).glob(sys.argv[3]); "
    link += "path.rename(f'{path}-old'); path.symlink_to(sys.argv[2]); print(path)"
    planted = machine.run("bob", link, machine.lab, precious / target, pattern).strip()
    (message,) = calls(
        machine,
        "alice",
        {"stage_dir": str(machine.lab), "resume": True},
        BLOCKBUSTER_SHARE_STAGE="group",
    )
    assert message.startswith(
        f"ValueError: {planted} is a symbolic link, which blockbuster never puts into a stage"
    )
    assert tree(precious) == {str(precious / "3.tiles"): b"alice's own"}


def test_F34_what_lies_beside_the_output_is_refused_if_others_made_it(machine):  # noqa: F811
    plant = """
import json, os, sys
from pathlib import Path
scratch = Path(sys.argv[1])
partial = scratch / "one.zarr.labels.blockbuster-partial"
(partial / "replaced").mkdir(parents=True)
(partial / "blockbuster-partial").write_text("one.zarr/labels\\n")
os.chmod(partial, 0o777)
(scratch / "three.zarr.labels.blockbuster-partial").mkdir(mode=0o700)
from blockbuster.rundir.lock import RunLock
lock = RunLock(scratch / "two.zarr.labels.blockbuster-lock", "the output two")
Path(lock.path).write_bytes(lock.content)
"""
    machine.run("carol", plant, machine.scratch)
    before = tree(machine.scratch)
    stores = [{"write_to": str(machine.scratch / name)} for name in ("one.zarr", "two.zarr", "three.zarr")]
    partial, lock, closed = calls(machine, "alice", *stores)
    for name, message in (("one", partial), ("three", closed)):
        assert f"{name}.zarr.labels.blockbuster-partial is in the way" in message
        assert "where another user made it, choose another output_component" in message
    assert lock.startswith("PermissionError: ")
    assert "two.zarr.labels.blockbuster-lock" in lock
    assert "only they can remove it" in lock
    assert tree(machine.scratch) == before


# A group that many write to, with consolidated metadata and the run of another user inside, and a folder in which
# only its owner sees what there is.
SHARED = """
import os, sys
import zarr
group, box = sys.argv[1:]
zarr.create_group(group)
zarr.consolidate_metadata(group)
for name in ("bob.zarr.labels.blockbuster-stage", "bob.zarr.labels.blockbuster-partial"):
    os.mkdir(os.path.join(group, name), 0o700)
os.chmod(group, 0o2777)
os.chmod(os.path.join(group, "zarr.json"), 0o666)
os.mkdir(box)
os.chmod(box, 0o1733)
"""


def test_F34_runs_of_others_beside_ones_own_are_passed_over(machine):  # noqa: F811
    group, box = machine.lab / "group.zarr", machine.lab / "box"
    machine.run("bob", SHARED, group, box)
    stores = [str(group / "alice.zarr"), str(box / "alice.zarr")]
    assert calls(machine, "alice", *({"write_to": store} for store in stores)) == [expected()] * 2
    assert (
        "alice.zarr/labels" in json.loads((group / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    )
    found = machine.run("alice", "import sys; from blockbuster.cli import main; main()", "info", group)
    assert "alice.zarr/labels" in found
    assert "bob" not in found
    assert sorted(path.name for path in [*group.iterdir(), *box.iterdir()]) == [
        "alice.zarr",
        "alice.zarr",
        "bob.zarr.labels.blockbuster-partial",
        "bob.zarr.labels.blockbuster-stage",
        "zarr.json",
    ]
