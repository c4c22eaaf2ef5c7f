"""What a power cut may not take: the order of flushes, renames and removals when labels are published (F35)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kill_points import Case, Renumbering, act_watched

pytestmark = pytest.mark.slow

STORE = "x.zarr"
PARTIAL = re.compile(r".*blockbuster-partial/store-[^/]*")
CASES = {
    "new store": Case("labels", is_new=True, store="deep/er/x.zarr"),
    "old labels replaced": Case("a/labels", has_labels=True),
    "label image, format 2": Case("labels/cells", 2, is_image=True),
    "label image, format 3": Case("labels/cells", is_image=True),
    "label image replaced, format 2": Case("labels/cells", 2, is_image=True, has_labels=True),
    "label image replaced, format 3": Case("labels/cells", is_image=True, has_labels=True),
    "labels renumbered": Renumbering("labels"),
}


def is_shown(path, case):
    return path == case.store or path.startswith(f"{case.store}/")


def order_faults(calls, case, folder):
    """Say what a power cut could take of labels in place, of metadata of their groups, or of both copies."""
    calls = [call for call in calls if "blockbuster-lock" not in call[-1]]
    renames = [(n, call) for n, call in enumerate(calls) if call[0] == "rename" and is_shown(call[2], case)]
    ((published, (_, source, target)),) = [(n, call) for n, call in renames if PARTIAL.match(call[1])]
    # What the old labels, or the stage, can no longer be had from.
    removed = next(n for n, call in enumerate(calls) if n > published and is_removal(call))
    faults = []
    for path in (folder / target, *(folder / target).rglob("*")):
        name = path.relative_to(folder / target)
        written = any(Path(call[2]) == path.relative_to(folder) for n, call in renames if n > published)
        if not written and ("fsync", os.path.normpath(os.path.join(source, name))) not in calls[:published]:
            faults.append(f"{name} of the labels was not flushed before they were renamed")
    for n, (_, old, new) in renames:
        if not PARTIAL.match(old) and ("fsync", old) not in calls[:n]:
            faults.append(f"{new} was not flushed before it got its name")
        if ("fsync", os.path.dirname(new) or ".") not in calls[n:removed]:
            faults.append(f"the folder of {new} was not flushed before the old was removed")
    faults += [f"{call[2]} was written after the old was removed" for n, call in renames if n > removed]
    aside = [n for n, call in enumerate(calls) if call[0] == "rename" and call[-1].endswith("/replaced")]
    if aside and ("fsync", os.path.dirname(calls[aside[0]][2])) not in calls[aside[0] : published]:
        faults.append("where the old labels are was not flushed before the new ones took their place")
    return faults


def is_removal(call):
    return call[0] in ("remove", "rmdir") or call[-1].endswith("/discarded")


@pytest.mark.parametrize("name", CASES)
def test_F35_all_that_is_shown_is_on_the_disk_before_what_it_was_made_of_goes(name, zygote, tmp_path):
    case = CASES[name]
    case.prepare(tmp_path)
    calls = zygote.run(act_watched, case, tmp_path).result()
    assert order_faults(calls, case, tmp_path) == []
    assert not case.fault(tmp_path)


def test_F35_folders_that_are_made_for_the_output_are_on_the_disk(zygote, tmp_path):
    calls = zygote.run(act_watched, CASES["new store"], tmp_path).result()
    assert calls.index(("fsync", ".")) < calls.index(("fsync", "deep/er"))
    assert ("fsync", "deep") in calls


def test_F35_the_marks_of_folders_of_ours_are_on_the_disk_before_anything_is_in_them(zygote, tmp_path):
    case = CASES["label image replaced, format 3"]
    case.prepare(tmp_path)
    calls = zygote.run(act_watched, case, tmp_path).result()
    for name in ("x.zarr.labels.cells.blockbuster-stage", "x.zarr.labels.cells.blockbuster-partial"):
        mine = [call for call in calls if call[-1].startswith(name)]
        (flushed, path), (renamed, source, _), rest = mine[0], mine[1], mine[2]
        assert (flushed, renamed, path) == ("fsync", "rename", source)
        assert rest == ("fsync", name)


# -- the same, as the system hears of it

CALL = re.compile(
    r"\d+ +(fsync|rename|renameat|renameat2|unlink|unlinkat|rmdir)\((.*?)(?:\) += 0| <unfinished.*)$"
)
ARGUMENT = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>)?(?:, )?(?:"(?P<path>[^"]*)")?')
NAMES = {"unlink": "remove", "renameat": "rename", "renameat2": "rename"}
SCRIPT = "import sys, pathlib, kill_points; kill_points.Case({}).act(pathlib.Path(sys.argv[1]))"


def parse_trace(text, folder):
    """Give the calls on paths in a folder, in the form of `kill_points.Calls`."""
    found = []
    for name, arguments in filter(
        None, (match and match.groups() for match in map(CALL.match, text.splitlines()))
    ):
        parts = [match for match in ARGUMENT.finditer(arguments) if match[0]]
        paths = [os.path.join(part["folder"] or "/", part["path"] or "") for part in parts]
        paths = [os.path.normpath(path) for path in paths]
        kind = "rmdir" if name == "unlinkat" and "AT_REMOVEDIR" in arguments else NAMES.get(name, name)
        kind = "remove" if kind == "unlinkat" else kind
        if paths and paths[-1].startswith(str(folder)):
            found.append((kind, *(os.path.relpath(path, folder) for path in paths)))
    return found


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_F35_the_system_is_asked_in_that_order(zarr_format, tmp_path):
    if not shutil.which("strace"):
        pytest.skip("this system has no strace")
    case = Case("labels/cells", zarr_format, is_image=True, has_labels=True)
    folder = tmp_path / "work"
    case.prepare(folder)
    script = SCRIPT.format(f"'labels/cells', {zarr_format}, is_image=True, has_labels=True")
    traced = ["strace", "-f", "-y", "-s", "4096", "-o", str(tmp_path / "trace")]
    traced += ["-e", "trace=fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [*traced, sys.executable, "-c", script, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if "PTRACE" in done.stderr:
        pytest.skip(f"processes cannot be traced here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    calls = parse_trace((tmp_path / "trace").read_text(), folder)
    assert {"remove", "rmdir", "rename", "fsync"} == {call[0] for call in calls}
    assert order_faults(calls, case, folder) == []
