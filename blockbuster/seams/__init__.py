"""Labels next to a seam: touching pairs, numbering and remapping, and their kernels."""

from __future__ import annotations

from blockbuster.seams.labels import compact_labels, remap_labels
from blockbuster.seams.pairs import collect_inner_pairs, collect_touching_pairs, unique_pairs

__all__ = ["collect_inner_pairs", "collect_touching_pairs", "compact_labels", "remap_labels", "unique_pairs"]
