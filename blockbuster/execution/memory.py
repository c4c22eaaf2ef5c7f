"""Memory that this process can really have: RAM under its limits, and VRAM through CuPy.

The one place that knows CuPy.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from blockbuster.errors import warn_user

ROOT = Path("/")
# cgroup v1 writes "no limit" as the largest whole page below 2**63.
NO_LIMIT_BYTES = 2**60

SLURM_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class CgroupFiles(NamedTuple):
    """Names under which one version of cgroup publishes a group's memory."""

    limits: tuple[str, ...]
    usage: str
    inactive_file: str


# Above memory.high the kernel throttles a process to a crawl, which serves a user no better than
# max.
CGROUP_V2 = CgroupFiles(("memory.max", "memory.high"), "memory.current", "inactive_file")
CGROUP_V1 = CgroupFiles(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def free_ram_bytes() -> int:
    """RAM that this process can still allocate, in bytes.

    The least of what the operating system, the container, the batch system and the process's
    own limit leave; see `ram_limits` for each of them.

    Returns
    -------
    int
        Bytes, 0 or more.

    Notes
    -----
    Some ten small files are read, in about a millisecond.

    Examples
    --------
    >>> free_ram_bytes() > 0
    True
    """
    return max(0, min(ram_limits().values()))


def ram_limits() -> dict[str, int]:
    """Each source's answer to how much RAM this process can still have.

    Returns
    -------
    dict of str to int
        Bytes, by source; a source that sets no limit is absent. ``"system"``: memory the
        operating system can give without swapping. ``"cgroup"``: see `cgroup_free_bytes`.
        ``"slurm"``: the job's share of this node less what this process holds; what other
        processes of the job hold is not known from here. ``"rlimit"``: address space
        (``ulimit -v``) less what this process has mapped. A number can be negative where
        a limit is already exceeded.

    Examples
    --------
    >>> "system" in ram_limits()
    True
    """
    import psutil

    held = psutil.Process().memory_info()
    slurm = slurm_limit_bytes(os.environ)
    address_space = _address_space_limit_bytes()
    limits = {
        "system": int(psutil.virtual_memory().available),
        "cgroup": cgroup_free_bytes(ROOT),
        "slurm": None if slurm is None else slurm - held.rss,
        "rlimit": None if address_space is None else address_space - held.vms,
    }
    return {source: n_bytes for source, n_bytes in limits.items() if n_bytes is not None}


def cgroup_free_bytes(root: Path) -> int | None:
    """Memory left to this process's control group and to every group above it.

    Parameters
    ----------
    root : Path
        Folder that holds ``proc/self/cgroup`` and ``sys/fs/cgroup``. Where they are missing (macOS,
        Windows) there is no limit to respect.

    Returns
    -------
    int or None
        Bytes, the least over all levels; negative where a limit is exceeded. ``None``: no
        control groups, or none with a limit.

    Notes
    -----
    Versions 1 and 2 and the two mixed are read. Inactive file cache counts as free, because the
    kernel drops it before it refuses an allocation. A container often sees its own group at the
    mount point while ``/proc`` names the path on the host, so levels that do not exist are
    passed over and the mount point is always read.

    Examples
    --------
    >>> cgroup_free_bytes(Path("/folder/that/does/not/exist")) is None
    True
    """
    levels = (_level_free_bytes(folder, files) for folder, files in _cgroup_levels(root))
    return min((free for free in levels if free is not None), default=None)


def slurm_limit_bytes(environ: Mapping[str, str]) -> int | None:
    """Memory that SLURM gave this job on this node.

    Parameters
    ----------
    environ : mapping of str to str
        Environment variables. ``SLURM_MEM_PER_NODE``, else ``SLURM_MEM_PER_CPU`` times
        ``SLURM_CPUS_ON_NODE`` (else ``SLURM_CPUS_PER_TASK``, else 1). Numbers are in MiB unless
        they end in K, M, G or T.

    Returns
    -------
    int or None
        Bytes. ``None``: not in a job, no limit (SLURM writes 0 for a whole node), or a variable
        that does not hold a number.

    Examples
    --------
    >>> slurm_limit_bytes({"SLURM_MEM_PER_CPU": "2G", "SLURM_CPUS_ON_NODE": "4"}) // 2**30
    8
    >>> slurm_limit_bytes({}) is None
    True
    """
    per_node = _slurm_bytes(environ.get("SLURM_MEM_PER_NODE"))
    if per_node:
        return per_node
    per_cpu = _slurm_bytes(environ.get("SLURM_MEM_PER_CPU"))
    if not per_cpu:
        return None
    counts = (_integer(environ.get(name, "")) for name in ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"))
    return per_cpu * next((n for n in counts if n), 1)


def vram_bytes_or_warn() -> int | None:
    """Free memory of CuPy's current GPU in bytes; ``None``, with a warning that says what is
    missing, if there is none.

    Notes
    -----
    The first call starts CUDA in this process: about a second, and some hundred MB on the device.
    Memory that another library of this process keeps for reuse counts as taken.

    Examples
    --------
    >>> from blockbuster.errors import unsaid
    >>> with unsaid("use_gpu"):
    ...     free = vram_bytes_or_warn()
    >>> free is None or free > 0
    True
    """
    try:
        import cupy
    except ImportError as error:
        missing = "is not installed:" if error.name == "cupy" else f"cannot be imported ({error}):"
    else:
        try:
            # Raises where there is none.
            cupy.cuda.runtime.getDeviceCount()
            return int(cupy.cuda.Device().mem_info[0])
        except cupy.cuda.runtime.CUDARuntimeError as error:
            missing = f"finds no NVIDIA GPU ({error}): install the GPU's driver, and"
    warn_user(
        f"use_gpu=True, but CuPy {missing} python -m pip install 'blockbuster-tiles[gpu-cuda12]' (or "
        "[gpu-cuda13], to match the driver); tiles are sized by free RAM instead."
    )
    return None


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    Returns
    -------
    list of str
        Numbers or UUIDs, in CUDA's order: those of CUDA_VISIBLE_DEVICES where that is set, up to
        the first that is not one; else all that nvidia-smi lists. Empty where there is neither.

    Notes
    -----
    Does not start CUDA in this process, which would take memory of the first GPU.

    Examples
    --------
    >>> all(isinstance(name, str) for name in visible_gpus())
    True
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        return list(itertools.takewhile(lambda name: name and name != "-1", names))
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE)


def _cgroup_levels(root: Path) -> Iterator[tuple[Path, CgroupFiles]]:
    """List the folders of this process's group and of its ancestors, with their files' names."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        mounts = root / "sys/fs/cgroup"
        if "memory" in controllers.split(","):
            yield from _walk_up(mounts / "memory", path, CGROUP_V1)
        elif controllers == "":
            yield from _walk_up(mounts, path, CGROUP_V2)
            yield from _walk_up(mounts / "unified", path, CGROUP_V2)


def _walk_up(mount: Path, path: str, files: CgroupFiles) -> Iterator[tuple[Path, CgroupFiles]]:
    """List the group's folder, then its ancestors up to the mount point."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # The group lies outside of this namespace: only the mount point can be read.
        parts = []
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth]), files


def _level_free_bytes(folder: Path, files: CgroupFiles) -> int | None:
    """Subtract what one group uses from its limit; None without a limit."""
    values = (_integer(_text(folder / name) or "") for name in files.limits)
    limits = [value for value in values if value is not None and value < NO_LIMIT_BYTES]
    if not limits:
        return None
    used = _integer(_text(folder / files.usage) or "") or 0
    stated = dict(line.partition(" ")[::2] for line in (_text(folder / "memory.stat") or "").splitlines())
    inactive_file = _integer(stated.get(files.inactive_file, "")) or 0
    return min(limits) - max(0, used - inactive_file)


def _address_space_limit_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY or soft >= NO_LIMIT_BYTES else soft


def _slurm_bytes(text: str | None) -> int | None:
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]?)B?\s*", text or "", re.IGNORECASE)
    return int(match[1]) * SLURM_UNITS[match[2].upper() or "M"] if match else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def give_back_freed_memory() -> None:
    """Return freed memory to the system, where the C library is glibc.

    It keeps what a thread has freed for that thread: two threads that take turns would hold twice
    what one needs.

    Examples
    --------
    >>> give_back_freed_memory()
    """
    # No library without a name on Windows, and no such function in others.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
