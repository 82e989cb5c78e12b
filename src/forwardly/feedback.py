"""How feedback matrices are drawn.

An initialiser takes the numbers of units d, h₁, …, k of the activities a₀ … a_L of one sample, and
gives the factors whose product is F, (d, k). Most give F itself, as the only factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from forwardly.network import Stage

Initialiser = Callable[[Sequence[int], torch.Generator | None], tuple[Tensor, ...]]
"""(sizes, generator) → factors of F, in float64 on the generator's device."""


def uniform(scale: float = 0.05) -> Initialiser:
    """F ~ U(±scale·√(6/d)), d the input size: the choice of Dellaferrera & Kreiman (2022)."""
    _check_scale(scale)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        d, k = sizes[0], sizes[-1]
        return (_uniform((d, k), scale * math.sqrt(6 / d), generator),)

    return draw


def normal(scale: float = 0.05) -> Initialiser:
    """F ~ N(0, scale²·2/d), of the same variance as ``uniform(scale)``."""
    _check_scale(scale)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        d, k = sizes[0], sizes[-1]
        standard = torch.randn(
            (d, k), generator=generator, dtype=torch.float64, device=_device(generator)
        )
        return (standard * (scale * math.sqrt(2 / d)),)

    return draw


def product(scale: float = 0.05) -> Initialiser:
    """F = F₁F₂…F_L, one factor a layer, F_l of (n_{l−1}, n_l) units and uniform.

    The form that weight mirroring needs (Srinivasan et al. 2023). The factors are scaled alike,
    such that an element of F has the same variance as with ``uniform(scale)``.
    """
    _check_scale(scale)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        # He-uniform factors, of variance 2/n_{l−1}, multiply to a variance of 2^L/d.
        depth = len(sizes) - 1
        each = (scale**2 * 2 ** (1 - depth)) ** (1 / (2 * depth))
        return tuple(
            _uniform((before, after), each * math.sqrt(6 / before), generator)
            for before, after in pairwise(sizes)
        )

    return draw


def uniform_within(bound: float) -> Initialiser:
    """F ~ U(±bound), whatever the sizes."""
    _check_scale(bound)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        return (_uniform((sizes[0], sizes[-1]), bound, generator),)

    return draw


def like_weight(
    initialiser: Initialiser, stage: Stage, generator: torch.Generator | None
) -> Tensor:
    """A feedback weight of the shape of a synapse's weight, drawn as a (fan-in, units) matrix."""
    weight = stage.synapse.weight.detach()
    drawn = chain(initialiser((weight[0].numel(), weight.shape[0]), generator))
    return drawn.T.reshape(weight.shape).to(weight)


def chain(factors: Sequence[Tensor]) -> Tensor:
    """The product of factors (n₀, n₁), (n₁, n₂), …: (n₀, n_L)."""
    result = factors[0]
    for factor in factors[1:]:
        result = result @ factor
    return result


def _uniform(shape: tuple[int, int], bound: float, generator: torch.Generator | None) -> Tensor:
    unit = torch.rand(shape, generator=generator, dtype=torch.float64, device=_device(generator))
    return (2 * unit - 1) * bound


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _check_scale(scale: float) -> None:
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"the scale of a feedback matrix must be finite and ≥ 0; given {scale}")
