"""What the compiled loops are given: numbers and arrays only, grouped in tuples with names.

Activities lie unit by unit, one layer behind the other, with the samples of a block side by side,
so that inner loops run over contiguous samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

IDENTITY, RELU, TANH, SIGMOID = range(4)
PEPITA, BACKPROP, READOUT_ONLY = range(3)
SQUARED, CROSS_ENTROPY = range(2)
BLOCK = 512  # samples, so that a small network's activities stay in the cache


LAYER = np.dtype(
    [
        *((name, np.int64) for name in ("inputs", "units", "first_weight", "first_unit")),
        *(("activation", np.int64), ("has_bias", np.bool_)),
    ],
    align=True,
)
"""A layer's sizes, where its part of weights and biases begins, and what it does."""


class Network(NamedTuple):
    """Dense layers: their weights one behind the other, their biases likewise, and L ``LAYER``."""

    weights: Array
    biases: Array  # zeros where a layer has none
    layers: Array


class Settings(NamedTuple):
    """Codes of a rule and of a loss, and PEPITA's options."""

    rule: int
    loss: int
    F: Array  # the transpose of the feedback matrix, (k, d)
    sign: float  # of F
    second: bool  # whether the output's error is that of the modulated pass
    clean: bool  # whether presynaptic activities are those of the clean pass


class Samples(NamedTuple):
    """Inputs x (d, n) and targets (k, n)."""

    x: Array
    target: Array


class Schedule(NamedTuple):
    """How many epochs, of which batches, at which learning rate η, and how often to measure."""

    epochs: int
    batch: int
    rate: float
    measured: int  # errors, each after so many epochs; 0: none, and as many epochs once


class Room(NamedTuple):
    """Memory to work in."""

    updates: Network  # of a batch larger than a block, until they are added to the parameters
    product: Array  # one layer's update
    A: Array  # activities of the clean pass; in the output's place later, the error e
    M: Array  # activities of the modulated pass; in the first layer's place before, z₁
    D: Array  # every layer's δ
    x_err: Array  # the modulated input
