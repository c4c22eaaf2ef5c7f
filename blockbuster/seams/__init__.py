"""What tiles know of each other: stretches of labels, pairs that touch, and how far two tiles agree."""

from __future__ import annotations

from blockbuster.seams.labels import keep_positions_apart
from blockbuster.seams.pairs import collect_touching_pairs, unique_pairs

__all__ = ["collect_touching_pairs", "keep_positions_apart", "unique_pairs"]
