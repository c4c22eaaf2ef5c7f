"""Tables of text that are also Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_table", "verdict"]


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
