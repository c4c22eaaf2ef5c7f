"""What a user reads when something goes wrong: which argument or file, why, what to do, no frames of others."""

import subprocess
import sys
import traceback

import dask.array as da
import numpy as np
import pytest
import zarr
from naive import label
from outcomes import Counted, blobs, refuses

from blockbuster import TileError, make_local_cluster, plan_run, tile_process

MASK = blobs((64, 60))
TILES = {"tile_shape": (32, 32)}


def printed(kind, *arguments, **options):
    """Everything that Python prints of the error of a call."""
    with pytest.raises(kind) as caught:
        tile_process(*arguments, **options)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("axes", ["yxc", None])
@pytest.mark.parametrize("tile_shape", [(32, 32, 3), None])
def test_a_function_of_rgb_images_is_told_of_channel_none(axes, tile_shape):
    image = np.stack([MASK] * 3, axis=-1)
    text = printed(TileError, image, lambda tile: label(tile[..., 0]), axes=axes, tile_shape=tile_shape)
    assert 'name it c in axes, e.g. axes="yxc", and pass channel=None.' in text
    labels = tile_process(image, lambda tile: label(tile[..., 0]), axes="yxc", channel=None, **TILES)
    assert labels.shape == MASK.shape


def test_a_function_that_loses_more_than_an_axis_is_not_told_of_channels():
    assert "channel=None" not in printed(TileError, MASK[None], lambda tile: tile[0, 0], tile_shape=(1, 32, 32))


@pytest.mark.parametrize("returned", [None, 3, [1, 2], np.int64(3), np.array(3)], ids=repr)
@pytest.mark.parametrize("shape", [(8,), (8, 6)])
def test_a_function_that_returns_no_array_of_labels_is_not_told_of_channels(returned, shape):
    text = printed(TileError, np.ones(shape, "uint8"), lambda tile: returned, tile_shape=(4, 6)[: len(shape)])
    assert "channel" not in text
    assert "fn returned" in text


def spoil(path):
    """Turn some bits of a file in the middle and at the start."""
    data = bytearray(path.read_bytes())
    for at in range(4, 12):
        data[at] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("scheduler", "layout"),
    [("threads", {}), ("processes", {}), ("threads", {"shards": (32, 40)}), ("threads", {"zarr_format": 2})],
)
def test_a_chunk_that_cannot_be_decoded_is_named(layout, scheduler, tmp_path, workers):
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=MASK, chunks=(16, 20), compressors="auto", **layout)
    file = path / ("1.1" if "zarr_format" in layout else "c/1/1")
    spoil(file)
    with workers(scheduler):
        text = printed(TileError, path, label, **TILES)
    assert f"the chunk file {file} cannot be decoded: " in text
    assert "site-packages/zarr" not in text


@pytest.mark.parametrize("scheduler", ["threads", "processes", "synchronous"])
def test_a_graph_that_fails_shows_the_line_that_failed_and_no_hundred_others(scheduler, workers):
    def find_plane(block):
        raise KeyError("no such plane")

    image = da.ones((64, 60), chunks=32).map_blocks(find_plane, dtype="f8", meta=np.empty((0, 0)))
    with workers(scheduler):
        text = printed(TileError, image, label, **TILES)
    assert "reading the image raised KeyError: 'no such plane'" in text
    original = text.partition("The original traceback:\n")[2].splitlines()
    assert original[0] == "Traceback (most recent call last):"
    assert original[1].endswith("in find_plane")
    # The lines of a function that was pickled are not known in this process.
    if scheduler != "processes":
        assert original[2].strip() == 'raise KeyError("no such plane")'
    assert len(original) <= 5
    assert "During handling of the above exception" not in text


