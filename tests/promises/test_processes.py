"""Functions that other processes cannot have, and every way in which processes are started (F21, F27)."""

import functools
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import dask
import naive
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from outcomes import assert_same_objects, blobs, refused

from blockbuster import tile_process

IMAGE = blobs((25, 33))
EXPECTED = naive.label(IMAGE)
TILES = {"tile_shape": (10, 10), "overlap": 1}
pytestmark = pytest.mark.usefixtures("folder")


def closure_over_a_lock():
    guard = threading.Lock()

    def segment_one_at_a_time(tile):
        with guard:
            return naive.label(tile)

    return segment_one_at_a_time


class Model:
    """A network that holds a lock."""

    def __init__(self):
        self.guard = threading.Lock()

    def segment(self, tile):
        with self.guard:
            return naive.label(tile)


def partial_with_an_open_file():
    def segment_and_log(tile, log):
        log.write("tile\n")
        return naive.label(tile)

    return functools.partial(segment_and_log, log=open("log.txt", "w"))


UNPICKLABLE = [
    (closure_over_a_lock, "segment_one_at_a_time", "lock"),
    (lambda: Model().segment, "Model.segment", "lock"),
    (partial_with_an_open_file, "segment_and_log", "TextIOWrapper|file"),
]


@pytest.mark.parametrize(("make", "name", "what"), UNPICKLABLE)
def test_F21_a_function_that_cannot_be_pickled_is_refused_by_name_before_any_work(folder, make, name, what):
    fn = make()
    with (
        dask.config.set(scheduler="processes", num_workers=2),
        refused(
            TypeError, rf"fn .*{name}.* cannot be pickled", what, "processes workers", "threads", folder=folder
        ),
    ):
        tile_process(IMAGE, fn, write_to="out.zarr", **TILES)
    with dask.config.set(scheduler="threads"):
        assert_same_objects(tile_process(IMAGE, fn, **TILES), EXPECTED)
    if isinstance(fn, functools.partial):
        fn.keywords["log"].close()


@pytest.mark.usefixtures("forked_workers")
def test_F21_workers_of_a_client_need_a_function_that_can_be_pickled_too(folder):
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0")
    parts = ("fn .*segment_one_at_a_time.* cannot be pickled", "lock", "distributed workers")
    with cluster, Client(cluster), refused(TypeError, *parts, folder=folder):
        tile_process(IMAGE, closure_over_a_lock(), write_to="out.zarr", **TILES)


# `runs.txt` shows how often the script was run, by this process or by one that it started.
SCRIPT = """
import sys
with open("runs.txt", "a") as file:
    file.write("run\\n")
import dask
import numpy as np
from scipy import ndimage
from blockbuster import tile_process

def main():
    dask.config.set({{"scheduler": "processes", "num_workers": 2, "multiprocessing.context": {context!r}}})
    image = np.load("image.npy")
    threshold = 0
    labels = tile_process(image, lambda tile: ndimage.label(tile > threshold)[0], tile_shape=(10, 10), overlap=1,
                          write_to="out.zarr", overwrite=True, compute=True)
    np.save("labels.npy", labels)

{call}
"""
GUARDED = 'if __name__ == "__main__":\n    main()'


