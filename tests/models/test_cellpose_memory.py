"""The tile that is chosen for some free memory takes more than half of it, and no more than all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from networks import cellpose_major

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    sys.platform != "linux", reason="the high-water mark of memory can be set back on Linux alone"
)
@pytest.mark.timeout(1800)
def test_chosen_tile_takes_more_than_half_of_what_is_free_and_no_more_than_all():
    free = 1200 if cellpose_major() == 3 else 3000
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.models_memory", "--json", "--free", str(free)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    (result,) = json.loads(done.stdout)
    assert min(result["shape"]) > 256
    assert 0.5 < result["taken"] / result["free"] <= 1
    assert result["cells"] > 1000
