"""What ``kernels`` calls activations, rules and losses, as its loops know numbers only."""

from __future__ import annotations

IDENTITY, RELU, TANH, SIGMOID = range(4)
PEPITA, BACKPROP, READOUT_ONLY = range(3)
SQUARED, CROSS_ENTROPY = range(2)
BLOCK = 512  # samples, so that a small network's activities stay in the cache
