"""The device of a process: one thread that predicts for all of its tasks, a batch at a time."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockbuster.predict.memory import explained, give_back_device_memory, is_out_of_memory
from blockbuster.predict.predictor import Predictor

logger = logging.getLogger("blockbuster")

# So much may wait in a process for the device, or to be decoded, besides a tile of each task.
MAX_WAITING_BYTES = 2**28
# A device that waited longer had nothing to do.
LATE_SECONDS = 1e-3


@dataclass
class Utilisation:
    """What a device did with its time, in seconds.

    Parameters
    ----------
    busy : float
        It predicted.
    read, decode : float
        It waited for tiles, and for threads that were decoding.
    """

    busy: float = 0.0
    read: float = 0.0
    decode: float = 0.0


@dataclass
class Lane:
    """The requests of one task.

    Parameters
    ----------
    n_ready : int
        How many are predicted and not decoded yet.
    """

    n_ready: int = 0


@dataclass(eq=False)
class Request:
    """A tile that is to be predicted.

    Parameters
    ----------
    predictor : Predictor
        How.
    pixels : ndarray or None
        The tile, padded; let go of once it is predicted.
    lane : Lane
        Its task's.
    n_bytes : int
        What it takes of memory: its pixels and, as far as that is known, its prediction.
    seconds : float
        Its share of the time that its batch took.
    prediction : Future
        What `decode` needs.
    """

    predictor: Predictor
    pixels: np.ndarray | None
    lane: Lane
    n_bytes: int = 0
    seconds: float = 0.0
    prediction: Future[Any] = field(default_factory=Future)
    # Seconds that its thread spent on reading and on decoding since its last request; and whether
    # anybody waits for it.
    spent: tuple[float, float] = (0.0, 0.0)
    is_forgotten: bool = False


class _Spent(threading.local):
    """What a thread did since its last request."""

    read = decode = 0.0


class _ByPredictor:
    """Keeps a number for each predictor that lives; another one may have its id after that."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Predictor], int]] = {}

    def of(self, predictor: Predictor, unknown: int) -> int:
        """Return the number of a predictor."""
        owner, number = self._known.get(id(predictor), (None, unknown))
        return number if owner is not None and owner() is predictor else unknown

    def set(self, predictor: Predictor, number: int) -> None:
        """Keep the number of a predictor."""
        self._known[id(predictor)] = weakref.ref(predictor), number


