import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from blockbuster.plugins import evaluation_turn, load_once, unload_models


@pytest.fixture(autouse=True)
def _nothing_loaded():
    yield
    unload_models()


def test_threads_that_come_together_load_once():
    barrier, loads = threading.Barrier(8), []

    def take(_):
        barrier.wait()
        return load_once("model", lambda: loads.append(1) or object())

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(take, range(8)))
    assert len(loads) == 1
    assert len(set(map(id, models))) == 1


def test_model_that_failed_to_load_is_tried_again():
    with pytest.raises(OSError, match="no network"):
        load_once("model", lambda: (_ for _ in ()).throw(OSError("no network")))
    assert load_once("model", lambda: 5) == 5


def test_keys_are_apart_and_a_new_stamp_replaces():
    assert load_once("a", lambda: 1, stamp=1) == 1
    assert load_once("b", lambda: 2) == 2
    assert load_once("a", lambda: 3, stamp=2) == 3
    assert load_once("a", lambda: 4, stamp=2) == 3


def test_unloaded_models_are_loaded_anew():
    assert load_once("a", lambda: 1) == 1
    unload_models()
    assert load_once("a", lambda: 2) == 2


def test_turns_are_taken_per_device():
    def enter(device):
        with evaluation_turn(device):
            entered[device].set()

    entered = {"cpu": threading.Event(), "cuda:0": threading.Event()}
    with ThreadPoolExecutor(2) as pool:
        with evaluation_turn("cuda:0"):
            for device in entered:
                pool.submit(enter, device)
            assert entered["cpu"].wait(60)
            assert not entered["cuda:0"].wait(0.05)
        assert entered["cuda:0"].wait(60)


def test_turn_ends_with_an_error():
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), evaluation_turn("cpu"):
            raise ValueError("x")
