"""What a run keeps on disk while it works."""

from __future__ import annotations

from blockbuster.rundir.folder import is_stage
from blockbuster.rundir.staged import StagedLabels

__all__ = ["StagedLabels", "is_stage"]
