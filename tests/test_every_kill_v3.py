"""Runs on stores of zarr format 3 that are killed at every call that removes, renames, links or flushes (F30)."""

import os
import tempfile
from pathlib import Path

import pytest
from kill_points import Case, Renumbering, try_every_kill
from zygote import Zygote

pytestmark = pytest.mark.slow

PARTIAL = "blockbuster-partial"
# What comes before the output is written is the same in every case, and tried in the first.
CASES = {
    "new store": (Case("labels", store="deep/er/x.zarr", is_new=True), ""),
    "old labels replaced": (Case("a/labels", has_labels=True), PARTIAL),
    "label image": (Case("labels/cells", is_image=True), PARTIAL),
    "label image replaced": (Case("labels/cells", is_image=True, has_labels=True), PARTIAL),
    "labels renumbered": (Renumbering("labels"), ""),
}


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def root():
    """A folder in memory where there is one: each of some hundred runs flushes a dozen files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", CASES)
def test_F30_a_run_killed_at_any_call_can_be_resumed_and_replaced(name, zygote, root):
    case, since = CASES[name]
    calls, wrong = try_every_kill(zygote, case, root, since)
    assert {"remove", "rmdir", "rename", "link", "fsync"} == {call[0] for call in calls}
    assert not wrong
