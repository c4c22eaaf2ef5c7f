"""Benchmarks: run the scripts with ``python -m benchmarks.NAME``, and the classes with asv."""
