"""The laboratory of merge rules: ``python -m benchmarks.judged.seams``."""
