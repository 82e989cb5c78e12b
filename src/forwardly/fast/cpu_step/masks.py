"""Dropout masks in one compiled pass; the numbers of ``noise.mask``, bit for bit.

The sequence takes a dozen operations an element, and as many passes where each is torch's: a tenth
of a step of a network of 1024 units.
"""

# pyright: basic

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forwardly import noise
from forwardly.checks import values_readable
from forwardly.fast.compiling import compile_cached, no_numba

_GAMMA, _MIX_1, _MIX_2 = (np.uint64(constant % 2**64) for constant in noise.CONSTANTS)
LARGE_MASK = 1 << 13
"""Elements from which it is quicker than to call torch a dozen times."""


def mask(
    seed_and_step: Tensor, which: int, shape: tuple[int, ...], p: float, like: Tensor
) -> Tensor:
    """See ``forwardly.noise.mask``."""
    count = math.prod(shape)
    on_processor = like.device.type == "cpu" and values_readable(seed_and_step, like)
    if count < LARGE_MASK or p >= 1 or not on_processor or no_numba():
        return noise.mask(seed_and_step, which, shape, p, like)
    seed, step = seed_and_step.tolist()
    seed, first = (np.uint64(part % 2**64) for part in noise.start(seed, step, which))
    is_kept = torch.empty(count, dtype=torch.bool, device="cpu")
    _compiled()(is_kept.numpy(), seed, first, noise.threshold(p))
    return is_kept.reshape(shape).to(like.dtype) / (1 - p)


@cache
def _compiled() -> Any:
    from numba import njit

    return compile_cached(njit, _fill, nogil=True)


def _fill(is_kept, seed, first, threshold):
    """Whether numbers ``first`` and following of the sequence reach the threshold."""
    for i in range(len(is_kept)):
        z = seed + (first + np.uint64(i) + np.uint64(1)) * _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        is_kept[i] = np.int64(z ^ (z >> np.uint64(31))) >= threshold
