"""Every interface of another package that is private, or that its next version may change, and
what is done here because another package's way does not hold.

Whatever such a version breaks, it breaks here, and ``tests/test_compat.py`` says what. Packages
that take long to import are imported where they are used.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from blockbuster.errors import ends_process, error_text

if TYPE_CHECKING:
    import dask.array as da
    import zarr


def _count_own_references() -> int:
    local = object()
    return sys.getrefcount(local)


# What `sys.getrefcount` says of an object that one local variable alone holds: it counts its own
# argument too, which Python lends from 3.14 on.
OWN_REFERENCES = _count_own_references()


def open_labels(path: str | os.PathLike[str], what: str = "labels") -> zarr.Array[Any]:
    """Open a stored array of labels for reading; errors call it `what`.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    OSError
        If its metadata are damaged, of which zarr says many things.
    TypeError
        If it holds anything but integers. Objects, which somebody who can write there might put in
        their place, can be decoded from pickles.

    Examples
    --------
    >>> import tempfile, zarr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"{folder}/a", shape=(4,), dtype="int32")
    ...     open_labels(f"{folder}/a").shape
    (4,)
    """
    import zarr

    name = f"{what} {os.fspath(path)}"
    try:
        # Not text, in which zarr would take # and ? for parts of a URL.
        labels = zarr.open_array(Path(path), mode="r")
    except (FileNotFoundError, zarr.errors.NodeTypeValidationError) as error:
        raise FileNotFoundError(f"{name}: there is no zarr array.") from error
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{name}: its metadata cannot be read ({type(error).__name__}: {error}).") from error
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} holds {labels.dtype}; labels are integers.")
    return labels


def chunk_keys(array: zarr.Array[Any], box: Sequence[slice | int]) -> Iterator[str]:
    """Iterate over the keys of what is stored as one piece: shards where there are some, else
    chunks.

    Parameters
    ----------
    array : zarr.Array
        Of format 2 or 3.
    box : sequence of slice or int
        One entry per axis, each step 1.

    Yields
    ------
    str
        Key below the array's own; on a local path the name of a file, which need not exist.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array({}, shape=(10, 10), chunks=(4, 4), dtype="uint8")
    >>> list(chunk_keys(array, (slice(3, 8), 9)))
    ['c/0/2', 'c/1/2']
    """
    return (key for _, key in chunk_boxes(array, box))


def chunk_boxes(array: zarr.Array[Any], box: Sequence[slice | int]) -> Iterator[tuple[tuple[slice, ...], str]]:
    """Iterate over the boxes and keys of what is stored as one piece, as `chunk_keys` does.

    >>> import zarr
    >>> array = zarr.create_array({}, shape=(10, 10), chunks=(4, 4), dtype="uint8")
    >>> next(chunk_boxes(array, (slice(3, 8), 9)))
    ((slice(0, 4, None), slice(8, 12, None)), 'c/0/2')
    """
    units = array.shards or array.chunks
    ranges = []
    for part, unit, length in zip(box, units, array.shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // max(1, unit), -(-stop // max(1, unit))))
    for index in itertools.product(*ranges):
        boxed = tuple(slice(i * unit, (i + 1) * unit) for i, unit in zip(index, units, strict=True))
        yield boxed, array.metadata.encode_chunk_key(index)


def encode_chunks(array: zarr.Array[Any], box: tuple[slice, ...], labels: np.ndarray) -> dict[str, bytes]:
    """Return the keys and bytes of the chunks of a box, background included, and write nothing.

    Parameters
    ----------
    array : zarr.Array
        Without shards.
    box : tuple of slice
        Whole chunks.
    labels : ndarray
        What is in the box.
    """
    import zarr
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore, StorePath

    encoded: dict[str, Buffer] = {}
    metadata: Any = array.metadata
    chunks = zarr.Array(zarr.AsyncArray(metadata, StorePath(MemoryStore(encoded))))
    # zarr looks for zeros slowly.
    chunks.with_config({"write_empty_chunks": True})[box] = labels
    return {key: buffer.to_bytes() for key, buffer in encoded.items()}


# Compressors of numcodecs, by the names that formats 2 and 3 give them.
COMPRESSORS = ("blosc", "gzip", "zstd")


def plain_decoder(array: zarr.Array[Any]) -> Callable[[bytes], np.ndarray] | None:
    """Return how the bytes of a chunk become its voxels; ``None`` where that takes more than a
    compressor.
    """
    from numcodecs import get_codec
    from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec

    metadata: Any = array.metadata
    dtype: np.dtype[Any] = array.dtype
    order: Any = "C"
    if metadata.zarr_format == 2:
        compressor, order = metadata.compressor, metadata.order
        is_plain = not metadata.filters and (compressor is None or compressor.codec_id in COMPRESSORS)
    else:
        first, *others = metadata.codecs
        is_plain = isinstance(first, BytesCodec) and len(others) <= 1
        is_plain = is_plain and all(isinstance(other, BloscCodec | GzipCodec | ZstdCodec) for other in others)
        if is_plain:
            compressor = get_codec({"id": others[0].to_dict()["name"]}) if others else None
            # A text or a member of an enumeration, as the version of zarr has it.
            dtype = dtype.newbyteorder(first.to_dict().get("configuration", {}).get("endian", "="))
    if not is_plain or array.fill_value is None:
        return None
    unpack = bytes if compressor is None else compressor.decode
    return lambda data: np.frombuffer(unpack(data), dtype).reshape(array.chunks, order=order)


def ends_with_blosc(array: zarr.Array[Any]) -> bool:
    """Return whether blosc is what made the bytes of a chunk file."""
    metadata: Any = array.metadata
    last = metadata.codecs[-1] if hasattr(metadata, "codecs") else metadata.compressor
    return "blosc" in type(last).__name__.lower()


# NumPy parses a header with `ast`, which in Python 3.11 fails now and then when a thread is
# interrupted by another that parses as well: "AST constructor recursion depth mismatch".
_parsing = threading.Lock()


def load_npy(path: str | os.PathLike[str], mode: Literal["r", "r+"] | None = "r") -> np.ndarray:
    """Map the array of a ``.npy`` file into memory, or with ``None`` read it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.arange(3))
    ...     load_npy(f"{folder}/a.npy").tolist()
    [0, 1, 2]
    """
    with _parsing:
        array: np.ndarray = np.load(path, mmap_mode=mode)
    return array


def write_npy(file: IO[bytes], array: np.ndarray) -> None:
    """Write a ``.npy`` file, or raise.

    `numpy.save` writes to a file of the system's own, and does not look whether its last block
    found room.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> write_npy(file, np.arange(3))
    >>> np.load(io.BytesIO(file.getvalue())).tolist()
    [0, 1, 2]
    """
    # Something that can only write keeps numpy from writing to the file by itself.
    np.lib.format.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


def as_graph(tasks: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a graph as dask runs it: what is written as a tuple of a function and keys becomes a
    task.
    """
    from dask._task_spec import convert_legacy_graph

    graph: dict[Any, Any] = convert_legacy_graph(tasks)
    return graph


