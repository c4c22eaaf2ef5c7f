"""RunReport: what a run did, kept beside its labels, and how it shows itself."""

from __future__ import annotations

from blockbuster.report.expected import ExpectedErrors, SeamCounts
from blockbuster.report.run import (
    DEVICE_PHASES,
    OBJECTS,
    REPORT,
    RunReport,
    installed_versions,
    read_report,
)
from blockbuster.report.seams import (
    MAX_DOUBTFUL,
    MIN_DOUBTFUL,
    N_BINS,
    AxisSeams,
    DoubtfulPair,
    SeamReport,
    WorstSeam,
)

__all__ = [
    "DEVICE_PHASES",
    "MIN_DOUBTFUL",
    "MAX_DOUBTFUL",
    "N_BINS",
    "OBJECTS",
    "REPORT",
    "AxisSeams",
    "DoubtfulPair",
    "ExpectedErrors",
    "RunReport",
    "SeamCounts",
    "SeamReport",
    "WorstSeam",
    "installed_versions",
    "read_report",
]
