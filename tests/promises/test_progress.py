"""Progress bars that count tiles, and the log of a verbose run."""

import io
import logging
import os
import re
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
from naive import components
from outcomes import blobs

from blockbuster import TileError, tile_process

PHASES = ["segment", "match seams", "write labels"]
IMAGE = blobs((45, 52))


def last_counts(text):
    """What the bars came to: done and total of each phase, in the order of the phases."""
    found = {}
    for line in re.split(r"[\r\n]+", text):
        bar = re.match(r"(.+?): +\d+%.* (\d+)/(\d+) \[", line)
        if bar:
            found[bar[1]] = (int(bar[2]), int(bar[3]))
    return found


@pytest.mark.parametrize("options", [{}, {"tiles_per_task": 1}, {"tiles_per_task": 7}, {"overlap": 4}])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_bars_count_every_tile_once_in_each_phase(capfd, scheduler, options):
    with dask.config.set(scheduler=scheduler):
        tile_process(IMAGE, components, tile_shape=(10, 10), progress=True, **options)
    out, err = capfd.readouterr()
    assert last_counts(err) == dict.fromkeys(PHASES, (30, 30))
    assert out == ""


def test_bars_count_tiles_that_run_in_other_processes(capfd, tmp_path):
    with dask.config.set(scheduler="processes", num_workers=2):
        tile_process(
            IMAGE,
            components,
            tile_shape=(10, 10),
            tiles_per_task=4,
            progress=True,
            write_to=tmp_path / "out.zarr",
        )
    assert last_counts(capfd.readouterr().err) == dict.fromkeys(PHASES, (30, 30))


@pytest.mark.parametrize(
    ("image", "options", "n_tiles"),
    [
        (IMAGE, {}, 1),
        (IMAGE, {"tile_shape": (7, 100)}, 7),
        (IMAGE, {"tile_shape": (10, 10), "skip_empty": True, "empty_threshold": 0}, 30),
        (da.from_array(IMAGE, chunks=((5, 40), (50, 2))), {}, 4),
        (np.stack([IMAGE, IMAGE]), {"axes": "tyx", "tile_shape": (20, 20)}, 18),
        (np.stack([IMAGE, IMAGE]), {"axes": "cyx", "tile_shape": (20, 20), "channel": None}, 9),
        (np.ones((4, 3), "uint8"), {"axes": "tc", "tile_shape": (1, 1)}, 12),
        (np.zeros((30, 30), "uint8"), {"tile_shape": (10, 10)}, 9),
    ],
)
def test_bars_count_tiles_of_every_kind_of_grid(capfd, tmp_path, image, options, n_tiles):
    tile_process(image, components, progress=True, write_to=tmp_path / "out.zarr", **options)
    assert last_counts(capfd.readouterr().err) == dict.fromkeys(PHASES, (n_tiles, n_tiles))


def test_bars_of_an_image_without_voxels_are_no_fault(capfd):
    tile_process(np.zeros((0, 10), "uint8"), components, progress=True)
    assert "segment" in capfd.readouterr().err


def test_bar_of_a_failed_phase_is_closed_and_no_other_follows(capfd):
    with pytest.raises(TileError):
        tile_process(IMAGE, lambda tile: None, tile_shape=(10, 10), progress=True)
    err = capfd.readouterr().err
    assert list(last_counts(err)) == ["segment"]
    assert err.endswith("\n")


FIRST_CALL = """
import sys
import numpy as np
from blockbuster import tile_process
tile_process(np.ones((20, 20), "uint8"), lambda tile: tile.astype(int), tile_shape=(10, 10), progress=True)
"""


def test_the_first_call_of_all_says_that_it_compiles_and_no_other_does(tmp_path):
    said = []
    for _ in range(2):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", FIRST_CALL]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert last_counts(done.stderr) == dict.fromkeys(PHASES, (4, 4))
        said.append("compiling, once on this machine" in done.stderr)
    assert said == [True, False]


def test_without_progress_nothing_is_shown(capfd):
    tile_process(IMAGE, components, tile_shape=(10, 10))
    assert capfd.readouterr() == ("", "")


def test_a_verbose_run_logs_position_and_shape_of_each_tile(caplog):
    with caplog.at_level(logging.INFO, "blockbuster"):
        tile_process(IMAGE, components, tile_shape=(20, 30), overlap=4, verbose=True)
    said = [message for message in caplog.messages if message.startswith("tile ")]
    assert len(said) == 6
    expected = label_counts()
    for (y, x), n in expected.items():
        top, left = 20 * y, 30 * x
        bottom, right = min(45, top + 20), min(52, left + 30)
        seen = min(45, bottom + 4) - max(0, top - 4), min(52, right + 4) - max(0, left - 4)
        assert f"tile ({y}, {x}) [{top}:{bottom}, {left}:{right}], seen by fn as {seen}: {n} labels" in said


def label_counts():
    """Labels in the core of each tile, as fn sees it with its halo."""
    found = {}
    for y, x in np.ndindex(3, 2):
        top, left = max(0, 20 * y - 4), max(0, 30 * x - 4)
        labels = components(IMAGE[top : 20 * y + 24, left : 30 * x + 34])
        core = labels[20 * y - top :, 30 * x - left :][: min(20, 45 - 20 * y), : min(30, 52 - 30 * x)]
        found[y, x] = len(np.unique(core[core > 0]))
    return found


def test_a_verbose_run_shows_its_log_where_logging_is_not_configured(capfd):
    logger = logging.getLogger("blockbuster")
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    root.handlers[:] = []
    try:
        _, report = tile_process(IMAGE, components, tile_shape=(20, 30), verbose=True, return_report=True)
        err = capfd.readouterr().err
        assert err.count("\ntile (") == 6
        assert "tiles     6 of 20 x 30" in err
        assert err.endswith(f"{report}\n")
        tile_process(IMAGE, components, tile_shape=(20, 30))
        assert capfd.readouterr().err == ""
    finally:
        root.handlers[:] = handlers
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


def test_bars_go_to_the_stderr_of_the_moment(monkeypatch):
    """Notebooks and test runners replace sys.stderr after the import."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    tile_process(IMAGE, components, tile_shape=(10, 10), progress=True)
    assert last_counts(shown.getvalue()) == dict.fromkeys(PHASES, (30, 30))
