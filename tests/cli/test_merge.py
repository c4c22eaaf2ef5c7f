"""`blockbuster merge`: a stage that was kept, by another rule."""

import json

import numpy as np
import pytest
import zarr
from commands import run, tree

import blockbuster

SEGMENT = "segment image.zarr --fn threshold:110 --merge agree --overlap 3 --tile-shape 20,30"


@pytest.fixture
def stage(image, capsys):
    """The stage of a run."""
    assert run(f"{SEGMENT} --keep-stage --write-to out.zarr") == 0
    capsys.readouterr()
    return "out.zarr.labels.blockbuster-stage"


def test_merge_gives_what_a_run_with_that_rule_gives(stage, capsys):
    assert run(f"merge {stage} --min-agreement 0.9 --sequential-labels --write-to stricter.zarr") == 0
    assert run(f"{SEGMENT} --min-agreement 0.9 --sequential-labels --write-to whole.zarr") == 0
    labels, expected = (zarr.open_array(f"{name}.zarr/labels")[...] for name in ("stricter", "whole"))
    np.testing.assert_array_equal(labels, expected)
    assert capsys.readouterr().out.startswith(f"{expected.max()} objects in stricter.zarr/labels\n")
    assert blockbuster.read_report("stricter.zarr").seams.min_agreement == 0.9


def test_merge_as_json_says_how_many_objects_there_are(stage, capsys):
    assert run(f"merge {stage} --merge none --write-to out.zarr --output-component tiles --json") == 0
    n_objects = len(np.unique(zarr.open_array("out.zarr/tiles")[...])) - 1
    assert json.loads(capsys.readouterr().out) == {"n_objects": n_objects}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("merge out.zarr --write-to a.zarr", "out.zarr is not a stage of blockbuster"),
        ("merge {stage} --merge fuse --write-to a.zarr", "merge is 'fuse'"),
        ("merge {stage} --write-to out.zarr", "--overwrite"),
    ],
)
def test_what_cannot_be_merged_is_said_before_any_work(here, stage, capsys, argv, message):
    before = tree(here)
    assert run(argv.format(stage=stage)) == 2
    assert message in capsys.readouterr().err
    assert tree(here) == before
