"""Peak memory of one run, in a process of its own: ``python -m benchmarks.memory IMAGE NUMBER``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.runs import peak_memory_bytes, run_engine
from benchmarks.settings import ROOT, settings

__all__ = ["measure_peak_memory"]


def measure_peak_memory(path: Path, number: int, *, small: bool) -> int:
    """Run a setting on a stored image in a new process, and give the peak of its resident memory in bytes."""
    command = [sys.executable, "-m", "benchmarks.memory", str(path), str(number)]
    if small:
        command.append("--small")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Run the setting and print the peak in bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path, help="path of the stored image")
    parser.add_argument("number", type=int, help="number of the setting, from 0")
    parser.add_argument("--small", action="store_true", help="of the smallest sizes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_engine(arguments.image, settings(small=arguments.small)[arguments.number], Path(folder))
    print(peak_memory_bytes())


if __name__ == "__main__":
    main()
