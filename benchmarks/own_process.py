"""Call a function of a benchmark in a process of its own: ``python -m benchmarks.own_process NAME GIVEN``."""

from __future__ import annotations

import json
import subprocess
import sys
from pkgutil import resolve_name
from typing import Any

from benchmarks.settings import ROOT

__all__ = ["call_in_own_process", "command_of"]


def command_of(name: str, *given: Any) -> list[str]:
    """Give the command that calls a function, named as ``"module.function"``, with values that go into JSON."""
    return [sys.executable, "-m", "benchmarks.own_process", name, json.dumps(given, default=str)]


def call_in_own_process(name: str, *given: Any) -> Any:
    """Call the function in a new process; give what it returns, as it comes out of JSON."""
    done = subprocess.run(command_of(name, *given), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(resolve_name(f"benchmarks.{sys.argv[1]}")(*json.loads(sys.argv[2]))))
