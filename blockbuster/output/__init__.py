"""Where final labels go: storage layout, targets, and publishing in one step."""

from __future__ import annotations

from blockbuster.output.publishing import OutputPlace, partial_output
from blockbuster.output.storage import label_chunks
from blockbuster.output.targets import ArrayTarget, NpyTarget, ZarrTarget

__all__ = ["ArrayTarget", "NpyTarget", "OutputPlace", "ZarrTarget", "label_chunks", "partial_output"]
