"""The blocks of code in a page of Markdown, run as a reader would run them."""

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collections_of_images import write_pyramid
from commands import spots

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING, DOCS = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
# A block, and what the page says that it prints.
BLOCK = r"^```(\w*)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
# What names another machine, or changes this one, with where it is tested instead.
ELSEWHERE = {
    "python -m pip install": "by CI, which installs the package in new environments",
    "SLURMCluster(": "not at all: there is no batch system; it must compile",
    'Client("tcp://FIRST:8786")': "by hosts.py, which makes the machines; it must compile",
    "make_local_cluster()": "as a script, which worker processes can import",
    "make_local_cluster(security=True)": "by test_local_cluster.py, where cryptography is installed",
    "cellpose_fn(": "by models/test_cellpose.py, where Cellpose is installed",
    "stardist_fn(": "by models/test_stardist.py, where StarDist is installed",
    "ngio.open_ome_zarr_container(": "by readers/test_tables.py, where ngio is installed",
    "from spatialdata": "by readers/test_spatialdata.py, where SpatialData is installed",
    "def load_torch(": "by models/test_torch_recipe.py, where PyTorch is installed",
    "def segment_with_instanseg(": "by models/test_instanseg_recipe.py, where InstanSeg is installed",
}


@dataclass(frozen=True)
class Block:
    """Code of a page, its language, what it prints, and the line before it."""

    language: str
    code: str
    shown: str
    line: int

    @property
    def is_run(self):
        """Whether it runs in its page."""
        return self.language in ("python", "sh") and not any(text in self.code for text in ELSEWHERE)


def blocks(page):
    """All blocks of a page, in order."""
    text = page.read_text()
    found = re.finditer(BLOCK, text, re.DOTALL | re.MULTILINE)
    return [Block(*match.groups(""), text.count("\n", 0, match.start(2))) for match in found]


def pixels():
    """Two channels of bright blobs, in the left half."""
    left = spots((2, 400, 240))
    return np.pad(left, [(0, 0), (0, 0), (0, 260)])


def run_page(page, folder):
    """Run all blocks of a page in a folder with a small image; give the names of its Python.

    Whatever a page says that a block prints is compared.
    """
    write_pyramid(folder / "image.zarr", pixels(), "cyx")
    names = {"__name__": "page"}
    with contextlib.chdir(folder):
        for block in blocks(page):
            if block.is_run:
                printed = RUN[block.language](block, page, names)
                assert block.shown in ("", printed), block.code
    return names


def _run_python(block, page, names):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        # An error names the line of the page.
        exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
    return out.getvalue()


def _run_shell(block, _page, _names):
    # The command line of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=600)
    assert done.returncode == 0, f"{block.code}\n{done.stderr}"
    return done.stdout


RUN = {"python": _run_python, "sh": _run_shell}
