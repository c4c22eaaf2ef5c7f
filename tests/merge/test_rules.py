"""Merge rules: one class and a place in the table is all that a new one takes."""

import subprocess
import sys

import naive
import numpy as np
import pytest
import zarr
from strategies import Unsteady

import blockbuster
from blockbuster.cli import main
from blockbuster.merge.rules import RULES, Agree, MergeRule, Separate, Touch

LENGTHS, HALO = ((7, 7, 4), (5, 5, 5, 3)), (2, 1)
IMAGE = np.random.default_rng(5).integers(0, 3, (18, 18), np.uint8)


class Odd(MergeRule):
    """Labels that touch, if both have an odd number."""

    name = "odd"

    def joins(self, found):
        return np.all(found.pairs % 2 == 1, axis=1)


@pytest.fixture
def odd(monkeypatch):
    monkeypatch.setitem(RULES, Odd.name, Odd)


def expected(fn):
    """Number labels tile by tile, find voxels side by side, join the odd ones; and count the pairs."""
    ids, tiles = naive.assemble(naive.look(IMAGE, fn, LENGTHS, HALO), IMAGE.shape)
    pairs = {(int(ids[p]), int(ids[q])) for p, q in naive.voxels_side_by_side(ids, tiles, 1)}
    joined = [pair for pair in pairs if pair[0] % 2 and pair[1] % 2]
    assert 5 < len(joined) < len(pairs) - 5
    return naive.join_ids(ids, joined), len(joined), len(pairs)


def run(fn, **options):
    return blockbuster.tile_process(IMAGE, fn, tile_shape=(7, 5), overlap=HALO, return_report=True, **options)


@pytest.mark.parametrize("tiles_per_task", [1, 3, 12])
def test_a_new_rule_is_asked_for_by_its_name(odd, tiles_per_task):
    fn = Unsteady()
    labels, report = run(fn, merge="odd", tiles_per_task=tiles_per_task)
    joined, n_joined, n_pairs = expected(fn)
    np.testing.assert_array_equal(labels, joined)
    assert (report.seams.merge, report.seams.joined, report.n_pairs) == ("odd", n_joined, n_pairs)
    assert f"{n_pairs - n_joined} of {n_pairs} pairs refused" in str(report)


@pytest.mark.parametrize("first", ["odd", "touch", "agree"])
def test_kept_stages_are_merged_by_a_new_rule(odd, tmp_path, first):
    fn = Unsteady()
    run(fn, merge=first, connectivity=1, write_to=tmp_path / "a.zarr", keep_stage=True)
    (stage,) = tmp_path.glob("*-stage")
    blockbuster.zarr_native_merge(stage, "", tmp_path / "b.zarr", "labels", merge="odd")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "b.zarr/labels", mode="r")[...], expected(fn)[0])


def test_a_stage_that_holds_too_little_names_the_rules_that_it_is_enough_for(odd, tmp_path):
    for first, message in [("odd", 'pass merge="touch" or "none" or "odd"'), ("none", 'pass merge="none", or')]:
        run(Unsteady(), merge=first, write_to=tmp_path / first, keep_stage=True)
        (stage,) = tmp_path.glob(f"{first}*-stage")
        with pytest.raises(ValueError, match=message):
            blockbuster.zarr_native_merge(stage, "", tmp_path / "b.zarr", "labels", merge="agree")


SCRIPT = """
import dask, numpy as np
from blockbuster import tile_process
from blockbuster.merge.rules import RULES, MergeRule

class Odd(MergeRule):
    name = "odd"

    def joins(self, found):
        return np.all(found.pairs % 2 == 1, axis=1)

def fn(tile):
    return tile

if __name__ == "__main__":
    RULES["odd"] = Odd
    image = np.random.default_rng(5).integers(0, 4, (18, 18), "uint8")
    labels = []
    for scheduler in ("synchronous", "processes"):
        with dask.config.set(scheduler=scheduler, num_workers=2):
            labels.append(tile_process(image, fn, tile_shape=(7, 5), overlap=1, merge="odd"))
    print(np.array_equal(*labels), labels[0].max() > 0)
"""


def test_worker_processes_need_not_have_the_rule_in_their_table(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "True True\n", done.stderr


def test_a_stage_of_a_rule_that_is_not_there_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(RULES, Odd.name, Odd)
        run(Unsteady(), merge="odd", stage_dir=tmp_path, keep_stage=True)
    (stage,) = tmp_path.glob("*-stage")
    with pytest.raises(ValueError, match="was made with merge='odd', a rule that is not in RULES here"):
        blockbuster.zarr_native_merge(stage, "", tmp_path / "b.zarr", "labels")


def test_the_command_line_offers_a_new_rule(odd, tmp_path, capsys):
    zarr.save_array(tmp_path / "image.zarr", IMAGE)
    words = ["segment", f"{tmp_path}/image.zarr", "--fn", "threshold:1", "--write-to", f"{tmp_path}/out.zarr"]
    assert main([*words, "--tile-shape", "7,5", "--merge", "odd"]) == 0
    assert blockbuster.read_report(tmp_path / "out.zarr").seams.merge == "odd"
    for command, rules in (("segment", "agree (in the margin too), none, odd"), ("merge", "agree, none, odd")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"touch, {rules}" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--merge", "even"]) == 2
    assert "merge is 'even'; it is one of 'touch', 'agree', 'none', 'odd'." in capsys.readouterr().err


def test_a_rule_is_found_by_the_name_that_it_has():
    assert {"touch": Touch, "agree": Agree, "none": Separate} == RULES
