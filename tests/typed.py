"""What a type checker takes the results of `tile_process` for; read by mypy, never run."""

from pathlib import Path
from typing import assert_type

import dask.array as da
import numpy as np

from blockbuster import RunReport, tile_process


def segment(tile: np.ndarray) -> np.ndarray:
    return tile


def check(image: np.ndarray, path: Path, whether: bool) -> None:
    assert_type(tile_process(image, segment, tile_shape=(1, 2), overlap=3), np.ndarray)
    assert_type(tile_process(image, segment, tile_shape="auto", return_report=True), tuple[np.ndarray, RunReport])
    assert_type(tile_process(image, segment, write_to=path), da.Array)
    assert_type(tile_process(image, segment, write_to=path, return_report=True), tuple[da.Array, RunReport])
    assert_type(tile_process(image, segment, write_to=path, compute=True), np.ndarray)
    tile_process(image, segment, write_to=path, compute=whether, return_report=whether)
    tile_process(image, segment, marge="agree")  # type: ignore[call-overload]
    tile_process(image, segment, tile_shape=2.5)  # type: ignore[call-overload]
