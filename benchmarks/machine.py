"""Where a benchmark ran: without it, a time says nothing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import scipy

from blockbuster.report import installed_versions

__all__ = ["describe_machine", "machine_facts"]


def machine_facts() -> dict[str, str]:
    """Give processor, cores, memory, load, and the versions of what takes part."""
    facts = {
        "processor": _processor(),
        "cores": str(_n_cores()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "load before": f"{psutil.getloadavg()[0]:.2f}",
        "system": platform.platform(terse=True),
    }
    return facts | installed_versions() | {"scipy": scipy.__version__}


def describe_machine(facts: dict[str, str]) -> str:
    """Put the facts into lines."""
    return "\n".join(f"{name:20}{value}" for name, value in facts.items())


def _n_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
