"""Runs of a predictor that notes which tiles it predicts, and is killed in the middle of a batch."""

import functools
import os
import signal
from pathlib import Path

import dask
import numpy as np

from blockbuster import Predictor, tile_process

IMAGE = np.arange(48 * 40, dtype="uint16").reshape(48, 40)
TILE = (8, 10)
N_TILES = 24


def predict(tiles, *, folder, fatal):
    """Note each tile by its first pixel; die at the one that is the fatal one to be noted."""
    for tile in tiles:
        with open(folder / "predicted", "a") as file:
            file.write(f"{int(tile[0, 0])}\n")
        if len(predicted(folder)) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    return tiles % 7


def decode(tile):
    return (tile > 2).astype(int) * (1 + np.arange(tile.size).reshape(tile.shape))


def predicted(folder):
    return Path(folder, "predicted").read_text().split()


def run(folder, fatal=0, **options):
    """Write labels into the folder; 24 tiles in four tasks, in batches of three."""
    fn = Predictor(functools.partial(predict, folder=folder, fatal=fatal), decode, batch_size=3)
    with dask.config.set(scheduler="synchronous"):
        return tile_process(
            IMAGE,
            fn,
            tile_shape=TILE,
            tiles_per_task=6,
            write_to=folder / "x.zarr",
            merge="none",
            fn_version="1",
            return_report=True,
            **options,
        )[1]


def run_until_killed(folder, fatal):
    run(folder, fatal)
