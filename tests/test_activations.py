"""Closed forms against torch's own derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from forwardly.network.activations import DERIVATIVES, derivative
from forwardly.network.kinds import ACTIVATIONS

MODULES = [kind() for kind in DERIVATIVES if kind is not nn.Threshold] + [
    *(nn.Threshold(0.3, -1), nn.GELU("tanh"), nn.Softplus(beta=3, threshold=2), nn.ELU(0.4)),
    *(nn.CELU(0.7), nn.LeakyReLU(0.3), nn.Hardtanh(-0.2, 0.6), nn.PReLU(5), nn.Softshrink(0.1)),
]


def test_every_supported_activation_has_one() -> None:
    assert set(DERIVATIVES) == set(ACTIVATIONS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_derivative(module: nn.Module) -> None:
    module.double()
    generator = torch.Generator().manual_seed(0)
    z = 4 * torch.randn(40, 5, 3, generator=generator, dtype=torch.float64)
    z[0, 0] = torch.tensor([0.0, 3.0, -3.0])  # kinks
    z.requires_grad_()
    (expected,) = torch.autograd.grad(module(z).sum(), z)
    # torch keeps the constants of some (1/6 of Hardsigmoid) in single precision
    assert_close(derivative(module, z.detach()), expected, rtol=1e-6, atol=1e-7)


def test_unknown_activation() -> None:
    with pytest.raises(TypeError, match="no derivative is known for Softmax"):
        derivative(nn.Softmax(1), torch.ones(2, 2))
