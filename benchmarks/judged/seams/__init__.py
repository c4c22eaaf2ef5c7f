"""The laboratory of merge rules: ``python -m benchmarks.judged.seams``."""

from benchmarks.judged.seams.comparison import main

__all__ = ["main"]
