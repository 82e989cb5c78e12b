"""What a step of gradient descent on one weight matrix is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Outer(NamedTuple):
    """An update that is yet to be summed: scale · Σ over samples of post ⊗ pre.

    Attributes:
        post: (n, units).
        pre: (n, inputs).
        scale: one over the number of samples.
    """

    post: Tensor
    pre: Tensor
    scale: float


class Descent(NamedTuple):
    """Settings of stochastic gradient descent, as torch's; nesterov is whether to look ahead."""

    momentum: float
    weight_decay: float
    lr: float
    nesterov: bool


class Weight(NamedTuple):
    """A weight, its momentum, and how it descends."""

    weight: Tensor
    momentum: Tensor
    settings: Descent


FEWEST_NUMBERS = 1 << 16
"""Numbers in a weight from which oneDNN, a product a thread, and compiled steps are quicker."""

MOST_SAMPLES = 1 << 10
"""Samples up to which compiled steps are quicker; those of more no longer lie in a cache."""


def suits_kernels(tensor: Tensor) -> bool:
    """Whether compiled steps can read it: float32 on the processor, its rows one after another."""
    on_processor = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    return on_processor and tensor.is_contiguous()
