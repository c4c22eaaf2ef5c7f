import gc
import weakref

import pytest

from blockbuster.plugins import evaluate_within_memory
from blockbuster.plugins.memory import is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """As PyTorch and CuPy name theirs."""


class ResourceExhaustedError(Exception):
    """As TensorFlow names its."""


class Deeper(OutOfMemoryError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("Tried to allocate 2.00 GiB."),
        Deeper(),
        ResourceExhaustedError("OOM when allocating tensor"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_lack_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("no"), MemoryError(), KeyError("x")])
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_other_error_is_raised_at_once():
    tried = []

    def evaluate(setting):
        tried.append(setting)
        raise KeyError("x")

    with pytest.raises(KeyError):
        evaluate_within_memory(evaluate, (4, 2, 1), "")
    assert tried == [4]


def test_arrays_of_a_failed_attempt_are_gone_before_the_next():
    class Array:
        pass

    alive, seen = [], []

    def evaluate(setting):
        seen.append([array() is not None for array in alive])
        array = Array()
        array.itself = array
        alive.append(weakref.ref(array))
        if setting > 1:
            raise OutOfMemoryError("full")
        return setting

    gc.disable()
    try:
        assert evaluate_within_memory(evaluate, (4, 2, 1), "") == 1
    finally:
        gc.enable()
    assert seen == [[], [False], [False, False]]


def test_remedy_and_first_line_of_the_cause_are_said():
    def evaluate(setting):
        raise OutOfMemoryError("Tried to allocate 2.00 GiB.\nMuch more")

    with pytest.raises(
        MemoryError, match=r"\(Tried to allocate 2.00 GiB.\), in the smallest parts too; buy more"
    ):
        evaluate_within_memory(evaluate, (2, 1), "buy more")
