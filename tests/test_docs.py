"""Every block of code in the README and in docs runs, or it is written down where it is tested."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys

import dask
import matplotlib
import naive
import numpy as np
import pytest
import zarr
from outcomes import write_image
from pages import DOCS, ELSEWHERE, PAGES, ROOT, blocks, pixels, run_page
from scipy import ndimage
from skimage import measure

matplotlib.use("Agg")
GUIDE = DOCS / "guide.md"
# Pages with tests of what their Python gives, which run them as well.
OWN_TESTS = {
    "README.md": "test_readme.py",
    "guide.md": "test_docs.py",
    "models.md": "plugins/test_page.py",
    "seams.md": "test_seams_page.py",
}
OTHERS = [page for page in PAGES if page.name not in OWN_TESTS]


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path):
    run_page(page, tmp_path)


def test_pages_with_tests_of_their_own_have_them():
    for page, file in OWN_TESTS.items():
        assert f"run_page({page.split('.')[0].upper()}" in (ROOT / "tests" / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_runs_elsewhere_compiles(page):
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.code)
        # Others are commands of the tables below, drawings, or what is printed.
        assert block.language in ("python", "sh", "text", "")


def test_what_runs_elsewhere_is_still_there():
    everything = "\n".join(page.read_text() for page in PAGES)
    assert [text for text in ELSEWHERE if text not in everything] == []


def commands(program):
    """Every call of a program in any page, in a block or in a sentence."""
    found = set()
    for page in PAGES:
        for line in re.findall(rf"(?:^|`|&& ){program}[^`\n&|]*", page.read_text(), re.MULTILINE):
            found.add(line.strip("`& "))
    return sorted(found)


def test_the_commands_of_benchmarks_are_there(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    found = commands(r"(?:BLOCKBUSTER_DATA=DIR )?python -m benchmarks\.")
    assert len(found) > 8
    for line in found:
        module, *options = shlex.split(line)[shlex.split(line).index("-m") + 1 :]
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
        for option in options:
            assert not option.startswith("--") or f"{option} " in out.getvalue(), line


def test_the_commands_of_blockbuster_can_be_parsed():
    from blockbuster.cli.entry import build_parser

    found = [
        line for line in commands("blockbuster (?:demo|info|segment|seams|estimate-empty) ") if "[" not in line
    ]
    assert len(found) > 5
    for line in found:
        build_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.slow
def test_the_guide_writes_the_labels_of_the_whole_image(tmp_path):
    names = run_page(GUIDE, tmp_path)
    expected = ndimage.label(pixels()[0] > 120)[0]
    for labels in (names["labels"], zarr.open_array(tmp_path / "image.zarr/labels/cells/0", mode="r")[...]):
        assert naive.partition_fault(np.asarray(labels), expected) == ""
    assert names["report"].n_objects == expected.max()
    assert (tmp_path / "run.png").stat().st_size > 10_000
    assert (tmp_path / "cells.zarr" / "labels").is_dir()


CLUSTER = DOCS / "cluster.md"


@pytest.mark.slow
def test_the_script_for_one_machine_runs_as_it_stands(folder):
    script = next(block.code for block in blocks(CLUSTER) if block.language == "python")
    image = np.zeros((600, 700), "uint8")
    image[50:550:20, 100:650] = 200
    write_image(folder / "image.zarr", image, chunks=(256, 256))
    (folder / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(zarr.open_array(folder / "labels.zarr" / "labels", mode="r")[...])
    assert naive.partition_fault(labels, measure.label(image > 100)) == ""
    assert "segment: 100%" in done.stderr


def test_every_setting_that_the_page_names_is_one_of_dask():
    import distributed

    settings = set(re.findall(r"`(distributed\.[\w.-]+)`", CLUSTER.read_text()))
    assert distributed.config is not None
    assert len(settings) >= 3
    for setting in settings:
        assert dask.config.get(setting, "missing") != "missing", setting
