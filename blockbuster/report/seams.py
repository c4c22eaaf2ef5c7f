"""Summary of the seams of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blockbuster.report.expected import ExpectedErrors, SeamCounts, expect_errors

# Bins of agreement from 0 to 1, the last one closed.
N_BINS = 20
# Neither clearly two objects nor clearly one.
MIN_DOUBTFUL, MAX_DOUBTFUL = 0.1, 0.6
COUNTED = ("touching", "joined", "refused", "doubtful")
# Characters of the longest bar of a histogram in text.
MAX_BAR = 40


@dataclass
class AxisSeams:
    """The seams across one axis, or where tiles meet at edges and corners only.

    Parameters
    ----------
    name : str
        Letter of the axis, ``"axis 0"`` where it has none, or ``"edges and corners"``.
    touching, joined : int
        Pairs of labels that touch, and those that were joined.
    histogram : list of int
        Pairs per bin of agreement, 0 to 1 in `N_BINS` bins, the last one closed; empty where
        agreement was not measured.
    """

    name: str
    touching: int
    joined: int
    histogram: list[int] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Pairs that touch and were not joined."""
        return self.touching - self.joined

    @property
    def doubtful(self) -> int:
        """Pairs that are neither clearly one object nor clearly two."""
        first, last = (round(bound * len(self.histogram)) for bound in (MIN_DOUBTFUL, MAX_DOUBTFUL))
        return sum(self.histogram[first:last])


@dataclass
class WorstSeam:
    """A seam between two tiles that is worth a look.

    Parameters
    ----------
    tiles : list of list of int
        Grid indices of the two tiles.
    name : str
        As that of `AxisSeams`.
    touching, joined, doubtful : int
        Pairs of labels.
    at : list of int
        A voxel of the first tile at the seam.
    agreement : float or None
        Of the pair there, which is the nearest to the threshold; ``None`` where it was not
        measured.
    """

    tiles: list[list[int]]
    name: str
    touching: int
    joined: int
    doubtful: int
    at: list[int]
    agreement: float | None = None

    @property
    def refused(self) -> int:
        """Pairs that touch and were not joined."""
        return self.touching - self.joined

    def __str__(self) -> str:
        tiles = " and ".join(str(tuple(tile)) for tile in self.tiles)
        text = f"tiles {tiles}, {self.name}: {self.touching} touch, {self.joined} joined, {self.refused} refused"
        if self.agreement is not None:
            text += f", {self.doubtful} doubtful; agreement {self.agreement:.2f} at {tuple(self.at)}"
        return text


@dataclass
class DoubtfulPair:
    """Two labels that touch across a seam, and are neither clearly one object nor clearly two.

    Parameters
    ----------
    labels : list of int
        Their ids in the label image: twice the same if they were joined.
    at : list of int
        A voxel where they touch.
    agreement : float
        How far the two tiles agree.
    """

    labels: list[int]
    at: list[int]
    agreement: float

    @property
    def joined(self) -> bool:
        """Whether they are one object."""
        return self.labels[0] == self.labels[1]

    def __str__(self) -> str:
        one, other = self.labels
        what = f"{one} was joined" if self.joined else f"{one} and {other} were kept apart"
        return f"{what} at {tuple(self.at)}, agreement {self.agreement:.2f}"


