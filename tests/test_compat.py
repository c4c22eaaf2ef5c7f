"""What we use of other packages that they do not promise: a version that breaks it fails here first."""

import functools
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import FunctionType

import dask
import dask.array as da
import numba
import numcodecs
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from dask.utils import parse_timedelta
from distributed import Client, LocalCluster, Nanny
from users import Planted
from zarr import codecs

from blockbuster import compat
from blockbuster.compat import OWN_REFERENCES, load_npy

PIXELS = np.arange(35, dtype="uint16").reshape(5, 7)


@pytest.fixture
def files(tmp_path):
    array = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    return tmp_path, array


def test_arrays_come_back_mapped_or_read(files):
    folder, array = files
    for mode, writable in (("r", False), ("r+", True), (None, True)):
        loaded = load_npy(folder / "a.npy", mode)
        np.testing.assert_array_equal(loaded, array)
        assert loaded.flags.writeable is writable
        assert isinstance(loaded, np.memmap) is (mode is not None)


class Rubbish:
    """Garbage that lets other threads run while it is collected, be it in the middle of a parser."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        time.sleep(0)


def test_threads_that_load_at_once_do_not_disturb_each_other(files):
    folder, _ = files
    failures = []

    def load():
        try:
            for _ in range(1500):
                Rubbish()
                load_npy(folder / "a.npy", None)
        except BaseException as error:
            failures.append(error)

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
    assert failures == []


@pytest.mark.parametrize("mode", ["r", "r+", None])
def test_F34_objects_in_place_of_numbers_are_refused_and_not_unpickled(folder, mode):
    np.save("a.npy", np.array([Planted()], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False" if mode is None else "Python objects"):
        load_npy("a.npy", mode)
    assert not (folder / "ran").exists()


# Stored chunks: by zarr itself, as the two formats have them.
STORED = {
    "format 3": {"compressors": codecs.ZstdCodec(level=1)},
    "format 3, blosc": {"compressors": codecs.BloscCodec(cname="lz4")},
    "format 3, big endian": {"serializer": codecs.BytesCodec(endian="big"), "compressors": None},
    "format 2": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "format 2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc(), "order": "F"},
}


@pytest.fixture(params=STORED)
def stored(request, tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=PIXELS.shape, chunks=(2, 4), dtype=PIXELS.dtype, **STORED[request.param]
    )
    array[...] = PIXELS
    return array, tmp_path / "a.zarr", "blosc" in request.param


def test_chunks_lie_in_the_files_whose_keys_we_compute_and_are_decoded_as_zarr_does(stored):
    array, folder, is_blosc = stored
    boxes = {key: box for box, key in compat.chunk_boxes(array, (slice(1, 5), slice(0, 4)))}
    assert list(boxes) == list(compat.chunk_keys(array, (slice(1, 5), slice(0, 4))))
    decode = compat.plain_decoder(array)
    for key, box in boxes.items():
        inside = decode((folder / key).read_bytes())[tuple(map(slice, PIXELS[box].shape))]
        np.testing.assert_array_equal(inside, PIXELS[box])
    assert len(boxes) == 3
    assert compat.ends_with_blosc(array) is is_blosc


def test_what_takes_more_than_a_compressor_is_left_to_zarr():
    sharded = zarr.create_array({}, shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="uint8")
    filtered = zarr.create_array(
        {}, shape=(8,), dtype="int32", zarr_format=2, filters=[numcodecs.Delta("int32")], compressors=None
    )
    assert compat.plain_decoder(sharded) is compat.plain_decoder(filtered) is None


def test_chunks_are_encoded_as_zarr_writes_them_background_too_and_nothing_is_written(stored):
    array, folder, _ = stored
    box = (slice(0, 4), slice(4, 7))
    expected = {key: (folder / key).read_bytes() for key in compat.chunk_keys(array, box)}
    empty = zarr.open_array(folder, mode="r")
    assert compat.encode_chunks(empty, box, PIXELS[box]) == expected
    assert compat.encode_chunks(empty, box, np.zeros_like(PIXELS[box])).keys() == expected.keys()


def test_a_tuple_of_a_function_and_keys_is_a_task_for_dask():
    graph = compat.as_graph({"a": 3, ("b", 1): (max, "a", ("c", 0)), ("c", 0): (abs, -5)})
    assert dask.get(graph, [("b", 1)]) == (5,)


def test_a_graph_with_keys_of_its_own_gives_the_same_pixels():
    image = (da.from_array(PIXELS, chunks=(2, 4)) + 1).rechunk(-1)
    (one, _), (same, _), (other, _) = owned = [compat.own_graph(image, seed) for seed in ("a", "a", "b")]
    assert one.keys() == same.keys()
    assert not one.keys() & (other.keys() | set(image.dask))
    for graph, key in owned:
        np.testing.assert_array_equal(dask.get(graph, key), PIXELS + 1)


def broken(block, block_info=None):
    if block_info[0]["chunk-location"] == (1, 1):
        raise SystemExit("no such plane")
    return block


@pytest.fixture(params=["synchronous", "threads", "processes", "distributed"])
def compute(request, pool):
    """Compute a key of a graph as dask does it locally, or on a client."""
    if request.param == "distributed":
        return request.getfixturevalue("client").get
    options = {"pool": pool} if request.param == "processes" else {}
    return functools.partial(dask.base.get_scheduler(scheduler=request.param), **options)


@pytest.mark.parametrize("fuse", [True, False])
def test_F12_B26_what_a_task_of_a_graph_raises_reaches_the_task_that_wants_its_chunk(compute, fuse):
    image = da.from_array(PIXELS, chunks=(2, 4)).map_blocks(broken, dtype=PIXELS.dtype, meta=PIXELS[:0, :0]) + 1
    regions = {
        "whole": image.rechunk(-1),
        "sum": image[:, 3:].sum(keepdims=True),
        "readable": image[:2].rechunk(-1),
    }
    graph = {}
    for name, region in regions.items():
        with dask.config.set({"optimization.fuse.active": fuse}):
            own, chunk = compat.own_graph(*dask.optimize(region), name)
        graph |= own | {name: (np.array, chunk) if name == "readable" else (getattr, chunk, "text")}
    whole, total, readable = compute(compat.as_graph(graph), list(regions))
    assert whole == total == "SystemExit: no such plane"
    np.testing.assert_array_equal(readable, PIXELS[:2] + 1)


def interrupt(block):
    raise KeyboardInterrupt


def test_B26_ctrl_c_in_a_graph_is_passed_on():
    image = da.from_array(PIXELS, chunks=-1).map_blocks(interrupt, dtype=PIXELS.dtype, meta=PIXELS[:0, :0])
    with pytest.raises(KeyboardInterrupt):
        dask.get(*compat.own_graph(image, "a"))


def test_chunks_that_a_client_holds_are_parts_of_a_graph(client):
    held = client.persist(da.from_array(PIXELS, chunks=(2, 4)) + 1)
    graph, key = compat.own_graph(*dask.optimize((held * 2).rechunk(-1)), "a")
    np.testing.assert_array_equal(client.get(graph, key), 2 * (PIXELS + 1))


def test_arrays_that_a_graph_reads_are_found(tmp_path):
    first, _ = (zarr.create_array(tmp_path / name, data=PIXELS, attributes={"name": name}) for name in "ab")
    image = da.from_array(first) + da.from_zarr(str(tmp_path / "b"))[:, ::-1]
    assert {array.attrs["name"] for array in compat.held_arrays(image)} == {"a", "b"}
    assert list(compat.held_arrays(da.zeros((4, 4), chunks=2))) == []


def test_callbacks_of_the_user_are_taken_for_a_while_and_come_back():
    seen = []
    with Callback(posttask=lambda key, *_: seen.append(key)):
        with compat.callbacks_taken() as theirs:
            dask.get({"a": (abs, 1)}, "a")
            assert (len(theirs), seen) == (1, [])
        dask.get({"b": (abs, 1)}, "b")
    assert seen == ["b"]


def test_pools_say_how_many_workers_they_have():
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2) as processes:
        assert [compat.pool_size(pool) for pool in (threads, processes, object(), None)] == [3, 2, None, None]


STARTING = """
import multiprocessing, os
from blockbuster.compat import is_starting_worker
with open(f"{__name__}.txt", "w") as file:
    file.write(str(is_starting_worker()))
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
"""


def test_only_a_process_that_imports_the_main_script_is_a_starting_worker(folder):
    (folder / "script.py").write_text(STARTING)
    subprocess.run([sys.executable, "script.py"], check=True)
    found = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    assert found == {"__main__": "False", "__mp_main__": "True"}


def test_cloudpickle_takes_code_apart_into_what_makes_it_again():
    def above(tile):
        return tile > 3

    make, arguments = compat.code_reducer()(above.__code__)
    assert [FunctionType(make(*arguments), {})(number) for number in (3, 4)] == [False, True]


class KeeperWithVariable(Nanny):
    """A nanny that sets a variable for its worker."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        compat.set_before_start(self, "BLOCKBUSTER_CANARY", "sings")


