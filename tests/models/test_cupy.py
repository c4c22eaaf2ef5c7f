"""CuPy as it is installed, on a machine with a GPU or without."""

import pytest

from blockbuster import BlockbusterWarning
from blockbuster.execution.memory import visible_gpus, vram_bytes_or_warn


@pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")
def test_without_a_driver_one_sentence_says_so():
    with pytest.warns(BlockbusterWarning, match=r"finds no NVIDIA GPU \(cudaError\w+: .*gpu-cuda12") as caught:
        assert vram_bytes_or_warn() is None
    assert len(caught) == 1
