"""Whole epochs on the CPU, compiled by numba: small networks, by batches or full batch."""
