"""One training step on the CPU, compiled by numba: weights, or whole shallow networks."""
