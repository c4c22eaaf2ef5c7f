"""Runs on stores of zarr format 2 that are killed at every call that removes, renames, links or flushes (F30)."""

import pytest
from kill_points import PARTIAL, Case, Renumbering, assert_no_kill_matters

pytestmark = pytest.mark.slow

# A new store has format 3; what comes before the output is written is the same there.
CASES = {
    "old labels replaced": (Case("a/labels", 2, has_labels=True), PARTIAL),
    "label image": (Case("labels/cells", 2, is_image=True), PARTIAL),
    "label image replaced": (Case("labels/cells", 2, is_image=True, has_labels=True), PARTIAL),
    "label image and table replaced": (
        Case("labels/cells", 2, is_image=True, has_labels=True, measure=True),
        PARTIAL,
    ),
    "labels renumbered": (Renumbering("labels", 2), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_F30_a_run_killed_at_any_call_can_be_resumed_and_replaced(name, zygote, tmp_path):
    assert_no_kill_matters(*CASES[name], zygote, tmp_path)
