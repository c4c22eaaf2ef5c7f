"""What a run keeps on disk while it works."""

from __future__ import annotations

from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.folder import create_stage, is_stage, remove_stage
from blockbuster.rundir.journal import Journal, read_journal
from blockbuster.rundir.staged import StagedLabels

__all__ = [
    "ArrayFolder",
    "Journal",
    "StagedLabels",
    "create_stage",
    "is_stage",
    "read_journal",
    "remove_stage",
]
