"""Stand-ins for models' packages, on the path while a test runs."""

import importlib
import sys
from pathlib import Path

import pytest

# `standins` is imported by name.
sys.path.insert(0, str(Path(__file__).parent))

import standins

from blockbuster.plugins import unload_models

PACKAGES = ("cellpose", "torch", "stardist", "csbdeep", "tensorflow")


def loaded(names):
    """List the modules that are loaded of these packages."""
    return [name for name in sys.modules if name.partition(".")[0] in names]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the path for packages; nothing of them is left afterwards."""
    if loaded(PACKAGES):
        pytest.skip("a real model package is loaded; its tests are in tests/models")
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    unload_models()
    for name in loaded(PACKAGES):
        del sys.modules[name]


@pytest.fixture
def weights(tmp_path):
    """A file of weights."""
    path = tmp_path / "weights"
    path.write_text("120")
    return path


@pytest.fixture(params=["3.1.1", "4.2.1"])
def cellpose_models(request, packages):
    """The stand-in for `cellpose.models`, of both major versions."""
    return import_cellpose(packages, request.param)


@pytest.fixture
def cellpose_3(packages):
    return import_cellpose(packages, "3.1.1")


@pytest.fixture
def cellpose_4(packages):
    return import_cellpose(packages, "4.2.1")


def import_cellpose(packages, version):
    standins.write_cellpose(packages, version)
    importlib.invalidate_caches()
    return importlib.import_module("cellpose.models")


@pytest.fixture
def stardist_models(packages):
    """The stand-in for `stardist.models`."""
    standins.write_stardist(packages)
    importlib.invalidate_caches()
    return importlib.import_module("stardist.models")
