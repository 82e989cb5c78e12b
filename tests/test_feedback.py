"""The distributions that feedback matrices are drawn from."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from forwardly import feedback

SIZES = (400, 300, 200, 50)


def _draw(initialiser: feedback.Initialiser, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return initialiser(SIZES, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.05, 1.0])
@pytest.mark.parametrize("kind", [feedback.uniform, feedback.normal, feedback.product])
def test_mean_and_variance(kind: type, scale: float) -> None:
    F = feedback.chain(_draw(kind(scale)))
    assert F.shape == (400, 50)
    sd = scale * math.sqrt(2 / 400)
    assert abs(F.mean().item()) < 5 * sd / math.sqrt(F.numel())
    assert F.std().item() == pytest.approx(sd, rel=0.1)


def test_uniform_is_bounded_as_published() -> None:
    (F,) = _draw(feedback.uniform(0.05))
    bound = 0.05 * math.sqrt(6 / 400)
    assert 0.99 * bound < F.abs().max().item() <= bound


def test_product_has_a_factor_a_layer() -> None:
    factors = _draw(feedback.product())
    assert [tuple(factor.shape) for factor in factors] == [(400, 300), (300, 200), (200, 50)]
    assert_close(feedback.chain(factors), factors[0] @ factors[1] @ factors[2])


@pytest.mark.parametrize("kind", [feedback.uniform, feedback.normal, feedback.product])
def test_draws_follow_the_generator(kind: type) -> None:
    assert_close(_draw(kind(), 3), _draw(kind(), 3), rtol=0, atol=0)
    assert not torch.equal(_draw(kind(), 3)[0], _draw(kind(), 4)[0])


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", [feedback.uniform, feedback.normal, feedback.product])
def test_refused_scales(kind: type, scale: float) -> None:
    with pytest.raises(ValueError, match=f"given {scale}"):
        kind(scale)