def run_script(folder, context, call, how="file"):
    """Run the script, with a limit: without a guard it might start processes for ever."""
    np.save("image.npy", IMAGE)
    text = SCRIPT.format(context=context, call=call)
    Path("script.py").write_text(text)
    command = {"file": ["script.py"], "-c": ["-c", text], "stdin": ["-"]}[how]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    return subprocess.run(
        [sys.executable, *command],
        input=text if how == "stdin" else None,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(("context", "how"), [("spawn", "file"), ("forkserver", "file"), ("spawn", "-c")])
def test_F27_processes_may_be_started_afresh(folder, context, how):
    done = run_script(folder, context, GUARDED, how)
    assert done.returncode == 0, done.stderr
    assert_same_objects(np.load("labels.npy"), EXPECTED)
    assert set(os.listdir()) == {"image.npy", "labels.npy", "out.zarr", "runs.txt", "script.py"}


def test_F27_a_forked_worker_needs_no_main_guard(folder):
    done = run_script(folder, "fork", "main()")
    assert done.returncode == 0, done.stderr
    assert_same_objects(np.load("labels.npy"), EXPECTED)
    assert Path("runs.txt").read_text().count("run") == 1


def test_F27_a_script_that_comes_through_a_pipe_ends_with_a_clear_error(folder):
    """Python's own rule: a process that is started afresh cannot find such a script."""
    done = run_script(folder, "spawn", GUARDED, "stdin")
    assert done.returncode == 1
    assert "\nRuntimeError: A worker process ended abruptly" in done.stderr
    assert not Path("out.zarr").exists()


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_F27_a_script_without_a_main_guard_ends_with_the_hint(folder, context):
    done = run_script(folder, context, "main()")
    assert done.returncode == 1
    last = done.stderr.rstrip().split("\nTraceback")[-1]
    assert re.search(r"^RuntimeError: .*main guard", last, re.MULTILINE), done.stderr
    assert 'if __name__ == "__main__":' in last
    # This process, and its two workers, which stop before they start any.
    assert Path("runs.txt").read_text().count("run") <= 3
    assert not Path("out.zarr").exists()
    # What the workers run again must not touch the stage or the lock of the run that started them.
    assert "blockbuster-lock" not in done.stderr
    assert "FileExistsError" not in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_F27_a_function_of_a_notebook_runs_in_processes(folder):
    np.save("image.npy", IMAGE)
    cells = [
        "import dask, numpy as np\nfrom scipy import ndimage\nfrom blockbuster import tile_process",
        "def segment(tile):\n    return ndimage.label(tile > threshold)[0]\nthreshold = 0",
        "with dask.config.set(scheduler='processes', num_workers=2):\n"
        "    labels = tile_process(np.load('image.npy'), segment, tile_shape=(10, 10), overlap=1)\n"
        "np.save('labels.npy', labels)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    assert_same_objects(np.load("labels.npy"), EXPECTED)


# With distributed comes tblib: exceptions of classes that it knows are pickled with those they came from.
FAILING = """
import threading
import blockbuster.process
import dask.array as da
import dask.multiprocessing
import distributed
import numpy as np
from naive import label
from blockbuster import TileError, tile_process

class ModelError(Exception):
    def __init__(self):
        super().__init__("code 7")
        self.lock = threading.Lock()

def fails_at_77(tile):
    if (tile == 77).any():
        raise ModelError
    return tile

def segment(tile):
    return label(fails_at_77(tile))

image = np.load("image.npy")
chunked = da.from_array(image, chunks=(10, 10)).map_blocks(fails_at_77, dtype=image.dtype)
context = {"multiprocessing.context": "fork"}
with dask.config.set(scheduler="processes", num_workers=2, **context):
    for name, pixels, fn in (("fn", image, segment), ("image", chunked, label)):
        try:
            tile_process(pixels, fn, tile_shape=(10, 10))
        except TileError as error:
            print(error.tile, error.what)
        labels = tile_process(pixels, fn, tile_shape=(10, 10), on_error="skip", compute=True)
        np.save(f"{name}.npy", labels)
"""


def test_F1_an_error_that_cannot_be_pickled_is_told_whatever_pickles_exceptions(folder):
    image = IMAGE.copy()
    image[22, 31] = 77
    np.save("image.npy", image)
    Path("script.py").write_text(FAILING)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    of_fn, of_image = done.stdout.splitlines()
    assert of_fn == "(2, 3) fn raised ModelError: code 7"
    # What dask says when the image is computed alone: its process has died of the error.
    assert of_image.startswith("(2, 3) reading the image raised ")
    image[20:25, 30:33] = 0
    for name in ("fn", "image"):
        assert_same_objects(np.load(f"{name}.npy"), naive.label(image))
