"""What is imported is declared, and what is built is whole."""

import ast
import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where the name of a distribution is not that of its module.
DISTRIBUTIONS = {"PIL": "pillow", "cupy": "cupy-cuda12x", "skimage": "scikit-image", "yaml": "pyyaml"}
# Modules of the tests, which find each other by path.
OWN = {"blockbuster", "benchmarks", "tests", *(path.stem for path in ROOT.glob("tests/**/*.py"))}


def requirements(text):
    """Name each requirement of a list, and its lower bound."""
    return dict(re.findall(r"^([\w-]+)(?:\[[\w,-]+\])?(?:>=([\w.]+))?", text, re.MULTILINE))


SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")
CORE = requirements(SETTINGS["options"]["install_requires"].strip())
EXTRAS = {name: requirements(text.strip()) for name, text in SETTINGS["options.extras_require"].items()}


def imports(tree):
    """Name the distributions of what a syntax tree imports, those of Python and our own left out."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])
    modules -= OWN | sys.stdlib_module_names
    return {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in modules}


def imported(*patterns):
    """Name all distributions that these files import."""
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert paths
    return set().union(*(imports(ast.parse(path.read_text())) for path in paths))


def test_every_module_that_is_imported_is_a_declared_dependency_or_of_an_extra():
    assert imported("blockbuster/**/*.py") <= set(CORE).union(*EXTRAS.values())


@pytest.mark.slow
def test_a_run_needs_no_extra():
    """Processes need what comes with dask; a client needs the extra that is named after it."""
    modules = {name: module for module, name in DISTRIBUTIONS.items()}
    extras = set().union(*EXTRAS.values()) - set(CORE)
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(modules.get(name, name) for name in extras)}))
import numpy as np
import blockbuster
for name in blockbuster.__all__:
    getattr(blockbuster, name)
image = np.pad(np.ones((8, 8), int), 4)
labels, report = blockbuster.tile_process(image, np.array, tile_shape=(8, 8), return_report=True)
assert report._repr_html_() and (labels == image).all()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_declared_dependency_is_imported():
    assert set(CORE) <= imported("blockbuster/**/*.py")


def test_what_the_tests_and_benchmarks_import_comes_with_an_extra():
    """What evaluates models is left out: its packages are named in .ci/run."""
    found = imported("tests/*.py", "tests/[!m]*/*.py", "tests/merge/*.py", "benchmarks/*.py")
    # A module that a test writes; what is named and not imported, and comes with dask and matplotlib.
    found -= {"torch", "slow", "pyyaml", "dateutil"}
    assert found <= set(CORE).union(*EXTRAS.values())


def test_every_dependency_has_a_lower_bound_and_the_same_one_everywhere():
    assert all(CORE.values())
    bounds = [(name, bound) for named in (CORE, *EXTRAS.values()) for name, bound in named.items() if bound]
    assert len(dict(bounds)) == len(set(bounds))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what is in the repository, and nothing else."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout: no list of what belongs to it")
    root = tmp_path_factory.mktemp("sources")
    for name in listed.stdout.splitlines():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    return root


def build(kind, root):
    """Build a distribution as a front end does, without one and without a network."""
    pytest.importorskip("setuptools")
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    (path,) = (root / "dist").glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[kind])
    return path


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_source_distribution_holds_the_repository_and_builds_itself_again(sources, tmp_path):
    expected = files(sources)
    (sources / "notebooks/.ipynb_checkpoints").mkdir()
    (sources / "notebooks/.ipynb_checkpoints/01-checkpoint.ipynb").write_text("{}")
    for root in (sources, tmp_path / "again"):
        with tarfile.open(build("sdist", root)) as archive:
            names = {member.name.partition("/")[2] for member in archive if member.isfile()}
            archive.extractall(tmp_path / "unpacked", filter="data")
        assert {name for name in names if ".egg-info/" not in name} - {"PKG-INFO"} == expected
        (unpacked,) = (tmp_path / "unpacked").iterdir()
        unpacked.rename(tmp_path / ("again" if root == sources else "last"))


def test_the_wheel_holds_the_package_and_nothing_else(sources):
    if int(version("setuptools").split(".")[0]) < 71:
        pytest.skip("setuptools before 71 builds no wheel by itself")
    with zipfile.ZipFile(build("wheel", sources)) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name for name in files(sources) if name.startswith("blockbuster/")}
