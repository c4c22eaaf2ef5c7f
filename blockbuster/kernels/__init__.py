"""Kernels compiled with numba, and the stretches, pairs and pieces that they work on."""
