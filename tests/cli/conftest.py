"""A folder to work in, and an image in it."""

import sys

import pytest
from commands import spots, write_array


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def image(here):
    """Pixels of image.zarr in the current folder."""
    pixels = spots((61, 83))
    write_array("image.zarr", pixels, (20, 30))
    return pixels
