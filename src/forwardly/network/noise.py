"""Random numbers as a pure function of (seed, step, which stream, which element).

A learning rule with several forward passes needs the same dropout mask in all of them, and a pure
rule may not draw from a generator. So numbers are read off a fixed sequence instead of drawn:
element i of stream m (the m-th dropout, say) in step s is number

    s·2⁴⁰ + m·2³² + i

of the SplitMix64 sequence (Steele, Lea & Flood, OOPSLA 2014) that starts at the seed. The two
numbers that this needs, seed and step, are a buffer of the rule: checkpoints hold them, batched
seeds stack them, exported graphs take them as an input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forwardly._typing import Float, Int

# The constants of SplitMix64 as signed 64-bit integers; products and sums wrap around.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
CONSTANTS = _GAMMA, _MIX_1, _MIX_2


def _shift_right(z: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign bit."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def splitmix64(seed: Int[Tensor, ""], position: Int[Tensor, "*i"]) -> Int[Tensor, "*i"]:
    """Numbers at ``position`` (counted from 0) of the SplitMix64 sequence that starts at ``seed``.

    All 2⁶⁴ values are equally likely; they come as signed 64-bit integers.
    """
    z = seed + (position + 1) * _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def mask(
    noise: Int[Tensor, "2"],
    which: int,
    shape: tuple[int, ...],
    p: float,
    like: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Inverted-dropout mask: 0 with probability ``p``, else 1/(1 − p).

    Args:
        noise: (seed, step), int64.
        which: number of the stream, below 256; dropouts have the first.
        shape: the mask's shape.
        p: the probability of a zero, in [0, 1].
        like: a tensor whose dtype and device the mask takes.
    """
    if p >= 1:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    kept = _integers(noise, which, shape) >= threshold(p)
    return kept.to(like.dtype) / (1 - p)


def threshold(p: float) -> int:
    """What a number of the sequence, signed, is below with probability ``p`` < 1."""
    return min(round(p * 2**64) - 2**63, 2**63 - 1)


def uniform(
    noise: Int[Tensor, "2"], which: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Float[Tensor, "..."]:
    """Numbers uniform on [0, 1), of ``shape``; the other arguments as for ``mask``."""
    return (_shift_right(_integers(noise, which, shape), 11).double() * 2**-53).to(dtype)


def _integers(noise: Tensor, which: int, shape: tuple[int, ...]) -> Tensor:
    count = 1
    for size in shape:
        count = count * size
    seed, step = noise.unbind()
    position = torch.arange(count, device=noise.device) + ((step << 40) + (which << 32))
    return splitmix64(seed, position).reshape(shape)
