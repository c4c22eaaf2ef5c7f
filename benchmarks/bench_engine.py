"""The same benchmarks as classes for asv; ``BLOCKBUSTER_BENCH=small`` chooses the smallest sizes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

import blockbuster
from benchmarks.runs import label_tile, plain_loop, run_engine
from benchmarks.settings import is_small, settings
from benchmarks.small_work import call_fn, small_image, tile_small_image

SETTINGS = {setting.name: setting for setting in settings(small=is_small())}


def _names(ndim: int) -> list[str]:
    return [name for name, setting in SETTINGS.items() if setting.image.ndim == ndim]


def _compile_kernels(ndim: int) -> None:
    image = np.ones((8,) * ndim, "uint16")
    blockbuster.tile_process(image, label_tile, tile_shape=(4,) * ndim, overlap=1)


class _Engine:
    param_names = ("setting",)
    timeout = 1800
    number = 1
    repeat = (3, 5, 120.0)
    warmup_time = 0.001

    def setup_cache(self) -> str:
        folder = Path.cwd()
        for setting in SETTINGS.values():
            setting.image.stored_in(folder)
        return str(folder)

    setup_cache.timeout = 1800  # type: ignore[attr-defined]

    def setup(self, folder: str, name: str) -> None:
        self.setting = SETTINGS[name]
        self.path = self.setting.image.stored_in(Path(folder))
        self.scratch = Path(tempfile.mkdtemp())
        _compile_kernels(self.setting.image.ndim)

    def teardown(self, folder: str, name: str) -> None:
        shutil.rmtree(self.scratch)

    def _run(self) -> None:
        shutil.rmtree(self.scratch / "labels.zarr", ignore_errors=True)
        run_engine(self.path, self.setting, self.scratch)


class _TimeEngine(_Engine):
    def time_plain_loop(self, folder: str, name: str) -> None:
        plain_loop(self.path, self.setting)

    def time_tile_process(self, folder: str, name: str) -> None:
        self._run()


class TimeEngine2D(_TimeEngine):
    params = (_names(2),)


class TimeEngine3D(_TimeEngine):
    params = (_names(3),)


class PeakMemEngine(_Engine):
    params = (list(SETTINGS),)

    def peakmem_tile_process(self, folder: str, name: str) -> None:
        self._run()


class TimeSmallWork:
    def setup(self) -> None:
        self.image = small_image()
        tile_small_image(self.image)

    def time_16_calls_of_fn(self) -> None:
        call_fn(self.image)

    def time_tile_process_in_16_tiles(self) -> None:
        tile_small_image(self.image)


class TimeImport:
    def timeraw_import_blockbuster(self) -> str:
        return "import blockbuster"
