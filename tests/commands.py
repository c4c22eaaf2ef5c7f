"""What tests of the command line share: an image of spots, a way to run a command, and what it left behind."""

import hashlib
import shlex
import subprocess
import sys

import numpy as np
import zarr
from scipy import ndimage

from blockbuster.cli import main


def spots(shape, seed=0):
    """Smooth bright spots on a noisy background, many of them across seams."""
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return (200 * (smooth - smooth.min()) / np.ptp(smooth)).astype("uint8")


def write_array(path, image, chunks):
    """Store a zarr array."""
    array = zarr.create_array(path, shape=image.shape, chunks=chunks, dtype=image.dtype)
    array[...] = image


def read(path, component="labels"):
    """The labels of a finished run."""
    return zarr.open_array(path, path=component, mode="r")[...]


def tree(folder):
    """Every file in a folder and a hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(command):
    """Run the command line in this process."""
    return main(shlex.split(command))


def run_module(*argv, folder, **options):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "blockbuster", *argv]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, **options)