class Device:
    """Predicts tiles for the tasks of a process, in a thread that lives as long as one needs it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[Request] = []
        self._n_users = 0
        self._thread: threading.Thread | None = None
        self._n_waiting = self._waiting_bytes = 0
        # Bytes of a prediction, and how many tiles fit the device at once.
        self._prediction_bytes, self._fitting = _ByPredictor(), _ByPredictor()
        self._most_next = 1
        self._spent = Utilisation()
        self._own = _Spent()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Have the thread run meanwhile."""
        with self._changed:
            if not self._n_users:
                # What it did for a run that failed is not for this one.
                self._spent = Utilisation()
            self._n_users += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="blockbuster-device", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._n_users -= 1
                self._changed.notify_all()

    def has_room(self, predictor: Predictor, n_bytes: int) -> bool:
        """Return whether a tile of so many bytes may wait besides those that do."""
        with self._changed:
            known = self._prediction_bytes.of(predictor, -1)
            if known < 0:
                # Nobody knows yet how large predictions are.
                return self._n_waiting < predictor.batch_size
            return self._waiting_bytes + n_bytes + known <= MAX_WAITING_BYTES

    def submit(self, request: Request) -> None:
        """Take a tile that is to be predicted."""
        assert request.pixels is not None
        request.spent = self._own.read, self._own.decode
        self._own.read = self._own.decode = 0.0
        with self._changed:
            request.n_bytes = request.pixels.nbytes + self._prediction_bytes.of(request.predictor, 0)
            self._n_waiting += 1
            self._waiting_bytes += request.n_bytes
            self._queue.append(request)
            self._changed.notify_all()

    def forget(self, request: Request) -> None:
        """Take note that a tile is decoded, or that nobody waits for it any more."""
        with self._changed:
            if request in self._queue:
                self._queue.remove(request)
            # What was predicted let go of its pixels.
            request.lane.n_ready -= request.pixels is None
            request.is_forgotten = True
            self._n_waiting -= 1
            self._waiting_bytes -= request.n_bytes

    @contextlib.contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Take note that a thread reads, or decodes, meanwhile."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self._own, what, getattr(self._own, what) + time.perf_counter() - start)

    def take_spent(self) -> Utilisation:
        """Return what it did with its time since the last call."""
        with self._changed:
            spent, self._spent = self._spent, Utilisation()
        return spent

    def _run(self) -> None:
        while True:
            start = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._queue or not self._n_users)
                if not self._queue:
                    self._thread = None
                    return
                waited = time.perf_counter() - start
                batch = self._take_batch(is_late=waited > LATE_SECONDS)
                self._note_wait(waited, batch[0])
            try:
                self._predict(batch)
            except BaseException as error:
                # Whatever it is, somebody waits for it.
                for one in batch:
                    if not one.prediction.done():
                        one.prediction.set_exception(error)
            # The next wait is for others.
            del batch

    def _take_batch(self, *, is_late: bool) -> list[Request]:
        """Take the first request, and others of its kind, as many as fit.

        A device that had nothing to do begins with one tile, for which a thread waits that could
        decode it, and goes on with twice as many each time.
        """
        # Those first whose threads have nothing to decode.
        self._queue.sort(key=lambda request: request.lane.n_ready)
        first = self._queue[0]
        predictor = first.predictor
        self._most_next = 1 if is_late else min(2 * self._most_next, predictor.batch_size)
        most = min(self._most_next, self._fitting.of(predictor, predictor.batch_size))
        alike = [one for one in self._queue if one.predictor is predictor and _kind(one) == _kind(first)][:most]
        self._queue = [one for one in self._queue if one not in alike]
        return alike

    def _note_wait(self, seconds: float, request: Request) -> None:
        """Share out the time that nothing was there, by what the first task did meanwhile."""
        share = request.spent[1] / sum(request.spent) if any(request.spent) else 0.0
        self._spent.decode += share * seconds
        self._spent.read += (1 - share) * seconds

    def _predict(self, batch: list[Request]) -> None:
        """Predict some tiles; where that fails, fewer at a time, so that an error is of one."""
        predictor, start = batch[0].predictor, time.perf_counter()
        try:
            predictions = predictor.predict_tiles([one.pixels for one in batch if one.pixels is not None])
        except BaseException as error:
            out_of_memory = is_out_of_memory(error)
            if len(batch) == 1:
                batch[0].prediction.set_exception(explained(error))
                return
        else:
            self._hand_out(batch, predictions, time.perf_counter() - start)
            return
        half = len(batch) // 2
        if out_of_memory:
            give_back_device_memory()
            logger.warning("a model ran out of memory with a batch of %d: %d from now on", len(batch), half)
            self._fitting.set(predictor, half)
        parts = [batch[:half], batch[half:]] if out_of_memory else [[one] for one in batch]
        for part in parts:
            self._predict(part)

    def _hand_out(self, batch: list[Request], predictions: list[Any], seconds: float) -> None:
        with self._changed:
            self._spent.busy += seconds
            for one, prediction in zip(batch, predictions, strict=True):
                n_bytes = _n_bytes(prediction)
                self._prediction_bytes.set(one.predictor, n_bytes)
                if not one.is_forgotten:
                    # Its pixels are needed no more.
                    self._waiting_bytes += n_bytes - one.n_bytes
                one.n_bytes, one.pixels = n_bytes, None
                one.seconds = seconds / len(batch)
                one.lane.n_ready += 1
                one.prediction.set_result(prediction)


DEVICE = Device()


def _kind(request: Request) -> tuple[Any, ...]:
    assert request.pixels is not None
    return request.pixels.shape, request.pixels.dtype


def _n_bytes(prediction: Any) -> int:
    parts = prediction if isinstance(prediction, tuple) else (prediction,)
    return sum(int(getattr(part, "nbytes", 0)) for part in parts)
