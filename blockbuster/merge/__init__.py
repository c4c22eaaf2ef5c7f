"""The merge: labels that touch across seams become one object, final ids are written."""

from __future__ import annotations

from blockbuster.merge.components import join_pairs
from blockbuster.merge.merging import match_seams, write_final_labels

__all__ = ["join_pairs", "match_seams", "write_final_labels"]
