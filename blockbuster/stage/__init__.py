"""The stage: fn on every tile, its labels checked, numbered and kept on disk."""

from __future__ import annotations

from blockbuster.stage.opening import open_stage
from blockbuster.stage.staging import stage_labels
from blockbuster.stage.tile_call import TileCall

__all__ = ["TileCall", "open_stage", "stage_labels"]