@contextlib.contextmanager
def callbacks_taken() -> Iterator[set[Any]]:
    """Use the callbacks of the user for one graph and for none that fn computes meanwhile, as dask
    does.

    Threads that compute such a graph each would lose them, when they put back what they found.
    """
    from dask.callbacks import Callback

    taken, Callback.active = Callback.active, set()
    try:
        yield taken
    finally:
        Callback.active = Callback.active | taken


def held_arrays(image: da.Array) -> Iterator[zarr.Array[Any]]:
    """Yield the zarr arrays that a graph reads: what `from_array` was given lies in a layer of its
    own.
    """
    import zarr
    from dask.highlevelgraph import MaterializedLayer

    for layer in image.dask.layers.values():
        if isinstance(layer, MaterializedLayer) and len(layer) == 1:
            yield from (value for value in layer.mapping.values() if isinstance(value, zarr.Array))


@dataclass(frozen=True)
class Raised:
    """What a task of a graph raised, as text, in the place of its result."""

    text: str


class _Caught:
    """What a task of a graph does, called with what the tasks under `keys` gave; an error is given
    back, or passed on.
    """

    def __init__(self, task: Any, exits_only: bool) -> None:
        self.task = task
        self.exits_only = exits_only
        # In another process a set has another order.
        self.keys = tuple(task.dependencies)

    def __call__(self, *values: Any) -> Any:
        for value in values:
            if isinstance(value, Raised):
                return value
        try:
            return self.task(dict(zip(self.keys, values, strict=True)))
        except BaseException as error:
            if ends_process(error) or (self.exits_only and isinstance(error, Exception)):
                raise
            return Raised(f"{type(error).__name__}: {error_text(error)}")