def test_the_cause_of_a_failing_graph_is_shown():
    def find_plane(block):
        try:
            return {}["plane"]
        except KeyError as error:
            raise ValueError("no such plane") from error

    image = da.ones((64, 60), chunks=32).map_blocks(find_plane, dtype="f8", meta=np.empty((0, 0)))
    text = printed(TileError, image, label, **TILES).partition("The original traceback:\n")[2]
    assert "KeyError: 'plane'" in text
    assert text.count("in find_plane") == 2


@pytest.mark.parametrize("limit", ["lots", -1, "4 apples", [1], True, float("nan")])
def test_a_memory_limit_that_is_none_is_named(limit):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r'memory_limit is .*; it is the bytes of a worker.*"4 GiB"'):
        make_local_cluster(n_workers=1, memory_limit=limit)


LONG = {
    "name": "x" * 256,
    "name of two-byte letters": "ö" * 128,
    "path": "/".join(["x" * 200] * 25),
    "name in the middle": f"{'x' * 256}/a.zarr",
}


@pytest.mark.parametrize("name", LONG)
def test_a_path_that_is_too_long_is_refused_before_any_work(name, tmp_path):
    path = tmp_path / LONG[name]
    refuses(ValueError, "image is .*longer than file systems allow", image=path, folder=tmp_path)
    for argument in ("write_to", "stage_dir"):
        said = f"{argument} is .*(longer than the 255 bytes|longer than file systems allow)"
        refuses(ValueError, said, image=MASK, folder=tmp_path, **{argument: path}, **TILES)


def test_an_output_whose_files_would_have_too_long_paths_is_refused_before_any_work(tmp_path):
    deep = tmp_path / "/".join(["x" * 200] * 17)
    length = 4000 - len(str(deep)) - 1
    path = deep.joinpath(*["y" * 190] * (length // 191), "z" * (length % 191 or 1))
    assert 3585 < len(str(path)) < 4095
    refuses(ValueError, "write_to is .*Choose one of at most 3,585", image=MASK, folder=tmp_path, write_to=path)


def test_a_path_of_the_longest_length_that_is_allowed_can_be_written(tmp_path):
    room = 3585 - len(str(tmp_path)) - 1
    path = tmp_path.joinpath(*["x" * 199] * (room // 200 - 1), "y" * 150)
    labels = tile_process(MASK, Counted(), write_to=path, output_component="a/b", **TILES)
    assert labels.shape == MASK.shape
    assert plan_run(path / "a" / "b").n_tiles


CLUSTER = """
import multiprocessing
import blockbuster, numpy

def fn(tile):
    if {starts}:
        process = multiprocessing.get_context("spawn").Process(target=print)
        process.start()
        process.join()
    return tile

if {guard}:
    client, cluster = blockbuster.make_local_cluster(n_workers=1)
    with cluster, client:
        print(blockbuster.tile_process(numpy.ones((4, 4), "uint8"), fn, tile_shape=(4, 4)).sum())
"""


def run_script(folder, *, guard='__name__ == "__main__"', starts=False):
    """Run a script that makes a cluster."""
    (folder / "script.py").write_text(CLUSTER.format(guard=guard, starts=starts))
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_F27_a_cluster_without_main_guard_says_so_and_nothing_else(tmp_path):
    pytest.importorskip("distributed")
    done = run_script(tmp_path, guard="True")
    lines = done.stderr.rstrip().splitlines()
    assert done.returncode == 1
    assert lines[-1].startswith("RuntimeError: ")
    assert lines[-1].endswith('put the call under `if __name__ == "__main__":`.')
    assert len(lines) < 20, done.stderr
    assert done.stderr.count("Traceback") == 1


def test_a_function_that_starts_processes_in_daemons_is_told_what_to_do(tmp_path):
    pytest.importorskip("distributed")
    done = run_script(tmp_path, starts=True)
    assert (
        "daemonic processes are not allowed to have children. The workers of a dask cluster may not"
        in done.stderr
    )
    assert 'dask.config.set({"distributed.worker.daemon": False})' in done.stderr
