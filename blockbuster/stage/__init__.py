"""The stage: fn on every tile, its labels checked, numbered and kept on disk."""

from __future__ import annotations

from blockbuster.stage.empty import EmptyTiles, choose_empty_threshold, otsu_threshold
from blockbuster.stage.looking import find_empty_tiles
from blockbuster.stage.opening import open_stage
from blockbuster.stage.staging import StageOutcome, stage_labels
from blockbuster.stage.task import TileCall

__all__ = [
    "EmptyTiles",
    "StageOutcome",
    "TileCall",
    "choose_empty_threshold",
    "find_empty_tiles",
    "open_stage",
    "otsu_threshold",
    "stage_labels",
]