def own_graph(array: da.Array, seed: str, *, exits_only: bool = False) -> tuple[dict[Any, Any], Any]:
    """Return the graph of an array of one chunk with keys of its own, and the key of the chunk.

    A task that raises gives `Raised`, and so do those that depend on it, the last of which is the
    chunk: whoever wants the chunk is told. From a scheduler one learns what was raised, and not for
    which of many chunks. An exit would end a worker of a cluster; with `exits_only` other errors
    are raised.
    """
    from dask._task_spec import Task, TaskRef
    from dask.core import flatten

    graph = as_graph(dict(array.__dask_graph__()))
    # Those of an array are tuples of its name and numbers.
    names = {key: (f"{key[0]}-{seed}", *key[1:]) if type(key) is tuple else f"{key}-{seed}" for key in graph}
    own = {}
    for key, task in graph.items():
        if isinstance(task, Task):
            caught = _Caught(task, exits_only)
            # A key that is not in the graph is one that a scheduler has: a chunk was persisted.
            refs = [TaskRef(names.get(before, before)) for before in caught.keys]
            own[names[key]] = Task(names[key], caught, *refs, _data_producer=task.data_producer)
        else:
            own[names[key]] = task.substitute(names, key=names[key])
    (chunk,) = flatten(array.__dask_keys__())
    return own, names.get(chunk, chunk)


def client_workers(client: Any) -> dict[str, Any]:
    """Return what the scheduler of a client says of all its workers, by their addresses."""
    # Some versions of dask give five workers unless asked for all.
    gives_some = "n_workers" in inspect.signature(client.scheduler_info).parameters
    return dict((client.scheduler_info(n_workers=-1) if gives_some else client.scheduler_info())["workers"])


def cancel_tasks(client: Any, prefix: str) -> None:
    """Take back all tasks of a client whose keys begin so, also those that nobody holds a future
    of.
    """
    from distributed import Future

    client.cancel([Future(key, client) for key in list(client.futures) if str(key).startswith(prefix)])


def vouch_for_workers(scheduler: Any, prefix: str) -> None:
    """Have a scheduler see workers as alive that run tasks whose keys begin so."""
    for worker in scheduler.workers.values():
        if any(str(task.key).startswith(prefix) for task in worker.processing):
            worker.last_seen = time()


def time_to_live(scheduler: Any) -> float | None:
    """Return the seconds after which a scheduler takes a silent worker for lost; ``None``: it never
    does.
    """
    seconds: float | None = scheduler.worker_ttl
    return seconds


def set_before_start(nanny: Any, variable: str, value: str) -> None:
    """Set an environment variable of the worker that a nanny will start."""
    nanny.pre_spawn_env[variable] = nanny.env[variable] = value


def process_context() -> Any:
    """Return the context of multiprocessing in which dask is configured to start processes."""
    from dask.multiprocessing import get_context

    return get_context()


def start_dask_process() -> None:
    """Prepare a process that has just started as dask prepares those of its own pool."""
    from dask.multiprocessing import initialize_worker_process

    initialize_worker_process()


def pool_size(pool: Any) -> int | None:
    """Return how many workers an executor has; ``None`` where it does not say."""
    return getattr(pool, "_max_workers", None)


def process_status(pid: int) -> list[bytes] | None:
    """Read fields 3 and up of ``/proc/PID/stat``; ``None`` where there is nothing to read."""
    try:
        # A container may see the /proc of another pid namespace, and any host may hide other users'
        # processes.
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def is_starting_worker() -> bool:
    """Return whether this process is starting as a worker, and imports the main script for it."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def code_reducer() -> Callable[[types.CodeType], tuple[Callable[..., types.CodeType], tuple[Any, ...]]]:
    """Return how cloudpickle takes code apart: what makes it again, and from what."""
    from cloudpickle import CloudPickler

    reduce: Callable[[types.CodeType], Any] = CloudPickler.dispatch_table[types.CodeType]
    return reduce


def jit_compiled_function(value: Any) -> tuple[Any, tuple[tuple[str, Any], ...]] | None:
    """Return the function that Numba compiles, and its options; ``None`` where it is no such
    object.
    """
    if not type(value).__module__.startswith("numba."):
        return None
    function = getattr(getattr(value, "_dispatcher", value), "py_func", None)
    options = getattr(value, "targetoptions", None) or {}
    return None if function is None else (function, tuple(options.items()))


@contextlib.contextmanager
def told_of_compiling(tell: Callable[[bool], Any]) -> Iterator[None]:
    """Tell when kernels begin to be compiled in this process, and when that ends.

    It happens once on each machine, and takes seconds.
    """
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: event.Event) -> None:
            # The user's functions are compiled too.
            if event.data["dispatcher"].py_func.__module__.startswith("blockbuster."):
                tell(event.is_start)

        on_end = on_start

    with event.install_listener("numba:compile", Listener()):
        yield