@dataclass
class SeamReport:
    """Summary of all seams.

    Parameters
    ----------
    merge : str
        How labels were joined.
    min_agreement : float or None
        The threshold, where agreement was asked for.
    axes : list of AxisSeams
        Those where labels touch.
    n_crossing : int
        Objects that cross a seam.
    labels_per_object, tiles_per_object : list of float
        Median and largest number of labels that an object was joined from, and of their tiles, over
        the objects that cross a seam; empty where there is none.
    worst : list of WorstSeam
        The most doubtful seams first, or where agreement was not measured, those with the most
        pairs.
    doubtful_pairs : list of DoubtfulPair
        Those nearest to the threshold, the nearest first, as far as agreement was measured.
    runaway : str
        The warning about runaway merging; empty where there is none.
    contradictions : int
        Joins that were refused although two tiles agree, since more tiles tell the objects apart.
    completed : int
        Ends of objects that one tile saw, and that were filled in where the other found background.
    counts : SeamCounts or None
        From which it is told how many objects are wrong; ``None`` where agreement was not asked
        for.
    matched : bool
        Whether labels were matched across seams, which is not done where none are to be joined.

    Examples
    --------
    >>> axes = [AxisSeams("y", 9, 9), AxisSeams("x", 12, 12)]
    >>> print(SeamReport("touch", axes=axes, n_crossing=8, labels_per_object=[2.0, 6.0],
    ...                  tiles_per_object=[2.0, 4.0]))
    merge="touch"
    seam  touching  joined  refused  doubtful
    y            9       9        0         -
    x           12      12        0         -
    all         21      21        0         -
    8 objects cross a seam; labels per object: median 2, largest 6;
    tiles per object: median 2, largest 4
    """

    merge: str = "touch"
    min_agreement: float | None = None
    axes: list[AxisSeams] = field(default_factory=list)
    n_crossing: int = 0
    labels_per_object: list[float] = field(default_factory=list)
    tiles_per_object: list[float] = field(default_factory=list)
    worst: list[WorstSeam] = field(default_factory=list)
    doubtful_pairs: list[DoubtfulPair] = field(default_factory=list)
    runaway: str = ""
    contradictions: int = 0
    completed: int = 0
    counts: SeamCounts | None = None
    matched: bool = False

    @property
    def touching(self) -> int:
        """Pairs of labels that touch across a seam."""
        return sum(axis.touching for axis in self.axes)

    @property
    def joined(self) -> int:
        """Pairs that were joined."""
        return sum(axis.joined for axis in self.axes)

    @property
    def refused(self) -> int:
        """Pairs that touch and were not joined."""
        return self.touching - self.joined

    @property
    def may_refuse(self) -> bool:
        """Whether pairs that touch need not be joined."""
        return self.min_agreement is not None or self.refused > 0

    @property
    def expected(self) -> ExpectedErrors | None:
        """How many objects are probably wrong; ``None`` where the seams say nothing of it."""
        return None if self.counts is None else expect_errors(self.counts)

    @property
    def errors(self) -> str:
        """How many objects are probably wrong, in words; empty where the seams say nothing of
        it.
        """
        if self.expected is None:
            return ""
        low, mid, high = self.expected.wrong_at_seams
        text = f"about {mid:.0f} of {self.n_crossing:,} objects at seams are wrong ({low:.0f} to {high:.0f})"
        low, mid, high = self.expected.f1
        if self.expected.is_sure:
            return f"{text}; F1 of all {mid:.3f} ({low:.3f} to {high:.3f})"
        return f"{text}; F1 of all from {low:.2f} to {high:.2f}: suggest_overlap tells what overlap is better"

    @property
    def histogram(self) -> list[int]:
        """Pairs per bin of agreement over all axes; empty where agreement was not measured."""
        return [sum(counts) for counts in zip(*(axis.histogram for axis in self.axes), strict=False)]

    @property
    def rule(self) -> str:
        """How labels were joined, as it is written in a call."""
        asked = "" if self.min_agreement is None else f", min_agreement={self.min_agreement:g}"
        return f'merge="{self.merge}"{asked}'

    @property
    def sizes(self) -> str:
        """How many objects cross a seam, and what they were joined from."""
        cross = "object crosses" if self.n_crossing == 1 else "objects cross"
        parts = [f"{self.n_crossing} {cross} a seam"]
        for what, found in (("labels", self.labels_per_object), ("tiles", self.tiles_per_object)):
            if found:
                parts.append(f"{what} per object: median {found[0]:g}, largest {found[1]:g}")
        return "; ".join(parts)

    def table(self) -> list[list[str]]:
        """Return a row of words per axis, under a row of headings; no rows where no labels
        touch.
        """
        axes = list(self.axes)
        if len(axes) > 1:
            axes.append(AxisSeams("all", self.touching, self.joined, self.histogram))
        rows = [[axis.name, *_counts(axis, measured=bool(axis.histogram))] for axis in axes]
        return [["seam", *COUNTED], *rows] if rows else []

    def worst_table(self) -> list[list[str]]:
        """Return a row of words per seam to look at, under a row of headings; no rows where there
        is none.
        """
        rows = [
            [
                " ".join(str(tuple(tile)) for tile in seam.tiles),
                seam.name,
                str(tuple(seam.at)),
                *_counts(seam, measured=seam.agreement is not None),
                "-" if seam.agreement is None else f"{seam.agreement:.2f}",
            ]
            for seam in self.worst
        ]
        return [["tiles", "seam", "at", *COUNTED, "agreement"], *rows] if rows else []

    @property
    def notes(self) -> list[str]:
        """What there is to say besides the counts, a sentence each."""
        found = [self.sizes] if self.axes else []
        if self.contradictions:
            joins = "join was" if self.contradictions == 1 else "joins were"
            found.append(f"{self.contradictions} {joins} refused where other tiles tell the objects apart")
        if self.completed:
            ends = "end of an object was" if self.completed == 1 else "ends of objects were"
            found.append(f"{self.completed} {ends} completed where one of two tiles saw nothing")
        if self.errors:
            found.append(f"as far as seams can tell, {self.errors}")
        return found

    def __str__(self) -> str:
        if self.axes:
            parts = [self.rule, _aligned(self.table()), *self._histogram_lines()]
        else:
            nothing = "no labels touch across a seam" if self.matched else "no labels were joined across seams"
            parts = [f"{self.rule}: {nothing}"]
        parts += self.notes
        if self.worst:
            parts += ["seams to look at", _aligned(self.worst_table())]
        return "\n".join([*parts, *([f"warning: {self.runaway}"] if self.runaway else [])])

    def _histogram_lines(self) -> list[str]:
        counts = self.histogram
        if not any(counts):
            return []
        here = None if self.min_agreement is None else min(int(self.min_agreement * len(counts)), len(counts) - 1)
        lines = ["agreement    pairs"]
        for number, count in enumerate(counts):
            low, high = number / len(counts), (number + 1) / len(counts)
            bar = "#" * math.ceil(MAX_BAR * count / max(counts))
            mark = f"  <- min_agreement={self.min_agreement:g}" if number == here else ""
            lines.append(f"{low:.2f}-{high:.2f} {count:8}  {bar}{mark}".rstrip())
        return lines

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> SeamReport:
        """Make one of what `dataclasses.asdict` gave; what a later version may have added is left
        out.
        """
        report: SeamReport = _known(cls, found)
        report.axes = [_known(AxisSeams, axis) for axis in report.axes]
        report.worst = [_known(WorstSeam, seam) for seam in report.worst]
        report.counts = _known(SeamCounts, report.counts) if report.counts else None
        report.doubtful_pairs = [_known(DoubtfulPair, pair) for pair in report.doubtful_pairs]
        return report


def _known(kind: Any, found: Any) -> Any:
    return kind(**{name: value for name, value in found.items() if name in kind.__dataclass_fields__})


def _counts(seams: AxisSeams | WorstSeam, *, measured: bool) -> list[str]:
    doubtful = str(seams.doubtful) if measured else "-"
    return [str(seams.touching), str(seams.joined), str(seams.refused), doubtful]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Set rows of words in columns, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        numbers = (word.rjust(width) for word, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join(lines)
