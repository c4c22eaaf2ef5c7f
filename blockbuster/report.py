"""RunReport: what a run did."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RunReport", "installed_versions"]

PACKAGES = ("blockbuster-tiles", "numpy", "numba", "dask", "zarr", "scikit-image")


@dataclass
class RunReport:
    """What a run did.

    Parameters
    ----------
    settings : dict
        The settings that decide the labels.
    versions : dict
        Versions of Python and of the packages that took part.
    n_tiles, n_run, n_skipped : int
        Tiles in all, shown to fn, and empty.
    empty_threshold : float or None
        Tiles whose maximum was not above it were skipped.
    n_provisional, n_objects : int
        Labels of all tiles before the merge, and objects after it.
    n_pairs : int
        Pairs of labels that touch across a seam.
    seconds : dict
        Wall time of each phase; ``"fn"`` is summed over workers.

    Examples
    --------
    >>> report = RunReport(n_tiles=9, n_run=8, n_skipped=1, empty_threshold=12.0, n_objects=40)
    >>> print(report)
    9 tiles: 8 run, 1 empty (maximum <= 12); 40 objects
    """

    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    n_tiles: int = 0
    n_run: int = 0
    n_skipped: int = 0
    empty_threshold: float | None = None
    n_provisional: int = 0
    n_objects: int = 0
    n_pairs: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that a block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def to_json(self) -> str:
        """Write the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def __str__(self) -> str:
        empty = f"{self.n_skipped} empty"
        if self.empty_threshold is not None:
            empty += f" (maximum <= {self.empty_threshold:g})"
        text = f"{self.n_tiles} tiles: {self.n_run} run, {empty}; {self.n_objects} objects"
        if self.seconds:
            text += "; " + ", ".join(f"{phase} {s:.2f} s" for phase, s in self.seconds.items())
        return text


def installed_versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that take part in a run."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
