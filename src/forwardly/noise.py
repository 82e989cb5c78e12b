"""Random numbers as a pure function of (seed, step, which stream, which element).

A learning rule with several forward passes needs the same dropout mask in all of them, and a pure
rule may not draw from a generator. So numbers are read from a fixed sequence instead:
element i of stream m (the m-th dropout, say) in step s is number

    (s mod 2²⁴)·2⁴⁰ + m·2³² + i

of the SplitMix64 sequence (Steele, Lea & Flood, OOPSLA 2014) that starts at

    seed + mix(⌊s / 2²⁴⌋)

where mix is SplitMix64's output function, a bijection of 64-bit integers with mix(0) = 0. A
position in the sequence has 64 bits, of which 24 are left for the step; without a new start every
2²⁴ steps (days of training a small network), masks would repeat.

The two numbers that this needs, seed and step, are a buffer of the rule: checkpoints hold them,
batched seeds stack them, exported graphs take them as an input. Only integers and floats of the
dtype asked for are used, as not every device has float64.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from forwardly._typing import Float, Int

# The constants of SplitMix64 as signed 64-bit integers; products and sums wrap around.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
CONSTANTS = _GAMMA, _MIX_1, _MIX_2


Integers = TypeVar("Integers", int, Tensor)
"""Tensors wrap around at 64 bits; Python's own integers do not, and mean the same modulo 2⁶⁴."""


# By torch's functions, not >> and <<, which on a DTensor of torch 2.13 give back their operand.
def _right(z: Integers, by: int) -> Integers:
    return torch.bitwise_right_shift(z, by) if isinstance(z, Tensor) else z >> by


def _left(z: Integers, by: int) -> Integers:
    return torch.bitwise_left_shift(z, by) if isinstance(z, Tensor) else z << by


def _shift_right(z: Integers, by: int) -> Integers:
    """Logical right shift of 64 bits; torch's own keeps the sign bit."""
    return _right(z, by) & ((1 << (64 - by)) - 1)


def _mix(z: Integers) -> Integers:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def splitmix64(seed: Int[Tensor, ""], position: Int[Tensor, "*i"]) -> Int[Tensor, "*i"]:
    """Numbers at ``position`` (counted from 0) of the SplitMix64 sequence that starts at ``seed``.

    All 2⁶⁴ values are equally likely; they come as signed 64-bit integers.
    """
    return _mix(seed + (position + 1) * _GAMMA)


def start(seed: Integers, step: Integers, which: int) -> tuple[Integers, Integers]:
    """Where a stream's numbers in a step begin: the sequence's seed, and the first position."""
    return seed + _mix(_right(step, 24)), _left(step, 40) + (which << 32)


def mask(
    noise: Int[Tensor, "2"],
    which: int,
    shape: tuple[int, ...],
    p: float,
    like: Float[Tensor, "..."],
    first: int = 0,
) -> Float[Tensor, "..."]:
    """Inverted-dropout mask: 0 with probability ``p``, else 1/(1 − p).

    Args:
        noise: (seed, step), int64.
        which: number of the stream, below 256; dropouts have the first.
        shape: the mask's shape.
        p: the probability of a zero, in [0, 1].
        like: a tensor whose dtype and device the mask takes.
        first: the element of the stream that the mask begins with.
    """
    if p >= 1:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    survives = _integers(noise, which, shape, first) >= threshold(p)
    return survives.to(like.dtype) / (1 - p)


def threshold(p: float) -> int:
    """The bound that a (signed) number of the sequence is below with probability ``p`` < 1."""
    return min(round(p * 2**64) - 2**63, 2**63 - 1)


def uniform(
    noise: Int[Tensor, "2"], which: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Float[Tensor, "..."]:
    """Numbers uniform on [0, 1), of ``shape``; the other arguments as for ``mask``.

    They are the multiples of 2⁻ᵇ, b being the bits of the dtype's precision: 53 of float64, 24 of
    float32.
    """
    bits = 1 - round(math.log2(torch.finfo(dtype).eps))
    return _shift_right(_integers(noise, which, shape), 64 - bits).to(dtype) * 2**-bits


def normal(
    noise: Int[Tensor, "2"], which: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Float[Tensor, "..."]:
    """Standard normal numbers, finite all of them; the arguments as for ``uniform``.

    By Box & Muller (1958) from two uniform numbers each. As these are below one, no logarithm is of
    zero, and no number is larger than 8.6 in float64, 5.8 in float32.
    """
    radius, turn = uniform(noise, which, (2, *shape), dtype).unbind()
    return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * turn)


def below(
    noise: Int[Tensor, "2"], which: int, shape: tuple[int, ...], end: int
) -> Int[Tensor, "..."]:
    """Integers from 0 to ``end`` − 1, as likely up to ``end`` in 2⁶³; otherwise as ``uniform``."""
    return _shift_right(_integers(noise, which, shape), 1) % end


def _integers(noise: Tensor, which: int, shape: tuple[int, ...], begin: int = 0) -> Tensor:
    count = 1
    for size in shape:
        count = count * size
    seed, step = noise.unbind()
    seed, first = start(seed, step, which)
    position = torch.arange(begin, begin + count, device=noise.device) + first
    return splitmix64(seed, position).reshape(shape)
