"""Tables of text that are also Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

__all__ = ["comparison_cells", "format_table", "limit", "pair_ratio", "significant", "verdict", "worst_verdict"]


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join("| " + " | ".join(_aligned(row, widths)) + " |" for row in [titles, rule, *rows])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0])] + [
        cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
    ]


def verdict(value: float, bound: float | None) -> str:
    """Judge a number that may not be above its bound."""
    if bound is None:
        return "not judged"
    return "pass" if value <= bound else "FAIL"


def worst_verdict(*verdicts: str) -> str:
    """Sum up the verdicts on a row."""
    return "FAIL" if "FAIL" in verdicts else max(verdicts)


def limit(bound: float | None) -> str:
    """Show a bound; a dash where there is none."""
    return "-" if bound is None else f"{bound:g}"


def significant(value: float) -> str:
    """Show a number to three digits that count, however small it is: what was measured is never 0.00."""
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def pair_ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """Median of the ratios of neighbouring calls, which a change of the machine's load disturbs less."""
    return statistics.median(b / a for a, b in zip(base, other, strict=True))


def comparison_cells(base: Sequence[float], other: Sequence[float], bound: float | None) -> list[str]:
    """Lay out both medians, their ratio, that of neighbouring calls, the bound of the first and a verdict."""
    medians = statistics.median(base), statistics.median(other)
    ratio = medians[1] / medians[0]
    ratios = [f"{value:.3f}" for value in (ratio, pair_ratio(base, other))]
    return [*map(significant, medians), *ratios, limit(bound), verdict(ratio, bound)]
