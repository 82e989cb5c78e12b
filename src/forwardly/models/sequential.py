"""The two networks of the papers, as ``nn.Sequential``: fully connected, and one convolution."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import nn

from forwardly.checks import one_of
from forwardly.network.normalisation import Normalise

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
_GAINS = {"he": math.sqrt(2), "torch": 1 / math.sqrt(3)}


def initialise(
    layer: nn.Linear | nn.Conv2d, initial: str, generator: torch.Generator | None
) -> None:
    """Draw weights from U(±g·√(3/fan-in)), in place.

    Args:
        layer: whose bias, if any, stays as it is.
        initial: "he" (g = √2: U(±√(6/fan-in)), He et al. 2015) or "torch" (g = 1/√3:
            U(±√(1/fan-in)), what torch's layers come with).
        generator: torch's global one if None.
    """
    gain = _GAINS[one_of("initial", initial, tuple(_GAINS))]
    bound = gain * math.sqrt(3 / layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)


def mlp(
    inputs: int,
    hidden: tuple[int, ...],
    outputs: int,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    normalise: str | None = None,
    initial: str = "he",
    bias: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Flatten, then linear layers, the hidden ones with what follows them.

    Args:
        inputs: numbers per sample.
        hidden: sizes of the hidden layers.
        outputs: k.
        activation: of the hidden layers; one of ``ACTIVATIONS``.
        dropout: the probability with which a hidden unit is dropped.
        normalise: "sample" or "batch" for ``Normalise`` after each activation.
        initial: see ``initialise``.
        bias: whether layers have biases, which begin at 0; the papers' have none.
        generator: see ``initialise``.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((inputs, *hidden, outputs)):
        if len(layers) > 1:
            layers += _behind_synapse(activation, normalise, dropout)
        linear = _empty(nn.Linear, before, after, bias=bias)
        initialise(linear, initial, generator)
        layers.append(linear)
    return nn.Sequential(*layers)


def conv(
    shape: tuple[int, ...],
    outputs: int,
    *,
    channels: int = 32,
    kernel: int = 5,
    activation: str = "relu",
    dropout: float = 0.0,
    normalise: str | None = None,
    initial: str = "torch",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A convolution, an activation, max pooling by 2, and a linear readout; no biases.

    Args:
        shape: of a sample, (c, h, w).
        outputs: k.
        channels: of the convolution.
        kernel: its height and width.
        activation: one of ``ACTIVATIONS``.
        dropout: the probability with which an element of a map is dropped.
        normalise: see ``mlp``.
        initial: see ``initialise``.
        generator: see ``initialise``.

    Raises:
        ValueError: if samples are no images, or too small.
    """
    if len(shape) != 3 or min(shape[1:]) < kernel + 1:
        raise ValueError(
            f"the convolutional model needs images (c, h, w) of at least {kernel + 1} pixels a "
            f"side; samples of this data set are {shape}"
        )
    c, height, width = shape
    convolution = _empty(nn.Conv2d, c, channels, kernel)
    pooled = channels * ((height - kernel + 1) // 2) * ((width - kernel + 1) // 2)
    readout = _empty(nn.Linear, pooled, outputs)
    for layer in (convolution, readout):
        initialise(layer, initial, generator)
    hidden = _behind_synapse(activation, normalise, dropout)
    return nn.Sequential(convolution, *hidden, nn.MaxPool2d(2), nn.Flatten(), readout)


def _behind_synapse(activation: str, normalise: str | None, dropout: float) -> list[nn.Module]:
    """The modules that follow a hidden synapse."""
    one_of("activation", activation, tuple(ACTIVATIONS))
    modules: list[nn.Module] = [ACTIVATIONS[activation]()]
    if normalise is not None:
        modules.append(Normalise(over=normalise))
    if dropout > 0:
        modules.append(nn.Dropout(dropout))
    return modules


def _nothing(_: nn.Module) -> None:
    """Draw no weights."""


def _empty(kind: type[Layer], *sizes: int, bias: bool = False) -> Layer:
    """A layer, its weights uninitialised (no random numbers are drawn), its bias 0.

    As by ``nn.utils.skip_init``, without the meta device, whose first use imports a second's worth.
    """
    untouched: Any = type(kind.__name__, (kind,), {"reset_parameters": _nothing})
    made: Any = untouched(*sizes, bias=bias)
    made.__class__ = kind
    layer = cast(Layer, made)
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        nn.init.zeros_(layer.bias)
    return layer
