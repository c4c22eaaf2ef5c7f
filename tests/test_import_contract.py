"""Imports go strictly down."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter comes with the extra 'test'")
ROOT = Path(__file__).parents[1]


def lint_imports(root):
    """Run the contract of a source tree on that tree."""
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as run; run()",
    ]
    arguments = ["--config", "setup.cfg", "--no-cache"]
    done = subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_contract_is_kept():
    code, said = lint_imports(ROOT)
    assert "1 kept, 0 broken" in said
    assert code == 0


def test_the_page_on_design_has_the_layers_of_the_contract():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    layers = settings["importlinter:contract:layers"]["layers"].strip().splitlines()
    (drawn,) = re.findall(r"```\n(__main__ >[^`]+)```", (ROOT / "docs/design.md").read_text())
    assert [set(re.findall(r"\w+", layer)) for layer in drawn.split(">")] == [
        set(re.findall(r"\w+", layer)) for layer in layers
    ]


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("grid.py", "import blockbuster.run.plan", "blockbuster.grid -> blockbuster.run.plan"),
        ("merge/table.py", "from blockbuster.stage import task", "blockbuster.merge.table -> blockbuster.stage"),
        ("new_module.py", "", "blockbuster.new_module"),
    ],
    ids=["upwards", "sideways", "a module without a layer"],
)
def test_contract_notices_what_it_forbids(module, line, broken, tmp_path):
    shutil.copytree(ROOT / "blockbuster", tmp_path / "blockbuster", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    with open(tmp_path / "blockbuster" / module, "a") as file:
        file.write(f"\n{line}\n")
    code, said = lint_imports(tmp_path)
    assert code == 1
    assert broken in said
