"""What a script reads: JSON on stdout, and nothing else there."""

import dataclasses
import json

import numpy as np
from collections_of_images import write_pyramid
from commands import read, run, run_module, spots, tree

import blockbuster

TALKING = """
import os
from scipy import ndimage

print("imported")

def find(tile):
    print("called")
    os.write(1, b"written")
    return ndimage.label(tile > 110)[0]
"""


def test_the_report_is_all_there_is_on_stdout(image, here):
    (here / "talking.py").write_text(TALKING)
    argv = "segment image.zarr --fn talking:find --tile-shape 30,30 --write-to out.zarr --json"
    done = run_module(*argv.split(), "--scheduler", "processes", "--workers", "1", folder=here)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("labels") == {"path": str(here / "out.zarr" / "labels"), "shape": [61, 83], "dtype": "int32"}
    assert found == json.loads(json.dumps(dataclasses.asdict(blockbuster.read_report("out.zarr"))))
    assert found["n_objects"] == len(np.unique(read("out.zarr"))) - 1
    for word in ("imported", "called", "written"):
        assert word in done.stderr


def test_without_json_a_function_may_print(image, here, capfd):
    (here / "talking_too.py").write_text(TALKING)
    assert run("segment image.zarr --fn talking_too:find --write-to out.zarr") == 0
    out = capfd.readouterr().out
    assert "called" in out
    assert "written" in out


def test_ours_and_its_threshold_print_no_other_line(image, capfd):
    assert run("segment image.zarr --fn otsu --write-to out.zarr --json") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["n_tiles"] == 12
    assert captured.err.startswith("threshold ")


def test_a_dry_run_gives_what_would_be_read_held_and_written(here, capsys):
    write_pyramid("image.zarr", spots((2, 100, 130)), "cyx")
    before = tree(here)
    options = {"tile_shape": (40, 50), "overlap": 4, "channel": 1, "write_to": "image.zarr"}
    argv = "segment image.zarr --fn otsu --tile-shape 40,50 --overlap 4 --channel 1 --write-to image.zarr"
    assert run(f"{argv} --output-component labels/cells --dry-run --json") == 0
    found = json.loads(capsys.readouterr().out)
    plan = blockbuster.plan_run("image.zarr", **options, output_component="labels/cells")
    assert found["image"] == {
        "name": f"{here}/image.zarr/s0, channel 1",
        "shape": [100, 130],
        "dtype": "uint8",
        "axes": "yx",
        "bytes": 13000,
    }
    assert found["tiles"] == {"n": 9, "shape": [40, 50], "grid": [3, 3]}
    assert (found["halo"], found["memory_bytes"]) == ([4, 4], plan.memory_bytes)
    assert found["tasks"]["n"] == plan.bricks.n_bricks
    assert found["stage"] == {"path": f"{here}/image.zarr.labels.cells.blockbuster-stage", "bytes": 4 * 13000}
    assert found["output"] == {"path": f"{here}/image.zarr/labels/cells", "bytes": 4 * 13000, "levels": 2}
    assert found["settings"] == json.loads(json.dumps(plan.settings))
    assert tree(here) == before


def test_an_error_leaves_stdout_empty(image, capsys):
    assert run("segment image.zarr --fn otsu --overlap -1 --write-to out.zarr --json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "overlap is -1" in captured.err
