"""Advice before a run: empty tiles, intensities, and how much overlap fn needs."""

from __future__ import annotations

from blockbuster.advise.empty import estimate_empty_tiles
from blockbuster.advise.intensity import intensity_percentiles
from blockbuster.advise.overlap import OverlapAdvice, suggest_overlap

__all__ = ["OverlapAdvice", "estimate_empty_tiles", "intensity_percentiles", "suggest_overlap"]
