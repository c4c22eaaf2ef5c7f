"""A model is loaded once per process, and evaluates one tile at a time per device."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import inspect
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from blockbuster.errors import check_installed
from blockbuster.execution.memory import give_back_freed_memory

logger = logging.getLogger("blockbuster")

_loading = threading.Lock()
_models: dict[Hashable, tuple[Hashable, Any]] = {}
_turns: dict[str, threading.Lock] = {}


def load_once(key: Hashable, load: Callable[[], Any], stamp: Hashable = None) -> Any:
    """Load a model, or take the one that another thread of this process has loaded.

    Parameters
    ----------
    key : hashable
        What the model is, e.g. ``("my package", "weights.pt")``.
    load : callable
        Called without arguments, by one thread at a time; returns the model.
    stamp : hashable
        Its state, e.g. `file_stamp` of its weights; a model with another stamp is replaced.
        ``None``: it never changes.

    Returns
    -------
    object
        The model. It stays loaded until the process ends, or `unload_models`.

    Examples
    --------
    >>> first = load_once("a model", lambda: ["its weights"])
    >>> load_once("a model", lambda: ["its weights"]) is first
    True
    >>> unload_models()
    """
    with _loading:
        known = _models.get(key)
        if known is None or known[0] != stamp:
            _models.pop(key, None)  # the old one goes before the new one comes
            start = time.perf_counter()
            _models[key] = known = (stamp, load())
            give_back_freed_memory()  # the file, and weights in another type
            logger.info("loaded %s in %.1f s", key, time.perf_counter() - start)
        return known[1]


def unload_models() -> None:
    """Release all models that this process has loaded, e.g. to get their memory back.

    Examples
    --------
    >>> unload_models()
    """
    with _loading:
        _models.clear()


@contextlib.contextmanager
def evaluation_turn(device: str) -> Iterator[None]:
    """Wait until no other thread of this process evaluates a model on a device.

    Parameters
    ----------
    device : str
        Its name, e.g. ``"cpu"`` or ``"cuda:0"``.

    Notes
    -----
    A network on the processor takes all cores by itself, and two on one GPU share its memory.

    Examples
    --------
    >>> with evaluation_turn("cpu"):
    ...     pass
    """
    # In one step, so that two threads never get two locks; and no thread waits for a model to load.
    with _turns.setdefault(device, threading.Lock()):
        yield


def file_stamp(paths: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Return size and time of files, to notice that weights were rewritten.

    Raises
    ------
    FileNotFoundError
        If one is missing, naming the machine, since the driver has seen the file.
    """
    stamps = []
    for path in paths:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is not there on {socket.gethostname()}; "
                "a model's file must lie at the same path on all machines that run tiles."
            ) from None
        stamps.append((found.st_size, found.st_mtime_ns))
    return tuple(stamps)


def installed_version(distribution: str, modules: Iterable[str]) -> str:
    """Return the version of a model's package.

    Parameters
    ----------
    distribution : str
        Its name, and that of the extra of blockbuster-tiles that installs it.
    modules : iterable of str
        What it needs to be imported.

    Raises
    ------
    ImportError
        If a module is missing.
    """
    check_installed(distribution, modules)
    return importlib.metadata.version(distribution)


def check_same_version(name: str, wanted: str, installed: str) -> None:
    """Refuse to evaluate with another version than the function was made with.

    Raises
    ------
    RuntimeError
        If the versions differ: tiles of one run would come from two.
    """
    if wanted != installed:
        raise RuntimeError(
            f"{name} {wanted} made this function, but {name} {installed} is installed on "
            f"{socket.gethostname()}; install the same version on all machines that run tiles."
        )


def check_keywords(given: Iterable[str], function: Callable[..., Any], name: str, reserved: set[str]) -> None:
    """Refuse keywords that a function of a model does not have.

    Parameters
    ----------
    given : iterable of str
        The keywords.
    function : callable
        The method, unbound; its first two parameters are the model and the image.
    name : str
        What the message calls it.
    reserved : set of str
        Keywords that it has, but that a tile function must set or has no use for.

    Raises
    ------
    TypeError
        With the names that are known.
    """
    parameters = list(inspect.signature(function).parameters)[2:]
    known = [parameter for parameter in parameters if parameter not in reserved]
    for keyword in given:
        if keyword not in known:
            near = difflib.get_close_matches(keyword, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise TypeError(f"{keyword} is no keyword for {name} here.{hint} It takes: {', '.join(known)}.")
