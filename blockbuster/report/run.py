"""RunReport: what a run did, kept beside its labels."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from blockbuster.errors import show_url
from blockbuster.identity.sealed import seal, unseal
from blockbuster.report.seams import AxisSeams, DoubtfulPair, SeamReport

if TYPE_CHECKING:
    from blockbuster.grid import TileGrid

REPORT = "blockbuster-report.json"
# What a device of a predictor did with its time, in seconds; and what is busy enough.
MOSTLY = 0.9
DEVICE_PHASES = ("predict", "device waits for tiles", "device waits for decode")
# The table of objects, which lies beside the report.
OBJECTS = "objects.parquet"
# Where the finest labels, and the report, lie in the folder of an array, and of a label image.
FINEST = ("", "0")
PACKAGES = ("blockbuster-tiles", "numpy", "numba", "dask", "zarr", "scikit-image")


@dataclass
class RunReport:
    """What a run did.

    Parameters
    ----------
    settings : dict
        The settings that decide the labels.
    tiles : list of list of [int, int]
        Per axis the lengths of the tiles in voxels, as runs of ``[length, times]``.
    versions : dict
        Versions of Python and of the packages that took part.
    n_tiles, n_run, n_skipped : int
        Tiles in all, shown to fn, and empty.
    n_failed, n_retried : int
        Tiles that were taken for background because they failed, and how often a tile was tried
        again.
    failed : list of [tile, what]
        Index of each failed tile, and what happened.
    n_resumed : int
        Tiles that earlier runs had finished, which this one continued.
    resumed_from : str
        The phase in which the run was continued: ``"stage"``, ``"seams"`` or ``"write"``; empty for
        a run that began at the beginning.
    empty_threshold : float or None
        Tiles whose maximum was not above it were skipped.
    n_provisional, n_objects : int
        Labels of all tiles before the merge, and objects after it.
    seams : SeamReport
        Pairs of labels that touch across a seam, are joined and are refused, and where to look.
    seconds : dict
        Wall time of each phase of the run that ended it; ``"fn"`` is summed over workers and over
        the runs that were continued.
    fingerprint : dict
        The image, the function and the settings, as far as they decide the labels.
    samples : list of [region, digest]
        Of an image whose changes the fingerprint does not notice: some regions, as ``[start,
        stop]`` per axis, and digests of their pixels.
    name : str
        Name of the result of fn that this is of, where fn returned several.
    names : list of str
        Names of all of them.
    grown : dict of str to int
        What fn holds or names and has appended to, e.g. ``"file k0.log"``, and the length or size
        in bytes that it had at first; -1 for a file that was not there.

    Examples
    --------
    >>> report = RunReport(n_tiles=9, n_run=8, n_skipped=1, empty_threshold=12.0, n_objects=40)
    >>> print(report)
    9 tiles: 8 run, 1 empty (maximum <= 12); 40 objects
    """

    # Folder of the array of labels, empty where it is not known. Not a field: it is not kept with
    # the report.
    labels_path = ""
    # Nor is this: the table of objects of a run that wrote no labels.
    table = cast(Any, None)
    # Nor this: of a run whose fn returned several results, the report of each.
    results = cast("dict[str, RunReport]", None)

    settings: dict[str, Any] = field(default_factory=dict)
    tiles: list[list[list[int]]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    n_tiles: int = 0
    n_run: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_retried: int = 0
    failed: list[list[Any]] = field(default_factory=list)
    n_resumed: int = 0
    resumed_from: str = ""
    empty_threshold: float | None = None
    n_provisional: int = 0
    n_objects: int = 0
    seams: SeamReport = field(default_factory=SeamReport)
    seconds: dict[str, float] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    samples: list[list[Any]] = field(default_factory=list)
    grown: dict[str, int] = field(default_factory=dict)
    n_outside: int = 0
    name: str = ""
    names: list[str] = field(default_factory=list)

    @property
    def n_pairs(self) -> int:
        """Pairs of labels that touch across a seam."""
        return self.seams.touching

    @property
    def objects(self) -> Any:
        """The table of objects, a DataFrame of pandas; None where nothing was measured. That of
        labels that were written is read; `read_objects` reads a part. Of several results a dict.
        """
        if self.results:
            return {name: report.objects for name, report in self.results.items()}
        path = os.path.join(self.labels_path, OBJECTS)
        if self.table is not None or not self.labels_path or not os.path.isfile(path):
            return self.table
        import pandas as pd

        return pd.read_parquet(path)

    def of_result(self, name: str, names: Sequence[str]) -> RunReport:
        """Return the report of one of several results, which begins like this one."""
        return dataclasses.replace(self, seconds=dict(self.seconds), name=name, names=list(names))

    @classmethod
    def of_results(cls, results: dict[str, RunReport]) -> RunReport:
        """Return the report of a run with several results: what they share, and their sums."""
        reports = list(results.values())
        shared = ("stage", "fn", *DEVICE_PHASES)
        seconds = {phase: n for phase, n in reports[0].seconds.items() if phase in shared}
        for phase in dict.fromkeys(phase for report in reports for phase in report.seconds):
            if phase not in seconds:
                seconds[phase] = sum(report.seconds.get(phase, 0.0) for report in reports)
        sums = {name: sum(getattr(report, name) for report in reports) for name in ("n_objects", "n_provisional")}
        whole = dataclasses.replace(reports[0], name="", seams=SeamReport(), seconds=seconds, **sums)
        whole.results = results
        return whole

    def doubtful(self, n: int = 20) -> list[DoubtfulPair]:
        """Return the pairs of labels that are worth a look, the most doubtful first.

        Parameters
        ----------
        n : int
            How many at most; the report keeps 100.

        Returns
        -------
        list of DoubtfulPair
            Ids, a voxel where the labels touch, and how far the two tiles agree; empty where
            agreement was not measured, or leaves no doubt.
        """
        return self.seams.doubtful_pairs[:n]

    def labels_at(self, path: str | os.PathLike[str]) -> None:
        """Set the folder of the array of labels, for the pictures of its seams."""
        self.labels_path = os.path.abspath(os.fspath(path))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that a block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def to_json(self) -> str:
        """Write the report as JSON, with a checksum."""
        return json.dumps(seal(dataclasses.asdict(self)), indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunReport:
        """Read a report; what a later version may have added is left out.

        Raises
        ------
        ValueError, TypeError, AttributeError
            If it is damaged.
        """
        found = unseal(text, optional=True)
        report = cls(**{name: value for name, value in found.items() if name in cls.__dataclass_fields__})
        empty = dataclasses.asdict(cls())
        for name, value in found.items():
            if empty.get(name) is not None and type(value) is not type(empty[name]):
                raise ValueError(f"{name} is of type {type(value).__name__}")
        if "seams" in found:
            report.seams = SeamReport.from_dict(found["seams"])
        elif n_pairs := found.get("n_pairs", 0):
            # It is from before seams were distinguished, when all labels that touched were joined.
            report.seams = SeamReport(axes=[AxisSeams("all axes", n_pairs, n_pairs)])
        return report

    @classmethod
    def read(cls, folder: str) -> RunReport:
        """Read the report that lies with labels in a folder.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged.
        """
        file = os.path.join(folder, REPORT)
        try:
            report = cls.from_json(Path(file).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"{file} does not exist; give the path and the component of labels that tile_process wrote."
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged and cannot be read: {error}.") from error
        report.labels_at(folder)
        return report

    @property
    def _tiles(self) -> str:
        """Tiles that did not fail, in words."""
        outside = f"{self.n_outside} outside the mask, " if self.n_outside else ""
        text = f"{self.n_run} run, {outside}{self.n_skipped - self.n_outside} empty"
        return text if self.empty_threshold is None else f"{text} (maximum <= {self.empty_threshold:g})"

    @property
    def device(self) -> str:
        """How busy the device of a predictor was, and what to change; empty without one."""
        if DEVICE_PHASES[0] not in self.seconds:
            return ""
        busy, read, decode = (self.seconds[phase] for phase in DEVICE_PHASES)
        text = f"the device was busy {busy / max(1e-9, busy + read + decode):.0%} of the time"
        if busy >= MOSTLY * (busy + read + decode):
            return text
        if decode >= read:
            return f"{text}, and waited for decode: have more threads decode, or make decode faster"
        return f"{text}, and waited for tiles: have more threads read, store larger chunks, or cut larger tiles"

    def grid_of(self, shape: tuple[int, ...]) -> TileGrid | None:
        """Return the tiles of the run.

        Parameters
        ----------
        shape : tuple of int
            Of the labels, or of the image without its channel axis.

        Returns
        -------
        TileGrid or None
            With the axes of `shape`; None where the report does not know the tiles, or they are of
            another shape.
        """
        # Computing with tiles needs more than reading and printing a report.
        from blockbuster.grid import TileGrid

        # Earlier versions kept the tiles only in the fingerprint.
        runs = self.tiles or self.fingerprint.get("settings", {}).get("tiles")
        halo = self.settings.get("halo")
        if not runs or not halo:
            return None
        grid = TileGrid(tuple(tuple(n for n, times in axis for _ in range(times)) for axis in runs), tuple(halo))
        letters = self.settings.get("axes") or ""
        if grid.ndim == len(shape) + 1 and "c" in letters:
            grid = grid.without_axis(letters.index("c"))
        return grid if grid.shape == tuple(shape) else None

    def _repr_html_(self) -> str:
        # Drawing needs more than reading and printing a report.
        from blockbuster.report.notebook import report_as_html, results_as_html

        if self.results:
            return results_as_html(self.results)
        refused = f", {self.seams.refused} refused" if self.seams.may_refuse else ""
        rows = [
            ("objects", str(self.n_objects)),
            ("tiles", f"{self.n_tiles}: {self._tiles}"),
            ("failed", f"{self.n_failed}: " + ", ".join(str(tuple(tile)) for tile, _ in self.failed[:5])),
            ("tried again", f"{self.n_retried} times"),
            ("continued", f"from {self.resumed_from}, {self.n_resumed} tiles were finished"),
            ("seams", f"{self.n_pairs} pairs of labels touch{refused}"),
            ("seconds", ", ".join(f"{phase} {s:.2f}" for phase, s in self.seconds.items())),
            ("device", self.device),
        ]
        shown = {"failed": self.n_failed, "tried again": self.n_retried, "continued": self.resumed_from}
        rows = [(name, text) for name, text in rows if text and shown.get(name, True)]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        more = [*((name, str(value)) for name, value in self.settings.items()), ("versions", versions)]
        more = [(name, text) for name, text in more if text]
        return report_as_html(rows, more, self.seams, self.labels_path, self.grid_of)

    def __str__(self) -> str:
        text = f"{self.n_tiles} tiles: {self._tiles}"
        for name, report in (self.results or {"": self}).items():
            text += f"; {name}: {report.n_objects} objects" if name else f"; {report.n_objects} objects"
            if report.seams.may_refuse:
                text += f"{',' if name else ';'} {report.seams.refused} of {report.n_pairs} pairs refused"
        if self.n_failed:
            text += f"; {self.n_failed} tiles failed"
        if self.n_retried:
            text += f"; {self.n_retried} tries again"
        if self.resumed_from:
            text += f"; continued from {self.resumed_from}, {self.n_resumed} tiles were finished"
        if self.seconds:
            text += "; " + ", ".join(f"{phase} {s:.2f} s" for phase, s in self.seconds.items())
        return f"{text}; {self.device}" if self.device else text


def read_report(path: str | os.PathLike[str], component: str = "labels") -> RunReport:
    """Read the report of a finished run.

    Parameters
    ----------
    path : path
        The zarr group that holds the labels, ``write_to`` of the run.
    component : str
        Name of the label array or label image inside it, ``output_component`` of the run.

    Returns
    -------
    RunReport
        It shows itself in a notebook: tables, the distribution of agreement, and pictures of the
        worst seams.

    Raises
    ------
    FileNotFoundError
        If there is no such array, or one that blockbuster did not write.
    ValueError
        If the file is damaged, or `path` is a URL.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from blockbuster import tile_process
    >>> folder = tempfile.mkdtemp()
    >>> image, fn = np.ones((8, 8), int), lambda tile: tile
    >>> _ = tile_process(image, fn, tile_shape=(4, 4), write_to=f"{folder}/x.zarr", fn_version="1")
    >>> read_report(f"{folder}/x.zarr").n_objects
    1
    """
    return RunReport.read(find_labels(path, component, REPORT, "reports"))


def find_labels(path: str | os.PathLike[str], component: str, file: str, what: str) -> str:
    """Return the folder of the finest labels, with which a file lies; of which kind says `what`.

    Where there is none, the folder of the array or label image.

    Raises
    ------
    ValueError
        For a URL.
    """
    if "://" in os.fspath(path):
        raise ValueError(f"path is {show_url(os.fspath(path))!r}; {what} are read from a file system.")
    folder = os.path.join(os.path.abspath(os.path.expanduser(os.fspath(path))), *component.split("/"))
    levels = [str(Path(folder, name)) for name in FINEST]
    return next((level for level in levels if os.path.isfile(os.path.join(level, file))), folder)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part in a run."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