@pytest.fixture(scope="module")
def client(forked_workers):
    with (
        LocalCluster(
            n_workers=6, threads_per_worker=1, dashboard_address=":0", worker_class=KeeperWithVariable
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_a_client_knows_all_its_workers_which_start_with_the_variables_that_were_set(client):
    workers = compat.client_workers(client)
    assert workers.keys() == client.nthreads().keys()
    assert len(workers) == 6
    assert {"nthreads", "memory_limit", "nanny"} <= next(iter(workers.values())).keys()
    assert set(client.run(os.getenv, "BLOCKBUSTER_CANARY").values()) == {"sings"}


def test_tasks_are_taken_back_by_their_keys(client):
    futures = [client.submit(time.sleep, 3, key=key, pure=False) for key in ("ours-1", "ours-2", "other")]
    compat.cancel_tasks(client, "ours-")
    assert [future.status for future in futures] == ["cancelled", "cancelled", "pending"]
    futures[-1].cancel()


def look_at_workers(dask_scheduler):
    """Age the workers, vouch for those with our tasks, and tell which are seen as alive."""
    alive = []
    for address, worker in dask_scheduler.workers.items():
        worker.last_seen, before = 1.0, worker.last_seen
        compat.vouch_for_workers(dask_scheduler, "vouched-")
        alive += [address] if worker.last_seen > 1 else []
        worker.last_seen = before
    return alive, compat.time_to_live(dask_scheduler)


def test_a_scheduler_sees_workers_as_alive_that_are_vouched_for(client):
    futures = [client.submit(time.sleep, 5, key=key, pure=False) for key in ("vouched-1", "mine-1")]
    while not {"vouched-1", "mine-1"} <= set().union(*client.processing().values()):
        time.sleep(0.01)
    (expected,) = [worker for worker, keys in client.processing().items() if "vouched-1" in keys]
    alive, seconds = client.run_on_scheduler(look_at_workers)
    assert alive == [expected]
    assert seconds == parse_timedelta(dask.config.get("distributed.scheduler.worker-ttl"))
    client.cancel(futures)


def test_what_numba_compiled_is_known_by_its_function_and_options():
    def twice(number):
        return 2 * number

    assert compat.jit_compiled_function(numba.njit(nogil=True)(twice))[0] is twice
    assert ("nogil", True) in compat.jit_compiled_function(numba.njit(nogil=True)(twice))[1]
    assert compat.jit_compiled_function(numba.vectorize(["int64(int64)"])(twice))[0] is twice
    assert compat.jit_compiled_function(twice) is None


def test_processes_start_as_dask_is_configured_with_random_numbers_of_their_own():
    for method in ("spawn", "forkserver"):
        with dask.config.set({"multiprocessing.context": method}):
            assert compat.process_context().get_start_method() == method
    inherited = np.random.get_state()
    try:
        compat.start_dask_process()
        assert not np.array_equal(np.random.get_state()[1], inherited[1])
    finally:
        np.random.set_state(inherited)


def test_an_object_that_is_kept_elsewhere_has_more_references_than_that_of_a_variable():
    alone, kept = np.zeros(3), np.zeros(3)
    elsewhere = {"kept": kept}
    assert sys.getrefcount(alone) == OWN_REFERENCES < sys.getrefcount(kept)
    assert elsewhere


def test_numba_tells_when_it_compiles_a_kernel_of_ours():
    def twice(number):
        return 2 * number

    said = []
    with compat.told_of_compiling(said.append):
        numba.njit(twice)(1)
        assert said == []
        twice.__module__ = "blockbuster.kernels.twice"
        numba.njit(twice)(1)
    assert said == [True, False]
