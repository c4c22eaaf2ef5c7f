"""What a run keeps on disk while it works."""

from __future__ import annotations

from blockbuster.rundir.arrays import ArrayFolder
from blockbuster.rundir.staged import Sidecar, StagedLabels, is_stage, remove_stage

__all__ = ["ArrayFolder", "Sidecar", "StagedLabels", "is_stage", "remove_stage"]
