"""σ′: the derivatives of torch's elementwise activations, in closed form.

Rules that need σ′(z) need nothing else of automatic differentiation. In closed form it is a handful
of tensor operations, which run, batch and export wherever the activation itself does. At a kink the
value is the one that torch's own derivative takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardly._typing import Float

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def derivative(module: nn.Module, z: Float[Tensor, "*z"]) -> Float[Tensor, "*z"]:
    """σ′(z), of z's shape and dtype.

    Raises:
        TypeError: if the module is not an activation in ``DERIVATIVES``.
    """
    for kind, slope in DERIVATIVES.items():
        if isinstance(module, kind):
            return slope(module, z).to(z.dtype)
    raise TypeError(f"no derivative is known for {module}")


def _gelu(module: Any, z: Tensor) -> Tensor:
    if module.approximate == "none":
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)


def _mish(_: Any, z: Tensor) -> Tensor:
    t = torch.tanh(functional.softplus(z))
    return t + z * (1 - t * t) * torch.sigmoid(z)


def _silu(_: Any, z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _softplus(module: Any, z: Tensor) -> Tensor:
    scaled = module.beta * z
    return torch.where(scaled > module.threshold, torch.ones_like(z), torch.sigmoid(scaled))


def _hardswish(_: Any, z: Tensor) -> Tensor:
    middle = z / 3 + 0.5
    return torch.where(z <= -3, torch.zeros_like(z), torch.where(z < 3, middle, 1.0))


def _prelu(module: Any, z: Tensor) -> Tensor:
    slope = module.weight
    if slope.numel() > 1:
        slope = slope.reshape(1, -1, *(1 for _ in z.shape[2:]))
    return torch.where(z > 0, torch.ones_like(z), slope)


def _where(condition: Tensor, z: Tensor, inside: float, outside: float) -> Tensor:
    return torch.where(condition, z.new_full((), inside), z.new_full((), outside))


DERIVATIVES: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.CELU: lambda m, z: torch.where(z > 0, torch.ones_like(z), torch.exp(z / m.alpha)),
    nn.ELU: lambda m, z: torch.where(z > 0, torch.ones_like(z), m.alpha * torch.exp(z)),
    nn.GELU: _gelu,
    nn.Hardshrink: lambda m, z: _where(z.abs() > m.lambd, z, 1.0, 0.0),
    nn.Hardsigmoid: lambda _, z: _where(z.abs() < 3, z, 1 / 6, 0.0),
    nn.Hardswish: _hardswish,
    nn.ReLU6: lambda _, z: _where((z > 0) & (z < 6), z, 1.0, 0.0),  # before Hardtanh, its base
    nn.Hardtanh: lambda m, z: _where((z > m.min_val) & (z < m.max_val), z, 1.0, 0.0),
    nn.Identity: lambda _, z: torch.ones_like(z),
    nn.LeakyReLU: lambda m, z: _where(z > 0, z, 1.0, m.negative_slope),
    nn.LogSigmoid: lambda _, z: torch.sigmoid(-z),
    nn.Mish: _mish,
    nn.PReLU: _prelu,
    nn.ReLU: lambda _, z: _where(z > 0, z, 1.0, 0.0),
    nn.SELU: lambda _, z: (
        _SELU_SCALE * torch.where(z > 0, torch.ones_like(z), _SELU_ALPHA * torch.exp(z))
    ),
    nn.SiLU: _silu,
    nn.Sigmoid: lambda _, z: torch.sigmoid(z) * (1 - torch.sigmoid(z)),
    nn.Softplus: _softplus,
    nn.Softshrink: lambda m, z: _where(z.abs() > m.lambd, z, 1.0, 0.0),
    nn.Softsign: lambda _, z: 1 / (1 + z.abs()) ** 2,
    nn.Tanh: lambda _, z: 1 - torch.tanh(z) ** 2,
    nn.Tanhshrink: lambda _, z: torch.tanh(z) ** 2,
    nn.Threshold: lambda m, z: _where(z > m.threshold, z, 1.0, 0.0),
}
"""For each activation σ, (module, z) → σ′(z)."""
