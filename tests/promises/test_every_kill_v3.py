"""Runs on stores of zarr format 3 that are killed at every call that removes, renames, links or flushes (F30)."""

import pytest
from kill_points import PARTIAL, Case, Measuring, Renumbering, Several, assert_no_kill_matters

pytestmark = pytest.mark.slow

# What comes before the output is written is the same in every case, and tried in the first.
CASES = {
    "new store": (Case("labels", store="deep/er/x.zarr", is_new=True), ""),
    "old labels replaced": (Case("a/labels", has_labels=True), PARTIAL),
    "label image": (Case("labels/cells", is_image=True), PARTIAL),
    "label image replaced": (Case("labels/cells", is_image=True, has_labels=True), PARTIAL),
    "measured": (Case("labels", measure=("intensity_std",)), ""),
    "measured labels replaced": (Case("labels", has_labels=True, measure=()), PARTIAL),
    "label image and table": (Case("labels/cells", is_image=True, measure=True), PARTIAL),
    "label image and table replaced": (
        Case("labels/cells", is_image=True, has_labels=True, measure=True),
        PARTIAL,
    ),
    "results in a new store": (Several("{}", is_new=True), PARTIAL),
    # Each is made as a result alone is; together they move.
    "results and tables of an image replaced": (
        Several("labels/{}", is_image=True, has_labels=True, measure=True),
        "replaced",
    ),
    "labels measured": (Measuring("labels/cells"), PARTIAL),
    "labels renumbered": (Renumbering("labels"), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_F30_a_run_killed_at_any_call_can_be_resumed_and_replaced(name, zygote, tmp_path):
    assert_no_kill_matters(*CASES[name], zygote, tmp_path)
